"""The operator's MCP servers, from a file in the common `mcpServers` shape, and the servers users name."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import orjson
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError

from mcp_chat.config import OAuthClient, ServerConfig, Transport, first_problem
from mcp_chat.exceptions import InvalidRequest, SettingsError
from mcp_chat.names import skeleton
from mcp_chat.netguard import Policy, check_url
from mcp_chat.urls import is_url, origin_of
from mcp_chat.verdicts import Verdict

MAX_TIMEOUT = 3600
"""Seconds; a tool that takes longer is one for the tasks extension."""

_PLACEHOLDER = re.compile(r"\$\{([A-Z0-9_]+)\}")
_USERS = re.compile(r"\$\{user\.([A-Za-z0-9_]*)\}")
_TRANSPORTS: dict[str, Transport] = {
    "http": "streamable_http",
    "streamable_http": "streamable_http",
    "streamablehttp": "streamable_http",
    "sse": "sse",
    "stdio": "stdio",
}
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+\Z")
_HEADER_VALUE = re.compile(r"([\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?)?\Z")


class _OAuth(BaseModel):
    model_config = ConfigDict(extra="forbid")

    client_id: str = ""
    client_secret: str = ""
    issuer: str = ""
    scopes: list[str] = Field(default_factory=list)


class _Server(BaseModel):
    model_config = ConfigDict(extra="forbid")

    type: str | None = Field(None, validation_alias=AliasChoices("type", "transport"))
    url: str | None = None
    headers: dict[str, str] = Field(default_factory=dict)
    command: str | None = None
    args: list[str] = Field(default_factory=list)
    env: dict[str, str] = Field(default_factory=dict)
    cwd: str | None = None
    description: str = ""
    enabled: bool = True
    disabled: bool = False
    disabled_tools: list[str] = Field(
        default_factory=list, validation_alias=AliasChoices("disabledTools", "disabled_tools")
    )
    safe_tools: list[str] = Field(default_factory=list)
    trust_read_only: bool = False
    tools: dict[str, Verdict] = Field(default_factory=dict)
    always: bool = True
    timeout: float | None = Field(None, gt=0, le=MAX_TIMEOUT)
    apps: bool = False
    oauth: _OAuth = Field(default_factory=_OAuth)


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
        raise SettingsError(f"{path} is not a valid list of servers: {_problem(error)}.") from None
    found = {name: _operators(path, name, server, environ) for name, server in servers.items()}
    return {name: server for name, server in found.items() if server.enabled}


def _problem(error: ValidationError) -> str:
    """The place of what is wrong, and for a key that there is not, those that there are."""
    first = error.errors(include_url=False, include_input=False)[0]
    if first["type"] != "extra_forbidden" or first["loc"][0] != "mcpServers":
        return first_problem(error)
    form: type[BaseModel] = _OAuth if len(first["loc"]) > 3 else _Server
    names = ", ".join("disabledTools" if name == "disabled_tools" else name for name in form.model_fields)
    return f"{'.'.join(map(str, first['loc']))}: there is no such key; there are {names}"


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

    _check_placeholders(path, name, server)
    read = ServerConfig(
        alias=name,
        transport=_transport(path, name, server),
        url=filled(server.url) if server.url else None,
        headers={key: filled(value) for key, value in server.headers.items()},
        command=server.command,
        args=tuple(filled(arg) for arg in server.args),
        env={key: filled(value) for key, value in server.env.items()},
        cwd=filled(server.cwd) if server.cwd else None,
        description=server.description,
        operator=True,
        enabled=server.enabled and not server.disabled,
        barred_tools=tuple(server.disabled_tools),
        safe_tools=tuple(server.safe_tools),
        trust_read_only=server.trust_read_only,
        rules=server.tools,
        always=server.always,
        timeout=server.timeout,
        apps=server.apps,
        oauth=_oauth(path, name, server.oauth, filled),
    )
    for key, value in read.headers.items():
        if not (_HEADER_NAME.match(key) and is_header_value(value)):
            raise SettingsError(f"{path}: the server {name} has a header that cannot be sent: {key!r}.")
    return read


def _oauth(path: Path, name: str, oauth: _OAuth, filled: Callable[[str], str]) -> OAuthClient:
    """Read the operator's registration: a secret needs the name of the one server that may hear it."""
    if oauth.client_secret and not (oauth.client_id and oauth.issuer):
        raise SettingsError(
            f"{path}: the server {name} has an oauth.client_secret: add its client_id and its issuer."
        )
    if oauth.issuer and not is_url(oauth.issuer):
        raise SettingsError(f"{path}: the oauth.issuer of the server {name} must be an http or https URL.")
    return OAuthClient(
        client_id=filled(oauth.client_id),
        client_secret=filled(oauth.client_secret) or None,
        issuer=oauth.issuer,
        scopes=tuple(oauth.scopes),
    )


