"""The writer between a turn and the log."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager

import anyio
import anyio.lowlevel
import pytest
from anyio.abc import TaskGroup
from redis.asyncio import Redis

from mcp_chat.events import Entry, Event, TextDelta, TurnFinished
from mcp_chat.exceptions import Fenced, Forgotten, StoreUnavailable
from mcp_chat.stores.base import START, Lease
from mcp_chat.stores.memory import MemoryStore
from mcp_chat.stores.redis import open_redis
from mcp_chat.stores.redis_branches import owner_key
from mcp_chat.writer import EventWriter

pytestmark = pytest.mark.anyio

LEASE = Lease(user="ann", worker="one", epoch=7)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Log:
    """A log that remembers each append, and can be away, slow, empty or lost to another owner."""

    def __init__(self) -> None:
        self.appends: list[list[Entry]] = []
        self.times: list[float] = []
        self.attempts = 0
        self.away = False
        self.fenced = False
        self.forgotten = False
        self.open = anyio.Event()
        self.open.set()
        self.inside = 0
        self.most_inside = 0

    async def erase(
        self, user: str, entries: Sequence[Entry], commands: Collection[str], *, epoch: int
    ) -> None:
        raise NotImplementedError

    async def append(
        self, user: str, epoch: int, entries: Sequence[Entry], *, ttl: int | None = None
    ) -> None:
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
        if self.forgotten:
            raise Forgotten
        self.appends.append(list(entries))
        self.times.append(time.monotonic())

    async def read(self, user: str, after: str, *, limit: int = 1000) -> list[Entry]:
        raise NotImplementedError

    async def read_many(self, places: Mapping[str, str], *, limit: int = 1000) -> dict[str, list[Entry]]:
        raise NotImplementedError

    async def end(self, user: str) -> str:
        raise NotImplementedError

    def heard(self, user: str, note: str) -> list[Entry]:
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
    writer = EventWriter(log, LEASE, interval=2)
    async with running(writer):
        began = time.monotonic()
        writer.emit("c", text("a"))
        while not log.appends:
            await anyio.lowlevel.checkpoint()
        assert log.times[0] - began < 1
        for part in "bcd":
            writer.emit("c", text(part))
        while len(log.appends) < 2:
            await anyio.lowlevel.checkpoint()
        assert log.times[1] - log.times[0] >= 1.9
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


async def test_ids_count_up_from_zero_in_the_epoch_of_the_lease(log: Log) -> None:
    writer = EventWriter(log, LEASE, interval=0)
    async with running(writer):
        for n in range(12):
            writer.emit(f"c{n}", text(str(n)))
            await writer.flush()
    assert [entry.id for entry in log.entries] == [f"7-{n}" for n in range(12)]
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
    assert [entry.id for entry in log.entries] == [f"7-{n}" for n in range(len(log.entries))]
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
    assert [entry.id for entry in log.entries] == ["7-0", "7-1"]


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
    with anyio.fail_after(10), pytest.raises(Fenced):
        await writer.run()
    assert log.attempts == 1


class Delivered:
    """What a writer has delivered; each time it must be what the log has got just before."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self.times = 0

    def __call__(self, user: str, entries: Sequence[Entry]) -> None:
        self.times += 1
        assert user == LEASE.user
        assert list(entries) == self._log.appends[-1]
        assert self.times == len(self._log.appends)


async def test_what_is_in_the_log_is_delivered_once(log: Log) -> None:
    delivered = Delivered(log)
    writer = EventWriter(log, LEASE, deliver=delivered, interval=0)
    async with running(writer):
        for n in range(5):
            writer.emit("c", text(str(n)))
            writer.emit("c", TurnFinished())
            await writer.flush()
            assert delivered.times == len(log.appends) == n + 1


async def test_nothing_is_delivered_before_it_is_in_the_log(log: Log) -> None:
    delivered = Delivered(log)
    writer = EventWriter(log, LEASE, deliver=delivered)
    log.away = True
    async with running(writer):
        writer.emit("c", text("a"))
        await log.tried(3)
        assert delivered.times == 0
        log.away = False
        await writer.flush()
    assert delivered.times == 1


@pytest.mark.parametrize("how", ["away", "fenced", "forgotten"])
async def test_what_the_log_does_not_take_is_not_delivered(log: Log, how: str) -> None:
    delivered = Delivered(log)
    writer = EventWriter(log, LEASE, deliver=delivered, patience=0)
    setattr(log, how, True)
    writer.emit("c", text("a"))
    with anyio.fail_after(5), pytest.raises((StoreUnavailable, Fenced)):
        await writer.run()
    assert log.attempts > 0
    assert delivered.times == 0


class Held:
    """Whether the worker may believe that it is alive for the others."""

    def __init__(self, *, held: bool) -> None:
        self.held = held
        self.asked = 0

    def __call__(self) -> bool:
        self.asked += 1
        return self.held

    async def was_asked(self, times: int) -> None:
        while self.asked < times:
            await anyio.lowlevel.checkpoint()


