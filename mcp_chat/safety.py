"""Which settings are refused: by `serve`, and by the application, as gunicorn can be started without it."""

from __future__ import annotations

import os
import re
from urllib.parse import urlsplit

from mcp_chat.exceptions import SettingsError
from mcp_chat.keyring import check_strength, keys_in, read_keys
from mcp_chat.settings import Settings
from mcp_chat.urls import is_loopback, origin_of

LEAST_SECRET = 32
"""Bytes."""

ORIGIN = re.compile(r"https?://(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:[0-9]{1,5})?")
HEADER = re.compile(r"[A-Za-z][A-Za-z0-9-]{0,63}")


def check_settings(settings: Settings) -> None:
    """Refuse settings that would not be safe.

    Raises:
        SettingsError: One sentence that says what to set.
    """
    match settings.auth:
        case "demo":
            _check_demo(settings)
        case "jwt":
            _check_tokens(settings)
        case "contextforge":
            _check_tokens(settings)
            _check_url("MCP_CHAT_GATEWAY_URL", settings.gateway_url)
        case "proxy":
            _check_proxy(settings)
    for origin in settings.gateway_origins:
        _check_origin("MCP_CHAT_GATEWAY_ORIGINS", origin)
    for origin in settings.frame_origins:
        _check_origin("MCP_CHAT_FRAME_ORIGINS", origin)
    if settings.public_url and not urlsplit(settings.public_url).path.endswith(settings.base_path):
        raise SettingsError("MCP_CHAT_PUBLIC_URL must end with MCP_CHAT_BASE_PATH, where the chat stands.")
    _check_encryption(settings)
    if settings.apps_origin:
        _check_apps(settings)


def chat_origins(settings: Settings) -> tuple[str, ...]:
    """Return the origins at which the chat itself is opened; a port `*` is whichever it is asked at."""
    own = (origin_of(settings.public_url),) if settings.public_url else ()
    return (*own, "http://127.0.0.1:*", "http://localhost:*") if settings.auth == "demo" else own


def _check_apps(settings: Settings) -> None:
    """Refuse an origin of apps that would share the chat's host, and with it the cookies."""
    origin = settings.apps_origin
    parts = urlsplit(origin)
    host = parts.hostname or ""
    encrypted = parts.scheme == "https" or is_loopback(host) or host.endswith(".localhost")
    if not (ORIGIN.fullmatch(origin) and encrypted):
        raise SettingsError("MCP_CHAT_APPS_ORIGIN must be an origin, as https://chat-apps.example.org.")
    embedders = chat_origins(settings)
    if not embedders:
        raise SettingsError("MCP_CHAT_APPS_ORIGIN needs MCP_CHAT_PUBLIC_URL, the chat's own address.")
    if host in {settings.host, *(urlsplit(each.replace(":*", "")).hostname for each in embedders)}:
        raise SettingsError(
            "MCP_CHAT_APPS_ORIGIN must have another host than the chat, which has its cookies."
        )


def _check_encryption(settings: Settings) -> None:
    keys = encryption_keys(settings)
    if settings.auth == "demo":
        return
    if not keys:
        raise SettingsError(
            "MCP_CHAT_ENCRYPTION_KEY must be set outside demo mode: `openssl rand -base64 32` makes one."
        )
    check_strength(keys)


def encryption_keys(settings: Settings) -> list[bytes]:
    """Return the keys that are set, the newest first.

    Raises:
        SettingsError: They cannot be read.
    """
    text, path = settings.encryption_key.get_secret_value(), settings.encryption_key_file
    if text and path:
        raise SettingsError("Set MCP_CHAT_ENCRYPTION_KEY or MCP_CHAT_ENCRYPTION_KEY_FILE, not both.")
    return keys_in(path) if path else read_keys(text)


def keys_at_hand(settings: Settings) -> list[bytes]:
    """Return the keys for an operator's command: those that are set, or that demo mode has made.

    Raises:
        SettingsError: They cannot be read, or nobody made the newest one by chance.
    """
    keys, made = encryption_keys(settings), settings.data_dir.expanduser() / "encryption.key"
    if not keys and settings.auth == "demo" and made.is_file():
        keys = keys_in(made)
    check_strength(keys[:1])  # the others only open: it must be possible to rotate away from a weak one
    return keys


def _check_demo(settings: Settings) -> None:
    if not is_loopback(settings.host):
        raise SettingsError(
            f"Demo mode lets anyone be anyone, so it listens on loopback only, not on {settings.host}: "
            "set MCP_CHAT_HOST=127.0.0.1 or MCP_CHAT_AUTH=jwt, contextforge or proxy."
        )


def _check_tokens(settings: Settings) -> None:
    """Refuse tokens that nobody could check, or that two kinds of keys would check."""
    mode, keys = settings.auth, [settings.jwt_public_key_path, settings.jwks_url]
    if "HS256" in settings.jwt_algorithms:
        if any(keys):
            raise SettingsError("Public keys need JWT_ALGORITHM=RS256 or ES256, or both with a comma.")
        if len(settings.jwt_secret_key.get_secret_value().encode()) < LEAST_SECRET:
            raise SettingsError(
                f"JWT_SECRET_KEY must have 32 bytes or more in mode {mode}: "
                "`openssl rand -base64 32` makes one."
            )
    elif sum(map(bool, keys)) != 1:
        raise SettingsError(f"Mode {mode} needs either JWT_PUBLIC_KEY_PATH or MCP_CHAT_JWKS_URL.")
    if settings.jwks_url:
        _check_url("MCP_CHAT_JWKS_URL", settings.jwks_url)


def _check_url(name: str, url: str) -> None:
    """Refuse an address to which a secret would go in the clear, but for this machine."""
    try:
        parts = urlsplit(url)
        safe = parts.scheme == "https" or (parts.scheme == "http" and is_loopback(parts.hostname or ""))
        good = bool(parts.hostname) and parts.port != 0 and not parts.username
    except ValueError:
        safe = good = False
    if not (safe and good):
        raise SettingsError(f"{name} must be an https:// address.")


def _check_origin(name: str, origin: str) -> None:
    """Refuse an address that is more than an origin: who reads it would expect less to be trusted."""
    _check_url(name, origin)
    if not ORIGIN.fullmatch(origin):
        raise SettingsError(f"{name} must be origins, as https://gateway.example.org:4444.")


def _check_proxy(settings: Settings) -> None:
    if not settings.proxy_peers:
        raise SettingsError("Mode proxy needs MCP_CHAT_PROXY_PEERS, the networks that the proxy is in.")
    if any(network.prefixlen == 0 for network in settings.proxy_peers):
        raise SettingsError("MCP_CHAT_PROXY_PEERS must not be everybody: name the proxy's own networks.")
    if len(settings.proxy_secret.get_secret_value().encode()) < LEAST_SECRET:
        raise SettingsError(
            "MCP_CHAT_PROXY_SECRET must have 32 bytes or more: `openssl rand -base64 32` makes one."
        )
    if os.environ.get("FORWARDED_ALLOW_IPS"):
        raise SettingsError("Mode proxy looks at who has connected: unset FORWARDED_ALLOW_IPS.")
    headers = (settings.proxy_user_header, settings.proxy_secret_header)
    if headers[0].lower() == headers[1].lower() or not all(map(HEADER.fullmatch, headers)):
        raise SettingsError(
            "MCP_CHAT_PROXY_USER_HEADER and MCP_CHAT_PROXY_SECRET_HEADER must be two names of headers."
        )
