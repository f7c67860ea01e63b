"""Users' own models of every provider: their key goes where it belongs, nothing of the operator's does."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mcp_chat.app import create_app
from mcp_chat.config import ModelConfig
from mcp_chat.exceptions import InvalidRequest, ModelFailed
from mcp_chat.message import Message
from mcp_chat.models.base import Request
from mcp_chat.netguard import Policy
from mcp_chat.providers import Providers
from mcp_chat.settings import load_settings
from tests.person import Person
from tests.running import running
from tests.wires.wire import Wire, wired

pytestmark = pytest.mark.anyio

HELLO = Request(messages=[Message(role="user", content="hello")])
OPERATORS = dict.fromkeys(
    (
        *("OPENAI_API_KEY", "OPENAI_ORG_ID", "OPENAI_ORGANIZATION", "OPENAI_PROJECT_ID", "OPENAI_ADMIN_KEY"),
        *("AZURE_OPENAI_API_KEY", "AZURE_OPENAI_AD_TOKEN", "ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN"),
        *("GOOGLE_API_KEY", "GEMINI_API_KEY", "GOOGLE_CLOUD_PROJECT", "LANGSMITH_GATEWAY_API_KEY"),
        *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_BEARER_TOKEN_BEDROCK"),
        *("WATSONX_APIKEY", "WATSONX_API_KEY", "WATSONX_TOKEN", "WATSONX_PROJECT_ID", "WATSONX_SPACE_ID"),
        *("USER_ACCESS_TOKEN", "OLLAMA_API_KEY", "PROJECT_ID", "SPACE_ID"),
    ),
    "CANARY",
) | {"OPENAI_CUSTOM_HEADERS": "X-Canary: CANARY", "ANTHROPIC_CUSTOM_HEADERS": "X-Canary: CANARY"}
PLACES = (
    *("OPENAI_BASE_URL", "OPENAI_API_BASE", "OPENAI_PROXY", "AZURE_OPENAI_ENDPOINT", "ANTHROPIC_BASE_URL"),
    *("ANTHROPIC_API_URL", "ANTHROPIC_PROXY", "GOOGLE_GEMINI_BASE_URL", "LANGSMITH_GATEWAY", "WATSONX_URL"),
    *("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_BEDROCK_RUNTIME", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"),
)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def wire() -> Iterator[Wire]:
    with wired() as wire:
        yield wire


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[Wire]:
    """Where everything in the operator's environment leads to, with all keys that it can have."""
    with wired() as other:
        for name, value in OPERATORS.items():
            monkeypatch.setenv(name, value)
        for name in PLACES:
            monkeypatch.setenv(name, other.url)
        yield other


def providers() -> Providers:
    """Providers of an operator who lists nothing."""
    return Providers([], policy=Policy(), ollama_url="", silence=30, environ={})


# The wire, behind the HTTP door

HEADERS = {
    "openai": ("authorization", "Bearer my-key"),
    "azure_openai": ("api-key", "my-key"),
    "anthropic": ("x-api-key", "my-key"),
    "google": ("x-goog-api-key", "my-key"),
    "ollama": ("authorization", "Bearer my-key"),
}


@pytest.mark.parametrize("provider", HEADERS)
def test_a_users_key_and_nothing_of_the_operators_goes_to_their_address(
    provider: str, wire: Wire, elsewhere: Wire, tmp_path: Path
) -> None:
    """R8"""
    settings = load_settings(
        workers=1,
        ollama_url="off",
        log_level="error",
        allowed_networks="127.0.0.0/8",
        models_file=tmp_path / "none.yaml",
    )
    llm = {"provider": provider, "config": {"model": "m", "base_url": wire.url, "api_key": "my-key"}}
    with running(create_app(settings)) as url, Person(url, "ann") as ann:
        assert ann.post("connect", llm=llm, servers=[]).status_code == 200
        ann.post("chat", message="hello")
        shown = ann.get("config/{me}")
    name, value = HEADERS[provider]
    assert wire.asked, "somebody has asked"
    for asked in wire.asked:
        assert asked.headers[name] == value
        assert "CANARY" not in json.dumps([asked.headers, asked.body])
    assert elsewhere.asked == []
    assert "my-key" not in shown.text
    assert shown.json()["llm"]["config"]["api_key"] == "*****"


# Where no address may be given

SIGNED = "AWS4-HMAC-SHA256 Credential=AKIAMINE/"


async def sent_by(model: Any) -> list[Any]:
    """Return the requests that AWS's package would send, signed; none leaves."""
    caught: list[Any] = []

    def catch(request: Any, **_: Any) -> None:
        caught.append(request)
        raise ConnectionError("caught")

    model.chat.client.meta.events.register("before-send.bedrock-runtime", catch)
    with pytest.raises(ModelFailed):
        async for _ in model.stream(HELLO):
            pass
    await model.aclose()
    return caught


@pytest.mark.parametrize(
    ("mine", "proof"),
    [
        ({"api_key": "AKIAMINE", "secret_key": "mine"}, SIGNED),
        ({"api_key": "AKIAMINE", "secret_key": "mine", "session_token": "t"}, SIGNED),
        ({"api_key": "mine"}, "Bearer mine"),
    ],
)
async def test_a_users_bedrock_is_at_its_region_with_their_own_key(
    elsewhere: Wire, mine: dict[str, str], proof: str
) -> None:
    """R8"""
    made = providers()
    config = await made.own("aws_bedrock", {"model": "amazon.nova-lite-v1:0", "region": "eu-west-1", **mine})
    [request] = await sent_by(made.open(config))
    headers = {name.lower(): _text(value) for name, value in request.headers.items()}
    assert request.url.startswith("https://bedrock-runtime.eu-west-1.amazonaws.com/model/")
    assert headers["authorization"].startswith(proof)
    assert headers.get("x-amz-security-token") == mine.get("session_token")
    assert "CANARY" not in json.dumps(headers)
    assert elsewhere.asked == []


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


