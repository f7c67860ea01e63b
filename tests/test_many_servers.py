"""Servers that other people wrote, several at once and by every transport; and one that remembers."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.installation import Installation
from tests.model_server import ModelServer, Reply
from tests.other_servers import commands, running_everything
from tests.person import Person

pytestmark = pytest.mark.slow

LIMITS = {"connect_timeout": 30, "tool_timeout": 30, "model_timeout": 30, "turn_timeout": 60}

TELLING = "toggle-simulated-logging"
"""It tells whether it has been called before in this session, and which session that is."""


@pytest.fixture
def connected(serve: Callable[..., str], tmp_path: Path, name: str) -> Iterator[Person]:
    """Someone connected to seven: five commands of the operator's, and two of their own on the network."""
    operators = commands(tmp_path)
    listed = tmp_path / "all.json"
    listed.write_text(json.dumps({"mcpServers": operators}))
    with (
        running_everything("streamableHttp", tmp_path / "http.log") as port,
        running_everything("sse", tmp_path / "sse.log") as sse_port,
        Person(serve(servers_file=listed, **LIMITS), name) as person,
    ):
        web = {"url": f"http://127.0.0.1:{port}/mcp", "alias": "web"}
        old = {"url": f"http://127.0.0.1:{sse_port}/sse", "transport": "sse", "alias": "old"}
        connected = person.connect(servers=[*({"name": name} for name in operators), web, old])
        assert {each.partition("__")[0] for each in connected["tools"]} == {*operators, "web", "old"}
        yield person


def test_one_message_uses_a_tool_of_each_of_seven_servers(
    connected: Person, model: ModelServer, tmp_path: Path
) -> None:
    calls: list[tuple[str, dict[str, Any]]] = [
        ("time__get_current_time", {"timezone": "UTC"}),
        ("git__git_log", {"repo_path": str(tmp_path / "repository")}),
        ("files__read_text_file", {"path": str(tmp_path / "files" / "hello.txt")}),
        ("memory__create_entities", {"entities": [_entity("Ann", "Likes tea.")]}),
        ("all__echo", {"message": "by a pipe"}),
        ("web__echo", {"message": "by HTTP"}),
        ("old__echo", {"message": "by SSE"}),
    ]
    model.will(Reply(calls=calls), Reply(text="Done."))
    assert connected.say("use them all")["response"] == "Done."
    offered = {tool["function"]["name"] for tool in model.requests[0]["tools"]}
    assert {name for name, _ in calls} <= offered
    now, log, file, entities, *echoes = results(connected, [name for name, _ in calls])
    assert json.loads(now)["timezone"] == "UTC"
    assert "Begin at the beginning" in log
    assert file == "Hello from a file.\n"
    assert json.loads(entities)[0]["name"] == "Ann"
    assert echoes == ["Echo: by a pipe", "Echo: by HTTP", "Echo: by SSE"]


def test_what_one_server_refuses_is_told_and_the_others_go_on(
    connected: Person, model: ModelServer, tmp_path: Path
) -> None:
    outside = {"path": str(tmp_path / "all.json")}
    model.will(
        Reply(calls=[("files__read_text_file", outside), ("all__echo", {"message": "still here"})]),
        Reply(text="Done."),
    )
    connected.say("read what is not for me")
    refusal, echo = results(connected, ["files__read_text_file", "all__echo"])
    assert "outside allowed directories" in refusal
    assert "mcpServers" not in refusal
    assert echo == "Echo: still here"


@pytest.mark.timeout(240)
def test_state_at_servers_survives_messages_through_all_workers(
    model: ModelServer, model_url: str, tmp_path: Path, name: str
) -> None:
    memory = {"memory": commands(tmp_path)["memory"]}
    env = {"MCP_CHAT_ALLOWED_NETWORKS": "127.0.0.0/8"}
    with (
        running_everything("streamableHttp", tmp_path / "http.log") as port,
        Installation(tmp_path, model_url, workers=3, servers=memory, **env) as installation,
    ):
        with installation.person(name) as person:
            web = {"url": f"http://127.0.0.1:{port}/mcp", "alias": "web"}
            person.connect(servers=[web, {"name": "memory"}])
        workers = installation.workers()
        doors = [workers[n % len(workers)] for n in range(20)]
        random.shuffle(doors)
        told = []
        for n, worker in enumerate(doors):
            with installation.person(name, worker) as person:
                add = ("memory__create_entities", {"entities": [_entity(f"fact {n}", "True.")]})
                model.will(Reply(calls=[(f"web__{TELLING}", {}), add]), Reply(text=f"Done {n}."))
                assert person.say(f"message {n}")["response"] == f"Done {n}."
                told += results(person, [f"web__{TELLING}"])
        assert [text.split(" ")[0] for text in told] == ["Started", "Stopped"] * 10
        [session] = {text.partition(" for session ")[2].split(" ")[0] for text in told}
        assert session
        with installation.person(name) as person:
            model.will(Reply(calls=[("memory__read_graph", {})]), Reply(text="Read."))
            person.say("what do you know?")
            [graph] = results(person, ["memory__read_graph"])
        found = {each["name"] for each in json.loads(graph)["entities"]}
        assert found == {f"fact {n}" for n in range(20)}


def results(person: Person, names: list[str]) -> list[str]:
    """Return what the calls of the newest turn have given, as the history has it: in any order."""
    history = person.history()
    asked = max(place for place, each in enumerate(history) if each["role"] == "user")
    calls = {call["name"]: call["id"] for each in history[asked:] for call in each["tool_calls"]}
    given = {each["tool_call_id"]: each["content"] for each in history[asked:] if each["role"] == "tool"}
    return [given[calls[name]] for name in names]


def _entity(name: str, fact: str) -> dict[str, Any]:
    return {"name": name, "entityType": "thing", "observations": [fact]}
