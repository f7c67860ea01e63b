"""The key-encryption keys as an operator writes them: several, the newest first."""

from __future__ import annotations

import base64
import os
import re
import stat
from pathlib import Path

from mcp_chat.exceptions import SettingsError
from mcp_chat.vault import decode_key

LEAST_VARIETY = 16
"""Different bytes that a key made by chance always has: 32 of them have fewer once in 10^16 times."""


def new_key() -> str:
    """Return a fresh key, base64 of 32 bytes."""
    return base64.b64encode(os.urandom(32)).decode()


def read_keys(text: str) -> list[bytes]:
    """Return the keys of a text, which stand behind commas or on lines of their own.

    Raises:
        SettingsError: One of them is not base64 of 32 bytes.
    """
    return [decode_key(part) for part in re.split(r"\s*[,\n]\s*", text.strip()) if part]


def keys_in(path: Path) -> list[bytes]:
    """Return the keys in a file.

    Raises:
        SettingsError: It cannot be read, or has no keys.
    """
    try:
        text = path.read_text("ascii", "replace")
    except OSError as error:
        raise SettingsError(
            f"MCP_CHAT_ENCRYPTION_KEY_FILE cannot be read: {path} ({error.strerror})."
        ) from None
    try:
        keys = read_keys(text)
    except SettingsError:
        keys = []
    if not keys:
        raise SettingsError(
            f"MCP_CHAT_ENCRYPTION_KEY_FILE must hold base64 of 32 bytes, a key on each line: {path} does not."
        )
    return keys


def is_open_to_all(path: Path) -> bool:
    """Tell whether anybody on this machine can read a file."""
    return bool(path.stat().st_mode & stat.S_IROTH)


def check_strength(keys: list[bytes]) -> None:
    """Refuse keys that nobody made by chance, such as those of templates.

    Raises:
        SettingsError: One of them is such.
    """
    if any(len(set(key)) < LEAST_VARIETY for key in keys):
        raise SettingsError(
            "MCP_CHAT_ENCRYPTION_KEY must be made by chance, and one of its keys is not: "
            "`openssl rand -base64 32` makes one."
        )
