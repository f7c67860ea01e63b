"""How many requests a user makes in a minute, counted where it is proven who asks."""

from __future__ import annotations

import math
import time

import anyio
import structlog
from starlette.requests import HTTPConnection

from mcp_chat.api.identity import Identity
from mcp_chat.exceptions import StoreUnavailable, TooManyRequests
from mcp_chat.identity import Principal
from mcp_chat.stores.base import Rates

log = structlog.get_logger()

COUNTED = "mcp_chat.counted"
"""Where a request's scope says that it was counted: who asks is proven several times, and in open streams."""

PATIENCE = 1.0
"""Seconds that the store gets to count a request."""

REST = 5.0
"""Seconds for which a store that did not answer is not asked again: nobody is to wait for it each time."""


class Metered:
    """An identity that lets each user make so many requests in a minute.

    Args:
        identity: Proves who asks.
        rates: Counts the requests that all workers are asked.
        spare: Counts this worker's while the store is away.
        per_minute: Requests of one user.
        spare_per_minute: Those of one user at this worker while the store is away.
    """

    def __init__(
        self, identity: Identity, rates: Rates, spare: Rates, *, per_minute: int, spare_per_minute: int
    ) -> None:
        self.mode = identity.mode
        self._identity = identity
        self._rates = rates
        self._spare = spare
        self._per_minute = per_minute
        self._spare_per_minute = spare_per_minute
        self._ask_again = -math.inf

    async def identify(self, connection: HTTPConnection) -> Principal | None:
        """Return who asks, and count the request once.

        Raises:
            TooManyRequests: They have made too many; the error says when there is room again.
        """
        principal = await self._identity.identify(connection)
        if principal is not None and COUNTED not in connection.scope:
            connection.scope[COUNTED] = True
            if wait := await self._counted(principal.key):
                seconds = math.ceil(wait)
                raise TooManyRequests(
                    f"You have made more than {self._per_minute} requests in a minute. "
                    f"Try again in {seconds} s.",
                    retry_after=seconds,
                )
        return principal

    async def _counted(self, user: str) -> float:
        if time.monotonic() >= self._ask_again:
            try:
                with anyio.fail_after(PATIENCE):
                    return await self._rates.take(user, per_minute=self._per_minute)
            except (StoreUnavailable, TimeoutError):
                self._ask_again = time.monotonic() + REST
                log.warning("rates.local", seconds=REST)
        return await self._spare.take(user, per_minute=self._spare_per_minute)
