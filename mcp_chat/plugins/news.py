"""What plugins that only listen have not been told yet."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import structlog

from mcp_chat.plugins.base import Occasion
from mcp_chat.tools import weight

log = structlog.get_logger()

MOST: Final = 1_000
"""Pieces of news that wait at most; of more, the oldest are never told."""

MOST_BYTES: Final = 4 * 2**20
"""Bytes of them, about."""


class Piece(NamedTuple):
    """Something that has happened.

    Attributes:
        hook: At which it is told.
        fields: Of the hook's payload.
    """

    hook: str
    fields: Mapping[str, Any]
    occasion: Occasion


class News:
    """A queue that forgets the oldest when plugins are too slow for it.

    Args:
        most: Pieces that wait at most.
        most_bytes: Bytes, about, that wait at most; a single piece may have more.
    """

    def __init__(self, most: int = MOST, most_bytes: int = MOST_BYTES) -> None:
        self._most = most
        self._most_bytes = most_bytes
        self._waiting: deque[tuple[Piece, int]] = deque()
        self._bytes = 0
        self._lost = 0

    def __bool__(self) -> bool:
        """Tell whether anything waits."""
        return bool(self._waiting)

    def add(self, piece: Piece) -> None:
        """Let a piece wait; say so, once until the queue is empty again, if others go for it."""
        size = weight(piece.fields)
        self._waiting.append((piece, size))
        self._bytes += size
        while len(self._waiting) > 1 and self._too_many():
            if not self._lost:
                log.warning("plugins.behind", hook=self._waiting[0][0].hook)
            self._next()
            self._lost += 1

    def take(self) -> Piece:
        """Return the oldest."""
        piece = self._next()
        if self._lost and not self._waiting:
            log.warning("plugins.caught_up", untold=self._lost)
            self._lost = 0
        return piece

    def _too_many(self) -> bool:
        return len(self._waiting) > self._most or self._bytes > self._most_bytes

    def _next(self) -> Piece:
        piece, size = self._waiting.popleft()
        self._bytes -= size
        return piece
