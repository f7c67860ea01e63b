"""What many tests stand on: real servers on real sockets, nothing taken from the developer's environment."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NoReturn

import pytest

from mcp_chat.app import create_app
from mcp_chat.demo.server import build_app
from mcp_chat.embedded import DataDir, EmbeddedValkey
from mcp_chat.settings import Settings, load_settings
from mcp_chat.stores.database import migrate
from tests.faults import Stage, staged
from tests.model_server import ModelServer
from tests.person import Person
from tests.running import running

CI = bool(os.environ.get("CI"))

# A job in the background of a script ignores SIGINT, and so would all that the tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

USUAL = (
    *("OPENAI_API_KEY", "OPENAI_BASE_URL", "OPENAI_MODEL", "ANTHROPIC_API_KEY", "ANTHROPIC_MODEL"),
    *("AZURE_OPENAI_API_KEY", "AZURE_OPENAI_ENDPOINT", "AZURE_OPENAI_DEPLOYMENT", "GOOGLE_API_KEY"),
    *("GEMINI_API_KEY", "WATSONX_APIKEY", "WATSONX_API_KEY", "WATSONX_URL", "WATSONX_PROJECT_ID"),
    *("AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_BEARER_TOKEN_BEDROCK", "AWS_REGION", "AWS_DEFAULT_REGION"),
)
"""Variables with which a developer's machine would offer models of its own."""

for _variable in (*(str(field.alias) for field in Settings.model_fields.values()), *USUAL):
    os.environ.pop(_variable, None)
Settings.model_config["env_file"] = None


ALONE = (
    *("approvals_death", "asking_death", "chaos", "cluster", "death", "heart", "hostile_crowd"),
    *("lifecycle", "namespaces", "soak", "thoughts_death"),
)
"""Files whose tests want the machine for themselves: what they wait for is a clock."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave the slow tier to CI, and mark what must not run beside other tests."""
    for item in items:
        if item.path.stem.removeprefix("test_") in ALONE:
            item.add_marker(pytest.mark.alone)
        if not CI and item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.skip(reason="slow tier: run with CI=1"))


def missing(what: str) -> NoReturn:
    """Skip at home, fail in CI: there nothing may be missing."""
    if CI:
        pytest.fail(f"{what} is missing, and CI must have it")
    pytest.skip(f"{what} is missing")


def need(program: str) -> str:
    """Return the path of a program that the test needs."""
    return shutil.which(program) or missing(program)


@pytest.fixture
def name() -> str:
    """A user nobody else is."""
    return f"user-{secrets.token_hex(4)}"


@pytest.fixture(scope="session")
def valkey_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real Valkey for all tests."""
    with DataDir(tmp_path_factory.mktemp("valkey")) as data, EmbeddedValkey(data) as valkey:
        yield valkey.url


@pytest.fixture
def model() -> ModelServer:
    """The model's script."""
    return ModelServer()


@pytest.fixture
def model_url(model: ModelServer) -> Iterator[str]:
    """The model server's base URL, as OpenAI's client wants it."""
    with running(model.app) as url:
        yield f"{url}/v1"


@pytest.fixture(scope="session")
def demo_url() -> Iterator[str]:
    """The demo MCP server."""
    with running(build_app("127.0.0.1")) as url:
        yield f"{url}/mcp"


@pytest.fixture
def catalogue(tmp_path: Path, model_url: str) -> Path:
    """A models file whose one model is the scripted server."""
    path = tmp_path / "models.yaml"
    path.write_text(f"models:\n  - model: openai:scripted\n    base_url: {model_url}\n")
    return path


@pytest.fixture
def settings(tmp_path: Path, catalogue: Path) -> Callable[..., Settings]:
    """Make settings: one worker in memory with SQLite, short limits; arguments take precedence."""
    servers = tmp_path / "servers.json"
    servers.write_text('{"mcpServers": {}}')

    def make(**values: Any) -> Settings:
        url = f"sqlite:///{tmp_path}/chat.db"
        migrate(url)
        return load_settings(
            **{
                "workers": 1,
                "database_url": url,
                "models_file": catalogue,
                "servers_file": servers,
                "ollama_url": "off",
                "approvals": False,
                "allowed_networks": "127.0.0.0/8",
                "connect_timeout": 15,
                "tool_timeout": 15,
                "model_timeout": 15,
                "turn_timeout": 40,
                "log_level": "error",
                **values,
            }
        )

    return make


@pytest.fixture
def serve(settings: Callable[..., Settings]) -> Iterator[Callable[..., str]]:
    """Run the application in this process; gives its base URL."""
    with ExitStack() as stack:
        yield lambda **values: stack.enter_context(running(create_app(settings(**values))))


@pytest.fixture
def alice(serve: Callable[..., str], name: str) -> Iterator[Person]:
    """Someone signed in, in front of an application in memory."""
    with Person(serve(), name) as person:
        yield person


def on_one_stage(**limits: Any) -> tuple[Any, Any, Any]:
    """Make the fixtures `stage`, `model` and `alice` for a module whose tests share one application.

    Args:
        limits: Its settings.
    """

    @pytest.fixture(scope="module")
    def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
        with staged(tmp_path_factory.mktemp("stage"), **limits) as stage:
            yield stage

    @pytest.fixture
    def model(stage: Stage) -> ModelServer:
        return stage.cleared()

    @pytest.fixture
    def alice(stage: Stage, name: str) -> Iterator[Person]:
        with Person(stage.url, name) as person:
            yield person

    return stage, model, alice
