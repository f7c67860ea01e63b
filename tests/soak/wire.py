"""A client's connection, as lean as it can be: one process is to load four workers."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from typing import Final

import httptools

AT_ONCE: Final = 65536
SILENCE: Final = 60.0
"""Seconds in which something must come."""


@dataclass(slots=True)
class Answer:
    """What came, whole or not.

    Attributes:
        status: 0 if nothing came.
    """

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytearray = field(default_factory=bytearray)
    complete: bool = False
    keep: bool = False


class _Reader:
    """What httptools calls while it parses."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self.parser = httptools.HttpResponseParser(self)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._answer.headers[name.decode().lower()] = value.decode()

    def on_headers_complete(self) -> None:
        self._answer.status = self.parser.get_status_code()
        self._answer.keep = self.parser.should_keep_alive()

    def on_body(self, body: bytes) -> None:
        self._answer.body += body

    def on_message_complete(self) -> None:
        self._answer.complete = True


class Wire:
    """A connection that is kept for the next request, and made anew when it is gone."""

    def __init__(self, host: str, port: int) -> None:
        self._host = host
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, request: bytes, answer: Answer, *, hang_up: int | None = None) -> Answer:
        """Send a request and fill in its answer.

        Args:
            hang_up: Bytes of the answer after which this side is gone.
        """
        kept = self._streams is not None
        try:
            await self._ask(request, answer, hang_up)
        except (OSError, EOFError):
            self.close()
            if kept and not answer.status:  # it was closed while nobody needed it
                return await self.ask(request, answer, hang_up=hang_up)
        except BaseException:
            self.close()
            raise
        return answer

    async def _ask(self, request: bytes, answer: Answer, hang_up: int | None) -> None:
        reader, writer = await self._open()
        parser = _Reader(answer).parser
        writer.write(request)
        taken = 0
        while not answer.complete:
            async with asyncio.timeout(SILENCE):
                data = await reader.read(AT_ONCE if hang_up is None else max(1, hang_up - taken))
            if not data:
                raise EOFError
            parser.feed_data(data)
            taken += len(data)
            if hang_up is not None and taken >= hang_up:
                return self.close()
        if not answer.keep:
            self.close()
        return None

    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._streams is None:
            self._streams = await asyncio.open_connection(self._host, self._port)
        return self._streams

    def close(self) -> None:
        """Hang up."""
        if self._streams is not None:
            with contextlib.suppress(OSError):
                self._streams[1].transport.abort()
            self._streams = None


def request(
    method: str, path: str, *, host: str, headers: dict[str, str] | None = None, body: bytes = b""
) -> bytes:
    """Return the bytes of a request."""
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host}"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    if body or method != "GET":
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, "", ""]).encode() + body
