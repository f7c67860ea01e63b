"""What a connected user's turns work with: their configuration, the open model, and the open connections."""

from __future__ import annotations

import time
from dataclasses import dataclass

import anyio
from anyio import to_thread
from anyio.abc import TaskGroup

from mcp_chat.agent import Agent
from mcp_chat.config import UserConfig
from mcp_chat.connections import Toolbox, close_all, open_all
from mcp_chat.deed import Action, Decision, Deed, places_of
from mcp_chat.exceptions import NotConnected, ServerUnavailable
from mcp_chat.netguard import AddressNotAllowed
from mcp_chat.providers import Model
from mcp_chat.stores.base import Lease
from mcp_chat.trail import Trail, code_of
from mcp_chat.workshop import Workshop


@dataclass(frozen=True, slots=True)
class Ready:
    """An open model, its agent, and the open connections whose tools it has."""

    model: Model
    agent: Agent
    toolbox: Toolbox

    async def aclose(self) -> None:
        """Close connections and model, even while being cancelled."""
        with anyio.CancelScope(shield=True):
            await close_all(self.toolbox.connections)
            await self.model.aclose()


class Equipment:
    """One user's, at their owner. It is opened when a turn needs it, and closed by a rest or a disconnect.

    Args:
        lease: The user and the epoch.
        workshop: What it is made with.
        tasks: Runs the connections.
        trail: Takes down where one connects.
    """

    def __init__(self, lease: Lease, workshop: Workshop, tasks: TaskGroup, trail: Trail) -> None:
        self._user = lease.user
        self._epoch = lease.epoch
        self._shop = workshop
        self._tasks = tasks
        self._trail = trail
        self._preparing = anyio.Lock()
        self._storing = anyio.Lock()  # a copy that comes back must not replace one that is newer
        self._config: UserConfig | None = None
        self.ready: Ready | None = None

    @property
    def backend(self) -> str:
        """The user's model, as far as it is known."""
        return self._config.backend if self._config else ""

    async def config(self) -> UserConfig | None:
        """Return the user's configuration, None if they are not connected."""
        return self._config or await self._shop.configs.get(self._user)

    async def prepare(self) -> tuple[Agent, Toolbox]:
        """Return agent and tools; after a rest or a takeover they are made anew.

        Raises:
            NotConnected: There is no configuration.
            ServerUnavailable: A server does not answer any more.
        """
        async with self._preparing:
            async with self._storing:
                await self._shop.configs.touch(self._user, epoch=self._epoch)
            if self.ready is None:
                self._config = await self._shop.configs.get(self._user)
                if self._config is None:
                    raise NotConnected
                try:
                    self.ready = await self.open(self._config, again=True)
                except ServerUnavailable:
                    raise ServerUnavailable("Lost connection to MCP server. Please reconnect.") from None
            return self.ready.agent, self.ready.toolbox

    async def open(self, config: UserConfig, *, again: bool = False) -> Ready:
        """Open a configuration's servers and model, beside what is in use.

        Args:
            again: It was in use before a rest or a takeover.

        Raises:
            ServerUnavailable: A server does not answer; nothing stays open.
        """
        began, outcome = time.monotonic(), "cancelled"
        try:
            ready = await self._open(config)
            outcome = "succeeded"
        except Exception as error:
            outcome = code_of(error)
            raise
        finally:
            ms = round((time.monotonic() - began) * 1000)
            await self._trail.note(_deeds(config, "reconnect" if again else "connect", outcome, ms))
        return ready

    async def _open(self, config: UserConfig) -> Ready:
        resolver = self._shop.lookups.of(self._user)
        connections = [self._shop.connection(server, resolver) for server in config.servers]
        model = await to_thread.run_sync(self._shop.providers.open, config.model, resolver)
        try:
            await open_all(connections, self._tasks)
            return await to_thread.run_sync(self._equip, model, Toolbox(connections))
        except BaseException:  # cancelled or not: what was opened is closed
            with anyio.CancelScope(shield=True):
                await close_all(connections)
                await model.aclose()
            raise

    def _equip(self, model: Model, toolbox: Toolbox) -> Ready:
        """Build the agent: with many tools that takes a while, so it is done off the event loop."""
        shop = self._shop
        agent = Agent(
            model.chat,
            toolbox.tools,
            rounds=shop.tool_rounds,
            silence=shop.model_timeout,
            limits=shop.model_limits,
        )
        return Ready(model, agent, toolbox)

    async def store(self, config: UserConfig) -> None:
        """Store a configuration: from now on it is the user's.

        Raises:
            Fenced: A higher epoch owns the user.
        """
        async with self._storing:
            await self._shop.configs.put(self._user, config, epoch=self._epoch)

    async def forget(self) -> None:
        """Close what is open, and delete what is stored.

        Raises:
            Fenced: A higher epoch owns the user.
        """
        await self.close()
        async with self._storing:
            await self._shop.configs.forget(self._user, epoch=self._epoch)

    async def change(self, config: UserConfig, ready: Ready) -> None:
        """Use another configuration from now on."""
        before, self._config, self.ready = self.ready, config, ready
        if before:
            await before.aclose()

    async def rename_session(self, config: UserConfig) -> None:
        """Set the configuration to one that differs in its session only."""
        await self.store(config)
        self._config = config if self.ready else None

    async def close(self) -> None:
        """Close what is open; the configuration stays where it is stored."""
        before, self._config, self.ready = self.ready, None, None
        if before:
            await before.aclose()


def _deeds(config: UserConfig, action: Action, outcome: str, ms: int) -> list[Deed]:
    """Return the deeds of connecting: one for each place, and all end alike."""
    decision: Decision = "refused" if outcome == AddressNotAllowed.code else "allowed"
    return [
        Deed(
            action=action,
            decision=decision,
            session_id=config.session_id,
            server=place,
            outcome=outcome,
            ms=ms,
        )
        for place in places_of(config)
    ]
