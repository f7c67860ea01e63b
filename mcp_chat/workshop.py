"""What every actor of a worker works with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from anyio import CapacityLimiter

from mcp_chat.config import ServerConfig
from mcp_chat.configs import UserConfigs
from mcp_chat.connections import Connection
from mcp_chat.context import Budget
from mcp_chat.history import ChatHistoryManager
from mcp_chat.limits import ModelLimits
from mcp_chat.metrics import Metrics
from mcp_chat.providers import Providers
from mcp_chat.stores.base import Archive, Lease, Store
from mcp_chat.vault import Vault
from mcp_chat.writer import Deliver


@dataclass(frozen=True, slots=True, kw_only=True)
class Workshop:
    """What every actor of a worker works with.

    Attributes:
        held: Tells whether this worker may believe that the others know it to be alive.
        deliver: Takes events that are in the log, for readers on this worker.
        parallel_calls: Tool calls of one turn at a time.
        user_turns: Turns of one user at a time.
        places: Those of this worker's turns, for all users.
        session_ttl: Seconds for which what is left of a user who disconnects stays in the store.
    """

    store: Store
    archive: Archive | None
    configs: UserConfigs
    history: ChatHistoryManager
    vault: Vault
    providers: Providers
    connection: Callable[[ServerConfig], Connection]
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

    @property
    def full(self) -> bool:
        """Whether this worker runs as many turns as it may."""
        return self.places.available_tokens <= 0

    async def is_latest(self, lease: Lease) -> bool:
        """Tell whether nobody has drawn an epoch since; without a record the store's word is all there is."""
        return self.archive is None or await self.archive.epoch(lease.user) == lease.epoch
