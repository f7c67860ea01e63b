"""A turn as it was: what the model was shown, what came from it and from the tools, and what was told of it.

It is taken down when its user asks for that, or when the operator's settings say so; `mcp_chat.replay` runs
it again.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from mcp_chat.events import Event
from mcp_chat.exceptions import ChatError, InvalidRequest
from mcp_chat.message import Message, ToolCall
from mcp_chat.models.base import CallPiece, Piece
from mcp_chat.results import ToolResult
from mcp_chat.tools import Tool

SCHEMA = "mcp-chat/turn/1"

MOST = 4 * 2**20
"""Bytes, about, of pieces, results and events; what comes behind is left out, and the recording says so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why a turn went no further: the code of a `ChatError` and its sentence."""

    code: str
    text: str


@dataclass(slots=True, kw_only=True)
class Step:
    """One answer of the model.

    Attributes:
        pieces: With the milliseconds since the turn began.
        failure: With what it broke off behind them.
    """

    pieces: list[tuple[int, Piece]] = field(default_factory=list)
    failure: Failure | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Called:
    """What came of a tool call; its files are left out.

    Attributes:
        refused: Why it was not made, or nothing.
    """

    text: str
    failed: bool = False
    structured: Any = None
    refused: str = ""


Told = tuple[int, Annotated[Event, Field(discriminator="type")]]


@dataclass(slots=True, kw_only=True)
class Recording:
    """A turn.

    Attributes:
        model: `provider:model`.
        question: The message that it answers.
        shown: What the model was shown at first.
        tools: What it was offered at first.
        results: By the ids of their calls.
        failure: With what the turn failed behind the last answer, which had come to its end.
        events: With the milliseconds since the turn began.
        resumed: Whether another worker had begun with it: what that one did is not here.
        cut: Whether it was too long.
    """

    schema: str = SCHEMA
    turn_id: str = ""
    session_id: str = ""
    run: str = ""
    model: str = ""
    question: Message | None = None
    shown: list[Message] = field(default_factory=list)
    tools: list[Tool] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    results: dict[str, Called] = field(default_factory=dict)
    failure: Failure | None = None
    events: list[Told] = field(default_factory=list)
    resumed: bool = False
    cut: bool = False


RECORDING: TypeAdapter[Recording] = TypeAdapter(Recording)


def read_recording(text: str | bytes) -> Recording:
    """Read a recording.

    Raises:
        InvalidRequest: It is none, or one of another version.
    """
    try:
        found = RECORDING.validate_python(_parsed(text))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(step) for step in first["loc"]) or "the whole file"
        raise InvalidRequest(f"This is no recording of a turn: {place}: {first['msg']}.") from None
    if found.schema != SCHEMA:
        raise InvalidRequest(f"This recording is of another version; this one reads {SCHEMA}.")
    return found


def _parsed(text: str | bytes) -> Any:
    """Return what JSON says, or nothing if it is none; other readers refuse halves of signs."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


class Tape:
    """Takes a turn down while it runs.

    Args:
        recording: What is known of it at first; the tape adds to it.
        most: Bytes of it.
    """

    def __init__(self, recording: Recording, *, most: int = MOST) -> None:
        self.recording = recording
        self._left = most
        self._open = False
        self._began = time.monotonic()

    def show(self, messages: Sequence[Message], tools: Sequence[Tool]) -> None:
        """Take down what the model is shown and offered."""
        self.recording.shown, self.recording.tools = list(messages), list(tools)

    async def listen(self, pieces: AsyncGenerator[Piece]) -> AsyncGenerator[Piece]:
        """Take down an answer of the model while it is passed on."""
        self.recording.steps.append(Step())
        self._open = True
        async with contextlib.aclosing(pieces):
            async for piece in pieces:
                self._piece(piece)
                yield piece

    def _piece(self, piece: Piece) -> None:
        size = len(piece.text) + len(piece.thought) + sum(len(call.args) for call in piece.calls) + 50
        if self._room(size):
            self.recording.steps[-1].pieces.append((self._now(), piece))

    def again(self) -> None:
        """The model is asked once more: what it said last came to nothing, and nobody heard of it."""
        if self._open:
            self.recording.steps.pop()
        self._open = False

    def change(self, calls: Sequence[ToolCall]) -> None:
        """The last answer's calls are other ones than the model has said: those are not kept."""
        pieces = self.recording.steps[-1].pieces
        pieces[:] = [(at, replace(piece, calls=(), blocks=())) for at, piece in pieces]
        told = [CallPiece(id=call.id, name=call.name, args=json.dumps(dict(call.args))) for call in calls]
        pieces.append((self._now(), Piece(calls=tuple(told))))

    def whole(self) -> None:
        """An answer of the model has become a message."""
        self._open = False

    def fail(self, error: ChatError) -> None:
        """The turn has failed: in the middle of an answer, or behind one."""
        failure = Failure(code=error.code, text=str(error))
        if self._open:
            self.recording.steps[-1].failure = failure
        else:
            self.recording.failure = failure

    def result(self, call_id: str, refused: str, result: ToolResult) -> None:
        """A call has its result."""
        if self._room(len(result.text)):
            self.recording.results[call_id] = Called(
                text=result.text, failed=result.failed, structured=result.structured, refused=refused
            )

    def tell(self, event: Event) -> None:
        """Readers are told something."""
        if self._room(len(str(getattr(event, "text", ""))) + 100):
            self.recording.events.append((self._now(), event))

    def through(self, emit: Callable[[Event], None]) -> Callable[[Event], None]:
        """Return what takes events down and hands them on."""

        def told(event: Event) -> None:
            self.tell(event)
            emit(event)

        return told

    def _room(self, size: int) -> bool:
        self._left -= size
        self.recording.cut |= self._left < 0
        return self._left >= 0

    def _now(self) -> int:
        return round((time.monotonic() - self._began) * 1000)

    def written(self) -> str:
        """Return the recording as JSON; a model may say halves of signs, which UTF-8 cannot carry."""
        return json.dumps(RECORDING.dump_python(self.recording, mode="json"))
