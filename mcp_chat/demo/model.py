"""The demo's rules as a LangChain chat model that streams. It is no language model and says so."""

from __future__ import annotations

import asyncio
import json
import re
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.messages.tool import ToolCall, ToolCallChunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import Field

from mcp_chat.demo.rules import Reply, Tool, reply


class DemoModel(BaseChatModel):
    """The rules as a LangChain chat model. It streams word by word, ``delay`` seconds apart."""

    delay: float = Field(0.02, ge=0)

    @property
    def _llm_type(self) -> str:
        return "mcp-chat-demo"

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: str | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        return self.bind(tools=[convert_to_openai_tool(tool) for tool in tools], **kwargs)

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        answer = _reply_to(messages, kwargs)
        message = AIMessage(
            answer.text,
            tool_calls=[ToolCall(name=c.tool, args=dict(c.arguments), id=_call_id()) for c in answer.calls],
            usage_metadata=_usage(messages, answer),
        )
        return ChatResult(generations=[ChatGeneration(message=message)])

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return self._generate(messages, **kwargs)

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        for chunk in _chunks(messages, _reply_to(messages, kwargs)):
            yield ChatGenerationChunk(message=chunk)
            time.sleep(self.delay)

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        for chunk in _chunks(messages, _reply_to(messages, kwargs)):
            yield ChatGenerationChunk(message=chunk)
            await asyncio.sleep(self.delay)


def _reply_to(messages: Sequence[BaseMessage], kwargs: Mapping[str, Any]) -> Reply:
    return reply(messages, [Tool.from_openai(form) for form in kwargs.get("tools", ())])


def _chunks(messages: Sequence[BaseMessage], answer: Reply) -> Iterator[AIMessageChunk]:
    """The text word by word, then the calls, and what it all took with the last chunk."""
    for piece in re.findall(r"\S+\s*", answer.text):
        yield AIMessageChunk(content=piece)
    calls = [
        ToolCallChunk(name=call.tool, args=json.dumps(dict(call.arguments)), id=_call_id(), index=index)
        for index, call in enumerate(answer.calls)
    ]
    yield AIMessageChunk(
        content="", tool_call_chunks=calls, usage_metadata=_usage(messages, answer), chunk_position="last"
    )


def _call_id() -> str:
    return f"call_{uuid.uuid4().hex}"


def _usage(messages: Sequence[BaseMessage], answer: Reply) -> UsageMetadata:
    """Tokens, at four characters each."""
    read = sum(len(message.text) for message in messages)
    written = len(answer.text) + sum(len(json.dumps(dict(call.arguments))) for call in answer.calls)
    input_tokens, output_tokens = read // 4 + 1, written // 4 + 1
    return UsageMetadata(
        input_tokens=input_tokens, output_tokens=output_tokens, total_tokens=input_tokens + output_tokens
    )
