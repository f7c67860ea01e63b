"""The way of a command from any worker to its owner, and of the owner's events back."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, replace

from mcp_chat.commands import Command, Send, is_recorded
from mcp_chat.events import (
    Entry,
    Event,
    Failed,
    Final,
    HandedOver,
    Steered,
    TurnStarted,
    is_final,
    order,
)
from mcp_chat.exceptions import Busy, Draining, StoreUnavailable, TooManyWaiting
from mcp_chat.feed import Feed, Gap
from mcp_chat.message import new_id
from mcp_chat.ownership import Ownership
from mcp_chat.record import Record
from mcp_chat.recovery import retold
from mcp_chat.stores.base import START, Accepted, Archive, Store

SILENCE = 0.9
"""Seconds without a word on a command after which the record is asked whether it has ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ticket:
    """A command that was accepted.

    Attributes:
        place: The place in the log behind which its events are.
        accepted: What the record has of it.
    """

    id: str
    place: str
    accepted: Accepted


@dataclass(slots=True)
class Reading:
    """How far one reader of a command's entries is.

    Attributes:
        id: The command.
        begun: It has seen the beginning.
        missed: It has missed something: what it all came to is in the record.
        over: It has seen the end.
        heard: When it was last told something, or looked in the record whether that was all.
    """

    id: str
    begun: bool
    heard: float
    missed: bool = False
    over: bool = False


