"""A turn's events as ContextForge's chat shows them: frames of a stream, and what they add up to."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

import structlog

from mcp_chat import spent
from mcp_chat.api.identity import ProofTooOld
from mcp_chat.api.sse import HEARTBEAT, frame
from mcp_chat.events import (
    Asked,
    AskEnded,
    Blocked,
    Discarded,
    Entry,
    Event,
    Failed,
    MessageAdded,
    Noticed,
    Steered,
    TextDelta,
    ThoughtDelta,
    ToolFinished,
    ToolProgressed,
    ToolStarted,
    TurnFinished,
    TurnStarted,
)
from mcp_chat.exceptions import ChatError, Draining, Unexpected
from mcp_chat.message import Message
from mcp_chat.questions import Question
from mcp_chat.recovery import Told
from mcp_chat.steering import STEER

log = structlog.get_logger()

HEARTBEAT_EVERY = 15.0
UNFINISHED = TurnFinished()


@dataclass(slots=True)
class Transcript:
    """What a turn's events add up to.

    Attributes:
        session_id: Where it was to be; a turn that was sent again is where it was.
        resumed: Whether that is the session that was asked for.
        place: The last entry.
    """

    session_id: str
    turn_id: str
    resumed: bool = True
    place: str = ""
    told: Told = field(default_factory=Told)
    tools: list[str] = field(default_factory=list)
    invocations: list[dict[str, Any]] = field(default_factory=list)
    finished: TurnFinished = UNFINISHED
    failed: Failed | None = None

    @property
    def text(self) -> str:
        """The answer so far."""
        return self.told.text

    def add(self, entry: Entry) -> None:
        """Take an entry into account."""
        self.place = entry.id or self.place
        self.told.hear(entry)
        match entry.event:
            case TurnStarted(session_id=session_id):
                self.session_id = session_id
            case ToolStarted(name=name):
                self._use(name)
                self.invocations += [data for _, data in encode(entry.event)]
            case ToolFinished():
                self.invocations += [data for _, data in encode(entry.event)]
            case MessageAdded(message=message):
                for call in message.tool_calls:
                    self._use(call.name)
            case Steered(turn_id=turn_id):
                self.turn_id = turn_id
            case TurnFinished():
                self.finished = entry.event
            case Failed():
                self.failed = entry.event

    def _use(self, name: str) -> None:
        if name not in self.tools:
            self.tools.append(name)

    @property
    def ended(self) -> bool:
        """Whether its final event is among them."""
        return self.failed is not None or self.finished is not UNFINISHED

    def tools_used(self) -> dict[str, Any]:
        """Return the contract's two fields about tools."""
        return {"tool_used": bool(self.tools), "tools": self.tools}

    def extent(self) -> dict[str, Any]:
        """Return how long it took and how far it came: `ended` says why the model did not say it all."""
        cut = {"ended": self.finished.ended} if self.finished.ended else {}
        return {"elapsed_ms": self.finished.elapsed_ms, "stopped": self.finished.stopped, **cut}

    def usage(self) -> dict[str, Any]:
        """Return the tokens of the turn, and what it cost."""
        return {**spent.told(self.finished.usage), "steps": self.finished.steps}

    def whereabouts(self) -> dict[str, Any]:
        """Return which turn this is, and of which session."""
        return {"session_id": self.session_id, "turn_id": self.turn_id, "resumed": self.resumed}

    def final(self) -> dict[str, Any]:
        """Return the data of the `final` frame."""
        return {
            "type": "final",
            "content": self.text,
            **self.tools_used(),
            **self.extent(),
            "usage": self.usage(),
            **self.whereabouts(),
        }


def encode(event: Event) -> list[tuple[str, dict[str, Any]]]:
    """Return an event as the contract's frames: name and data."""
    match event:
        case TextDelta(text=text):
            return [("token", {"content": text})]
        case ThoughtDelta(text=text):
            return [("thinking", {"content": text})]
        case ToolStarted(call_id=call_id, name=name, args=args, at=at):
            return [("tool_start", _tool("tool_start", call_id, name, input=dict(args), start=at))]
        case ToolProgressed(call_id=call_id, name=name, progress=done, total=total, message=message):
            more = {"progress": done, "total": total, "message": message}
            return [("tool_progress", _tool("tool_progress", call_id, name, **more))]
        case ToolFinished(call_id=call_id, name=name, output=output, failed=True, at=at):
            more = {"error": output, "time": at, **_given(event)}
            return [("tool_error", _tool("tool_error", call_id, name, **more))]
        case ToolFinished(call_id=call_id, name=name, output=output, at=at):
            more = {"output": output, "end": at, **_given(event)}
            return [("tool_end", _tool("tool_end", call_id, name, **more))]
        case Asked() | AskEnded():
            return [_asked(event)]
        case Failed():
            return [("error", {"type": "error", **failure_of(event)})]
        case _:
            return _aside(event)


def failure_of(failed: Failed) -> dict[str, Any]:
    """Return why a turn failed, as its user is told."""
    if failed.code == "model_timeout":
        return {"error": "Request timed out waiting for LLM response", "recoverable": True}
    if failed.limit:
        more = {"code": "limit_reached", "limit": failed.limit, "retry_after": failed.retry_after}
        return {"error": failed.text, "recoverable": False, **more}
    text = f"Service error: {failed.text}" if failed.code == "model_failed" else failed.text
    return {"error": text, "recoverable": failed.retryable}


