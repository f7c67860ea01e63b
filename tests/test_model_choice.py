"""Which models there are to choose from, what is known of them, and what is made of that."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import structlog
from langchain.chat_models.base import _get_chat_model_creator as known_creators
from structlog.testing import capture_logs

from mcp_chat.app import create_app
from mcp_chat.catalogue import DEMO, Capabilities, CatalogueEntry, read_catalogue
from mcp_chat.context import Budget
from mcp_chat.exceptions import InvalidRequest, SettingsError
from mcp_chat.models.providers import probe
from mcp_chat.models.window import Window
from mcp_chat.netguard import Policy
from mcp_chat.providers import Providers, load_packages
from mcp_chat.settings import load_settings
from tests.model_server import ModelServer, Reply
from tests.person import Person
from tests.running import running
from tests.test_logs import as_before
from tests.test_providers import slowly
from tests.wires import openai_chat
from tests.wires.heard import ADD
from tests.wires.wire import Wire, whole, wired

__all__ = ["as_before"]  # the fixture

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def providers(*entries: CatalogueEntry, ollama_url: str = "", **environ: str) -> Providers:
    """Providers of an operator."""
    return Providers(entries, policy=Policy(), ollama_url=ollama_url, silence=30, environ=environ)


async def listed(made: Providers) -> list[str]:
    """The models that are offered, without the demo."""
    return [entry.model for entry in await made.catalogue() if entry.model != DEMO]


# The environment

AZURE = {"AZURE_OPENAI_API_KEY": "k", "AZURE_OPENAI_ENDPOINT": "https://a.example"}
WATSONX = {"WATSONX_APIKEY": "k", "WATSONX_URL": "https://w.example", "WATSONX_PROJECT_ID": "p"}
AWS = {"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s"}


@pytest.mark.parametrize(
    ("environ", "provider", "default"),
    [
        ({"OPENAI_API_KEY": "k"}, "openai", ["openai:gpt-5-mini"]),
        ({"OPENAI_API_KEY": "k", "OPENAI_MODEL": "m"}, "openai", ["openai:m"]),
        ({"OPENAI_BASE_URL": "http://own.example/v1"}, "openai", []),
        ({"OPENAI_BASE_URL": "http://own.example/v1", "OPENAI_MODEL": "m"}, "openai", ["openai:m"]),
        ({"ANTHROPIC_API_KEY": "k"}, "anthropic", ["anthropic:claude-sonnet-4-5"]),
        (AZURE, "azure_openai", []),
        ({**AZURE, "AZURE_OPENAI_DEPLOYMENT": "d"}, "azure_openai", ["azure_openai:d"]),
        ({"GOOGLE_API_KEY": "k"}, "google", ["google:gemini-flash-latest"]),
        ({**AWS, "AWS_REGION": "eu-west-1"}, "bedrock", ["bedrock:eu.amazon.nova-lite-v1:0"]),
        ({**AWS, "AWS_REGION": "sa-east-1"}, "bedrock", []),
        ({**AWS, "AWS_REGION": "sa-east-1", "AWS_BEDROCK_MODEL_ID": "m"}, "bedrock", ["bedrock:m"]),
        (WATSONX, "watsonx", ["watsonx:ibm/granite-4-h-small"]),
    ],
)
async def test_the_usual_variables_offer_any_model_of_a_provider(
    environ: dict[str, str], provider: str, default: list[str]
) -> None:
    made = providers(**environ)
    assert await listed(made) == default
    chosen = await made.choose(f"{provider}:any-model")
    assert (chosen.provider, chosen.model, chosen.operator) == (provider, "any-model", True)
    model = made.open(chosen)
    await model.aclose()


@pytest.mark.parametrize(
    "environ",
    [
        {"AZURE_OPENAI_API_KEY": "k"},
        {"AZURE_OPENAI_ENDPOINT": "https://a.example"},
        AWS,
        {"AWS_REGION": "eu-west-1"},
        *({name: value for name, value in WATSONX.items() if name != left} for left in WATSONX),
    ],
    ids="+".join,
)
async def test_half_of_what_is_needed_offers_nothing(environ: dict[str, str]) -> None:
    made = providers(**environ)
    assert await listed(made) == []
    with pytest.raises(InvalidRequest, match="choose one of these"):
        await made.choose("azure_openai:any-model")


async def test_where_the_operator_lists_models_there_are_no_others() -> None:
    made = providers(
        CatalogueEntry(model="openai:ours", api_key_env="OUR_KEY"), OUR_KEY="k", OPENAI_API_KEY="other"
    )
    assert await listed(made) == ["openai:ours"]
    with pytest.raises(InvalidRequest):
        await made.choose("openai:any-model")


async def test_the_lists_own_key_goes_before_the_usual_one() -> None:
    entry = CatalogueEntry(model="openai:ours", api_key_env="OUR_KEY")
    made = providers(entry, OUR_KEY="ours", OPENAI_API_KEY="usual")
    model: Any = made.open(await made.choose("openai:ours"))
    assert model.chat.openai_api_key.get_secret_value() == "ours"
    await model.aclose()


async def test_the_usual_key_does_not_go_to_another_address() -> None:
    entry = CatalogueEntry(model="openai:ours", base_url="http://other.example/v1")
    made = providers(entry, OPENAI_API_KEY="usual")
    model: Any = made.open(await made.choose("openai:ours"))
    assert model.chat.openai_api_key.get_secret_value() == "none"
    await model.aclose()


@pytest.mark.parametrize(
    ("called", "known"),
    [
        ("azure:d", "azure_openai:d"),
        ("aws_bedrock:m", "bedrock:m"),
        ("bedrock_converse:m", "bedrock:m"),
        ("ibm:m", "watsonx:m"),
        ("google_genai:m", "google:m"),
        ("gemini:m", "google:m"),
    ],
)
async def test_a_provider_has_one_name_whatever_it_is_called(called: str, known: str) -> None:
    made = providers(
        CatalogueEntry(model=known, base_url="https://e.example", region="eu-west-1", project_id="p")
    )
    chosen = await made.choose(called)
    assert f"{chosen.provider}:{chosen.model}" == known


# Packages


def test_a_package_that_is_missing_is_told_at_the_start_and_its_models_are_not_listed(
    monkeypatch: pytest.MonkeyPatch, as_before: None
) -> None:
    structlog.reset_defaults()  # whatever an application has set up before
    monkeypatch.setitem(sys.modules, "langchain_anthropic", None)
    with capture_logs() as logs:
        load_packages([CatalogueEntry(model="anthropic:m", api_key_env="KEY")], {"KEY": "k"})
    [line] = [each for each in logs if each["event"] == "model.not_offered"]
    assert line["model"] == "anthropic:m"
    assert line["advice"].endswith("pip install 'mcp-chat[anthropic]'")


@pytest.mark.parametrize(
    ("provider", "package", "extra"),
    [
        ("anthropic", "langchain_anthropic", "anthropic"),
        ("bedrock", "langchain_aws", "bedrock"),
        ("google", "langchain_google_genai", "google"),
        ("watsonx", "ibm_watsonx_ai", "watsonx"),
    ],
)
async def test_a_missing_extra_is_one_sentence_that_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, provider: str, package: str, extra: str
) -> None:
    entry = CatalogueEntry(
        model=f"{provider}:m", base_url="https://e.example", region="eu-west-1", project_id="p"
    )
    made = providers(entry)
    chosen = await made.choose(f"{provider}:m")
    known_creators.cache_clear()
    monkeypatch.setitem(sys.modules, package, None)
    if package == "ibm_watsonx_ai":
        monkeypatch.setitem(sys.modules, "langchain_ibm", None)
    assert await listed(made) == []
    with pytest.raises(InvalidRequest, match=rf"pip install 'mcp-chat\[{extra}\]'"):
        await made.prove(await made.choose(f"{provider}:m"))
    assert chosen.operator


def test_nothing_of_a_provider_is_imported_before_it_is_needed() -> None:
    code = (
        "import sys; import mcp_chat.app; from mcp_chat.providers import load_packages; "
        "load_packages([], {}); print([name for name in sys.argv[1:] if name in sys.modules])"
    )
    packages = ("boto3", "botocore", "anthropic", "google.genai", "ibm_watsonx_ai", "ollama", "pandas")
    command = [sys.executable, "-c", code, *packages, "genai_prices"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


# What is known of a model

LIST = """
models:
  - model: openai:scripted
    base_url: {url}
    capabilities: {{tools: {tools}, vision: true, streaming: {streaming}, reasoning: true}}
    context_window: 2000
    max_output: 200
    prices: {{input: 0.25, output: 2, cached_input: 0.025}}
    fallbacks: ["openai:other"]
  - model: openai:other
    base_url: {url}
