"""Ollama, on the operator's machine or on a user's own."""

from __future__ import annotations

from collections.abc import Mapping

import httpx

from mcp_chat.catalogue import CatalogueEntry
from mcp_chat.models.base import Model
from mcp_chat.models.chain import ChainModel
from mcp_chat.models.providers.base import Dial, Provider, Recipe
from mcp_chat.models.providers.openai import bearer

URL = "http://127.0.0.1:11434"


class Ollama(Provider):
    """Ollama."""

    name = "ollama"
    package = "langchain_ollama"
    brings = ("base_url", "api_key")
    needs = ("base_url",)

    def open(self, recipe: Recipe, dial: Dial) -> Model:
        """Make a model; see `Provider.open`. It has as much context as the operator says it has."""
        transport = dial.transport(dial.proof(bearer(recipe.api_key)))
        arguments = {
            **recipe.common,
            **({"num_predict": recipe.max_tokens} if recipe.max_tokens else {}),
            **({"num_ctx": recipe.context_window} if recipe.context_window else {}),
            "base_url": recipe.base_url or URL,
            "async_client_kwargs": dial.options(transport),
            "sync_client_kwargs": {"transport": httpx.BaseTransport()},
            **recipe.options,
        }
        from mcp_chat.models.aloud import AloudOllama

        chat = AloudOllama(model=recipe.model, **arguments)
        return ChainModel(f"{self.name}:{recipe.model}", chat, transport.aclose)

    def lacks(self, entry: CatalogueEntry, environ: Mapping[str, str]) -> bool:
        """It wants no key, unless the operator says so."""
        return bool(entry.api_key_env) and not self.key(entry, environ)
