"""Writes one session's messages for the owner of its user."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

import anyio

from mcp_chat.deed import Deed
from mcp_chat.events import Final
from mcp_chat.exceptions import NoArchive, StoreUnavailable, TooLarge
from mcp_chat.message import Message, Part, now
from mcp_chat.record import Record
from mcp_chat.results import Loss, Media
from mcp_chat.session import Session
from mcp_chat.spent import Spent
from mcp_chat.upload import Upload

KEEP_LIMIT = 5.0
"""Seconds for the files of one result."""

LONGEST = timedelta(days=7)
"""A turn may wait for people and for tasks, a day for each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scribe:
    """Writes a session's messages for the owner who holds this epoch.

    Attributes:
        backend: The user's model, as far as it is known.
        quota: Bytes of all files of the user.
        fresh: Sessions whose windows this owner knows to be complete; an earlier owner may have failed.
    """

    record: Record
    user: str
    session_id: str
    epoch: int
    backend: str
    quota: int
    fresh: set[str]

    async def session(self) -> Session:
        """Return the session with the messages of which the model may be shown some."""
        stale = self.session_id not in self.fresh
        recent = await self.record.recent(self.user, self.session_id, epoch=self.epoch, refill=stale)
        self.fresh.add(self.session_id)
        found = await self.record.session(self.user, self.session_id, recent)
        return found or Session(id=self.session_id)

    async def write(
        self,
        *messages: Message,
        spent: Sequence[Spent] = (),
        deed: Deed | None = None,
        ends: tuple[str, Final] | None = None,
    ) -> None:
        """Add messages; when this returns they are committed. One whose id is there already is not added.

        Args:
            spent: What the messages, and others before them, have cost: counted once, along with them.
            deed: What was done, for the trail: the message is its result.
            ends: The turn that ends with them, and how.
        """
        whole = False  # whatever comes in between: the archive may have it then, and the window not
        try:
            whole = await self.record.add(
                self.user,
                self.session_id,
                messages,
                deeds=[deed] if deed else (),
                spent=spent,
                backend=self.backend,
                epoch=self.epoch,
                ends=ends,
            )
        finally:
            if not whole:
                self.fresh.discard(self.session_id)

    async def keep(self, media: Sequence[Media]) -> list[Part | Loss]:
        """Keep the files of a tool's result, each content once; return what became of each."""
        kept: list[Part | Loss] = []
        with anyio.move_on_after(KEEP_LIMIT):
            for each in media:
                kept.append(await self._keep(each))
        return kept + ["unavailable"] * (len(media) - len(kept))

    async def _keep(self, media: Media) -> Part | Loss:
        upload = Upload(name=media.name, media_type=media.media_type, content=media.content)
        try:
            return await self.record.keep(self.user, upload, quota=self.quota)
        except NoArchive:
            return "nowhere"
        except TooLarge:
            return "full"
        except StoreUnavailable:
            return "unavailable"

    async def fork(self, message_id: str, run: str) -> None:
        """Put a message and all behind it into a branch, once for each run.

        Raises:
            MessageMoved: The message is not in the line that is shown.
        """
        self.fresh.discard(self.session_id)  # whatever comes in between
        await self.record.cut(self.user, self.session_id, message_id, side=f"{run}-side", epoch=self.epoch)

    async def turn(self, run: str) -> list[Message]:
        """Return what a turn has written."""
        return await self.record.turn(self.user, self.session_id, run)

    async def steps(self, run: str) -> list[Spent]:
        """Return what a turn has spent, step by step."""
        return await self.record.steps(self.user, run, since=now().date() - LONGEST)

    async def files(self, messages: Sequence[Message]) -> dict[str, Upload]:
        """Return the files that go with the messages, as far as they are kept."""
        return await self.record.files(self.user, messages)
