"""A turn's events as ContextForge's chat shows them: frames of a stream, and what they add up to."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import structlog

from mcp_chat.api.sse import HEARTBEAT, frame
from mcp_chat.events import (
    Entry,
    Event,
    Failed,
    TextDelta,
    ToolFinished,
    ToolProgressed,
    ToolStarted,
    TurnFinished,
    TurnStarted,
)
from mcp_chat.exceptions import ChatError, Unexpected

log = structlog.get_logger()

HEARTBEAT_EVERY = 15.0


@dataclass(slots=True)
class Transcript:
    """What a turn's events add up to.

    Attributes:
        session_id: Where it was to be; a turn that was sent again is where it was.
        resumed: Whether that is the session that was asked for.
    """

    session_id: str
    turn_id: str
    resumed: bool
    text: str = ""
    broken: bool = False
    tools: list[str] = field(default_factory=list)
    invocations: list[dict[str, Any]] = field(default_factory=list)
    finished: TurnFinished = field(default_factory=TurnFinished)
    failed: Failed | None = None

    def add(self, event: Event) -> Event:
        """Take an event into account; text after a tool begins a paragraph of its own."""
        match event:
            case TurnStarted(session_id=session_id):
                self.session_id = session_id
            case TextDelta(text=text):
                event = TextDelta(text=f"\n\n{text}") if self.text and self.broken else event
                self.text += event.text
                self.broken = False
            case ToolStarted(name=name):
                self.broken = True
                if name not in self.tools:
                    self.tools.append(name)
                self.invocations += [data for _, data in encode(event)]
            case ToolFinished():
                self.invocations += [data for _, data in encode(event)]
            case TurnFinished():
                self.finished = event
            case Failed():
                self.failed = event
        return event

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


async def frames(entries: AsyncIterator[Entry | None], transcript: Transcript) -> AsyncIterator[str]:
    """Yield a turn as frames, with a heartbeat when nothing happens; the end is `final` or `error`."""
    last = time.monotonic()
    try:
        async for entry in entries:
            sent = _frames_of(entry, transcript)
            if not sent and time.monotonic() - last > HEARTBEAT_EVERY:
                sent = [HEARTBEAT]
            for each in sent:
                last = time.monotonic()
                yield each
    except Exception as raised:  # the answer has begun: its end can only be told in the stream
        error = raised if isinstance(raised, ChatError) else Unexpected()
        if error is not raised:
            log.exception("stream.crashed")
        text = {"type": "error", "error": str(error), "recoverable": error.retryable}
        yield frame("error", text)


def _frames_of(entry: Entry | None, transcript: Transcript) -> list[str]:
    if entry is None:
        return []
    event = transcript.add(entry.event)
    if isinstance(event, TurnFinished):
        return [frame("final", transcript.final())]
    return [frame(name, data) for name, data in encode(event)]
