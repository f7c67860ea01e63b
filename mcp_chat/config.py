"""What a user is connected to: servers, model, and the conversation that is open."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from mcp_chat.exceptions import Unreadable
from mcp_chat.message import new_id

MASK = "*****"
Transport = Literal["streamable_http", "sse", "stdio"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """An MCP server. Only the operator's file may name a command; those are marked trusted.

    Attributes:
        login: Its token is the user's login, and for the gateway only.
        safe_tools: Tools that may be called again when the outcome of a call is not known.
        trust_read_only: Whether the server's own word for that, its `readOnlyHint`, counts.
    """

    alias: str
    transport: Transport = "streamable_http"
    url: str | None = None
    auth_token: str | None = field(default=None, repr=False)
    login: bool = False
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    command: str | None = None
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    description: str = ""
    operator: bool = False
    safe_tools: tuple[str, ...] = ()
    trust_read_only: bool = False

    def all_headers(self) -> dict[str, str]:
        """Return the headers of every request to this server, and to no other."""
        token = {"Authorization": f"Bearer {self.auth_token}"} if self.auth_token else {}
        return {**self.headers, **token}


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """A model as ``provider:model`` and what it is called with."""

    provider: str
    model: str
    base_url: str | None = None
    api_key: str | None = field(default=None, repr=False)
    temperature: float | None = None
    max_tokens: int | None = None
    operator: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class UserConfig:
    """Everything a worker needs to serve a user, written and read as one value."""

    servers: tuple[ServerConfig, ...]
    model: ModelConfig
    session_id: str = field(default_factory=new_id)
    streaming: bool = False
    tools: tuple[str, ...] = ()

    @property
    def backend(self) -> str:
        """The model, as a session names it."""
        return f"{self.model.provider}:{self.model.model}"


CONFIG: TypeAdapter[UserConfig] = TypeAdapter(UserConfig)
"""Configurations as JSON; only ever stored sealed."""


def config_of(text: str) -> UserConfig:
    """Read a configuration.

    Raises:
        Unreadable: It is none that this version knows; the error has nothing of it, as it has tokens.
    """
    try:
        return CONFIG.validate_json(text)
    except ValidationError:
        raise Unreadable from None


def first_problem(error: ValidationError) -> str:
    """Return the place and the text of what is wrong in an operator's file, without what stands there."""
    first = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(str(part) for part in first["loc"]) or "the whole file"
    return f"{place}: {first['msg']}"


def shown(config: UserConfig, *, max_messages: int) -> dict[str, Any]:
    """Return the configuration as its owner may see it, secrets masked.

    The shape is that of ContextForge's ``GET /llmchat/config/{user_id}``, with the further servers, the
    session and the tools beside it.
    """
    servers = [_shown_server(server) for server in config.servers]
    model = config.model
    return {
        "mcp_server": servers[0] if servers else None,
        "mcp_servers": servers,
        "llm": {
            "provider": model.provider,
            "config": {
                "model": model.model,
                "base_url": None if model.operator else model.base_url,
                "api_key": MASK if model.api_key else None,
                "temperature": model.temperature,
                "max_tokens": model.max_tokens,
            },
        },
        "chat_history_max_messages": max_messages,
        "enable_streaming": config.streaming,
        "session_id": config.session_id,
        "tools": list(config.tools),
    }


def _shown_server(server: ServerConfig) -> dict[str, Any]:
    """An operator's address is the operator's business: only its name is shown."""
    own = not server.operator
    headers = dict.fromkeys(server.all_headers(), MASK) if own else {}
    return {
        "name": server.alias,
        "url": server.url if own else None,
        "command": None,
        "args": None,
        "transport": server.transport,
        "auth_token": MASK if own and server.auth_token else None,
        "headers": headers or None,
    }
