"""A file that a user has sent, to be attached to messages."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from mcp_chat.message import Part


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """A file: what is in it, of what kind it is, and how its owner calls it."""

    name: str
    media_type: str
    content: bytes

    @property
    def id(self) -> str:
        """The same for the same content and kind, so that a file that is sent twice is kept once."""
        return hashlib.sha256(self.media_type.encode() + b"\0" + self.content).hexdigest()[:32]

    def part(self) -> Part:
        """Return what a message has of it."""
        return Part(upload_id=self.id, media_type=self.media_type, name=self.name, size=len(self.content))
