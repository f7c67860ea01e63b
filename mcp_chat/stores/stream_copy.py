"""A copy of a stream that takes its place: nothing in a stream can be changed, and a long one takes time."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

from mcp_chat.exceptions import Unreadable
from mcp_chat.stores.client import Client, translated
from mcp_chat.stores.scripts import Scripts

PORTION, PORTION_SIZE = 200, 1_000_000
"""Entries, and bytes of them, that are read or written at a time: Redis serves nobody else meanwhile."""
LIVES = 600
"""Seconds after which a copy is gone that nobody finished."""

Entry = tuple[bytes, bytes]
"""An entry's id and its field."""


class StreamCopy:
    """The entries of a stream, and a copy of it in the same slot of a cluster.

    Args:
        redis: A client with `decode_responses=True`.
        scripts: Those that write the copy.
        key: The stream; each of its entries has one field.
        user: Whose it is.
    """

    def __init__(self, redis: Client, scripts: Scripts, key: str, user: str) -> None:
        self._redis = redis
        self._scripts = scripts
        self._key = key
        self._copy = f"chat:renewed:{{{user}}}:{secrets.token_hex(8)}"
        self._last: bytes = b"0-0"

    async def portions(self) -> AsyncIterator[tuple[list[Entry], list[bytes]]]:
        """Yield the entries and their values, portion by portion, up to where the stream ends by then.

        Raises:
            Unreadable: One of them has not one field: nobody here wrote this stream.
        """
        after = b"-"
        while rows := await self._read(after):
            after = b"(" + rows[-1][0]
            for portion in _sized([(id_, *_only(fields)) for id_, fields in rows]):
                yield [(id_, name) for id_, name, _ in portion], [value for *_, value in portion]

    async def _read(self, begin: bytes) -> list[tuple[bytes, Any]]:
        with translated():
            found = await self._redis.execute_command(
                "XRANGE", self._key, begin, "+", "COUNT", PORTION, NEVER_DECODE=True
            )
        return list(found or ())

    async def add(self, entries: Sequence[Entry], values: Sequence[bytes]) -> None:
        """Add entries to the copy, in order."""
        args = [
            part for (id_, name), value in zip(entries, values, strict=True) for part in (id_, name, value)
        ]
        await self._scripts.run("copy_entries", [self._copy], [LIVES, *args])
        self._last = entries[-1][0]

    async def take_its_place(self) -> bool:
        """Put the copy in the place of the stream; False if that has lost some entries meanwhile."""
        return bool(await self._scripts.run("swap_stream", [self._key, self._copy], [self._last, PORTION]))


def _only(fields: dict[bytes, bytes]) -> tuple[bytes, bytes]:
    """Return the name and the value of an entry's only field."""
    if len(fields) != 1:
        raise Unreadable
    return next(iter(fields.items()))


def _sized(rows: Sequence[tuple[bytes, bytes, bytes]]) -> Iterator[Sequence[tuple[bytes, bytes, bytes]]]:
    begin = size = 0
    for n, (*_, value) in enumerate(rows):
        size += len(value)
        if n > begin and size > PORTION_SIZE:
            yield rows[begin:n]
            begin, size = n, len(value)
    yield rows[begin:]
