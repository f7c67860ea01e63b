"""How much a model takes at once, and how much of a conversation is left of that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from typing import Any

from mcp_chat.context import Budget
from mcp_chat.models.base import offer
from mcp_chat.tools import Tool, weight

_CALLED = {"azure_openai": "azure", "bedrock": "aws"}
"""Providers that genai-prices has under another name."""

_ANSWER = 4096
"""Tokens that are left for an answer whose length nobody limits, if a quarter of the window is not less."""

_BYTES = 3
"""Of JSON, for one token."""

_LEAST = 64
"""Tokens below which there is no budget."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """What a model takes at once.

    Attributes:
        tokens: Of question and answer together; None if nobody knows.
        answer: Of these, what the answer may have; None if nobody has said.
        tools: Of these, what is told of the tools.
    """

    tokens: int | None = None
    answer: int | None = None
    tools: int = 0

    def beside(self, tools: Sequence[Tool]) -> Window:
        """Return the window of a model that is told of these tools with each request."""
        if self.tokens is None:
            return self
        return replace(self, tools=sum(weight(offer(tool)) for tool in tools) // _BYTES)

    def fitted(self, budget: Budget) -> Budget:
        """Return the budget that leaves room for the answer and for what is told of the tools.

        Tokens are estimated, so a tenth is left besides.
        """
        if self.tokens is None:
            return budget
        answer = min(self.answer or _ANSWER, self.tokens // (2 if self.answer else 4))
        room = self.tokens - answer - self.tools - self.tokens // 10
        return replace(budget, tokens=max(_LEAST, min(budget.tokens, room)))


@lru_cache(4096)
def window_of(model: str) -> int | None:
    """Return the tokens that ``provider:model`` takes, as far as genai-prices knows."""
    provider, _, name = model.partition(":")
    listed = _listed()
    if listed is None:
        return None
    try:
        _, found = listed.find_provider_model(name, None, _CALLED.get(provider, provider), None)
    except LookupError:
        return None
    tokens = found.context_window
    return tokens if isinstance(tokens, int) and tokens > 0 else None


@cache
def _listed() -> Any:
    """Read the list of models once, when it is first needed: it is long."""
    try:
        from genai_prices.data_snapshot import get_snapshot
    except ImportError:
        return None
    return get_snapshot()
