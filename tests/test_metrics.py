"""What Prometheus collects: sums over real workers."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from mcp_chat.metrics import Metrics
from tests.family import Family, eventually
from tests.installation import Installation

CLAIMED = 'mcp_chat_users_claimed_total{why="death"}'
SERIES = {
    "users_claimed_total": 6,
    "users_released_total": 6,
    "users_fenced_total": 4,
    "turns_ended_total": 5,
    "turns_resumed_total": 5,
    "tool_calls_total": 3,
    "approvals_total": 6,
    "workers_buried_total": 2,
    "breakers_opened_total": 2,
    "log_gaps_total": 1,
    "users_owned": 1,
    "turns_running": 1,
    "readers": 1,
}


def values(text: str) -> dict[str, float]:
    """The samples of this product, by name and labels."""
    lines = (line.rpartition(" ") for line in text.splitlines() if line.startswith("mcp_chat_"))
    return {name: float(value) for name, _, value in lines if "_created" not in name}


def scraped(url: str) -> dict[str, float]:
    """What any worker answers."""
    answer = httpx.get(f"{url}/metrics", trust_env=False, timeout=10)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    return values(answer.text)


def counted(found: dict[str, float]) -> dict[str, int]:
    """How many series each name has."""
    names = [re.sub(r"^mcp_chat_|{.*", "", name) for name in found]
    return {name: names.count(name) for name in names}


def claim(url: str) -> int:
    """Have some worker count; return its process id."""
    return int(httpx.get(f"{url}/claim", trust_env=False, timeout=10).text)


def hold(url: str) -> None:
    """Be a reader for as long as there is a worker."""
    with pytest.raises(httpx.HTTPError):
        httpx.get(f"{url}/hold", trust_env=False, timeout=60)


def test_counters_are_summed_up_and_stay_and_gauges_of_the_dead_vanish(tmp_path: Path) -> None:
    with Family(tmp_path) as family:
        counts: dict[int, int] = {}
        while len(counts) < 2 or sum(counts.values()) < 10:
            pid = claim(family.url)
            counts[pid] = counts.get(pid, 0) + 1
        total = sum(counts.values())
        for _ in range(5):  # whoever answers
            assert scraped(family.url)[CLAIMED] == total

        readers: list[threading.Thread] = []
        while len({who for _, who, _ in family.lines("reading")}) < 2:
            readers.append(threading.Thread(target=hold, args=(family.url,)))
            readers[-1].start()
            eventually(lambda: len(list(family.lines("reading"))) == len(readers), "it reads")
        assert scraped(family.url)["mcp_chat_readers"] == len(readers)

        dead, pid = next(iter(family.up().items()))
        left = sum(who != dead for _, who, _ in family.lines("reading"))
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: len(family.up()) == 3, "gunicorn starts another")
        found = scraped(family.url)
        assert found["mcp_chat_readers"] == left < len(readers)
        assert found[CLAIMED] == total
        claim(family.url)
        assert scraped(family.url)[CLAIMED] == total + 1
        family.kill()
        for reader in readers:
            reader.join(10)


def test_the_files_are_removed_with_the_master_and_not_with_a_worker(tmp_path: Path) -> None:
    with Family(tmp_path) as family:
        (folder,) = family.tmp.glob("mcp-chat-metrics-*")
        assert folder.stat().st_mode & 0o777 == 0o700
        os.kill(next(iter(family.up().values())), signal.SIGTERM)
        eventually(lambda: len(family.up()) == 3, "gunicorn starts another")
        assert list(folder.iterdir())
        assert family.stop() == 0
        assert not folder.exists()


def test_one_process_counts_for_itself() -> None:
    one, other = Metrics(), Metrics()
    one.user_claimed("first")
    one.user_released("idle")
    one.user_fenced("log")
    one.turn_ended("finished")
    one.turn_resumed("continued")
    one.tool_called("succeeded")
    one.approval_ended("once")
    one.worker_buried("exit")
    one.log_gap()
    one.breaker_opened("model")
    with one.owning(), one.running(), one.reading():
        found = values(one.text().decode())
    assert sum(found.values()) == len(SERIES)
    assert counted(found) == SERIES
    assert sum(values(one.text().decode()).values()) == len(SERIES) - 3
    assert sum(values(other.text().decode()).values()) == 0


def test_without_gunicorn_nothing_is_opened(tmp_path: Path) -> None:
    program = (
        "import os; from mcp_chat.metrics import Metrics; Metrics().log_gap();"
        "fds = ['/proc/self/fd/' + fd for fd in os.listdir('/proc/self/fd')];"
        "print([fd for fd in fds if os.path.realpath(fd).endswith('.db')])"
    )
    env = {name: value for name, value in os.environ.items() if name != "PROMETHEUS_MULTIPROC_DIR"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=env, cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"
    assert list(tmp_path.iterdir()) == []


def test_the_application_has_them_for_everybody_who_reaches_it(serve: Callable[..., str]) -> None:
    assert counted(scraped(serve(database_url=""))) == SERIES


@pytest.mark.slow
def test_an_installation_with_two_workers_has_each_series_once(tmp_path: Path, model_url: str) -> None:
    with Installation(tmp_path, model_url) as installation:
        assert counted(scraped(installation.url)) == SERIES