def _aside(event: Event) -> list[tuple[str, dict[str, Any]]]:
    """Return the frame of what is neither the model's nor a tool's."""
    match event:
        case Noticed():
            return [("notice", _notice(event))]
        case Blocked():
            return [("blocked", asdict(event))]
        case MessageAdded(message=message) if STEER in message.metadata:
            return [("steered", _steered(message))]
        case _:
            return []


def _asked(event: Asked | AskEnded) -> tuple[str, dict[str, Any]]:
    """Return what is asked, or that it is not any more: by a server, or by us about a call."""
    match event:
        case Asked(question=question) if question.kind == "approval":
            return "approval", {"type": "approval", **told_call(question)}
        case Asked(question=question):
            return "question", {"type": "question", **told(question)}
        case AskEnded(question_id=question_id, decision=str(decision), edited=edited) if decision:
            more = {"decision": decision, "edited": edited}
            return "approval_end", {"type": "approval_end", "id": question_id, **more}
        case AskEnded(question_id=question_id, action=action):
            return "question_end", {"type": "question_end", "id": question_id, "action": action}


def told(question: Question) -> dict[str, Any]:
    """Return a question as its user is told of it."""
    form = {"schema": dict(question.schema)} if question.kind == "form" else {}
    leads = {"url": question.url, "host": question.host} if question.url else {}
    return {
        "id": question.id,
        "kind": question.kind,
        "server": question.server,
        "message": question.message,
        **form,
        **leads,
        "warning": question.warning or None,
        "session_id": question.session_id,
        "turn_id": question.turn,
        "call_id": question.call_id or None,
        "tool": question.tool or None,
        "until": moment(question.until),
    }


def _steered(message: Message) -> dict[str, Any]:
    """Return a message that was said into the turn, behind which the answer goes on."""
    return {"type": "steered", "id": message.id, "content": message.content}


def _notice(event: Noticed) -> dict[str, Any]:
    more = {"seconds": event.seconds, "model": event.model}
    given = {name: value for name, value in more.items() if value}
    return {"type": "notice", "code": event.code, "text": event.text, **given}


def told_call(question: Question) -> dict[str, Any]:
    """Return a question of ours about a call as its user is told of it."""
    return {
        "id": question.id,
        "server": question.server,
        "tool": question.tool,
        "name": question.name,
        "arguments": dict(question.arguments),
        "decisions": list(question.choices),
        "session_id": question.session_id or None,
        "turn_id": question.turn or None,
        "call_id": question.call_id,
        "until": moment(question.until),
    }


def moment(seconds: float) -> str:
    """Return a moment, given in seconds since 1970, as answers have it."""
    return datetime.fromtimestamp(int(seconds), UTC).isoformat().replace("+00:00", "Z")


def _given(event: ToolFinished) -> dict[str, Any]:
    """Return what a call gave besides its text, as far as there is any."""
    given: dict[str, Any] = {}
    if event.parts:
        given["files"] = [asdict(part) for part in event.parts]
    if event.structured is not None:
        given["structured"] = event.structured
    return given


def _tool(kind: str, call_id: str, name: str, **more: Any) -> dict[str, Any]:
    return {"type": kind, "id": call_id, "tool": name, **more}


def frame_of(entry: Entry, transcript: Transcript, **more: Any) -> str:
    """Take an entry in and return its frame, or nothing.

    Args:
        more: Further fields of the frame's data.
    """
    transcript.add(entry)
    match entry.event:
        case TurnFinished():
            return frame("final", {**transcript.final(), **more}, entry.id or None)
        case Discarded(after=after):
            return frame("discard", {"turn_id": transcript.turn_id, "after": after, **more}, entry.id)
    place = entry.id or None  # what is told as the record has it begins with a discard that takes it away
    return "".join(frame(name, {**data, **more}, place) for name, data in encode(entry.event))


def reconnect(place: str) -> str:
    """Return the frame with which a stream ends that is to be asked for anew, maybe of another worker."""
    text = "This stream ends here. Go on with GET /llmchat/events behind this place."
    return frame("reconnect", {"type": "reconnect", "after": place, "detail": text})


async def frames(entries: AsyncIterator[Entry | None], transcript: Transcript) -> AsyncIterator[str]:
    """Yield a turn as frames, with a heartbeat when nothing happens.

    The end is `final` or `error`, or `reconnect` if this worker stops before.
    """

    async def sent() -> AsyncIterator[str]:
        async for entry in entries:
            yield frame_of(entry, transcript) if entry else ""

    async for each in streamed(sent(), lambda: transcript.place):
        yield each


async def streamed(sent: AsyncIterator[str], place: Callable[[], str]) -> AsyncIterator[str]:
    """Yield frames as they come, heartbeats in between, and what an error is in a stream."""
    last = time.monotonic()
    try:
        async for each in sent:
            if each or time.monotonic() - last > HEARTBEAT_EVERY:
                last = time.monotonic()
                yield each or HEARTBEAT
    except (Draining, ProofTooOld):
        yield reconnect(place())
    except Exception as raised:  # the answer has begun: its end can only be told in the stream
        error = raised if isinstance(raised, ChatError) else Unexpected()
        if error is not raised:
            log.exception("stream.crashed")
        yield frame("error", {"type": "error", "error": str(error), "recoverable": error.retryable})
