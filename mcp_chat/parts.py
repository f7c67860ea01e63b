"""What a process makes of its settings before anything is opened."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from ipaddress import IPv6Network
from types import MappingProxyType

import structlog

from mcp_chat import logs
from mcp_chat.api.identity import Identity
from mcp_chat.catalogue import CatalogueEntry, read_catalogue
from mcp_chat.config import ServerConfig
from mcp_chat.drain import Drain
from mcp_chat.exceptions import InvalidRequest, SettingsError
from mcp_chat.keyring import is_open_to_all
from mcp_chat.login.contextforge import SESSION, ContextForgeIdentity, Gateway
from mcp_chat.login.custom import CustomIdentity, function_at
from mcp_chat.login.demo import DemoIdentity, cookie_secret
from mcp_chat.login.keys import JWKS, FixedKey, Keys, public_key
from mcp_chat.login.proxy import ProxyIdentity
from mcp_chat.login.token import BearerIdentity, TokenCheck
from mcp_chat.netguard import Policy, check_url
from mcp_chat.plugins.opening import check_plugins
from mcp_chat.prices import load_prices
from mcp_chat.providers import load_packages
from mcp_chat.safety import check_settings, encryption_keys
from mcp_chat.servers import read_servers
from mcp_chat.settings import Settings
from mcp_chat.urls import origin_of
from mcp_chat.vault import Vault
from mcp_chat.verdicts import Verdict

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What a process makes of its settings before anything is opened."""

    settings: Settings
    entries: list[CatalogueEntry]
    servers: dict[str, ServerConfig]
    identity: Identity
    vault: Vault
    drain: Drain
    policy: Policy
    gateway_origins: frozenset[str]


def parts_of(settings: Settings) -> Parts:
    """Check the settings and return what they ask for.

    Raises:
        SettingsError: They do not allow a safe start.
    """
    check_settings(settings)
    check_stores(settings)
    check_plugins(settings)
    logs.set_up(settings.log_level)
    entries = read_catalogue(settings.models_file)
    load_packages(entries)
    load_prices()
    return Parts(
        settings=settings,
        entries=entries,
        servers=servers_of(settings),
        identity=identity_of(settings),
        vault=vault_of(settings),
        drain=Drain(),
        policy=policy_of(settings),
        gateway_origins=origins_of(settings),
    )


def check_stores(settings: Settings) -> None:
    """Refuse several workers that could not see each other.

    Raises:
        SettingsError: Several workers without Redis.
    """
    if settings.workers > 1 and not settings.redis_url.get_secret_value():
        raise SettingsError(
            "Several workers need Redis: set REDIS_URL or GUNICORN_WORKERS=1, or use `mcp-chat serve`."
        )


def identity_of(settings: Settings) -> Identity:
    """Return what proves who asks.

    Raises:
        SettingsError: A key or a function that is named cannot be read.
    """
    match settings.auth:
        case "demo":
            secret = settings.jwt_secret_key.get_secret_value()
            return DemoIdentity(cookie_secret(secret or secrets.token_urlsafe(32)))
        case "jwt":
            return BearerIdentity(token_check(settings))
        case "contextforge":
            return ContextForgeIdentity(token_check(settings, SESSION), Gateway(settings.gateway_url))
        case "proxy":
            return ProxyIdentity(
                peers=settings.proxy_peers,
                secret=settings.proxy_secret.get_secret_value(),
                user_header=settings.proxy_user_header,
                secret_header=settings.proxy_secret_header,
            )
    return CustomIdentity(function_at(settings.auth))


def token_check(settings: Settings, required: Mapping[str, str] = MappingProxyType({})) -> TokenCheck:
    """Return what a token must be."""
    return TokenCheck(
        keys_of_tokens(settings),
        settings.jwt_algorithms,
        audience=settings.jwt_audience,
        issuer=settings.jwt_issuer,
        required={**settings.jwt_claims, **required},
        user_claim=settings.jwt_user_claim,
    )


def keys_of_tokens(settings: Settings) -> Keys:
    """Return what tokens are checked with."""
    if settings.jwks_url:
        return JWKS(settings.jwks_url, settings.jwt_algorithms)
    if settings.jwt_public_key_path:
        return FixedKey(public_key(settings.jwt_public_key_path))
    return FixedKey(settings.jwt_secret_key.get_secret_value())


def vault_of(settings: Settings) -> Vault:
    """Return the vault; in demo mode with a key that lasts as long as this process if none is set."""
    path = settings.encryption_key_file
    if path and is_open_to_all(path):  # as orchestrators mount secrets; elsewhere it is a mistake
        log.warning("encryption_key_file.open_to_all", path=str(path), advice="chmod 600")
    return Vault(encryption_keys(settings) or [os.urandom(32)])


def policy_of(settings: Settings) -> Policy:
    """Return what users may have dialled."""
    return Policy(
        allowed_networks=settings.allowed_networks,
        ports=settings.allowed_ports,
        schemes=settings.allowed_schemes,
        nat64=tuple(prefix for prefix in settings.nat64_prefixes if isinstance(prefix, IPv6Network)),
    )


def origins_of(settings: Settings) -> frozenset[str]:
    """Return the gateway's origins in the form that users' URLs are compared in.

    Raises:
        SettingsError: One of them cannot be dialled.
    """
    try:
        return frozenset(origin_of(check_url(origin)) for origin in settings.gateway_origins)
    except InvalidRequest as error:
        raise SettingsError(f"MCP_CHAT_GATEWAY_ORIGINS: {error}") from None


def servers_of(settings: Settings) -> dict[str, ServerConfig]:
    """Return the operator's servers; without an origin for apps none has apps."""
    listed = {**demo_servers(), **read_servers(settings.servers_file)}
    if settings.apps_origin:
        return listed
    if with_apps := [name for name, server in listed.items() if server.apps]:
        log.warning("apps.off", servers=with_apps, advice="set MCP_CHAT_APPS_ORIGIN")
    return {name: replace(server, apps=False) for name, server in listed.items()}


def demo_servers() -> dict[str, ServerConfig]:
    """Return the demo server, if `mcp-chat serve` has started it."""
    url = os.environ.get("MCP_CHAT_DEMO_URL")
    if not url:
        return {}
    text = "Arithmetic, time, a to-do list, a slow tool and one that fails, to try the chat with."
    rules: dict[str, Verdict] = {"*": "allow", "todo_clear": "ask"}  # which deletes something
    return {"demo": ServerConfig(alias="demo", url=url, description=text, operator=True, rules=rules)}
