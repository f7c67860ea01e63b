"""All providers by their names."""

from __future__ import annotations

from types import MappingProxyType

from mcp_chat.models.providers.anthropic import Anthropic
from mcp_chat.models.providers.azure import AzureOpenAI
from mcp_chat.models.providers.base import Provider
from mcp_chat.models.providers.bedrock import Bedrock
from mcp_chat.models.providers.google import Google
from mcp_chat.models.providers.names import provider_of
from mcp_chat.models.providers.ollama import Ollama
from mcp_chat.models.providers.openai import OpenAI
from mcp_chat.models.providers.other import Other
from mcp_chat.models.providers.watsonx import Watsonx

PROVIDERS = MappingProxyType(
    {
        each.name: each
        for each in (OpenAI(), AzureOpenAI(), Anthropic(), Bedrock(), Google(), Watsonx(), Ollama())
    }
)


def provider(name: str) -> Provider:
    """Return a provider by any of its names; one that nobody has looked at is for the operator only."""
    return PROVIDERS.get(provider_of(name)) or Other(name)
