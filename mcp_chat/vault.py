"""Secrets at rest: AES-256-GCM under a data key of the user's own, which a key-encryption key wraps.

A sealed value carries all that its opening needs but the key-encryption key:

    v2.<key id>.<wrapped data key>.<nonce and ciphertext>

The body is bound to the user and the field that it belongs to, the wrapped key to the user and the key that
wraps it. So what was copied to another user or field is refused, and another key-encryption key means a new
head and the same body.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
from collections.abc import Sequence
from functools import lru_cache

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from mcp_chat.exceptions import SettingsError, Unreadable

_APP = b"mcp-chat"
_VERSION = "v2"
_NONCE = 12
_USERS = 4096
"""Users whose data keys a process keeps at hand; those of others are made or unwrapped again."""

Made = tuple[AESGCM, str]
"""A data key, and the head of what it seals."""


class Vault:
    """Seals and opens values.

    Args:
        keys: Key-encryption keys of 32 bytes, the newest first: it seals, the others only open.
    """

    def __init__(self, keys: Sequence[bytes]) -> None:
        self._keys = {_key_id(key): key for key in keys}
        self._wrapping = {key_id: AESGCM(key) for key_id, key in self._keys.items()}
        self.newest = next(iter(self._keys))
        self.head = f"{_VERSION}.{self.newest}."
        self._made = lru_cache(_USERS)(self._make)
        self._opened = lru_cache(_USERS)(self._unwrap)
        self._search_keys = lru_cache(_USERS)(self._derive)

    def __repr__(self) -> str:
        return f"Vault({', '.join(self._keys)})"

    @property
    def key_ids(self) -> list[str]:
        """The names of the keys, the newest first."""
        return list(self._keys)

    def seal(self, text: str, *, user: str, field: str) -> str:
        """Return the text encrypted."""
        head, body = self._sealed(text.encode(), user, field)
        return f"{head}.{_text(body)}"

    def open(self, sealed: str, *, user: str, field: str) -> str:
        """Return the text that was sealed for this user and field.

        Raises:
            Unreadable: Its key is none of ours, it was sealed for another slot, or it was changed.
        """
        head, _, body = sealed.rpartition(".")
        try:
            return self._plain(head, _bytes(body), user, field).decode()
        except UnicodeDecodeError as error:
            raise Unreadable from error

    def seal_bytes(self, content: bytes, *, user: str, field: str) -> bytes:
        """Return the content encrypted; the same envelope, with the body as it is."""
        head, body = self._sealed(content, user, field)
        return head.encode() + b"." + body

    def open_bytes(self, sealed: bytes, *, user: str, field: str) -> bytes:
        """Return the content that was sealed for this user and field.

        Raises:
            Unreadable: As of `open`.
        """
        head, body = _apart(sealed)
        return self._plain(head, body, user, field)

    def renewed(self, sealed: str, *, user: str) -> str | None:
        """Return the same value with its data key wrapped by the newest key; None if it is so already.

        Raises:
            Unreadable: Its data key cannot be unwrapped.
        """
        head, _, body = sealed.rpartition(".")
        new = self._renewed_head(head, user)
        return f"{new}.{body}" if new else None

    def renewed_bytes(self, sealed: bytes, *, user: str) -> bytes | None:
        """Return the same content with its data key wrapped by the newest key; None if it is so already.

        Raises:
            Unreadable: Its data key cannot be unwrapped.
        """
        head, body = _apart(sealed)
        new = self._renewed_head(head, user)
        return new.encode() + b"." + body if new else None

    def marks(self, word: str, *, user: str) -> list[str]:
        """Return what stands for a word of the user's in an index, under each key, the newest first."""
        made = (
            hmac.digest(key, word.encode("utf-8", "surrogatepass"), "sha256")
            for key in self._search_keys(user)
        )
        return [base64.b32encode(each[:10]).decode().lower() for each in made]

    def _sealed(self, content: bytes, user: str, field: str) -> tuple[str, bytes]:
        data_key, head = self._made(user)
        nonce = os.urandom(_NONCE)
        return head, nonce + data_key.encrypt(nonce, content, _slot(user, field))

    def _plain(self, head: str, body: bytes, user: str, field: str) -> bytes:
        data_key = self._opened(user, head)
        try:
            return data_key.decrypt(body[:_NONCE], body[_NONCE:], _slot(user, field))
        except (InvalidTag, ValueError) as error:
            raise Unreadable from error

    def _make(self, user: str) -> Made:
        data_key = os.urandom(32)
        return AESGCM(data_key), self._wrap(data_key, user)

    def _wrap(self, data_key: bytes, user: str) -> str:
        nonce = os.urandom(_NONCE)
        wrapped = self._wrapping[self.newest].encrypt(nonce, data_key, _slot(self.newest, user, "key"))
        return self.head + _text(nonce + wrapped)

    def _unwrap(self, user: str, head: str) -> AESGCM:
        return AESGCM(self._data_key(user, head))

    def _data_key(self, user: str, head: str) -> bytes:
        version, _, rest = head.partition(".")
        key_id, _, wrapped = rest.partition(".")
        if version != _VERSION or key_id not in self._wrapping:
            raise Unreadable
        raw = _bytes(wrapped)
        try:
            return self._wrapping[key_id].decrypt(raw[:_NONCE], raw[_NONCE:], _slot(key_id, user, "key"))
        except (InvalidTag, ValueError) as error:
            raise Unreadable from error

    def _renewed_head(self, head: str, user: str) -> str | None:
        data_key = self._data_key(user, head)
        return None if head.startswith(self.head) else self._wrap(data_key, user)

    def _derive(self, user: str) -> list[bytes]:
        return [HKDF(SHA256(), 32, None, _slot(user, "search")).derive(key) for key in self._keys.values()]


def key_id_of(sealed: str) -> str | None:
    """Return the name of the key that a value was sealed with; None if it is none of this version's."""
    version, _, rest = sealed.partition(".")
    key_id, dot, _ = rest.partition(".")
    return key_id if version == _VERSION and dot else None


def _key_id(key: bytes) -> str:
    return hashlib.sha256(_APP + key).hexdigest()[:16]


def _slot(*parts: str) -> bytes:
    """Everything that something is bound to, each part behind its length."""
    encoded = (_APP, _VERSION.encode(), *(part.encode("utf-8", "surrogatepass") for part in parts))
    return b"".join(len(part).to_bytes(4, "big") + part for part in encoded)


def _text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode()


def _bytes(text: str) -> bytes:
    """Return what a text stands for, and refuse any other spelling of it: the decoder passes over a lot."""
    try:
        raw = base64.urlsafe_b64decode(text)
    except ValueError as error:
        raise Unreadable from error
    if _text(raw) != text:
        raise Unreadable
    return raw


def _apart(sealed: bytes) -> tuple[str, bytes]:
    """Take head and body apart: the head has two dots, the body may have any."""
    *head, body = sealed.split(b".", 3)
    return b".".join(head).decode("ascii", "replace"), body


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
