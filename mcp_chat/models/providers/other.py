"""Any other provider that LangChain knows, for the operator's models only."""

from __future__ import annotations

from langchain.chat_models import init_chat_model

from mcp_chat.models.base import Model
from mcp_chat.models.chain import ChainModel
from mcp_chat.models.providers.base import Dial, Provider, Recipe


class Other(Provider):
    """Any other provider that LangChain knows: nobody has looked how its sockets could be guarded.

    Args:
        name: As LangChain calls it.
    """

    brings = ()

    def __init__(self, name: str) -> None:
        self.name = name
        self.package = f"langchain_{name.replace('-', '_')}"

    def open(self, recipe: Recipe, dial: Dial) -> Model:
        """Make a model; see `Provider.open`."""
        named = {"api_key": recipe.api_key, "base_url": recipe.base_url, "max_tokens": recipe.max_tokens}
        arguments = {name: value for name, value in named.items() if value is not None}
        chat = init_chat_model(
            recipe.model, model_provider=self.name, **{**recipe.common, **arguments, **recipe.options}
        )
        return ChainModel(f"{self.name}:{recipe.model}", chat)
