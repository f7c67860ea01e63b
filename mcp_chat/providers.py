"""``provider:model`` becomes a model: the operator's catalogue, the environment, and users' own models."""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import structlog
from anyio import to_thread

from mcp_chat.answers import MAX_BODY_BYTES
from mcp_chat.catalogue import DEMO, DEMO_ENTRY, Capabilities, CatalogueEntry
from mcp_chat.config import ModelConfig
from mcp_chat.demo.model import DemoModel
from mcp_chat.exceptions import InvalidRequest
from mcp_chat.models.base import Model
from mcp_chat.models.chain import ChainModel
from mcp_chat.models.providers.base import OWN_FIELDS, Dial, Recipe, own_recipe
from mcp_chat.models.providers.names import canonical, provider_of
from mcp_chat.models.providers.probe import Ollamas, ask_own
from mcp_chat.models.providers.table import PROVIDERS, provider
from mcp_chat.models.window import window_of
from mcp_chat.netguard import Policy, Resolver, resolve

log = structlog.get_logger()

V = TypeVar("V")

_PROVEN = 1000
"""Models of which it is known that they can be made."""


def load_packages(entries: Sequence[CatalogueEntry], environ: Mapping[str, str] = os.environ) -> None:
    """Import the packages of the models that are offered, once for all workers, before there are any.

    It takes a second. What only users bring is imported when the first of them does.
    """
    for name in {"openai", *(entry.provider for entry in offered(entries, environ))} - {"demo"}:
        with contextlib.suppress(ImportError):  # of those it is told when they are chosen
            importlib.import_module(provider(name).package)
    for entry in listed(entries, environ):
        if not provider(entry.provider).installed:
            log.warning("model.not_offered", model=entry.model, advice=provider(entry.provider).remedy)


def listed(entries: Sequence[CatalogueEntry], environ: Mapping[str, str]) -> list[CatalogueEntry]:
    """Return the models of the operator's list whose keys are there, and the environment's own."""
    ready = _ready(entries, environ)
    usual = [known for known in PROVIDERS.values() if _falls_back(known.name, ready, environ)]
    named = [(known.name, known.default(environ)) for known in usual]
    return [*ready, *(CatalogueEntry(model=f"{name}:{model}") for name, model in named if model)]


def offered(entries: Sequence[CatalogueEntry], environ: Mapping[str, str]) -> list[CatalogueEntry]:
    """Return those of them whose packages are there."""
    return [entry for entry in listed(entries, environ) if provider(entry.provider).installed]


def _ready(entries: Sequence[CatalogueEntry], environ: Mapping[str, str]) -> list[CatalogueEntry]:
    return [entry for entry in entries if not provider(entry.provider).lacks(entry, environ)]


def _falls_back(name: str, ready: Sequence[CatalogueEntry], environ: Mapping[str, str]) -> bool:
    """Whether any model of a provider can be chosen: the operator has set its variables and lists none."""
    known = PROVIDERS.get(name)
    return bool(known and known.usual(environ)) and all(entry.provider != name for entry in ready)


