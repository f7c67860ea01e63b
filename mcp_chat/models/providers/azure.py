"""OpenAI's models at Microsoft Azure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from mcp_chat.catalogue import CatalogueEntry
from mcp_chat.config import ModelConfig
from mcp_chat.models.base import Model
from mcp_chat.models.chain import ChainModel
from mcp_chat.models.providers.base import Dial, Provider, Recipe, first
from mcp_chat.models.providers.openai import shared

API_VERSION = "2024-10-21"
"""The newest one that is generally available; used where nobody names another."""


class AzureOpenAI(Provider):
    """OpenAI's models at Microsoft Azure; each one is reached by the name of a deployment."""

    name = "azure_openai"
    package = "langchain_openai"
    brings = ("api_key", "base_url", "api_version", "deployment")
    needs = ("api_key", "base_url")
    keys = ("AZURE_OPENAI_API_KEY",)

    def open(self, recipe: Recipe, dial: Dial) -> Model:
        """Make a model; see `Provider.open`."""
        if not recipe.base_url:
            raise ValueError("an endpoint is needed")
        client = dial.client2(dial.proof({"api-key": recipe.api_key} if recipe.api_key else {}))
        arguments = {
            **shared(recipe, dial, client),
            "azure_endpoint": recipe.base_url,
            "azure_deployment": recipe.deployment or recipe.model,
            "api_version": recipe.api_version or API_VERSION,
            "azure_ad_token": None,
            **recipe.options,
        }
        from mcp_chat.models.compatible import CompatibleAzure
        from mcp_chat.models.openai import OpenAIModel

        chat = CompatibleAzure(model=recipe.model, **arguments)
        plain = ChainModel(f"{self.name}:{recipe.model}", chat, client.aclose)
        return OpenAIModel(plain, chat, client) if dial.raw else plain

    def lacks(self, entry: CatalogueEntry, environ: Mapping[str, str]) -> bool:
        """There is no usual address: it is the operator's own, like the key."""
        endpoint = entry.base_url or environ.get("AZURE_OPENAI_ENDPOINT")
        return not endpoint or super().lacks(entry, environ)

    def usual(self, environ: Mapping[str, str]) -> bool:
        """A key and an endpoint."""
        return bool(environ.get("AZURE_OPENAI_API_KEY") and environ.get("AZURE_OPENAI_ENDPOINT"))

    def default(self, environ: Mapping[str, str]) -> str | None:
        """Deployments have names of their own."""
        return first(environ, "AZURE_OPENAI_DEPLOYMENT", "AZURE_OPENAI_DEPLOYMENT_NAME")

    def recipe(self, entry: CatalogueEntry, config: ModelConfig, environ: Mapping[str, str]) -> Recipe:
        """Return what a model of the operator's is made of; see `Provider.recipe`."""
        version = first(environ, "AZURE_OPENAI_API_VERSION", "OPENAI_API_VERSION")
        return replace(
            super().recipe(entry, config, environ),
            base_url=entry.base_url or first(environ, "AZURE_OPENAI_ENDPOINT"),
            api_version=entry.api_version or version,
        )
