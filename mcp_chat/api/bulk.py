"""Requests that hold a lot in memory while they come or go: one user has few of them at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from mcp_chat.exceptions import TooManyRequests

AT_ONCE = 2
"""Uploads, imports and exports of one user at a time, in one worker."""
PIECE = 256 * 1024
RETRY_AFTER = 5.0


class Bulk:
    """Counts them."""

    def __init__(self) -> None:
        self._running: Counter[str] = Counter()

    @contextmanager
    def place(self, user: str) -> Iterator[None]:
        """Take one of a user's places for as long as the context lasts.

        Raises:
            TooManyRequests: There is none.
        """
        if self._running[user] >= AT_ONCE:
            raise TooManyRequests(
                f"{AT_ONCE} files or conversations of yours are on their way already. Wait for one of them.",
                retry_after=RETRY_AFTER,
            )
        self._running[user] += 1
        try:
            yield
        finally:
            self._running[user] -= 1
            if not self._running[user]:
                del self._running[user]


class BulkResponse(Response):
    """An answer that goes piece by piece, as it is read.

    Args:
        content: All of it.
        held: What is let go when it has gone, or cannot go.
    """

    def __init__(self, content: str, held: ExitStack, *, media_type: str, headers: dict[str, str]) -> None:
        super().__init__(content, media_type=media_type, headers=headers)
        self._held = held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        with self._held:
            start = {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
            await send(start)
            for begin in range(0, len(self.body), PIECE):
                piece = bytes(self.body[begin : begin + PIECE])
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
