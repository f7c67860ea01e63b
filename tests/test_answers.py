"""How much a server may answer, whatever pieces it comes in."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx2
import pytest

from mcp_chat.answers import Pace, capped


class Counted(Pace):
    """A pace that holds nobody up, and counts."""

    def __init__(self) -> None:
        super().__init__(1.0)
        self.events = 0

    async def keep(self, events: int) -> None:
        self.events += events


class Pieces(httpx2.AsyncByteStream):
    """A body in pieces of one size."""

    def __init__(self, body: bytes, size: int) -> None:
        self._pieces = [body[n : n + size] for n in range(0, len(body), size)]

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self._pieces:
            yield piece


@pytest.mark.anyio
@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 7, 1000])
@pytest.mark.parametrize("end", [b"\n\n", b"\r\r", b"\r\n\r\n"])
async def test_each_event_counts_once_in_whatever_pieces_it_comes(end: bytes, size: int) -> None:
    pace = Counted()
    body = (b"data: x" + end) * 40
    headers = {"content-type": "text/event-stream"}
    response = httpx2.Response(200, headers=headers, stream=Pieces(body, size))
    read = b"".join([piece async for piece in capped(response, "text/event-stream", 1000, pace=pace)])
    assert read == body
    assert pace.events == 40
