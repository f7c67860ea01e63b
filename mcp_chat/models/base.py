"""What a model is asked, and the pieces in which it answers."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Protocol

from mcp_chat.message import PRIVATE, Message, Usage
from mcp_chat.tools import Tool
from mcp_chat.upload import Upload

NO_FILES: Mapping[str, Upload] = MappingProxyType({})

BLOCKS = PRIVATE
"""In the metadata of a model's message: what its provider wants back with it, as `Piece.blocks` had it."""

REASONING = "reasoning"
"""In the metadata of a model's message: what it has thought aloud before it said it."""

LONGEST_REASONING = 32_000
"""Characters of that, at most."""

MODEL = "model"
"""In the metadata of a model's message: which model has said it, as `provider:model`."""

INSTEAD_OF = "instead_of"
"""In the metadata of a model's message: the model that was to say it, and did not answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CallPiece:
    """A piece of a tool call.

    Attributes:
        index: Pieces of one call have the same; a call that comes whole has none.
        args: Text of the arguments' JSON.
    """

    index: int | str | None = None
    id: str = ""
    name: str = ""
    args: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A piece of an answer; the answer is all of them, one behind the other.

    Attributes:
        thought: What the model thinks aloud: for eyes, and no part of what it says.
        blocks: What the provider wants back with the message, such as signed thoughts, in its own form.
        usage: Tokens that the other pieces have not counted yet.
        end: Why the answer ends, in the provider's word; empty while it does not.
    """

    text: str = ""
    thought: str = ""
    calls: tuple[CallPiece, ...] = ()
    blocks: tuple[Mapping[str, Any], ...] = ()
    usage: Usage | None = None
    end: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a model is asked, complete.

    Attributes:
        files: What is in the files that go with the messages, by their ids.
        tools: What it may call.
        temperature: Instead of the one that the model was made with.
        max_tokens: Tokens that it may say, where that is fewer than the model was made with.
    """

    messages: Sequence[Message]
    files: Mapping[str, Upload] = field(default_factory=lambda: NO_FILES)
    tools: Sequence[Tool] = ()
    temperature: float | None = None
    max_tokens: int | None = None


class Model(Protocol):
    """A chat model of some provider."""

    @property
    def name(self) -> str:
        """`provider:model`."""
        ...

    def stream(self, request: Request) -> AsyncGenerator[Piece]:
        """Answer in pieces; one that does not stream answers in one.

        Raises:
            ModelFailed: The provider refused, broke off or could not be understood.
        """
        ...

    async def aclose(self) -> None:
        """Close what it holds open."""
        ...


def offer(tool: Tool) -> dict[str, Any]:
    """Return a tool as the model is told of it, in OpenAI's form, which LangChain takes for all providers.

    LangChain would resolve the references in a LangChain tool's schema at each request: a schema with one
    that leads nowhere would fail every turn, and one whose references double at each level would never end.
    """
    return {
        "type": "function",
        "function": {
            "name": tool.name,
            "description": tool.description or tool.remote_name,
            "parameters": {"properties": {}, **tool.schema},
        },
    }
