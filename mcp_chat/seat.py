"""A turn's place among those of its user and of its worker, given back while somebody is waited for."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import anyio
from anyio import CapacityLimiter


class Seat:
    """One turn's.

    Args:
        limiters: What it takes a place of, in this order.
    """

    def __init__(self, limiters: Sequence[CapacityLimiter]) -> None:
        self._limiters = limiters
        self._taken: list[CapacityLimiter] = []
        self._coming = anyio.Lock()
        self._away = 0

    @asynccontextmanager
    async def taken(self) -> AsyncIterator[None]:
        """Have the place; whoever comes first has it first."""
        try:
            await self._take()
            yield
        finally:
            self._give()

    @asynccontextmanager
    async def left(self) -> AsyncIterator[None]:
        """Let others have the place meanwhile; whoever is disturbed does not come back for it."""
        self._away += 1
        self._give()
        try:
            yield
        finally:
            self._away -= 1
        if not self._away:
            await self._take()

    async def _take(self) -> None:
        async with self._coming:  # a limiter wakes one alone of those who wait in the same name
            for limiter in self._limiters:
                if limiter not in self._taken:
                    await limiter.acquire_on_behalf_of(self)
                    self._taken.append(limiter)

    def _give(self) -> None:
        while self._taken:
            self._taken.pop().release_on_behalf_of(self)


NO_SEAT = Seat(())
"""That of a turn which does not run."""
