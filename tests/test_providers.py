"""Models: which are offered, which are made, and what is said when one cannot be."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from mcp_chat.catalogue import DEMO, CatalogueEntry, read_catalogue
from mcp_chat.config import ModelConfig
from mcp_chat.exceptions import InvalidRequest, SettingsError
from mcp_chat.message import Message
from mcp_chat.models import base as models
from mcp_chat.models.providers import probe
from mcp_chat.models.providers.base import Dial
from mcp_chat.netguard import Policy, guarded_client
from mcp_chat.providers import Providers
from tests.running import running

pytestmark = pytest.mark.anyio

GPT = CatalogueEntry(model="openai:gpt-5", api_key_env="OPENAI_API_KEY")
CLAUDE = CatalogueEntry(model="anthropic:claude", api_key_env="ANTHROPIC_API_KEY")
HELLO = models.Request(messages=[Message(role="user", content="hello")])


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The scripted Ollama is as slow as this machine."""
    monkeypatch.setattr(probe, "_client", slowly)


def slowly(dial: Dial) -> httpx.AsyncClient:
    """The client for what an Ollama has, with more time than it gets."""
    return guarded_client(dial.policy, timeout=30, max_bytes=dial.max_answer, resolver=dial.resolver)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def providers(*entries: CatalogueEntry, ollama_url: str = "", **environ: str) -> Providers:
    """Providers of an operator."""
    return Providers(entries, policy=Policy(), ollama_url=ollama_url, silence=30, environ=environ)


async def listed(made: Providers) -> list[str]:
    return [entry.model for entry in await made.catalogue()]


class Ollama:
    """Ollama, scripted."""

    def __init__(self) -> None:
        self.probes = 0
        self.tags: Any = {"models": [{"name": "llama3:8b"}, {"name": "qwen3:latest"}]}
        self.asked: list[dict[str, Any]] = []
        self.status = 200
        self.app = Starlette(
            routes=[Route("/api/tags", self._tags), Route("/api/chat", self._chat, methods=["POST"])]
        )

    async def _tags(self, _: Request) -> Response:
        self.probes += 1
        return JSONResponse(self.tags, self.status)

    async def _chat(self, request: Request) -> Response:
        self.asked.append(await request.json())
        return StreamingResponse(self._answer(), media_type="application/x-ndjson")

    async def _answer(self) -> AsyncIterator[str]:
        for word in ("Hello", " from", " Ollama"):
            message = {"role": "assistant", "content": word}
            line = {
                "model": "llama3:8b",
                "created_at": "2026-01-01T00:00:00Z",
                "message": message,
                "done": False,
            }
            yield json.dumps(line) + "\n"
        end = {
            "model": "llama3:8b",
            "created_at": "2026-01-01T00:00:00Z",
            "done": True,
            "done_reason": "stop",
        }
        counted = {"message": {"role": "assistant", "content": ""}, "prompt_eval_count": 7, "eval_count": 3}
        yield json.dumps({**end, **counted}) + "\n"


@pytest.fixture
def ollama() -> Ollama:
    return Ollama()


@pytest.fixture
def ollama_url(ollama: Ollama) -> Iterator[str]:
    with running(ollama.app) as url:
        yield url


# What is offered


async def test_a_model_is_offered_where_its_key_is_set() -> None:
    assert await listed(providers(GPT, CLAUDE)) == [DEMO]
    assert await listed(providers(GPT, CLAUDE, OPENAI_API_KEY="")) == [DEMO]
    assert await listed(providers(GPT, CLAUDE, OPENAI_API_KEY="k")) == ["openai:gpt-5", DEMO]
    assert await listed(providers(GPT, CLAUDE, OPENAI_API_KEY="k", ANTHROPIC_API_KEY="k")) == [
        "openai:gpt-5",
        "anthropic:claude",
        DEMO,
    ]


async def test_a_model_without_a_key_variable_is_always_offered() -> None:
    own = CatalogueEntry(model="openai:own", base_url="http://127.0.0.1:1/v1")
    assert await listed(providers(own)) == ["openai:own", DEMO]


async def test_the_demo_is_last_and_says_that_it_is_no_language_model() -> None:
    *_, demo = await providers(GPT, OPENAI_API_KEY="k").catalogue()
    shown = demo.shown()
    assert shown["demo"] is True
    assert "no language model" in shown["model_name"]
    assert [entry.shown()["demo"] for entry in await providers(GPT, OPENAI_API_KEY="k").catalogue()] == [
        False,
        True,
    ]


async def test_no_key_and_no_address_is_shown() -> None:
    entry = CatalogueEntry(model="openai:own", base_url="http://CANARY/v1", options={"x": "CANARY"})
    made = providers(entry, CANARY="CANARY")
    assert "CANARY" not in json.dumps([each.shown() for each in await made.catalogue()])


