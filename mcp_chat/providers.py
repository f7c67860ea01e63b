"""``provider:model`` becomes a LangChain chat model: the operator's catalogue, and users' own models."""

from __future__ import annotations

import contextlib
import importlib
import os
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import anyio
import httpx
import httpx2
import structlog
from langchain.chat_models import init_chat_model
from langchain_core.language_models import BaseChatModel

from mcp_chat.catalogue import DEMO, DEMO_ENTRY, CatalogueEntry
from mcp_chat.config import ModelConfig
from mcp_chat.demo.model import DemoModel
from mcp_chat.exceptions import InvalidRequest
from mcp_chat.netguard import (
    MAX_BODY_BYTES,
    GuardedTransport,
    Policy,
    Resolver,
    check_url,
    guarded_client,
    guarded_client2,
    resolve,
)
from mcp_chat.servers import is_header_value

OWN_PROVIDERS = ("openai", "ollama")
"""Providers for which a user may bring a key or an address: those whose sockets we can guard."""


def load_packages(entries: Sequence[CatalogueEntry]) -> None:
    """Import the providers' packages, which takes a second: once for all workers, before there are any."""
    for provider in {*OWN_PROVIDERS, *(entry.provider for entry in entries)}:
        with contextlib.suppress(ImportError):  # told when somebody chooses it
            importlib.import_module(f"langchain_{provider.replace('-', '_')}")


log = structlog.get_logger()

_DEFAULT_URLS = {"openai": "https://api.openai.com/v1", "ollama": "http://127.0.0.1:11434"}
_PROBE_EVERY = 10.0


@dataclass(frozen=True, slots=True)
class Model:
    """A chat model and how to close what it holds open."""

    chat: BaseChatModel
    aclose: Callable[[], Awaitable[None]]


