"""Azure, Ollama, Google, watsonx and Bedrock on the wire, each through its own package."""

from __future__ import annotations

import json
import ssl
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest

from mcp_chat import netguard
from mcp_chat.catalogue import CatalogueEntry
from mcp_chat.exceptions import ModelFailed
from mcp_chat.models.base import Model
from mcp_chat.netguard import Policy
from mcp_chat.providers import Providers
from tests.outside import certificate
from tests.running import running
from tests.wires import bedrock, google, ollama, openai_chat, watsonx
from tests.wires.heard import ADD, Heard, hear, result, user
from tests.wires.wire import Scene, Wire, whole, wired

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def wire() -> Iterator[Wire]:
    with wired() as wire:
        yield wire


@asynccontextmanager
async def made(model: str, url: str, **more: Any) -> AsyncIterator[Model]:
    """Open a model of the operator's."""
    entry = CatalogueEntry(model=model, base_url=url, api_key_env="WIRE_KEY", **more)
    environ = {"WIRE_KEY": "the-key"}
    providers = Providers([entry], policy=Policy(), ollama_url="", silence=30, environ=environ)
    opened = providers.open(await providers.choose(model, temperature=0.5, max_tokens=99))
    try:
        yield opened
    finally:
        await opened.aclose()


def used(heard: Heard) -> tuple[int, int, int, int]:
    """What was counted: read, said, and of these cached and thought."""
    usage = heard.answer.usage
    return usage.input_tokens, usage.output_tokens, usage.cached_tokens, usage.reasoning_tokens


async def add(model: Model) -> tuple[Heard, Heard]:
    """Let a model ask for a tool, and tell it the result."""
    first = await hear(model, user("add"), tools=[ADD])
    [call] = first.message.tool_calls
    assert (call.name, call.args) == (ADD.name, {"a": 1, "b": 2})
    second = await hear(model, user("add"), first.message, result(call.id, "3"), tools=[ADD])
    return first, second


async def refused(model: Model) -> ModelFailed:
    """Ask a model that refuses; nothing of what its provider said is told."""
    with pytest.raises(ModelFailed) as caught:
        await hear(model, tools=[ADD])
    assert "SECRET" not in str(caught.value)
    return caught.value


# Azure


async def test_azure_is_asked_by_deployment_and_version_with_a_header_of_its_own(wire: Wire) -> None:
    wire.will(
        openai_chat.answer(*openai_chat.says("Hello from Azure")),
        openai_chat.answer(*openai_chat.calls(("call_1", ADD.name, {"a": 1, "b": 2})), end="tool_calls"),
        openai_chat.answer(*openai_chat.says("It is 3.")),
        whole({"error": {"message": "SECRET"}}, status=429, headers={"retry-after": "7"}),
    )
    about = {"deployment": "our-gpt", "api_version": "2024-10-21"}
    async with made("azure_openai:gpt-5", wire.url, **about) as model:
        heard = await hear(model)
        assert heard.texts == ["Hello", " from", " Azure"]
        assert used(heard)[:2] == (11, 7)
        _, second = await add(model)
        assert second.message.content == "It is 3."
        assert (await refused(model)).retry_after == 7
    asked = wire.asked[0]
    assert asked.path == "/openai/deployments/our-gpt/chat/completions"
    assert asked.headers["api-key"] == "the-key"
    assert "authorization" not in asked.headers
    assert asked.body["stream_options"] == {"include_usage": True}


# Ollama


