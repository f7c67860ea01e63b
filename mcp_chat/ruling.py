"""What a user changes about what may be done with the tools of one of their servers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mcp_chat.config import ServerConfig
from mcp_chat.connections import Connection
from mcp_chat.definitions import identity_of
from mcp_chat.exceptions import InvalidRequest
from mcp_chat.grants import Grant, Grants
from mcp_chat.tools import Tool
from mcp_chat.verdicts import Verdict, verdict_of

MOST = 1000
"""Rules of a user for one server."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ruling:
    """A change that can be made.

    Attributes:
        own: The user's rules from now on.
        given: What is allowed for good.
        taken: Names of the tools of which nothing is any more that was allowed before.
    """

    own: Mapping[str, Verdict]
    given: tuple[Grant, ...]
    taken: tuple[str, ...]

    async def keep(self, grants: Grants, user: str, server: ServerConfig) -> None:
        """Keep what is allowed, and forget what is not."""
        place = identity_of(server)
        for name in self.taken:
            await grants.drop_place(user, place, name)
        for grant in self.given:
            await grants.put(user, grant)


def ruling_of(server: ServerConfig, connection: Connection | None, policy: Mapping[str, Verdict]) -> Ruling:
    """Return what a change comes to: stricter is always possible, and looser as far as the operator lets it.

    Args:
        connection: None if the server is switched off.
        policy: What the user wants, by the tools' names at the server.

    Raises:
        InvalidRequest: Something cannot be allowed, or there are too many rules.
    """
    own = {**server.own_rules, **{name: each for name, each in policy.items() if each != "allow"}}
    allowed = [name for name, each in policy.items() if each == "allow"]
    given = [grant for name in allowed if (grant := _grant(server, connection, name))]
    own = {name: each for name, each in own.items() if name not in allowed}
    if len(own) > MOST:
        raise InvalidRequest(f"You have rules for {MOST} tools of {server.alias}, as many as possible.")
    return Ruling(own=own, given=tuple(given), taken=tuple(name for name in policy if name in own))


def _grant(server: ServerConfig, connection: Connection | None, name: str) -> Grant | None:
    """Return the leave that a tool needs; none if the operator allows it anyhow."""
    tool = _listed(connection, name)
    if connection is None or tool is None:
        raise InvalidRequest(
            f"There is no tool {name} that could be allowed; its server may be switched off."
        )
    if name in connection.held:
        raise InvalidRequest(
            f"The server has changed the tool {name}. Accept the change before you allow it."
        )
    now = connection.server
    verdict = verdict_of(name, rules=now.rules, own={}, safe=tool.safe)
    if verdict == "allow":
        return None
    if verdict == "deny" or not now.always:
        raise InvalidRequest(f"The operator does not let the tool {name} be allowed for good.")
    return Grant(
        server=server.alias,
        place=identity_of(now),
        tool=tool.name,
        name=name,
        definition=tool.digest,
    )


def _listed(connection: Connection | None, name: str) -> Tool | None:
    tools = connection.all_tools if connection else ()
    return next((tool for tool in tools if tool.remote_name == name), None)
