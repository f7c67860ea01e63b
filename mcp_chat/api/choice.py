"""The servers that a request names: the operator's by their names, and the user's own by their URLs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mcp_chat import servers
from mcp_chat.api.bodies import ConnectBody, InvalidBody, ServerBody
from mcp_chat.config import ServerConfig
from mcp_chat.exceptions import InvalidRequest
from mcp_chat.identity import Principal
from mcp_chat.netguard import Policy


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What can be chosen.

    Attributes:
        servers: The operator's servers by name.
        most: Servers of a user.
        policy: Which URLs users may give.
        gateway_origins: Where the MCP servers are that get the user's login token.
    """

    servers: Mapping[str, ServerConfig]
    most: int
    policy: Policy
    gateway_origins: frozenset[str]

    def all(self, body: ConnectBody, user: Principal) -> tuple[ServerConfig, ...]:
        """Return the servers of a connect; without one it is the operator's `default`, if there is one.

        Raises:
            InvalidRequest: One of them cannot be used.
        """
        if body.server is None and body.servers is None:
            return tuple(self._listed(name, user) for name in self.servers if name == "default")
        if len(body.all_servers()) > self.most:
            raise InvalidBody([_too_many(self.most)])
        return servers.distinct([self.one(server, user) for server in body.all_servers()])

    def one(self, body: ServerBody, user: Principal) -> ServerConfig:
        """Return one server.

        Raises:
            InvalidRequest: It cannot be used.
        """
        if body.url:
            own = servers.own_server(
                body.url,
                transport=body.transport,
                auth_token=body.auth_token,
                alias=body.alias,
                policy=self.policy,
            )
            return servers.with_login(own, user.token, self.gateway_origins)
        return self._listed(body.name or "", user)

    def _listed(self, name: str, user: Principal) -> ServerConfig:
        server = self.servers.get(name)
        if server is None:
            known = ", ".join(self.servers) or "none"
            raise InvalidRequest(f"Invalid configuration: the operator's servers are: {known}.")
        return servers.for_user(server, user.id, user.token)

    def shown(self) -> list[dict[str, Any]]:
        """Return what a user sees of the operator's servers."""
        return servers.shown(self.servers)


def _too_many(most: int) -> dict[str, Any]:
    text = f"Connect to at most {most} servers at once"
    return {"loc": ["body", "servers"], "msg": text, "type": "too_long"}
