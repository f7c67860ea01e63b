"""Bringing what is in Redis under the newest key, while workers run.

What is changed by somebody meanwhile stays as they wrote it, and what expires goes on expiring. Each step is
short, however much there is: Redis serves nobody else meanwhile.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from mcp_chat.exceptions import Unreadable
from mcp_chat.stores.client import Client, translated
from mcp_chat.stores.redis import IN_INBOX, IN_LOG
from mcp_chat.stores.redis_branches import IN_WINDOW
from mcp_chat.stores.redis_documents import KEPT, field_of_key
from mcp_chat.stores.renewal import PLAIN_TEXT, Renewal, Tally, key_of
from mcp_chat.stores.scripts import Scripts
from mcp_chat.stores.stream_copy import StreamCopy
from mcp_chat.vault import key_id_of

Values = Sequence[bytes]

PORTION = 200
"""Values of a list that are read at a time."""
SWAPPED = 50
"""Values of a list that are set at a time: each of them is looked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """Keys of users that hold sealed values.

    Attributes:
        prefix: What stands before the user.
        types: What they can be; a key of another type is nobody's, and left alone.
        field: What their values are sealed for, or how a key tells.
        fresh: Returns what becomes of a value of a user's in a field, or None.
        key_ids: Counts the keys that a value of a user's is under.
    """

    prefix: str
    types: tuple[str, ...]
    field: str | Callable[[str], str]
    fresh: Callable[[str, str, str], str | None]
    key_ids: Callable[[str, str], Counter[str]]

    def field_of(self, key: str) -> str:
        """Return what the values of a key are sealed for."""
        return self.field if isinstance(self.field, str) else self.field(key)


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
        for kind in self._kinds():
            async for key, user in self._keys(kind.prefix):
                try:
                    tally += await self._renew(kind, key, user)
                except Unreadable:
                    tally.unreadable += 1
        return tally

    async def key_ids(self) -> Counter[str]:
        """Count the values by the names of their keys; one that is none of ours counts as not sealed."""
        found: Counter[str] = Counter()
        for kind in self._kinds():
            async for key, user in self._keys(kind.prefix):
                try:
                    found += await self._counted(kind, key, user)
                except Unreadable:
                    found[PLAIN_TEXT] += 1
        return found

    async def _counted(self, kind: Keys, key: str, user: str) -> Counter[str]:
        found: Counter[str] = Counter()
        async for values in self._values(await self._type(kind, key), key):
            for value in values:
                found += kind.key_ids(user, value.decode(errors="replace"))
        return found

    def _kinds(self) -> list[Keys]:
        renewal = self._renewal

        def of_text(_user: str, value: str) -> Counter[str]:
            return Counter([key_of(value)])

        return [
            Keys(
                prefix="user:config:",
                types=("string",),
                field="config",
                fresh=renewal.secret,
                key_ids=lambda _, value: Counter([key_id_of(value) or PLAIN_TEXT]),
            ),
            Keys(
                prefix="chat:history:",
                types=("list",),
                field=IN_WINDOW,
                fresh=renewal.text,
                key_ids=of_text,
            ),
            Keys(
                prefix="chat:sides:",
                types=("string",),
                field=IN_WINDOW,
                fresh=renewal.text,
                key_ids=of_text,
            ),
            Keys(
                prefix="chat:aside:",
                types=("list", "string"),
                field=IN_WINDOW,
                fresh=renewal.text,
                key_ids=of_text,
            ),
            Keys(
                prefix="chat:inbox:",
                types=("stream",),
                field=IN_INBOX,
                fresh=renewal.command,
                key_ids=lambda user, value: renewal.key_ids(user, IN_INBOX, value),
            ),
            Keys(
                prefix="chat:events:",
                types=("stream",),
                field=IN_LOG,
                fresh=renewal.event,
                key_ids=lambda _, value: Counter([key_of(value.partition(" ")[2])]),
            ),
            Keys(
                prefix=KEPT,
                types=("string",),
                field=field_of_key,
                fresh=renewal.document,
                key_ids=lambda _, value: Counter([key_id_of(value.partition(" ")[2]) or PLAIN_TEXT]),
            ),
        ]

    async def _keys(self, prefix: str) -> AsyncIterator[tuple[str, str]]:
        """Look for the keys of users, each with its user; a gateway's have no braces."""
        seen: set[str] = set()  # SCAN may tell one twice
        with translated():
            async for key in self._redis.scan_iter(match=f"{prefix}{{*}}*", count=1000):
                if (found := re.match(rf"{prefix}\{{([^}}]*)\}}", key)) and key not in seen:
                    seen.add(key)
                    yield key, found[1]

    async def _renew(self, kind: Keys, key: str, user: str) -> Tally:
        if (type_ := await self._type(kind, key)) == "stream":
            return await self._renew_stream(kind, key, user)
        tally = Tally()
        async for values in self._values(type_, key):
            changes = self._fresh(kind, key, user, values, tally)
            stale = [(value, new) for value, new in zip(values, changes, strict=True) if new is not None]
            for begin in range(0, len(stale), SWAPPED):
                await self._swap(type_, key, stale[begin : begin + SWAPPED], tally)
        return tally

    def _fresh(self, kind: Keys, key: str, user: str, values: Values, tally: Tally) -> list[bytes | None]:
        """Return for each value what becomes of it, or None."""
        return [self._renewed(kind, key, user, value, tally) for value in values]

    def _renewed(self, kind: Keys, key: str, user: str, value: bytes, tally: Tally) -> bytes | None:
        try:
            fresh = kind.fresh(user, kind.field_of(key), value.decode())
        except (Unreadable, UnicodeDecodeError):
            tally.unreadable += 1
            return None
        return None if fresh is None else fresh.encode()

    async def _swap(self, type_: str, key: str, changes: Sequence[tuple[bytes, bytes]], tally: Tally) -> None:
        script = "swap" if type_ == "string" else "swap_values"
        done = int(await self._scripts.run(script, [key], [part for pair in changes for part in pair]))
        tally.renewed += done
        tally.missed += len(changes) - done

    async def _renew_stream(self, kind: Keys, key: str, user: str) -> Tally:
        """A stream cannot be changed: a copy takes its place, if something is to be."""
        copy = StreamCopy(self._redis, self._scripts, key, user)
        tally = Tally()
        async for _, values in copy.portions():
            if any(new is not None for new in self._fresh(kind, key, user, values, tally)):
                break
        else:
            return tally
        tally, changed = Tally(), 0
        async for entries, values in copy.portions():
            fresh = self._fresh(kind, key, user, values, tally)
            changed += sum(new is not None for new in fresh)
            await copy.add(entries, [new or old for new, old in zip(fresh, values, strict=True)])
        done = await copy.take_its_place()
        return tally + Tally(renewed=changed if done else 0, missed=0 if done else changed)

    async def _type(self, kind: Keys, key: str) -> str:
        """Return what a key is; "none" if it has expired.

        Raises:
            Unreadable: What none of ours is.
        """
        with translated():
            found = str(await self._redis.type(key))
        if found not in (*kind.types, "none"):
            raise Unreadable
        return found

    async def _values(self, type_: str, key: str) -> AsyncIterator[Values]:
        """Yield the values of a key, portion by portion, as bytes: they may be no text."""
        match type_:
            case "string":
                if (value := await self._raw("GET", key)) is not None:
                    yield [value]
            case "list":
                begin = 0
                while values := await self._raw("LRANGE", key, begin, begin + PORTION - 1):
                    yield values
                    begin += PORTION
            case "stream":
                async for _, values in StreamCopy(self._redis, self._scripts, key, "").portions():
                    yield values

    async def _raw(self, *command: Any) -> Any:
        with translated():
            return await self._redis.execute_command(*command, NEVER_DECODE=True)
