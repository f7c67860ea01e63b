"""Workers hear of each other's ends: real gunicorn, a toy application."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import time
from pathlib import Path

import httpx
import psutil
import pytest
import uvloop

from mcp_chat.deaths import Deaths, deaths_of, heard
from tests.family import Family, eventually

pytestmark = pytest.mark.slow

SLOW_FORK = """
import os, pathlib, time
from mcp_chat import gunicorn_conf
from mcp_chat.gunicorn_conf import *

def post_fork(arbiter, worker):
    pathlib.Path(f"forked-{os.getpid()}").touch()
    time.sleep(1)  # so that it is told to stop in the meantime
    gunicorn_conf.post_fork(arbiter, worker)
"""


def test_a_killed_worker_is_heard_of_by_another(tmp_path: Path) -> None:
    with Family(tmp_path) as family:
        (dead, pid), (other, _) = family.up().items()
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: dead in family.heard(), "somebody hears of it")
        assert family.heard()[dead] in {other, *family.up()} - {dead}
        eventually(lambda: len(family.up()) == 3, "gunicorn starts another")
        assert family.stop() == 0


def test_a_stopped_worker_takes_no_name_from_those_that_run(tmp_path: Path) -> None:
    with Family(tmp_path, workers=3) as family:
        stopped, *others = family.up().values()
        os.kill(stopped, signal.SIGSTOP)
        names = {pid: name for name, pid in family.up().items()}
        for pid in others:
            os.kill(pid, signal.SIGKILL)
        eventually(lambda: len(family.heard()) == 2, "both are heard of")
        assert set(family.heard()) == {names[pid] for pid in others}
        assert names[stopped] not in family.heard().values()
        os.kill(stopped, signal.SIGCONT)


def test_the_only_workers_successor_hears_of_it(tmp_path: Path) -> None:
    with Family(tmp_path, workers=1) as family:
        ((dead, pid),) = family.up().items()
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: dead in family.heard(), "somebody hears of it")
        assert family.heard()[dead] == list(family.up())[1]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_master_still_stops_in_order(tmp_path: Path, number: signal.Signals) -> None:
    with Family(tmp_path) as family:
        assert family.stop(number) == 0
        assert len(list(family.lines("down"))) == 2
        assert "Traceback" not in family.errors.read_text()


def test_deaths_are_heard_of_after_a_reload(tmp_path: Path) -> None:
    with Family(tmp_path) as family:
        old = set(family.up())
        family.process.send_signal(signal.SIGHUP)
        eventually(lambda: len(family.up()) == 4, "new workers start")
        eventually(lambda: old <= set(family.heard()), "the old ones' ends are heard of")
        dead = (set(family.up()) - old).pop()
        os.kill(family.up()[dead], signal.SIGKILL)
        eventually(lambda: dead in family.heard(), "a new one's end is heard of")
        assert family.stop() == 0


def test_a_word_to_stop_that_comes_as_a_worker_begins_is_heeded(tmp_path: Path) -> None:
    config = tmp_path / "slow_fork.py"
    config.write_text(SLOW_FORK)
    with Family(tmp_path, "-c", str(config)) as family:
        os.kill(next(iter(family.up().values())), signal.SIGKILL)
        eventually(lambda: len(list(tmp_path.glob("forked-*"))) == 3, "another one begins")
        assert family.stop() == 0
        assert len(family.up()) == 2


def test_a_new_master_after_usr2_has_ends_of_its_own(tmp_path: Path) -> None:
    with Family(tmp_path, workers=1) as family:
        ((old, pid),) = family.up().items()
        family.process.send_signal(signal.SIGUSR2)
        eventually(lambda: len(family.up()) == 2, "the new master's worker starts")
        new = list(family.up())[1]
        os.kill(family.up()[new], signal.SIGKILL)
        eventually(lambda: new in family.heard(), "it is heard of")
        assert family.heard()[new] != old
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: old in family.heard(), "so is the old master's")
        assert family.heard()[old].split(":")[1] == old.split(":")[1]
        assert len(list(family.tmp.glob("mcp-chat-metrics-*"))) == 2
        second = next(p for p in psutil.Process(family.process.pid).children() if p.children())
        second.terminate()
        eventually(lambda: len(list(family.tmp.glob("mcp-chat-metrics-*"))) == 1, "its metrics are removed")


def test_a_recycled_worker_is_heard_of(tmp_path: Path) -> None:
    with Family(tmp_path, "--max-requests", "3", workers=1) as family:
        (first,) = family.up()
        for _ in range(3):
            httpx.get(f"{family.url}/claim", trust_env=False)
        eventually(lambda: first in family.heard(), "its end is heard of")


def test_workers_outlive_a_killed_master_without_spinning(tmp_path: Path) -> None:
    """They drain and end; the socket without a sender keeps none of them busy."""
    with Family(tmp_path) as family:
        workers = [psutil.Process(pid) for pid in family.up().values()]
        family.process.kill()
        family.process.wait(10)
        psutil.wait_procs(workers, 10)
        assert not any(w.is_running() and w.status() != psutil.STATUS_ZOMBIE for w in workers)
        assert len(list(family.lines("down"))) == 2
        assert list(family.heard()) == []


def test_a_master_never_waits_for_listeners() -> None:
    deaths = Deaths()
    for number in range(300):
        deaths.tell(f"host:1:{number}:0123abcd")
    kept = []
    with contextlib.suppress(BlockingIOError):
        while True:
            kept.append(deaths.receiver.recv(100).decode())
    assert kept == [f"host:1:{number}:0123abcd" for number in range(len(kept))]
    assert 0 < len(kept) < 300, "the first are kept, the others dropped"
    deaths.close()


def test_more_deaths_than_the_socket_holds_leave_the_master_at_work(tmp_path: Path) -> None:
    with Family(tmp_path, workers=1, TOY_LISTENS="no") as family:
        master = psutil.Process(family.process.pid)
        dead: set[int] = set()
        while len(dead) < 40:
            new = {child.pid for child in master.children()} - dead
            for pid in new:
                os.kill(pid, signal.SIGKILL)
            dead |= new
            time.sleep(0.01)
        eventually(lambda: set(family.up().values()) - dead, "one gets as far as serving")
        assert family.stop() == 0


def test_a_master_has_one_pair_however_often_its_configuration_is_read() -> None:
    class Arbiter:
        pass

    arbiter = Arbiter()
    deaths = deaths_of(arbiter)
    assert deaths_of(arbiter) is deaths
    deaths.close()


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_each_name_is_heard_once_by_whoever_listens(loop: str) -> None:
    deaths = Deaths()
    told: list[str] = []

    async def listen(receiver: socket.socket) -> None:
        async for name in heard(receiver):
            told.append(name)

    async def main() -> None:
        ears = [
            deaths.receiver.dup() for _ in range(3)
        ]  # as workers have it: one socket, several descriptors
        for ear in ears:
            ear.setblocking(False)
        tasks = [asyncio.create_task(listen(ear)) for ear in ears]
        names = [f"wörker-{number}\udcff" for number in range(50)]
        async with asyncio.timeout(10):
            for name in names:
                deaths.tell(name)
                await asyncio.sleep(0)
                while name not in told:  # noqa: ASYNC110 - nobody would set an event
                    await asyncio.sleep(0.001)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        for ear in ears:
            ear.close()
        assert told == names

    with asyncio.Runner(loop_factory=uvloop.new_event_loop if loop == "uvloop" else None) as runner:
        runner.run(main())
    deaths.close()
