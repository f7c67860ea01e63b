"""The worker's heartbeat: while it goes on, nobody else takes the worker's users.

It must stop when the event loop hangs, because then nobody is served, and it must not stop because the
loop is busy or another store's connections are. Hence a thread with a loop and a connection of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager
from typing import Protocol

import structlog

from mcp_chat.exceptions import StoreUnavailable
from mcp_chat.stores.base import Leases

log = structlog.get_logger()

BEAT_EVERY = 1.0
BEAT_TTL = 5.0
STUCK = 3.0
"""Seconds without a tick after which the event loop counts as hung."""

TICK_EVERY = 0.25
START_LIMIT = 5.0
STOP_LIMIT = 2.0

Clock = Callable[[], float]


class Heartbeat(Protocol):
    """Says again and again that a worker is alive.

    Attributes:
        worker: This worker's id, which no other process has.
        taking: Whether it takes users.
        full: Tells whether it takes no further turns; asked from any thread.
    """

    worker: str
    taking: bool
    full: Callable[[], bool]

    @property
    def renewed(self) -> float:
        """When the last beat that arrived was sent: from then on the store counts, at the earliest."""
        ...

    def beats(self, within: float) -> bool:
        """Tell whether the last beat that arrived was sent within so many seconds."""
        ...

    async def start(self) -> None:
        """Beat from now on."""
        ...

    async def stop(self) -> None:
        """Beat no more."""
        ...


class Pulse:
    """Sends beats, and remembers and reports how they fared.

    Args:
        worker: Whose they are.
        every: Seconds from one beat to the next; one that takes half as long again is given up, and in an
            outage, when a connection must be made first, one that takes two and a half times as long.
        ttl: Seconds that a beat counts in the store.
        clock: Of `renewed`.
    """

    def __init__(self, worker: str, *, every: float, ttl: float, clock: Clock) -> None:
        self.renewed = -math.inf
        self.taking = True
        self.full: Callable[[], bool] = lambda: False
        self._worker = worker
        self._every = every
        self._ttl = ttl
        self._clock = clock
        self._missing = False
        self._patience = START_LIMIT

    def beats(self, within: float) -> bool:
        """Tell whether the last beat that arrived was sent within so many seconds."""
        return self._clock() - self.renewed < within

    async def beat(self, leases: Leases) -> None:
        """Beat once.

        Raises:
            StoreUnavailable: It did not arrive, or nobody knows.
        """
        sent = self._clock()  # before it goes out: the store counts from some later moment
        try:
            async with asyncio.timeout(self._patience):
                await leases.beat(self._worker, self._ttl, taking=self.taking, full=self.full())
        except TimeoutError:
            raise StoreUnavailable from None
        self.renewed = sent
        self._patience = 1.5 * self._every
        if self._missing:
            self._missing = False
            log.info("beat.back", worker=self._worker)

    def miss(self, why: str) -> None:
        """Report an outage, once."""
        self._patience = 2.5 * self._every
        if not self._missing:
            self._missing = True
            log.warning("beat.missed", worker=self._worker, why=why)

    async def go_on(self, leases: Leases, hung: Callable[[], bool]) -> None:
        """Beat until cancelled, but not while something hangs.

        Beats are counted from one departure to the next, so that one that is given up costs no pause on top.
        """
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + self._every
            if hung():
                self.miss("the event loop hangs")
                due = loop.time() + min(TICK_EVERY, self._every)
            else:
                await self.attempt(leases)
            await asyncio.sleep(due - loop.time())

    async def attempt(self, leases: Leases) -> None:
        """Beat once, and report it if it did not arrive."""
        try:
            await self.beat(leases)
        except StoreUnavailable:
            self.miss("the store does not answer")
        except Exception:  # noqa: BLE001 - no error may be the last beat of a worker that serves users
            self.miss("a beat failed")


class Beating:
    """What is known of a worker's beats."""

    _pulse: Pulse

    @property
    def taking(self) -> bool:
        """Whether the worker takes users."""
        return self._pulse.taking

    @taking.setter
    def taking(self, taking: bool) -> None:
        self._pulse.taking = taking

    @property
    def full(self) -> Callable[[], bool]:
        """Tells whether the worker takes no further turns."""
        return self._pulse.full

    @full.setter
    def full(self, full: Callable[[], bool]) -> None:
        self._pulse.full = full

    @property
    def renewed(self) -> float:
        """When the last beat that arrived was sent: from then on the store counts, at the earliest."""
        return self._pulse.renewed

    def beats(self, within: float) -> bool:
        """Tell whether the last beat that arrived was sent within so many seconds."""
        return self._pulse.beats(within)


