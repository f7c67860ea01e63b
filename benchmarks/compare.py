"""The same turns, asked of the model, of LangChain's bare agent, of this chat and of ContextForge's."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median

import psutil
import uvloop

from benchmarks import far
from benchmarks.contenders import Contender, Rider, contextforge, direct, floor, ours
from benchmarks.figures import percentile
from mcp_chat.embedded import valkey_server

ROUNDS = 3
TURNS = 40
SECONDS = 4.0
BURST, BURSTS = 1000, 5
PACED, STREAMS = 250, 10
Figures = dict[str, dict[str, float]]


async def _one_by_one(
    rider: Rider, message: str, turns: int, *, streaming: bool
) -> list[tuple[float, float]]:
    return [await rider.ask(message, streaming=streaming) for _ in range(turns)]


async def _crowd(riders: Sequence[Rider], message: str, *, streaming: bool) -> float:
    """Return turns a second of all riders at once."""
    until, done = time.perf_counter() + SECONDS, 0

    async def ride(rider: Rider) -> None:
        nonlocal done
        while time.perf_counter() < until:
            await rider.ask(message, streaming=streaming)
            done += 1

    began = time.perf_counter()
    await asyncio.gather(*(ride(rider) for rider in riders))
    return done / (time.perf_counter() - began)


def _cpu(contender: Contender) -> float:
    return sum(times.user + times.system for times in (p.cpu_times() for p in contender.processes()))


def _spent(contender: Contender, work: Callable[[], None]) -> float:
    """Return the CPU seconds of a contender while something is done."""
    before = _cpu(contender)
    work()
    return _cpu(contender) - before


class Measure:
    """All measurements of one contender; each round adds to them."""

    def __init__(self, contender: Contender) -> None:
        self.contender = contender
        self.found: dict[str, list[float]] = {}

    def _add(self, name: str, figure: float) -> None:
        self.found.setdefault(name, []).append(figure)

    def run(self) -> None:
        """Measure all of it once."""
        gc.collect()
        gc.disable()
        try:
            for name, message in (("plain turn", far.PLAIN), ("turn with a tool", far.CALL)):
                self._latency(name, message)
                self._throughput(name, message)
            self._tokens("in a burst", far.story(BURST, 0), 1, BURSTS * BURST)
            self._tokens("at 20 ms a token", far.story(PACED, 0.02), STREAMS, STREAMS * PACED)
        finally:
            gc.enable()

    def _latency(self, name: str, message: str) -> None:
        for streaming in (False, True):
            times: list[tuple[float, float]] = []

            async def go(streaming: bool = streaming, times: list[tuple[float, float]] = times) -> None:
                rider, *others = self.contender.riders()
                times += await _one_by_one(rider, message, TURNS, streaming=streaming)
                for each in (rider, *others):
                    each.close()

            spent = _spent(self.contender, lambda go=go: uvloop.run(go()))  # type: ignore[misc]
            kind = f"{name}, {'streamed' if streaming else 'whole'}"
            self._add(f"{kind}: ms", percentile([whole for _, whole in times], 0.5))
            self._add(f"{kind}: CPU ms", spent / TURNS * 1000)
            if streaming and message == far.PLAIN:
                self._add("first token: ms", percentile([first for first, _ in times], 0.5))

    def _throughput(self, name: str, message: str) -> None:
        for streaming in (False, True):

            async def go(streaming: bool = streaming) -> float:
                riders = self.contender.riders()
                try:
                    return await _crowd(riders, message, streaming=streaming)
                finally:
                    for rider in riders:
                        rider.close()

            kind = f"{name}, {'streamed' if streaming else 'whole'}"
            self._add(f"{kind}: turns a second, 50 users", uvloop.run(go()))

    def _tokens(self, name: str, message: str, streams: int, tokens: int) -> None:
        async def go() -> None:
            riders = self.contender.riders()
            turns = BURSTS if streams == 1 else 1
            await asyncio.gather(
                *(_one_by_one(rider, message, turns, streaming=True) for rider in riders[:streams])
            )
            for rider in riders:
                rider.close()

        spent = _spent(self.contender, lambda: uvloop.run(go()))
        self._add(f"1,000 tokens {name}: CPU s", spent / tokens * 1000)

    def result(self) -> dict[str, float]:
        """Return the median of each figure, and what the workers take of memory."""
        memory = [worker.memory_full_info().uss / 2**20 for worker in self.contender.workers()]
        found = {name: median(figures) for name, figures in self.found.items()}
        return {**found, "private memory of a worker: MB": max(memory)} if memory else found


@contextmanager
def contenders(folder: Path) -> Iterator[list[Contender]]:
    """Start all of them."""
    with ExitStack() as stack:
        model_url, _ = stack.enter_context(far.model())
        mcp_url, _ = stack.enter_context(far.calculator())
        found = [stack.enter_context(direct(model_url)), stack.enter_context(floor(model_url, mcp_url))]
        (folder / "ours").mkdir()
        (folder / "gateway").mkdir()
        found.append(stack.enter_context(ours(model_url, mcp_url, folder / "ours")))
        try:
            redis = stack.enter_context(_redis(folder))
            found.append(stack.enter_context(contextforge(model_url, mcp_url, folder / "gateway", redis)))
        except (subprocess.CalledProcessError, OSError) as error:
            print(f"ContextForge is left out, as it cannot be installed: {error}", file=sys.stderr)
        yield found


@contextmanager
def _redis(folder: Path) -> Iterator[str]:
    """Run a Valkey for the gateway; ours has its own."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    process = subprocess.Popen([valkey_server(), *options], stdout=subprocess.DEVNULL)
    try:
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        process.terminate()
        process.wait(10)


