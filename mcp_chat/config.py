"""What a user is connected to: servers, model, and the conversation that is open."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from mcp_chat.exceptions import Unreadable
from mcp_chat.message import new_id
from mcp_chat.verdicts import Verdict

MASK = "*****"
Transport = Literal["streamable_http", "sse", "stdio"]


@dataclass(frozen=True, slots=True, kw_only=True)
class OAuthClient:
    """The operator's own registration at the authorization server of an MCP server.

    Attributes:
        issuer: That authorization server; nobody else is told the id and the secret. Empty: whichever the
            MCP server names.
        scopes: Asked for when the MCP server does not say which.
    """

    client_id: str = ""
    client_secret: str | None = field(default=None, repr=False)
    issuer: str = ""
    scopes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """An MCP server. Only the operator's file may name a command; those are marked trusted.

    Attributes:
        login: Its token is the user's login, and for the gateway only.
        safe_tools: Tools that may be called again when the outcome of a call is not known.
        trust_read_only: Whether the server's own word for that, its `readOnlyHint`, counts.
        oauth: How users sign in to it, where the operator has arranged that.
        enabled: Whether its user has switched it on.
        disabled_tools: What they have switched off, by the names at the server.
        barred_tools: What the operator does not offer, by the names at the server.
        rules: What the operator allows, has asked about, and denies; see `mcp_chat.verdicts`.
        always: Whether a user may allow a tool once for all.
        own_rules: Where the user is stricter, by the names at the server.
        cwd: Where a command runs; by default in an empty directory of its own.
        timeout: Seconds that a call of its tools may show no progress, if the operator says so.
        apps: Whether the operator allows its tools to show pages of their own.
        user_id: Stands for `${user.id}` when it is opened, and is not filled in before.
        user_token: The same for `${user.token}`: the user's login, where the operator's file asks for it.
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
    oauth: OAuthClient = OAuthClient()
    enabled: bool = True
    disabled_tools: tuple[str, ...] = ()
    barred_tools: tuple[str, ...] = ()
    rules: Mapping[str, Verdict] = field(default_factory=dict)
    always: bool = True
    own_rules: Mapping[str, Verdict] = field(default_factory=dict)
    cwd: str | None = None
    timeout: float | None = None
    apps: bool = False
    user_id: str | None = None
    user_token: str | None = field(default=None, repr=False)

    def all_headers(self) -> dict[str, str]:
        """Return the headers of every request to this server, and to no other."""
        token = {"Authorization": f"Bearer {self.auth_token}"} if self.auth_token else {}
        return {**self.headers, **token}

    @property
    def signs_in(self) -> bool:
        """Whether users sign in to it by OAuth: it is on the network, with no token from elsewhere."""
        own = self.auth_token or any(name.lower() == "authorization" for name in self.headers)
        return self.url is not None and self.transport != "stdio" and not own


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """A model as ``provider:model`` and what it is called with.

    Attributes:
        api_key: A user's own. With a secret key beside it it is the id of an AWS access key.
        secret_key: The secret of that access key.
        session_token: What a temporary access key has besides.
        api_version: Azure's.
        deployment: Azure's name of the model, if it is not the model's.
        region: Of Amazon Bedrock, or of watsonx.
        project_id: Of watsonx.
        operator: Whether it is of the operator's catalogue.
    """

    provider: str
    model: str
    base_url: str | None = None
    api_key: str | None = field(default=None, repr=False)
    secret_key: str | None = field(default=None, repr=False)
    session_token: str | None = field(default=None, repr=False)
    api_version: str | None = None
    deployment: str | None = None
    region: str | None = None
    project_id: str | None = None
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
                **_shown_further(model),
            },
        },
        "chat_history_max_messages": max_messages,
        "enable_streaming": config.streaming,
        "session_id": config.session_id,
        "tools": list(config.tools),
    }


def _shown_further(model: ModelConfig) -> dict[str, str]:
    """What only some providers have is shown where there is any."""
    secrets = {"secret_key": model.secret_key and MASK, "session_token": model.session_token and MASK}
    names = ("api_version", "deployment", "region", "project_id")
    plain = {name: getattr(model, name) for name in names}
    return {name: value for name, value in {**secrets, **plain}.items() if value}


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
