"""Sockets that outlive a request: each is lent to one request at a time, and kept when that has ended well.

All connections of a worker to stateless servers share the idle ones. A socket has no credentials: those are
headers of a request. What belongs to a session of a server is kept by the one who has the session.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import AsyncIterator, Hashable
from contextlib import suppress
from typing import Any

import anyio
import httpcore2
from httpcore2 import AsyncConnectionInterface, AsyncHTTPConnection, AsyncNetworkBackend

KEEP = 4.0
"""Seconds for which an idle socket is kept: less than most servers do, so that none is used as it closes."""

MOST, EACH, SHARE = 256, 32, 32
"""Idle sockets of a worker, of these to one place, and requests that one client has on their way."""

END_SECONDS, END_BYTES = 0.05, 65_536
"""What a server gets to end an answer of which nothing more is needed: then its socket can be kept."""

_ALIVE = [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)] + [
    (socket.IPPROTO_TCP, getattr(socket, name), value)
    for name, value in (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 4))
    if hasattr(socket, name)  # not everywhere
]
"""Whoever is at the other end of a silent stream is asked for a sign of life, below HTTP."""

_SESSION = b"mcp-session-id"
_SCHEMES = (b"http", b"https")

Place = tuple[Hashable, bytes, bytes, int]
"""Who may use a socket, and where it leads: scheme, host, port."""


class Spare:
    """The idle sockets of a worker.

    Args:
        most: So many at once; the place with the most of them gives one up.
    """

    def __init__(self, *, most: int = MOST) -> None:
        self._idle: dict[Place, list[AsyncConnectionInterface]] = {}
        self._most = most

    async def take(self, place: Place) -> AsyncConnectionInterface | None:
        """Return the socket that was used last, if one is still good."""
        while idle := self._idle.get(place):
            connection = idle.pop()
            if not idle:
                del self._idle[place]
            if not connection.has_expired():
                return connection
            await _closed([connection])
        return None

    async def keep(self, place: Place, connection: AsyncConnectionInterface) -> None:
        """Keep a socket for whoever comes next."""
        idle = self._idle.setdefault(place, [])
        idle.append(connection)
        crowded = idle if len(idle) > EACH else None
        if crowded is None and sum(map(len, self._idle.values())) > self._most:
            crowded = max(self._idle.values(), key=len)
        if crowded:
            await _closed([crowded.pop(0)])

    async def tend(self) -> None:
        """Close what has become too old, without end."""
        while True:
            await anyio.sleep(KEEP / 2)
            await self.sweep()

    async def sweep(self) -> None:
        """Close what has become too old."""
        old = []
        for place, idle in list(self._idle.items()):
            old += [each for each in idle if each.has_expired()]
            idle[:] = [each for each in idle if each not in old]
            if not idle:
                del self._idle[place]
        await _closed(old)

    async def aclose(self) -> None:
        """Close all of them."""
        idle = [each for some in self._idle.values() for each in some]
        self._idle.clear()
        await _closed(idle)


async def _closed(connections: list[AsyncConnectionInterface]) -> None:
    """Close sockets, even while being cancelled."""
    with anyio.CancelScope(shield=True):
        for connection in connections:
            with suppress(Exception):  # it may be broken in any manner
                await connection.aclose()


class Lender(httpcore2.AsyncConnectionPool):
    """The sockets of one client: a pool that httpx2's transport takes for one of httpcore2's own.

    Args:
        spare: The idle ones; None for a client that shares none.
        may: Who may use them besides; equal ones share.
        ssl_context: For all servers.
        network_backend: What dials; of a user's own, the one with the guard.
        share: Requests at once; more wait, so that nobody takes all sockets of the process.
    """

    def __init__(
        self,
        spare: Spare | None,
        may: Hashable,
        *,
        ssl_context: ssl.SSLContext,
        network_backend: AsyncNetworkBackend | None = None,
        share: int = SHARE,
    ) -> None:
        self._own = Spare()
        self._spare = self._own if spare is None else spare
        self._may = may
        self._ssl = ssl_context
        self._backend = network_backend
        self._places = anyio.Semaphore(share)
        self._lent: set[AsyncConnectionInterface] = set()

    async def handle_async_request(self, request: httpcore2.Request) -> httpcore2.Response:
        """Send a request.

        Raises:
            PoolTimeout: Too many others of this client do not end.
        """
        if request.url.scheme not in _SCHEMES:
            raise httpcore2.UnsupportedProtocol
        origin = request.url.origin
        await self._wait(request)
        place = (self._may, origin.scheme, origin.host, origin.port)
        connection: AsyncConnectionInterface | None = None
        try:
            connection = await self._taken(place, request) or self._new(origin)
            self._lent.add(connection)
            response = await connection.handle_async_request(request)
        except BaseException:  # cancelled or not: nobody knows what is still on its way there
            await self._drop(connection)
            raise
        kept = self._own if _in_session(request) or _in_session(response) else self._spare
        return httpcore2.Response(
            status=response.status,
            headers=response.headers,
            content=_Answer(response.stream, self, connection, place, kept),
            extensions=response.extensions,
        )

    async def give_back(self, connection: AsyncConnectionInterface, place: Place, kept: Spare) -> None:
        """Keep a socket if its request has ended, and nothing has come behind the answer."""
        if connection in self._lent and connection.is_idle() and not _has_more(connection):
            self._lent.discard(connection)
            self._places.release()
            await kept.keep(place, connection)
        else:
            await self._drop(connection)

    async def aclose(self) -> None:
        """Close what is lent, and what belongs to sessions; the others may use the rest."""
        lent, self._lent = list(self._lent), set()
        await _closed(lent)
        await self._own.aclose()

    async def _wait(self, request: httpcore2.Request) -> None:
        """Wait for one's turn."""
        try:
            with anyio.fail_after(request.extensions.get("timeout", {}).get("pool")):
                await self._places.acquire()
        except TimeoutError:
            raise httpcore2.PoolTimeout from None

    async def _taken(self, place: Place, request: httpcore2.Request) -> AsyncConnectionInterface | None:
        return await (self._own if _in_session(request) else self._spare).take(place)

    def _new(self, origin: httpcore2.Origin) -> AsyncHTTPConnection:
        return AsyncHTTPConnection(
            origin,
            ssl_context=self._ssl,
            keepalive_expiry=KEEP,
            network_backend=self._backend,
            socket_options=_ALIVE,
        )

    async def _drop(self, connection: AsyncConnectionInterface | None) -> None:
        if connection is not None:
            self._lent.discard(connection)
            await _closed([connection])
        self._places.release()


