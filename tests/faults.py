"""What every failure must honour, and an application that the tests of a module share."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from mcp_chat.app import create_app
from mcp_chat.settings import load_settings
from mcp_chat.stores.database import migrate
from tests.model_server import ModelServer, Reply
from tests.person import Frame, Person
from tests.running import running

LEAK = re.compile(
    r"[Tt]raceback|SECRET|127\.0\.0\.1|localhost|\.py\b|[a-z](Error|Exception)\b|object at 0x|httpx|pydantic"
)
"""Texts that only our insides, or somebody upstream, can have written."""


@dataclass(frozen=True, slots=True)
class Stage:
    """A running application and the scripted model behind it."""

    url: str
    model: ModelServer
    model_url: str

    def cleared(self) -> ModelServer:
        """Return the model without script and memory, for the next test."""
        self.model.will()
        self.model.requests.clear()
        self.model.headers.clear()
        return self.model


@contextmanager
def staged(folder: Path, **limits: Any) -> Iterator[Stage]:
    """Run one application in memory with SQLite.

    Args:
        limits: Settings that take precedence.
    """
    model = ModelServer()
    with running(model.app, grace=0) as model_host:
        models, servers, url = folder / "models.yaml", folder / "servers.json", f"sqlite:///{folder}/chat.db"
        models.write_text(f"models:\n  - model: openai:scripted\n    base_url: {model_host}/v1\n")
        servers.write_text('{"mcpServers": {}}')
        migrate(url)
        settings = {
            "workers": 1,
            "database_url": url,
            "models_file": models,
            "servers_file": servers,
            "ollama_url": "off",
            "approvals": False,
            "allowed_networks": "127.0.0.0/8",
            "log_level": "error",
            **limits,
        }
        with running(create_app(load_settings(**settings))) as app_url:
            yield Stage(app_url, model, f"{model_host}/v1")


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Fail if the block takes longer."""
    began = time.monotonic()
    yield
    assert time.monotonic() - began < seconds


def fit(text: Any) -> str:
    """Return a text that a person is shown: it must say something, and nothing of our insides."""
    assert isinstance(text, str)
    assert 10 <= len(text) < 1000, text
    assert not LEAK.search(text), text
    return text


def refused(response: httpx.Response, status: int) -> str:
    """Return the `detail` of an answer that must have this status."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    assert not LEAK.search(response.text), response.text
    return fit(response.json()["detail"])


def ended_in_error(frames: list[Frame]) -> dict[str, Any]:
    """Return the data of the `error` frame, which must be the last frame and the only end."""
    *before, (event, data) = frames
    assert event == "error", data
    assert not {"error", "final"} & {event for event, _ in before}
    assert data["type"] == "error"
    assert isinstance(data["recoverable"], bool)
    fit(data["error"])
    return data


def failed(person: Person, message: str, *, streamed: bool, status: int) -> str:
    """Send a message whose answer must fail, streamed or with this status; return what is said about it."""
    if streamed:
        return str(ended_in_error(person.stream(message))["error"])
    return refused(person.post("chat", message=message), status)


def usable(person: Person, model: ModelServer) -> list[dict[str, Any]]:
    """The session must go on as if nothing had happened; return what the model was sent."""
    model.will(Reply(text="all is well"))
    assert person.say("are you still there?")["response"] == "all is well"
    return well_formed(model.requests[-1]["messages"])


def well_formed(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return messages to a model, in which right behind each tool call there must be its one result."""
    open_calls: list[str] = []
    for message in messages:
        if message["role"] == "tool":
            assert message["tool_call_id"] in open_calls, "a result without its call"
            open_calls.remove(message["tool_call_id"])
        else:
            assert not open_calls, "a call without its result"
            open_calls = [call["id"] for call in message.get("tool_calls") or ()]
            assert len(set(open_calls)) == len(open_calls), "two calls with one id"
            for call in message.get("tool_calls") or ():
                assert isinstance(json.loads(call["function"]["arguments"]), dict)
        assert isinstance(message["content"], str) or message.get("tool_calls")
    assert not open_calls, "a call without its result"
    return messages