class Providers:
    """Finds and makes models.

    Args:
        entries: The operator's models.
        policy: Which addresses a user's own model server may have.
        ollama_url: Where Ollama may answer; empty for never.
        silence: Seconds a model server may be silent.
        max_answer: Bytes of its answer, or of one event of it.
        default: The model of those who name none, if there is one.
        environ: Where the keys are.
        raw: Whether OpenAI's answers are read without the SDK.
    """

    def __init__(
        self,
        entries: Sequence[CatalogueEntry],
        *,
        policy: Policy,
        ollama_url: str,
        silence: float,
        max_answer: int = MAX_BODY_BYTES,
        default: str = "",
        environ: Mapping[str, str] = os.environ,
        raw: bool = True,
    ) -> None:
        self.default = default
        self._entries = tuple(entries)
        self._policy = policy
        self._dial = Dial(policy=None, silence=silence, max_answer=max_answer, raw=raw)
        self._ollamas = Ollamas(ollama_url, self._dial)
        self._environ = environ
        self._proven: dict[ModelConfig, None] = {}
        self._found: dict[ModelConfig, Capabilities] = {}

    async def catalogue(self) -> list[CatalogueEntry]:
        """Return what a user can choose: models whose key is set, Ollama's if it answers, the demo last."""
        ready = offered(self._entries, self._environ)
        names = {entry.model for entry in ready}
        found = [entry for entry in await self._ollamas.models() if entry.model not in names]
        return [*(_with_window(entry) for entry in (*ready, *found)), DEMO_ENTRY]

    async def choose(
        self, model: str, *, temperature: float | None = None, max_tokens: int | None = None
    ) -> ModelConfig:
        """Return a model of the catalogue by its id, or by its bare name if only one has it.

        Raises:
            InvalidRequest: There is none.
        """
        config = ModelConfig(provider="", model="", temperature=temperature, max_tokens=max_tokens)
        name, _, rest = (await self._chosen(canonical(model))).partition(":")
        return replace(config, provider=name, model=rest, operator=True)

    async def _chosen(self, model: str) -> str:
        entries = await self.catalogue()
        known = {
            *(entry.model for entry in entries),
            *(e.model for e in listed(self._entries, self._environ)),
        }
        name, _, rest = model.partition(":")
        if model in known or (rest and self._falls_back(name)):
            return model  # where its package is missing, one is told so when it is made
        found = [each for each in known - {DEMO} if each.partition(":")[2] == model]
        if len(found) == 1:
            return found[0]
        named = ", ".join(entry.model for entry in entries[:20])
        raise InvalidRequest(f"Invalid LLM configuration: choose one of these models: {named}.")

    def _falls_back(self, name: str) -> bool:
        return _falls_back(name, _ready(self._entries, self._environ), self._environ)

    async def own(self, name: str, settings: Mapping[str, Any]) -> ModelConfig:
        """Return a user's own model. The operator's keys are for the operator's addresses only.

        Raises:
            InvalidRequest: The provider, its key or its address is not usable.
        """
        config = ModelConfig(provider=provider_of(name), **settings)
        if not any(getattr(config, field) for field in OWN_FIELDS):
            wanted = config.model if name == "gateway" else f"{name}:{config.model}"
            return await self.choose(wanted, temperature=config.temperature, max_tokens=config.max_tokens)
        if config.provider not in PROVIDERS:
            raise InvalidRequest(
                "Invalid LLM configuration: your own key or address works with these providers: "
                + ", ".join(PROVIDERS)
                + "."
            )
        return PROVIDERS[config.provider].judged(config, self._policy)

    async def prove(self, config: ModelConfig) -> None:
        """See that a model can be made. Whatever its key is: one like it is made only once for that.

        Raises:
            InvalidRequest: It cannot.
        """
        like = _like(config)
        if like in self._proven:
            return
        model = await to_thread.run_sync(self.open, config)
        await model.aclose()
        _remember(self._proven, like, None)

    def open(self, config: ModelConfig, resolver: Resolver = resolve) -> Model:
        """Make the model. Takes tens of milliseconds: call it off the event loop.

        Args:
            resolver: Looks the name of the user's own model server up.

        Raises:
            InvalidRequest: The provider's package is missing, or the model is no longer offered.
        """
        name = f"{config.provider}:{config.model}"
        if config.provider == "demo":
            return ChainModel(name, DemoModel())
        known = provider(config.provider)
        try:
            return known.open(self._recipe(config), self._dial_of(config, resolver))
        except ImportError:
            raise InvalidRequest(f"Invalid LLM configuration: {known.remedy}.") from None
        except ValueError as error:
            log.warning("model.invalid", provider=config.provider, error=type(error).__name__)
            raise InvalidRequest(f"Invalid LLM configuration: {name} cannot be used like this.") from None

    def fallbacks(self, config: ModelConfig) -> list[ModelConfig]:
        """Return the operator's models that answer instead of one; a user's own falls back to nothing."""
        if not config.operator:
            return []
        named = [model.partition(":") for model in self._entry(config).fallbacks]
        return [replace(config, provider=provider, model=model) for provider, _, model in named]

    def whereabouts(self, config: ModelConfig) -> str:
        """Return where a model is: what fails there says nothing of other places."""
        url = self._entry(config).base_url if config.operator else config.base_url
        return f"{config.provider}:{config.model} {url or ''}"

    async def known(self, config: ModelConfig, resolver: Resolver = resolve) -> CatalogueEntry:
        """Return what is known of a user's model: what it can do, and how much it takes.

        Args:
            resolver: As above: an Ollama of the user's own is asked.
        """
        name = f"{config.provider}:{config.model}"
        if config.operator:
            if config.provider == "ollama":
                await self._ollamas.models()
            return _with_window(self._entry(config))
        entry = CatalogueEntry(model=name)
        if config.provider == "ollama" and config.base_url:
            like = _like(config)
            if like not in self._found:
                dial = self._dial_of(config, resolver)
                _remember(self._found, like, await ask_own(config, dial))
            entry = replace(entry, capabilities=self._found[like])
        return _with_window(entry)

    def _dial_of(self, config: ModelConfig, resolver: Resolver) -> Dial:
        policy = None if config.operator else self._policy
        return replace(self._dial, policy=policy, resolver=resolver)

    def _recipe(self, config: ModelConfig) -> Recipe:
        if not config.operator:
            return own_recipe(config)
        return provider(config.provider).recipe(self._entry(config), config, self._environ)

    def _entry(self, config: ModelConfig) -> CatalogueEntry:
        wanted = f"{config.provider}:{config.model}"
        for entry in (*self._entries, DEMO_ENTRY):
            if entry.model == wanted:
                return entry
        if config.provider == "ollama":
            return self._ollamas.entry(wanted)
        if self._falls_back(config.provider):
            return CatalogueEntry(model=wanted)
        raise InvalidRequest(
            "Invalid LLM configuration: this model is no longer offered. Please connect again."
        )


def _with_window(entry: CatalogueEntry) -> CatalogueEntry:
    """Return a model with the context window that others know, if the operator has named none."""
    if entry.context_window or entry.provider in ("demo", "ollama"):  # Ollama cuts where it is told to
        return entry
    return replace(entry, context_window=window_of(entry.model))


def _like(config: ModelConfig) -> ModelConfig:
    """Return a model as others may have it: without what is its user's alone."""
    return replace(
        config,
        api_key=config.api_key and "some",
        secret_key=config.secret_key and "some",
        session_token=config.session_token and "some",
    )


def _remember(known: dict[ModelConfig, V], config: ModelConfig, value: V) -> None:
    known[config] = value
    if len(known) > _PROVEN:
        del known[next(iter(known))]
