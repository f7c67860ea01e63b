"""OpenAI, and the many servers that speak its protocol."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import httpx2

from mcp_chat.catalogue import CatalogueEntry
from mcp_chat.config import ModelConfig
from mcp_chat.models.base import Model
from mcp_chat.models.chain import ChainModel
from mcp_chat.models.providers.base import Dial, Provider, Recipe, first

URL = "https://api.openai.com/v1"


class OpenAI(Provider):
    """OpenAI, and the many servers that speak its protocol."""

    name = "openai"
    package = "langchain_openai"
    keys = ("OPENAI_API_KEY",)

    def open(self, recipe: Recipe, dial: Dial) -> Model:
        """Make a model; see `Provider.open`."""
        client = dial.client2(dial.proof(bearer(recipe.api_key)))
        arguments = {
            **shared(recipe, dial, client),
            "base_url": recipe.base_url or URL,
            **recipe.options,
        }
        from mcp_chat.models.compatible import CompatibleOpenAI
        from mcp_chat.models.openai import OpenAIModel

        chat = CompatibleOpenAI(model=recipe.model, **arguments)
        plain = ChainModel(f"{self.name}:{recipe.model}", chat, client.aclose)
        return OpenAIModel(plain, chat, client) if dial.raw else plain

    def lacks(self, entry: CatalogueEntry, environ: Mapping[str, str]) -> bool:
        """A server of the operator's may want no key."""
        return not environ.get("OPENAI_BASE_URL") and super().lacks(entry, environ)

    def usual(self, environ: Mapping[str, str]) -> bool:
        """A key of OpenAI, or the address of a server that speaks its protocol."""
        return bool(first(environ, "OPENAI_API_KEY", "OPENAI_BASE_URL"))

    def default(self, environ: Mapping[str, str]) -> str | None:
        """Nobody knows what another server's models are called."""
        return environ.get("OPENAI_MODEL") or (None if environ.get("OPENAI_BASE_URL") else "gpt-5-mini")

    def recipe(self, entry: CatalogueEntry, config: ModelConfig, environ: Mapping[str, str]) -> Recipe:
        """Return what a model of the operator's is made of; see `Provider.recipe`."""
        base_url = entry.base_url or environ.get("OPENAI_BASE_URL")
        return replace(super().recipe(entry, config, environ), base_url=base_url or None)


def shared(recipe: Recipe, dial: Dial, client: httpx2.AsyncClient) -> dict[str, Any]:
    """Say everything: what is left out, the package takes from the environment."""
    return {
        **recipe.common,
        **({"max_tokens": recipe.max_tokens} if recipe.max_tokens else {}),
        "api_key": recipe.api_key or "none",
        "max_retries": 0,
        "timeout": dial.silence,
        "organization": "",
        "openai_proxy": "",
        "stream_usage": True,
        "http_async_client": client,
        "http_client": httpx2.Client(transport=httpx2.BaseTransport()),
    }


def bearer(key: str | None) -> dict[str, str]:
    """Return the header that has a key, if there is one."""
    return {"authorization": f"Bearer {key}"} if key else {}
