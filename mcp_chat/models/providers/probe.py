"""Asks an Ollama which models it has, and what they can do."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import anyio
import httpx

from mcp_chat.catalogue import Capabilities, CatalogueEntry
from mcp_chat.config import ModelConfig
from mcp_chat.models.providers.base import Dial
from mcp_chat.models.providers.openai import bearer
from mcp_chat.netguard import guarded_client

_EVERY = 10.0
_MOST = 200
_AT_ONCE = 8


class Ollamas:
    """The models of the operator's Ollama, asked for again every few seconds.

    Args:
        url: Where it may answer; empty for never.
        dial: How it is asked; what may answer there is the operator's business.
    """

    def __init__(self, url: str, dial: Dial) -> None:
        self._url = url.rstrip("/")
        self._dial = dial
        self._found: tuple[CatalogueEntry, ...] = ()
        self._known: dict[str, CatalogueEntry] = {}
        self._asked = -_EVERY
        self._asking = anyio.Lock()

    async def models(self) -> tuple[CatalogueEntry, ...]:
        """Return its models; none if it does not answer, which is the usual case."""
        if not self._url:
            return ()
        async with self._asking:
            if time.monotonic() - self._asked > _EVERY:
                self._found = await self._ask()
                self._asked = time.monotonic()
        return self._found

    def entry(self, model: str) -> CatalogueEntry:
        """Return a model by its `provider:model`; another worker may have found it."""
        known = (entry for entry in self._found if entry.model == model)
        return next(known, CatalogueEntry(model=model, base_url=self._url))

    async def _ask(self) -> tuple[CatalogueEntry, ...]:
        try:
            async with _client(self._dial) as http:
                answer = await http.get(f"{self._url}/api/tags")
                tags = answer.raise_for_status().json()["models"]
                names = {str(tag["name"]): str(tag.get("digest", "")) for tag in tags[:_MOST]}
                await self._learn(http, names)
        except (httpx.HTTPError, ValueError, LookupError, TypeError, AttributeError):
            return ()
        return tuple(self._known[f"{name} {digest}"] for name, digest in names.items())

    async def _learn(self, http: httpx.AsyncClient, names: dict[str, str]) -> None:
        """Ask what those can do that are new; a model that changes has another digest."""
        self._known = {key: entry for key, entry in self._known.items() if key in _keys(names)}
        places = anyio.Semaphore(_AT_ONCE)

        async def learn(name: str, key: str) -> None:
            async with places:
                found = await shown(http, self._url, name)
            entry = CatalogueEntry(model=f"ollama:{name}", base_url=self._url, capabilities=found)
            self._known[key] = entry

        async with anyio.create_task_group() as tasks:
            for name, digest in names.items():
                if (key := f"{name} {digest}") not in self._known:
                    tasks.start_soon(learn, name, key)


def _keys(names: dict[str, str]) -> set[str]:
    return {f"{name} {digest}" for name, digest in names.items()}


def _client(dial: Dial) -> httpx.AsyncClient:
    return guarded_client(dial.policy, timeout=1.0, max_bytes=dial.max_answer, resolver=dial.resolver)


async def ask_own(config: ModelConfig, dial: Dial) -> Capabilities:
    """Ask a user's own Ollama what a model of theirs can do; it may not answer."""
    url = (config.base_url or "").rstrip("/")
    try:
        async with _client(dial) as http:
            http.headers.update(bearer(config.api_key))
            return await shown(http, url, config.model)
    except Exception:  # noqa: BLE001 - it is the user's server: nothing that it does is to fail a connect
        return Capabilities()


async def shown(http: httpx.AsyncClient, url: str, model: str) -> Capabilities:
    """Return what an Ollama says that a model can do; older ones do not say."""
    try:
        answer = await http.post(f"{url}/api/show", json={"model": model})
        listed: Any = answer.raise_for_status().json().get("capabilities")
    except (httpx.HTTPError, ValueError, AttributeError):
        return Capabilities()
    if not isinstance(listed, Sequence) or not listed:
        return Capabilities()
    return Capabilities(tools="tools" in listed, vision="vision" in listed, reasoning="thinking" in listed)