class _Answer:
    """The body of an answer, whose end gives its socket back."""

    def __init__(
        self, stream: Any, lender: Lender, connection: AsyncConnectionInterface, place: Place, kept: Spare
    ) -> None:
        self._stream = stream
        self._chunks = aiter(stream)  # kept: who hangs up drops all that iterates over it
        self._back = (connection, place, kept)
        self._lender = lender
        self._ended = False
        self._closed = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Yield the body."""
        async for chunk in self._chunks:
            yield chunk
        self._ended = True

    async def aclose(self) -> None:
        """Give the socket back, or close it if the server goes on."""
        if self._closed:
            return
        self._closed = True
        try:
            if not self._ended:
                await self._end()
        finally:
            with anyio.CancelScope(shield=True):
                await self._stream.aclose()
                await self._lender.give_back(*self._back)

    async def _end(self) -> None:
        """Wait a moment for the end: the SDK hangs up at the last event, which is not yet the end."""
        left = END_BYTES
        with anyio.move_on_after(END_SECONDS), suppress(Exception):
            async for chunk in self._chunks:
                left -= len(chunk)
                if left < 0:
                    return


def _in_session(message: httpcore2.Request | httpcore2.Response) -> bool:
    return any(name.lower() == _SESSION for name, _ in message.headers)


def _has_more(connection: Any) -> bool:
    """Tell whether bytes came behind an answer: the next request would take them for its own."""
    http = connection._connection
    tls = http._network_stream.get_extra_info("ssl_object")
    return bool(http._h11_state.trailing_data[0]) or (tls is not None and _has_read(tls))


def _has_read(tls: ssl.SSLObject) -> bool:
    """Tell whether more than the answer was taken from the socket: in a record of its own, not yet opened."""
    try:
        tls.read(1)
    except ssl.SSLWantReadError:
        return False
    except ssl.SSLError:  # it is closed, or broken
        return True
    return True
