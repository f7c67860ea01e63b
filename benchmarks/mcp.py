"""What the chat adds to a tool call, and what it costs to connect users to an MCP server."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from datetime import datetime
from ipaddress import ip_network
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import Any

import anyio
import httpx
import psutil
from mcp import Client
from mcp.server import MCPServer

from benchmarks.figures import percentile, spread
from mcp_chat.config import ServerConfig
from mcp_chat.connections import Connection
from mcp_chat.dialer import Dialer
from mcp_chat.limits import ServerLimits
from mcp_chat.netguard import Policy
from mcp_chat.opening import close_all, open_all
from mcp_chat.pool import Spare
from tests.installation import Installation
from tests.model_server import ModelServer, Reply
from tests.person import Frame, Person
from tests.running import running

CALLS = 200
USERS = 100
OPENED = 100
LOOPBACK = Policy(allowed_networks=(ip_network("127.0.0.0/8"),))


class Caller(ModelServer):
    """Calls the tool if it is asked to, and says one word."""

    def reply_to(self, sent: dict[str, Any]) -> Reply:
        """Return a call, or the end."""
        last = sent["messages"][-1]
        if last["role"] == "user" and last["content"] == "call":
            return Reply(calls=[("good__add", {"a": 1, "b": 2})], call_ids=[f"call-{time.monotonic_ns()}"])
        return Reply(text="done")


def add(a: int, b: int) -> int:
    """Add."""
    return a + b


def _calculator() -> Any:
    server = MCPServer("calculator", log_level="ERROR")
    server.add_tool(add)
    return server.streamable_http_app()


def _serve(make: Callable[[], Any], pipe: Pipe) -> None:
    with running(make(), grace=0) as url:
        pipe.send(url)
        pipe.recv()


def _model() -> Any:
    return Caller().app


@contextmanager
def beside(make: Callable[[], Any]) -> Iterator[str]:
    """Run an application in a process of its own; give its URL."""
    spawn = multiprocessing.get_context("spawn")
    here, there = spawn.Pipe()
    process = spawn.Process(target=_serve, args=(make, there))
    process.start()
    try:
        yield here.recv()
    finally:
        here.send("stop")
        process.join(10)


# A tool call


async def _direct(url: str) -> list[float]:
    times = []
    async with Client(f"{url}/mcp") as client:
        for _ in range(CALLS):
            began = time.perf_counter()
            await client.call_tool("add", {"a": 1, "b": 2})
            times.append(time.perf_counter() - began)
    return times[5:]


def _turn(person: Person, message: str) -> tuple[float, list[tuple[float, Frame]]]:
    """Return how long a turn took, and its frames with the times at which they came."""
    began = time.perf_counter()
    with person.streaming(message) as frames:
        seen = [(time.perf_counter(), frame) for frame in frames]
    return time.perf_counter() - began, seen


def _between(frames: Sequence[tuple[float, Frame]]) -> tuple[float, float]:
    """Return the time of a call as the events have it, and as it was seen."""
    places = {event: (at, data) for at, (event, data) in frames}
    (began, start), (ended, end) = places["tool_start"], places["tool_end"]
    said = datetime.fromisoformat(end["end"]) - datetime.fromisoformat(start["start"])
    return said.total_seconds(), ended - began


def calls(server: str, model: str) -> Iterator[str]:
    """Yield the rows of calls: made directly and through the chat, in turns so that they meet one machine."""
    direct: list[float] = []
    plain, called, said, seen = [], [], [], []
    with (
        tempfile.TemporaryDirectory() as folder,
        Installation(Path(folder), f"{model}/v1", servers={"good": {"url": f"{server}/mcp"}}) as chat,
        chat.person("bench") as person,
    ):
        person.connect(server={"name": "good"})
        for round_ in range(5):
            direct += asyncio.run(_direct(server))
            for _ in range(CALLS // 5):
                plain.append(_turn(person, "hello")[0])
                whole, frames = _turn(person, "call")
                called.append(whole)
                inside, outside = _between(frames)
                said.append(inside)
                seen.append(outside)
            if not round_:
                for times in (plain, called, said, seen):
                    del times[:10]
    yield f"| `mcp.Client`, open connection | {spread(direct)} | - |"
    for title, times in (("tool_started to tool_finished", said), ("the same as a reader sees it", seen)):
        yield f"| {title} | {spread(times)} | {percentile(times, 0.5) - percentile(direct, 0.5):+.1f} |"
    yield f"| a turn without a tool | {spread(plain)} | - |"
    yield f"| a turn with one | {spread(called)} | {percentile(called, 0.5) - percentile(plain, 0.5):+.1f} |"


# Connecting


def _connection(url: str, dialer: Dialer) -> Connection:
    server = ServerConfig(alias="good", url=f"{url}/mcp")
    return Connection(server, dialer, connect_timeout=30, tool_timeout=30, limits=ServerLimits())


@asynccontextmanager
async def _opened(url: str, dialer: Dialer, count: int) -> AsyncIterator[float]:
    """Hold connections open; give the seconds that it took to open them, side by side."""
    connections = [_connection(url, dialer) for _ in range(count)]
    async with anyio.create_task_group() as tasks:
        began = time.perf_counter()
        await open_all(connections, tasks)
        try:
            yield time.perf_counter() - began
        finally:
            await close_all(connections)


def _dialer() -> Dialer:
    return Dialer(LOOPBACK, timeout=30, silence=30, limits=ServerLimits(), spare=Spare())


async def _one_by_one(url: str) -> list[float]:
    times, dialer = [], _dialer()
    for _ in range(OPENED):
        async with _opened(url, dialer, 1) as took:
            times.append(took)
    return times[5:]


async def _at_once(url: str) -> list[float]:
    times, dialer = [], _dialer()
    for _ in range(5):
        async with _opened(url, dialer, USERS) as took:
            times.append(took)
    return times[1:]


async def _weigh(url: str, pipe: Pipe) -> None:
    """Send how many bytes each connection takes, in a process that has nothing else."""
    process, dialer = psutil.Process(), _dialer()
    async with _opened(url, dialer, USERS):
        pass
    gc.collect()
    before = process.memory_full_info().uss
    async with _opened(url, dialer, USERS * 4):
        await anyio.sleep(6)  # until the sockets that nobody needs are gone
        gc.collect()
        pipe.send((process.memory_full_info().uss - before) / USERS / 4)


def _weighed(url: str, pipe: Pipe) -> None:
    asyncio.run(_weigh(url, pipe))


def weight(url: str) -> float:
    """Return the bytes of an open connection."""
    spawn = multiprocessing.get_context("spawn")
    here, there = spawn.Pipe()
    process = spawn.Process(target=_weighed, args=(url, there))
    process.start()
    bytes_: float = here.recv()
    process.join(30)
    return bytes_


def memory(chat: Installation) -> int:
    """Return the bytes that the workers have for themselves."""
    return sum(int(worker.memory_full_info().uss) for worker in chat.workers())


async def _connect(people: Sequence[Person]) -> float:
    """Connect users at once; return the seconds until the last one was."""
    async with httpx.AsyncClient(
        trust_env=False, timeout=60, limits=httpx.Limits(max_connections=None)
    ) as http:

        async def connect(person: Person) -> None:
            body = {"user_id": person.name, "llm": {"model": "openai:scripted"}, "server": {"name": "good"}}
            cookies = "; ".join(f"{name}={value}" for name, value in person.http.cookies.items())
            url = f"{person.http.base_url}/llmchat/connect"
            (await http.post(url, json=body, headers={"cookie": cookies})).raise_for_status()

        began = time.perf_counter()
        async with asyncio.TaskGroup() as tasks:
            for person in people:
                tasks.create_task(connect(person))
        return time.perf_counter() - began


def _leave(people: Sequence[Person]) -> None:
    """Disconnect users: whoever comes next meets an installation at rest."""
    for person in people:
        person.http.post("/llmchat/disconnect", json={"user_id": person.name}).raise_for_status()


def _grown(chat: Installation) -> float:
    """Return the bytes that the workers take for each of many users, who connect one after the other."""
    with ExitStack() as stack:
        people = [stack.enter_context(Person(chat.url, f"heavy-{number}")) for number in range(2 * USERS)]
        for person in people[:USERS]:
            person.connect(server={"name": "good"})
        before = memory(chat)
        for person in people[USERS:]:
            person.connect(server={"name": "good"})
        grown = (memory(chat) - before) / USERS
        _leave(people)
    return grown


def connects(server: str, model: str) -> Iterator[str]:
    """Yield the rows of connecting: the connections alone, and through the chat."""
    yield f"| a connection alone | {spread(asyncio.run(_one_by_one(server)))} |"
    yield f"| {USERS} connections at once, until the last is open | {spread(asyncio.run(_at_once(server)))} |"
    with (
        tempfile.TemporaryDirectory() as folder,
        Installation(Path(folder), f"{model}/v1", servers={"good": {"url": f"{server}/mcp"}}) as chat,
        ExitStack() as stack,
    ):
        times = []
        with chat.person("bench") as person:
            for _ in range(OPENED):
                began = time.perf_counter()
                person.connect(server={"name": "good"})
                times.append(time.perf_counter() - began)
        yield f"| `POST /llmchat/connect` | {spread(times[5:])} |"
        grown = _grown(chat)
        crowds = []
        for crowd in range(4):
            names = [f"user-{crowd}-{number}" for number in range(USERS)]
            people = [stack.enter_context(Person(chat.url, name)) for name in names]
            crowds.append(asyncio.run(_connect(people)))
            _leave(people)
        yield f"| the same of {USERS} users at once, until the last is connected | {spread(crowds[1:])} |"
    yield ""
    alone = weight(server) / 1000
    yield f"Memory: {alone:.0f} kB for an open connection, {grown / 1000:.0f} kB for a connected user."


def report() -> list[str]:
    """Return the lines of the tables."""
    with beside(_calculator) as server, beside(_model) as model:
        return [
            f"### A tool call, {CALLS} times each",
            "",
            "| ms | p50 | p99 | added at p50 |",
            "|---|---|---|---|",
            *calls(server, model),
            "",
            "### Connecting to a server on loopback",
            "",
            "| ms | p50 | p99 |",
            "|---|---|---|",
            *connects(server, model),
        ]
