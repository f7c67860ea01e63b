"""What one owner for each user costs, and how long a change of owners takes: with real workers."""

from __future__ import annotations

import os
import signal
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import psutil

from benchmarks import load
from benchmarks.figures import percentile, spread
from benchmarks.stage import Bells, Tap, Traffic, elsewhere, metronome, settled, story, until, words
from tests.installation import Installation
from tests.person import Person
from tests.running import wait_until

WORKERS = (1, 2, 4)
ROUNDS = 60
WORDS = 10
PAUSE = 0.002
WINDOW = 5.0
RATE = 50
KILLS = 15
STOPS = {2: 3, 4: 1}
DEPLOYS = 4
TOGETHER = 5
LONG = story(1500, 1 / RATE)


@dataclass
class Tables:
    """Lines of all tables, row by row as they are measured."""

    latency: list[str] = field(default_factory=list)
    traffic: list[str] = field(default_factory=list)
    changes: list[str] = field(default_factory=list)


# The way to a remote owner


def timed(person: Person) -> tuple[float, float]:
    """Return the seconds until the first token and until the end of a turn."""
    began, first = time.perf_counter(), 0.0
    with person.streaming(story(WORDS, PAUSE)) as frames:
        for event, _ in frames:
            if not first and event == "token":
                first = time.perf_counter() - began
    return first, time.perf_counter() - began


def latency(chat: Installation, workers: int) -> Iterator[str]:
    """Read one user's turns alternately at the owner's worker, there once more, and at another one."""
    with ExitStack() as stack:
        local = stack.enter_context(chat.person(f"way-{workers}"))
        local.connect()
        owner = chat.worker_of(local)
        people = [local, stack.enter_context(chat.person(local.name, owner))]
        if workers > 1:
            people.append(stack.enter_context(elsewhere(chat, local.name, owner)))
        found: list[list[tuple[float, float]]] = [[] for _ in people]
        for round_ in range(ROUNDS + 5):
            for place in range(len(people)):  # each goes first as often as the others
                who = (place + round_) % len(people)
                found[who].append(timed(people[who]))
    found = [turns[5:] for turns in found]
    for title, part in (("first token", 0), ("whole turn", 1)):
        ours = [turn[part] for turn in found[0]]
        cells = [added(ours, [turn[part] for turn in turns]) for turns in found[1:]]
        yield f"| {workers} | {title} | {spread(ours)} | {' | '.join([*cells, '- | -'][:2])} |"


def added(plain: Sequence[float], other: Sequence[float]) -> str:
    """Return p50 and p99 of the differences of pairs."""
    differences = [b - a for a, b in zip(plain, other, strict=True)]
    return f"{percentile(differences, 0.5):+.1f} | {percentile(differences, 0.99):+.1f}"


# Redis


def traffic(chat: Installation, workers: int) -> Iterator[str]:
    """Count what clients send to Valkey while a turn streams, less what they send without one."""
    with ExitStack() as stack:
        person = stack.enter_context(chat.person(f"tap-{workers}"))
        person.connect()
        list(person.stream(story(1, 0)))
        owner = chat.worker_of(person)
        others: list[psutil.Process] = []
        tap = stack.enter_context(Tap(chat))
        time.sleep(1)
        tap.start()
        time.sleep(WINDOW)
        idle = tap.stop()
        for readers in range(3 if workers > 1 else 1):
            if readers:
                where = others if workers > 2 else []
                remote = stack.enter_context(elsewhere(chat, person.name, owner, *where))
                others.append(chat.worker_of(remote))
                # nobody needs to read what is sent: all of it fits into the socket's buffers
                stack.enter_context(remote.http.stream("GET", "/llmchat/events"))
            tokens, found = streamed(person, tap)
            yield traffic_row(workers, readers, tokens, found, idle)


