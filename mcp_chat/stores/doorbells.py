"""Doorbells between workers: publish and subscribe, on one server, on a cluster or behind Sentinels.

In a cluster every node hands on what any other is given, so one connection to any node hears all.
"""

from __future__ import annotations

import random
import secrets
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final, cast

import anyio
import structlog
from redis.asyncio import Connection, RedisCluster
from redis.asyncio.client import PubSub
from redis.exceptions import ConnectionError as ConnectionLost
from redis.exceptions import RedisClusterException, RedisError

from mcp_chat.exceptions import StoreUnavailable
from mcp_chat.stores.bells import LocalBell, LocalBells
from mcp_chat.stores.client import Client, mended, translated
from mcp_chat.stores.line import raise_if_ended

log = structlog.get_logger()

PAUSE: Final = 0.5
"""Seconds between the end of a connection and the next one."""
TRIAL_SECONDS: Final = 5.0
"""How often a bell of the worker's own is rung, to hear whether the connection still hears."""
TRIAL_LIMIT: Final = 3.0
"""Seconds within which it must be heard."""


class RedisBells:
    """Pub/sub over one connection a worker. Only `run` touches it: the client's object is for one task."""

    def __init__(self, redis: Client) -> None:
        self._redis = redis
        self._local = LocalBells()
        self._pubsub: PubSub | None = None
        self._node = ""
        self._wanted: Counter[str] = Counter()
        self._asked: set[str] = set()
        self._confirmed: set[str] = set()
        self._awaited: dict[str, anyio.Event] = {}
        self._hearing = anyio.CancelScope()
        self._deaf = False

    async def ring(self, name: str, note: str = "") -> None:
        """Ring a bell for all who listen, on any worker.

        Raises:
            StoreUnavailable: The server does not answer.
        """
        # redis-py would ask the node of the name's slot, which may be the one that died.
        anywhere = {"target_nodes": RedisCluster.RANDOM} if isinstance(self._redis, RedisCluster) else {}
        await self._publish(name, note, **anywhere)

    async def _publish(self, name: str, note: str, **where: Any) -> None:
        with translated():
            await self._redis.execute_command("PUBLISH", name, note, **where)

    @asynccontextmanager
    async def listen(self, name: str) -> AsyncIterator[LocalBell]:
        """Hear a bell within the block; while the server is away the bell stays silent."""
        async with self._local.listen(name) as bell:
            self._wanted[name] += 1
            try:
                await self._settle(name)
                yield bell
            finally:
                self._wanted -= Counter([name])
                self._hearing.cancel()

    async def _settle(self, name: str) -> None:
        """Wait until the server has confirmed, or cannot now: who waits for a bell also polls."""
        if name in self._confirmed:
            return
        confirmed = self._awaited.setdefault(name, anyio.Event())
        self._hearing.cancel()
        with anyio.move_on_after(1):
            await confirmed.wait()

    async def run(self) -> None:
        """Hand on the rings that arrive; subscribe anew after an outage. Ends by cancellation."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._try_out)
            while True:
                try:
                    with mended():
                        await self._serve(await self._open())
                except (RedisError, RedisClusterException, OSError) as error:
                    log.warning("bells.interrupted", error=type(error).__name__)
                await self.aclose()
                await anyio.sleep(PAUSE)

    async def aclose(self) -> None:
        """Close the connection."""
        self._asked.clear()
        self._confirmed.clear()
        self._confirm(*self._awaited)
        pubsub, self._pubsub = self._pubsub, None
        if pubsub:
            await pubsub.aclose()  # type: ignore[no-untyped-call]

    async def _open(self) -> PubSub:
        """Return a connection that is not open yet; in a cluster to another node than the last one."""
        self._deaf = False
        if isinstance(self._redis, RedisCluster):
            await self._redis.initialize()
            nodes = self._redis.get_nodes()
            node = random.choice([node for node in nodes if node.name != self._node] or nodes)  # noqa: S311
            self._node = node.name
            self._pubsub = self._redis.pubsub(node=node)
        else:
            self._pubsub = self._redis.pubsub()
        return self._pubsub

    async def _serve(self, pubsub: PubSub) -> None:
        while not self._deaf:
            await self._subscribe(pubsub)
            await self._hear(pubsub)
        raise ConnectionLost("it hears nothing any more")

    async def _subscribe(self, pubsub: PubSub) -> None:
        while self._asked != (wanted := set(self._wanted)):
            if more := wanted - self._asked:
                await pubsub.subscribe(*more)
                self._asked |= more
            if gone := self._asked - wanted:
                self._asked -= gone
                self._confirmed -= gone
                await pubsub.unsubscribe(*gone)

    async def _hear(self, pubsub: PubSub) -> None:
        """Wait a second for a ring; who wants other bells ends it earlier."""
        with anyio.CancelScope() as self._hearing:
            if not self._asked:
                await anyio.sleep_forever()
            message = await pubsub.get_message(timeout=1.0)
            if message:
                self._take(message)
            else:
                raise_if_ended(cast(Connection, pubsub.connection))

    def _take(self, message: dict[str, Any]) -> None:
        name = message["channel"]
        match message["type"]:
            case "message":
                self._local.ring_local(name, message["data"])
            case "subscribe" if name in self._asked:
                self._confirmed.add(name)
                self._confirm(name)

    def _confirm(self, *names: str) -> None:
        for name in names:
            if event := self._awaited.pop(name, None):
                event.set()

    async def _try_out(self) -> None:
        """Ring a bell of one's own now and then.

        A connection may be open and hear nothing: its far side hangs, or was cut off from the others.
        """
        name = f"worker:bell:{secrets.token_hex(8)}"
        while True:
            await anyio.sleep(TRIAL_SECONDS)
            before = self._pubsub
            if self._wanted and before and not await self._hears(name) and self._pubsub is before:
                self._deaf = True
                self._hearing.cancel()

    async def _hears(self, name: str) -> bool:
        """Whether a bell is heard; also when it could not be rung."""
        async with self.listen(name) as bell:
            try:
                await self._publish(name, "", **self._elsewhere())
            except StoreUnavailable:
                return True
            return await bell.wait(TRIAL_LIMIT)

    def _elsewhere(self) -> dict[str, Any]:
        """In a cluster: not the node that is listened to, which would answer for itself."""
        if isinstance(self._redis, RedisCluster):
            others = [node for node in self._redis.get_primaries() if node.name != self._node]
            if others:
                return {"target_nodes": random.choice(others)}  # noqa: S311
        return {}
