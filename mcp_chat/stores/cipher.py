"""What chat texts become on their way into a store, and back: themselves, or sealed.

A text that is sealed says so with its first letters, so that those from before sealing was switched on, and
from after it was switched off, can be read beside it. Secrets do not come this way: they are always sealed.
"""

from __future__ import annotations

from typing import Final, Protocol

from mcp_chat.exceptions import Unreadable
from mcp_chat.stores.words import INDEXED
from mcp_chat.vault import Vault

SEALED = "sealed:"
"""What a sealed text begins with."""
ESCAPED = SEALED + "="
"""What stands before a plain text that begins like a sealed one."""
MARK = "ª"
"""What the mark of a sealed word begins with: a letter to every database, and no plain word has it."""


class Cipher(Protocol):
    """Stands at the edge of the stores. An empty text stays empty."""

    @property
    def large(self) -> int:
        """Characters that are worked on in a thread: the event loop has others to serve."""
        ...

    def seal(self, text: str, *, user: str, field: str) -> str:
        """Return a text as it is kept."""
        ...

    def open(self, kept: str, *, user: str, field: str) -> str:
        """Return a text that was kept.

        Raises:
            Unreadable: It is sealed, and does not open.
        """
        ...

    def seal_bytes(self, content: bytes, *, user: str, field: str) -> bytes:
        """Return a content as it is kept."""
        ...

    def open_bytes(self, kept: bytes, *, user: str, field: str) -> bytes:
        """Return a content that was kept.

        Raises:
            Unreadable: It is sealed, and does not open.
        """
        ...

    def index(self, words: str, *, user: str) -> str:
        """Return words, between spaces, as a search finds them."""
        ...

    def marks(self, word: str, *, user: str) -> list[str]:
        """Return what an index may have instead of a word."""
        ...


class Plain:
    """Keeps texts as they are.

    Attributes:
        large: As of `Cipher`.
    """

    large: Final = 50_000

    def seal(self, text: str, *, user: str, field: str) -> str:
        """Return a text as it is; one that begins like a sealed one behind a sign that it is none."""
        return ESCAPED + text if text.startswith(SEALED) else text

    def open(self, kept: str, *, user: str, field: str) -> str:
        """Return a text that was kept; refuse a sealed one."""
        if is_sealed(kept):
            raise Unreadable
        return kept.removeprefix(ESCAPED)

    def seal_bytes(self, content: bytes, *, user: str, field: str) -> bytes:
        """Return a content as it is, or behind the sign as of `seal`."""
        return ESCAPED.encode() + content if content.startswith(SEALED.encode()) else content

    def open_bytes(self, kept: bytes, *, user: str, field: str) -> bytes:
        """Return a content that was kept; refuse a sealed one."""
        if is_sealed(kept):
            raise Unreadable
        return kept.removeprefix(ESCAPED.encode())

    def index(self, words: str, *, user: str) -> str:
        """Return the words themselves."""
        return words

    def marks(self, word: str, *, user: str) -> list[str]:
        """Return none: a word stands for itself."""
        return []


PLAIN = Plain()


class Sealing:
    """Keeps texts sealed.

    Args:
        vault: Seals them.
        on: Whether it seals; if not, it still opens and finds what is sealed.
    """

    def __init__(self, vault: Vault, *, on: bool = True) -> None:
        self.on = on
        self._vault = vault

    @property
    def large(self) -> int:
        """Characters that are worked on in a thread: fewer if it seals, as each word needs a mark."""
        return LARGE if self.on else PLAIN.large

    def seal(self, text: str, *, user: str, field: str) -> str:
        """Return a text sealed, or plain if this cipher does not seal."""
        if self.on and text:
            return SEALED + self._vault.seal(text, user=user, field=field)
        return PLAIN.seal(text, user=user, field=field)

    def open(self, kept: str, *, user: str, field: str) -> str:
        """Return a text that was kept, sealed or plain."""
        if is_sealed(kept):
            return self._vault.open(kept.removeprefix(SEALED), user=user, field=field)
        return PLAIN.open(kept, user=user, field=field)

    def seal_bytes(self, content: bytes, *, user: str, field: str) -> bytes:
        """Return a content sealed, or plain if this cipher does not seal."""
        if self.on and content:
            return SEALED.encode() + self._vault.seal_bytes(content, user=user, field=field)
        return PLAIN.seal_bytes(content, user=user, field=field)

    def open_bytes(self, kept: bytes, *, user: str, field: str) -> bytes:
        """Return a content that was kept, sealed or plain."""
        if is_sealed(kept):
            return self._vault.open_bytes(kept.removeprefix(SEALED.encode()), user=user, field=field)
        return PLAIN.open_bytes(kept, user=user, field=field)

    def index(self, words: str, *, user: str) -> str:
        """Return a mark for each word, in an order that says nothing; as many as an index has room for."""
        if not self.on:
            return words
        distinct = list(dict.fromkeys(words.split()))[: INDEXED // LENGTH]
        return " ".join(sorted(self.marks(word, user=user)[0] for word in distinct))

    def marks(self, word: str, *, user: str) -> list[str]:
        """Return the marks of a word under each key, the newest first."""
        return [MARK + mark for mark in self._vault.marks(word, user=user)]


LENGTH = 19
"""Bytes of a mark, and the space behind it."""
LARGE = 4_000
"""Characters whose words take about ten milliseconds to be marked."""


def is_sealed(kept: str | bytes) -> bool:
    """Tell whether what is kept is sealed."""
    if isinstance(kept, bytes):
        return kept.startswith(SEALED.encode()) and not kept.startswith(ESCAPED.encode())
    return kept.startswith(SEALED) and not kept.startswith(ESCAPED)
