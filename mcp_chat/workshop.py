"""What every actor of a worker works with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import anyio
from anyio import CapacityLimiter

from mcp_chat.allowance import Clock, Limits
from mcp_chat.breaker import Breakers
from mcp_chat.config import ServerConfig
from mcp_chat.configs import UserConfigs
from mcp_chat.connections import Connection
from mcp_chat.context import Budget
from mcp_chat.exceptions import StoreUnavailable
from mcp_chat.grants import Grants
from mcp_chat.history import ChatHistoryManager
from mcp_chat.limits import ModelLimits, ServerLimits
from mcp_chat.message import now
from mcp_chat.metrics import Metrics
from mcp_chat.models.persistent import Persistence
from mcp_chat.netguard import Lookups, Resolver
from mcp_chat.oauth.sign_ins import SignIns
from mcp_chat.papers import Papers
from mcp_chat.plugins.base import NONE, Plugins
from mcp_chat.prices import PriceList
from mcp_chat.providers import Providers
from mcp_chat.stores.base import Archive, Lease, Store, Usages
from mcp_chat.talk import Hours
from mcp_chat.tapes import Which
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
        server_limits: What an MCP server may send.
        parallel_calls: Tool calls of one turn at a time.
        server_calls: Of these, calls of one server.
        upload_quota: Bytes of all files of one user.
        papers: What is kept, sealed, for workers that come later.
        sign_ins: The users' sign-ins at MCP servers.
        hours: How long people and tasks are waited for.
        user_turns: Turns of one user at a time.
        places: Those of this worker's turns, for all users.
        max_app: Bytes of an app.
        max_upload: Bytes of a file.
        record_turns: Turns of which recordings are kept.
        spending: What a user may use in a turn and in a day.
        prices: What models cost.
        clock: Tells the day that something is counted for.
        lookups: Looks up the names of users' servers and models.
        breakers: Those of the providers' models; a user's own have some of their own.
        persistence: How hard an answer of a model is tried for.
        grants: What users have allowed for longer than one call.
        approvals: Whether users are asked about calls that nobody has allowed.
        system_prompt: What models are told first in conversations that say nothing else.
        plugins: The operator's.
        plugin_hold: What of an answer plugins are shown at a time, before anybody is.
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
    server_limits: ServerLimits
    parallel_calls: int
    server_calls: int
    upload_quota: int
    user_turns: int
    places: CapacityLimiter
    idle_timeout: float
    session_ttl: int
    budget: Budget
    keep_history: bool
    summary: bool
    papers: Papers
    max_app: int
    sign_ins: SignIns
    max_upload: int
    lookups: Lookups
    grants: Grants
    approvals: bool
    record_turns: Which = "asked"
    hours: Hours = field(default_factory=Hours)
    system_prompt: str = ""
    spending: Limits = field(default_factory=Limits)
    prices: PriceList = field(default_factory=PriceList)
    clock: Clock = now
    breakers: Breakers = field(default_factory=Breakers)
    persistence: Persistence = field(default_factory=Persistence)
    plugins: Plugins = NONE
    plugin_hold: str = "sentence"

    @property
    def full(self) -> bool:
        """Whether this worker runs as many turns as it may."""
        return self.places.available_tokens <= 0

    @property
    def usages(self) -> Usages:
        """Where it is counted what users spend."""
        return self.archive or self.store.usages

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
