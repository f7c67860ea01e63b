"""One user's part of the audit trail: each deed is a log line, and with a database a row, too."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

import anyio
import structlog

from mcp_chat.deed import Deed, said_of
from mcp_chat.exceptions import ChatError, StoreUnavailable
from mcp_chat.netguard import AddressNotAllowed, refusal
from mcp_chat.stores.base import Archive

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Trail:
    """Takes down what is done for a user.

    Attributes:
        worker: Whoever does it.
    """

    user: str
    worker: str
    archive: Archive | None

    def say(self, deed: Deed) -> None:
        """Write the log line."""
        log.info("deed", user=self.user, worker=self.worker, **said_of(deed))

    async def note(self, deeds: Sequence[Deed]) -> None:
        """Write log lines and rows; if the database does not answer, the log alone has them."""
        for deed in deeds:
            self.say(deed)
        if self.archive and deeds:
            with anyio.CancelScope(shield=True), contextlib.suppress(StoreUnavailable):
                await self.archive.note(self.user, deeds)

    async def note_refusal(self, error: Exception, *, session_id: str, turn: str) -> None:
        """Take down that a turn failed because the address of its model may not be dialled."""
        if isinstance(refusal(error), AddressNotAllowed):
            deed = Deed(
                action="connect",
                decision="refused",
                session_id=session_id,
                turn=turn,
                server="model",
                outcome=AddressNotAllowed.code,
            )
            await self.note([deed])


def code_of(error: Exception) -> str:
    """Return what the trail says of an error: our own code, also where another error hides it."""
    ours = refusal(error) or error
    return ours.code if isinstance(ours, ChatError) else "failed"