async def test_ollama_says_thinks_calls_and_counts(wire: Wire) -> None:
    wire.will(
        ollama.answer({"thinking": "Hm"}, *ollama.says("Hello from home")),
        ollama.answer(ollama.calls(ADD.name, {"a": 1, "b": 2})),
        ollama.answer(*ollama.says("It is 3.")),
        ollama.refuses(500),
    )
    async with made("ollama:m", wire.url, context_window=8192, options={"reasoning": True}) as model:
        heard = await hear(model)
        assert (heard.texts, heard.thoughts) == (["Hello", " from", " home"], ["Hm"])
        assert heard.answer.end == "stop"
        assert used(heard)[:2] == (11, 7)
        _, second = await add(model)
        assert second.message.content == "It is 3."
        await refused(model)
    asked = wire.asked[0]
    assert asked.path == "/api/chat"
    options = asked.body["options"]
    assert (options["temperature"], options["num_predict"], options["num_ctx"]) == (0.5, 99, 8192)
    assert wire.asked[2].body["messages"][-1]["content"] == "3"


async def test_a_model_that_refuses_tools_is_told_with_what_to_do(wire: Wire) -> None:
    wire.will(ollama.refuses(400, "registry.ollama.ai/library/m does not support tools"))
    async with made("ollama:m", wire.url) as model:
        told = await refused(model)
    assert str(told) == (
        "This model cannot use tools. Connect with another model, or switch off the servers in this chat."
    )


# Google


async def test_gemini_says_thinks_calls_and_counts(wire: Wire) -> None:
    wire.will(
        google.answer(google.thinks("Hm"), *google.says("Hello from Google")),
        google.answer(google.calls(ADD.name, {"a": 1, "b": 2})),
        google.answer(*google.says("It is 3.")),
        google.refuses(429),
    )
    async with made("google:gemini", wire.url, options={"include_thoughts": True}) as model:
        heard = await hear(model)
        assert (heard.texts, heard.thoughts) == (["Hello", " from", " Google"], ["Hm"])
        assert heard.answer.end == "STOP"
        assert used(heard) == (11, 11, 5, 4)
        _, second = await add(model)
        assert second.message.content == "It is 3."
        assert (await refused(model)).retry_after == 7
    assert len(wire.asked) == 4, "nothing is asked twice behind our back"
    asked, _, told, _ = wire.asked
    assert asked.path == "/v1beta/models/gemini:streamGenerateContent"
    assert asked.headers["x-goog-api-key"] == "the-key"
    config = asked.body["generationConfig"]
    assert (config["temperature"], config["maxOutputTokens"]) == (0.5, 99)
    assert told.body["contents"][-1]["parts"][0]["functionResponse"]["name"] == ADD.name
    assert "U0lHTkVE" in json.dumps(told.body), "what was signed goes back"


# watsonx


@pytest.fixture
def secure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Wire]:
    """A wire by TLS, which is all that the package of watsonx speaks."""
    path = certificate(tmp_path, "localhost")
    trusting = ssl.create_default_context(cafile=str(path))
    monkeypatch.setattr(netguard, "_tls", lambda: trusting)
    wire = Wire()
    with running(wire.app, grace=0, ssl_certfile=str(path)) as url:
        wire.url = url.replace("http://127.0.0.1", "https://localhost")
        yield wire


async def test_watsonx_buys_a_token_and_says_calls_and_counts(secure: Wire) -> None:
    secure.will(
        watsonx.token(),
        watsonx.answer(*watsonx.says("Hello from IBM")),
        watsonx.answer(*watsonx.calls("call_1", ADD.name, '{"a": 1, "b": 2}'), end="tool_calls"),
        watsonx.answer(*watsonx.says("It is 3.")),
        watsonx.refuses(429),
    )
    options = {"iam_url": f"{secure.url}/identity/token"}
    async with made("watsonx:m", secure.url, project_id="our-project", options=options) as model:
        heard = await hear(model)
        assert heard.texts == ["Hello", " from", " IBM"]
        assert used(heard)[:2] == (11, 7)
        _, second = await add(model)
        assert second.message.content == "It is 3."
        assert (await refused(model)).retry_after == 7
    bought, asked, *_ = secure.asked
    assert len(secure.asked) == 5, "one token does for all, and nothing is asked twice"
    assert bought.path == "/identity/token"
    assert parse_qs(bought.body)["apikey"] == ["the-key"]
    assert asked.path == "/ml/v1/text/chat_stream"
    assert asked.headers["authorization"] == "Bearer a-token"
    assert (asked.body["project_id"], asked.body["temperature"], asked.body["max_tokens"]) == (
        "our-project",
        0.5,
        99,
    )
    assert "the-key" not in json.dumps([each.body for each in secure.asked[1:]])