class Providers:
    """Finds and makes models.

    Args:
        entries: The operator's models.
        policy: Which addresses a user's own model server may have.
        ollama_url: Where Ollama may answer; empty for never.
        silence: Seconds a model server may be silent.
        max_answer: Bytes of its answer, or of one event of it.
        environ: Where the keys are.
    """

    def __init__(
        self,
        entries: Sequence[CatalogueEntry],
        *,
        policy: Policy,
        ollama_url: str,
        silence: float,
        max_answer: int = MAX_BODY_BYTES,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        self._entries = tuple(entries)
        self._policy = policy
        self._ollama_url = ollama_url
        self._silence = silence
        self._max_answer = max_answer
        self._environ = environ
        self._ollama: tuple[CatalogueEntry, ...] = ()
        self._probed = -_PROBE_EVERY
        self._probing = anyio.Lock()

    async def catalogue(self) -> list[CatalogueEntry]:
        """Return what a user can choose: models whose key is set, Ollama's if it answers, the demo last."""
        ready = [e for e in self._entries if not e.api_key_env or self._environ.get(e.api_key_env)]
        listed = {entry.model for entry in ready}
        found = [entry for entry in await self._ollama_models() if entry.model not in listed]
        return [*ready, *found, DEMO_ENTRY]

    async def choose(
        self, model: str, *, temperature: float | None = None, max_tokens: int | None = None
    ) -> ModelConfig:
        """Return a model of the catalogue by its id, or by its bare name if only one has it.

        Raises:
            InvalidRequest: There is none.
        """
        entries = await self.catalogue()
        found = [e for e in entries if e.model == model] or [
            e for e in entries if e.model.partition(":")[2] == model and e.model != DEMO
        ]
        if len(found) != 1:
            known = ", ".join(entry.model for entry in entries[:20])
            raise InvalidRequest(f"Invalid LLM configuration: choose one of these models: {known}.")
        provider, _, name = found[0].model.partition(":")
        return ModelConfig(
            provider=provider, model=name, temperature=temperature, max_tokens=max_tokens, operator=True
        )

    async def own(self, provider: str, settings: Mapping[str, Any]) -> ModelConfig:
        """Return a user's own model. The operator's keys are for the operator's addresses only.

        Raises:
            InvalidRequest: The provider, its key or its address is not usable.
        """
        config = ModelConfig(provider=provider, **settings)
        if config.base_url is None and config.api_key is None:
            wanted = config.model if provider == "gateway" else f"{provider}:{config.model}"
            return await self.choose(wanted, temperature=config.temperature, max_tokens=config.max_tokens)
        if provider not in OWN_PROVIDERS:
            raise InvalidRequest(
                "Invalid LLM configuration: your own key or address works with these providers: "
                + ", ".join(OWN_PROVIDERS)
                + "."
            )
        if config.api_key and not is_header_value(config.api_key):
            raise InvalidRequest("Invalid LLM configuration: the key has characters that no header may have.")
        if config.base_url:
            config = replace(config, base_url=check_url(config.base_url, self._policy))
        return config

    def open(self, config: ModelConfig, resolver: Resolver = resolve) -> Model:
        """Make the model. Takes tens of milliseconds: call it off the event loop.

        Args:
            resolver: Looks the name of the user's own model server up.

        Raises:
            InvalidRequest: The provider's package is missing, or the model is no longer offered.
        """
        if config.provider == "demo":
            return Model(DemoModel(), _nothing)
        own, aclose = self._http(config, resolver)
        try:
            return Model(init_chat_model(**self._arguments(config), **own), aclose)
        except ImportError:
            raise InvalidRequest(
                f"Invalid LLM configuration: the provider {config.provider} needs a LangChain package "
                "that is not installed here; ask the operator, or choose another model."
            ) from None
        except ValueError as error:
            log.warning("model.invalid", provider=config.provider, error=type(error).__name__)
            raise InvalidRequest(
                f"Invalid LLM configuration: {config.provider}:{config.model} cannot be used like this."
            ) from None

    def _http(
        self, config: ModelConfig, resolver: Resolver
    ) -> tuple[dict[str, Any], Callable[[], Awaitable[None]]]:
        """Return how a provider's package is made to dial through the guard, and what closes that.

        Their clients for threads would dial past it: they get a transport that dials nothing.
        """
        policy = None if config.operator else self._policy
        hooks: dict[str, Any] = {"request": [] if config.operator else [_send_only(config.api_key)]}
        if config.provider == "openai":
            client = guarded_client2(
                policy, timeout=self._silence, max_bytes=self._max_answer, resolver=resolver
            )
            client.event_hooks = hooks
            return {
                "http_async_client": client,
                "http_client": httpx2.Client(transport=httpx2.BaseTransport()),
            }, client.aclose
        if config.provider == "ollama":
            transport = GuardedTransport(policy, max_bytes=self._max_answer, resolver=resolver)
            options = {"transport": transport, "event_hooks": hooks}
            return {
                "async_client_kwargs": {**options, "trust_env": False, "follow_redirects": False},
                "sync_client_kwargs": {"transport": httpx.BaseTransport()},
            }, transport.aclose
        return {}, _nothing

    def _arguments(self, config: ModelConfig) -> dict[str, Any]:
        """Say everything: what is left out, the providers' packages take from the environment."""
        key, base_url, options = config.api_key, config.base_url, {}
        if config.operator:
            entry = self._entry(config)
            key = self._environ.get(entry.api_key_env) if entry.api_key_env else None
            base_url, options = entry.base_url, dict(entry.options)
        url = base_url or _DEFAULT_URLS.get(config.provider)
        common = {
            "model": config.model,
            "model_provider": config.provider,
            "temperature": config.temperature,
            **({"base_url": url} if url else {}),
        }
        match config.provider:
            case "ollama":
                own: dict[str, Any] = {"num_predict": config.max_tokens}
            case "openai":
                own = {
                    "max_tokens": config.max_tokens,
                    "api_key": key or "none",
                    "max_retries": 0,
                    "timeout": self._silence,
                    "organization": "",
                    "openai_proxy": "",
                    "stream_usage": True,
                }
            case _:
                own = {"max_tokens": config.max_tokens, "api_key": key}
        return {name: value for name, value in {**common, **own, **options}.items() if value is not None}

    def _entry(self, config: ModelConfig) -> CatalogueEntry:
        wanted = f"{config.provider}:{config.model}"
        for entry in (*self._entries, *self._ollama):
            if entry.model == wanted:
                return entry
        if config.provider == "ollama":  # found by another worker's probe
            return CatalogueEntry(model=wanted, base_url=self._ollama_url)
        raise InvalidRequest(
            "Invalid LLM configuration: this model is no longer offered. Please connect again."
        )

    async def _ollama_models(self) -> tuple[CatalogueEntry, ...]:
        if not self._ollama_url:
            return ()
        async with self._probing:
            if time.monotonic() - self._probed > _PROBE_EVERY:
                self._ollama = await self._probe()
                self._probed = time.monotonic()
        return self._ollama

    async def _probe(self) -> tuple[CatalogueEntry, ...]:
        """Ask Ollama for its models; nothing there is the usual case."""
        try:
            async with guarded_client(None, timeout=1.0, max_bytes=self._max_answer) as http:
                answer = await http.get(f"{self._ollama_url.rstrip('/')}/api/tags")
            names = [str(model["name"]) for model in answer.raise_for_status().json()["models"]]
        except (httpx.HTTPError, ValueError, LookupError, TypeError):
            return ()
        return tuple(CatalogueEntry(model=f"ollama:{name}", base_url=self._ollama_url) for name in names)


_PLAIN_HEADERS = {
    *("host", "connection", "user-agent", "accept", "accept-encoding"),
    *("content-type", "content-length", "transfer-encoding"),
}


def _send_only(key: str | None) -> Callable[[Any], Awaitable[None]]:
    """Make a hook that sends a user's key, and nothing that packages found in the operator's environment."""

    async def strip(request: Any) -> None:
        for name in set(request.headers) - _PLAIN_HEADERS:
            del request.headers[name]
        if key:
            request.headers["authorization"] = f"Bearer {key}"

    return strip


async def _nothing() -> None:
    """A model that holds nothing open."""
