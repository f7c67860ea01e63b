"""Which worker serves whom: exactly one owns a user. The epoch makes it safe, the heartbeat makes it live."""

from __future__ import annotations

import contextlib
import time

import anyio
import structlog
from anyio.abc import TaskGroup

from mcp_chat.actor import Actor, Workshop
from mcp_chat.exceptions import StoreUnavailable
from mcp_chat.message import new_id
from mcp_chat.stores.base import START, Lease

log = structlog.get_logger()

BEAT_EVERY = 1.0
BEAT_TTL = 5.0


class Ownership:
    """This worker's part: says that it is alive, claims users nobody serves, runs their actors.

    Args:
        worker: This worker's id, which no other process has.
        workshop: What the actors work with.
        tasks: Runs the actors; outlives every request.
        lock_ttl: Seconds until the gate for claiming a user opens by itself.
        lock_retries: Attempts to get through the gate.
        lock_wait: Seconds between two attempts.
    """

    def __init__(
        self,
        worker: str,
        workshop: Workshop,
        tasks: TaskGroup,
        *,
        lock_ttl: float = 30,
        lock_retries: int = 10,
        lock_wait: float = 0.2,
    ) -> None:
        self.worker = worker
        self._shop = workshop
        self._store = workshop.store
        self._tasks = tasks
        self._lock_ttl = lock_ttl
        self._lock_retries = lock_retries
        self._lock_wait = lock_wait
        self._actors: dict[str, Actor] = {}
        self.leaving = False

    async def start(self) -> None:
        """Announce this worker and listen for others."""
        await self._store.leases.beat(self.worker, BEAT_TTL)
        self._tasks.start_soon(self._beat)
        self._tasks.start_soon(self._listen)

    async def wake(self, user: str) -> None:
        """Make sure that somebody serves the user and looks at the inbox now."""
        lease = await self._store.leases.get(user)
        if lease and lease.worker == self.worker:
            actor = self._actors.get(user)
            if actor and actor.lease == lease:
                return actor.ring()
        elif lease and await self._store.leases.alive(lease.worker):
            return await self._store.bells.ring(bell_of(lease.worker), user)
        if not self.leaving:
            await self._take(user, lease)
        return None

    def gone_for(self, user: str) -> bool:
        """Whether this worker stops and somebody else serves the user."""
        return self.leaving and user not in self._actors

    async def stop(self, grace: float) -> None:
        """Let turns end, close everything, and give the leases up."""
        self.leaving = True
        with anyio.move_on_after(grace + 10):
            async with anyio.create_task_group() as leaving:
                for actor in list(self._actors.values()):
                    leaving.start_soon(actor.leave, grace)
        with anyio.move_on_after(1), contextlib.suppress(StoreUnavailable):  # its heartbeat expires anyway
            await self._store.leases.forget(self.worker)

    async def _take(self, user: str, seen: Lease | None) -> None:
        """Claim a user through the gate, so that several workers do not all draw an epoch."""
        token = new_id()
        if not await self._enter(user, token):
            return
        try:
            lease = await self._store.leases.get(user)
            actor = self._actors.get(user)
            if lease and actor and actor.lease == lease:  # claimed here while this one waited
                actor.ring()
            elif lease == seen:
                await self._claim(user, seen)
        finally:
            with anyio.CancelScope(shield=True):
                await self._store.leases.unlock(user, token)

    async def _enter(self, user: str, token: str) -> bool:
        for attempt in range(self._lock_retries + 1):
            if await self._store.leases.lock(user, token, self._lock_ttl):
                return True
            if attempt < self._lock_retries:
                await anyio.sleep(self._lock_wait)
        return False

    async def _claim(self, user: str, seen: Lease | None) -> None:
        epoch = 0  # the store's clock
        if self._shop.archive:  # the clock only lifts a new database above what the store may remember
            least = max(seen.epoch + 1 if seen else 1, int(time.time() * 1000))
            epoch = await self._shop.archive.next_epoch(user, least)
        await self._store.leases.beat(self.worker, BEAT_TTL)  # the store may have forgotten it
        lease = await self._store.leases.claim(user, self.worker, floor=epoch, seen=seen)
        if lease is None:
            return
        log.info("user.claimed", user=user, epoch=lease.epoch, before=seen.worker if seen else "")
        actor = self._actors[user] = Actor(lease, self._shop)
        self._tasks.start_soon(self._run, actor)

    async def _run(self, actor: Actor) -> None:
        crashed = False
        try:
            await actor.run()
        except Exception:  # a bug in one user's actor must not take the worker down
            log.exception("actor.crashed", user=actor.user)
            crashed = True
        finally:
            if self._actors.get(actor.user) is actor:
                del self._actors[actor.user]
            with anyio.CancelScope(shield=True), anyio.move_on_after(2):
                await self._release(actor.lease, wake=not (crashed or self.leaving))

    async def _release(self, lease: Lease, *, wake: bool) -> None:
        """Give the lease up; what came meanwhile is somebody's to take up, at once or when they ask."""
        try:
            await self._store.leases.release(lease)
            if wake and await self._store.inbox.read(lease.user, START):
                await self.wake(lease.user)
        except StoreUnavailable:
            log.warning("lease.kept", user=lease.user)

    async def _beat(self) -> None:
        while True:
            try:
                await self._store.leases.beat(self.worker, BEAT_TTL)
            except StoreUnavailable:
                log.warning("beat.missed", worker=self.worker)
            await anyio.sleep(BEAT_EVERY)

    async def _listen(self) -> None:
        async with self._store.bells.listen(bell_of(self.worker)) as bell:
            while True:
                await bell.wait(1.0)
                for user in bell.notes():
                    self._tasks.start_soon(self._heard, user)  # a takeover keeps no other user waiting

    async def _heard(self, user: str) -> None:
        try:
            await self.wake(user)
        except StoreUnavailable:
            log.warning("bell.unheeded", user=user)


def bell_of(worker: str) -> str:
    """The bell on which a worker hears that one of its users has a command."""
    return f"worker:bell:{worker}"