def measured(found: Sequence[Contender]) -> Figures:
    """Measure all in turn, several times, so that they meet the same machine."""
    measures = [Measure(contender) for contender in found]
    for _ in range(ROUNDS):
        for each in measures:
            each.run()
    return {each.contender.name: each.result() for each in measures}


def rows(figures: Figures) -> Iterator[str]:
    """Yield the lines of the table: each figure of each contender, and the ratios."""
    names = list(figures)
    bare, mine, *others = names[1:]
    yield f"| | {' | '.join(names)} | {''.join(f'{other} : {mine} | ' for other in others)}{mine} : {bare} |"
    yield "|---" * (len(names) + len(others) + 2) + "|"
    for name in figures[mine]:
        cells = [_cell(figures[each].get(name)) for each in names]
        ratios = [_ratio(figures, name, other, mine) for other in others] + [
            _ratio(figures, name, mine, bare)
        ]
        yield f"| {name} | {' | '.join([*cells, *ratios])} |"


def _cell(figure: float | None) -> str:
    if figure is None:
        return "-"
    return f"{figure:.0f}" if figure >= 100 else f"{figure:.1f}" if figure >= 1 else f"{figure:.3f}"


def _ratio(figures: Figures, name: str, one: str, other: str) -> str:
    """Return how much more one takes than another; of turns a second, how much less it makes."""
    a, b, base = figures[one].get(name), figures[other].get(name), figures["direct"].get(name, 0.0)
    if not a or not b:
        return "-"
    if "a second" in name:
        return f"{b / a:.1f}"
    if name.endswith(": ms"):  # what each adds to the model's own time
        a, b = a - base, b - base
    return f"{a / b:.1f}" if b > 0 else "-"


def report() -> list[str]:
    """Return the lines of a table."""
    with tempfile.TemporaryDirectory() as folder, contenders(Path(folder)) as found:
        figures = measured(found)
    cores, memory = os.cpu_count(), psutil.virtual_memory().total / 2**30
    return [
        f"### The same turns, {ROUNDS} rounds, two workers each, on {cores} cores with {memory:.0f} GB",
        "",
        *rows(figures),
    ]
