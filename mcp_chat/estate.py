"""What earlier owners of a user have left half done, and how often one has died over it."""

from __future__ import annotations

import structlog

from mcp_chat.commands import Send
from mcp_chat.conversations import Conversations
from mcp_chat.docket import Docket
from mcp_chat.ends import failed
from mcp_chat.events import Entry, Steered, TakenOver, is_final
from mcp_chat.exceptions import Interrupted
from mcp_chat.recovery import Past, begun, past_of
from mcp_chat.steering import said_into
from mcp_chat.stores.base import Lease
from mcp_chat.workshop import Workshop
from mcp_chat.writer import EventWriter

log = structlog.get_logger()

PAGE = 1000
"""Messages among which one is looked for that was said into a turn."""

ATTEMPTS = 2
"""Owners that may die over one turn before it is given up."""


class Estate:
    """Turns that earlier owners have begun. The log, the docket and the record tell of them.

    Args:
        lease: The user and the epoch.
        workshop: Has log, record and archive.
        writer: Tells readers who owns the user now, and what they have missed.
        docket: The commands that have not ended.
        conversations: Has the log's entries.
    """

    def __init__(
        self,
        lease: Lease,
        workshop: Workshop,
        writer: EventWriter,
        docket: Docket,
        conversations: Conversations,
    ) -> None:
        self._lease = lease
        self._user = lease.user
        self._shop = workshop
        self._writer = writer
        self._docket = docket
        self._conversations = conversations
        self._broken: dict[str, Past] = {}
        self._given_up: set[str] = set()

    async def take_over(self) -> None:
        """Fence earlier owners, and see what they have left half done.

        Raises:
            Fenced: Another worker owns the user.
            StoreUnavailable: Log or record cannot be read.
        """
        end = await self._shop.store.log.end(self._user)
        self._writer.emit("", TakenOver(worker=self._lease.worker, before=end))
        entries = await self._conversations.log()
        await self._docket.open()
        await self._conclude(entries)
        for turn_id, left in begun(entries).items():
            self._broken[turn_id] = past_of(left)
        self._docket.resume(self._broken.keys())
        for known in self._docket.ended:
            if not any(entry.command_id == known.id and is_final(entry.event) for entry in entries):
                self._broken.setdefault(known.id, Past())
        waiting = {command.id for command in self._docket.waiting}
        for turn_id in self._broken.keys() - waiting:
            await self._tell_end(turn_id)
        for turn_id in waiting:  # the log may have lost what it had
            self._broken.setdefault(turn_id, Past())

    async def _conclude(self, entries: list[Entry]) -> None:
        """Record the ends that the log tells and the record does not have."""
        ends = {entry.command_id: entry.event for entry in entries if is_final(entry.event)}
        for command in self._docket.waiting:
            event = ends.get(command.id)
            if event is not None and is_final(event):
                self._docket.drop(command)
                await self._docket.end(command.id, event, tell=False)

    async def _tell_end(self, turn_id: str) -> None:
        """Tell how a turn ended that the log has not heard the end of."""
        archive, past = self._shop.archive, self._broken.pop(turn_id)
        known = await archive.accepted(self._user, turn_id) if archive else None
        if known and known.run:
            written = await self._shop.history.record.turn(self._user, known.session_id, known.run)
            for event in past.missing(written):
                self._writer.emit(turn_id, event)
        outcome = known.outcome if known and known.outcome else failed(Interrupted())
        await self._docket.end(turn_id, outcome)

    async def count(self, command: Send) -> None:
        """Count the owners that have died over a message, of which the record may know more than the log."""
        past = self._broken.get(command.id)
        if past is None or not (past.crashes or await self._has_begun(command, past)):
            return
        died = past.crashes
        if self._shop.archive and not past.orderly:
            died = await self._shop.archive.retry(self._user, command.id, epoch=self._lease.epoch)
        if died >= ATTEMPTS:
            self._given_up.add(command.id)
        log.info("turn.resumed", user=self._user, turn=command.id, crashes=died)

    async def came_in(self, command: Send) -> Steered | None:
        """Return the end of a message that an earlier owner has said into a turn, which may be over."""
        if not command.steer or command.id not in self._broken:
            return None
        record = self._shop.history.record
        return said_into(await record.messages(self._user, command.session_id, limit=PAGE), command.id)

    async def _has_begun(self, command: Send, past: Past) -> bool:
        """Tell whether there is something of a turn of which the log knows nothing."""
        if past.starts:
            return False
        return bool(await self._shop.history.record.turn(self._user, command.session_id, command.run))

    def past(self, command: Send) -> Past | None:
        """Hand out, once, what is known of a message's turn; None if nobody has begun it."""
        return self._broken.pop(command.id, None)

    def gave_up(self, command: Send) -> bool:
        """Tell whether too many owners have died over a message."""
        return command.id in self._given_up