@pytest.mark.parametrize("model", ["demo", "", "gpt-6", "openai:gpt-6", "Demo", "openai:", ":gpt-5"])
async def test_the_demo_is_never_chosen_silently(model: str) -> None:
    for made in (providers(GPT, OPENAI_API_KEY="k"), providers(GPT)):
        with pytest.raises(InvalidRequest, match="choose one of these models"):
            await made.choose(model)


async def test_the_demo_is_chosen_by_its_name() -> None:
    chosen = await providers().choose(DEMO)
    assert (chosen.provider, chosen.model, chosen.operator) == ("demo", "demo", True)


async def test_a_model_is_chosen_by_its_id_or_by_a_bare_name_that_only_one_has() -> None:
    azure = CatalogueEntry(model="azure_openai:gpt-5", base_url="https://e.org")
    made = providers(GPT, azure, CatalogueEntry(model="openai:o"), OPENAI_API_KEY="k")
    assert (await made.choose("openai:gpt-5")).provider == "openai"
    assert (await made.choose("azure_openai:gpt-5")).provider == "azure_openai"
    assert (await made.choose("o", temperature=0.5, max_tokens=9)) == ModelConfig(
        provider="openai", model="o", temperature=0.5, max_tokens=9, operator=True
    )
    with pytest.raises(InvalidRequest):
        await made.choose("gpt-5")


# Ollama


async def test_the_models_of_an_ollama_that_answers_are_offered(ollama_url: str) -> None:
    assert await listed(providers(GPT, ollama_url=ollama_url, OPENAI_API_KEY="k")) == [
        "openai:gpt-5",
        "ollama:llama3:8b",
        "ollama:qwen3:latest",
        DEMO,
    ]


async def test_a_model_that_the_operator_lists_is_not_offered_twice(ollama_url: str) -> None:
    entry = CatalogueEntry(model="ollama:llama3:8b", name="Ours", base_url=ollama_url)
    found = await providers(entry, ollama_url=ollama_url).catalogue()
    assert [each.model for each in found] == ["ollama:llama3:8b", "ollama:qwen3:latest", DEMO]
    assert found[0].name == "Ours"


async def test_ollama_is_asked_once_for_many_who_look(ollama: Ollama, ollama_url: str) -> None:
    made = providers(ollama_url=ollama_url)
    for _ in range(20):
        await made.catalogue()
    assert ollama.probes == 1


async def test_ollama_is_not_asked_where_it_is_off(ollama: Ollama, ollama_url: str) -> None:
    assert await listed(providers()) == [DEMO]
    assert ollama.probes == 0


async def test_an_ollama_that_is_away_is_not_offered() -> None:
    assert await listed(providers(ollama_url="http://127.0.0.1:1")) == [DEMO]


@pytest.mark.parametrize(
    "tags", [{}, [], None, "x", {"models": None}, {"models": [{}]}, {"models": ["x"]}, {"models": [None]}]
)
async def test_something_else_at_its_address_is_not_offered(
    ollama: Ollama, ollama_url: str, tags: Any
) -> None:
    ollama.tags = tags
    assert await listed(providers(ollama_url=ollama_url)) == [DEMO]


async def test_an_ollama_with_an_error_is_not_offered(ollama: Ollama, ollama_url: str) -> None:
    ollama.status = 500
    assert await listed(providers(ollama_url=ollama_url)) == [DEMO]


async def test_one_chats_with_ollama(ollama: Ollama, ollama_url: str) -> None:
    made = providers(ollama_url=ollama_url)
    model = made.open(await made.choose("ollama:llama3:8b", temperature=0.5, max_tokens=9))
    try:
        pieces = [piece async for piece in model.stream(HELLO)]
    finally:
        await model.aclose()
    assert "".join(piece.text for piece in pieces) == "Hello from Ollama"
    [asked] = ollama.asked
    assert asked["model"] == "llama3:8b"
    assert asked["messages"][0]["content"] == "hello"
    assert asked["options"]["temperature"] == 0.5
    assert asked["options"]["num_predict"] == 9
    [usage] = [piece.usage for piece in pieces if piece.usage]
    assert usage.input_tokens == 7


async def test_a_model_that_another_worker_found_can_be_opened(ollama_url: str) -> None:
    config = ModelConfig(provider="ollama", model="llama3:8b", operator=True)
    model = providers(ollama_url=ollama_url).open(config)
    try:
        assert "".join([piece.text async for piece in model.stream(HELLO)]) == "Hello from Ollama"
    finally:
        await model.aclose()


# A user's own


@pytest.mark.parametrize("provider", ["openai", "anthropic", "azure_openai", "groq"])
async def test_a_provider_without_ones_own_key_or_address_means_the_operators_model(provider: str) -> None:
    entry = CatalogueEntry(model=f"{provider}:m", base_url="https://e.org")
    chosen = await providers(entry).own(provider, {"model": "m"})
    assert chosen.operator


@pytest.mark.parametrize("provider", ["demo", "groq", "no such"])
async def test_ones_own_key_or_address_works_where_the_sockets_are_guarded(provider: str) -> None:
    for more in ({"api_key": "k"}, {"base_url": "https://e.org"}):
        with pytest.raises(InvalidRequest, match="openai, azure_openai, anthropic, bedrock"):
            await providers().own(provider, {"model": "m", **more})


