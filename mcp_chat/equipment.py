"""What a connected user's turns work with: their configuration, the open model, and their connections."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import anyio
from anyio.abc import TaskGroup
from mcp.shared.subscriptions import (
    PromptsListChanged,
    ResourcesListChanged,
    ServerEvent,
    ToolsListChanged,
)
from mcp.shared.subscriptions import ResourceUpdated as Updated

from mcp_chat.acceptance import Acceptance
from mcp_chat.agent import Agent
from mcp_chat.agents import Agents
from mcp_chat.config import ServerConfig, UserConfig
from mcp_chat.connections import Connection
from mcp_chat.deed import Action, Decision, Deed, of_rule, places_of
from mcp_chat.definitions import identity_of
from mcp_chat.events import Event, ResourceUpdated, ServerChanged
from mcp_chat.exceptions import ChatError, InvalidRequest, NotConnected, NotFound
from mcp_chat.names import skeleton
from mcp_chat.netguard import AddressNotAllowed
from mcp_chat.opening import close_all, open_all
from mcp_chat.prices import Bill
from mcp_chat.ruling import ruling_of
from mcp_chat.server_changes import SwitchTools
from mcp_chat.stores.base import Lease
from mcp_chat.toolbox import Toolbox
from mcp_chat.trail import Trail, code_of
from mcp_chat.workshop import Workshop

T = TypeVar("T")

TOUCHES = 10
"""How often the copy of a configuration is renewed in the time that it lives, if it is used."""

MOST_OFF = 1000
"""Tools of a server that a user has switched off, listed or not: they are kept with the configuration."""


@dataclass(frozen=True, slots=True)
class Ready:
    """What is open, or comes when a turn needs it.

    Attributes:
        connections: By their aliases, in order; they may come and go.
        toolbox: Their tools.
        agents: The models with these tools.
    """

    connections: dict[str, Connection]
    toolbox: Toolbox
    agents: Agents

    async def aclose(self) -> None:
        """Close connections and models, even while being cancelled."""
        with anyio.CancelScope(shield=True):
            await close_all(list(self.connections.values()))
            await self.agents.aclose()


class Equipment:
    """One user's, at their owner. It is opened when a turn needs it, and closed by a rest or a disconnect.

    Args:
        lease: The user and the epoch.
        workshop: What it is made with.
        tasks: Runs the connections.
        trail: Takes down where one connects.
        tell: Takes what servers tell without being asked, and how they are.
    """

    def __init__(
        self, lease: Lease, workshop: Workshop, tasks: TaskGroup, trail: Trail, tell: Callable[[Event], None]
    ) -> None:
        self.user = lease.user
        self._epoch = lease.epoch
        self._shop = workshop
        self._tasks = tasks
        self._trail = trail
        self._tell = tell
        self._preparing = anyio.Lock()
        self._changing = anyio.Lock()
        self._storing = anyio.Lock()  # a copy that comes back must not replace one that is newer
        self._config: UserConfig | None = None
        self._touched = -math.inf
        self.ready: Ready | None = None

    @property
    def backend(self) -> str:
        """The user's model, as far as it is known."""
        return self._config.backend if self._config else ""

    async def config(self) -> UserConfig | None:
        """Return the user's configuration, None if they are not connected."""
        return self._config or await self._shop.configs.get(self.user)

    async def bill(self, model: str) -> Bill:
        """Return what a model costs, and who pays; without a name the user's own choice."""
        config = await self.config()
        chosen = config.model if config else None
        return self._shop.prices.bill(model or (config.backend if config else ""), chosen)

    async def prepare(self, model: str = "") -> tuple[Agent, Toolbox]:
        """Return agent and tools; after a rest or a takeover they are made anew.

        What was known of a server's tools is used before it is open again; calls wait for it.

        Args:
            model: Of the operator's catalogue; empty for the one that the user is connected to.

        Raises:
            NotConnected: There is no configuration.
            InvalidRequest: A server is no longer offered.
        """
        async with self._preparing:
            ready = await self._made_ready()
            return await ready.agents.of(model), ready.toolbox

    async def connection(self, alias: str) -> Connection:
        """Return a connection of the user's, which may not be open yet.

        Raises:
            NotConnected: There is no configuration.
            NotFound: They have no server of this name, or it is switched off.
        """
        async with self._preparing:
            ready = await self._made_ready()
        if alias not in ready.connections:
            raise NotFound(f"You are not connected to a server {alias}, or it is switched off.")
        return ready.connections[alias]

    async def connections(self) -> dict[str, Connection]:
        """Return the user's connections, which may not be open yet.

        Raises:
            NotConnected: There is no configuration.
        """
        async with self._preparing:
            return (await self._made_ready()).connections

    async def _made_ready(self) -> Ready:
        if time.monotonic() > self._touched + self._shop.session_ttl / TOUCHES:
            async with self._storing:
                await self._shop.configs.touch(self.user, epoch=self._epoch)
            self._touched = time.monotonic()
        if self.ready is None:
            config = await self._shop.configs.get(self.user)
            if config is None:
                raise NotConnected
            self.ready = await self._resume(config)
            self._config = config
        return self.ready

    async def rest(self) -> None:
        """Close what single conversations have not used for a while."""
        if self.ready:
            await self.ready.agents.rest()

    # Opening

    async def open(self, config: UserConfig) -> Ready:
        """Open a configuration's servers, beside what is in use, and see that its model can be made.

        Raises:
            InvalidRequest: It cannot.
            ServerUnavailable: A server does not answer; nothing stays open.
        """
        return await self._noted(config, "connect", lambda: self._open(config))

    async def _open(self, config: UserConfig) -> Ready:
        ready = await self._unopened(config)
        try:
            await self._shop.providers.prove(config.model)
            await open_all(list(ready.connections.values()), self._tasks)
        except BaseException:  # cancelled or not: what was opened is closed
            await ready.aclose()
            raise
        return ready

    async def _unopened(self, config: UserConfig) -> Ready:
        """Return what a configuration says, of which nothing is open."""
        connections = {server.alias: await self._made(server) for server in config.servers if server.enabled}
        toolbox = Toolbox(connections)
        return Ready(connections, toolbox, Agents(self._shop, self.user, config.model, toolbox))

    async def _resume(self, config: UserConfig) -> Ready:
        """Make ready what was in use before; nobody waits for a server that is known."""
        ready = await self._unopened(config)
        try:
            unknown = [each for each in ready.connections.values() if not await self._recall(each)]
            for connection in ready.connections.values():
                self._tasks.start_soon(self._resumed, config, connection)
            for connection in unknown:
                with contextlib.suppress(ChatError):
                    await connection.first_attempt()
        except BaseException:  # cancelled or not: what was begun is closed
            await ready.aclose()
            raise
        return ready

    async def _resumed(self, config: UserConfig, connection: Connection) -> None:
        """Run a connection, and take down how its first attempt went."""
        one = replace(config, servers=(connection.server,))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(connection.resume)
            with contextlib.suppress(ChatError):  # the connection's state tells
                await self._noted(one, "reconnect", connection.first_attempt)

    async def _recall(self, connection: Connection) -> bool:
        """Let a connection offer what its user has accepted; tell whether they ever have."""
        known = await self._acceptance(connection.server).recall()
        if known is None:
            return False
        await connection.know(known)
        return True

    async def _made(self, server: ServerConfig) -> Connection:
        connection = self._shop.connection(server, self._shop.lookups.of(self.user))
        connection.admit = self._acceptance(connection.server).admit
        connection.tell = self._tell_state
        connection.auth = self._shop.sign_ins.auth(self.user, connection.server)
        connection.news.tell = partial(self._pass_on, connection)
        return connection

    def _tell_state(self, connection: Connection, what: str) -> None:
        self._tell(ServerChanged(server=connection.server.alias, what=what))

    def _acceptance(self, server: ServerConfig) -> Acceptance:
        return Acceptance(
            papers=self._shop.papers,
            user=self.user,
            server=server,
            limits=self._shop.server_limits,
            epoch=self._epoch,
        )

    async def _noted(self, config: UserConfig, action: Action, act: Callable[[], Awaitable[T]]) -> T:
        """Do something, and let the trail say how it went."""
        began, outcome = time.monotonic(), "cancelled"
        try:
            done = await act()
            outcome = "succeeded"
        except Exception as error:  # whatever it is, the trail says that it failed
            outcome = code_of(error)
            raise
        finally:
            deeds = _deeds(config, action, outcome, round((time.monotonic() - began) * 1000))
            if outcome == "succeeded":  # it is in the record before whatever is written from now on
                self._tasks.start_soon(self._trail.note, deeds)
            else:
                await self._trail.note(deeds)
        return done

    # Changes

    async def add(self, server: ServerConfig, most: int) -> Connection:
        """Open one more server, of so many at most; only when it is proven it is the user's."""
        config = await self._connected()
        if len(config.servers) >= most:
            raise InvalidRequest(f"You are connected to {most} servers. Remove one first.")
        if skeleton(server.alias) in {skeleton(each.alias) for each in config.servers}:
            raise InvalidRequest(f"You have a server {server.alias} already. Give this one another alias.")
        connection = await self._made(server)
        one = replace(config, servers=(server,))
        await self._noted(one, "connect", lambda: open_all([connection], self._tasks))
        try:
            async with self._preparing:
                ready = await self._made_ready()
            await self._alter(replace(config, servers=(*config.servers, server)))
            ready.connections[server.alias] = connection
        except BaseException:  # cancelled or not: what was opened is closed
            with anyio.CancelScope(shield=True):
                await connection.close()
            raise
        return connection

    async def sign_in(self, alias: str) -> str:
        """Return where the user signs in to a server, made anew; empty if they need not."""
        return await (await self.connection(alias)).try_again()

    async def signed_in(self, alias: str) -> None:
        """Open a server again whose user has signed in."""
        if self.ready and alias in self.ready.connections:
            self.ready.connections[alias].again()

    async def signed_out(self, alias: str) -> None:
        """Close a server whose user has taken the permission back, and see what it says now."""
        async with self._changing:
            if self.ready and alias in self.ready.connections:
                config, server = await self._server(alias)
                await self._let_go(alias)
                await self._begin(config, server)

    async def remove(self, alias: str) -> None:
        """Close a server and forget it, with what was accepted of it and its user's sign-in."""
        async with self._changing:
            config, server = await self._server(alias)
            await self._alter(replace(config, servers=tuple(s for s in config.servers if s.alias != alias)))
            closed = await self._let_go(alias)
            gone = closed.server if closed else server
            await self._acceptance(gone).forget()
            await self._shop.grants.drop_place(self.user, identity_of(gone))
            await self._shop.sign_ins.forget(self.user, alias)

    async def switch(self, alias: str, enabled: bool) -> None:
        """Switch a server on or off; one that is off is closed and stays in the configuration."""
        async with self._changing:
            config, server = await self._server(alias)
            if server.enabled == enabled:
                return
            changed = replace(server, enabled=enabled)
            await self._alter(_with(config, changed))
            if not enabled:
                await self._let_go(alias)
            else:
                await self._begin(config, changed)

    async def _begin(self, config: UserConfig, server: ServerConfig) -> None:
        """Open a server of the configuration in the background, if anything is open."""
        if ready := self.ready:
            connection = await self._made(server)
            await self._recall(connection)
            if self.ready is ready:  # else it was closed meanwhile, or replaced
                ready.connections[server.alias] = connection
                self._tasks.start_soon(self._resumed, config, connection)

    async def switch_tools(self, change: SwitchTools) -> None:
        """Switch tools, accept definitions, and change what may be done with tools."""
        alias, enabled = change.alias, change.enabled
        config, server = await self._server(alias)
        connection = (await self.connections()).get(alias)
        if change.accept and connection:
            await self._accept(connection, change.accept)
        ruling = ruling_of(server, connection, change.policy)
        off = {name for name, on in enabled.items() if not on}
        off |= {name for name in server.disabled_tools if name not in enabled}
        if len(off) > MOST_OFF:
            raise InvalidRequest(
                f"You have switched off {MOST_OFF} tools of {alias}, as many as possible. "
                "Switch some on again, or the server off."
            )
        changed = replace(server, disabled_tools=tuple(sorted(off)), own_rules=ruling.own)
        await self._alter(_with(config, changed))
        await ruling.keep(self._shop.grants, self.user, connection.server if connection else server)
        if connection:
            connection.switch(off, ruling.own)
        await self._trail.note([of_rule(alias, name, each) for name, each in change.policy.items()])

    async def _accept(self, connection: Connection, accept: Mapping[str, str]) -> None:
        for name, hash_ in accept.items():
            held = connection.held.get(name)
            if held is None or held.definition.digest != hash_:
                raise InvalidRequest(f"The tool {name} is not as it was shown to you. Look at it again.")
        accepted = {name: connection.held[name] for name in accept}
        await self._acceptance(connection.server).accept(accepted.values())
        connection.accept(accepted)

    async def _server(self, alias: str) -> tuple[UserConfig, ServerConfig]:
        config = await self._connected()
        for server in config.servers:
            if server.alias == alias:
                return config, server
        raise NotFound(f"You are not connected to a server {alias}.")

    async def _connected(self) -> UserConfig:
        config = await self.config()
        if config is None:
            raise NotConnected
        return config

    async def _let_go(self, alias: str) -> Connection | None:
        connection = self.ready.connections.pop(alias, None) if self.ready else None
        if connection:
            await connection.close()
        return connection

    async def _alter(self, config: UserConfig) -> None:
        await self.store(config)
        self._config = config if self.ready else None

    def _pass_on(self, connection: Connection, event: ServerEvent) -> None:
        """Tell the user what one of their servers has told."""
        alias = connection.server.alias
        match event:
            case Updated(uri=uri):
                self._tell(ResourceUpdated(server=alias, uri=uri))
            case ToolsListChanged():
                connection.refresh()  # they are told of when they are known
            case PromptsListChanged():
                self._tell(ServerChanged(server=alias, what="prompts"))
            case ResourcesListChanged():
                self._tell(ServerChanged(server=alias, what="resources"))

    async def store(self, config: UserConfig) -> None:
        """Store a configuration: from now on it is the user's.

        Raises:
            Fenced: A higher epoch owns the user.
        """
        async with self._storing:
            await self._shop.configs.put(self.user, config, epoch=self._epoch)

    async def forget(self) -> None:
        """Close what is open, and delete what is stored: the configuration, and sign-ins at servers.

        Raises:
            Fenced: A higher epoch owns the user.
        """
        await self.close()
        await self._shop.sign_ins.forget(self.user)
        async with self._storing:
            await self._shop.configs.forget(self.user, epoch=self._epoch)

    async def change(self, config: UserConfig, ready: Ready) -> None:
        """Use another configuration from now on."""
        before, self._config, self.ready = self.ready, config, ready
        if before:
            await before.aclose()

    async def rename_session(self, config: UserConfig) -> None:
        """Set the configuration to one that differs in its session only."""
        await self._alter(config)

    async def close(self) -> None:
        """Close what is open; the configuration stays where it is stored."""
        before, self._config, self.ready = self.ready, None, None
        if before:
            await before.aclose()


def _with(config: UserConfig, changed: ServerConfig) -> UserConfig:
    servers = tuple(changed if server.alias == changed.alias else server for server in config.servers)
    return replace(config, servers=servers)


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
