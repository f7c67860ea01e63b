"""What providers are called: here, by LangChain, by ContextForge and by people."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

_ALIASES = MappingProxyType(
    {
        "azure": "azure_openai",
        "aws": "bedrock",
        "aws_bedrock": "bedrock",
        "bedrock_converse": "bedrock",
        "gemini": "google",
        "google_genai": "google",
        "ibm": "watsonx",
    }
)
_SHOWN = MappingProxyType(
    {
        "openai": "OpenAI",
        "azure_openai": "Azure OpenAI",
        "anthropic": "Anthropic",
        "bedrock": "Amazon Bedrock",
        "google": "Google",
        "watsonx": "IBM watsonx",
        "ollama": "Ollama",
        "demo": "Demo",
    }
)
_FIELDS = MappingProxyType(
    {
        "model_id": "model",
        "apikey": "api_key",
        "aws_access_key_id": "api_key",
        "aws_secret_access_key": "secret_key",
        "aws_session_token": "session_token",
        "azure_endpoint": "base_url",
        "url": "base_url",
        "azure_deployment": "deployment",
        "region_name": "region",
    }
)
"""What ContextForge's clients call the fields of a user's own model, provider by provider."""


def provider_of(name: str) -> str:
    """Return the one name that a provider has here, whatever it is called."""
    return _ALIASES.get(name, name)


def canonical(model: str) -> str:
    """Return ``provider:model`` with the name that the provider has here."""
    provider, colon, name = model.partition(":")
    return f"{provider_of(provider)}{colon}{name}" if colon else model


def shown_as(provider: str) -> str:
    """Return what people call a provider."""
    return _SHOWN.get(provider, provider)


def one_name(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a user's own model by the names that they have here.

    Raises:
        ValueError: One of them is given by two names.
    """
    named: dict[str, Any] = {}
    for field, value in given.items():
        name = _FIELDS.get(field, field)
        if name in named:
            raise ValueError(f"{name} is given twice, by two names")
        named[name] = value
    return named
