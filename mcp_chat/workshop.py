"""What every actor of a worker works with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import anyio
from anyio import CapacityLimiter

from mcp_chat.config import ServerConfig
from mcp_chat.configs import UserConfigs
from mcp_chat.connections import Connection
from mcp_chat.context import Budget
from mcp_chat.exceptions import StoreUnavailable
from mcp_chat.history import ChatHistoryManager
from mcp_chat.limits import ModelLimits
from mcp_chat.metrics import Metrics
from mcp_chat.netguard import Lookups, Resolver
from mcp_chat.providers import Providers
from mcp_chat.stores.base import Archive, Lease, Store
from mcp_chat.vault import Vault
from mcp_chat.writer import Deliver

HELD_LIMIT = 5.0
"""Seconds that a tool call waits for the heartbeat to be heard again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workshop:
    """What every actor of a worker works with.

    Attributes:
        held: Tells whether this worker may believe that the others know it to be alive.
        deliver: Takes events that are in the log, for readers on this worker.
        parallel_calls: Tool calls of one turn at a time.
        user_turns: Turns of one user at a time.
        places: Those of this worker's turns, for all users.
        lookups: Looks up the names of users' servers and models.
        session_ttl: Seconds for which what is left of a user who disconnects stays in the store.
    """

    store: Store
    archive: Archive | None
    configs: UserConfigs
    history: ChatHistoryManager
    vault: Vault
    providers: Providers
    connection: Callable[[ServerConfig, Resolver], Connection]
    held: Callable[[], bool]
    deliver: Deliver
    metrics: Metrics
    turn_timeout: float
    model_timeout: float
    tool_rounds: int
    model_limits: ModelLimits
    parallel_calls: int
    user_turns: int
    places: CapacityLimiter
    idle_timeout: float
    session_ttl: int
    budget: Budget
    keep_history: bool
    summary: bool
    lookups: Lookups = field(default_factory=Lookups)

    @property
    def full(self) -> bool:
        """Whether this worker runs as many turns as it may."""
        return self.places.available_tokens <= 0

    async def is_latest(self, lease: Lease) -> bool:
        """Tell whether nobody has drawn an epoch since; without a record the store's word is all there is."""
        return self.archive is None or await self.archive.epoch(lease.user) == lease.epoch

    async def is_latest_still(self, lease: Lease) -> bool:
        """Look again behind a write that could have replaced what a later owner's lease has left."""
        try:
            return await self.is_latest(lease)
        except StoreUnavailable:  # better one owner too few
            return False

    async def until_held(self) -> None:
        """Return when the others know this worker to be alive: only then may it do what cannot be undone.

        Raises:
            StoreUnavailable: They have not for a while.
        """
        with anyio.move_on_after(HELD_LIMIT):
            while not self.held():  # noqa: ASYNC110 - another thread's clock: nothing here can tell
                await anyio.sleep(0.1)
            return
        raise StoreUnavailable
