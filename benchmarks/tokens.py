"""What a token costs a worker, all the way to its client's socket; and the memory of workers."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import httpx
import psutil

from benchmarks.stage import metronome, story
from tests.installation import Installation
from tests.person import Person

TOKENS = 1000
BURSTS = 20
USERS = 10
PACE = 0.02
PACED_TOKENS = 400
SHORT = 50
IDLE = 5.0


def cpu(process: psutil.Process) -> float:
    """Return the CPU seconds that a process has used."""
    times = process.cpu_times()
    return float(times.user + times.system)


def private(process: psutil.Process) -> float:
    """Return the megabytes that a process shares with no other."""
    return float(process.memory_full_info().uss) / 1e6


async def _read(person: Person, tokens: int, pause: float) -> None:
    body = {"user_id": person.name, "message": story(tokens, pause), "streaming": True}
    said = 0
    async with (
        httpx.AsyncClient(
            base_url=person.http.base_url, cookies=person.http.cookies, timeout=120, trust_env=False
        ) as http,
        http.stream("POST", "/llmchat/chat", json=body) as response,
    ):
        assert response.status_code == 200
        async for text in response.aiter_text():
            said += text.count("word ") if "event: token" in text else 0
    assert said >= tokens, (said, tokens)  # the last frame says it once more


async def _all(people: Sequence[Person], tokens: int, pause: float) -> None:
    async with asyncio.TaskGroup() as tasks:
        for person in people:
            tasks.create_task(_read(person, tokens, pause))


def cost(worker: psutil.Process, people: Sequence[Person], tokens: int, pause: float, times: int) -> float:
    """Return the worker's CPU seconds for 1,000 tokens."""
    before = cpu(worker)
    for _ in range(times):
        asyncio.run(_all(people, tokens, pause))
    return (cpu(worker) - before) / (times * len(people) * tokens) * 1000


def idle(worker: psutil.Process) -> float:
    """Return the share of a core that a worker uses while nothing happens."""
    before = cpu(worker)
    time.sleep(IDLE)
    return (cpu(worker) - before) / IDLE


def figures(url: str, *, fast: str) -> dict[str, str]:
    """Return what one installation needs."""
    found: dict[str, str] = {}
    with (
        tempfile.TemporaryDirectory() as folder,
        Installation(
            Path(folder), url, workers=1, MCP_CHAT_MAX_TURNS="100000", MCP_CHAT_FAST_OPENAI=fast
        ) as chat,
        ExitStack() as stack,
    ):
        worker = chat.workers()[0]
        started = private(worker)
        people = [stack.enter_context(Person(chat.url, f"tokens-{n}")) for n in range(USERS)]
        for person in people:
            person.connect()
        cost(worker, people, 10, 0, 2)
        alone, one_by_one = people[:1], "CPU s for 1,000 tokens, one every"
        found["share of a core while nothing happens"] = f"{idle(worker):.1%}"
        found["CPU s for 1,000 tokens in a burst, one user"] = f"{cost(worker, alone, TOKENS, 0, BURSTS):.3f}"
        found[f"the same, {USERS} users at once"] = f"{cost(worker, people, TOKENS, 0, 3):.3f}"
        paced = cost(worker, people, PACED_TOKENS, PACE, 1)
        found[f"{one_by_one} {PACE * 1000:g} ms, {USERS} users at once"] = f"{paced:.3f}"
        found["the same, one user"] = f"{cost(worker, alone, PACED_TOKENS, PACE, 1):.3f}"
        found["CPU ms of a turn of one token"] = f"{cost(worker, alone, 1, 0, SHORT):.1f}"
        found["MB of private memory after the start"] = f"{started:.0f}"
        found["MB of private memory after all these turns"] = f"{private(worker):.0f}"
    return found


def report() -> list[str]:
    """Return the lines of a table."""
    with metronome() as (url, _):
        plain = figures(url, fast="off")
        raw = figures(url, fast="on")
    return [
        f"### What a token costs a worker, and its memory ({USERS} users, one worker)",
        "",
        "| what | `MCP_CHAT_FAST_OPENAI=off` | as it comes |",
        "|---|---|---|",
        *(f"| {name} | {figure} | {raw[name]} |" for name, figure in plain.items()),
    ]
