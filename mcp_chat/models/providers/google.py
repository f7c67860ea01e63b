"""Google's Gemini."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from functools import cache

from langchain.chat_models import init_chat_model

from mcp_chat.models.base import Model
from mcp_chat.models.chain import ChainModel
from mcp_chat.models.providers.base import Dial, Provider, Recipe

URL = "https://generativelanguage.googleapis.com"

_unused_tls = cache(ssl.create_default_context)
"""What the package would make anew for each model, in 100 ms, although the transport has its own."""


class Google(Provider):
    """Google's Gemini, by the key of its developers' API."""

    name = "google"
    package = "langchain_google_genai"
    extra = "google"
    needs = ("api_key",)
    keys = ("GOOGLE_API_KEY", "GEMINI_API_KEY")

    def open(self, recipe: Recipe, dial: Dial) -> Model:
        """Make a model; see `Provider.open`."""
        transport = dial.transport(dial.proof({"x-goog-api-key": recipe.api_key or "none"}))
        arguments = {
            **recipe.common,
            **({"max_output_tokens": recipe.max_tokens} if recipe.max_tokens else {}),
            "api_key": recipe.api_key or "none",
            "base_url": recipe.base_url or URL,
            "vertexai": False,
            "credentials": None,
            "max_retries": 1,  # the first attempt counts
            "client_args": {**dial.options(transport), "verify": _unused_tls()},
            **recipe.options,
        }
        chat = init_chat_model(recipe.model, model_provider="google_genai", **arguments)
        return ChainModel(f"{self.name}:{recipe.model}", chat, transport.aclose)

    def default(self, environ: Mapping[str, str]) -> str | None:
        """Return the model that is listed when the operator lists none."""
        return "gemini-flash-latest"
