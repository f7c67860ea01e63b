"""Apps of MCP servers over HTTP: who may have one, what it is, and what it may ask for."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
import yaml

from mcp_chat.app import create_app
from mcp_chat.exceptions import SettingsError
from mcp_chat.safety import check_settings
from mcp_chat.settings import Settings
from tests import plugins_bridge
from tests.app_server import app_server
from tests.model_server import ModelServer, Reply
from tests.person import Person
from tests.running import running
from tests.test_plugins_bridge import plugin

APPS = "http://apps.localhost:8123"


@pytest.fixture(scope="module")
def mcp_url() -> Iterator[str]:
    with running(app_server().streamable_http_app()) as url:
        yield f"{url}/mcp"


@pytest.fixture
def bob(settings: Callable[..., Settings], tmp_path: Path, mcp_url: str, name: str) -> Iterator[Person]:
    """Someone in front of a chat whose operator allows one of two servers to have apps."""
    listed = {"toys": {"url": mcp_url, "apps": True}, "plain": {"url": mcp_url}}
    (tmp_path / "servers.json").write_text(json.dumps({"mcpServers": listed}))
    chosen = settings(apps_origin=APPS, max_app_bytes=50_000)
    with running(create_app(chosen)) as url, Person(url, name) as person:
        yield person


def connected(person: Person, *names: str) -> None:
    person.connect(servers=[{"name": name} for name in names])


def asked(person: Person, what: str, **body: object) -> httpx.Response:
    return person.post(f"apps/{what}", **body)


def results(person: Person) -> list[str]:
    """What the tools gave, as the conversation has it."""
    return [message["content"] for message in person.history() if message["role"] == "tool"]


def tools_of(person: Person) -> dict[str, dict[str, bool]]:
    shown = person.get("servers").json()["connected"]
    return {tool["shown_as"]: tool for server in shown for tool in server["tools"]}


def test_only_an_allowed_server_is_told_of_apps_and_has_them(bob: Person, model: ModelServer) -> None:
    connected(bob, "toys", "plain")
    found = tools_of(bob)
    assert [name for name, tool in found.items() if tool["app"]] == [
        name for name in found if name.startswith("toys__") and name != "toys__plain"
    ]
    model.will(
        Reply(calls=[("toys__count", {"start": 1}), ("plain__count", {"start": 1})]), Reply(text="done")
    )
    bob.say("count")
    assert sorted(results(bob)) == ["apps: False, total: 1", "apps: True, total: 1"]
    assert bob.get("apps/view?tool=plain__count").status_code == 404
    assert asked(bob, "calls", tool="plain__count", name="more", arguments={"by": 1}).status_code == 404


def test_the_model_is_not_offered_what_only_apps_may_call(bob: Person, model: ModelServer) -> None:
    connected(bob, "toys", "plain")
    model.will(Reply(calls=[("toys__more", {"by": 1}), ("plain__more", {"by": 1})]), Reply(text="done"))
    bob.say("go on")
    offered = {tool["function"]["name"] for tool in model.requests[-1]["tools"]}
    assert {"toys__count", "toys__for_the_model", "plain__count"} <= offered
    assert not {"toys__more", "plain__more"} & offered
    assert ["There is no tool" in each for each in results(bob)] == [True, True]


def test_an_app_is_given_with_a_page_that_lets_it_reach_what_it_has_declared(bob: Person) -> None:
    connected(bob, "toys")
    view = bob.get("apps/view?tool=toys__count").json()
    assert "Counter" in view["html"]
    assert view["border"] is False
    parts = urlsplit(view["src"])
    assert f"{parts.scheme}://{parts.netloc}{parts.path}" == f"{APPS}/sandbox"
    assert parse_qs(parts.query) == {
        "connect": ["https://api.example.org", "wss://live.example.org"],
        "load": ["https://*.cdn.example.org"],
    }
    page = bob.http.get(f"/sandbox?{parts.query}", headers={"host": parts.netloc})
    policy = dict(each.partition(" ")[::2] for each in page.headers["content-security-policy"].split("; "))
    assert policy == {
        "default-src": "'none'",
        "script-src": "'self' 'unsafe-inline' https://*.cdn.example.org",
        "style-src": "'unsafe-inline' https://*.cdn.example.org",
        "img-src": "data: https://*.cdn.example.org",
        "font-src": "data: https://*.cdn.example.org",
        "media-src": "data: https://*.cdn.example.org",
        "connect-src": "https://api.example.org wss://live.example.org",
        "frame-src": "'none'",
        "base-uri": "'none'",
        "object-src": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "http://127.0.0.1:8123 http://localhost:8123",
    }


def test_the_apps_host_has_nothing_of_the_chat(bob: Person) -> None:
    host = {"host": urlsplit(APPS).netloc}
    paths = ("/", "/auth", "/llmchat/servers", "/web/main.js", "/livez", "/openapi.json", "/metrics")
    assert {bob.http.get(path, headers=host).status_code for path in paths} == {404}
    assert bob.http.post("/auth/demo", json={"user": "x"}, headers=host).status_code == 404
    page = bob.http.get(
        "/sandbox?connect=https://a.example;script-src%20*&load=*&load=https://*.org", headers=host
    )
    assert "set-cookie" not in page.headers
    assert "a.example" not in page.headers["content-security-policy"]
    assert "*" not in page.headers["content-security-policy"]
    assert bob.http.get("/sandbox").status_code == 404
    assert f"frame-src {APPS}" in bob.http.get("/").headers["content-security-policy"]


def test_an_app_calls_the_tools_that_are_for_apps_of_its_own_server(bob: Person, model: ModelServer) -> None:
    connected(bob, "toys", "plain")
    model.will(Reply(calls=[("toys__count", {"start": 5})]), Reply(text="done"))
    bob.say("count")
    answer = asked(bob, "calls", tool="toys__count", name="more", arguments={"by": 3}).json()
    assert answer["content"] == [{"type": "text", "text": "8"}]
    assert (answer["isError"], answer["structuredContent"]) == (False, {"total": 8})
    for refused in ("for_the_model", "nothing", "toys__more"):
        response = asked(bob, "calls", tool="toys__count", name=refused)
        assert (response.status_code, response.json()["code"]) == (404, "not_found"), refused
    for teller in ("toys__plain", "toys__nothing", "other__count", "x"):
        assert asked(bob, "calls", tool=teller, name="more").status_code == 404, teller
    unfit = asked(bob, "calls", tool="toys__count", name="more", arguments={"by": "many"}).json()
    assert unfit["isError"] is True
    again = asked(bob, "calls", tool="toys__count", name="more", arguments={"by": 0}).json()
    assert again["structuredContent"] == {"total": 8}
    read = asked(bob, "resources", tool="toys__count", uri="note://one").json()
    assert [content["text"] for content in read["contents"]] == ["a note"]
    assert asked(bob, "resources", tool="plain__count", uri="note://one").status_code == 404


def test_what_an_app_reads_and_is_given_goes_through_plugins(
    settings: Callable[..., Settings], tmp_path: Path, mcp_url: str, name: str
) -> None:
    does = {
        "resource_pre_fetch": {"do": "block", "word": "note://two"},
        "resource_post_fetch": {"do": "change", "word": "a note", "to": "****"},
        "tool_post_invoke": {"do": "block", "about": "result"},
    }
    (tmp_path / "plugins.yaml").write_text(yaml.safe_dump({"plugins": [plugin(hooks=list(does), does=does)]}))
    listed = {"toys": {"url": mcp_url, "apps": True}}
    (tmp_path / "servers.json").write_text(json.dumps({"mcpServers": listed}))
    plugins = {"plugins_enabled": True, "plugins_config_file": tmp_path / "plugins.yaml"}
    plugins_bridge.SEEN.clear()
    with running(create_app(settings(apps_origin=APPS, **plugins))) as url, Person(url, name) as bob:
        connected(bob, "toys")
        read = asked(bob, "resources", tool="toys__count", uri="note://one").json()
        assert [content["text"] for content in read["contents"]] == ["****"]
        refused = asked(bob, "resources", tool="toys__count", uri="note://two")
        assert (refused.status_code, "No note://two here." in refused.text) == (403, True)
        given = asked(bob, "calls", tool="toys__count", name="more", arguments={"by": 1})
        assert (given.status_code, "No result here." in given.text) == (403, True)
    assert {(each.context.user, each.context.server_id) for each in plugins_bridge.SEEN} == {(name, "toys")}


def test_the_calls_of_an_app_are_in_the_audit_trail(bob: Person, tmp_path: Path) -> None:
    connected(bob, "toys")
    asked(bob, "calls", tool="toys__count", name="more", arguments={"by": 3}).raise_for_status()
    asked(bob, "calls", tool="toys__count", name="for_the_model")
    with sqlite3.connect(tmp_path / "chat.db") as database:
        query = "SELECT decision, server, tool, outcome FROM chat_deed WHERE action = 'app_call' ORDER BY at"
        deeds = database.execute(query).fetchall()
    assert deeds == [("allowed", "toys", "toys__more", "succeeded"), ("refused", "toys", "", "unknown_tool")]


def test_a_tool_that_is_switched_off_is_off_for_apps_too(bob: Person) -> None:
    connected(bob, "toys")
    bob.http.patch("/llmchat/servers/toys/tools", json={"enabled": {"more": False}}).raise_for_status()
    assert asked(bob, "calls", tool="toys__count", name="more", arguments={"by": 3}).status_code == 404
    bob.http.patch("/llmchat/servers/toys/tools", json={"enabled": {"more": True, "count": False}})
    assert asked(bob, "calls", tool="toys__count", name="more", arguments={"by": 3}).status_code == 404


def test_what_is_no_app_or_too_large_is_a_sentence(bob: Person) -> None:
    connected(bob, "toys")
    response = bob.get("apps/view?tool=toys__large")
    assert (response.status_code, response.json()["code"]) == (422, "app_unusable")
    assert "larger than 50000 bytes" in response.json()["detail"]
    for tool in ("toys__plain", "toys__nothing", "nobody__count", ""):
        assert bob.get(f"apps/view?tool={tool}").status_code == 404, tool
    huge = {"a": "x" * 70_000}
    assert asked(bob, "calls", tool="toys__count", name="more", arguments=huge).status_code == 422


def test_without_an_origin_for_them_nobody_has_apps(
    settings: Callable[..., Settings], tmp_path: Path, mcp_url: str, name: str, model: ModelServer
) -> None:
    (tmp_path / "servers.json").write_text(
        json.dumps({"mcpServers": {"toys": {"url": mcp_url, "apps": True}}})
    )
    with running(create_app(settings())) as url, Person(url, name) as person:
        connected(person, "toys")
        assert not any(tool["app"] for tool in tools_of(person).values())
        assert person.get("apps/view?tool=toys__count").status_code == 404
        model.will(Reply(calls=[("toys__count", {"start": 1})]), Reply(text="done"))
        person.say("count")
        assert results(person) == ["apps: False, total: 1"]
        assert "frame-src" not in person.http.get("/").headers["content-security-policy"]


@pytest.mark.parametrize(
    ("origin", "more", "says"),
    [
        ("http://127.0.0.1:9000", {}, "another host"),
        ("http://localhost:8000", {}, "another host"),
        ("https://chat.example.org", {"public_url": "https://chat.example.org/chat"}, "another host"),
        ("https://chat.example.org:444", {"public_url": "https://chat.example.org"}, "another host"),
        ("http://apps.example.org", {}, "must be an origin"),
        ("https://apps.example.org/x", {}, "must be an origin"),
        ("https://*.example.org", {}, "must be an origin"),
    ],
)
def test_an_origin_that_would_share_the_chats_cookies_is_refused(
    settings: Callable[..., Settings], origin: str, more: dict[str, str], says: str
) -> None:
    with pytest.raises(SettingsError, match=says):
        check_settings(settings(apps_origin=origin, **more))