class Dispatch:
    """Puts commands into inboxes and follows their events.

    Args:
        store: Inboxes, logs and bells.
        archive: The record of commands, or None.
        record: What was said, for those who ask again.
        ownership: Wakes the owners.
        feed: Follows the logs.
        patience: Seconds in which something must happen to a user whose turn has begun: longer than any turn.
        queue: Messages that may wait besides the one that is answered. Of all commands there may be twice
            as many as of both: a full inbox can be cancelled.
    """

    def __init__(
        self,
        store: Store,
        archive: Archive | None,
        record: Record,
        ownership: Ownership,
        feed: Feed,
        *,
        patience: float,
        queue: int = 16,
    ) -> None:
        self._store = store
        self._archive = archive
        self._record = record
        self._ownership = ownership
        self._feed = feed
        self._patience = patience
        self._most_sent = 1 + queue
        self._most = 2 * self._most_sent

    async def submit(self, user: str, command: Command, *, repeatable: bool = False) -> Ticket:
        """Hand a command over, once for each id: when this returns nothing can lose it.

        Args:
            repeatable: It stays in the record if the store does not answer: its sender knows its id, can send
                it again, and means the same then.

        Raises:
            Draining: This worker stops; another one takes the command.
            TooManyWaiting: The user's inbox is full.
            Busy: The user's worker takes no further turns now.
        """
        if self._ownership.leaving:
            raise Draining
        accepted = Accepted(id=command.id, command=command, new=True)
        if self._archive and is_recorded(command):
            accepted = await self._archive.accept(user, command)
        if isinstance(accepted.outcome, Failed) and accepted.outcome.retryable and not accepted.run:
            return await self.submit(user, renamed(command))  # it may go better now
        if accepted.outcome:
            return Ticket(id=command.id, place=START, accepted=accepted)
        place = await self._put(user, accepted.command or command, accepted, repeatable=repeatable)
        with contextlib.suppress(StoreUnavailable):  # it is in the inbox: who follows it wakes again
            await self._ownership.hand_over(user)
        return Ticket(id=command.id, place=place, accepted=accepted)

    async def _put(self, user: str, command: Command, accepted: Accepted, *, repeatable: bool) -> str:
        limit = self._most_sent if isinstance(command, Send) else self._most
        try:
            if isinstance(command, Send) and accepted.new:
                await self._check_room(user, command)
            place = await self._store.inbox.put(user, command, limit=limit, again=not accepted.new)
        except Busy:
            await self._withdraw(user, accepted)
            raise
        except StoreUnavailable:  # it may be there all the same: who can, sends it again as the same one
            if not repeatable:
                await self._withdraw(user, accepted)
            raise
        if place is None and accepted.new:
            await self._withdraw(user, accepted)
            raise TooManyWaiting
        return place or START  # what the record had before is carried out, whatever the inbox has no room for

    async def _check_room(self, user: str, command: Send) -> None:
        """Refuse a message for which its worker has no place, unless it was taken before.

        Who has a turn already waits for that one, or stops it: the message takes no further place at once.
        """
        if await self._ownership.has_room(user):
            return
        if any(turn.id != command.id for turn in await self.open_turns(user)):
            return
        if await self._store.inbox.seen(user, command.id) is None:
            raise Busy

    async def _withdraw(self, user: str, accepted: Accepted) -> None:
        """Take a command back that is new: its sender is refused, and may send it again as another one."""
        if self._archive and accepted.new:
            await self._archive.withdraw(user, accepted.id)

    async def follow(self, user: str, ticket: Ticket) -> AsyncGenerator[Entry | None]:
        """Yield a command's entries up to the final one; None each second in which nothing came.

        Whoever owns the user may die meanwhile: in each silent second somebody is made to serve them.

        Raises:
            Draining: This worker stops, and somebody else serves the user.
            StoreUnavailable: The store does not answer, or has lost the command.
        """
        accepted = ticket.accepted
        if accepted.outcome:
            for each in await self._ended(user, accepted, accepted.outcome):
                yield each
            return
        begun = not isinstance(accepted.command, Send)
        reading = Reading(id=accepted.id, begun=begun, heard=time.monotonic())
        async with contextlib.aclosing(self._heard(user, ticket.place, reading)) as heard:
            async for found in heard:
                if isinstance(found, Gap) and accepted.command and not is_recorded(accepted.command):
                    ticket = await self.submit(user, renamed(accepted.command))  # asked anew: no harm
                    break
                for entry in await self._read(user, accepted, reading, found):
                    yield entry
                if reading.over:
                    return
        async for again in self.follow(user, ticket):
            yield again

    async def _read(
        self, user: str, accepted: Accepted, reading: Reading, found: Entry | Gap | None
    ) -> Sequence[Entry | None]:
        """Return what a reader of one command is given for what was found in the log."""
        if isinstance(found, Gap):
            reading.missed = True
            return []
        if found is None or found.command_id != accepted.id:
            end = None
            if time.monotonic() > reading.heard + SILENCE:
                reading.heard = time.monotonic()
                with contextlib.suppress(StoreUnavailable):  # asked again in a second
                    end = await self._lost_end(user, accepted)
            reading.over = end is not None
            return await self._recall(user, accepted, end) if end else [None]
        reading.heard = time.monotonic()
        reading.begun |= isinstance(found.event, TurnStarted)
        reading.missed |= not reading.begun
        if isinstance(found.event, HandedOver) and self._ownership.leaving:
            raise Draining
        if not is_final(found.event):
            return [found]
        reading.over = True
        reading.missed &= not isinstance(found.event, Steered)  # which begins nothing
        return await self._recall(user, accepted, found.event, found.id) if reading.missed else [found]

    async def _lost_end(self, user: str, accepted: Accepted) -> Final | None:
        """Look for a command of which the log says nothing: return its end, or put it in again if lost."""
        known: Accepted | None = accepted
        if accepted.command is None or is_recorded(accepted.command):
            known = await self._archive.accepted(user, accepted.id) if self._archive else None
        if known is None or known.command is None:
            return known.outcome if known else None
        inbox = self._store.inbox
        if await inbox.seen(user, accepted.id) is None and await inbox.put(
            user, known.command, limit=self._most, again=True
        ):  # else there is no room for it yet, and this is tried again in a second
            await self._ownership.wake(user)
        return None

    async def joined(self, user: str, turn_id: str, place: str) -> Ticket:
        """Return a ticket for a turn that is followed from somewhere in its middle."""
        known = await self._archive.accepted(user, turn_id) if self._archive else None
        accepted = replace(known, command=None) if known else Accepted(id=turn_id)
        return Ticket(id=turn_id, place=place, accepted=accepted)

    async def watch(self, user: str, after: str) -> AsyncGenerator[Entry | Gap | None]:
        """Yield all entries of a user's behind a place, as they come, without end.

        Raises:
            Draining: This worker stops.
            StoreUnavailable: The store does not answer.
        """
        async with contextlib.aclosing(self._heard(user, after)) as heard:
            async for found in heard:
                yield found

    async def running(self, user: str, session_id: str | None) -> str | None:
        """Return the turn that runs in a session, or in any; one that is about to counts too."""
        for command in await self.open_turns(user):
            if session_id in (None, command.session_id):
                return command.id
        return None

    async def open_turns(self, user: str) -> list[Send]:
        """Return the messages whose turns have not ended, in order."""
        if self._archive:  # the store may have lost the inbox
            commands = await self._archive.open_commands(user)
        else:
            commands = [waiting.command for waiting in await self._store.inbox.read(user, START)]
        return [command for command in commands if isinstance(command, Send)]

    async def beginning(self, user: str, turn_id: str) -> str | None:
        """Return the place behind which a turn begins in the log, None if the log does not have it."""
        place = await self._store.inbox.seen(user, turn_id) or START  # a log that was lost begins anew
        while page := await self._store.log.read(user, place):
            for entry in page:
                if entry.command_id == turn_id:
                    return place
                place = entry.id
        return None

    async def earlier(self, user: str, entry: Entry) -> list[Entry]:
        """Return the entries of a turn that come before one of its own."""
        place = await self._store.inbox.seen(user, entry.command_id) or START
        found: list[Entry] = []
        while page := await self._store.log.read(user, place):
            for each in page:
                if order(each.id) >= order(entry.id):
                    return found
                if each.command_id == entry.command_id:
                    found.append(each)
            place = page[-1].id
        return found

    async def knows(self, user: str, command_id: str) -> bool:
        """Tell whether a command of this id was accepted before: then that one counts, whatever comes now."""
        if self._archive and await self._archive.accepted(user, command_id):
            return True
        return await self._store.inbox.seen(user, command_id) is not None

    async def end(self, user: str) -> str:
        """Return the place of the last entry in a user's log."""
        return await self._store.log.end(user)

    async def _heard(
        self, user: str, after: str, reading: Reading | None = None
    ) -> AsyncGenerator[Entry | Gap | None]:
        """Yield what comes: for ever, or as long as there is hope for the command that is read."""
        heard = time.monotonic()
        async with contextlib.aclosing(self._feed.follow(user, after)) as batches:
            async for batch in batches:
                if isinstance(batch, Gap):
                    yield batch
                elif batch:
                    heard = time.monotonic()
                    if self._ownership.late:
                        raise Draining
                    for entry in batch:
                        yield entry
                else:
                    yield None
                    await self._look_after(user, for_ever=reading is None)
                    if reading and time.monotonic() - heard > self._patience:
                        if not await self._waits(user, reading):
                            raise StoreUnavailable("The answer was lost. Please send the message again.")
                        heard = time.monotonic()

    async def _waits(self, user: str, reading: Reading) -> bool:
        """Tell whether a message still waits for its turn to begin, however long others take before it."""
        return not reading.begun and any(turn.id == reading.id for turn in await self.open_turns(user))

    async def _look_after(self, user: str, *, for_ever: bool) -> None:
        """Have somebody serve the user if there is something to be done."""
        if self._ownership.late or (for_ever and self._ownership.gone_for(user)):
            raise Draining
        with contextlib.suppress(StoreUnavailable):  # patience decides when it has lasted too long
            if not for_ever or await self._store.inbox.waits(user):
                await self._ownership.wake(user)

    async def _ended(self, user: str, accepted: Accepted, outcome: Final) -> list[Entry]:
        """Return a command that has ended as the log has it, or else as the record has it."""
        end = Entry(id=f"{2**62}-0", command_id=accepted.id, event=outcome)
        entries = await self.earlier(user, end)
        whole = entries and (isinstance(entries[0].event, TurnStarted) or not accepted.run)
        if whole and is_final(entries[-1].event):
            return entries
        return await self._recall(user, accepted, outcome)

    async def _recall(self, user: str, accepted: Accepted, outcome: Final, place: str = "") -> list[Entry]:
        """Return a command that has ended as the record has it, whatever the log has lost.

        Args:
            place: The end's place in the log, if it is there.
        """
        command = accepted.command
        sent = (command.session_id, command.run) if isinstance(command, Send) else None
        session_id, run = sent or (accepted.session_id, accepted.run)
        own = run and not isinstance(outcome, Steered)
        events = await self._retold(user, session_id, run) if own else []
        entries = [Entry(id="", command_id=accepted.id, event=event) for event in events]
        return [*entries, Entry(id=place, command_id=accepted.id, event=outcome)]

    async def _retold(self, user: str, session_id: str, run: str) -> list[Event]:
        messages = await self._record.turn(user, session_id, run)
        return [TurnStarted(session_id=session_id, run=run), *retold(messages, tools=True)]

    async def recalled(self, user: str, turn_id: str) -> list[Entry]:
        """Return a turn as the record has it; nothing if it knows none of this id."""
        known = await self._archive.accepted(user, turn_id) if self._archive else None
        if known is None or not known.run:
            return []
        events = await self._retold(user, known.session_id, known.run)
        return [Entry(id="", command_id=turn_id, event=event) for event in events]

    async def ended(self, user: str, turn_id: str) -> list[Entry]:
        """Return a turn that has ended as the record has it; nothing if it has not."""
        known = await self._archive.accepted(user, turn_id) if self._archive else None
        return await self._recall(user, known, known.outcome) if known and known.outcome else []

    async def wake(self, user: str) -> None:
        """Make sure that somebody serves the user: whoever did may have died."""
        await self._ownership.wake(user)

    async def outcome(self, user: str, command: Command) -> Final:
        """Hand a command over and wait for how it ends."""
        ticket = await self.submit(user, command)
        async with contextlib.aclosing(self.follow(user, ticket)) as entries:
            async for entry in entries:
                if entry and is_final(entry.event):
                    return entry.event
        raise StoreUnavailable


def renamed(command: Command) -> Command:
    """Return the same command as another one."""
    return replace(command, id=new_id())
