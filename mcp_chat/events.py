"""Facts in a user's log, and the one fold that makes the next session of them.

An event belongs to the command that caused it; a turn is the command ``Send``, so a turn's id is its
command's id. Every command has exactly one final event.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, TypeGuard

from pydantic import Field, TypeAdapter

from mcp_chat.message import Message, Part, Usage
from mcp_chat.questions import End, Question
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
class ThoughtDelta:
    """The model thought a little more aloud: for eyes, and no part of its answer."""

    text: str
    type: Literal["thought_delta"] = "thought_delta"


@dataclass(frozen=True, slots=True, kw_only=True)
class Noticed:
    """Something that a user wants to know while they wait, and that is no part of the answer.

    Attributes:
        code: `model_retry`, `model_fallback` or `context_shortened`.
        text: The same as a sentence.
        seconds: How long it takes.
        model: Which model answers now.
    """

    code: str
    text: str
    seconds: int | None = None
    model: str = ""
    type: Literal["noticed"] = "noticed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Blocked:
    """A plugin of the operator's has blocked a tool call, or the turn, which ends then.

    Attributes:
        hook: Where the plugin was asked.
        plugin: Its name; empty if it was no single one.
        reason: Its sentence.
        code: Its code.
        call_id: The call; empty if it is the turn.
    """

    hook: str
    plugin: str
    reason: str
    code: str
    call_id: str = ""
    type: Literal["blocked"] = "blocked"


@dataclass(frozen=True, slots=True, kw_only=True)
class Discarded:
    """What the turn's deltas behind the place `after` said is void; what holds of the text is said again."""

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
    """A tool call ended; a failure is for the model to read, not an error of the turn.

    Attributes:
        parts: Files that it gave, which are kept.
        structured: The server's own value, if it gave a small one.
    """

    call_id: str
    name: str
    output: str
    failed: bool
    at: str
    parts: tuple[Part, ...] = ()
    structured: Any = None
    type: Literal["tool_finished"] = "tool_finished"


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A server asks something of its user, or we do; told again by each owner that waits for the answer."""

    question: Question
    type: Literal["asked"] = "asked"


@dataclass(frozen=True, slots=True, kw_only=True)
class AskEnded:
    """A question has ended, in whatever way; what a server was answered is nobody else's business.

    Attributes:
        decision: Of our question about a call: what was decided; empty of a server's question.
        edited: Whether the user has changed the call's arguments.
    """

    question_id: str
    action: End
    decision: str = ""
    edited: bool = False
    type: Literal["ask_ended"] = "ask_ended"


@dataclass(frozen=True, slots=True, kw_only=True)
class Branched:
    """What was said from a message on has become a branch: the turn goes on in front of it."""

    session_id: str
    message_id: str
    type: Literal["branched"] = "branched"


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageAdded:
    """A message is in the history."""

    message: Message
    usage: Usage = field(default_factory=Usage)
    type: Literal["message_added"] = "message_added"


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnFinished:
    """The answer is complete, or was stopped by the user; the history was written before.

    Attributes:
        ended: Why the model did not say it all: `length`, `content_filter` or `refusal`.
        steps: Calls of a model that it took.
    """

    stopped: bool = False
    ended: str = ""
    elapsed_ms: int = 0
    usage: Usage = field(default_factory=Usage)
    steps: int = 0
    type: Literal["turn_finished"] = "turn_finished"


@dataclass(frozen=True, slots=True, kw_only=True)
class Steered:
    """A message was said into a turn that ran already, whose events are the answer to it.

    Attributes:
        turn_id: That turn.
        message_id: The message in the history.
    """

    turn_id: str
    message_id: str
    type: Literal["steered"] = "steered"


@dataclass(frozen=True, slots=True, kw_only=True)
class Connected:
    """The user's servers answered, and the new configuration is in force.

    Attributes:
        left_out: Tools that are over a limit, and over which.
        sign_in: Servers that want their user to sign in first, and where.
    """

    session_id: str
    tools: tuple[str, ...]
    left_out: Mapping[str, str] = field(default_factory=dict)
    sign_in: Mapping[str, str] = field(default_factory=dict)
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
class BranchSwitched:
    """A session shows the branch that a message is in."""

    session_id: str
    message_id: str
    type: Literal["branch_switched"] = "branch_switched"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """The owner has heard that a question was answered."""

    type: Literal["answered"] = "answered"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServersShown:
    """How a user's servers are, after a change if one was asked for; or what tools one of them has.

    Attributes:
        shown: As `mcp_chat.server_changes` has them.
    """

    shown: tuple[Mapping[str, Any], ...]
    type: Literal["servers_shown"] = "servers_shown"


@dataclass(frozen=True, slots=True, kw_only=True)
class SignInShown:
    """Where the user signs in to a server; empty if they need not."""

    url: str
    type: Literal["sign_in_shown"] = "sign_in_shown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Consulted:
    """What a server has answered outside of a turn, as JSON; what is large is kept as files that it names."""

    result: Mapping[str, Any]
    type: Literal["consulted"] = "consulted"


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """A command came to nothing: the code of a `ChatError` and its sentence.

    Attributes:
        limit: The limit that was reached, if that is why.
    """

    code: str
    text: str
    retryable: bool = False
    retry_after: float | None = None
    limit: str = ""
    type: Literal["failed"] = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerChanged:
    """A server is in another state, or offers something else; of no command.

    Attributes:
        server: Its alias.
        what: Its state, or `tools`, `prompts` or `resources` when it offers others.
    """

    server: str
    what: str
    type: Literal["server_changed"] = "server_changed"


@dataclass(frozen=True, slots=True, kw_only=True)
class ResourceUpdated:
    """A server has told that a resource to which the user has subscribed is not what it was."""

    server: str
    uri: str
    type: Literal["resource_updated"] = "resource_updated"


Final = (
    TurnFinished
    | Steered
    | Connected
    | Cancelled
    | Disconnected
    | SessionDeleted
    | BranchSwitched
    | ServersShown
    | SignInShown
    | Consulted
    | Answered
    | Failed
)
Event = (
    TakenOver
    | TurnStarted
    | TextDelta
    | ThoughtDelta
    | Noticed
    | Blocked
    | Discarded
    | HandedOver
    | ToolStarted
    | ToolProgressed
    | ToolFinished
    | Asked
    | AskEnded
    | Branched
    | MessageAdded
    | ServerChanged
    | ResourceUpdated
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
