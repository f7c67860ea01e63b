"""A turn's events as ContextForge's chat shows them: frames of a stream, and what they add up to."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import structlog

from mcp_chat.api.identity import ProofTooOld
from mcp_chat.api.sse import HEARTBEAT, frame
from mcp_chat.events import (
    Discarded,
    Entry,
    Event,
    Failed,
    MessageAdded,
    TextDelta,
    ToolFinished,
    ToolProgressed,
    ToolStarted,
    TurnFinished,
    TurnStarted,
)
from mcp_chat.exceptions import ChatError, Draining, Unexpected
from mcp_chat.recovery import Told

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

    def usage(self) -> dict[str, int]:
        """Return the tokens of the turn."""
        usage = self.finished.usage
        return {"input_tokens": usage.input_tokens, "output_tokens": usage.output_tokens}

    def whereabouts(self) -> dict[str, Any]:
        """Return which turn this is, and of which session."""
        return {"session_id": self.session_id, "turn_id": self.turn_id, "resumed": self.resumed}

    def final(self) -> dict[str, Any]:
        """Return the data of the `final` frame."""
        return {
            "type": "final",
            "content": self.text,
            **self.tools_used(),
            "elapsed_ms": self.finished.elapsed_ms,
            "stopped": self.finished.stopped,
            "usage": self.usage(),
            **self.whereabouts(),
        }


def encode(event: Event) -> list[tuple[str, dict[str, Any]]]:
    """Return an event as the contract's frames: name and data."""
    match event:
        case TextDelta(text=text):
            return [("token", {"content": text})]
        case ToolStarted(call_id=call_id, name=name, args=args, at=at):
            return [("tool_start", _tool("tool_start", call_id, name, input=dict(args), start=at))]
        case ToolProgressed(call_id=call_id, name=name, progress=done, total=total, message=message):
            more = {"progress": done, "total": total, "message": message}
            return [("tool_progress", _tool("tool_progress", call_id, name, **more))]
        case ToolFinished(call_id=call_id, name=name, output=output, failed=True, at=at):
            return [("tool_error", _tool("tool_error", call_id, name, error=output, time=at))]
        case ToolFinished(call_id=call_id, name=name, output=output, at=at):
            return [("tool_end", _tool("tool_end", call_id, name, output=output, end=at))]
        case Failed(code="model_timeout"):
            text = "Request timed out waiting for LLM response"
            return [("error", {"type": "error", "error": text, "recoverable": True})]
        case Failed(code=code, text=text, retryable=retryable):
            text = f"Service error: {text}" if code == "model_failed" else text
            return [("error", {"type": "error", "error": text, "recoverable": retryable})]
        case _:
            return []


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
