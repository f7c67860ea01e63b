"""Puts the pieces of an answer together: a message that can be stored and shown to a model again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from mcp_chat.context import shorter
from mcp_chat.exceptions import AnswerTooLong, InvalidSession, ModelFailed
from mcp_chat.limits import ModelLimits
from mcp_chat.message import UNREADABLE, Message, ToolCall, Usage, new_id, wellformed
from mcp_chat.models.base import BLOCKS, INSTEAD_OF, LONGEST_REASONING, MODEL, REASONING, CallPiece, Piece
from mcp_chat.models.content import BREAK
from mcp_chat.models.ending import ENDED, ended
from mcp_chat.session import plain
from mcp_chat.tools import weight


@dataclass(slots=True)
class _Call:
    id: str = ""
    name: str = ""
    args: list[str] = field(default_factory=list)

    def add(self, piece: CallPiece) -> None:
        """Take the next piece of the call."""
        self.id = self.id or piece.id
        self.name = self.name or piece.name
        self.args.append(piece.args)


class Answer:
    """One answer of a model, as far as it has come.

    Args:
        limits: How much it may say.
        model: Whose it is, as `provider:model`.
        instead_of: The model that was to answer, if it is another one.
    """

    def __init__(self, limits: ModelLimits, *, model: str = "", instead_of: str = "") -> None:
        self.model = model
        self.instead_of = instead_of
        self.usage = Usage()
        self.end = ""
        self._limits = limits
        self._bytes = 0
        self._text: list[str] = []
        self._thoughts: list[str] = []
        self._broken = False
        self._blocks: list[Mapping[str, Any]] = []
        self._calls: list[_Call] = []
        self._open: dict[int | str, _Call] = {}
        self._heard: list[str] = []

    @property
    def begun(self) -> bool:
        """Whether anything has come that its user was told of, or that makes an effect."""
        return bool(self._text or self._thoughts or self._calls)

    @property
    def heard(self) -> bool:
        """Whether the model has said anything, if only what its user was not told of."""
        return self.begun or bool(self._heard)

    def hear(self, piece: Piece) -> None:
        """Take note of what the model says where less of it may be told: it is paid for."""
        calls = [text for call in piece.calls for text in (call.name, call.args)]
        self._heard += [text for text in (piece.text, piece.thought, *calls) if text]

    def said(self) -> str:
        """Return all that the model has said, thought and asked for, to count it; told or not."""
        if self._heard:
            return "".join(self._heard)
        calls = [text for call in self._calls for text in (call.name, *call.args)]
        return "".join([*self._text, *self._thoughts, *calls])

    def add(self, piece: Piece) -> None:
        """Take a piece in.

        Raises:
            AnswerTooLong: The model says too much.
            ModelFailed: It asks for too many tools.
        """
        self._begin_thought(piece)
        if piece.text:
            self._text.append(piece.text)
            self._bytes += len(piece.text.encode("utf-8", "surrogatepass"))
        if piece.thought:
            self._thoughts.append(piece.thought)
            self._bytes += len(piece.thought.encode("utf-8", "surrogatepass"))
        if piece.blocks:
            self._blocks += piece.blocks
            self._bytes += sum(weight(block) for block in piece.blocks)
        for call in piece.calls:
            self._add_call(call)
        if piece.usage:
            self.usage += piece.usage
        if piece.end and (ended(piece.end) or not ended(self.end)):
            self.end = piece.end
        self._judge()

    def _begin_thought(self, piece: Piece) -> None:
        """A thought behind text or a call begins a paragraph."""
        if piece.thought and self._broken and self._thoughts:
            self._thoughts.append(BREAK)
        if piece.thought or piece.text or piece.calls:
            self._broken = not piece.thought

    def _add_call(self, piece: CallPiece) -> None:
        call = None if piece.index is None else self._open.get(piece.index)
        if call is None:
            call = _Call()
            self._calls.append(call)
            if piece.index is not None:
                self._open[piece.index] = call
        call.add(piece)
        self._bytes += len(piece.args.encode("utf-8", "surrogatepass"))

    def _judge(self) -> None:
        if self._bytes > self._limits.message_bytes:
            raise AnswerTooLong
        if len(self._calls) > self._limits.calls:
            raise ModelFailed(
                f"The model asked for more than {self._limits.calls} tool calls at once, and none was made. "
                "Ask for less at once."
            )

    def message(self, seen: set[str]) -> Message:
        """Return what was said as a message; every call has an id of its own.

        Args:
            seen: The ids that calls have already; those of this message are added.
        """
        how, unreadable = ended(self.end), list[str]()
        told = () if how in ("content_filter", "refusal") else self._calls  # else some are half told
        calls = tuple(_made(call, seen, unreadable, cut=how == "length") for call in told)
        metadata = {
            UNREADABLE: unreadable,
            REASONING: shorter(wellformed("".join(self._thoughts)), LONGEST_REASONING),
            ENDED: how,
            BLOCKS: [_storable(block) for block in self._blocks],
            MODEL: self.model,
            INSTEAD_OF: self.instead_of,
        }
        return Message(
            role="assistant",
            content=wellformed("".join(self._text)),
            tool_calls=calls,
            metadata={name: value for name, value in metadata.items() if value},
        )


def _made(call: _Call, seen: set[str], unreadable: list[str], *, cut: bool) -> ToolCall:
    """Return a call with arguments that every reader of JSON takes; without any if nobody can read them.

    Args:
        cut: The answer was cut off: no arguments may be too few.
    """
    call_id = wellformed(call.id)
    if not call_id or call_id in seen:
        call_id = f"call_{new_id()}"
    seen.add(call_id)
    text = "".join(call.args)
    args = _args(text)
    if args is None or (cut and not text):
        unreadable.append(call_id)
    return ToolCall(id=call_id, name=wellformed(call.name), args=args or {})


def _args(text: str) -> dict[str, Any] | None:
    """Python's own reader of JSON also takes NaN and endless integers; no other one does."""
    try:
        found = json.loads(text or "{}")
        if not isinstance(found, dict):
            return None
        cleaned: dict[str, Any] = plain(found, ())
        orjson.dumps(cleaned)
    except (TypeError, ValueError, RecursionError, InvalidSession):
        return None
    return cleaned


def _storable(block: Mapping[str, Any]) -> Any:
    try:
        return plain(dict(block), ())
    except InvalidSession as error:
        raise ModelFailed(
            "The model's answer could not be read. Please try again.", cause="unreadable"
        ) from error
