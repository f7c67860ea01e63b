"""LangChain's models for OpenAI's chat completions, taught what the many servers say that are like OpenAI's.

LangChain reads what OpenAI itself sends, and drops the rest: thoughts, streamed refusals, calls without an
index. A server that does not stream is not understood at all, and one that counts all with each chunk is
counted again and again.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, Self

import orjson
from langchain_core.language_models import LanguageModelInput
from langchain_core.messages import BaseMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_openai import AzureChatOpenAI, ChatOpenAI
from langchain_openai.chat_models.base import BaseChatOpenAI
from openai import AsyncStream
from pydantic import model_validator

from mcp_chat.models.content import aloud

_DONE = b"[DONE]"


class Compatible(BaseChatOpenAI):
    """What a model of LangChain's for chat completions is to understand; goes before its class.

    Attributes:
        return_reasoning: Send what the model has thought in this turn back to it, as DeepSeek wants it.
    """

    return_reasoning: bool = False

    @model_validator(mode="after")
    def _take_any_answer(self) -> Self:
        self.async_client = Completions(self.async_client)
        return self

    def _convert_chunk_to_generation_chunk(
        self, chunk: dict[str, Any], default_chunk_class: type, base_generation_info: dict[str, Any] | None
    ) -> ChatGenerationChunk | None:
        choices = chunk.get("choices") or ()
        for choice in choices[:1]:
            choice.setdefault("delta", choice.get("message"))
            for call in (choice["delta"] or {}).get("tool_calls") or ():
                call.setdefault("index", None)
        made = super()._convert_chunk_to_generation_chunk(chunk, default_chunk_class, base_generation_info)
        if made and choices:
            made.message.additional_kwargs.update(beside(choices[0]["delta"]))
        return made

    def _create_chat_result(self, response: Any, generation_info: dict[str, Any] | None = None) -> ChatResult:
        result = super()._create_chat_result(response, generation_info)
        whole = response if isinstance(response, dict) else response.model_dump(warnings=False)
        for made, choice in zip(result.generations, whole["choices"], strict=True):
            made.message.additional_kwargs.update(beside(choice["message"]))
        return result

    def _get_request_payload(
        self, input_: LanguageModelInput, *, stop: list[str] | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        messages = self._convert_input(input_).to_messages()
        payload: dict[str, Any] = super()._get_request_payload(messages, stop=stop, **kwargs)
        for message, sent in zip(messages, payload.get("messages", ()), strict=False):
            sent.update(_returned(message))
        return payload


class CompatibleOpenAI(Compatible, ChatOpenAI):
    """OpenAI, and every server that speaks like it."""


class CompatibleAzure(Compatible, AzureChatOpenAI):
    """OpenAI's models at Azure, and what else is there."""


def beside(delta: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a delta says beside its text, by the names that LangChain uses elsewhere."""
    found = {
        "reasoning_content": aloud(delta),
        "reasoning_details": delta.get("reasoning_details"),
        "refusal": delta.get("refusal"),
    }
    return {name: value for name, value in found.items() if value}


def _returned(message: BaseMessage) -> dict[str, Any]:
    if not message.additional_kwargs:
        return {}
    kept = message.additional_kwargs
    return {name: kept[name] for name in ("reasoning_content", "reasoning_details") if name in kept}


class Completions:
    """OpenAI's client for chat completions; an answer that does not stream comes as one chunk.

    Args:
        completions: The client.
    """

    def __init__(self, completions: Any) -> None:
        self._completions = completions

    def __getattr__(self, name: str) -> Any:
        return getattr(self._completions, name)

    async def create(self, **payload: Any) -> Any:
        """Ask; returns the answer, or its chunks if the payload wants a stream."""
        if not payload.get("stream"):
            return await self._completions.create(**payload)
        raw = await self._completions.with_raw_response.create(**payload)
        # Where only a user's own headers are sent, the one that asks for a raw response is not.
        streams = isinstance(raw, AsyncStream)
        http = raw.response if streams else raw.http_response
        if not http.headers.get("content-type", "").startswith("application/json"):
            stream = raw if streams else raw.parse()
            return Chunks(stream, stream.close)
        return Chunks(_whole(await http.aread()), http.aclose)


async def _whole(body: bytes) -> AsyncIterator[dict[str, Any]]:
    """Yield an answer that came at once; some servers only call their streams JSON."""
    if not body.lstrip().startswith(b"data:"):
        yield orjson.loads(body)
        return
    for line in body.splitlines():
        data = line.removeprefix(b"data:").strip() if line.startswith(b"data:") else b""
        if data and data != _DONE:
            yield orjson.loads(data)


class Chunks:
    """The chunks of an answer, with what they have counted at the end, once.

    Args:
        source: The chunks as they come.
        close: Lets go of the connection.
    """

    def __init__(self, source: AsyncIterable[Any], close: Callable[[], Awaitable[None]]) -> None:
        self._source = source
        self._close = close

    async def __aenter__(self) -> Chunks:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._close()

    async def __aiter__(self) -> AsyncIterator[dict[str, Any]]:
        counted: dict[str, Any] = {}
        async for chunk in self._source:
            found = chunk if isinstance(chunk, dict) else chunk.model_dump(warnings=False)
            if error := found.get("error"):
                raise ValueError(error)
            if usage := found.pop("usage", None):
                counted = {"usage": usage, "service_tier": found.get("service_tier")}
            yield found
        if counted:
            yield {"choices": [], **counted}
