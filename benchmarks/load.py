"""How many streams one worker carries: more and more of them, until they stutter or its core is full."""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path

import httpx
import psutil

from benchmarks.figures import percentile
from benchmarks.stage import story
from tests.installation import Installation
from tests.person import Person

RATE = 50
LEVELS = (1, 5, 10, 15, 20, 25, 30, 35, 40, 50, 60)
SECONDS = 2.5
WARM_UP = 1.0
FULL = 0.95
STUTTER = 1.5


async def stream(person: Person, start: float, heard: list[tuple[float, int]]) -> None:
    """Read a turn; note when token frames came, and how many tokens."""
    await asyncio.sleep(start)
    body = {
        "user_id": person.name,
        "message": story(int((WARM_UP + SECONDS) * RATE), 1 / RATE),
        "streaming": True,
    }
    async with (
        httpx.AsyncClient(
            base_url=person.http.base_url,
            cookies=person.http.cookies,
            timeout=60,
            verify=False,
            trust_env=False,
        ) as http,
        http.stream("POST", "/llmchat/chat", json=body) as response,
    ):
        assert response.status_code == 200
        async for text in response.aiter_text():
            if "event: token" in text:
                heard.append((time.perf_counter(), text.count("word")))


async def level(
    people: Sequence[Person], processes: Sequence[psutil.Process]
) -> tuple[list[float], float, list[float]]:
    """Run a stream for each; return spacings, tokens a second of each, and processes' shares of a core."""
    heard: list[list[tuple[float, int]]] = [[] for _ in people]
    spread = WARM_UP / 2 / len(people)
    async with asyncio.TaskGroup() as tasks:
        for n, (person, times) in enumerate(zip(people, heard, strict=True)):
            tasks.create_task(stream(person, n * spread, times))
        await asyncio.sleep(WARM_UP)
        began, before = time.perf_counter(), [_cpu(process) for process in processes]
        await asyncio.sleep(SECONDS - WARM_UP / 2)
        ended, after = time.perf_counter(), [_cpu(process) for process in processes]
    inside = [[each for each in times if began <= each[0] <= ended] for times in heard]
    gaps = [b[0] - a[0] for times in inside for a, b in pairwise(times)]
    tokens = sum(count for times in inside for _, count in times) / (ended - began) / len(people)
    return gaps, tokens, [(b - a) / (ended - began) for a, b in zip(before, after, strict=True)]


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def levels(chat: Installation, processes: Sequence[psutil.Process]) -> Iterator[str]:
    """Add streams until a limit is reached."""
    calm, fits = 0.0, 0
    with ExitStack() as stack:
        people: list[Person] = []
        for streams in LEVELS:
            while len(people) < streams:
                people.append(stack.enter_context(Person(chat.url, f"load-{len(people)}")))
                people[-1].connect()
            for _ in range(2):  # a moment of the machine's own is no limit
                gaps, tokens, cpu = asyncio.run(level(people, processes))
                late = percentile(gaps, 0.95)
                calm = calm or percentile(gaps, 0.5)
                over = late > STUTTER * calm or cpu[0] > FULL
                if not over:
                    break
            shares = " | ".join(f"{share:.0%}" for share in cpu)
            yield (
                f"| {streams} | {tokens:.1f} | {percentile(gaps, 0.5):.0f} | {late:.0f} | {shares} "
                f"| {cpu[0] / streams * 100:.1f} | {'no' if over else 'yes'} |"
            )
            if over:
                break
            fits = streams
    yield f"\nCarried by one worker: {fits} streams, on a machine with {os.cpu_count()} cores."


def report(url: str, model: psutil.Process) -> list[str]:
    """Return the lines of a table."""
    with (
        tempfile.TemporaryDirectory() as folder,
        Installation(Path(folder), url, workers=1, MCP_CHAT_MAX_TURNS="100000") as chat,
    ):
        valkey = next(process for process in chat.family() if "valkey" in process.name())
        processes = [*chat.workers(), valkey, model, psutil.Process()]
        rows = list(levels(chat, processes))
    return [
        f"### Streams of one worker at {RATE} tokens a second each",
        "",
        "| streams | each: tokens a second | p50 ms between frames | p95 | worker | Valkey | model | client "
        "| worker, % for each stream | carried |",
        "|---|---|---|---|---|---|---|---|---|---|",
        *rows,
    ]
