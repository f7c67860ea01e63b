"""Who is asking, proven; and the form of a user's id that is safe inside a key."""

from __future__ import annotations

import hashlib
import math
import re
from dataclasses import dataclass, field

_PLAIN = re.compile(r"[A-Za-z0-9@._+-]{1,128}\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """Someone whose identity was proven by one of the modes of ``MCP_CHAT_AUTH``.

    Attributes:
        id: The user's id as the login names it, for instance an e-mail address.
        expires: When the proof ends, in seconds since 1970; infinite if it does not by itself.
        token: The token of the login, in modes that have one; for the gateway's own servers and nobody else.
    """

    id: str
    expires: float = math.inf
    token: str = field(default="", repr=False, compare=False)

    @property
    def key(self) -> str:
        """The user's part of every storage key."""
        return user_key(self.id)


def user_key(user_id: str) -> str:
    """Return a user's id as it stands in storage keys: no braces, colons, globs or slashes.

    Usual ids stay readable. All others become ``~`` and a SHA-256, which no usual id begins with,
    so two ids never share a key.

    Args:
        user_id: Any text, of any length.
    """
    if _PLAIN.match(user_id):
        return user_id
    return "~" + hashlib.sha256(user_id.encode("utf-8", "surrogatepass")).hexdigest()
