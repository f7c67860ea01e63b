"""Bringing what is in Redis under the newest key, while workers run.

What is changed by somebody meanwhile stays as they wrote it, and what expires goes on expiring.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from mcp_chat.exceptions import Unreadable
from mcp_chat.stores.client import Client, translated
from mcp_chat.stores.redis import IN_INBOX, IN_LOG, IN_WINDOW
from mcp_chat.stores.renewal import Renewal, Tally, key_of
from mcp_chat.stores.scripts import Argument, Scripts
from mcp_chat.vault import key_id_of

Found = Sequence[tuple[str, str]]
"""Places in a key, and what stands there."""
Fresh = Callable[[str, str, str], str | None]


class RedisSweep:
    """Goes through the users' keys. It looks for them with SCAN, which no worker ever does.

    Args:
        redis: A client with `decode_responses=True`.
        renewal: What becomes of values.
    """

    def __init__(self, redis: Client, renewal: Renewal) -> None:
        self._redis = redis
        self._renewal = renewal
        self._scripts = Scripts(redis)

    async def renew(self) -> Tally:
        """Go through all keys once."""
        tally = Tally()
        async for key, user in self._keys("user:config:"):
            fresh = self._fresh(self._renewal.secret, user, "config", await self._string(key), tally)
            await self._swap("swap", key, [part for _, *pair in fresh for part in pair], tally, len(fresh))
        async for key, user in self._keys("chat:history:"):
            fresh = self._fresh(self._renewal.text, user, IN_WINDOW, await self._list(key), tally)
            await self._swap(
                "swap_values", key, [part for _, *pair in fresh for part in pair], tally, len(fresh)
            )
        for prefix, name, renew in self._streams():
            async for key, user in self._keys(prefix):
                fresh = self._fresh(renew, user, name, await self._stream(key), tally)
                await self._swap(
                    "swap_entries", key, [part for each in fresh for part in each], tally, len(fresh)
                )
        return tally

    async def key_ids(self) -> Counter[str]:
        """Count the values by the names of their keys."""
        found: Counter[str] = Counter()
        async for key, _ in self._keys("user:config:"):
            found.update(key_id_of(value) or "" for _, value in await self._string(key))
        async for key, _ in self._keys("chat:history:"):
            found.update(key_of(value) for _, value in await self._list(key))
        async for key, _ in self._keys("chat:events:"):
            found.update(key_of(value.partition(" ")[2]) for _, value in await self._stream(key))
        async for key, user in self._keys("chat:inbox:"):
            for _, value in await self._stream(key):
                found += self._renewal.key_ids(user, IN_INBOX, value)
        return found

    def _streams(self) -> list[tuple[str, str, Fresh]]:
        return [
            ("chat:inbox:", IN_INBOX, self._renewal.command),
            ("chat:events:", IN_LOG, self._renewal.event),
        ]

    async def _keys(self, prefix: str) -> AsyncIterator[tuple[str, str]]:
        """Look for the keys of users, each with its user; a gateway's have no braces."""
        seen: set[str] = set()  # SCAN may tell one twice
        with translated():
            async for key in self._redis.scan_iter(match=f"{prefix}{{*}}*", count=1000):
                if (found := re.match(rf"{prefix}\{{([^}}]*)\}}", key)) and key not in seen:
                    seen.add(key)
                    yield key, found[1]

    async def _string(self, key: str) -> Found:
        with translated():
            value = await self._redis.get(key)
        return [] if value is None else [("", str(value))]

    async def _list(self, key: str) -> Found:
        """Return what is text; the rest is for whoever reads the window."""
        with translated():
            if await self._redis.type(key) != "list":
                return []
            values = await self._redis.execute_command("LRANGE", key, 0, -1, NEVER_DECODE=True)
        return [("", text) for value in values if (text := value.decode(errors="ignore")).encode() == value]

    async def _stream(self, key: str) -> Found:
        with translated():
            entries: Any = await self._redis.xrange(key)
        return [(str(place), str(value)) for place, fields in entries for value in fields.values()]

    def _fresh(
        self, renew: Fresh, user: str, name: str, found: Found, tally: Tally
    ) -> list[tuple[str, str, str]]:
        """Return place, old and new value of those that are to be changed."""
        changes = []
        for place, value in found:
            try:
                if (fresh := renew(user, name, value)) is not None:
                    changes.append((place, value, fresh))
            except Unreadable:
                tally.unreadable += 1
        return changes

    async def _swap(self, script: str, key: str, args: Sequence[Argument], tally: Tally, count: int) -> None:
        if not count:
            return
        done = int(await self._scripts.run(script, [key], args))
        tally.renewed += done
        tally.missed += count - done