@pytest.mark.parametrize(
    "region", ["evil.example", "eu-west-1.evil.example/#", "x", "us-east-1@evil", "EU-WEST-1"]
)
async def test_a_region_is_one_of_aws(region: str) -> None:
    settings = {"model": "m", "api_key": "k", "region": region}
    with pytest.raises(InvalidRequest, match="region"):
        await providers().own("bedrock", settings)


@pytest.mark.parametrize(
    "given",
    [
        {"region": "evil"},
        {"base_url": "https://evil.example"},
        {"base_url": "https://us-south.ml.cloud.ibm.com.evil.example"},
    ],
)
async def test_a_region_of_watsonx_is_one_of_ibms(given: dict[str, str]) -> None:
    settings = {"model": "m", "api_key": "k", "project_id": "p", **given}
    with pytest.raises(InvalidRequest, match="regions of watsonx: us-south"):
        await providers().own("watsonx", settings)


async def test_contextforges_address_of_watsonx_is_its_region() -> None:
    settings = {"model": "m", "api_key": "k", "project_id": "p", "base_url": "https://eu-de.ml.cloud.ibm.com"}
    config = await providers().own("ibm", settings)
    assert config == ModelConfig(provider="watsonx", model="m", api_key="k", project_id="p", region="eu-de")


async def test_a_users_watsonx_has_their_own_key_and_project(elsewhere: Wire) -> None:
    """R8"""
    made = providers()
    config = await made.own("watsonx", {"model": "m", "api_key": "k", "project_id": "mine"})
    model: Any = made.open(config)
    client = model.chat.watsonx_client
    assert client.credentials.url == "https://us-south.ml.cloud.ibm.com"
    assert client.default_project_id == model.chat.project_id == "mine"
    assert model.chat.space_id is None
    assert "CANARY" not in repr(vars(client.credentials))
    await model.aclose()
    assert elsewhere.asked == []


# What is missing, and what is too much


@pytest.mark.parametrize(
    ("provider", "given", "wrong"),
    [
        ("azure_openai", {"api_key": "k"}, "needs base_url"),
        ("azure_openai", {"base_url": "https://e.org"}, "needs api_key"),
        ("anthropic", {"base_url": "https://e.org"}, "needs api_key"),
        ("google", {"base_url": "https://e.org"}, "needs api_key"),
        ("bedrock", {"api_key": "k"}, "needs region"),
        ("bedrock", {"api_key": "k", "region": "us-east-1", "base_url": "https://e.org"}, "has no base_url"),
        ("watsonx", {"api_key": "k"}, "needs project_id"),
        ("openai", {"api_key": "k", "region": "us-east-1"}, "has no region"),
        ("ollama", {"api_key": "k"}, "needs base_url"),
        ("anthropic", {"api_key": "k", "secret_key": "s"}, "has no secret_key"),
    ],
)
async def test_what_a_provider_needs_and_what_it_has_not_is_said(
    provider: str, given: dict[str, str], wrong: str
) -> None:
    with pytest.raises(InvalidRequest, match=wrong):
        await providers().own(provider, {"model": "m", **given})


@pytest.mark.parametrize("provider", ["azure_openai", "anthropic", "google"])
async def test_a_users_address_is_guarded_where_the_socket_is_opened(provider: str, wire: Wire) -> None:
    made = providers()  # which allow no loopback
    config = await made.own(provider, {"model": "m", "base_url": wire.url, "api_key": "k"})
    model = made.open(config)
    with pytest.raises(ModelFailed, match="address is not allowed"):
        async for _ in model.stream(HELLO):
            pass
    await model.aclose()
    assert wire.asked == []


def test_all_secrets_are_masked_and_stored_sealed(tmp_path: Path) -> None:
    settings = load_settings(
        workers=1, ollama_url="off", log_level="error", models_file=tmp_path / "none.yaml"
    )
    config = {
        "model_id": "amazon.nova-lite-v1:0",
        "region_name": "us-east-1",
        "aws_access_key_id": "SECRET-1",
        "aws_secret_access_key": "SECRET-2",
        "aws_session_token": "SECRET-3",
    }
    with running(create_app(settings)) as url, Person(url, "ann") as ann:
        answer = ann.post("connect", llm={"provider": "aws_bedrock", "config": config}, servers=[])
        assert answer.status_code == 200, answer.text
        assert answer.json()["provider"] == "bedrock"
        shown = ann.get("config/{me}")
        twice = {**config, "api_key": "x"}
        again = ann.post("connect", llm={"provider": "aws_bedrock", "config": twice}, servers=[])
    assert "SECRET" not in shown.text
    assert shown.json()["llm"]["config"] == {
        "model": "amazon.nova-lite-v1:0",
        "base_url": None,
        "api_key": "*****",
        "secret_key": "*****",
        "session_token": "*****",
        "region": "us-east-1",
        "temperature": None,
        "max_tokens": None,
    }
    assert again.status_code == 422
    assert "api_key is given twice" in again.text
