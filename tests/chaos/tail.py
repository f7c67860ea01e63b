"""Reads along in Redis: what is lost there, by trimming or by a fault, the journal still has."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Sequence
from typing import Any, Final

from redis.asyncio import Redis
from redis.asyncio.client import Pipeline
from redis.exceptions import RedisError

from mcp_chat.events import order
from mcp_chat.stores.redis_branches import owner_key
from tests.chaos.journal import Held, Journal, Logged, Lost

EVERY: Final = 0.05
BEGINNING: Final = "0-0"


class Tail:
    """Copies the users' logs and leases into a journal.

    Args:
        redis: Not through the network that the nemesis breaks.
        journal: Where the entries go, in the order in which they are found.
        users: Their keys.
    """

    def __init__(self, redis: Redis, journal: Journal, users: Sequence[str]) -> None:
        self._redis = redis
        self._journal = journal
        self._users = users
        self._places = dict.fromkeys(users, BEGINNING)
        self._leases: dict[str, tuple[str, str]] = {}
        self._one_at_a_time = asyncio.Lock()

    async def run(self) -> None:
        """Read until cancelled."""
        while True:
            with contextlib.suppress(RedisError, OSError):  # Redis is among what the nemesis breaks
                await self.look()
            await asyncio.sleep(EVERY)

    async def look(self) -> None:
        """Read what is new."""
        async with self._one_at_a_time, self._redis.pipeline(transaction=False) as pipeline:
            self._ask(pipeline)
            self._note(await pipeline.execute())

    async def look_and_lose(self, command: Sequence[Any]) -> None:
        """Read what is new and run a command that is the end of it all, with nothing in between."""
        async with self._one_at_a_time, self._redis.pipeline(transaction=True) as pipeline:
            self._ask(pipeline)
            pipeline.execute_command(*command)
            *found, _ = await pipeline.execute()
            self._note(found)
            self._journal.write(Lost())

    def _ask(self, pipeline: Pipeline) -> None:
        for user in self._users:
            key = f"chat:events:{{{user}}}"
            pipeline.hmget(owner_key(user), ["worker", "epoch"])
            pipeline.xrevrange(key, count=1)
            pipeline.xrange(key, min=f"({self._places[user]}")

    def _note(self, found: list[Any]) -> None:
        for user, lease, top, entries in zip(self._users, found[::3], found[1::3], found[2::3], strict=True):
            self._note_lease(user, lease[0], lease[1])
            if top and order(top[0][0]) < order(self._places[user]):
                self._places[user] = BEGINNING  # a new log, whose ids are below those of the old one
            for place, fields in entries:
                command, _, event = fields["e"].partition(" ")
                self._journal.write(Logged(user=user, id=place, command=command, event=json.loads(event)))
                self._places[user] = place

    def _note_lease(self, user: str, worker: str | None, epoch: str | None) -> None:
        if worker and epoch and self._leases.get(user) != (worker, epoch):
            self._leases[user] = (worker, epoch)
            self._journal.write(Held(user=user, epoch=int(epoch), worker=worker))
