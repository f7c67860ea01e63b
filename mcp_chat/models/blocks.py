"""What a provider wants back with its model's message, as it was: signed thoughts, its own tools.

Kept beside the message is the order of its content: blocks as they came, and where its text and its calls
stood between them. Text and calls themselves are the message's. Only the model that made them is shown them
again, and only while the turn lasts: providers need them to go on after a tool, and forget them later.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from langchain_core.messages import AIMessage

from mcp_chat.message import Message, ToolCall
from mcp_chat.models.base import BLOCKS
from mcp_chat.models.content import TEXTS, said_in

_CALLS = frozenset({"tool_use", "function_call", "tool_call", "tool_call_chunk", "input_json_delta"})
EXTRAS = ("reasoning_details", "__gemini_function_call_thought_signatures__")
"""What LangChain has beside the content, and providers want back."""
_SAME = frozenset({"type", "id", "name", "call_id", "format"})
"""Fields of which each fragment of a block has the whole."""


class _Element:
    """A block of which more may come, or the place of text or of a call."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.length = 0
        self.fragments: list[Mapping[str, Any]] = []

    def add(self, block: Mapping[str, Any]) -> None:
        """Take more of the block."""
        if self.kind == "text":
            self.length += len(said_in(block).text)
        if self.kind != "text" or "id" in block or "phase" in block:
            self.fragments.append(block)

    def kept(self) -> dict[str, Any]:
        """Return what its provider wants back of it."""
        block = joined(self.fragments)
        match self.kind:
            case "text":
                return {"text": self.length, **_only(block, "id", "phase")}
            case "call":
                return {"call": block.get("type"), **_only(block, "id", "caller", "namespace")}
        if block.get("type") == "reasoning":
            block.pop("status", None)  # of its beginning
        return {"block": block}


class Keeper:
    """Hears an answer as it comes, and keeps what its provider will want back.

    Args:
        model: Who answers, `provider:model`.
        extras: What is kept of that which LangChain has beside the content.
    """

    def __init__(self, model: str, extras: Sequence[str] = EXTRAS) -> None:
        self._model = model
        self._names = extras
        self._elements: list[_Element] = []
        self._open: dict[int | str, _Element] = {}
        self._extras: list[Mapping[str, Any]] = []

    def hear(self, message: AIMessage) -> None:
        """Take in a chunk of LangChain's, or a whole answer."""
        content = message.content
        if isinstance(content, str):
            if content:
                self._add_text(len(content))
        else:
            for block in content:
                self._hear_block({"type": "text", "text": block} if isinstance(block, str) else block)
        if message.additional_kwargs:
            self._extras.append(_only(message.additional_kwargs, *self._names))

    def _add_text(self, length: int) -> None:
        if not self._elements or self._elements[-1].kind != "text":
            self._elements.append(_Element("text"))
        self._elements[-1].length += length

    def _hear_block(self, block: Mapping[str, Any]) -> None:
        index = block.get("index")
        element = None if index is None else self._open.get(index)
        if element is None:
            element = _Element(_kind(block))
            self._elements.append(element)
            if index is not None:
                self._open[index] = element
        element.add(block)

    def kept(self) -> tuple[Mapping[str, Any], ...]:
        """Return what is to be kept with the message: nothing, if text and calls are all there is."""
        extras = joined(extra for extra in self._extras if extra)
        beside = any(element.kind == "block" for element in self._elements)
        if not extras and not beside:
            return ()
        content = [element.kept() for element in self._elements] if beside else []
        return ({"model": self._model, "content": content, "extras": extras},)


def _kind(block: Mapping[str, Any]) -> str:
    kind = block.get("type", "text")
    return "text" if kind in TEXTS else "call" if kind in _CALLS else "block"


def _only(block: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: block[name] for name in names if block.get(name) is not None}


def joined(fragments: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return one block of its fragments, in the order in which they came, without their index."""
    values: dict[str, list[Any]] = {}
    for fragment in fragments:
        for name, value in fragment.items():
            if value is not None and name != "index":
                values.setdefault(name, []).append(value)
    return {name: _joined(name, all_) for name, all_ in values.items()}


def _joined(name: str, values: list[Any]) -> Any:
    if len(values) == 1 and not isinstance(values[0], Mapping | list):
        return values[0]
    if all(isinstance(value, str) for value in values):
        return values[0] if name in _SAME else "".join(values)
    if all(isinstance(value, Mapping) for value in values):
        return joined(values)
    if all(isinstance(value, list) for value in values):
        return _joined_lists(values)
    return values[-1]


def _joined_lists(lists: list[list[Any]]) -> list[Any]:
    """The items one behind the other, but those of one index together."""
    groups: dict[Any, list[Any]] = {}
    for item in (item for each in lists for item in each):
        index = item.get("index") if isinstance(item, Mapping) else None
        groups.setdefault(("lonely", len(groups)) if index is None else index, []).append(item)
    return [joined(group) if isinstance(group[0], Mapping) else group[0] for group in groups.values()]


def kept_for(model: str, message: Message) -> Mapping[str, Any] | None:
    """Return what was kept with a message, if it was this model that made it."""
    for kept in message.metadata.get(BLOCKS, ()):
        if isinstance(kept, Mapping) and kept.get("model") == model:
            return kept
    return None


def restored(kept: Mapping[str, Any], message: Message) -> list[str | dict[str, Any]]:
    """Return a message's content as its provider made it; none of its text is lost."""
    content: list[dict[str, Any]] = []
    text, calls = message.content, list(message.tool_calls)
    for item in kept.get("content", ()):
        match item:
            case {"block": block}:
                content.append(dict(block))
            case {"text": int(length)} if text[:length]:
                content.append({"type": "text", "text": text[:length], **_only(item, "id", "phase")})
                text = text[length:]
            case {"call": str(kind)} if calls:
                content.append(_call(kind, calls.pop(0), item))
    return [*_with_rest(content, text)]


def _call(kind: str, call: ToolCall, item: Mapping[str, Any]) -> dict[str, Any]:
    if kind == "function_call":
        made = {"type": kind, "call_id": call.id, "name": call.name, "arguments": json.dumps(dict(call.args))}
        return {**made, **_only(item, "id", "namespace")}
    return {"type": "tool_use", "id": call.id, "name": call.name, "input": dict(call.args)}


def _with_rest(content: list[dict[str, Any]], text: str) -> list[dict[str, Any]]:
    if not text:
        return content
    places = [place for place, block in enumerate(content) if block.get("type") == "text"]
    if places:
        last = content[places[-1]]
        content[places[-1]] = {**last, "text": last["text"] + text}
        return content
    first = next((n for n, block in enumerate(content) if block.get("type") in _CALLS), len(content))
    return [*content[:first], {"type": "text", "text": text}, *content[first:]]


def begin_of_turn(messages: Sequence[Message]) -> int:
    """Return where the turn that goes on begins; one's word right behind a tool's result only steers it."""
    for place in range(len(messages) - 1, 0, -1):
        if messages[place].role == "user" and messages[place - 1].role != "tool":
            return place
    return 0
