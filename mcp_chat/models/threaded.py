"""A LangChain chat model whose package knows threads only."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from typing import Any

from anyio import CapacityLimiter, to_thread
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage

from mcp_chat.models.chain import ChainModel

_AT_ONCE = 16
"""Answers of one model at a time. LangChain's own threads are six for all users of a worker."""


class ThreadedModel(ChainModel):
    """A LangChain chat model whose package knows threads only: each piece is waited for in one.

    Args:
        name: `provider:model`.
        chat: The LangChain model.
        aclose: Closes what it holds open.
        translate: Makes of the package's errors what is understood of all providers.
    """

    def __init__(
        self,
        name: str,
        chat: BaseChatModel,
        aclose: Callable[[], Awaitable[None]],
        translate: Callable[[Exception], Exception],
    ) -> None:
        super().__init__(name, chat, aclose)
        self._translate = translate
        self._places = CapacityLimiter(_AT_ONCE)

    async def chunks(self, bound: Any, messages: list[Any]) -> AsyncGenerator[AIMessage]:
        """Answer in LangChain's chunks; a thread that nobody waits for any more ends with its piece."""
        pieces: Iterator[AIMessage] = bound.stream(messages)
        while piece := await to_thread.run_sync(
            self._next, pieces, limiter=self._places, abandon_on_cancel=True
        ):
            yield piece

    def _next(self, pieces: Iterator[AIMessage]) -> AIMessage | None:
        try:
            return next(pieces, None)
        except Exception as error:  # the package raises what it likes
            raise self._translate(error) from error
