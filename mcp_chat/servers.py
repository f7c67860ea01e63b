"""The operator's MCP servers, from a file in the common `mcpServers` shape, and the servers users name."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mcp_chat.config import ServerConfig, first_problem
from mcp_chat.exceptions import InvalidRequest, SettingsError
from mcp_chat.netguard import Policy, check_url
from mcp_chat.urls import origin_of

_PLACEHOLDER = re.compile(r"\$\{([A-Z0-9_]+)\}")
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+\Z")
_HEADER_VALUE = re.compile(r"([\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?)?\Z")


class _Server(BaseModel):
    model_config = ConfigDict(extra="forbid")

    type: str | None = None
    url: str | None = None
    headers: dict[str, str] = Field(default_factory=dict)
    command: str | None = None
    args: list[str] = Field(default_factory=list)
    env: dict[str, str] = Field(default_factory=dict)
    description: str = ""
    safe_tools: list[str] = Field(default_factory=list)
    trust_read_only: bool = False


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    mcpServers: dict[str, _Server] = Field(default_factory=dict)  # noqa: N815 - the name of the common shape


def read_servers(path: Path, environ: Mapping[str, str] = os.environ) -> dict[str, ServerConfig]:
    """Read the operator's servers; `${NAME}` stands for an environment variable.

    Raises:
        SettingsError: The file is not valid.
    """
    if not path.exists():
        return {}
    try:
        servers = _File.model_validate(orjson.loads(path.read_bytes())).mcpServers
    except (orjson.JSONDecodeError, OSError) as error:
        raise SettingsError(f"{path} cannot be read as JSON: {str(error).splitlines()[0]}.") from None
    except ValidationError as error:
        raise SettingsError(f"{path} is not a valid list of servers: {first_problem(error)}.") from None
    return {name: _operators(path, name, server, environ) for name, server in servers.items()}


def _operators(path: Path, name: str, server: _Server, environ: Mapping[str, str]) -> ServerConfig:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9-]{0,31}", name):
        raise SettingsError(f"{path}: the name {name!r} must be letters, digits and hyphens, 32 at most.")
    if bool(server.url) == bool(server.command):
        raise SettingsError(f"{path}: the server {name} needs either a url or a command.")

    def filled(text: str) -> str:
        try:
            return _PLACEHOLDER.sub(lambda match: environ[match[1]], text)
        except KeyError as error:
            raise SettingsError(
                f"{path}: the server {name} needs the environment variable {error.args[0]}."
            ) from None

    headers = {key: filled(value) for key, value in server.headers.items()}
    for key, value in headers.items():
        if not (_HEADER_NAME.match(key) and is_header_value(value)):
            raise SettingsError(f"{path}: the server {name} has a header that cannot be sent: {key!r}.")
    sse = server.type == "sse"
    return ServerConfig(
        alias=name,
        transport="stdio" if server.command else "sse" if sse else "streamable_http",
        url=filled(server.url) if server.url else None,
        headers=headers,
        command=server.command,
        args=tuple(filled(arg) for arg in server.args),
        env={key: filled(value) for key, value in server.env.items()},
        description=server.description,
        operator=True,
        safe_tools=tuple(server.safe_tools),
        trust_read_only=server.trust_read_only,
    )


def shown(servers: Mapping[str, ServerConfig]) -> list[dict[str, Any]]:
    """Return what a user sees of the operator's servers: no address, no command."""
    return [
        {"name": server.alias, "description": server.description, "transport": server.transport}
        for server in servers.values()
    ]


def current(
    server: ServerConfig, listed: Mapping[str, ServerConfig], origins: Collection[str]
) -> ServerConfig:
    """Return an operator's server as it is listed now, which may be elsewhere than when the user chose it.

    Args:
        origins: Where the gateway is now; what was stored of a login goes nowhere else.

    Raises:
        InvalidRequest: It is no longer listed, or no longer the gateway.
    """
    if server.login and not _is_at(server, origins):
        raise InvalidRequest(
            f"Invalid configuration: the server {server.alias} no longer gets your login. "
            "Please connect again."
        )
    if not server.operator:
        return server
    if server.alias not in listed:
        raise InvalidRequest(
            f"Invalid configuration: the server {server.alias} is no longer offered. Please connect again."
        )
    return listed[server.alias]


def own_server(
    url: str, *, transport: str, auth_token: str | None, alias: str | None, policy: Policy | None = None
) -> ServerConfig:
    """Return a server that a user names.

    Args:
        policy: Which schemes and ports it may have.

    Raises:
        InvalidRequest: The address, the transport or the token cannot be used.
    """
    if transport not in ("streamable_http", "sse"):
        raise InvalidRequest(
            "Invalid configuration: a server of yours must be reached by streamable_http or sse."
        )
    if auth_token and not is_header_value(auth_token):
        raise InvalidRequest("Invalid configuration: the token has characters that no header may have.")
    checked = check_url(url, policy)
    return ServerConfig(
        alias=alias or _alias_of(checked),
        transport="sse" if transport == "sse" else "streamable_http",
        url=checked,
        auth_token=auth_token or None,
    )


def with_login(server: ServerConfig, token: str, origins: Collection[str]) -> ServerConfig:
    """Return a user's server with the user's login token, if it is the gateway and has no other token.

    Args:
        token: That of the login; empty if the login has none.
        origins: Where the gateway is; a login token goes nowhere else.

    Raises:
        InvalidRequest: The token cannot be sent.
    """
    if not token or server.auth_token or not _is_at(server, origins):
        return server
    if not is_header_value(token):
        raise InvalidRequest("Invalid configuration: your login has characters that no header may have.")
    return replace(server, auth_token=token, login=True)


def _is_at(server: ServerConfig, origins: Collection[str]) -> bool:
    """Tell whether a server is at one of the origins."""
    try:
        return server.url is not None and origin_of(server.url) in origins
    except ValueError:
        return False


def is_header_value(text: str) -> bool:
    """Tell whether a token or key is the whole value of a header, and no second header."""
    return bool(_HEADER_VALUE.match(text))


def _alias_of(url: str) -> str:
    """A short name from the address: its host's first telling label."""
    labels = [
        label for label in (urlsplit(url).hostname or "").split(".") if label not in ("www", "mcp", "api")
    ]
    name = re.sub(r"[^A-Za-z0-9]+", "-", labels[0] if labels else "").strip("-")[:24]
    return name if name and not name.isdigit() else "server"


def distinct(servers: Sequence[ServerConfig]) -> tuple[ServerConfig, ...]:
    """Return the servers with aliases that differ, also when case is ignored.

    Raises:
        InvalidRequest: Two servers were given the same alias.
    """
    aliases = [server.alias.casefold() for server in servers]
    if len(set(aliases)) != len(aliases):
        raise InvalidRequest("Invalid configuration: give each server an alias of its own.")
    return tuple(servers)
