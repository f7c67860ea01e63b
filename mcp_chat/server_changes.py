"""What can be changed about a user's servers while they are connected, and how the servers are shown."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError

from mcp_chat.config import ServerConfig, UserConfig
from mcp_chat.connections import Connection, Held
from mcp_chat.exceptions import Unreadable
from mcp_chat.tools import Tool
from mcp_chat.verdicts import Verdict

FIELD = "servers"
"""What changes are sealed for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AddServer:
    """Connect to one more.

    Attributes:
        most: Servers that the user may have with it.
    """

    server: ServerConfig
    most: int
    type: Literal["add"] = "add"


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoveServer:
    """Close a server and forget it."""

    alias: str
    type: Literal["remove"] = "remove"


@dataclass(frozen=True, slots=True, kw_only=True)
class SwitchServer:
    """Switch a server on or off."""

    alias: str
    enabled: bool
    type: Literal["switch"] = "switch"


@dataclass(frozen=True, slots=True, kw_only=True)
class SwitchTools:
    """Switch tools of a server on and off, by their names there, and accept changed ones by their hashes.

    Attributes:
        policy: Which are to be allowed, asked about, or denied.
    """

    alias: str
    enabled: Mapping[str, bool] = field(default_factory=dict)
    accept: Mapping[str, str] = field(default_factory=dict)
    policy: Mapping[str, Verdict] = field(default_factory=dict)
    type: Literal["tools"] = "tools"


ServerChange = AddServer | RemoveServer | SwitchServer | SwitchTools

CHANGE: TypeAdapter[ServerChange] = TypeAdapter(Annotated[ServerChange, Field(discriminator="type")])
"""Changes as JSON; only ever stored sealed."""


def change_of(text: str) -> ServerChange:
    """Read a change.

    Raises:
        Unreadable: It is none that this version knows; the error has nothing of it, as it may have tokens.
    """
    try:
        return CHANGE.validate_json(text)
    except ValidationError:
        raise Unreadable from None


def shown(config: UserConfig, connections: Mapping[str, Connection]) -> tuple[dict[str, Any], ...]:
    """Return the user's servers as they may see them, without addresses: this goes into log and record.

    An address may hold a secret. `addressed` adds those that the user may see.
    """
    return tuple(_shown(server, connections.get(server.alias)) for server in config.servers)


def addressed(servers: Iterable[Mapping[str, Any]], config: UserConfig | None) -> list[dict[str, Any]]:
    """Return shown servers with the addresses of the user's own."""
    own = {each.alias: each.url for each in config.servers if not each.operator} if config else {}
    return [{"alias": each["alias"], "url": own.get(each["alias"]), **each} for each in servers]


def _shown(server: ServerConfig, connection: Connection | None) -> dict[str, Any]:
    return {
        "alias": server.alias,
        "transport": server.transport,
        "operator": server.operator,
        "enabled": server.enabled,
        "state": connection.state if connection else "off",
        "error": (connection.problem if connection else "") or None,
        "sign_in_url": (connection.sign_in if connection else "") or None,
        "signed_in": bool(connection and connection.signed_in),
        "tools": [_brief(tool, connection) for tool in connection.all_tools] if connection else [],
        "left_out": connection.left_out if connection else {},
        "offers": list(connection.offers) if connection else [],
    }


def shown_tools(connection: Connection, granted: Collection[str] = ()) -> tuple[dict[str, Any], ...]:
    """Return a server's tools with what they say, and what has changed in those that are held back.

    Args:
        granted: Hashes of the definitions that the user has allowed for good.
    """
    return tuple(
        {
            **_brief(tool, connection),
            "policy": _policy(tool, connection, granted),
            "description": tool.description,
            "change": _change(connection.held.get(tool.remote_name)),
        }
        for tool in connection.all_tools
    )


def _brief(tool: Tool, connection: Connection) -> dict[str, Any]:
    return {
        "name": tool.remote_name,
        "shown_as": tool.name,
        "enabled": tool.remote_name not in connection.server.disabled_tools,
        "held": tool.remote_name in connection.held,
        "app_only": not tool.face.model,
        "app": connection.server.apps and bool(tool.face.uri),
    }


def _policy(tool: Tool, connection: Connection, granted: Collection[str]) -> Verdict:
    verdict = connection.verdict(tool)
    return "allow" if verdict == "ask" and tool.digest in granted else verdict


def _change(held: Held | None) -> dict[str, Any] | None:
    if held is None:
        return None
    changes = [{"place": each.path, "before": each.before, "after": each.after} for each in held.difference]
    return {"hash": held.definition.digest, "difference": changes}
