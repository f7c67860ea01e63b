"""The models that the operator offers, from a YAML file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from mcp_chat.config import first_problem
from mcp_chat.exceptions import SettingsError

DEMO = "demo:demo"


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogueEntry:
    """A model that the operator offers.

    Attributes:
        model: `provider:model`.
        api_key_env: Name of the environment variable that holds the key; without it the model is not listed.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    model: str
    name: str = ""
    description: str = ""
    base_url: str | None = None
    api_key_env: str | None = None
    vision: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def provider(self) -> str:
        """The part before the colon."""
        return self.model.partition(":")[0]

    def shown(self) -> dict[str, Any]:
        """Return the entry as `GET /llmchat/gateway/models` has it."""
        provider = self.provider
        return {
            "id": self.model,
            "model_id": self.model,
            "model_name": self.name or self.model.partition(":")[2],
            "provider_id": provider,
            "provider_name": _PROVIDER_NAMES.get(provider, provider),
            "provider_type": provider,
            "supports_streaming": True,
            "supports_function_calling": True,
            "supports_vision": self.vision,
            "demo": self.model == DEMO,
            "description": self.description,
        }


_PROVIDER_NAMES = {"openai": "OpenAI", "ollama": "Ollama", "anthropic": "Anthropic", "demo": "Demo"}


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
    return entries
