"""What a user wants of their servers besides turns: to change, see and ask them, and to sign in."""

from __future__ import annotations

from dataclasses import replace

from mcp_chat.agent import Emit
from mcp_chat.appwork import AppWork, served
from mcp_chat.commands import ChangeServers, Consult, ShowServers, SignedIn, SignedOut, SignIn
from mcp_chat.consent import Consent
from mcp_chat.consult import CallForApp, ReadApp, ReadForApp
from mcp_chat.consultant import consulted
from mcp_chat.definitions import identity_of
from mcp_chat.equipment import Equipment
from mcp_chat.events import AskEnded, Event, Final, ServersShown, SignInShown
from mcp_chat.exceptions import NotConnected
from mcp_chat.plugins.visits import Visits
from mcp_chat.server_changes import (
    FIELD,
    AddServer,
    RemoveServer,
    SwitchServer,
    SwitchTools,
    change_of,
    shown,
    shown_tools,
)
from mcp_chat.stores.base import Lease
from mcp_chat.trail import Trail
from mcp_chat.workshop import Workshop

Errand = ChangeServers | ShowServers | SignIn | SignedIn | SignedOut | Consult


class Errands:
    """Carries out commands that concern a user's servers and no conversation.

    Args:
        lease: The user and the epoch.
        workshop: What it works with.
        equipment: The user's connections.
        consent: Gives leave to the calls of apps; its questions may wait for a sign-in.
        trail: Takes down what is done.
        tell: Takes events of no turn.
        visits: Asks whether a server may be added.
    """

    def __init__(
        self,
        lease: Lease,
        workshop: Workshop,
        equipment: Equipment,
        consent: Consent,
        trail: Trail,
        tell: Emit,
        visits: Visits,
    ) -> None:
        self._user = lease.user
        self._shop = workshop
        self._equipment = equipment
        self._talks = consent.talks
        self._tell = tell
        self._visits = visits
        self._app_work = AppWork(
            user=lease.user,
            epoch=lease.epoch,
            papers=workshop.papers,
            trail=trail,
            held=workshop.until_held,
            app_bytes=workshop.max_app,
            consent=consent,
            emit=self._say,
            plugins=workshop.plugins,
        )

    def _say(self, event: Event) -> None:
        """Tell what is asked outside of turns."""
        if isinstance(event, AskEnded):
            self._shop.metrics.approval_ended(event.decision)
        self._tell(event)

    async def run(self, errand: Errand) -> Final:
        """Carry a command out, and return how it went.

        Raises:
            ChatError: It is not possible as it stands, or a server does not do it.
        """
        match errand:
            case ChangeServers():
                return await self._change(errand)
            case ShowServers(alias=alias):
                return await self._show(alias)
            case SignIn(alias=alias):
                return SignInShown(url=await self._equipment.sign_in(alias))
            case SignedIn(alias=alias):
                await self._equipment.signed_in(alias)
                await self._talks.signed_in(alias)
                return await self._show(None)
            case SignedOut(alias=alias):
                await self._equipment.signed_out(alias)
                return await self._show(None)
            case Consult():
                return await self._consult(errand)

    async def _change(self, command: ChangeServers) -> ServersShown:
        sealed = self._shop.vault.open(command.sealed, user=self._user, field=FIELD)
        match change_of(sealed):
            case AddServer(server=server, most=most):
                if config := await self._equipment.config():
                    await self._visits.before_connect(command.id, replace(config, servers=(server,)))
                connection = await self._equipment.add(server, most)
                if config:
                    tools = tuple(tool.name for tool in connection.tools)
                    self._visits.connected(command.id, replace(config, servers=(server,), tools=tools))
            case RemoveServer(alias=alias):
                await self._equipment.remove(alias)
            case SwitchServer(alias=alias, enabled=enabled):
                await self._equipment.switch(alias, enabled)
            case SwitchTools() as change:
                await self._equipment.switch_tools(change)
        return await self._show(None)

    async def _show(self, alias: str | None) -> ServersShown:
        if alias is not None:
            connection = await self._equipment.connection(alias)
            place = identity_of(connection.server)
            grants = await self._shop.grants.all(self._user)
            always = {each.definition for each in grants if each.place == place and each.kind == "always"}
            return ServersShown(shown=shown_tools(connection, always))
        connections = await self._equipment.connections()
        config = await self._equipment.config()
        if config is None:
            raise NotConnected
        return ServersShown(shown=shown(config, connections))

    async def _consult(self, command: Consult) -> Final:
        match command.ask:
            case ReadApp() | ReadForApp() | CallForApp() as ask:
                return await served(command, ask, self._equipment, self._app_work)
        return await consulted(command, self._equipment, self._shop)
