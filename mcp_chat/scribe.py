"""Writes one session's messages for the owner of its user."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mcp_chat.deed import Deed
from mcp_chat.message import Message, Usage
from mcp_chat.record import Record
from mcp_chat.session import Session
from mcp_chat.upload import Upload


@dataclass(frozen=True, slots=True, kw_only=True)
class Scribe:
    """Writes a session's messages for the owner who holds this epoch.

    Attributes:
        backend: The user's model, as far as it is known.
        fresh: Sessions whose windows this owner knows to be complete; an earlier owner may have failed.
    """

    record: Record
    user: str
    session_id: str
    epoch: int
    backend: str
    fresh: set[str]

    async def session(self) -> Session:
        """Return the session with the messages of which the model may be shown some."""
        stale = self.session_id not in self.fresh
        recent = await self.record.recent(self.user, self.session_id, epoch=self.epoch, refill=stale)
        self.fresh.add(self.session_id)
        found = await self.record.session(self.user, self.session_id, recent)
        return found or Session(id=self.session_id)

    async def write(self, message: Message, usage: Usage | None = None, *, deed: Deed | None = None) -> None:
        """Add a message; when this returns it is committed. One whose id is there already is not added.

        Args:
            deed: What was done, for the trail: the message is its result.
        """
        whole = False  # whatever comes in between: the archive may have it then, and the window not
        try:
            whole = await self.record.add(
                self.user,
                self.session_id,
                [message],
                deeds=[deed] if deed else (),
                usage=usage,
                backend=self.backend,
                epoch=self.epoch,
            )
        finally:
            if not whole:
                self.fresh.discard(self.session_id)

    async def turn(self, run: str) -> list[Message]:
        """Return what a turn has written."""
        return await self.record.turn(self.user, self.session_id, run)

    async def files(self, messages: Sequence[Message]) -> dict[str, Upload]:
        """Return the files that go with the messages, as far as they are kept."""
        return await self.record.files(self.user, messages)
