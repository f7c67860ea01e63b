"""Which worker serves whom: exactly one owns a user. The epoch makes it safe, the heartbeat makes it live."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import math
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Literal

import anyio
import structlog
from anyio.abc import TaskGroup, TaskStatus

from mcp_chat.actor import Actor
from mcp_chat.exceptions import ChatError, Fenced, Forgotten, StoreUnavailable
from mcp_chat.heart import BEAT_TTL, Heartbeat
from mcp_chat.message import new_id
from mcp_chat.metrics import Claim, Release
from mcp_chat.stores.base import Lease
from mcp_chat.workshop import Workshop

log = structlog.get_logger()

LOOK_EVERY = 1.0
RENEW_EVERY = 5.0
NEGLECT = 5.0
"""Seconds after which an accepted command that has not ended makes somebody look after its user."""

HEIR_LEAD = 1.0
"""Seconds that a dead worker's chosen heir has before the other survivors look."""

TAKEOVERS = 20
"""Users that one worker takes over at the same time."""

DEATHS = "workers:bell"


class Ownership:
    """This worker's part: says that it is alive, claims users nobody serves, runs their actors.

    Args:
        workshop: What the actors work with.
        heart: Says that this worker is alive.
        tasks: Runs the actors; outlives every request.
        lock_ttl: Seconds until the gate for claiming a user opens by itself.
        lock_retries: Attempts to get through the gate.
        lock_wait: Seconds between two attempts.
    """

    def __init__(
        self,
        workshop: Workshop,
        heart: Heartbeat,
        tasks: TaskGroup,
        *,
        lock_ttl: float = 30,
        lock_retries: int = 10,
        lock_wait: float = 0.2,
    ) -> None:
        self.worker = heart.worker
        self._shop = workshop
        self._store = workshop.store
        self._heart = heart
        heart.full = lambda: workshop.full
        self._tasks = tasks
        self._lock_ttl = lock_ttl
        self._lock_retries = lock_retries
        self._lock_wait = lock_wait
        self._actors: dict[str, Actor] = {}
        self._takeovers = anyio.CapacityLimiter(TAKEOVERS)
        self._burying: set[str] = set()
        self._late = math.inf
        self.leaving = False

    async def start(self) -> None:
        """Listen for others, and only then announce this worker: whoever knows of it may ring."""
        await self._tasks.start(self._listen)
        await self._tasks.start(self._listen_for_deaths)
        await self._heart.start()
        self._tasks.start_soon(self._look)
        self._tasks.start_soon(self._renew)

    async def hand_over(self, user: str) -> None:
        """Have the inbox looked at in which there is something new; whoever waits for it wakes again."""
        if (actor := self._actors.get(user)) and not self.leaving:
            return actor.ring()  # if it is not the owner any more, it sees that itself
        return await self.wake(user)

    async def wake(self, user: str, why: Claim = "message") -> None:
        """Make sure that somebody serves the user and looks at the inbox now."""
        lease = await self._store.leases.get(user)
        if lease and lease.worker == self.worker:
            actor = self._actors.get(user)
            if actor and actor.lease == lease:
                return actor.ring()
        elif lease and await self._store.leases.alive(lease.worker):
            return await self._store.bells.ring(bell_of(lease.worker), user)
        if not self.leaving:
            await self._take(user, lease, why)
        return None

    async def has_room(self, user: str) -> bool:
        """Tell whether the worker that serves the user, or is about to, takes a further turn now.

        What another worker has said may be a second old; what comes in between waits there for a place.
        """
        if user not in self._actors:
            lease = await self._store.leases.get(user)
            if lease and lease.worker not in ("", self.worker):
                return not await self._store.leases.full(lease.worker)
        return not self._shop.full

    @property
    def late(self) -> bool:
        """Whether this worker stops and the time for turns to end is over."""
        return time.monotonic() > self._late

    def gone_for(self, user: str) -> bool:
        """Whether this worker stops and somebody else serves the user."""
        return self.leaving and user not in self._actors

    async def stop(self, grace: float) -> None:
        """Let turns end, close everything, and give the leases up."""
        self.leaving = True
        self._late = time.monotonic() + grace
        self._heart.taking = False
        with anyio.move_on_after(1), contextlib.suppress(StoreUnavailable):
            await self._store.leases.beat(self.worker, BEAT_TTL, taking=False)
        with anyio.move_on_after(grace + 10):
            async with anyio.create_task_group() as leaving:
                for actor in list(self._actors.values()):
                    leaving.start_soon(actor.leave, grace)
        await self._heart.stop()
        with anyio.move_on_after(1), contextlib.suppress(StoreUnavailable):  # its heartbeat expires anyway
            await self._store.leases.forget(self.worker)

    async def hear_deaths(self, names: AsyncIterator[str]) -> None:
        """Take over from workers of this host as their master reports them dead."""
        async for worker in names:
            if worker != self.worker:
                log.info("worker.died", worker=worker)
                self._aside(self._report, worker)

    # Claims

    async def _take(self, user: str, seen: Lease | None, why: Claim) -> None:
        """Claim a user through the gate, so that several workers do not all draw an epoch."""
        token = f"{self.worker} {new_id()}"
        if not await self._enter(user, token):
            return
        try:
            lease = await self._store.leases.get(user)
            actor = self._actors.get(user)
            if lease and actor and actor.lease == lease:  # claimed here while this one waited
                actor.ring()
            elif lease == seen:
                await self._claim(user, seen, why)
        finally:
            with anyio.CancelScope(shield=True):
                await self._store.leases.unlock(user, token)

    async def _enter(self, user: str, token: str) -> bool:
        for attempt in range(self._lock_retries + 1):
            if await self._store.leases.lock(user, token, self._lock_ttl):
                return True
            await self._break_open(user)
            if attempt < self._lock_retries:
                await anyio.sleep(self._lock_wait)
        return False

    async def _break_open(self, user: str) -> None:
        """Open a gate that a worker has closed who has died behind it."""
        token = await self._store.leases.locked_by(user)
        if token and not await self._store.leases.alive(token.partition(" ")[0]):
            await self._store.leases.unlock(user, token)

    async def _claim(self, user: str, seen: Lease | None, why: Claim) -> None:
        taking = not self.leaving
        # The store may have forgotten that this worker is alive.
        beat = self._store.leases.beat(self.worker, BEAT_TTL, taking=taking, full=self._shop.full)
        epoch, _ = await asyncio.gather(self._draw(user, seen), beat)
        lease = await self._lease(user, seen, epoch)
        if lease is None:
            return
        if self.leaving:
            await self._store.leases.release(lease)
            await self._pass_on(user)
            return
        why = why if seen else "first"
        self._shop.metrics.user_claimed(why)
        log.info("user.claimed", user=user, epoch=lease.epoch, why=why, before=seen.worker if seen else "")
        actor = self._actors[user] = Actor(lease, self._shop)
        self._tasks.start_soon(self._run, actor)

    async def _lease(self, user: str, seen: Lease | None, epoch: int) -> Lease | None:
        """Take the lease with the highest epoch: a later one's may have been lost with the store's data."""
        while lease := await self._store.leases.claim(user, self.worker, floor=epoch, seen=seen):
            try:
                if await self._shop.is_latest(lease):
                    return lease
                seen, epoch = lease, await self._draw(user, lease)
            except StoreUnavailable:
                await self._store.leases.release(lease)
                raise
        return None

    async def _draw(self, user: str, seen: Lease | None) -> int:
        """Draw an epoch from the record; 0 stands for the store's clock."""
        if self._shop.archive is None:
            return 0
        # the clock only lifts a new database above what the store may remember
        least = max(seen.epoch + 1 if seen else 1, int(time.time() * 1000))
        return await self._shop.archive.next_epoch(user, least)

    async def _run(self, actor: Actor) -> None:
        try:
            with self._shop.metrics.owning():
                await actor.run()
        except Exception:  # a bug in one user's actor must not take the worker down
            log.exception("actor.crashed", user=actor.user)
            actor.why_left = "crash"
        finally:
            if self._actors.get(actor.user) is actor:
                del self._actors[actor.user]
            with anyio.CancelScope(shield=True), anyio.move_on_after(2):
                await self._release(actor.lease, why=actor.why_left)

    async def _release(self, lease: Lease, *, why: Release) -> None:
        """Give the lease up; what is left to do is somebody's to take up, at once or when they ask."""
        self._shop.metrics.user_released(why)
        log.info("user.released", user=lease.user, epoch=lease.epoch, why=why)
        try:
            await self._store.leases.release(lease)
            if why == "crash" or not await self._store.inbox.waits(lease.user):
                return
            if self.leaving:
                await self._pass_on(lease.user)
            else:
                await self.wake(lease.user)
        except StoreUnavailable:
            log.warning("lease.kept", user=lease.user)

    async def _pass_on(self, user: str) -> None:
        """Have another worker claim a user."""
        if heir := heir_of(user, await self._store.leases.workers()):
            await self._store.bells.ring(bell_of(heir), f"{user} handed-over")

    # Other workers

    def _aside(self, work: Callable[..., Awaitable[None]], *args: object) -> None:
        """Do something that nobody waits for; whatever becomes of it, this worker goes on."""
        self._tasks.start_soon(self._guarded, work, *args)

    async def _guarded(self, work: Callable[..., Awaitable[None]], *args: object) -> None:
        try:
            await work(*args)
        except Exception:  # the tasks of a worker share one group: an error would end them all
            log.exception("ownership.failed")

    async def _listen(self, *, task_status: TaskStatus[None]) -> None:
        async with self._store.bells.listen(bell_of(self.worker)) as bell:
            task_status.started()
            while True:
                await bell.wait(60)
                for note in set(bell.notes()):
                    user, _, handed = note.partition(" ")
                    why = "handover" if handed else "message"
                    self._aside(self._heard, user, why)  # a takeover keeps no other user waiting

    async def _heard(self, user: str, why: Claim = "message") -> None:
        try:
            if self.leaving and user not in self._actors:
                await self._pass_on(user)
            else:
                await self.wake(user, why)
        except StoreUnavailable:
            log.warning("bell.unheeded", user=user)

    async def _listen_for_deaths(self, *, task_status: TaskStatus[None]) -> None:
        async with self._store.bells.listen(DEATHS) as bell:
            task_status.started()
            while True:
                await bell.wait(60)
                for worker in set(bell.notes()):
                    self._aside(self._bury, worker, "death")

    async def _report(self, worker: str) -> None:
        """Tell the workers of all hosts of a death; those who do not hear find the worker silent."""
        try:
            if not await self._store.leases.expire(worker):
                return  # it has left in good order
            self._shop.metrics.worker_buried("exit")
            await self._store.bells.ring(DEATHS, worker)
        except StoreUnavailable:
            log.warning("death.unreported", worker=worker)

    async def _bury(self, worker: str, why: Literal["death", "silence"]) -> None:
        """Take over this worker's share of a dead one's users, and forget it when all have been looked at."""
        if worker in self._burying:
            return
        self._burying.add(worker)
        log.info("worker.buried", worker=worker, why=why)
        try:
            leases = self._store.leases
            users, heirs = await asyncio.gather(leases.users(worker), leases.workers())
            async with anyio.create_task_group() as takeovers:
                takeovers.start_soon(anyio.sleep, HEIR_LEAD + LOOK_EVERY)  # the others are to find it, too
                for user in users:
                    takeovers.start_soon(self._inherit, user, worker, heirs, why)
            await leases.forget(worker)
        except StoreUnavailable:
            log.warning("worker.unburied", worker=worker)
        finally:
            self._burying.discard(worker)

    async def _inherit(self, user: str, worker: str, heirs: Sequence[str], why: Claim) -> None:
        if heir_of(user, heirs) != self.worker:
            await anyio.sleep(HEIR_LEAD)
        async with self._takeovers:
            with contextlib.suppress(StoreUnavailable):  # looked at again when it is neglected
                lease = await self._store.leases.get(user)
                if lease and lease.worker == worker and await self._store.inbox.waits(user):
                    await self.wake(user, why)

    async def _look(self) -> None:
        """Look for workers that have fallen silent, and now and then for users whom nobody looks after."""
        looked = time.monotonic()
        while True:
            await anyio.sleep(LOOK_EVERY)
            try:
                for worker in await self._store.leases.silent():
                    if worker != self.worker and worker not in self._burying:
                        self._shop.metrics.worker_buried("silence")
                        self._aside(self._bury, worker, "silence")
                if time.monotonic() - looked > NEGLECT:
                    looked = time.monotonic() + random.random()  # noqa: S311 - to spread the workers
                    await self._look_after_neglected()
            except ChatError as error:
                log.warning("workers.unseen", error=error.code)
            except Exception:  # it is the last look otherwise
                log.exception("workers.unseen")

    async def _look_after_neglected(self) -> None:
        """Wake those who have commands that nobody has taken up: the store may have lost them."""
        if self._shop.archive is None or self.leaving:
            return
        for user in await self._shop.archive.neglected(seconds=NEGLECT):
            if actor := self._actors.get(user):
                actor.check()
            else:
                self._aside(self._heard, user, "neglect")

    async def _renew(self) -> None:
        """Renew all leases: the store may have lost them, and then somebody else may have claimed a user."""
        while True:
            await anyio.sleep(RENEW_EVERY)
            for actor in list(self._actors.values()):
                try:
                    await self._keep(actor)
                except StoreUnavailable:
                    break
                except Exception:  # one user's lease must not end the keeping of all others
                    log.exception("lease.not_renewed", user=actor.user)

    async def _keep(self, actor: Actor) -> None:
        try:
            if self._actors.get(actor.user) is not actor:
                return  # it has just left
            if not await self._store.leases.renew(actor.lease) and self._actors.get(actor.user) is actor:
                actor.fence("lease")
        except Forgotten:
            await self._regain(actor)

    async def _regain(self, actor: Actor) -> None:
        try:
            await actor.regain()
        except Fenced:
            actor.fence("lease")


def bell_of(worker: str) -> str:
    """The bell on which a worker hears that one of its users has a command."""
    return f"worker:bell:{worker}"


def heir_of(user: str, workers: Sequence[str]) -> str | None:
    """Return the worker that takes a user over: each knows which, and they share the load."""
    return max(workers, key=lambda worker: hashlib.sha256(f"{worker} {user}".encode()).digest(), default=None)
