"""Sockets to servers that say a little at a time: what comes is handed over in portions.

A reader that is woken for every token of an answer does nothing else. After the first few portions of an
answer, which are handed over as they come, there are so many a second; its end never waits.
"""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
import ssl
from collections.abc import AsyncIterator, Iterable
from typing import Any, cast

import httpcore2

PORTION = 0.045
"""Seconds between two portions: just below what the writer of events collects text for."""

AT_ONCE = 8
"""Portions behind a request that are handed over as they come: the answer's head and its first words."""

ENOUGH, MOST = 32_768, 262_144
"""Bytes that are a portion in any case; and those after which the server has to wait."""

NEXT_ADDRESS = 2.0
"""Seconds after which the next address of a name is tried."""

_ENDS = (b"\r\n0\r\n\r\n", b"[DONE]")


class PatientStream(asyncio.Protocol, httpcore2.AsyncNetworkStream):
    """An open socket."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._come: list[bytes] = []
        self._size = 0
        self._portions = 0
        self._next = 0.0
        self._urgent = False
        self._waiting: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._over = False
        self._error: Exception | None = None
        self._writable = asyncio.Event()
        self._writable.set()

    # What asyncio tells

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin with this transport."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Keep what has come, and wake the reader if it is due."""
        self._come.append(data)
        self._size += len(data)
        self._urgent = self._urgent or self._size > ENOUGH or data.endswith(_ENDS[0]) or _ENDS[1] in data
        if self._size > MOST:
            self._transport.pause_reading()
        if self._waiting is None:
            return
        if self._is_due():
            self._wake()
        elif self._timer is None:
            self._timer = self._loop.call_at(self._next, self._wake)

    def eof_received(self) -> None:
        """Know that nothing more comes."""
        self._over = True
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        """Know that nothing comes and goes any more."""
        self._over, self._error = True, exc
        self._writable.set()
        self._wake()

    def pause_writing(self) -> None:
        """Let the writer wait."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """Let the writer go on."""
        self._writable.set()

    # What httpcore2 asks

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Return the next portion; nothing at the end."""
        while not (self._over or (self._come and self._is_due())):
            await self._wait(timeout)
        if not self._come and self._error:
            raise httpcore2.ReadError(str(self._error)) from self._error
        data = b"".join(self._come)
        rest = data[max_bytes:]
        self._come, self._size = [rest] if rest else [], len(rest)
        self._urgent = bool(rest)
        self._portions += 1
        self._next = self._loop.time() + PORTION
        if not self._over:
            self._transport.resume_reading()
        return data[:max_bytes] if rest else data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Send something; what it is answered with begins anew."""
        if self._over:
            raise httpcore2.WriteError("the connection is closed")
        self._portions = 0
        self._transport.write(buffer)
        if not self._writable.is_set():
            async with _within(timeout, httpcore2.WriteTimeout):
                await self._writable.wait()

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore2.AsyncNetworkStream:
        """Speak TLS from now on."""
        try:
            async with _within(timeout, httpcore2.ConnectTimeout):
                transport = await self._loop.start_tls(
                    self._transport, self, ssl_context, server_hostname=server_hostname
                )
        except (OSError, ssl.SSLError) as error:
            await self.aclose()
            raise httpcore2.ConnectError(str(error)) from error
        except BaseException:  # cancelled or not: a handshake that was begun is of no use
            await self.aclose()
            raise
        if transport is None:
            raise httpcore2.ConnectError("the connection was closed")
        self._transport = transport
        return self

    async def aclose(self) -> None:
        """Close it at once."""
        self._over = True
        self._stop_timer()
        self._transport.close()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(0)
        self._transport.abort()

    def get_extra_info(self, info: str) -> Any:
        """Tell what httpcore2 and the guard want to know of a socket."""
        match info:
            case "is_readable":
                return bool(self._come) or self._over or _is_readable(self._transport)
            case "server_addr":
                return self._transport.get_extra_info("socket").getpeername()
            case "client_addr":
                return self._transport.get_extra_info("sockname")
        return self._transport.get_extra_info(info)

    def _is_due(self) -> bool:
        return self._urgent or self._portions < AT_ONCE or self._loop.time() >= self._next

    def _wake(self) -> None:
        self._stop_timer()
        if self._waiting and not self._waiting.done():
            self._waiting.set_result(None)

    def _stop_timer(self) -> None:
        if self._timer:
            self._timer.cancel()
        self._timer = None

    async def _wait(self, timeout: float | None) -> None:
        self._waiting = self._loop.create_future()
        if self._come:
            self._timer = self._loop.call_at(self._next, self._wake)
        try:
            async with _within(timeout, httpcore2.ReadTimeout):
                await self._waiting
        finally:
            self._waiting = None
            self._stop_timer()


class PatientBackend(httpcore2.AsyncNetworkBackend):
    """Opens such sockets."""

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        """Dial the addresses of a host, one after the other."""
        try:
            async with _within(timeout, httpcore2.ConnectTimeout):
                stream = await _dialled(host, port)
        except OSError as error:
            raise httpcore2.ConnectError(str(error)) from error
        raw = stream.get_extra_info("socket")
        for option in socket_options or ():
            raw.setsockopt(*option)
        return stream

    async def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Iterable[Any] | None = None
    ) -> httpcore2.AsyncNetworkStream:
        """Refuse: no model server is behind one."""
        raise httpcore2.ConnectError("no such socket")

    async def sleep(self, seconds: float) -> None:
        """Wait between two attempts."""
        await asyncio.sleep(seconds)


async def _dialled(host: str, port: int) -> PatientStream:
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    *others, last = dict.fromkeys(str(each[4][0]) for each in found)
    for address in others:
        with contextlib.suppress(OSError):  # a time-out is one
            async with asyncio.timeout(NEXT_ADDRESS):
                return (await loop.create_connection(PatientStream, address, port))[1]
    return (await loop.create_connection(PatientStream, last, port))[1]


@contextlib.asynccontextmanager
async def _within(seconds: float | None, late: type[Exception]) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as error:
        raise late from error


def _is_readable(transport: asyncio.Transport) -> bool:
    """Tell whether something has come, such as the other side's good-bye, that the loop has not seen yet."""
    raw = transport.get_extra_info("socket")
    if raw is None or raw.fileno() < 0:
        return True
    poll = select.poll()
    poll.register(raw.fileno(), select.POLLIN)
    return bool(poll.poll(0))
