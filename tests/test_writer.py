"""The writer between a turn and the log."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager

import anyio
import anyio.lowlevel
import pytest
from anyio.abc import TaskGroup

from mcp_chat.events import Entry, Event, TextDelta, TurnFinished
from mcp_chat.exceptions import Fenced, StoreUnavailable
from mcp_chat.stores.base import START, Lease
from mcp_chat.stores.memory import MemoryStore
from mcp_chat.writer import EventWriter

pytestmark = pytest.mark.anyio

LEASE = Lease(user="ann", worker="one", epoch=7)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Log:
    """A log that remembers each append, and can be away, slow or lost to another owner."""

    def __init__(self) -> None:
        self.appends: list[list[Entry]] = []
        self.times: list[float] = []
        self.attempts = 0
        self.away = False
        self.fenced = False
        self.open = anyio.Event()
        self.open.set()
        self.inside = 0
        self.most_inside = 0

    async def erase(self, user: str, entries: Sequence[Entry], commands: Collection[str]) -> None:
        raise NotImplementedError

    async def append(self, user: str, epoch: int, entries: Sequence[Entry]) -> None:
        assert (user, epoch) == (LEASE.user, LEASE.epoch)
        self.attempts += 1
        self.inside += 1
        self.most_inside = max(self.most_inside, self.inside)
        try:
            await self.open.wait()
        finally:
            self.inside -= 1
        if self.away:
            raise StoreUnavailable
        if self.fenced:
            raise Fenced
        self.appends.append(list(entries))
        self.times.append(time.monotonic())

    async def read(self, user: str, after: str, *, limit: int = 1000) -> list[Entry]:
        raise NotImplementedError

    async def tried(self, attempts: int) -> None:
        while self.attempts < attempts:
            await anyio.lowlevel.checkpoint()

    @property
    def entries(self) -> list[Entry]:
        return [entry for each in self.appends for entry in each]


@pytest.fixture
def log() -> Log:
    return Log()


@asynccontextmanager
async def running(writer: EventWriter) -> AsyncIterator[TaskGroup]:
    """Run a writer, with an end to every wait."""
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(writer.run)
            yield tasks
            tasks.cancel_scope.cancel()


def text(content: str) -> Event:
    return TextDelta(text=content)


async def test_the_first_event_goes_at_once_and_those_behind_it_together(log: Log) -> None:
    writer = EventWriter(log, LEASE, interval=0.3)
    async with running(writer):
        began = time.monotonic()
        writer.emit("c", text("a"))
        while not log.appends:
            await anyio.lowlevel.checkpoint()
        assert log.times[0] - began < 0.1
        for part in "bcd":
            writer.emit("c", text(part))
        while len(log.appends) < 2:
            await anyio.lowlevel.checkpoint()
        assert log.times[1] - log.times[0] >= 0.25
    assert [[e.event for e in entries] for entries in log.appends] == [[text("a")], [text("bcd")]]


async def test_a_flush_does_not_wait_for_the_interval(log: Log) -> None:
    writer = EventWriter(log, LEASE, interval=60)
    async with running(writer):
        for n in range(5):
            writer.emit("c", text(str(n)))
            await writer.flush()
            assert log.entries[-1].event == text(str(n))


async def test_a_flush_waits_until_everything_before_it_is_in_the_log(log: Log) -> None:
    writer = EventWriter(log, LEASE, interval=60)
    log.open = anyio.Event()
    flushed: list[str] = []

    async def flush() -> None:
        await writer.flush()
        flushed.append("flushed")

    async with running(writer) as tasks:
        writer.emit("c", text("a"))
        tasks.start_soon(flush)
        await anyio.wait_all_tasks_blocked()
        assert flushed == []
        writer.emit("c", TurnFinished())
        tasks.start_soon(flush)
        log.open.set()
        while len(flushed) < 2:
            await anyio.lowlevel.checkpoint()
        assert [entry.event.type for entry in log.entries] == ["text_delta", "turn_finished"]


async def test_a_flush_of_nothing_returns(log: Log) -> None:
    await EventWriter(log, LEASE).flush()


async def test_ids_count_up_from_one_in_the_epoch_of_the_lease(log: Log) -> None:
    writer = EventWriter(log, LEASE, interval=0)
    async with running(writer):
        for n in range(12):
            writer.emit(f"c{n}", text(str(n)))
            await writer.flush()
    assert [entry.id for entry in log.entries] == [f"7-{n}" for n in range(1, 13)]
    assert [entry.command_id for entry in log.entries] == [f"c{n}" for n in range(12)]


async def test_order_is_kept_and_one_append_is_in_flight_when_many_emit_at_once(log: Log) -> None:
    writer = EventWriter(log, LEASE, interval=0.001)

    async def turn(command_id: str) -> None:
        for n in range(50):
            writer.emit(command_id, text(f"{n} "))
            if n % 7 == 0:
                await writer.flush()
            await anyio.lowlevel.checkpoint()
        writer.emit(command_id, TurnFinished())
        await writer.flush()
        mine = [entry.event for entry in log.entries if entry.command_id == command_id]
        assert mine[-1] == TurnFinished()

    async with running(writer), anyio.create_task_group() as turns:
        for k in range(10):
            turns.start_soon(turn, f"c{k}")
    assert log.most_inside == 1
    assert [entry.id for entry in log.entries] == [f"7-{n}" for n in range(1, len(log.entries) + 1)]
    for k in range(10):
        events = [entry.event for entry in log.entries if entry.command_id == f"c{k}"]
        said = "".join(event.text for event in events if isinstance(event, TextDelta))
        assert said == "".join(f"{n} " for n in range(50))
        assert events[-1] == TurnFinished()


async def test_an_outage_shorter_than_the_patience_loses_nothing(log: Log) -> None:
    writer = EventWriter(log, LEASE, interval=0)
    log.away = True
    async with running(writer) as tasks:
        writer.emit("c", text("a"))
        tasks.start_soon(writer.flush)
        await log.tried(2)
        writer.emit("c", text("b"))
        log.away = False
        await writer.flush()
    assert [entry.event for entry in log.entries] == [text("a"), text("b")]
    assert [entry.id for entry in log.entries] == ["7-1", "7-2"]


async def test_it_gives_up_when_its_patience_ends_and_tells_everyone_who_waits(log: Log) -> None:
    writer = EventWriter(log, LEASE, interval=0, patience=0.3)
    log.away = True
    told: list[str] = []

    async def flush() -> None:
        with pytest.raises(StoreUnavailable):
            await writer.flush()
        told.append("told")

    async def run() -> None:
        with pytest.raises(StoreUnavailable):
            await writer.run()
        told.append("gave up")

    writer.emit("c", text("a"))
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            for each in (flush, flush, run):
                tasks.start_soon(each)
    assert sorted(told) == ["gave up", "told", "told"]
    assert log.attempts > 1
    writer.emit("c", text("b"))
    await flush()


async def test_a_later_owner_stops_it_at_once(log: Log) -> None:
    writer = EventWriter(log, LEASE)
    log.fenced = True
    writer.emit("c", text("a"))
    with anyio.fail_after(1), pytest.raises(Fenced):
        await writer.run()
    assert log.attempts == 1


async def test_a_cancelled_writer_leaves_nobody_waiting(log: Log) -> None:
    writer = EventWriter(log, LEASE)
    log.open = anyio.Event()
    writer.emit("c", text("a"))
    async with running(writer) as tasks:
        await anyio.wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()
        with anyio.CancelScope(shield=True), pytest.raises(StoreUnavailable):
            await writer.flush()


async def test_what_it_writes_can_be_read_by_those_who_follow() -> None:
    store = MemoryStore()
    lease = await store.leases.claim("ann", "one", floor=0, seen=None)
    assert lease is not None
    writer = EventWriter(store.log, lease)
    async with running(writer):
        writer.emit("c", text("a"))
        writer.emit("c", text("b"))
        await writer.flush()
    assert [entry.event for entry in await store.log.read("ann", START)] == [text("ab")]
