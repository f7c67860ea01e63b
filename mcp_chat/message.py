"""What was said: a message, its parts, the calls it asks for, and the tokens it cost."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import takewhile
from typing import Any, Literal

from pydantic import TypeAdapter

Role = Literal["system", "user", "assistant", "tool"]
Status = Literal["success", "error"]

ID = r"^[A-Za-z0-9_.:-]{1,64}$"
"""What an id in the stores can look like; anything else need not be looked for."""

LONGEST_TITLE = 60


def new_id() -> str:
    """Return a random id of 128 bits that is safe in URLs and keys."""
    return secrets.token_hex(16)


def now() -> datetime:
    """Return the present time in UTC."""
    return datetime.now(UTC)


def wellformed(text: str) -> str:
    """Return the text without lone surrogates, which JSON can carry and UTF-8 cannot."""
    if text.isascii():
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def title(text: str) -> str:
    """Return a name for the conversation that begins with this text: its first words, on one line."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text[:500]).split())
    if len(line) <= LONGEST_TITLE:
        return line
    return line[:LONGEST_TITLE].rsplit(" ", 1)[0] + " …"


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Tokens, as the provider counted them, and what they cost.

    Attributes:
        cached_tokens: The part of the input that the provider had kept from before.
        reasoning_tokens: The part of the output that the model thought.
        cost_nanos: Billionths of a US dollar: integers add up without a rest.
        estimated: Some of it was counted here, because the provider had not.
        unpriced: Some of it has no known price.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    cost_nanos: int = 0
    estimated: bool = False
    unpriced: bool = False

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            input_tokens=self.input_tokens + other.input_tokens,
            output_tokens=self.output_tokens + other.output_tokens,
            cached_tokens=self.cached_tokens + other.cached_tokens,
            reasoning_tokens=self.reasoning_tokens + other.reasoning_tokens,
            cost_nanos=self.cost_nanos + other.cost_nanos,
            estimated=self.estimated or other.estimated,
            unpriced=self.unpriced or other.unpriced,
        )


UNREADABLE = "unreadable"
"""In the metadata of a model's message: the ids of its calls whose arguments are not JSON."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """What the model asks for: a tool by its name in the conversation, ``alias__tool``, and arguments."""

    id: str
    name: str
    args: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """An image or a file that goes with a message; what is in it was uploaded before.

    Attributes:
        size: In bytes.
        server: The alias of the MCP server that it comes from, empty if the user has sent it.
        uri: What that server calls it.
    """

    upload_id: str
    media_type: str
    name: str
    size: int
    server: str = ""
    uri: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One message. A tool's result names its call and whether it succeeded."""

    role: Role
    content: str
    id: str = field(default_factory=new_id)
    parts: tuple[Part, ...] = ()
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    name: str | None = None
    status: Status | None = None
    created_at: datetime = field(default_factory=now)
    metadata: Mapping[str, Any] = field(default_factory=dict)


MESSAGE: TypeAdapter[Message] = TypeAdapter(Message)
"""Messages as JSON: ``MESSAGE.dump_json(m)`` and ``MESSAGE.validate_json(b)``."""


PRIVATE = "blocks"
"""In the metadata of a model's message: what is between us and its provider, and nobody else's business."""


def public(message: Message) -> Message:
    """Return a message as it is shown, carried away and brought along."""
    if PRIVATE not in message.metadata:
        return message
    return replace(message, metadata={k: v for k, v in message.metadata.items() if k != PRIVATE})


def carried(message: Message) -> tuple[Part, ...]:
    """Return the files that go to the model with a message; of a tool's files it has the text alone."""
    return message.parts if message.role == "user" else ()


def complete(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """Return the messages so that each tool call has exactly one result, right behind it.

    A result without its call (the call was trimmed away) is left out; a call without a result (its turn
    was interrupted) gets one that says so. Providers refuse a conversation in any other form.
    """
    out: list[Message] = []
    for place, message in enumerate(messages):
        if message.role == "tool":
            continue
        out.append(message)
        if message.tool_calls:
            results = _results(messages[place + 1 :])
            out += [results.get(call.id) or _no_result(call) for call in message.tool_calls]
    return tuple(out)


def _results(following: tuple[Message, ...]) -> dict[str | None, Message]:
    """The results right behind a message; ids may repeat later in a conversation."""
    return {m.tool_call_id: m for m in takewhile(lambda m: m.role == "tool", following)}


def _no_result(call: ToolCall) -> Message:
    return Message(
        role="tool",
        content="No result: the turn was interrupted, and whether the call took effect is not known.",
        tool_call_id=call.id,
        name=call.name,
        status="error",
    )


def unreadable_in(message: Message) -> set[str]:
    """Return the ids of a message's calls whose arguments nobody can read: they are not made."""
    return set(message.metadata.get(UNREADABLE, ()))
