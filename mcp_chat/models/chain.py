"""Any LangChain chat model as a model of ours."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from typing import Any, cast

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, AnyMessage
from langchain_core.runnables import Runnable

from mcp_chat.langchain import to_langchain
from mcp_chat.message import Usage
from mcp_chat.models.base import CallPiece, Piece, Request, offer
from mcp_chat.models.blocks import EXTRAS, Keeper, begin_of_turn
from mcp_chat.models.content import Said, aloud, said
from mcp_chat.models.failures import translated

_ENDS = ("finish_reason", "stop_reason", "done_reason", "stopReason")


async def nothing() -> None:
    """Close a model that holds nothing open."""


class ChainModel:
    """A LangChain chat model.

    Args:
        name: `provider:model`.
        chat: The LangChain model.
        aclose: Closes what it holds open.
    """

    def __init__(
        self, name: str, chat: BaseChatModel, aclose: Callable[[], Awaitable[None]] = nothing
    ) -> None:
        self.name = name
        self.chat = chat
        self._aclose = aclose
        wanted = ("reasoning_content",) if getattr(chat, "return_reasoning", False) else ()
        self.extras = (*EXTRAS, *wanted)

    async def stream(self, request: Request) -> AsyncGenerator[Piece]:
        """Answer in pieces; see `mcp_chat.models.base.Model`."""
        messages, keeper = self._shown(request), Keeper(self.name, self.extras)
        with translated():
            chunks = self.chunks(self._bound(request), messages)
            async with contextlib.aclosing(chunks):
                async for chunk in chunks:
                    keeper.hear(chunk)
                    yield piece_of(chunk)
        if blocks := keeper.kept():
            yield Piece(blocks=blocks)

    def _shown(self, request: Request) -> list[AnyMessage]:
        """What was kept for a provider goes back to it within the turn; later it may have forgotten that."""
        begin = begin_of_turn(request.messages)
        return [
            to_langchain(message, request.files, self.name if place > begin else "")
            for place, message in enumerate(request.messages)
        ]

    def chunks(self, bound: Runnable[Any, Any], messages: list[Any]) -> AsyncGenerator[AIMessage]:
        """Answer in LangChain's chunks."""
        return cast(AsyncGenerator[AIMessage], bound.astream(messages))

    def _bound(self, request: Request) -> Runnable[Any, Any]:
        bound: Runnable[Any, Any] = self.chat
        if request.tools:
            bound = self.chat.bind_tools([offer(tool) for tool in request.tools])
        if request.temperature is not None:
            bound = bound.bind(temperature=request.temperature)
        if request.max_tokens is not None:
            bound = bound.bind(**capped(self.name, self.chat, request.max_tokens))
        return bound

    async def aclose(self) -> None:
        """Close what it holds open."""
        await self._aclose()


_MOST = {
    "ollama": "num_predict",
    "google_genai": "max_output_tokens",
    "google_vertexai": "max_output_tokens",
}
"""What a provider's package calls the most tokens of an answer, where it is not `max_tokens`."""


def capped(name: str, chat: BaseChatModel, most: int) -> dict[str, int]:
    """Return what tells a model to say so many tokens at most, or fewer if it was made for fewer."""
    called = _MOST.get(name.partition(":")[0], "max_tokens")
    made = getattr(chat, called, None)
    return {called: min(most, made) if isinstance(made, int) and made > 0 else most}


def piece_of(message: AIMessage) -> Piece:
    """Return a chunk of LangChain's, or the whole answer of a model that does not stream."""
    content, beside = message.content, message.additional_kwargs
    text, thought, refused = Said(content) if isinstance(content, str) else said(content)
    if beside:
        thought = thought or aloud(beside)
        if refusal := beside.get("refusal"):
            text, refused = text + str(refusal), True
    return Piece(
        text=text,
        thought=thought,
        calls=_calls(message),
        usage=usage_of(message),
        end="refusal" if refused else _end(message.response_metadata),
    )


def _end(metadata: Mapping[str, Any]) -> str:
    """Each provider has its own name for it."""
    if not metadata:
        return ""
    if isinstance(incomplete := metadata.get("incomplete_details"), Mapping):
        return str(incomplete.get("reason") or "incomplete")
    found = next((end for name in _ENDS if (end := metadata.get(name))), "")
    return str(found)


def _calls(message: AIMessage) -> tuple[CallPiece, ...]:
    if isinstance(message, AIMessageChunk):
        return tuple(
            CallPiece(
                index=call.get("index"),
                id=call.get("id") or "",
                name=call.get("name") or "",
                args=call.get("args") or "",
            )
            for call in message.tool_call_chunks
        )
    whole = [(call, json.dumps(call["args"])) for call in message.tool_calls]
    whole += [(call, call["args"] or "-") for call in message.invalid_tool_calls]  # type: ignore[misc]
    return tuple(CallPiece(id=call["id"] or "", name=call["name"] or "", args=args) for call, args in whole)


def usage_of(message: AIMessage) -> Usage | None:
    """Return what a message has cost, as far as its provider says."""
    counted: Mapping[str, Any] | None = message.usage_metadata
    if counted is None:
        return None
    return Usage(
        input_tokens=_count(counted["input_tokens"]),
        output_tokens=_count(counted["output_tokens"]),
        cached_tokens=_part(counted.get("input_token_details"), "cache_read"),
        reasoning_tokens=_part(counted.get("output_token_details"), "reasoning"),
    )


def _count(tokens: int | None) -> int:
    """A provider may say anything; what it says is stored in 64 bits."""
    return max(0, min(tokens or 0, 2**48))


def _part(details: Mapping[str, Any] | None, name: str) -> int:
    """Return a part of what was counted; OpenAI's service tiers stand before its name."""
    return sum(
        _count(count) for key, count in (details or {}).items() if key == name or key.endswith(f"_{name}")
    )
