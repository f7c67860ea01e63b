"""Facts in a user's log, and the one fold that makes the next session of them.

An event belongs to the command that caused it; a turn is the command ``Send``, so a turn's id is its
command's id. Every command has exactly one final event.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, TypeGuard

from pydantic import Field, TypeAdapter

from mcp_chat.message import Message, Usage
from mcp_chat.session import Session


@dataclass(frozen=True, slots=True, kw_only=True)
class TakenOver:
    """A worker has claimed the user; the first entry of each epoch, and of no command.

    Attributes:
        before: The log's last entry then: a reader who has read up to there has missed nothing.
    """

    worker: str
    before: str
    type: Literal["taken_over"] = "taken_over"


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnStarted:
    """An owner has taken a user's message up; again, if an earlier one could not end the turn.

    Attributes:
        run: Begins the ids of the messages that the turn writes.
    """

    session_id: str
    run: str = ""
    type: Literal["turn_started"] = "turn_started"


@dataclass(frozen=True, slots=True, kw_only=True)
class TextDelta:
    """The model said a little more."""

    text: str
    type: Literal["text_delta"] = "text_delta"


@dataclass(frozen=True, slots=True, kw_only=True)
class Discarded:
    """What the turn's text deltas behind the place `after` said is void; what holds of it is said again."""

    after: str
    type: Literal["discarded"] = "discarded"


@dataclass(frozen=True, slots=True, kw_only=True)
class HandedOver:
    """The owner stops in good order and leaves the turn to the next one.

    Attributes:
        pending: Calls that are recorded and have certainly not been made.
    """

    pending: tuple[str, ...] = ()
    type: Literal["handed_over"] = "handed_over"


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolStarted:
    """A tool call is on its way to its server."""

    call_id: str
    name: str
    args: Mapping[str, Any]
    at: str
    type: Literal["tool_started"] = "tool_started"


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolProgressed:
    """The server told how far a call is."""

    call_id: str
    name: str
    progress: float
    total: float | None = None
    message: str | None = None
    type: Literal["tool_progressed"] = "tool_progressed"


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolFinished:
    """A tool call ended; a failure is for the model to read, not an error of the turn."""

    call_id: str
    name: str
    output: str
    failed: bool
    at: str
    type: Literal["tool_finished"] = "tool_finished"


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageAdded:
    """A message is in the history."""

    message: Message
    usage: Usage = field(default_factory=Usage)
    type: Literal["message_added"] = "message_added"


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnFinished:
    """The answer is complete, or was stopped by the user; the history was written before."""

    stopped: bool = False
    elapsed_ms: int = 0
    usage: Usage = field(default_factory=Usage)
    type: Literal["turn_finished"] = "turn_finished"


@dataclass(frozen=True, slots=True, kw_only=True)
class Connected:
    """The user's servers answered, and the new configuration is in force.

    Attributes:
        left_out: Tools that are over a limit, and over which.
    """

    session_id: str
    tools: tuple[str, ...]
    left_out: Mapping[str, str] = field(default_factory=dict)
    type: Literal["connected"] = "connected"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancelled:
    """So many turns were told to stop."""

    turns: int
    type: Literal["cancelled"] = "cancelled"


@dataclass(frozen=True, slots=True, kw_only=True)
class Disconnected:
    """Turns are cancelled, connections closed, the configuration forgotten."""

    type: Literal["disconnected"] = "disconnected"


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionDeleted:
    """A session is gone; `existed` tells whether there was one."""

    existed: bool
    type: Literal["session_deleted"] = "session_deleted"


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """A command came to nothing: the code of a `ChatError` and its sentence."""

    code: str
    text: str
    retryable: bool = False
    retry_after: float | None = None
    type: Literal["failed"] = "failed"


Final = TurnFinished | Connected | Cancelled | Disconnected | SessionDeleted | Failed
Event = (
    TakenOver
    | TurnStarted
    | TextDelta
    | Discarded
    | HandedOver
    | ToolStarted
    | ToolProgressed
    | ToolFinished
    | MessageAdded
    | Final
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """An event in the log.

    Attributes:
        id: Its place, ``<epoch>-<n>``, strictly rising within a user's log.
        command_id: The command that caused it.
    """

    id: str
    command_id: str
    event: Annotated[Event, Field(discriminator="type")]


EVENT: TypeAdapter[Event] = TypeAdapter(Annotated[Event, Field(discriminator="type")])
"""Events as JSON."""

FINAL: TypeAdapter[Final] = TypeAdapter(Annotated[Final, Field(discriminator="type")])
"""Final events as JSON."""


def is_final(event: Event) -> TypeGuard[Final]:
    """Tell whether nothing follows for the event's command."""
    return isinstance(event, Final)


def order(entry_id: str) -> tuple[int, int]:
    """Return an entry's place as numbers that compare."""
    epoch, _, n = entry_id.partition("-")
    return int(epoch), int(n or 0)


def follows(place: str, entry: Entry) -> bool:
    """Tell whether an entry is the next one behind a place: nothing lies between them."""
    (epoch, n), (its_epoch, its_n) = order(place), order(entry.id)
    if isinstance(entry.event, TakenOver):
        return entry.event.before == place
    return epoch == its_epoch and its_n == n + 1


def fold(session: Session, event: Event) -> Session:
    """Return the session after the event. Deltas are for eyes, messages are for memory."""
    match event:
        case MessageAdded(message=message, usage=usage):
            return session.append(message).update_token_usage(usage)
        case _:
            return session
