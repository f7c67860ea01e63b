"""What readers on this worker see of users' logs, whoever owns the users.

Entries reach a reader by three ways: handed over in memory by an owner on this worker, with the ring of
the log's bell, or by a read of the log, which is done once a second in any case. The ids tell each reader
whether something is missing; then it reads the log itself. So no way needs to be reliable but the log.
"""

from __future__ import annotations

import math
import re
import time
from collections import deque
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise

import anyio
import structlog
from anyio.abc import TaskGroup

from mcp_chat.events import Entry, follows, order
from mcp_chat.exceptions import StoreUnavailable
from mcp_chat.metrics import Metrics
from mcp_chat.stores.base import START, Bells, EventLog, log_bell

log = structlog.get_logger()

POLL = 1.0
PAGE = 1000
PLACE = re.compile(r"\d+-\d+")
LINGER = 10.0
"""Seconds for which a log's bell is listened to whose last reader has left: most come back."""
QUEUE = 512
"""Entries that wait for one reader; a slower one reads the log."""


@dataclass(frozen=True, slots=True)
class Gap:
    """Entries are missing: the log has lost them, or never had the reader's place."""


class Reader:
    """One reader's queue."""

    def __init__(self) -> None:
        self._queue: deque[Entry] = deque(maxlen=QUEUE)  # what falls out is found missing and read again
        self._news = anyio.Event()

    def put(self, entries: Sequence[Entry]) -> None:
        """Add entries."""
        self._queue.extend(entries)
        self._news.set()

    async def take(self, timeout: float) -> list[Entry]:
        """Return what has come; nothing after the time-out."""
        if not self._queue:
            self._news = anyio.Event()
            with anyio.move_on_after(timeout):
                await self._news.wait()
        found = list(self._queue)
        self._queue.clear()
        return found


class Watch:
    """The readers of one user's log, and how far it was heard for them."""

    def __init__(self, place: str) -> None:
        self.place = place
        self.readers: set[Reader] = set()
        self.scope = anyio.CancelScope()
        self.heard = time.monotonic()
        self.left = math.inf

    def tell(self, entries: Sequence[Entry]) -> None:
        """Hand entries on, as far as they are new."""
        self.heard = time.monotonic()
        fresh = [entry for entry in entries if order(entry.id) > order(self.place)]
        if fresh:
            self.place = fresh[-1].id
            for reader in self.readers:
                reader.put(fresh)


class Feed:
    """Follows logs for readers.

    Args:
        log: The logs.
        bells: Their bells.
        tasks: Runs the watching; outlives every reader.
        metrics: Counts readers and what they have missed.
    """

    def __init__(self, log: EventLog, bells: Bells, tasks: TaskGroup, metrics: Metrics) -> None:
        self._log = log
        self._bells = bells
        self._tasks = tasks
        self._metrics = metrics
        self._watches: dict[str, Watch] = {}

    def start(self) -> None:
        """Begin to look at all watched logs once a second."""
        self._tasks.start_soon(self._poll)

    def deliver(self, user: str, entries: Sequence[Entry]) -> None:
        """Take entries that an owner on this worker has just put into the log."""
        if watch := self._watches.get(user):
            watch.tell(entries)

    async def follow(self, user: str, after: str) -> AsyncGenerator[list[Entry] | Gap]:
        """Yield the entries behind a place as they come, without end; an empty list in a silent second.

        Whoever stops reading closes the generator.

        Raises:
            StoreUnavailable: The log cannot be read.
        """
        with self._metrics.reading(), self._reading(user, after) as (watch, reader):
            end = await self._log.end(user)  # asked when what comes behind it is heard already
            watch.place = min(watch.place, end, key=order) if len(watch.readers) > 1 else end
            place = min(after, end, key=order)  # one that is beyond the end is of a log that was lost
            missing, more = place != after, place != end
            while True:
                entries = await (self._log.read(user, place, limit=PAGE) if more else reader.take(POLL))
                fresh = [entry for entry in entries if order(entry.id) > order(place)]
                if fresh and not more and not unbroken(place, fresh):
                    fresh = await self._log.read(user, place, limit=PAGE) or fresh
                missing |= not unbroken(place, fresh) if fresh else more and order(place) < order(end)
                if missing:
                    self._metrics.log_gap()
                    yield Gap()
                if fresh or not entries:
                    yield fresh
                place = fresh[-1].id if fresh else place
                more, missing = len(fresh) >= PAGE, False

    @contextmanager
    def _reading(self, user: str, after: str) -> Iterator[tuple[Watch, Reader]]:
        reader = Reader()
        watch = self._watches.get(user)
        if watch is None:
            watch = self._watches[user] = Watch(after)
            self._tasks.start_soon(self._listen, user, watch)
        watch.readers.add(reader)
        watch.left = math.inf
        try:
            yield watch, reader
        finally:
            watch.readers.discard(reader)
            if not watch.readers:
                watch.left = time.monotonic()

    async def _listen(self, user: str, watch: Watch) -> None:
        """Hear the bell of a user's log; a ring without the entries makes for a read."""
        with watch.scope:
            async with self._bells.listen(log_bell(user)) as bell:
                await self._look({user: watch})  # what came before the bell hung
                while True:
                    if await bell.wait(60):
                        await self._hear(user, watch, bell.notes())

    async def _hear(self, user: str, watch: Watch, notes: Sequence[str]) -> None:
        if not watch.readers:
            return  # who comes next reads on where they are
        entries: list[Entry] = []
        for note in notes:
            if order(last_of(note)) > order(watch.place):  # an owner on this worker was faster
                entries += self._log.heard(user, note)
        fresh = [entry for entry in entries if order(entry.id) > order(watch.place)]
        if fresh and unbroken(watch.place, fresh):
            watch.tell(fresh)
        elif fresh or not notes or not all(notes):
            await self._look({user: watch})

    async def _poll(self) -> None:
        """Look at all logs from which nothing was heard: bells may fail."""
        while True:
            await anyio.sleep(POLL)
            silent = time.monotonic() - POLL
            for user, watch in list(self._watches.items()):
                if watch.left < time.monotonic() - LINGER:
                    watch.scope.cancel()
                    del self._watches[user]
            read = {user: watch for user, watch in self._watches.items() if watch.readers}
            await self._look({user: watch for user, watch in read.items() if watch.heard <= silent})

    async def _look(self, watches: dict[str, Watch]) -> None:
        try:
            found = await self._log.read_many({user: watch.place for user, watch in watches.items()})
        except StoreUnavailable:
            return  # looked at again in a second; readers find out for themselves
        for user, entries in found.items():
            watches[user].tell(entries)


def unbroken(place: str, entries: Sequence[Entry]) -> bool:
    """Tell whether nothing is missing between a place and the entries, nor among them."""
    if place != START and not follows(place, entries[0]):
        return False  # before the first place there is nothing to miss
    return all(follows(before.id, entry) for before, entry in pairwise(entries))


def last_of(note: str) -> str:
    """Return the id of the last entry that a ring carries, its last line but one; the start for another's."""
    *_, place, _ = ("", "", *note.rsplit("\n", 2))
    return place if PLACE.fullmatch(place) else START