async def test_the_operators_key_never_goes_to_an_address_of_a_user() -> None:
    """R8"""
    made = providers(GPT, OPENAI_API_KEY="CANARY")
    config = await made.own("openai", {"model": "gpt-5", "base_url": "https://evil.example/v1"})
    assert not config.operator
    model: Any = made.open(config)
    try:
        key = model.chat.openai_api_key
        assert key.get_secret_value() == "none"
        assert model.chat.openai_api_base == "https://evil.example/v1"
    finally:
        await model.aclose()


@pytest.mark.parametrize("provider", ["openai", "azure_openai", "anthropic", "google", "ollama"])
async def test_no_package_dials_past_the_guard_from_a_thread(provider: str, ollama_url: str) -> None:
    config = ModelConfig(provider=provider, model="m", base_url=ollama_url, api_key="k")
    model: Any = providers().open(config)
    try:
        with pytest.raises(Exception) as caught:  # noqa: PT011 - of many libraries
            model.chat.invoke("hello")
        cause: BaseException = caught.value
        while cause.__cause__:
            cause = cause.__cause__
        assert isinstance(cause, NotImplementedError)
    finally:
        await model.aclose()


@pytest.mark.parametrize(
    "url", ["ftp://e.org", "http://u:p@e.org", "http://e.org:22", "e.org", "http://e .org"]
)
async def test_an_address_that_is_no_web_address_is_refused(url: str) -> None:
    with pytest.raises(InvalidRequest):
        await providers().own("openai", {"model": "m", "base_url": url})


# What cannot be made


@pytest.mark.parametrize("provider", ["mistralai", "groq"])
async def test_a_missing_package_is_one_sentence_that_says_what_to_do(provider: str) -> None:
    made = providers(CatalogueEntry(model=f"{provider}:m"))
    assert await listed(made) == [DEMO]
    with pytest.raises(
        InvalidRequest,
        match=f"models of {provider} need a .* not installed: pip install langchain-{provider}",
    ):
        made.open(await made.choose(f"{provider}:m"))


async def test_a_provider_that_nobody_knows_is_one_sentence() -> None:
    made = providers(CatalogueEntry(model="nosuch:m"))
    with pytest.raises(InvalidRequest, match="nosuch:m cannot be used like this"):
        made.open(await made.choose("nosuch:m"))


async def test_a_model_that_is_no_longer_offered_is_refused() -> None:
    config = ModelConfig(provider="openai", model="gone", operator=True)
    with pytest.raises(InvalidRequest, match="no longer offered"):
        providers(GPT).open(config)


# The file


def test_without_a_file_there_are_no_models(tmp_path: Path) -> None:
    assert read_catalogue(tmp_path / "models.yaml") == []


def test_the_file_that_comes_with_the_product_is_valid() -> None:
    entries = read_catalogue(Path(__file__).parent.parent / "config" / "models.yaml")
    assert entries
    assert all(entry.api_key_env for entry in entries)


@pytest.mark.parametrize("content", [b"", b"# nothing", b"models:", b"models: []", b"{}"])
def test_an_empty_file_has_no_models(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "models.yaml"
    path.write_bytes(content)
    assert read_catalogue(path) == []


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"models: [", "cannot be read as YAML"),
        (b"\xff\xfe\xff", "cannot be read as YAML"),
        (b"models: !!python/object/apply:os.system ['true']", "cannot be read as YAML"),
        (b"- model: openai:x", "the whole file"),
        (b"openai:gpt-5", "the whole file"),
        (b"model: openai:x", "model: Extra"),
        (b"models: 7", "models"),
        (b"models: [7]", r"models\.0"),
        (b"models:\n- name: x", r"models\.0\.model"),
        (b"models:\n- model: openai:x\n- model: 7", r"models\.1\.model"),
        (b"models:\n- model: openai:x\n  api_key: CANARY", r"models\.0\.api_key"),
        (b"models:\n- model: openai:x\n  base_ur: x", r"models\.0\.base_ur"),
        (b"models:\n- model: openai:x\n  tools: false", r"models\.0\.tools"),
        (b"models:\n- model: gpt-5", "must be written provider:model"),
        (b"models:\n- model: ':gpt-5'", "must be written provider:model"),
        (b"models:\n- model: 'openai:'", "must be written provider:model"),
    ],
)
def test_a_file_that_is_not_valid_is_one_sentence_that_says_where(
    tmp_path: Path, content: bytes, problem: str
) -> None:
    path = tmp_path / "models.yaml"
    path.write_bytes(content)
    with pytest.raises(SettingsError, match=problem) as refused:
        read_catalogue(path)
    assert re.fullmatch(rf"{re.escape(str(path))}.*\.", str(refused.value))
    assert "CANARY" not in str(refused.value)


def test_a_directory_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(SettingsError):
        read_catalogue(tmp_path)