def _transport(path: Path, name: str, server: _Server) -> Transport:
    """Return the transport by any of its usual names."""
    if server.type is None:
        return "stdio" if server.command else "streamable_http"
    known = _TRANSPORTS.get(server.type.lower().replace("-", "_"))
    if known is None:
        names = "http, streamable-http, sse and stdio"
        raise SettingsError(f"{path}: the server {name} has a type that there is not; there are {names}.")
    if (known == "stdio") != bool(server.command):
        needed = "a command" if known == "stdio" else "a url"
        raise SettingsError(f"{path}: the server {name} is of type {server.type} and needs {needed}.")
    return known


def _check_placeholders(path: Path, name: str, server: _Server) -> None:
    """Refuse placeholders that there are not, and the login's token where others could read it."""
    everywhere = [server.url or "", server.cwd or "", *server.args, *server.headers.values()]
    for text in [*everywhere, *server.env.values()]:
        for wanted in _USERS.findall(text):
            if wanted not in ("id", "token"):
                there = "${user.id} and ${user.token}"
                raise SettingsError(
                    f"{path}: the server {name} wants ${{user.{wanted}}}, but there are only {there}."
                )
    if any("${user.token}" in text for text in (server.url or "", server.cwd or "", *server.args)):
        raise SettingsError(
            f"{path}: the server {name} may have ${{user.token}} in headers and env only: "
            "others can read addresses and arguments."
        )


def for_user(server: ServerConfig, user_id: str, token: str) -> ServerConfig:
    """Return an operator's server with what its placeholders will stand for, which are not filled in yet.

    Args:
        token: That of the login; empty if the login has none.

    Raises:
        InvalidRequest: The user has nothing that it could stand for, or what they have cannot be used.
    """
    wanted = _wanted(server)
    if "token" in wanted and not token:
        raise InvalidRequest(
            f"Invalid configuration: the server {server.alias} needs the token of your login, "
            "and your login has none. Ask the operator how to log in for it."
        )
    chosen = replace(
        server,
        user_id=user_id if "id" in wanted else None,
        user_token=token if "token" in wanted else None,
    )
    filled_in(chosen)  # what cannot be used is said now
    return chosen


def _wanted(server: ServerConfig) -> set[str]:
    texts = [server.url or "", server.cwd or "", *server.args]
    texts += [*server.headers.values(), *server.env.values()]
    return {name for text in texts for name in _USERS.findall(text)}


def filled_in(server: ServerConfig) -> ServerConfig:
    """Return an operator's server as it is opened for its user: this is neither stored nor shown.

    Raises:
        InvalidRequest: Something cannot stand where the operator wants it.
    """
    if not _wanted(server):
        return server
    values = {"id": server.user_id, "token": server.user_token}

    def fill(text: str, fits: Callable[[str], bool], form: Callable[[str], str] = str) -> str:
        def value(match: re.Match[str]) -> str:
            found = values[match[1]]
            if found is None:
                raise InvalidRequest(
                    f"Invalid configuration: the server {server.alias} needs more of your login than before. "
                    "Please connect again."
                )
            if not (is_header_value if match[1] == "token" else fits)(found):
                what = "name" if match[1] == "id" else "login's token"
                raise InvalidRequest(
                    f"Invalid configuration: your {what} has characters that the server {server.alias} "
                    "cannot be given. Ask the operator."
                )
            return form(found)

        return _USERS.sub(value, text)

    quoted = partial(quote, safe="")
    return replace(
        server,
        url=fill(server.url, _is_segment, quoted) if server.url else None,
        headers={key: fill(text, is_header_value) for key, text in server.headers.items()},
        args=tuple(fill(arg, _is_segment) for arg in server.args),
        env={key: fill(text, _is_segment) for key, text in server.env.items()},
        cwd=fill(server.cwd, _is_segment) if server.cwd else None,
        user_id=None,
        user_token=None,
    )


def _is_segment(text: str) -> bool:
    """Tell whether a text can be a part of a path or an argument, and means nothing else there."""
    plain = text.isprintable() and not text.startswith("-") and not set(text) & set("/\\\0")
    return plain and text not in ("", ".", "..")


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
    now = listed[server.alias]
    chosen = replace(
        now,
        enabled=server.enabled,
        disabled_tools=server.disabled_tools,
        own_rules=server.own_rules,
        user_id=server.user_id,
        user_token=server.user_token,
    )
    return filled_in(chosen)


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
    """Return the servers with aliases that differ, also at a glance.

    Raises:
        InvalidRequest: Two servers were given the same alias.
    """
    aliases = [skeleton(server.alias) for server in servers]
    if len(set(aliases)) != len(aliases):
        raise InvalidRequest("Invalid configuration: give each server an alias of its own.")
    return tuple(servers)