def streamed(person: Person, tap: Tap) -> tuple[int, Traffic]:
    """Count in the middle of a turn; return how many tokens came meanwhile."""
    with person.streaming(story(int((WINDOW + 1) * RATE), 1 / RATE)) as frames:
        words(frames, lambda said: said > RATE // 2)
        tap.start()
        deadline = time.monotonic() + WINDOW
        tokens = words(frames, lambda _: time.monotonic() >= deadline)
        found = tap.stop()
        until(frames, "final")
    return tokens, found


def traffic_row(workers: int, readers: int, tokens: int, found: Traffic, idle: Traffic) -> str:
    """Return a line: all for a token."""
    share = found.seconds / idle.seconds
    more = {
        name: (found.commands.get(name, 0) - share * idle.commands.get(name, 0)) / tokens
        for name in {*found.commands, *idle.commands}
    }
    named = [f"{name} {each:.2f}" for name, each in sorted(more.items(), key=lambda m: -m[1]) if each > 0.004]
    cells = [
        f"{tokens / found.seconds:.0f}",
        f"{sum(more.values()):.2f}",
        ", ".join(named),
        f"{(found.bytes_in - share * idle.bytes_in) / tokens:.0f}",
        f"{(found.bytes_out - share * idle.bytes_out) / tokens:.0f}",
        f"{idle.sent / idle.seconds:.0f}",
    ]
    return f"| {workers} | {readers} | {' | '.join(cells)} |"


# Changes of owners


@dataclass(slots=True)
class Change:
    """Seconds from the end of one owner to what comes from the next.

    Attributes:
        told: Until the workers were told of a death.
        log: Until the next owner's first entry was in the log.
        seen: Until a reader on another worker had its first frame.
    """

    log: float
    seen: float = 0.0
    told: float = 0.0


def broken(chat: Installation, name: str, bells: Bells, sent: signal.Signals) -> Change:
    """Kill or stop the owner in the middle of a turn that is read at another worker."""
    with ExitStack() as stack:
        person = stack.enter_context(chat.person(name))
        person.connect()
        owner = chat.worker_of(person)
        reader = stack.enter_context(elsewhere(chat, name, owner))
        with reader.streaming(LONG) as frames:
            words(frames, lambda said: said > 3)
            began = time.perf_counter()
            os.kill(owner.pid, sent)
            until(frames, "discard")
            seen = time.perf_counter()
            if sent == signal.SIGSTOP:
                owner.resume()
            reader.post("cancel").raise_for_status()
            until(frames, "final")
    change: tuple[float, float] = wait_until(lambda: bells.changed(name), "the bells")
    told = [r.at - began for r in bells.rings if r.bell == "workers:bell" and r.at > began]
    return Change(log=change[1] - began, seen=seen - began, told=min(told, default=0.0))


def waited(chat: Installation, name: str, bells: Bells) -> list[Change]:
    """Stop the owner in good order with a turn that ends in time and a message that waits for its end."""
    with ExitStack() as stack:
        person = stack.enter_context(chat.person(name))
        person.connect()
        owner = chat.worker_of(person)
        reader = stack.enter_context(elsewhere(chat, name, owner))
        frames = stack.enter_context(reader.streaming(story(RATE // 2, 1 / RATE)))
        words(frames, lambda said: said > 1)
        waiting = stack.enter_context(elsewhere(chat, name, owner))
        later = stack.enter_context(waiting.streaming(story(1, 0)))
        owner.terminate()
        until(frames, "final")
        until(later, "final")
    return [gap(bells, name)]


def handed_over(chat: Installation, name: str, bells: Bells) -> list[Change]:
    """Stop the owner of several users in good order, with turns that do not end within the grace period."""
    names = [f"{name}-{n}" for n in range(TOGETHER)]
    with ExitStack() as stack:
        first = stack.enter_context(chat.person(names[0]))
        owner = chat.worker_of(first)
        people = [first, *(stack.enter_context(chat.person(each, owner)) for each in names[1:])]
        readers = [stack.enter_context(elsewhere(chat, each, owner)) for each in names]
        for person in people:
            person.connect()
        streams = [stack.enter_context(reader.streaming(LONG)) for reader in readers]
        for frames in streams:
            words(frames, lambda said: said > 1)
        owner.terminate()
        for frames in streams:
            until(frames, "discard")
        with ThreadPoolExecutor() as threads:
            for answer in threads.map(lambda reader: reader.post("cancel"), readers):
                answer.raise_for_status()
    return [gap(bells, each) for each in names]


def gap(bells: Bells, name: str) -> Change:
    """Return how long nobody wrote."""
    before, after = wait_until(lambda: bells.changed(name), "the bells")
    return Change(log=after - before)


def changes(chat: Installation, workers: int) -> Iterator[str]:
    """Change owners in each way."""
    with Bells(chat.redis()) as bells:
        for title, kind, times in (
            ("kill -9", signal.SIGKILL, KILLS),
            ("SIGSTOP", signal.SIGSTOP, STOPS[workers]),
        ):
            found = []
            for n in range(times):
                found.append(broken(chat, f"{kind.name.lower()}-{workers}-{n}", bells, kind))
                settled(chat, workers)
            told = [c.told for c in found] if kind == signal.SIGKILL else []
            yield change_row(workers, title, told, [c.log for c in found], [c.seen for c in found])
        for title, act, times in (
            ("SIGTERM, a message waits", waited, DEPLOYS),
            (f"SIGTERM, {TOGETHER} turns go on", handed_over, 1),
        ):
            gaps = []
            for n in range(times):
                gaps += act(chat, f"{act.__name__}-{workers}-{n}", bells)
                settled(chat, workers)
            yield change_row(workers, title, [], [c.log for c in gaps], [])


def change_row(workers: int, title: str, *parts: Sequence[float]) -> str:
    """Return a line: p50 and the longest of each part."""
    cells = [f"{median(part) * 1000:.0f} / {max(part) * 1000:.0f}" if part else "-" for part in parts]
    return f"| {workers} | {title} | {len(parts[1])} | {' | '.join(cells)} |"


def measure(url: str, workers: int, tables: Tables) -> None:
    """Measure everything with so many workers."""
    with (
        tempfile.TemporaryDirectory() as folder,
        Installation(Path(folder), url, workers=workers) as chat,
    ):
        settled(chat, workers)
        tables.latency += latency(chat, workers)
        tables.traffic += traffic(chat, workers)
        if workers > 1:
            tables.changes += changes(chat, workers)


def report() -> list[str]:
    """Return the lines of the tables."""
    tables = Tables()
    with metronome() as (url, model):
        carried = load.report(url, model)
        for workers in WORKERS:
            measure(url, workers, tables)
    return [
        f"### A remote owner: {ROUNDS} turns of {WORDS} words, one every {PAUSE * 1000:g} ms, by each way",
        "",
        "| workers | ms | at the owner's p50 | p99 | the same once more p50 | p99 | remote p50 | p99 |",
        "|---|---|---|---|---|---|---|---|",
        *tables.latency,
        "",
        f"### Valkey, for each token of a turn at {RATE} tokens a second",
        "",
        "| workers | remote readers | tokens a second | commands | of these | bytes in | bytes out "
        "| commands a second without a turn |",
        "|---|---|---|---|---|---|---|---|",
        *tables.traffic,
        "",
        "### Changes of owners",
        "",
        "| workers | p50 / longest ms | n | death told | next owner's first entry | first frame of it |",
        "|---|---|---|---|---|---|",
        *tables.changes,
        "",
        *carried,
    ]
