"""What goes wrong, at moments that the seed decides."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Awaitable, Callable, Sequence
from random import Random
from typing import Any, Final

import psutil
from redis.asyncio import Redis
from redis.exceptions import RedisError

from mcp_chat.heart import BEAT_TTL
from mcp_chat.stores.redis_branches import owner_key
from tests.chaos.journal import Fault, Journal, now
from tests.chaos.tail import Tail
from tests.chaos.world import World
from tests.installation import Installation

CALM: Final = (1.0, 6.0)
"""Seconds between two faults, least and most."""
READY_SECONDS: Final = 60.0

Deed = Callable[[], Awaitable[str]]


class Nemesis:
    """Breaks workers, Redis and the network between them.

    Args:
        wanted: Names of faults or of their kinds; empty for all.
        users: Whose owners are hit.
    """

    def __init__(
        self,
        installation: Installation,
        world: World,
        *,
        redis: Redis,
        tail: Tail,
        journal: Journal,
        random: Random,
        users: Sequence[str],
        wanted: Sequence[str] = (),
    ) -> None:
        self._installation = installation
        self._world = world
        self._redis = redis
        self._tail = tail
        self._journal = journal
        self._random = random
        self._users = users
        self._stopped: set[int] = set()
        self._master = installation.master().pid
        self._born = [worker.pid for worker in installation.workers()]
        self._count = len(self._born)
        self._one_weather = asyncio.Lock()
        self._deeds = self._chosen(wanted)

    async def run(self) -> None:
        """Break something now and then until cancelled; then let all be well again."""
        running: set[asyncio.Task[None]] = set()
        try:
            while self._deeds:
                await asyncio.sleep(self._random.uniform(*CALM))
                name = self._random.choice(list(self._deeds))
                running = {task for task in running if not task.done()}
                if len(running) < 2:  # two at once break what one alone does not
                    running.add(asyncio.create_task(self._do(name)))
        finally:
            await asyncio.shield(self._heal(running))

    async def _do(self, name: str) -> None:
        began = now()
        try:
            detail = await self._deeds[name]()
        except (RedisError, OSError, psutil.Error) as error:  # another fault was faster
            detail = f"in vain: {type(error).__name__}"
        self._journal.write(Fault(name=name, detail=detail, began=began, ended=now()))

    async def _heal(self, running: set[asyncio.Task[None]]) -> None:
        await asyncio.gather(*running)
        await self._world.weather("heal")
        for pid in list(self._stopped):
            self._continue(pid)
        await self._until_all_workers_are_there()

    def _chosen(self, wanted: Sequence[str]) -> dict[str, Deed]:
        kinds: dict[str, dict[str, Deed]] = {
            "kill": {"kill-owner": self._kill_owner, "kill-worker": self._kill_worker},
            "stop": {
                "stop-owner": self._stop_owner,
                "stop-worker": self._stop_worker,
                "bury-owner": self._bury_owner,
            },
            "reload": {"reload": self._reload},
            "redis": {
                "redis-restart": self._restart,
                "redis-lose": self._lose,
                "flushall": self._flush,
                "client-kill": self._client_kill,
                "client-pause": self._client_pause,
                "script-flush": self._script_flush,
            },
            "network": {
                "slow": self._slow,
                "cut": self._cut,
                "cut-one": self._cut_one,
                "hole": self._hole,
                "hole-one": self._hole_one,
            },
        }
        return {
            name: deed
            for kind, deeds in kinds.items()
            for name, deed in deeds.items()
            if not wanted or kind in wanted or name in wanted
        }

    # Workers

    async def _kill_worker(self) -> str:
        return self._kill(self._some_worker())

    async def _kill_owner(self) -> str:
        return self._kill(await self._some_owner())

    def _kill(self, pid: int) -> str:
        os.kill(pid, signal.SIGKILL)
        self._stopped.discard(pid)
        return f"process {pid}"

    async def _stop_worker(self) -> str:
        return await self._stop(self._some_worker())

    async def _stop_owner(self) -> str:
        return await self._stop(await self._some_owner())

    async def _bury_owner(self) -> str:
        """Stop an owner for so long that the others take it for dead, and let it come back."""
        return await self._stop(await self._some_owner(), BEAT_TTL + 2, BEAT_TTL + 4)

    async def _stop(self, pid: int, least: float = 2, most: float = 8) -> str:
        seconds = self._random.uniform(least, most)
        os.kill(pid, signal.SIGSTOP)
        self._stopped.add(pid)
        await asyncio.sleep(seconds)
        self._continue(pid)
        return f"process {pid} for {seconds:.1f} s"

    def _continue(self, pid: int) -> None:
        self._stopped.discard(pid)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)

    async def _reload(self) -> str:
        os.kill(self._master, signal.SIGHUP)
        await asyncio.sleep(self._random.uniform(4, 8))  # two generations at once are enough
        return ""

    async def _until_all_workers_are_there(self) -> None:
        async with asyncio.timeout(READY_SECONDS):
            while len(self._living()) < self._count:  # noqa: ASYNC110 - other processes tell nobody
                await asyncio.sleep(0.1)

    def _some_worker(self) -> int:
        awake = [pid for pid in self._living() if pid not in self._stopped]
        if not awake:
            raise ProcessLookupError
        return self._random.choice(awake)

    async def _some_owner(self) -> int:
        """Return the owner of some user, by its name: `host:master:age:random`, and ages count from 1."""
        worker = await self._redis.hget(owner_key(self._random.choice(self._users)), "worker")
        living = {name: pid for pid, name in self._ages().items()}
        age = int(str(worker).split(":")[-2]) if worker else 0
        return living.get(age) or self._some_worker()

    def _living(self) -> list[int]:
        return [worker.pid for worker in self._installation.workers()]

    def _ages(self) -> dict[int, int]:
        """Number the workers in the order in which they began, also those that are gone."""
        self._born += [pid for pid in self._living() if pid not in self._born]
        return {pid: age for age, pid in enumerate(self._born, 1)}

    # Redis

    async def _restart(self) -> str:
        await self._tail.look()
        self._world.valkey.restart(keep=True)
        return ""

    async def _lose(self) -> str:
        await self._tail.look_and_lose(("CLIENT", "PAUSE", 10_000))
        self._world.valkey.restart(keep=False)
        return ""

    async def _flush(self) -> str:
        await self._tail.look_and_lose(("FLUSHALL",))
        return ""

    async def _client_kill(self) -> str:
        return f"{await self._command('CLIENT', 'KILL', 'TYPE', 'normal')} connections"

    async def _client_pause(self) -> str:
        milliseconds = self._random.randrange(500, 3000)
        await self._command("CLIENT", "PAUSE", milliseconds)
        await asyncio.sleep(milliseconds / 1000)
        return f"{milliseconds} ms"

    async def _script_flush(self) -> str:
        await self._command("SCRIPT", "FLUSH")
        return ""

    async def _command(self, *words: str | int) -> Any:
        return await self._redis.execute_command(*words)  # type: ignore[no-untyped-call]

    # The network between the workers and Redis

    async def _slow(self) -> str:
        return await self._weather(f"delay {self._random.uniform(0.01, 0.1):.3f}", 1, 4)

    async def _cut(self) -> str:
        return await self._weather("cut", 0.2, 2)

    async def _cut_one(self) -> str:
        return await self._weather(f"cut {await self._some_owner()}", 1, 7)

    async def _hole(self) -> str:
        return await self._weather("hang", 0.5, 4)

    async def _hole_one(self) -> str:
        return await self._weather(f"hang {await self._some_owner()}", 2, 8)

    async def _weather(self, line: str, least: float, most: float) -> str:
        seconds = self._random.uniform(least, most)
        async with self._one_weather:
            await self._world.weather(line)
            await asyncio.sleep(seconds)
            await self._world.weather("heal")
        return f"{line} for {seconds:.1f} s"