"""

Open = Callable[..., AbstractContextManager[Person]]


@pytest.fixture
def person(tmp_path: Path) -> Open:
    """Somebody at an application with such a list."""

    @contextmanager
    def opened(url: str, *, tools: str = "true", streaming: str = "true", **more: Any) -> Iterator[Person]:
        path = tmp_path / "models.yaml"
        path.write_text(LIST.format(url=url, tools=tools, streaming=streaming))
        settings = load_settings(
            **{"workers": 1, "ollama_url": "off", "log_level": "error", "models_file": path, **more}
        )
        with running(create_app(settings)) as at, Person(at, "ann") as ann:
            yield ann

    return opened


@pytest.fixture
def wire() -> Iterator[Wire]:
    with wired() as wire:
        yield wire


def test_what_a_model_can_do_is_shown(person: Open, wire: Wire) -> None:
    with person(f"{wire.url}/v1", tools="false") as ann:
        one, other, _ = ann.get("gateway/models").json()["models"]
    assert one["supports_function_calling"] is False
    assert (one["supports_vision"], one["supports_reasoning"], one["supports_streaming"]) == (
        True,
        True,
        True,
    )
    assert (one["context_window"], one["max_output"]) == (2000, 200)
    assert one["prices"] == {"input": 0.25, "output": 2.0, "cached_input": 0.025}
    assert one["fallbacks"] == ["openai:other"]
    assert (other["supports_function_calling"], other["supports_vision"], other["prices"]) == (
        True,
        False,
        None,
    )


def test_a_model_without_tools_is_offered_none_and_its_user_is_told(person: Open, demo_url: str) -> None:
    model = ModelServer()
    model.will(Reply(text="no tools here"))
    with running(model.app) as url, person(f"{url}/v1", tools="false", allowed_networks="127.0.0.0/8") as ann:
        answer = ann.connect(server={"url": demo_url})
        assert answer["tool_count"] > 0
        assert answer["notes"] == [
            "This model cannot use tools, so it is offered none. "
            "Choose another model to use your servers' tools."
        ]
        assert ann.say("hello")["response"] == "no tools here"
        assert "tools" not in model.requests[0]
        assert "notes" not in ann.connect(model="openai:other", server={"url": demo_url})


def test_a_model_that_does_not_stream_is_not_asked_to(person: Open, wire: Wire) -> None:
    wire.will(openai_chat.at_once(content="All at once."))
    with person(f"{wire.url}/v1", streaming="false") as ann:
        ann.connect()
        assert ann.say("hello")["response"] == "All at once."
    assert not wire.asked[0].body.get("stream")


def test_a_model_is_shown_what_its_window_has_room_for(person: Open) -> None:
    model = ModelServer()
    with running(model.app) as url, person(f"{url}/v1") as ann:
        ann.connect()
        for n in range(12):
            model.will(Reply(text=f"answer {n}"))
            ann.say(f"{n} " + "word " * 250)
        small = len(model.requests[-1]["messages"])
        ann.connect(model="openai:other")
        model.will(Reply(text="the end"))
        ann.say("and now")
    assert small < 12


def test_a_window_leaves_room_for_the_answer_and_the_tools() -> None:
    ample = Budget(tokens=64_000)
    assert Window().fitted(ample) == ample
    assert Window(tokens=1_000_000).fitted(ample) == ample
    assert Window(tokens=10_000).fitted(ample).tokens == 10_000 - 2500 - 1000
    assert Window(tokens=10_000, answer=500).fitted(ample).tokens == 10_000 - 500 - 1000
    told = Window(tokens=10_000, answer=500).beside([ADD] * 10)
    assert told.fitted(ample).tokens == 10_000 - 500 - 1000 - told.tools
    assert told.tools > 300
    assert Window(tokens=300).fitted(ample).tokens == 300 - 75 - 30
    assert Window(tokens=1).fitted(ample).tokens == 64


# Ollama says it itself


async def test_an_ollama_says_what_its_models_can_do(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "_client", slowly)
    wire.will(
        whole({"models": [{"name": "m", "digest": "1"}]}),
        whole({"capabilities": ["completion", "vision", "thinking"]}),
    )
    made = providers(ollama_url=wire.url)
    [entry] = [each for each in await made.catalogue() if each.model != DEMO]
    assert entry.capabilities == Capabilities(tools=False, vision=True, reasoning=True)
    chosen = await made.choose("ollama:m")
    assert (await made.known(chosen)).capabilities.tools is False


# A default


def test_without_a_model_the_operators_default_is_used_if_there_is_one(person: Open, wire: Wire) -> None:
    with person(f"{wire.url}/v1", default_model="openai:other") as ann:
        assert ann.post("connect", llm={"temperature": 0.5}).status_code == 200
        assert ann.get("config/{me}").json()["llm"]["config"]["model"] == "other"
        assert ann.get("config/{me}").json()["llm"]["config"]["temperature"] == 0.5


def test_without_a_default_a_model_must_be_named(person: Open, wire: Wire) -> None:
    with person(f"{wire.url}/v1") as ann:
        answer = ann.post("connect", llm={})
    assert answer.status_code == 422
    assert "give either a model" in json.dumps(answer.json())


# The file


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("capabilities: {tols: true}", r"models\.0\.capabilities\.tols"),
        ("capabilities: {tools: 7}", r"models\.0\.capabilities\.tools"),
        ("context_window: 0", r"models\.0\.context_window"),
        ("context_window: -1", r"models\.0\.context_window"),
        ("context_window: many", r"models\.0\.context_window"),
        ("max_output: 1.5", r"models\.0\.max_output"),
        ("prices: {input: 1}", r"models\.0\.prices\.output"),
        ("prices: {input: -1, output: 1}", r"models\.0\.prices\.input"),
        ("prices: {input: .nan, output: 1}", r"models\.0\.prices\.input"),
        ("prices: {input: .inf, output: 1}", r"models\.0\.prices\.input"),
        ("prices: {input: 1, output: 1, cached: 1}", r"models\.0\.prices\.cached"),
        ("fallbacks: ['openai:gone']", "fallback 'openai:gone' of 'openai:m' must be another model"),
        ("fallbacks: ['openai:m']", "fallback 'openai:m' of 'openai:m' must be another model"),
        ("vision: true", r"models\.0\.vision"),
    ],
)
def test_what_is_wrong_with_a_model_is_one_sentence(tmp_path: Path, line: str, problem: str) -> None:
    path = tmp_path / "models.yaml"
    path.write_text(f"models:\n- model: openai:m\n  {line}\n")
    with pytest.raises(SettingsError, match=problem):
        read_catalogue(path)


def test_a_model_is_listed_once_whatever_its_provider_is_called(tmp_path: Path) -> None:
    path = tmp_path / "models.yaml"
    path.write_text("models:\n- model: google:m\n- model: google_genai:m\n")
    with pytest.raises(SettingsError, match="'google:m' is listed twice"):
        read_catalogue(path)
