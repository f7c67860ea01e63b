"""How much a server may answer: bodies with an end, events of a size, and so many a second."""

from __future__ import annotations

import math
import re
import time
from collections.abc import AsyncIterator
from typing import Any

import anyio
import httpx
import httpx2

from mcp_chat.exceptions import ServerUnavailable

MAX_BODY_BYTES = 8 * 1024 * 1024
AT_ONCE = 1000
"""Events that nobody is held up for."""

_ENDS = {
    "text/event-stream": re.compile(rb"\r\n\r\n|\n\n|\r\r"),
    "application/x-ndjson": re.compile(rb"\n"),
}


class AnswerTooLarge(ServerUnavailable, httpx2.SSEError, httpx2.StreamError):
    """The server's answer is too large, or it is compressed although we asked for a plain one."""

    # Errors of a stream, too: the mcp library then fails the one call with these words and keeps the
    # connection.
    code = "answer_too_large"
    retryable = False


class Pace:
    """Lets so many events through each second, after some at once; the others wait, and so does who sends."""

    def __init__(self, rate: float, *, at_once: int = AT_ONCE) -> None:
        self._rate = rate
        self._at_once = at_once
        self._due = 0.0

    async def keep(self, events: int) -> None:
        """Wait until so many more may come."""
        now = time.monotonic()
        self._due = max(self._due, now - self._at_once / self._rate) + events / self._rate
        if self._due > now:
            await anyio.sleep(self._due - now)


class Capped(httpx.AsyncByteStream, httpx2.AsyncByteStream):
    """A response body that ends with an error once it, or one event in it, is too large."""

    def __init__(
        self,
        stream: Any,
        *,
        max_total: float,
        max_event: float,
        ends: re.Pattern[bytes] | None,
        pace: Pace | None = None,
    ) -> None:
        self._pace = pace
        self._stream = stream
        self._max_total = max_total
        self._max_event = max_event
        self._ends = ends

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Yield the body."""
        total, event, tail = 0, 0, b""
        async for chunk in self._stream:
            text = tail + chunk
            total += len(chunk)
            places = self._places(text)
            largest, event = _events(len(text), places, event - len(tail))
            if self._pace:
                await self._pace.keep(sum(end > len(tail) for end in places))
            tail = text[-3:]
            if total > self._max_total or largest > self._max_event:
                raise AnswerTooLarge
            yield chunk

    def _places(self, text: bytes) -> list[int]:
        """Return where events end."""
        return [found.end() for found in self._ends.finditer(text)] if self._ends else []

    async def aclose(self) -> None:
        """Close the connection or give it back."""
        await self._stream.aclose()


def _events(length: int, places: list[int], before: int) -> tuple[int, int]:
    """Return the sizes of the largest and of the last event, so many bytes of which came before.

    Args:
        length: Of the text.
        places: Where events end in it.
    """
    largest = 0
    for end in places:
        largest = max(largest, before + end)
        before = -end
    last = before + length
    return max(largest, last), last


def capped(
    response: Any, accept: str, max_bytes: int, max_event: int | None = None, pace: Pace | None = None
) -> Capped:
    """Return a response's body; of a stream that was asked for, only each event is limited.

    Args:
        accept: What was asked for.
        max_bytes: Of a body, or of an event if nothing else is said.
        max_event: Of an event.
        pace: How quickly events may come.
    """
    kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    ends = _ENDS.get(kind) if response.is_success else None
    total: float = max_bytes
    if ends:  # who does not ask for events may read all of them before looking; models stream like that
        total = math.inf if kind in accept else 8 * max_bytes
    if response.headers.get("content-encoding", "identity").strip().lower() != "identity":
        total = 0  # how large it is, is known only when it is too late
    most = max_event if ends and max_event else max_bytes
    return Capped(response.stream, max_total=total, max_event=most, ends=ends, pace=pace)