async def test_a_worker_that_may_be_dead_for_the_others_waits_until_it_is_not(log: Log) -> None:
    held = Held(held=False)
    writer = EventWriter(log, LEASE, held=held)
    async with running(writer):
        writer.emit("c", text("a"))
        writer.emit("c", TurnFinished())
        await held.was_asked(3)
        assert log.attempts == 0
        held.held = True
        await writer.flush()
    assert [(e.id, e.event) for e in log.entries] == [("7-0", text("a")), ("7-1", TurnFinished())]


async def test_a_worker_that_stays_dead_for_the_others_gives_up_when_its_patience_ends(log: Log) -> None:
    held = Held(held=False)
    delivered = Delivered(log)
    writer = EventWriter(log, LEASE, held=held, deliver=delivered, patience=0.3)
    writer.emit("c", text("a"))
    with anyio.fail_after(5), pytest.raises(StoreUnavailable):
        await writer.run()
    assert held.asked > 1
    assert log.attempts == delivered.times == 0
    with pytest.raises(StoreUnavailable):
        await writer.flush()


async def test_each_attempt_asks_whether_the_worker_is_alive_for_the_others(log: Log) -> None:
    held = Held(held=True)
    writer = EventWriter(log, LEASE, held=held)
    log.away = True
    async with running(writer):
        writer.emit("c", text("a"))
        await log.tried(2)
        held.held = False
        attempts = log.attempts
        await held.was_asked(held.asked + 2)
        assert log.attempts == attempts
        log.away = False
        held.held = True
        await writer.flush()
    assert [entry.event for entry in log.entries] == [text("a")]


class Regain:
    """Makes the lease anew, or fails as told."""

    def __init__(self, log: Log, *errors: Exception) -> None:
        self._log = log
        self._errors = list(errors)
        self.times = 0

    async def __call__(self) -> None:
        self.times += 1
        assert self._log.forgotten, "nothing is to be regained"
        if self._errors:
            raise self._errors.pop(0)
        self._log.forgotten = False


async def test_what_a_store_has_forgotten_is_written_once_and_in_order_when_the_lease_is_regained(
    log: Log,
) -> None:
    regain, delivered = Regain(log), Delivered(log)
    writer = EventWriter(log, LEASE, regain=regain, deliver=delivered, interval=0)
    async with running(writer):
        for turn in range(3):
            log.forgotten = turn > 0
            writer.emit("c", text(f"{turn}"))
            writer.emit("c", TurnFinished(elapsed_ms=turn))
            await writer.flush()
    assert regain.times == 2
    events = [event for turn in range(3) for event in (text(f"{turn}"), TurnFinished(elapsed_ms=turn))]
    assert [entry.event for entry in log.entries] == events
    assert [entry.id for entry in log.entries] == [f"7-{n}" for n in range(6)]
    assert delivered.times == len(log.appends) == 3


async def test_a_writer_whose_lease_is_anothers_when_it_is_to_be_regained_ends_with_that(log: Log) -> None:
    regain, delivered = Regain(log, Fenced()), Delivered(log)
    writer = EventWriter(log, LEASE, regain=regain, deliver=delivered)
    log.forgotten = True
    writer.emit("c", text("a"))
    with anyio.fail_after(5), pytest.raises(Fenced):
        await writer.run()
    assert (log.attempts, regain.times, delivered.times) == (1, 1, 0)
    with pytest.raises(StoreUnavailable):
        await writer.flush()


async def test_a_writer_that_cannot_regain_a_lease_ends_as_forgotten(log: Log) -> None:
    writer = EventWriter(log, LEASE, patience=0)
    log.forgotten = True
    writer.emit("c", text("a"))
    with anyio.fail_after(5), pytest.raises(Forgotten):
        await writer.run()


async def test_an_outage_while_the_lease_is_regained_is_waited_out(log: Log) -> None:
    regain = Regain(log, StoreUnavailable(), StoreUnavailable())
    writer = EventWriter(log, LEASE, regain=regain)
    log.forgotten = True
    writer.emit("c", text("a"))
    async with running(writer):
        await writer.flush()
    assert regain.times == 3
    assert [entry.event for entry in log.entries] == [text("a")]


async def test_a_writer_regains_its_lease_in_a_store_that_has_lost_it(valkey_url: str, name: str) -> None:
    async with open_redis(valkey_url) as store, Redis.from_url(valkey_url) as client:
        lease = await store.leases.claim(name, "one", floor=0, seen=None)
        assert lease is not None

        async def regain() -> None:
            assert await store.leases.renew(lease, anew=True)

        writer = EventWriter(store.log, lease, regain=regain)
        async with running(writer):
            for part in "abc":
                await client.delete(owner_key(name))
                writer.emit("c", text(part))
                await writer.flush()
        assert [entry.event for entry in await store.log.read(name, START)] == [text(part) for part in "abc"]
        assert await store.leases.get(name) == lease


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
