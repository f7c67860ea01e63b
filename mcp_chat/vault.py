"""Secrets at rest: AES-256-GCM, bound to the user and the field they belong to.

Follows the envelope that the project's security notes ask for: a sealed value opens only in its own
slot, so that what was copied to another user or field is refused.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from mcp_chat.exceptions import SettingsError, Unreadable

_APP = b"mcp-chat"
_VERSION = "v1"


class Vault:
    """Seals and opens short texts.

    Args:
        key: 32 bytes.
    """

    def __init__(self, key: bytes) -> None:
        self._aead = AESGCM(key)
        self._key_id = hashlib.sha256(_APP + key).hexdigest()[:16]

    def seal(self, text: str, *, user: str, field: str) -> str:
        """Return the text encrypted, as ``v1.<key id>.<nonce and ciphertext>``."""
        nonce = os.urandom(12)
        sealed = self._aead.encrypt(nonce, text.encode(), self._slot(user, field))
        return ".".join((_VERSION, self._key_id, base64.urlsafe_b64encode(nonce + sealed).decode()))

    def open(self, sealed: str, *, user: str, field: str) -> str:
        """Return the text that was sealed for this user and field.

        Raises:
            Unreadable: It was sealed with another key or for another slot, or was changed.
        """
        version, _, rest = sealed.partition(".")
        key_id, _, body = rest.partition(".")
        if (version, key_id) != (_VERSION, self._key_id):
            raise Unreadable
        try:
            raw = base64.urlsafe_b64decode(body)
            return self._aead.decrypt(raw[:12], raw[12:], self._slot(user, field)).decode()
        except (InvalidTag, ValueError) as error:
            raise Unreadable from error

    def _slot(self, user: str, field: str) -> bytes:
        """Everything a sealed value is bound to, each part behind its length."""
        parts = (_APP, _VERSION.encode(), self._key_id.encode(), user.encode(), field.encode())
        return b"".join(len(part).to_bytes(4, "big") + part for part in parts)


def decode_key(text: str) -> bytes:
    """Read an encryption key from base64.

    Raises:
        SettingsError: It is not base64 of exactly 32 bytes.
    """
    try:
        key = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != 32:
        raise SettingsError(
            "MCP_CHAT_ENCRYPTION_KEY must be base64 of exactly 32 bytes: `openssl rand -base64 32` makes one."
        )
    return key
