"""The models that the operator offers, from a YAML file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mcp_chat.config import first_problem
from mcp_chat.exceptions import SettingsError
from mcp_chat.models.providers.names import canonical, shown_as

DEMO = "demo:demo"

Price = Annotated[Decimal, Field(ge=0, le=1_000_000, allow_inf_nan=False)]
Tokens = Annotated[int, Field(ge=1, le=2**31, strict=True)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What a model can do; None where nobody has said so."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    tools: bool | None = None
    vision: bool | None = None
    streaming: bool | None = None
    reasoning: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """US dollars for a million tokens.

    Attributes:
        cached_input: For input that the provider had in its cache; None: as other input.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    input: Price
    output: Price
    cached_input: Price | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogueEntry:
    """A model that the operator offers.

    Attributes:
        model: `provider:model`.
        base_url: Where its provider is reached, if that is not the usual place.
        api_key_env: Name of the environment variable that holds the key; without it the model is not listed.
        api_version: Azure's.
        deployment: Azure's name of the model, if it is not the model's.
        region: Of Amazon Bedrock, or of watsonx.
        project_id: Of watsonx.
        context_window: Tokens of question and answer together.
        max_output: Tokens of an answer.
        fallbacks: Models that answer instead when this one cannot, in this order.
        options: More arguments of the LangChain class.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    model: str
    name: str = ""
    description: str = ""
    base_url: str | None = None
    api_key_env: str | None = None
    api_version: str | None = None
    deployment: str | None = None
    region: str | None = None
    project_id: str | None = None
    capabilities: Capabilities = Capabilities()
    context_window: Tokens | None = None
    max_output: Tokens | None = None
    prices: Prices | None = None
    fallbacks: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def provider(self) -> str:
        """The part before the colon."""
        return self.model.partition(":")[0]

    def shown(self) -> dict[str, Any]:
        """Return the entry as `GET /llmchat/gateway/models` has it."""
        provider, can = self.provider, self.capabilities
        return {
            "id": self.model,
            "model_id": self.model,
            "model_name": self.name or self.model.partition(":")[2],
            "provider_id": provider,
            "provider_name": shown_as(provider),
            "provider_type": provider,
            "supports_streaming": can.streaming is not False,
            "supports_function_calling": can.tools is not False,
            "supports_vision": can.vision is True,
            "supports_reasoning": can.reasoning is True,
            "context_window": self.context_window,
            "max_output": self.max_output,
            "prices": _shown_prices(self.prices),
            "fallbacks": list(self.fallbacks),
            "demo": self.model == DEMO,
            "description": self.description,
        }


def _shown_prices(prices: Prices | None) -> dict[str, float] | None:
    if prices is None:
        return None
    named = {"input": prices.input, "output": prices.output, "cached_input": prices.cached_input}
    return {name: float(price) for name, price in named.items() if price is not None}


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    models: list[CatalogueEntry] | None = None


DEMO_ENTRY = CatalogueEntry(
    model=DEMO,
    name="Demo (no language model)",
    description="A few fixed rules that pick a tool by its name, to try the product without a key.",
)


def read_catalogue(path: Path) -> list[CatalogueEntry]:
    """Read the operator's models.

    Raises:
        SettingsError: The file is not valid.
    """
    if not path.exists():
        return []
    try:
        entries = _File.model_validate(yaml.safe_load(path.read_bytes()) or {}).models or []
    except (yaml.YAMLError, OSError) as error:
        raise SettingsError(f"{path} cannot be read as YAML: {str(error).splitlines()[0]}.") from None
    except ValidationError as error:
        raise SettingsError(f"{path} is not a valid list of models: {first_problem(error)}.") from None
    for entry in entries:
        if not all(entry.model.partition(":")):
            raise SettingsError(f"{path}: {entry.model!r} must be written provider:model.")
    entries = [_canonical(entry) for entry in entries]
    _check(path, entries)
    return entries


def _canonical(entry: CatalogueEntry) -> CatalogueEntry:
    fallbacks = tuple(canonical(model) for model in entry.fallbacks)
    return replace(entry, model=canonical(entry.model), fallbacks=fallbacks)


def _check(path: Path, entries: Sequence[CatalogueEntry]) -> None:
    listed: set[str] = set()
    for entry in entries:
        if entry.model in listed:
            raise SettingsError(f"{path}: {entry.model!r} is listed twice.")
        listed.add(entry.model)
    for entry in entries:
        for model in entry.fallbacks:
            if model not in listed or model == entry.model:
                raise SettingsError(
                    f"{path}: the fallback {model!r} of {entry.model!r} must be another model of the list."
                )
