"""A conversation as a value. Nothing here waits, reads or writes."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from mcp_chat.message import Message, Usage, new_id


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """One conversation of a user: what was said, in order, and what it cost."""

    id: str = field(default_factory=new_id)
    messages: tuple[Message, ...] = ()
    usage: Usage = field(default_factory=Usage)

    def add(self, *messages: Message) -> Session:
        """Return the session with messages after its last one."""
        return replace(self, messages=self.messages + messages)

    def spend(self, usage: Usage) -> Session:
        """Return the session with more tokens used."""
        return replace(self, usage=self.usage + usage)
