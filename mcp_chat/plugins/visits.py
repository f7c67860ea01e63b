"""The hooks around a user's connections: the chat's own, which the gateway does not have."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import anyio
import structlog

from mcp_chat.config import ServerConfig, UserConfig
from mcp_chat.deed import of_block
from mcp_chat.events import EVENT, Entry
from mcp_chat.exceptions import BlockedByPlugin
from mcp_chat.plugins import hooks
from mcp_chat.plugins.base import Occasion, Plugins
from mcp_chat.plugins.blocks import noted
from mcp_chat.plugins.tools import server_id
from mcp_chat.trail import Trail
from mcp_chat.writer import Deliver

log = structlog.get_logger()

LEAVING = 5.0
"""Seconds that plugins may keep somebody who disconnects."""


class Visits:
    """One user's connects and disconnects.

    Args:
        plugins: The operator's.
        trail: Takes down who was not let in; it knows the user.
    """

    def __init__(self, plugins: Plugins, trail: Trail) -> None:
        self._plugins = plugins
        self._trail = trail
        self._user = trail.user

    async def before_connect(self, request_id: str, config: UserConfig) -> None:
        """Ask whether a user may connect to servers.

        Raises:
            BlockedByPlugin: They may not.
        """
        if hooks.CHAT_PRE_CONNECT in self._plugins.hooks:
            occasion = self._occasion(request_id, config)
            try:
                await self._plugins.ask(hooks.CHAT_PRE_CONNECT, _fields(config), occasion)
            except BlockedByPlugin as blocked:
                deed = of_block(noted(blocked), turn="", session_id=config.session_id)
                await self._trail.note([deed])
                raise

    def connected(self, request_id: str, config: UserConfig) -> None:
        """Tell that a user is connected."""
        if hooks.CHAT_POST_CONNECT in self._plugins.hooks:
            fields = {**_fields(config), "tools": list(config.tools)}
            self._plugins.tell(hooks.CHAT_POST_CONNECT, fields, self._occasion(request_id, config))

    async def before_disconnect(self, request_id: str, session_id: str) -> None:
        """Tell that a user disconnects, which nobody can keep them from."""
        if hooks.CHAT_PRE_DISCONNECT not in self._plugins.hooks:
            return
        occasion = Occasion(request_id=request_id, user=self._user, session_id=session_id)
        with anyio.move_on_after(LEAVING) as limit:
            try:
                await self._plugins.ask(hooks.CHAT_PRE_DISCONNECT, {"session_id": session_id}, occasion)
            except BlockedByPlugin as blocked:
                log.info("plugin.overruled", hook=blocked.hook, plugin=blocked.plugin)
        if limit.cancelled_caught:
            log.warning("plugin.too_slow", hook=hooks.CHAT_PRE_DISCONNECT)

    def _occasion(self, request_id: str, config: UserConfig) -> Occasion:
        server = server_id(config.servers[0]) if len(config.servers) == 1 else ""
        return Occasion(request_id=request_id, user=self._user, session_id=config.session_id, server=server)


def _fields(config: UserConfig) -> dict[str, Any]:
    return {
        "session_id": config.session_id,
        "servers": [_told(server) for server in config.servers],
        "model": config.backend,
    }


def _told(server: ServerConfig) -> dict[str, Any]:
    own = {"operator": server.operator}
    return {"alias": server.alias, "id": server_id(server), "url": _place(server), **own}


def _place(server: ServerConfig) -> str:
    """Return where a server is, without what may be secret in its address."""
    parts = urlsplit(server.url or "")
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, parts.path, "", ""))


def watched(plugins: Plugins, deliver: Deliver) -> Deliver:
    """Return what delivers events and lets plugins hear of them, without waiting for anybody."""
    if hooks.CHAT_EVENT not in plugins.hooks:
        return deliver

    def delivered(user: str, entries: Sequence[Entry]) -> None:
        deliver(user, entries)
        _tell(plugins, user, entries)

    return delivered


def _tell(plugins: Plugins, user: str, entries: Iterable[Entry]) -> None:
    for entry in entries:
        event = EVENT.dump_python(entry.event, mode="json")
        fields = {"entry_id": entry.id, "command_id": entry.command_id, "event": event}
        occasion = Occasion(request_id=entry.command_id or entry.id, user=user)
        plugins.tell(hooks.CHAT_EVENT, fields, occasion)
