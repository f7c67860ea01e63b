"""How the cost of a turn grows: with users, with the history, with tools, with workers."""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil
import uvloop

from benchmarks import far
from benchmarks.contenders import Rider
from benchmarks.figures import percentile
from tests.installation import Installation
from tests.person import Person

CROWDS = (1, 10, 50, 200)
HISTORIES = (10, 1_000, 100_000)
TOOLS = (1, 10, 100, 500)
WORKERS = (1, 2, 4)
SECONDS = 4.0
TURNS = 30


def _rider(chat: Installation, person: Person, session_id: str | None = None) -> Rider:
    cookie = "; ".join(f"{each.name}={each.value}" for each in person.http.cookies.jar)
    return Rider(chat.url, person.name, {"cookie": cookie}, session_id=session_id)


@contextmanager
def _chat(model_url: str, servers: dict[str, Any], **options: Any) -> Iterator[Installation]:
    env: dict[str, Any] = {"MCP_CHAT_APPROVALS": "off", "MCP_CHAT_MAX_TOOLS": "1000", **options}
    with (
        tempfile.TemporaryDirectory() as folder,
        Installation(Path(folder), model_url, servers=servers, **env) as chat,
    ):
        yield chat


def _cpu(chat: Installation) -> float:
    spent = 0.0
    for process in chat.family():
        times = process.cpu_times()
        spent += times.user + times.system
    return spent


def _crowd(chat: Installation, people: Sequence[Person]) -> tuple[list[tuple[float, float]], float]:
    """Let everybody ask for some seconds; return the times of the turns, and how many came in a second."""

    async def go() -> tuple[list[tuple[float, float]], float]:
        riders = [_rider(chat, person) for person in people]
        began = time.perf_counter()
        times: list[tuple[float, float]] = []

        async def ride(rider: Rider) -> None:
            while time.perf_counter() < began + SECONDS:
                times.append(await rider.ask(far.PLAIN, streaming=True))
            rider.close()

        await asyncio.gather(*(ride(rider) for rider in riders))
        return times, len(times) / (time.perf_counter() - began)

    return uvloop.run(go())


def _alone(
    chat: Installation, person: Person, session_id: str | None = None
) -> tuple[list[float], list[float], float]:
    """Return first tokens, whole turns, and the CPU milliseconds of one."""

    async def go() -> list[tuple[float, float]]:
        rider = _rider(chat, person, session_id)
        await rider.ask(far.PLAIN, streaming=True)
        times = [await rider.ask(far.PLAIN, streaming=True) for _ in range(TURNS)]
        rider.close()
        return times

    before = _cpu(chat)
    times = uvloop.run(go())
    spent = (_cpu(chat) - before) / (TURNS + 1) * 1000
    return [first for first, _ in times], [whole for _, whole in times], spent


def crowds(model_url: str) -> Iterator[str]:
    """Yield the rows of more and more users, on one, two and four workers."""
    for workers in WORKERS:
        with _chat(model_url, {}, workers=workers) as chat, ExitStack() as stack:
            people: list[Person] = []
            for users in CROWDS:
                while len(people) < users:
                    people.append(stack.enter_context(chat.person(f"user-{len(people)}")))
                    people[-1].connect()
                before = _cpu(chat)
                times, rate = _crowd(chat, people)
                spent = (_cpu(chat) - before) / len(times) * 1000
                firsts = [first for first, _ in times]
                slow = f"{percentile(firsts, 0.5):.0f} | {percentile(firsts, 0.99):.0f}"
                yield f"| {workers} | {users} | {rate:.0f} | {slow} | {spent:.1f} |"


def histories(model_url: str) -> Iterator[str]:
    """Yield the rows of longer and longer conversations."""
    with _chat(model_url, {}, workers=1, MCP_CHAT_MAX_IMPORT_BYTES=str(2**30)) as chat:
        for length in HISTORIES:
            with chat.person(f"history-{length}") as person:
                person.connect()
                firsts, wholes, spent = _alone(chat, person, _imported(person, length))
                yield f"| {length:,} messages | {_cells(firsts, wholes)} | {spent:.1f} |"


def _imported(person: Person, length: int) -> str:
    said = ({"role": "user", "content": "plain"}, {"role": "assistant", "content": "word " * 10})
    text = {"schema": "mcp-chat/session/1", "messages": [said[n % 2] for n in range(length)]}
    answer = person.http.post(
        "/llmchat/sessions/import", content=json.dumps(text), headers={"content-type": "application/json"}
    )
    assert answer.status_code < 300, answer.text
    found: str = answer.json()["session_id"]
    return found


def tools(model_url: str) -> Iterator[str]:
    """Yield the rows of more and more tools."""
    for count in TOOLS:
        with (
            far.calculator(count) as (mcp_url, _),
            _chat(model_url, {"c": {"url": mcp_url}}, workers=1) as chat,
        ):
            person = chat.person("tools")
            person.connect(server={"name": "c"})
            firsts, wholes, spent = _alone(chat, person)
            yield f"| {count} tools | {_cells(firsts, wholes)} | {spent:.1f} |"


def _cells(firsts: Sequence[float], wholes: Sequence[float]) -> str:
    return f"{percentile(firsts, 0.5):.1f} | {percentile(wholes, 0.5):.1f} | {percentile(wholes, 0.99):.1f}"


def report() -> list[str]:
    """Return the lines of the tables."""
    with far.model() as (model_url, _):
        return [
            f"### How a turn's cost grows, on {psutil.cpu_count()} cores",
            "",
            "| workers | users at once | turns a second | first token p50 ms | p99 | CPU ms for each |",
            "|---|---|---|---|---|---|",
            *crowds(model_url),
            "",
            "| one user | first token p50 ms | turn p50 | p99 | CPU ms for each |",
            "|---|---|---|---|---|",
            *histories(model_url),
            *tools(model_url),
        ]
