"""Puts an owner's events into the user's log: one append in flight, small batches, in order."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from itertools import groupby

import anyio

from mcp_chat.events import Entry, Event, TextDelta, ThoughtDelta
from mcp_chat.exceptions import Forgotten, StoreUnavailable
from mcp_chat.stores.base import EventLog, Lease

Deliver = Callable[[str, Sequence[Entry]], None]


async def give_up() -> None:
    """Do nothing about a store that has lost its data.

    Raises:
        Forgotten: Always.
    """
    raise Forgotten


class EventWriter:
    """Collects events and appends them: pieces of text every `interval`, all else and a first piece at once.

    Args:
        log: Where they go.
        lease: Whose they are; its epoch and a counter make the ids.
        deliver: Takes what is in the log, for readers on this worker.
        held: Tells whether this worker may believe that it is alive for the others; until then it waits.
        regain: Makes the lease anew in a store that has lost its data, or raises `Fenced`.
        interval: Seconds between two appends of text, so that single tokens share one.
        patience: Seconds to go on trying when the store does not answer.
    """

    def __init__(
        self,
        log: EventLog,
        lease: Lease,
        *,
        deliver: Deliver = lambda user, entries: None,
        held: Callable[[], bool] = lambda: True,
        regain: Callable[[], Awaitable[None]] = give_up,
        interval: float = 0.05,
        patience: float = 5.0,
    ) -> None:
        self._log = log
        self._lease = lease
        self._deliver = deliver
        self._held = held
        self._regain = regain
        self._interval = interval
        self._patience = patience
        self._pending: list[tuple[str, Event]] = []
        self._n = -1
        self._emitted = 0
        self._written = 0
        self._work = anyio.Event()
        self._hurry = anyio.Event()
        self._progress = anyio.Event()
        self._talking: type[Event] | None = None
        self._stopped = False
        self._ttl: int | None = None

    def expire_in(self, ttl: int) -> None:
        """Let what the store has of the user expire so many seconds after the next entry."""
        self._ttl = ttl

    def emit(self, command_id: str, event: Event) -> None:
        """Take an event; it is in the log after the next `flush`."""
        if type(event) is not self._talking:
            self._hurry.set()
        self._talking = type(event) if isinstance(event, TextDelta | ThoughtDelta) else None
        self._pending.append((command_id, event))
        self._emitted += 1
        self._work.set()

    async def flush(self) -> None:
        """Wait until everything emitted so far is in the log.

        Raises:
            StoreUnavailable: The writer has given up.
        """
        target = self._emitted
        while self._written < target:
            if self._stopped:
                raise StoreUnavailable
            self._hurry.set()
            await self._progress.wait()

    async def run(self) -> None:
        """Write until cancelled.

        Raises:
            Fenced: A later owner has taken over.
            StoreUnavailable: The store did not answer within the writer's patience.
        """
        try:
            while True:
                await self._work.wait()
                self._work = anyio.Event()
                await self._write()
                with anyio.move_on_after(self._interval):
                    await self._hurry.wait()
        finally:
            self._stopped = True
            self._progress.set()

    async def _write(self) -> None:
        batch, self._pending = self._pending, []
        self._hurry = anyio.Event()  # whoever was in a hurry is in this batch
        await self._append(self._entries(batch))
        self._written += len(batch)
        self._progress.set()
        self._progress = anyio.Event()

    def _entries(self, batch: list[tuple[str, Event]]) -> list[Entry]:
        entries: list[Entry] = []
        for command_id, event in merged(batch):
            self._n += 1
            entries.append(Entry(id=f"{self._lease.epoch}-{self._n}", command_id=command_id, event=event))
        return entries

    async def _append(self, entries: list[Entry]) -> None:
        deadline = time.monotonic() + self._patience
        while True:
            try:
                if not self._held():
                    raise StoreUnavailable
                await self._put(entries)
                return self._deliver(self._lease.user, entries)
            except StoreUnavailable:
                if time.monotonic() > deadline:
                    raise
                await anyio.sleep(0.2)

    async def _put(self, entries: list[Entry]) -> None:
        try:
            await self._log.append(self._lease.user, self._lease.epoch, entries, ttl=self._ttl)
        except Forgotten:
            await self._regain()
            await self._log.append(self._lease.user, self._lease.epoch, entries, ttl=self._ttl)


def merged(batch: list[tuple[str, Event]]) -> list[tuple[str, Event]]:
    """Return the batch with neighbouring pieces of one turn's text, or of its thoughts, as one."""
    out: list[tuple[str, Event]] = []
    for (command_id, kind), some in groupby(batch, lambda each: (each[0], type(each[1]))):
        events = [event for _, event in some]
        if kind in (TextDelta, ThoughtDelta):
            text = "".join(event.text for event in events if isinstance(event, TextDelta | ThoughtDelta))
            events = [TextDelta(text=text) if kind is TextDelta else ThoughtDelta(text=text)]
        out += [(command_id, event) for event in events]
    return out
