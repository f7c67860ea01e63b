"""Which settings are refused: by `serve`, and by the application, as gunicorn can be started without it."""

from __future__ import annotations

from ipaddress import ip_address

from mcp_chat.exceptions import SettingsError
from mcp_chat.settings import Settings
from mcp_chat.vault import decode_key


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach what listens on `host`."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def check_settings(settings: Settings) -> None:
    """Refuse settings that would not be safe.

    Raises:
        SettingsError: One sentence that says what to set.
    """
    secret = settings.jwt_secret_key.get_secret_value()
    key = settings.encryption_key.get_secret_value()
    if settings.auth == "demo":
        if not is_loopback(settings.host):
            raise SettingsError(
                f"Demo mode lets anyone be anyone, so it listens on loopback only, not on {settings.host}: "
                "set MCP_CHAT_HOST=127.0.0.1 or MCP_CHAT_AUTH=jwt."
            )
    else:
        if len(secret.encode()) < 32:
            raise SettingsError(
                "JWT_SECRET_KEY must have 32 bytes or more in mode jwt: `openssl rand -base64 32` makes one."
            )
        if not key:
            raise SettingsError(
                "MCP_CHAT_ENCRYPTION_KEY must be set outside demo mode: `openssl rand -base64 32` makes one."
            )
    if key:
        decode_key(key)
