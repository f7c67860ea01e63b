"""An identity that plugins have a say in: they may turn a login away, or know its user by another name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from starlette.requests import HTTPConnection

from mcp_chat.api.identity import Identity
from mcp_chat.exceptions import BlockedByPlugin, Forbidden, LoginUnavailable, NotAuthenticated, PluginFailed
from mcp_chat.identity import Principal
from mcp_chat.message import new_id
from mcp_chat.plugins import hooks
from mcp_chat.plugins.base import Occasion, Plugins


class Plugged:
    """Asks plugins about whoever a login has proven; without a login nobody is asked.

    Args:
        identity: Proves who asks.
        plugins: The operator's.
    """

    def __init__(self, identity: Identity, plugins: Plugins) -> None:
        self.mode = identity.mode
        self._identity = identity
        self._plugins = plugins

    async def identify(self, connection: HTTPConnection) -> Principal | None:
        """Return who asks; see `mcp_chat.api.identity.Identity`.

        Raises:
            NotAuthenticated: A plugin does not take the login.
            Forbidden: A plugin does not let its user in.
            LoginUnavailable: A plugin has failed that must not.
        """
        principal = await self._identity.identify(connection)
        if principal is None:
            return None
        return named(principal, await self._asked(connection, principal))

    async def _asked(self, connection: HTTPConnection, principal: Principal) -> Mapping[str, Any]:
        token, source = _presented(connection, principal)
        fields = {
            "raw_token": token,
            "source": source,
            "headers": dict(connection.headers),
            "client_host": connection.client.host if connection.client else None,
            "client_port": connection.client.port if connection.client else None,
        }
        try:
            changed = await self._plugins.ask(
                hooks.IDENTITY, fields, Occasion(request_id=new_id(), user=principal.key)
            )
        except PluginFailed:  # which says nothing about who asks: open streams go on for a while
            raise LoginUnavailable from None
        except BlockedByPlugin as blocked:
            raise Forbidden(str(blocked)) from None
        found: Mapping[str, Any] = changed.get("identity") or {}
        return found


def _presented(connection: HTTPConnection, principal: Principal) -> tuple[str, str]:
    """Return what a request has presented, and how."""
    kind, _, token = connection.headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer":
        return token, "bearer"
    return principal.token, "bearer" if principal.token else "custom"


def named(principal: Principal, found: Mapping[str, Any]) -> Principal:
    """Return who asks, as plugins say.

    Args:
        found: Their `IdentityResult`; nothing if they have none.

    Raises:
        NotAuthenticated: They do not take the login.
        Forbidden: They do not let its user in.
    """
    if found.get("rejected"):
        reason = str(found.get("reject_reason") or "") or None
        raise Forbidden(reason) if found.get("reject_status") == 403 else NotAuthenticated(reason)
    match found.get("subject"):
        case {"id": str(user)} if user and user != principal.id:
            return replace(principal, id=user)
    return principal


def plugged(identity: Identity, plugins: Plugins) -> Identity:
    """Return an identity that plugins have a say in, if any listens."""
    return Plugged(identity, plugins) if hooks.IDENTITY in plugins.hooks else identity