async def test_a_key_that_ibm_does_not_know_is_told(secure: Wire) -> None:
    secure.will(watsonx.refuses(401))
    options = {"iam_url": f"{secure.url}/identity/token"}
    async with made("watsonx:m", secure.url, project_id="our-project", options=options) as model:
        assert "API key" in str(await refused(model))


# Bedrock


ACCESS = {"AWS_ACCESS_KEY_ID": "AKIAOPERATOR", "AWS_SECRET_ACCESS_KEY": "s"}


@pytest.fixture
def amazon(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> Wire:
    """A wire that AWS's package is to ask, with the operator's access key."""
    for name, value in ACCESS.items():
        monkeypatch.setenv(name, value)
    return wire


@asynccontextmanager
async def converse(url: str, **more: Any) -> AsyncIterator[Model]:
    entry = CatalogueEntry(model="bedrock:amazon.nova-lite-v1:0", base_url=url, region="eu-west-1", **more)
    providers = Providers([entry], policy=Policy(), ollama_url="", silence=30, environ={})
    opened = providers.open(
        await providers.choose("aws_bedrock:amazon.nova-lite-v1:0", temperature=0.5, max_tokens=99)
    )
    try:
        yield opened
    finally:
        await opened.aclose()


async def test_bedrock_says_thinks_calls_and_counts(amazon: Wire) -> None:
    amazon.will(
        bedrock.answer(bedrock.thinks("Hm", "SIGNED"), bedrock.says("Hello from Amazon")),
        bedrock.answer(bedrock.calls("tool_1", ADD.name, {"a": 1, "b": 2}), end="tool_use"),
        bedrock.answer(bedrock.says("It is 3.")),
        bedrock.refuses(429, "ThrottlingException"),
    )
    async with converse(amazon.url) as model:
        heard = await hear(model)
        assert (heard.texts, heard.thoughts) == (["Hello", " from", " Amazon"], ["Hm"])
        assert heard.answer.end == "end_turn"
        assert used(heard)[1:3] == (7, 5)
        _, second = await add(model)
        assert second.message.content == "It is 3."
        assert (await refused(model)).retry_after == 7
    assert len(amazon.asked) == 4, "nothing is asked twice behind our back"
    asked, _, told, _ = amazon.asked
    assert asked.path == "/model/amazon.nova-lite-v1:0/converse-stream"
    signed = asked.headers["authorization"]
    assert signed.startswith("AWS4-HMAC-SHA256 Credential=AKIAOPERATOR/")
    assert "/eu-west-1/bedrock/aws4_request" in signed
    assert asked.body["inferenceConfig"] == {"maxTokens": 99, "temperature": 0.5}
    assert told.body["messages"][-1]["content"][0]["toolResult"]["toolUseId"] == "tool_1"


@pytest.mark.parametrize("scenes", [[bedrock.broken("throttlingException", bedrock.says("Hel"))]])
async def test_what_breaks_an_answer_of_bedrocks_is_told(amazon: Wire, scenes: Sequence[Scene]) -> None:
    amazon.will(*scenes)
    async with converse(amazon.url) as model:
        assert "limiting requests" in str(await refused(model))


async def test_a_key_of_bedrocks_own_is_a_bearer(
    secure: Wire, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secure.will(bedrock.answer(bedrock.says("Hi")))
    monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path / "server.pem"))
    monkeypatch.setenv("AWS_BEARER_TOKEN_BEDROCK", "operators")
    async with converse(secure.url) as model:
        await hear(model)
    assert secure.asked[0].headers["authorization"] == "Bearer operators"
