"""Some users' servers are hostile in every manner at once; the others chat on and notice nothing."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psutil
import pytest
from mcp.server import MCPServer

from tests.faults import LEAK, refused
from tests.hostile_mcp import ENTRANCES, SECRET, HostileMCP
from tests.installation import Installation
from tests.model_server import ModelServer, Reply
from tests.person import Person
from tests.running import running

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

LIMIT = 5  # seconds that a server gets to connect, and a tool to answer
SLACK = 15  # seconds for two loaded cores, and for the lists that are long to read
GOOD, HOSTILE = 4, 6  # users
CALLED = 20  # tools of one turn
MEMORY = 400 * 1024 * 1024  # bytes that all workers may grow by


class Obedient(ModelServer):
    """Calls the tools that the user names, then repeats what they said."""

    def reply_to(self, sent: dict[str, Any]) -> Reply:
        last = [message for message in sent["messages"] if message["role"] != "system"][-1]
        if last["role"] == "user":
            calls = json.loads(last["content"])
            return Reply(calls=calls, call_ids=[f"call-{number}" for number, _ in enumerate(calls)])
        return Reply(text=f"Heard: {last['content'][:200]}")


@pytest.fixture
def hostile_url() -> Iterator[str]:
    with running(HostileMCP().app, grace=0) as url:
        yield url


@pytest.fixture
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    echo = MCPServer("echo")
    echo.add_tool(lambda text: text, name="echo")
    with (
        running(echo.streamable_http_app()) as good_url,
        running(Obedient().app) as model_url,
        Installation(
            tmp_path_factory.mktemp("crowd"),
            f"{model_url}/v1",
            servers={"good": {"url": f"{good_url}/mcp"}},
            MCP_CHAT_CONNECT_TIMEOUT=str(LIMIT),
            MCP_CHAT_TOOL_TIMEOUT=str(LIMIT),
            MCP_CHAT_TOOL_LIMIT=str(LIMIT),
        ) as installation,
    ):
        yield installation


def chat(url: str, name: str, over: threading.Event) -> list[float]:
    """Chat with the good server until it is over; return how long each turn took."""
    took: list[float] = []
    with Person(url, name) as person:
        person.connect(server={"name": "good"})
        while not over.is_set() or len(took) < 3:
            mark, began = f"{name}-{len(took)}", time.monotonic()
            answer = person.say(json.dumps([["good__echo", {"text": mark}]]))
            took.append(time.monotonic() - began)
            assert answer["response"] == f"Heard: {mark}"
            assert [end["output"] for end in answer["tool_invocations"][1::2]] == [mark]
        seen = json.dumps(person.history())
    assert SECRET not in seen
    assert set(re.findall(r"mark-\d+", seen)) == {name}
    return took


def suffer(url: str, name: str, hostile_url: str, manners: tuple[str, ...]) -> None:
    """Connect to hostile servers one after the other and call what they offer."""
    with Person(url, name) as person:
        for manner in manners:
            server = {"url": f"{hostile_url}/{manner}", "alias": "h"}
            began = time.monotonic()
            response = person.post("connect", llm={"model": "openai:scripted"}, server=server)
            if response.status_code != 200:
                refused(response, 422 if response.status_code == 422 else 503)  # too many tools, or no server
            else:
                use(person, response.json()["tools"])
            rounds = 1 + (len(response.json().get("tools", ())) + CALLED - 1) // CALLED
            assert time.monotonic() - began < rounds * (LIMIT + SLACK), manner


def use(person: Person, tools: list[str]) -> None:
    """Call the tools, many at a time: each call has its end, and the turn an answer."""
    for start in range(0, min(len(tools), 4 * CALLED), CALLED):
        some = tools[start : start + CALLED]
        answer = person.say(json.dumps([[tool, {}] for tool in some]))
        assert answer["response"].startswith("Heard: ")
        ends = [end for end in answer["tool_invocations"] if end["type"] != "tool_start"]
        assert len(ends) == len(some)
        assert not [end for end in ends if end["type"] == "tool_error" and LEAK.search(end["error"])]


def memory(workers: list[psutil.Process]) -> int:
    return sum(int(worker.memory_info().rss) for worker in workers)


def test_hostile_servers_harm_only_those_who_connect_to_them(
    installation: Installation, hostile_url: str
) -> None:
    url, workers, over = installation.url, installation.workers(), threading.Event()
    calm, most = memory(workers), 0
    with ThreadPoolExecutor(GOOD + HOSTILE) as pool:
        good = [pool.submit(chat, url, f"mark-{number}", over) for number in range(GOOD)]
        hostile = [
            pool.submit(suffer, url, f"hostile-{number}", hostile_url, ENTRANCES[number::HOSTILE])
            for number in range(HOSTILE)
        ]
        try:
            while not all(each.done() for each in hostile):
                most = max(most, memory(workers))
                time.sleep(0.1)  # to look again at the memory
        finally:
            over.set()
        for suffered in hostile:
            suffered.result()
        took = sorted(each for chatting in good for each in chatting.result())
    assert installation.workers() == workers
    assert most - calm < MEMORY
    assert took[len(took) // 2] < 2
    assert took[-1] < SLACK
    errors = installation.errors.read_text()
    found = re.search(rf"Traceback|{SECRET}|Task exception was never retrieved", errors)
    assert not found, errors[max(0, found.start() - 1_000) : found.start() + 3_000]
