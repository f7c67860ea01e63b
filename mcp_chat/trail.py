"""One user's part of the audit trail: each deed is a log line, and with a database a row, too."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

import anyio
import structlog

from mcp_chat.deed import Deed, said_of
from mcp_chat.exceptions import StoreUnavailable
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
