"""What a turn has told its readers, and what a new owner finds of one that an earlier owner began.

The log tells what readers have seen; the history tells what was recorded. docs/architecture.md has the table:
text that is in no message is void and said once more; a tool call without a result is never made again unless
the operator has declared the tool safe; what has crashed twice is given up.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from mcp_chat.events import (
    Discarded,
    Entry,
    Event,
    HandedOver,
    MessageAdded,
    TextDelta,
    ThoughtDelta,
    ToolFinished,
    ToolStarted,
    TurnStarted,
    is_final,
    order,
)
from mcp_chat.message import Message, ToolCall, Usage
from mcp_chat.results import STRUCTURED

BREAK = "\n\n"
"""Text that follows a tool begins a paragraph of its own."""

VOID = "0-0"
"""The place behind which a discard voids all that a turn has said."""


@dataclass(slots=True)
class Told:
    """A turn's text as its readers have it: what was said, less what was discarded.

    Attributes:
        text: All of it.
        at: Where the part begins that is in no message yet.
        broken: Whether a tool was called since the last text.
        thought: What the model has thought aloud since the last message.
        marks: How long the text was behind which place, and whether a tool had been called since.
    """

    text: str = ""
    at: int = 0
    broken: bool = False
    thought: str = ""
    marks: list[tuple[str, int, bool]] = field(default_factory=list)

    @property
    def partial(self) -> str:
        """What is in no message yet."""
        return self.text[self.at :]

    @property
    def loose(self) -> bool:
        """Whether something was told that is in no message yet."""
        return bool(self.thought) or len(self.text) > self.at

    def say(self, text: str) -> str:
        """Take new text in, and return it as readers are to be told it."""
        more = BREAK if self.broken and self.text else ""
        self.text += more
        self.at += len(more)
        self.text += text
        self.broken = False
        return more + text

    def add(self, message: Message) -> None:
        """Take a message in: its text is what holds."""
        if message.role in ("tool", "user"):
            self.broken = True
        elif message.role == "assistant" and "prompt" not in message.metadata:  # else a server's words
            if message.content and self.partial != message.content:
                self.text = self.text[: self.at]
                self.say(message.content)
            self.at = len(self.text)
            self.broken |= bool(message.tool_calls)
            self.thought = ""

    def hear(self, entry: Entry) -> None:
        """Take an entry of the log in."""
        match entry.event:
            case TextDelta(text=text):
                self.say(text.removeprefix(BREAK) if self.broken and self.text else text)
            case ThoughtDelta(text=text):
                self.thought += text
            case Discarded(after=after):
                self.discard(after)
            case ToolStarted():
                self.broken = True
            case MessageAdded(message=message):
                self.add(message)
        self.marks.append((entry.id, len(self.text), self.broken))

    def discard(self, after: str) -> None:
        """Drop what was said behind a place; thoughts are dropped up to the last message."""
        self.marks = [mark for mark in self.marks if mark[0] and order(mark[0]) <= order(after)]
        _, length, self.broken = self.marks[-1] if self.marks else (VOID, 0, False)
        self.text = self.text[:length]
        self.at = length
        self.thought = ""


@dataclass(slots=True)
class Past:
    """What the log tells of a turn that has not ended.

    Attributes:
        told: What its readers have.
        holds: The place behind which there are only texts and thoughts that are in no message.
        announced: Ids of its messages.
        starts: Owners that have begun with it.
        handed: Owners that have left it in good order.
        orderly: Whether the last one was one of those.
        pending: Calls that the last of those had recorded and certainly not made.
        usage: Tokens of the messages that were announced.
        lost: Whether the log has lost all this since it was read.
    """

    told: Told = field(default_factory=Told)
    holds: str = VOID
    announced: set[str] = field(default_factory=set)
    starts: int = 0
    handed: int = 0
    orderly: bool = False
    pending: tuple[str, ...] = ()
    usage: Usage = field(default_factory=Usage)
    lost: bool = False

    @property
    def crashes(self) -> int:
        """Owners that have died over it."""
        return self.starts - self.handed

    def missing(self, written: Sequence[Message]) -> list[Event]:
        """Return the events that bring readers to what is written: nothing, a discard, or all anew."""
        if not written:
            return []  # nothing was said before the user's message was recorded
        known = self.starts and not self.lost and all(message.id in self.announced for message in written)
        if known and self.told.text[: self.told.at].rstrip() == told_of(written).text.rstrip():
            return [Discarded(after=self.holds)] if self.told.loose else []
        return retold(written)


def past_of(entries: Sequence[Entry]) -> Past:
    """Return what a turn's entries tell."""
    past = Past()
    for entry in entries:
        match entry.event:
            case TurnStarted():
                past.starts += 1
                past.pending = ()
                past.orderly = False
            case HandedOver(pending=pending):
                past.handed += 1
                past.orderly = True
                past.pending = pending
            case MessageAdded(message=message, usage=usage):
                past.announced.add(message.id)
                past.usage += usage
        past.told.hear(entry)
        if not past.told.loose:
            past.holds = entry.id
    return past


