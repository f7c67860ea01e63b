"""HTTP/1.1 by hand: a client and a server that cost next to nothing, so that what is measured is not they."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import orjson

Write = Callable[[bytes], None]
Answer = Callable[[dict[str, Any], Write], Awaitable[None]]


class Caller:
    """A connection that is kept, to one server, with the same headers each time.

    Args:
        url: The server.
        headers: Sent with each request.
    """

    def __init__(self, url: str, headers: Mapping[str, str]) -> None:
        parts = urlsplit(url)
        self._place = (parts.hostname or "127.0.0.1", parts.port or 80)
        fixed = {"host": f"{self._place[0]}:{self._place[1]}", "content-type": "application/json", **headers}
        self._headers = "".join(f"{name}: {value}\r\n" for name, value in fixed.items())
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End the connection."""
        if self._writer:
            self._writer.close()
            self._writer = None

    async def post(self, path: str, body: Any) -> tuple[int, bytes]:
        """Post and return the status and all of the answer."""
        status, pieces = await self.open(path, body)
        return status, b"".join([piece async for piece in pieces])

    async def open(self, path: str, body: Any) -> tuple[int, AsyncIterator[bytes]]:
        """Post and return the status and the answer as it comes, which must be read to its end."""
        content = json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\n{self._headers}content-length: {len(content)}\r\n\r\n"
        if self._writer is None or self._reader.at_eof():
            self._reader, self._writer = await asyncio.open_connection(*self._place)
        self._writer.write(head.encode() + content)
        answer = await self._reader.readuntil(b"\r\n\r\n")
        lines = answer.decode("latin-1").lower().split("\r\n")
        named = dict(line.split(": ", 1) for line in lines[1:] if ": " in line)
        if named.get("connection") == "close":
            return int(lines[0].split(" ")[1]), self._rest()
        length = named.get("content-length")
        pieces = self._chunks() if length is None else self._whole(int(length))
        return int(lines[0].split(" ")[1]), pieces

    async def _whole(self, length: int) -> AsyncIterator[bytes]:
        yield await self._reader.readexactly(length)

    async def _chunks(self) -> AsyncIterator[bytes]:
        while size := int(await self._reader.readline(), 16):
            yield (await self._reader.readexactly(size + 2))[:-2]
        await self._reader.readline()

    async def _rest(self) -> AsyncIterator[bytes]:
        while piece := await self._reader.read(65_536):
            yield piece
        self.close()


async def serve(answer: Answer, ready: Callable[[int], None]) -> None:
    """Serve until cancelled: each POST of JSON is answered by what `answer` writes, events or JSON.

    Args:
        answer: Takes the body, and writes chunks.
        ready: Is told the port.
    """
    server = await asyncio.start_server(lambda r, w: _converse(r, w, answer), "127.0.0.1", 0)
    ready(server.sockets[0].getsockname()[1])
    async with server:
        await server.serve_forever()


_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\ntransfer-encoding: chunked\r\n\r\n"


async def _converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answer: Answer) -> None:
    def write(chunk: bytes) -> None:
        writer.write(b"%x\r\n%b\r\n" % (len(chunk), chunk))

    try:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
            sent = orjson.loads(await reader.readexactly(length))
            writer.write(_HEAD % (b"text/event-stream" if sent.get("stream") else b"application/json"))
            await answer(sent, write)
            writer.write(b"0\r\n\r\n")
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()
