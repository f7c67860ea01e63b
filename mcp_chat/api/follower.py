"""One client that follows a user's log: its place, and the turns of which it was sent parts."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from mcp_chat.api.sse import frame
from mcp_chat.api.transcript import Transcript, encode, frame_of
from mcp_chat.configs import UserConfigs
from mcp_chat.dispatch import Dispatch
from mcp_chat.events import (
    Answered,
    Asked,
    AskEnded,
    Branched,
    BranchSwitched,
    Cancelled,
    Connected,
    Consulted,
    Disconnected,
    Entry,
    MessageAdded,
    ResourceUpdated,
    ServerChanged,
    ServersShown,
    SessionDeleted,
    SignInShown,
    Steered,
    TakenOver,
    TurnStarted,
    is_final,
    order,
)
from mcp_chat.feed import Gap
from mcp_chat.message import MESSAGE, public
from mcp_chat.record import Record
from mcp_chat.stores.base import START

LOST = 5.0
"""Seconds between two looks for ends that the log does not tell."""

NO_TURN = (
    TakenOver,
    Answered,
    Connected,
    Cancelled,
    Disconnected,
    SessionDeleted,
    BranchSwitched,
    ServerChanged,
    ServersShown,
    SignInShown,
    Consulted,
    ResourceUpdated,
    Steered,
)


@dataclass(slots=True)
class Follower:
    """One client that follows.

    Attributes:
        max_messages: Messages of a snapshot.
        place: The last entry that it has seen or passed over.
        known: The log's end when it was told how things are: what is missing before is no news to it.
        turns: The turns whose parts it was sent.
        over: Those that have ended as the record has it, at the last look.
        torn: Those of which the log has lost the beginning: what they come to is in the record.
    """

    dispatch: Dispatch
    configs: UserConfigs
    record: Record
    max_messages: int
    user: str
    session_id: str | None
    place: str = START
    known: str = START
    turns: dict[str, Transcript] = field(default_factory=dict)
    torn: set[str] = field(default_factory=set)
    over: set[str] = field(default_factory=set)
    looked: float = field(default_factory=time.monotonic)

    async def start(self, after: str | None) -> None:
        """Begin behind a place, or else where the running turn begins."""
        if after:
            self.place = after
        else:
            await self._begin()

    async def frames(self) -> AsyncIterator[str]:
        """Yield frames without end, nothing in a silent second."""
        while True:
            lost = False
            async with contextlib.aclosing(self.dispatch.watch(self.user, self.place)) as found:
                async for entry in found:
                    if lost := isinstance(entry, Gap) and order(self.place) >= order(self.known):
                        break
                    yield await self._frame(entry) if isinstance(entry, Entry) else ""
                    if end := await self._lost_end():
                        yield end
            if lost:
                yield await self._reset()

    async def _frame(self, entry: Entry) -> str:
        self.place = entry.id or self.place
        if told := news(entry):
            return told
        if isinstance(entry.event, BranchSwitched):
            return self._branch(entry, entry.event)
        transcript = await self._turn_of(entry)
        if transcript is None:
            return ""
        where = {"session_id": transcript.session_id, "turn_id": entry.command_id}
        sent = frame_of(entry, transcript, **where)
        if transcript.ended:
            del self.turns[entry.command_id]
            self.torn.discard(entry.command_id)
        if self.session_id not in (None, transcript.session_id):
            return ""
        match entry.event:
            case TurnStarted():
                return frame("turn", where, entry.id)
            case Branched():
                return self._branch(entry, entry.event)
            case MessageAdded(message=message):
                return frame(
                    "message",
                    {"message": MESSAGE.dump_python(public(message), mode="json"), **where},
                    entry.id,
                )
        return sent

    def _branch(self, entry: Entry, event: Branched | BranchSwitched) -> str:
        """Return the frame that says that a conversation is to be read again."""
        if self.session_id not in (None, event.session_id):
            return ""
        return frame("branch", {"session_id": event.session_id, "message_id": event.message_id}, entry.id)

    async def _lost_end(self) -> str:
        """Return the end of a turn that ended a while ago without the log telling it, or nothing."""
        if time.monotonic() < self.looked + LOST:
            return ""
        self.looked = time.monotonic()
        before, self.over = self.over, set()
        for turn_id in list(self.turns):
            entries = await self.dispatch.ended(self.user, turn_id)
            transcript = transcript_of(entries)
            if transcript and turn_id in before:
                self.turns[turn_id] = transcript
                return await self._frame(entries[-1])
            if transcript:
                self.over.add(turn_id)  # the log may be about to tell it
        return ""

    async def _turn_of(self, entry: Entry) -> Transcript | None:
        """Return a turn, with what came before the entry; None for an entry that is about none."""
        turn_id = entry.command_id
        if turn_id in self.torn and is_final(entry.event):
            self.turns[turn_id] = transcript_of(await self._recalled(turn_id)) or self.turns[turn_id]
        if turn_id not in self.turns:
            transcript = transcript_of(await self._earlier(entry)) or transcript_of([entry])
            if transcript is None:
                return None
            self.turns[turn_id] = transcript
        return self.turns[turn_id]

    async def _earlier(self, entry: Entry) -> list[Entry]:
        """Return what came before; if the log has lost the beginning, what the record has of the turn."""
        if isinstance(entry.event, NO_TURN):
            return []
        earlier = await self.dispatch.earlier(self.user, entry)
        if transcript_of([*earlier, entry]):
            return earlier
        recalled = await self._recalled(entry.command_id)
        if recalled:
            self.torn.add(entry.command_id)
        return recalled

    async def _recalled(self, turn_id: str) -> list[Entry]:
        return await self.dispatch.recalled(self.user, turn_id)

    async def _begin(self) -> None:
        """Go to where the first of the running turns begins, or to the log's end."""
        turns = [
            turn.id
            for turn in await self.dispatch.open_turns(self.user)
            if self.session_id in (None, turn.session_id)
        ]
        places = [await self.dispatch.beginning(self.user, turn_id) for turn_id in turns]
        self.known = await self.dispatch.end(self.user)
        self.place = min((place for place in places if place), key=order, default=self.known)

    async def _reset(self) -> str:
        """Tell a client that it has missed something: how things are now, and where the stream goes on."""
        self.turns.clear()
        await self._begin()
        session_id = self.session_id
        if session_id is None:
            config = await self.configs.get(self.user)
            session_id = config.session_id if config else None
        running = await self.dispatch.running(self.user, session_id)
        messages = (
            await self.record.messages(self.user, session_id, limit=self.max_messages) if session_id else []
        )
        data: dict[str, Any] = {
            "session_id": session_id,
            "after": self.place,
            "snapshot": {
                "messages": [MESSAGE.dump_python(public(message), mode="json") for message in messages],
                "running": running,
            },
        }
        if running and session_id:
            self.turns[running] = Transcript(session_id=session_id, turn_id=running)
            self.torn.add(running)
        return frame("reset", data, self.place)


def news(entry: Entry) -> str:
    """Return the frame of what a server has told, which is of no conversation; nothing for other entries."""
    match entry.event:
        case ServerChanged(server=server, what=what):
            return frame("server_changed", {"server": server, "what": what}, entry.id)
        case ResourceUpdated(server=server, uri=uri):
            return frame("resource_updated", {"server": server, "uri": uri}, entry.id)
        case Asked() | AskEnded() if not entry.command_id:  # about a call that an app asks for
            return "".join(frame(name, data, entry.id) for name, data in encode(entry.event))
    return ""


def transcript_of(entries: Sequence[Entry]) -> Transcript | None:
    """Return what a turn's entries add up to; None if its beginning is not among them."""
    for entry in entries:
        if isinstance(entry.event, TurnStarted):
            transcript = Transcript(session_id=entry.event.session_id, turn_id=entry.command_id)
            for each in entries:
                transcript.add(each)
            return transcript
    return None
