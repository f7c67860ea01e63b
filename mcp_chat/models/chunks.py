"""OpenAI's stream of server-sent events, read line by line into pieces of an answer.

What a chunk means is said where LangChain's reading is mended, in `mcp_chat.models.compatible`: here the same
comes out, with nothing in between.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, cast

import orjson
from langchain_core.messages import AIMessage

from mcp_chat.message import Usage
from mcp_chat.models.base import CallPiece, Piece
from mcp_chat.models.blocks import Keeper
from mcp_chat.models.compatible import beside
from mcp_chat.models.content import Said, delta

DONE = b"[DONE]"

_MOST_TOKENS = 2**48  # a provider may say anything; what it says is stored in 64 bits
_USUAL = frozenset({"content", "role", "tool_calls"})


class Events:
    """Cuts a body into the data of its events, wherever the network has cut it."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._held = b""

    def feed(self, body: bytes) -> Iterator[bytes]:
        """Yield the data of the events that are complete with these bytes; those without data are none."""
        if self._held or b"\r" in body:
            body = self._plain(body)
        begins = body[:1] == b"\n" and bool(self._parts) and self._parts[-1].endswith(b"\n")
        if body:
            self._parts.append(body)
        if not begins and b"\n\n" not in body:
            return  # a large event is put together once, and not anew with each part of it
        *events, rest = b"".join(self._parts).split(b"\n\n")
        self._parts = [rest] if rest else []
        for event in events:
            if event.startswith(b"data: ") and b"\n" not in event:
                yield event[6:]
            elif data := _data(event):
                yield data

    def _plain(self, body: bytes) -> bytes:
        """Return the bytes with line ends of one kind; the other half of the last one may follow."""
        body = self._held + body
        self._held = b"\r" if body.endswith(b"\r") else b""
        return body.removesuffix(b"\r").replace(b"\r\n", b"\n").replace(b"\r", b"\n")


def _data(event: bytes) -> bytes:
    fields = (line.partition(b":") for line in event.split(b"\n"))
    return b"\n".join(value.removeprefix(b" ") for name, _, value in fields if name == b"data")


def whole(body: bytes) -> Iterator[bytes]:
    """Yield the data of an answer that came at once; some servers only call their streams JSON."""
    if body.lstrip().startswith(b"data:"):
        yield from Events().feed(body.lstrip() + b"\n\n")
    else:
        yield body


def parsed(data: bytes) -> dict[str, Any]:
    """Return an event's data.

    Raises:
        ValueError: It is not a JSON object.
    """
    try:
        found = orjson.loads(data)
    except orjson.JSONDecodeError:  # Python's reader takes more, such as half a surrogate pair
        found = json.loads(data.decode())
    if not isinstance(found, dict):
        raise ValueError("not a JSON object")
    return found


class _Heard(NamedTuple):
    """A chunk as `Keeper` wants it."""

    content: Any
    additional_kwargs: dict[str, Any]


class Reading:
    """One answer as its chunks come.

    Args:
        keeper: Keeps what the provider wants back.

    Attributes:
        begun: Whether there was any.
    """

    def __init__(self, keeper: Keeper) -> None:
        self.begun = False
        self._keeper = keeper
        self._counted: Mapping[str, Any] | None = None

    def piece(self, chunk: Mapping[str, Any]) -> Piece | None:
        """Return what a chunk says; None if it says nothing.

        Raises:
            TypeError, LookupError, AttributeError: It is no chunk of an answer.
        """
        self.begun = True
        self._counted = chunk.get("usage") or self._counted  # some count all with each chunk
        choices = chunk.get("choices")
        if not choices:
            return None
        choice = choices[0]
        change = choice["delta"] if "delta" in choice else choice.get("message")
        if change is None:
            return None
        content, calls = change.get("content"), change.get("tool_calls")
        usual = content is None or isinstance(content, str)
        more = {} if usual and change.keys() <= _USUAL else beside(change)
        said = delta(change) if more or not usual else Said(content or "")
        self._keeper.hear(cast(AIMessage, _Heard(content or "", more)))
        end = "refusal" if said.refused else choice.get("finish_reason") or ""
        if not (said.text or said.thought or calls or end):
            return None
        pieces = tuple(map(_call, calls)) if calls else ()
        return Piece(text=said.text, thought=said.thought, calls=pieces, end=end)

    def last(self) -> Iterator[Piece]:
        """Yield what is known at the end only."""
        if self._counted:
            yield Piece(usage=usage_of(self._counted))
        if blocks := self._keeper.kept():
            yield Piece(blocks=blocks)


def _call(call: Mapping[str, Any]) -> CallPiece:
    function = call["function"]
    return CallPiece(
        index=call.get("index"),
        id=call.get("id") or "",
        name=function.get("name") or "",
        args=function.get("arguments") or "",
    )


def usage_of(told: Mapping[str, Any]) -> Usage:
    """Return the tokens that a provider has counted."""
    return Usage(
        input_tokens=_count(told, "prompt_tokens"),
        output_tokens=_count(told, "completion_tokens"),
        cached_tokens=_count(told.get("prompt_tokens_details") or {}, "cached_tokens"),
        reasoning_tokens=_count(told.get("completion_tokens_details") or {}, "reasoning_tokens"),
    )


def _count(told: Mapping[str, Any], name: str) -> int:
    value = told.get(name)
    return max(0, min(value, _MOST_TOKENS)) if isinstance(value, int) else 0
