"""Anthropic."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import httpx2
from langchain.chat_models import init_chat_model

from mcp_chat.models.base import Model
from mcp_chat.models.chain import ChainModel
from mcp_chat.models.providers.base import Dial, Provider, Recipe

URL = "https://api.anthropic.com"
_HEADERS = frozenset({"anthropic-version", "anthropic-beta"})


class Anthropic(Provider):
    """Anthropic."""

    name = "anthropic"
    package = "langchain_anthropic"
    extra = "anthropic"
    needs = ("api_key",)
    keys = ("ANTHROPIC_API_KEY",)

    def open(self, recipe: Recipe, dial: Dial) -> Model:
        """Make a model; see `Provider.open`."""
        arguments = {
            **recipe.common,
            **({"max_tokens": recipe.max_tokens} if recipe.max_tokens else {}),
            "api_key": recipe.api_key or "none",
            "base_url": recipe.base_url or URL,
            "max_retries": 0,
            "timeout": dial.silence,
            "anthropic_proxy": None,
            **recipe.options,
        }
        chat = init_chat_model(recipe.model, model_provider="anthropic", **arguments)
        client = dial.client2(dial.proof({"x-api-key": recipe.api_key or "none"}, _HEADERS))
        _dial_with(chat, client)
        return ChainModel(f"{self.name}:{recipe.model}", chat, client.aclose)

    def default(self, environ: Mapping[str, str]) -> str | None:
        """Return the model that is listed when the operator lists none."""
        return environ.get("ANTHROPIC_MODEL") or "claude-sonnet-4-5"


def _dial_with(chat: Any, client: httpx2.AsyncClient) -> None:
    """Hand the class our client: it has no argument for one, and makes its own when it is first asked."""
    import anthropic

    known = cast(dict[str, Any], chat._client_params)
    deaf = httpx2.Client(transport=httpx2.BaseTransport())
    chat._async_client = anthropic.AsyncAnthropic(**known, http_client=client)
    chat._client = anthropic.Anthropic(**known, http_client=deaf)
