"""What a model of ours has made of a wire."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from mcp_chat.catalogue import CatalogueEntry
from mcp_chat.limits import ModelLimits
from mcp_chat.message import Message
from mcp_chat.models.answer import Answer
from mcp_chat.models.base import Model, Piece, Request
from mcp_chat.netguard import Policy
from mcp_chat.providers import Providers
from mcp_chat.tools import Tool
from tests.wires.wire import Wire

LIMITS = ModelLimits()


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """An answer: its pieces, and the message that they make."""

    pieces: tuple[Piece, ...]
    message: Message
    answer: Answer

    @property
    def texts(self) -> list[str]:
        """The pieces of the text."""
        return [piece.text for piece in self.pieces if piece.text]

    @property
    def thoughts(self) -> list[str]:
        """The pieces of what was thought."""
        return [piece.thought for piece in self.pieces if piece.thought]


async def hear(
    model: Model, *messages: Message, tools: Sequence[Tool] = (), temperature: float | None = None
) -> Heard:
    """Ask a model, and put its answer together as the agent does."""
    answer, pieces = Answer(LIMITS), []
    asked = messages or (Message(role="user", content="hello"),)
    async for piece in model.stream(Request(messages=asked, tools=tools, temperature=temperature)):
        pieces.append(piece)
        answer.add(piece)
    return Heard(pieces=tuple(pieces), message=answer.message(set()), answer=answer)


@asynccontextmanager
async def opened(
    name: str,
    wire: Wire,
    *,
    path: str = "",
    options: Mapping[str, Any] | None = None,
    key: str = "the-key",
    raw: bool = True,
) -> AsyncIterator[Model]:
    """Open a model of the operator's through `Providers`, at this wire.

    Args:
        name: `provider:model`.
        path: Behind the wire's address.
        raw: Whether OpenAI's answers are read by lines.
    """
    entry = CatalogueEntry(
        model=name, base_url=wire.url + path, api_key_env="WIRE_KEY", options=dict(options or {})
    )
    environ = {"WIRE_KEY": key}
    made = Providers([entry], policy=Policy(), ollama_url="", silence=30, environ=environ, raw=raw)
    model = made.open(await made.choose(name))
    try:
        yield model
    finally:
        await model.aclose()


ADD = Tool(
    name="demo__add",
    description="Add two numbers.",
    schema={"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}},
    alias="demo",
    remote_name="add",
)
"""A tool that models may ask for."""


def user(text: str) -> Message:
    """Return what a user says."""
    return Message(role="user", content=text)


def result(call_id: str, text: str, name: str = ADD.name) -> Message:
    """Return what a tool has answered."""
    return Message(role="tool", content=text, tool_call_id=call_id, name=name, status="success")
