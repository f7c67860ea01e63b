"""LangChain's model for Ollama, which tells what is thought whether it was asked for or not."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from langchain_core.messages import BaseMessage
from langchain_core.outputs import ChatGenerationChunk
from langchain_ollama import ChatOllama

_AS_IT_IS = "as it is"


class AloudOllama(ChatOllama):
    """Ollama's models; one that thinks by itself is heard, and none is asked to that cannot."""

    def _chat_params(
        self, messages: list[BaseMessage], stop: list[str] | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        params = super()._chat_params(messages, stop, **kwargs)
        return {**params, "think": None} if params["think"] == _AS_IT_IS else params

    async def _aiterate_over_stream(
        self, messages: list[BaseMessage], stop: list[str] | None = None, **kwargs: Any
    ) -> AsyncIterator[ChatGenerationChunk]:
        if self.reasoning is None:
            kwargs.setdefault("reasoning", _AS_IT_IS)
        async for chunk in super()._aiterate_over_stream(messages, stop, **kwargs):
            yield chunk
