"""Apps ask their user for leave as the model does."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from mcp_chat.app import create_app
from mcp_chat.settings import Settings
from tests.app_server import app_server
from tests.asked import decide, decided, grants, waiting
from tests.person import Person
from tests.running import running, wait_until
from tests.test_plugins_bridge import plugin

APPS = "http://apps.localhost:8123"


@contextmanager
def in_front(settings: Callable[..., Settings], tmp_path: Path, name: str, **more: Any) -> Iterator[Person]:
    """Someone in front of a chat whose operator allows a server to have apps."""
    with running(app_server().streamable_http_app()) as mcp_url:
        listed = {"toys": {"url": f"{mcp_url}/mcp", "apps": True}}
        (tmp_path / "servers.json").write_text(json.dumps({"mcpServers": listed}))
        chosen = settings(apps_origin=APPS, approvals=True, question_timeout=20, **more)
        with running(create_app(chosen)) as url, Person(url, name) as person:
            person.connect(servers=[{"name": "toys"}])
            yield person


@pytest.fixture
def bob(settings: Callable[..., Settings], tmp_path: Path, name: str) -> Iterator[Person]:
    """Someone in front of such a chat without plugins."""
    with in_front(settings, tmp_path, name) as person:
        yield person


@pytest.fixture
def app(bob: Person) -> Iterator[Callable[..., Future[httpx.Response]]]:
    """Have an app call the tool that is for apps."""
    with ThreadPoolExecutor(8) as apps:

        def call(by: Any) -> Future[httpx.Response]:
            body = {"tool": "toys__count", "name": "more", "arguments": {"by": by}}
            return apps.submit(lambda: bob.post("apps/calls", **body))

        yield call


def asked(person: Person) -> dict[str, Any]:
    """What the person is asked."""
    found: list[dict[str, Any]] = wait_until(lambda: waiting(person), "a question")
    return found[0]


def test_a_call_of_an_app_waits_for_its_user(bob: Person, app: Any, tmp_path: Path) -> None:
    with bob.following() as events:
        call = app(3)
        approval = asked(bob)
        assert (approval["tool"], approval["arguments"]) == ("toys__more", {"by": 3})
        assert approval["decisions"] == ["once", "always", "deny"]
        assert (approval["session_id"], approval["turn_id"]) == (None, None)
        decided(bob, approval)
        assert call.result(30).json()["structuredContent"] == {"total": 3}
        heard = [next(events) for _ in range(2)]
    assert [event.name for event in heard] == ["approval", "approval_end"]
    assert {"type": "approval", **approval} == heard[0].data
    with sqlite3.connect(tmp_path / "chat.db") as database:
        query = "SELECT action, by, outcome FROM chat_deed WHERE action IN ('approve', 'app_call')"
        assert database.execute(query).fetchall() == [
            ("approve", "user", "once"),
            ("app_call", "user", "succeeded"),
        ]


def test_an_app_is_told_that_its_call_was_denied_or_changed(bob: Person, app: Any) -> None:
    call = app(3)
    decided(bob, asked(bob), "deny", reason="No.")
    answer = call.result(30).json()
    assert answer["isError"] is True
    assert answer["content"][0]["text"] == "The user denied this call. They said: No."
    call = app(3)
    assert decide(bob, asked(bob), arguments={"by": "x"}).status_code == 422
    decided(bob, asked(bob), arguments={"by": 1})
    answer = call.result(30).json()
    assert answer["structuredContent"] == {"total": 1}
    assert "The user changed the arguments" in answer["content"][0]["text"]


def test_an_app_that_was_allowed_for_good_does_not_ask_again(bob: Person, app: Any) -> None:
    call = app(1)
    decided(bob, asked(bob), "always")
    assert call.result(30).status_code == 200
    assert app(1).result(30).json()["structuredContent"] == {"total": 2}
    bob.http.delete(f"/llmchat/approvals/grants/{grants(bob)[0]['id']}").raise_for_status()
    call = app(1)
    decided(bob, asked(bob), "deny")
    call.result(30)


def test_an_app_that_asks_too_much_is_refused_and_its_server_can_still_be_seen(bob: Person, app: Any) -> None:
    many = [app(n) for n in range(8)]
    wait_until(lambda: len(waiting(bob)) == 4 and sum(each.done() for each in many) == 4, "4 wait")
    assert sorted({each.result().status_code for each in many if each.done()}) == [429]
    assert bob.get("servers/toys/tools").status_code == 200
    for each in waiting(bob):
        decided(bob, each, "deny")
    assert all(each.result(30) for each in many)


def test_nobody_is_asked_for_an_app_about_what_cannot_be_called(bob: Person, app: Any) -> None:
    assert app("many").result(30).json()["isError"] is True
    assert waiting(bob) == []


def test_a_disconnect_ends_what_an_app_asks(bob: Person, app: Any) -> None:
    call = app(1)
    approval = asked(bob)
    bob.post("disconnect")
    assert call.result(30).status_code == 400
    assert decide(bob, approval).status_code == 410
    assert waiting(bob) == []


def test_what_plugins_block_is_not_called_for_an_app_and_nobody_is_asked_any_more(
    settings: Callable[..., Settings], tmp_path: Path, name: str
) -> None:
    path = tmp_path / "plugins.yaml"
    does = {"tool_pre_invoke": {"do": "block", "word": "13"}}
    path.write_text(yaml.safe_dump({"plugins": [plugin(hooks=["tool_pre_invoke"], does=does)]}))
    plugins = {"plugins_enabled": True, "plugins_config_file": path}
    body = {"tool": "toys__count", "name": "more"}
    with in_front(settings, tmp_path, name, **plugins) as bob, ThreadPoolExecutor(1) as apps:
        assert bob.post("apps/calls", **body, arguments={"by": 13}).status_code == 403
        call = apps.submit(lambda: bob.post("apps/calls", **body, arguments={"by": 3}))
        with bob.following() as events:
            decided(bob, asked(bob), arguments={"by": 13})
            answer = call.result(30).json()
            wait_until(lambda: next(events).name == "approval_end", "the question is over")
    assert answer["isError"] is True
    assert "No 13 here." in answer["content"][0]["text"]
    with sqlite3.connect(tmp_path / "chat.db") as database:
        query = "SELECT decision, outcome FROM chat_deed WHERE action = 'app_call'"
        assert database.execute(query).fetchall() == [("refused", "blocked"), ("refused", "blocked")]
