"""Sockets that are closed also when somebody stops waiting for their TLS handshake.

httpcore and httpcore2 close one whose handshake fails, but not one whose handshake is broken off: a server
that says nothing could have us keep as many as it likes.
"""

from __future__ import annotations

from typing import Any, TypeVar

import anyio
import httpcore
import httpcore2

S = TypeVar("S", httpcore.AsyncNetworkStream, httpcore2.AsyncNetworkStream)


class ClosingBackend(httpcore.AnyIOBackend):
    """Opens them for httpx."""

    async def connect_tcp(self, *args: Any, **options: Any) -> httpcore.AsyncNetworkStream:
        """Dial, as the parent does."""
        return _closing(await super().connect_tcp(*args, **options))


class ClosingBackend2(httpcore2.AnyIOBackend):
    """Opens them for httpx2."""

    async def connect_tcp(self, *args: Any, **options: Any) -> httpcore2.AsyncNetworkStream:
        """Dial, as the parent does."""
        return _closing(await super().connect_tcp(*args, **options))


def _closing(stream: S) -> S:
    """Return the socket, which closes itself if it does not come to speak TLS when it is to."""
    changed: Any = stream
    shake = changed.start_tls

    async def start_tls(*args: Any, **options: Any) -> S:
        try:
            speaking: S = await shake(*args, **options)
        except BaseException:  # cancelled or not: a handshake that was begun is of no use
            with anyio.CancelScope(shield=True):
                await stream.aclose()
            raise
        return speaking

    changed.start_tls = start_tls
    return stream
