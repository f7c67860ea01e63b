"""What tokens cost: the operator's prices, or those that the package genai-prices has with it.

Nothing is asked of a network: an update of the package brings new prices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import lru_cache
from typing import TYPE_CHECKING, Protocol

import structlog

from mcp_chat.catalogue import CatalogueEntry, Prices
from mcp_chat.config import ModelConfig
from mcp_chat.message import Usage
from mcp_chat.spent import DOLLAR

if TYPE_CHECKING:
    from genai_prices.types import PriceCalculation

log = structlog.get_logger()

FREE = frozenset({"ollama", "demo"})
"""Providers that run on the operator's own machines."""

_CALLED = {
    "azure_openai": "azure",
    "azure": "azure",
    "bedrock": "aws",
    "bedrock_converse": "aws",
    "anthropic_bedrock": "aws",
    "google_genai": "google",
    "google_vertexai": "google",
    "google_anthropic_vertex": "google",
    "mistralai": "mistral",
    "xai": "x-ai",
}
"""Providers that the list of prices has under another name."""

MILLION = 1_000_000


class Tariff(Protocol):
    """What one model costs."""

    def cost(self, usage: Usage) -> int | None:
        """Return billionths of a dollar; None if the price is not known."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Fixed:
    """Billionths of a dollar for a million tokens."""

    input: int
    output: int
    cached: int

    def cost(self, usage: Usage) -> int:
        """Return what was used costs."""
        cached = min(usage.cached_tokens, usage.input_tokens)
        whole = (
            (usage.input_tokens - cached) * self.input
            + cached * self.cached
            + usage.output_tokens * self.output
        )
        return (whole + MILLION // 2) // MILLION


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """A model in the list of genai-prices, which knows its tiers and what changes with the time of day."""

    model: str
    provider: str | None = None
    url: str | None = None

    def cost(self, usage: Usage) -> int | None:
        """Return what was used costs, if the list has the model."""
        from genai_prices import Usage as Used  # noqa: PLC0415 - a list of thousands of prices

        found = _found(self)
        if found is None:
            return None
        used = Used(
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            cache_read_tokens=min(usage.cached_tokens, usage.input_tokens),
            output_reasoning_tokens=min(usage.reasoning_tokens, usage.output_tokens),
        )
        try:
            price = found.model.calc_price(used, found.provider).total_price
        except Exception:  # another's arithmetic on any model and any count: a turn must not end with it
            log.exception("price.crashed", model=self.model)
            return None
        return int((price * DOLLAR).to_integral_value())


@lru_cache(maxsize=1024)
def _found(listed: Listed) -> PriceCalculation | None:
    """Return a model's place in the list: it is looked for in thousands of patterns, so once."""
    from genai_prices import Usage as Used  # noqa: PLC0415
    from genai_prices import calc_price  # noqa: PLC0415

    one = Used(input_tokens=1)
    try:
        if listed.url:
            return calc_price(one, listed.model, provider_api_url=listed.url)
        return calc_price(one, listed.model, provider_id=listed.provider)
    except LookupError:
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Unknown:
    """A model whose price nobody knows."""

    def cost(self, _usage: Usage) -> None:
        """Return that nothing is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bill:
    """A model, what it costs, and who pays.

    Attributes:
        model: `provider:model`.
        own: Whether a key or a server of the user's own is used: then the operator does not pay.
    """

    model: str
    tariff: Tariff
    own: bool = False

    def priced(self, usage: Usage) -> Usage:
        """Return what was used with its cost."""
        nanos = self.tariff.cost(usage)
        return replace(usage, cost_nanos=nanos or 0, unpriced=nanos is None)

    @property
    def known(self) -> bool:
        """Whether there is a price."""
        return self.tariff.cost(Usage(input_tokens=1, output_tokens=1)) is not None

    def tokens_for(self, nanos: int, read: int) -> int:
        """Return how many tokens the model can say for so much money, once it has read so many."""
        asked = self.tariff.cost(Usage(input_tokens=read)) or 0
        said = (self.tariff.cost(Usage(input_tokens=read, output_tokens=1000)) or 0) - asked
        return MILLION if said <= 0 and nanos > asked else (nanos - asked) * 1000 // max(1, said)


@dataclass(frozen=True, slots=True)
class PriceList:
    """Finds what a model costs.

    Attributes:
        entries: The operator's models.
    """

    entries: Sequence[CatalogueEntry] = ()

    def bill(self, model: str, config: ModelConfig | None = None) -> Bill:
        """Return what a model costs.

        Args:
            model: `provider:model`.
            config: What the user has chosen.
        """
        if config and not config.operator and model == f"{config.provider}:{config.model}":
            return Bill(model=model, tariff=_listed(model, config.base_url), own=True)
        entry = next((each for each in self.entries if each.model == model), None)
        if entry and entry.prices:
            return Bill(model=model, tariff=_fixed(entry.prices))
        return Bill(model=model, tariff=_listed(model, entry.base_url if entry else None))


def _listed(model: str, url: str | None) -> Tariff:
    provider, _, name = model.partition(":")
    if provider in FREE:
        return Fixed(input=0, output=0, cached=0)
    tariff = Listed(model=name, provider=_CALLED.get(provider, provider), url=url)
    return tariff if _found(tariff) else Unknown()


def _fixed(prices: Prices) -> Fixed:
    cached = prices.input if prices.cached_input is None else prices.cached_input
    return Fixed(input=_nanos(prices.input), output=_nanos(prices.output), cached=_nanos(cached))


def _nanos(usd: Decimal) -> int:
    return int((usd * DOLLAR).to_integral_value())


def load_prices() -> None:
    """Read the list of prices, which takes a tenth of a second: once for all workers."""
    Listed(model="gpt-4o", provider="openai").cost(Usage(input_tokens=1))