def begun(entries: Iterable[Entry]) -> dict[str, list[Entry]]:
    """Return the entries of the turns that were begun and have not ended, by their commands."""
    found: dict[str, list[Entry]] = {}
    ended: set[str] = set()
    for entry in entries:
        if is_final(entry.event):
            ended.add(entry.command_id)
        if isinstance(entry.event, TurnStarted):
            found.setdefault(entry.command_id, [])
        if entry.command_id in found:
            found[entry.command_id].append(entry)
    return {command_id: its for command_id, its in found.items() if command_id not in ended}


def unanswered(messages: Sequence[Message]) -> list[ToolCall]:
    """Return the calls of a turn's messages that have no result."""
    results = {message.tool_call_id for message in messages if message.role == "tool"}
    return [call for message in messages for call in message.tool_calls if call.id not in results]


def answered(messages: Sequence[Message]) -> Message | None:
    """Return the message that ends the turn, if it is there."""
    last = messages[-1] if messages else None
    return last if last and last.role == "assistant" and not last.tool_calls else None


def told_of(messages: Sequence[Message]) -> Told:
    """Return what a turn's messages tell."""
    told = Told()
    for message in messages:
        told.add(message)
    return told


def retold(messages: Sequence[Message], partial: str = "", *, tools: bool = False) -> list[Event]:
    """Return the events that tell a turn anew, whatever its readers have heard of it.

    Args:
        partial: What is in no message yet.
        tools: Tell of the tool calls, too: to readers who have heard nothing.
    """
    told = Told()
    events: list[Event] = [Discarded(after=VOID)]
    calls = {call.id: call for message in messages for call in message.tool_calls} if tools else {}
    for message in messages:
        before = len(told.text)
        told.add(message)
        if message.role == "assistant" and len(told.text) > before:
            events.append(TextDelta(text=told.text[before:]))
        if call := calls.get(message.tool_call_id or ""):
            events += [_started(call, message), finished(call, message)]
        events.append(MessageAdded(message=message))
    if partial:
        events.append(TextDelta(text=told.say(partial)))
    return events


def _started(call: ToolCall, result: Message) -> ToolStarted:
    at = str(result.metadata.get("started_at") or result.created_at.isoformat())
    changed = result.metadata.get("approval", {}).get("arguments")
    args = call.args if changed is None else changed
    return ToolStarted(call_id=call.id, name=call.name, args=args, at=at)


def finished(call: ToolCall, result: Message) -> ToolFinished:
    """Return the event that tells of a call's result."""
    return ToolFinished(
        call_id=call.id,
        name=call.name,
        output=result.content,
        failed=result.status == "error",
        at=result.created_at.isoformat(),
        parts=result.parts,
        structured=result.metadata.get(STRUCTURED),
    )