class Heart(Beating):
    """Beats from a daemon thread as long as the event loop ticks in which it was started.

    Args:
        worker: This worker's id.
        open_leases: Opens a connection of the heart's own; called and closed in its thread.
        every: Seconds from one beat to the next.
        ttl: Seconds that a beat counts in the store.
        stuck: Seconds without a tick after which it stops beating, until the next tick.
        clock: Asked from both threads.
    """

    def __init__(
        self,
        worker: str,
        open_leases: Callable[[], AbstractAsyncContextManager[Leases]],
        *,
        every: float = BEAT_EVERY,
        ttl: float = BEAT_TTL,
        stuck: float = STUCK,
        clock: Clock = time.monotonic,
    ) -> None:
        self._open = open_leases
        self._stuck = stuck
        self._clock = clock
        self.worker = worker
        self._pulse = Pulse(worker, every=every, ttl=ttl, clock=clock)
        self._ticked = -math.inf
        self._next: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._thread = threading.Thread(target=self._run, name="heart", daemon=True)
        self._first: Future[Exception | None] = Future()
        self._ended: Future[None] = Future()

    async def start(self) -> None:
        """Beat for the first time, and go on: a store that is away is tried again.

        Raises:
            SettingsError: There can be no such store.
        """
        self._tick()
        self._loop = asyncio.new_event_loop()
        self._task = self._loop.create_task(self._beat())
        self._thread.start()
        try:
            # not `wait_for`, which would cancel what the thread is about to set
            await asyncio.wait([asyncio.wrap_future(self._first)], timeout=START_LIMIT)
            if self._first.done() and (error := self._first.result()):
                raise error
        except BaseException:
            self._end()
            raise

    async def stop(self) -> None:
        """Beat no more; a thread that does not end in time is left to end with the process."""
        if self._task is not None:
            self._end()
            await asyncio.wait([asyncio.wrap_future(self._ended)], timeout=STOP_LIMIT)
            if self._ended.done():
                self._thread.join()

    def _tick(self) -> None:
        self._ticked = self._clock()
        self._next = asyncio.get_running_loop().call_later(TICK_EVERY, self._tick)

    def _hung(self) -> bool:
        return self._clock() - self._ticked > self._stuck

    def _end(self) -> None:
        assert self._loop is not None
        assert self._task is not None
        assert self._next is not None
        self._next.cancel()
        with contextlib.suppress(RuntimeError):  # its loop is closed: it has ended already
            self._loop.call_soon_threadsafe(self._task.cancel)

    def _run(self) -> None:
        """The thread."""
        assert self._loop is not None
        assert self._task is not None
        try:
            with contextlib.suppress(asyncio.CancelledError):
                self._loop.run_until_complete(self._task)
        finally:
            self._loop.close()
            self._ended.set_result(None)

    async def _beat(self) -> None:
        try:
            async with self._open() as leases:
                await self._pulse.attempt(leases)
                self._first.set_result(None)
                await self._pulse.go_on(leases, self._hung)
        except Exception as error:  # noqa: BLE001 - `start` raises it, in the other thread
            if self._first.done():  # closing failed
                log.warning("heart.unclean", error=type(error).__name__)
            else:
                self._first.set_result(error)


class LoopHeart(Beating):
    """Beats in the event loop itself: for a store inside the process, which hangs when the loop does.

    Args:
        worker: This worker's id.
        leases: Where it beats.
        every: Seconds from one beat to the next.
        ttl: Seconds that a beat counts in the store.
        clock: Of `renewed`; pauses are the event loop's.
    """

    def __init__(
        self,
        worker: str,
        leases: Leases,
        *,
        every: float = BEAT_EVERY,
        ttl: float = BEAT_TTL,
        clock: Clock = time.monotonic,
    ) -> None:
        self._leases = leases
        self.worker = worker
        self._pulse = Pulse(worker, every=every, ttl=ttl, clock=clock)
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Beat for the first time, and go on: a store that is away is tried again."""
        await self._pulse.attempt(self._leases)
        self._task = asyncio.create_task(self._pulse.go_on(self._leases, lambda: False))

    async def stop(self) -> None:
        """Beat no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
