"""How many calls a turn makes at a time, at all servers and at each one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import anyio


class Places:
    """The places for a turn's calls; who waits for a server's place takes none from the other servers.

    Args:
        turn: Calls at a time.
        server: Of these, calls of one server.
    """

    def __init__(self, turn: int, server: int) -> None:
        self._turn = anyio.CapacityLimiter(turn)
        self._servers = defaultdict[str, anyio.CapacityLimiter](partial(anyio.CapacityLimiter, server))

    @asynccontextmanager
    async def at(self, server: str) -> AsyncIterator[None]:
        """Hold a place for a call of this server."""
        async with self._servers[server], self._turn:
            yield
