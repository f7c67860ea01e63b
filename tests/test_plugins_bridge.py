"""Plugins are asked when and with what the documents say, and what they answer counts."""

from __future__ import annotations

import asyncio
import json
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest
import yaml
from structlog.testing import CapturingLogger

from mcp_chat.app import create_app
from mcp_chat.deaths import Deaths
from mcp_chat.edited import CHANGED_AGAIN
from mcp_chat.exceptions import BlockedByPlugin, PluginsLost, SettingsError
from mcp_chat.identity import user_key
from mcp_chat.message import Message
from mcp_chat.metrics import Metrics
from mcp_chat.parts import parts_of
from mcp_chat.plugins.base import NoPlugins, Occasion
from mcp_chat.plugins.bridge import opened
from mcp_chat.plugins.doors import AgentDoor
from mcp_chat.plugins.hooks import HOOKS
from mcp_chat.plugins.news import News, Piece
from mcp_chat.plugins.tools import lighter, restored
from mcp_chat.plugins_cli import measured
from mcp_chat.settings import Settings
from tests import plugins_bridge
from tests.asked import calls, decided, turn, waiting
from tests.installation import Installation
from tests.matrix import KEY, SECRET, token
from tests.model_server import ModelServer, Reply
from tests.person import Person
from tests.plugins_bridge import seen
from tests.running import running, wait_until
from tests.test_offers import ALIAS, ask, far_side, good

pytestmark = pytest.mark.slow

ALL = list(HOOKS)


def plugin(name: str = "probe", *, hooks: list[str], does: dict[str, Any] | None = None, **more: Any) -> Any:
    kind = "tests.plugins_bridge.Probe"
    return {"name": name, "kind": kind, "version": "1", "hooks": hooks, "config": does or {}, **more}


@pytest.fixture(autouse=True)
def _forget() -> None:
    plugins_bridge.SEEN.clear()


@pytest.fixture
def plugged(serve: Callable[..., str], tmp_path: Path, name: str, demo_url: str) -> Any:
    """Someone connected to the demo server, in front of an application with plugins."""

    @contextmanager
    def begin(*plugins: Any, connect: bool = True, **settings: Any) -> Iterator[Person]:
        path = tmp_path / "config.yaml"
        path.write_text(yaml.safe_dump({"plugins": list(plugins)}))
        url = serve(plugins_enabled=True, plugins_config_file=path, **settings)
        with Person(url, name) as person:
            if connect:
                person.connect(server={"url": demo_url, "alias": "demo"})
            yield person

    return begin


def of(frames: list[Any], name: str) -> list[dict[str, Any]]:
    return [data for each, data in frames if each == name]


# When, and with what


def test_each_hook_of_a_turn_is_asked_when_it_comes(plugged: Any, model: ModelServer, name: str) -> None:
    model.will(Reply(text="Adding.", calls=[("demo__add", {"a": 1, "b": 2})]), Reply(text="It is 3."))
    with plugged(plugin(hooks=ALL, mode="audit")) as alice:
        frames = alice.stream("What is 1 + 2?")
        end = of(frames, "final")[0]
    order = [each.hook for each in plugins_bridge.SEEN if each.hook not in ("chat_event", "identity_resolve")]
    assert order[:2] == ["chat_pre_connect", "chat_post_connect"]
    assert order[2] == "agent_pre_invoke"
    assert [each for each in order if "cmf" not in each and each != "evaluate"][2:] == [
        *("agent_pre_invoke", "agent_post_invoke"),
        *("tool_pre_invoke", "tool_post_invoke", "agent_post_invoke"),
    ]
    before = seen("tool_pre_invoke")[0]
    assert (before.payload.name, before.payload.args) == ("add", {"a": 1, "b": 2})
    assert before.context.request_id == end["turn_id"]
    assert (before.context.user, before.context.user_context.user_id) == (name, name)
    assert before.context.server_id == "demo"
    told = before.context.metadata["chat"]
    assert (told["session_id"], told["server"], told["tool"]) == (end["session_id"], "demo", "add")
    after = seen("tool_post_invoke")[0]
    assert after.payload.result["content"] == [{"type": "text", "text": "3"}]
    both = ["tool_pre_invoke", "cmf.tool_pre_invoke", "tool_post_invoke", "cmf.tool_post_invoke"]
    assert after.local.state["asked"] == both
    began = seen("agent_pre_invoke")[0].payload
    assert began.messages[-1].content.text == "What is 1 + 2?"
    assert "demo__add" in began.tools
    calls_told, ended = (each.payload for each in seen("agent_post_invoke"))
    assert (calls_told.messages[0].content.text, calls_told.tool_calls[0]["name"]) == ("Adding.", "demo__add")
    assert (ended.messages[0].content.text, ended.tool_calls) == ("It is 3.", None)
    asked = [each.payload.message for each in seen("cmf.llm_input")]
    assert [each.role.value for each in asked] == ["user", "assistant", "tool"]  # each of them once
    assert asked[2].content[0].content.content == "3"
    said = [each.payload.message.content[0].text for each in seen("cmf.llm_output")]
    assert said == ["Adding.", "It is 3."]
    assert len(seen("evaluate")) == len(asked) + len(said)


def test_connects_and_what_readers_are_told(plugged: Any, model: ModelServer, demo_url: str) -> None:
    model.will(Reply(text="Hello."))
    with plugged(plugin(hooks=ALL)) as alice:
        alice.say("Hi")
        assert alice.post("disconnect").status_code == 200
    before, after = (seen(each)[0].payload for each in ("chat_pre_connect", "chat_post_connect"))
    assert before.servers == [{"alias": "demo", "id": "demo", "url": demo_url, "operator": False}]
    assert (before.tools, "demo__add" in after.tools) == ([], True)
    assert seen("chat_pre_disconnect")[0].payload.session_id == before.session_id
    types = [each.payload.event["type"] for each in seen("chat_event")]
    assert {"connected", "turn_started", "text_delta", "message_added", "turn_finished"} <= set(types)
    assert types.index("turn_started") < types.index("turn_finished")


def test_prompts_and_resources(plugged: Any) -> None:
    does = {
        "prompt_pre_fetch": {"do": "change", "word": "Ann", "to": "Bea"},
        "prompt_post_fetch": {"do": "change", "word": "Bea", "to": "somebody"},
        "resource_pre_fetch": {"do": "block", "word": "secret"},
        "resource_post_fetch": {"do": "change", "word": "first", "to": "****"},
    }
    hooks = list(does)
    with far_side("modern") as far, plugged(plugin(hooks=hooks, does=does), connect=False) as alice:
        alice.connect(servers=[far.config()])
        greeting = good(ask(alice, "prompts/get", name="greet", arguments={"name": "Ann"}))
        assert "somebody" in json.dumps(greeting)
        assert seen("prompt_post_fetch")[0].local.state["asked"] == ["prompt_pre_fetch", "prompt_post_fetch"]
        assert seen("prompt_pre_fetch")[0].context.server_id == ALIAS
        page = good(ask(alice, "resources/read", uri="notes://today"))
        assert seen("resource_post_fetch")[0].payload.content.uri == "notes://today"
        assert "****" in json.dumps(page)
        blocked = ask(alice, "resources/read", uri="notes://day/secret")
        assert (blocked.status_code, "No secret here." in blocked.text) == (403, True)


def test_plugins_that_are_gone_let_nothing_through(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump({"plugins": [plugin(hooks=["tool_pre_invoke"])]}))

    async def asked() -> None:
        async with opened(path, Metrics()) as bridge:
            occasion = Occasion(request_id="one")
            await bridge.ask("tool_pre_invoke", {"name": "echo", "args": {}}, occasion)
            await bridge._manager.shutdown()  # as when one in another process takes their task with it
            with pytest.raises(BlockedByPlugin):
                await bridge.ask("tool_pre_invoke", {"name": "echo", "args": {}}, occasion)

    anyio.run(asked)
    assert len(seen("tool_pre_invoke")) == 1


LOSER = {"name": "loser", "kind": "tests.plugins_bridge.Loser", "hooks": ["agent_pre_invoke"]}


@pytest.mark.parametrize("watched", [True, False])
def test_a_worker_that_has_lost_its_plugins_asks_to_be_replaced(
    settings: Callable[..., Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, watched: bool
) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump({"plugins": [LOSER]}))
    app = create_app(settings(plugins_enabled=True, plugins_config_file=path))
    deaths = Deaths()
    app.state.deaths = deaths.receiver if watched else None  # by gunicorn, or nobody
    asked: list[int] = []
    monkeypatch.setattr("signal.raise_signal", asked.append)

    async def serve() -> None:
        with anyio.fail_after(20):
            async with app.router.lifespan_context(app):
                [keeper] = [task for task in asyncio.all_tasks() if "_kept" in repr(task.get_coro())]
                keeper.cancel()
                await anyio.sleep_forever()

    with pytest.raises(BaseExceptionGroup) as failed:
        anyio.run(serve)
    deaths.close()
    assert failed.group_contains(PluginsLost)
    assert asked == ([signal.SIGTERM] if watched else [])


@pytest.mark.slow
def test_a_worker_that_has_lost_its_plugins_is_replaced(
    tmp_path: Path, model_url: str, demo_url: str, name: str
) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump({"plugins": [LOSER]}))
    root = str(Path(__file__).parents[1])  # where the plugin is
    env: dict[str, Any] = {"PLUGINS_ENABLED": "true", "PLUGINS_CONFIG_FILE": str(path), "PYTHONPATH": root}
    with Installation(tmp_path, model_url, workers=1, **env) as chat, Person(chat.url, name) as alice:
        [before] = chat.workers()
        alice.connect(server={"url": demo_url, "alias": "demo"})
        alice.stream("Hi")
        wait_until(lambda: chat.workers() not in ([], [before]), "another takes its place", seconds=60)
        wait_until(lambda: alice.get("sessions").status_code == 200, "it serves", seconds=60)
        assert chat.errors.read_text().count("plugins.lost") == 1


def test_what_listeners_have_not_heard_yet_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    logged = CapturingLogger()
    monkeypatch.setattr("mcp_chat.plugins.news.log", logged)
    news = News(most=5, most_bytes=1_000)

    def add(text: str) -> None:
        news.add(Piece("chat_event", {"event": text}, Occasion(request_id=text[:1])))

    for n in range(8):
        add(f"{n}")
    assert [news.take().fields["event"] for _ in range(5)] == ["3", "4", "5", "6", "7"]
    for n in range(4):
        add(f"{n}" * 400)
    assert [news.take().fields["event"][0] for _ in range(2)] == ["2", "3"]
    add("5" * 2_000)
    assert (len(news.take().fields["event"]), bool(news)) == (2_000, False)
    assert [(each.args[0], each.kwargs.get("untold")) for each in logged.calls] == [
        *(("plugins.behind", None), ("plugins.caught_up", 3)),
        *(("plugins.behind", None), ("plugins.caught_up", 2)),
    ]


# Without plugins


def test_without_plugins_the_framework_is_not_imported() -> None:
    code = (
        "import sys, anyio\n"
        "from mcp_chat.settings import load_settings\n"
        "from mcp_chat.app import create_app\n"
        "app = create_app(load_settings(workers=1))\n"
        "async def main():\n"
        "    async with app.router.lifespan_context(app):\n"
        "        print(any(name.split('.')[0] in ('cpex', 'fastapi', 'jinja2') for name in sys.modules))\n"
        "anyio.run(main)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], check=False, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.strip().endswith("False"), done.stderr


@pytest.mark.parametrize(
    ("content", "wrong"),
    [
        (None, "cannot be read"),
        ("plugins: [", "is not valid"),
        ("plugins: [{name: x}]", "plugins.0.kind: Field required"),
        ("plugins: {{ oops", "is not valid"),
        ("[1]", "is not valid"),
    ],
)
def test_a_wrong_configuration_is_refused_in_a_sentence(
    settings: Callable[..., Settings], tmp_path: Path, content: str | None, wrong: str
) -> None:
    path = tmp_path / "config.yaml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(SettingsError, match=wrong) as refused:
        parts_of(settings(plugins_enabled=True, plugins_config_file=path))
    assert str(refused.value).startswith(f"PLUGINS_CONFIG_FILE: {path}")


def test_a_missing_extra_is_said_in_a_sentence(
    settings: Callable[..., Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "mcp_chat.plugins.bridge", raising=False)
    monkeypatch.setitem(sys.modules, "cpex.framework", None)
    with pytest.raises(SettingsError, match=r"pip install 'mcp-chat\[plugins\]'"):
        parts_of(settings(plugins_enabled=True, plugins_config_file=tmp_path / "config.yaml"))


# What they answer


def test_changed_arguments_are_what_the_user_is_asked_about_and_what_runs(
    plugged: Any, model: ModelServer
) -> None:
    calls(model, ("demo__echo", {"text": "tell bob"}))
    does = {"tool_pre_invoke": {"do": "change", "word": "bob", "to": "***"}}
    with plugged(plugin(hooks=["tool_pre_invoke"], does=does), approvals=True) as alice:
        with turn(alice) as going:
            approval = going.approval()
            assert approval["arguments"] == {"text": "tell ***"}
            decided(alice, approval)
        assert going.of("tool_end")[0]["output"] == "tell ***"
        assert "bob" not in json.dumps(alice.history())
    assert "bob" not in json.dumps(model.requests[-1])


def test_arguments_that_a_user_edits_are_looked_at_again(plugged: Any, model: ModelServer) -> None:
    calls(model, ("demo__echo", {"text": "tell ann"}))
    does = {"tool_pre_invoke": {"do": "block", "word": "bob"}}
    with plugged(plugin(hooks=["tool_pre_invoke"], does=does), approvals=True) as alice:
        with turn(alice) as going:
            decided(alice, going.approval(), arguments={"text": "tell bob"})
        assert going.of("tool_end") == []
        assert going.of("tool_error")[0]["error"] == "Blocked by the plugin probe: No bob here."
        assert going.of("blocked")[0]["hook"] == "tool_pre_invoke"


def test_arguments_that_a_plugin_would_change_again_are_not_used(plugged: Any, model: ModelServer) -> None:
    calls(model, ("demo__echo", {"text": "tell ann"}))
    does = {"tool_pre_invoke": {"do": "change", "word": "bob", "to": "***"}}
    with plugged(plugin(hooks=["tool_pre_invoke"], does=does), approvals=True) as alice:
        with turn(alice) as going:
            decided(alice, going.approval(), arguments={"text": "tell bob"})
        assert going.of("tool_end") == []
        assert going.of("tool_error")[0]["error"] == CHANGED_AGAIN


def test_a_blocked_call_is_told_recorded_and_audited(plugged: Any, model: ModelServer) -> None:
    calls(model, ("demo__echo", {"text": "secret sauce"}))
    does = {"tool_pre_invoke": {"do": "block", "word": "sauce"}}
    with plugged(plugin(hooks=["tool_pre_invoke"], does=does)) as alice:
        frames = alice.stream("go")
        blocked = of(frames, "blocked")[0]
        call_id = of(frames, "tool_error")[0]["id"]
        assert blocked == {
            "type": "blocked",
            "hook": "tool_pre_invoke",
            "plugin": "probe",
            "reason": "No sauce here.",
            "code": "TEST_CODE",
            "call_id": call_id,
        }
        result = alice.history()[2]
        assert result["metadata"]["blocked"]["reason"] == "No sauce here."
        assert "secret sauce" not in json.dumps([frames, alice.history()])
        assert of(frames, "final")[0]["content"] == "Fine."


def test_plugins_that_look_at_messages_look_at_calls_too(plugged: Any, model: ModelServer) -> None:
    calls(model, ("demo__echo", {"text": "tell bob"}), ("demo__add", {"a": 40, "b": 2}))
    does = {
        "cmf.tool_pre_invoke": {"do": "change", "word": "bob", "to": "***"},
        "cmf.tool_post_invoke": {"do": "block", "word": "42"},
    }
    with plugged(plugin(hooks=list(does), does=does)) as alice:
        frames = alice.stream("go")
    assert of(frames, "tool_end")[0]["output"] == "tell ***"
    assert of(frames, "tool_error")[0]["error"] == "Blocked by the plugin probe: No 42 here."


@pytest.mark.parametrize("streamed", [True, False])
def test_a_result_is_changed_before_anybody_is_told(plugged: Any, model: ModelServer, streamed: bool) -> None:
    calls(model, ("demo__echo", {"text": "the key is 1234"}))
    does = {"tool_post_invoke": {"do": "change", "word": "1234", "to": "****"}}
    with plugged(plugin(hooks=["tool_post_invoke"], does=does)) as alice:
        told = alice.stream("go") if streamed else alice.say("go")
        result = alice.history()[2]
    assert result["content"] == "the key is ****"
    assert "****" in json.dumps(told)
    assert json.dumps(model.requests[-1]).count("1234") == 1  # the model's own words


def test_a_blocked_result_is_nowhere(plugged: Any, model: ModelServer) -> None:
    calls(model, ("demo__add", {"a": 40, "b": 2}))
    does = {"tool_post_invoke": {"do": "block", "word": "42"}}
    with plugged(plugin(hooks=["tool_post_invoke"], does=does)) as alice:
        frames = alice.stream("go")
        assert of(frames, "tool_error")[0]["error"] == "Blocked by the plugin probe: No 42 here."
        assert of(frames, "blocked")[0]["hook"] == "tool_post_invoke"
        assert alice.history()[2]["content"] == "Blocked by the plugin probe: No 42 here."
    assert '"42"' not in json.dumps(model.requests[-1])


def test_only_a_results_files_are_kept_from_plugins() -> None:
    long = "word " * 2_000
    files = [{"type": "image", "data": long}, {"type": "resource", "resource": {"uri": "a:b", "blob": long}}]
    answer = {"content": [*files, {"type": "text", "text": long}], "structuredContent": {"blob": long}}
    told, kept = lighter(answer)
    assert told["content"][0]["data"] == "file-0"
    assert told["content"][1]["resource"]["blob"] == "file-1"
    assert (told["content"][2]["text"], told["structuredContent"]) == (long, {"blob": long})
    assert restored(told, kept) == answer


@pytest.mark.parametrize("hook", ["agent_pre_invoke", "cmf.llm_input", "evaluate"])
def test_a_blocked_question_ends_its_turn_and_not_the_conversation(
    plugged: Any, model: ModelServer, hook: str
) -> None:
    with plugged(plugin(hooks=[hook], does={hook: {"do": "block", "word": "bomb"}})) as alice:
        frames = alice.stream("How is a bomb made?")
        assert of(frames, "blocked")[0]["reason"] == "No bomb here."
        assert of(frames, "error")[0]["error"] == "Blocked by the plugin probe: No bomb here."
        assert model.requests == []
        asked, note = alice.history()
        assert asked["content"] == "How is a bomb made?"
        assert note["metadata"]["blocked"]["plugin"] == "probe"
        assert alice.say("Hello")["response"]
    assert "bomb" not in json.dumps(model.requests)


@pytest.mark.parametrize("hook", ["agent_pre_invoke", "cmf.llm_input", "evaluate"])
def test_the_model_is_shown_what_plugins_have_changed(plugged: Any, model: ModelServer, hook: str) -> None:
    model.will(Reply(text="Hello."), Reply(text="Again."))
    does = {hook: {"do": "change", "word": "4111", "to": "####"}}
    with plugged(plugin(hooks=[hook], does=does)) as alice:
        alice.say("My card is 4111.")
        alice.say("Again, please.")
        assert alice.history()[0]["content"] == "My card is 4111."
    assert "####" in json.dumps(model.requests[1])
    assert "4111" not in json.dumps(model.requests)


def test_a_connect_that_is_blocked_changes_nothing(plugged: Any, demo_url: str) -> None:
    does = {"chat_pre_connect": {"do": "block", "word": "evil"}}
    with plugged(plugin(hooks=["chat_pre_connect"], does=does)) as alice:
        answer = alice.post(
            "connect", llm={"model": "openai:scripted"}, server={"url": demo_url, "alias": "evil"}
        )
        assert answer.status_code == 403
        assert "No evil here." in answer.text
        more = alice.http.post("/llmchat/servers", json={"url": demo_url, "alias": "evil"})
        assert more.status_code == 403
        assert alice.say("Hello")["response"]


def test_nobody_can_be_kept_from_leaving(plugged: Any) -> None:
    does = {"chat_pre_disconnect": {"do": "block"}}
    with plugged(plugin(hooks=["chat_pre_disconnect"], does=does)) as alice:
        assert alice.post("disconnect").status_code == 200
        assert len(seen("chat_pre_disconnect")) == 1


@pytest.mark.parametrize("does", ["block", "change"])
def test_what_is_said_into_a_turn_is_looked_at_as_what_begins_it(
    plugged: Any, model: ModelServer, name: str, does: str
) -> None:
    more = threading.Event()
    model.will(Reply(text="one two three", hold=more), Reply(text="four"))
    wanted = {"agent_pre_invoke": {"do": does, "word": "4111", "to": "####"}}
    with (
        plugged(plugin(hooks=["agent_pre_invoke"], does=wanted)) as alice,
        Person(str(alice.http.base_url), name) as tab,
        alice.streaming("count") as frames,
    ):
        told = [next(frames)]
        with tab.streaming("My card is 4111.", if_running="steer") as rest:
            tab.taken_up()
            more.set()
            list(rest)
        told += list(frames)
        assert alice.history()[2]["content"] == "My card is 4111."
    assert "4111" not in json.dumps(model.requests)
    assert ("My card is ####." in json.dumps(model.requests)) is (does == "change")
    assert [each["reason"] for each in of(told, "blocked")] == ["No 4111 here."] * (does == "block")


def test_what_plugins_leave_as_it_is_can_still_be_shown_shorter() -> None:
    class Masking(NoPlugins):
        hooks = frozenset({"agent_pre_invoke"})

        async def ask(self, hook: str, fields: Any, occasion: Occasion) -> Any:
            kept, last = fields["messages"]
            return {"messages": [kept, {**last, "content": {"text": "####"}}]}

    async def today() -> dict[str, float]:
        return {}

    async def run() -> list[str]:
        door = AgentDoor(Masking(), Occasion(request_id="one"))
        long, card = (Message(role="user", content=text) for text in ("word " * 99, "4111"))
        how: Any = {"servers": (), "tools": (), "model": "", "temperature": None, "today": today}
        await door.before([long, card], **how)
        return [each.content for each in door.shown([replace(long, content="word"), card])]

    assert anyio.run(run) == ["word", "####"]


def test_a_call_that_no_plugin_could_look_at_is_not_made(plugged: Any, model: ModelServer) -> None:
    """Its tool is not there when the model calls it, and is back before the call is made."""
    plugins_bridge.GO.clear()
    calls(model, ("demo__echo", {"text": "tell bob"}), ("demo__add", {"a": 40, "b": 2}))
    does = {"tool_pre_invoke": {"do": "wait", "word": "40"}}
    with plugged(plugin(hooks=["tool_pre_invoke"], does=does)) as alice:
        alice.http.patch("/llmchat/servers/demo/tools", json={"enabled": {"echo": False}})
        with alice.streaming("go") as going:
            wait_until(lambda: seen("tool_pre_invoke"), "the other call is looked at")
            alice.http.patch("/llmchat/servers/demo/tools", json={"enabled": {"echo": True}})
            plugins_bridge.GO.set()
            frames = list(going)
    assert [each["output"] for each in of(frames, "tool_end")] == ["42"]
    assert of(frames, "tool_error")[0]["error"].startswith("Blocked: The tool was not there when")
    assert len(seen("tool_pre_invoke")) == 1


def test_nobody_is_asked_for_leave_for_a_call_that_is_not_made(plugged: Any, model: ModelServer) -> None:
    plugins_bridge.GO.clear()
    calls(model, ("demo__echo", {"text": "tell bob"}), ("demo__add", {"a": 40, "b": 2}))
    does = {"tool_pre_invoke": {"do": "wait", "word": "40"}}
    with plugged(plugin(hooks=["tool_pre_invoke"], does=does), approvals=True) as alice:
        alice.http.patch("/llmchat/servers/demo/tools", json={"enabled": {"echo": False}})
        with turn(alice) as going:
            wait_until(lambda: seen("tool_pre_invoke"), "the other call is looked at")
            alice.http.patch("/llmchat/servers/demo/tools", json={"enabled": {"echo": True}})
            plugins_bridge.GO.set()
            wait_until(lambda: going.of("tool_error") or len(going.of("approval")) > 1, "it is refused")
            [approval] = going.approvals(1)
            assert approval["arguments"] == {"a": 40, "b": 2}
            decided(alice, approval)
    assert going.of("tool_end")[0]["output"] == "42"


def test_what_is_said_into_a_turn_is_judged_with_what_was_used_until_then() -> None:
    used = [{"tokens": 1.0}, {"tokens": 7.0}]
    told: list[Any] = []

    class Counting(NoPlugins):
        hooks = frozenset({"agent_pre_invoke"})

        async def ask(self, hook: str, fields: Any, occasion: Occasion) -> Any:
            told.append(occasion.details["today"])
            return {}

    async def today() -> dict[str, float]:
        return used[len(told)]

    async def run() -> None:
        door = AgentDoor(Counting(), Occasion(request_id="one"))
        how: Any = {"servers": (), "tools": (), "model": "", "temperature": None, "today": today}
        await door.before([Message(role="user", content="One.")], **how)
        await door.joined([Message(role="user", content="Two.")])

    anyio.run(run)
    assert told == used


def test_who_adds_a_server_has_connected(plugged: Any, demo_url: str) -> None:
    with plugged(plugin(hooks=["chat_post_connect"])) as alice:
        assert alice.post("servers", url=demo_url, alias="more").status_code == 201
        wait_until(lambda: len(seen("chat_post_connect")) == 2, "it is told")
    payload = seen("chat_post_connect")[1].payload
    assert [each["alias"] for each in payload.servers] == ["more"]
    assert "more__echo" in payload.tools


def test_plugins_have_a_say_in_who_asks(plugged: Any) -> None:
    result = {"rejected": True, "reject_status": 403, "reject_reason": "Not today."}
    does = {"identity_resolve": {"do": "identity", "result": result}}
    with plugged(plugin(hooks=["identity_resolve"], does=does), connect=False) as alice:
        answer = alice.get("sessions")
        assert (answer.status_code, "Not today." in answer.text) == (403, True)
    assert seen("identity_resolve")[0].payload.headers["cookie"]


def test_a_plugin_that_fails_says_nothing_about_who_asks(plugged: Any) -> None:
    does = {"identity_resolve": {"do": "raise"}}
    with plugged(plugin(hooks=["identity_resolve"], does=does), connect=False) as alice:
        answer = alice.get("sessions")
        assert (answer.status_code, answer.json()["code"]) == (503, "login_unavailable")
        assert "a secret" not in answer.text


def test_an_export_is_well_formed_whatever_plugins_make_of_it(plugged: Any, model: ModelServer) -> None:
    does = {"chat_export": {"do": "change", "word": "Hello", "to": "half \ud800"}}
    with plugged(plugin(hooks=["chat_export"], does=does)) as alice:
        model.will(Reply(text="Hello."))
        session = alice.say("Hi")["session_id"]
        taken = alice.get(f"sessions/{session}/export?format=markdown")
        assert (taken.status_code, "half \ufffd." in taken.text) == (200, True)


def test_a_user_is_the_same_at_every_hook(plugged: Any, model: ModelServer, demo_url: str, name: str) -> None:
    hooks = ["agent_pre_invoke", "chat_export", "identity_resolve"]
    with (
        plugged(plugin(hooks=hooks), connect=False) as alice,
        Person(str(alice.http.base_url), f"{name} (he)") as bob,
    ):
        plugins_bridge.SEEN.clear()
        session = bob.connect(server={"url": demo_url, "alias": "demo"})["session_id"]
        model.will(Reply(text="Hello."))
        bob.say("Hi")
        assert bob.get(f"sessions/{session}/export").status_code == 200
    assert {each.hook for each in plugins_bridge.SEEN} == set(hooks)
    assert {each.context.user for each in plugins_bridge.SEEN} == {user_key(f"{name} (he)")}


def test_a_user_can_have_another_name_by_plugins(plugged: Any, name: str) -> None:
    result = {"subject": {"id": "somebody@else.org", "type": "user"}}
    does = {"identity_resolve": {"do": "identity", "result": result}}
    with plugged(plugin(hooks=["identity_resolve"], does=does), connect=False) as alice:
        assert alice.http.get("/auth").json()["user"] == {"id": "somebody@else.org"}


def test_what_was_looked_at_is_not_looked_at_again_by_the_next_owner(
    settings: Callable[..., Settings],
    tmp_path: Path,
    model: ModelServer,
    valkey_url: str,
    demo_url: str,
    name: str,
) -> None:
    does = {"tool_pre_invoke": {"do": "change", "word": "bob", "to": "***"}}
    path = tmp_path / "config.yaml"
    path.write_text(
        yaml.safe_dump({"plugins": [plugin(hooks=["tool_pre_invoke", "tool_post_invoke"], does=does)]})
    )
    wanted = settings(
        plugins_enabled=True,
        plugins_config_file=path,
        approvals=True,
        redis_url=valkey_url,
        auth="jwt",
        jwt_secret_key=SECRET,
        encryption_key=KEY,
    )
    calls(model, ("demo__echo", {"text": "tell bob"}))
    with running(create_app(wanted)) as url, Person(url, name, token=token(name)) as alice:
        alice.connect(server={"url": demo_url, "alias": "demo"})
        with alice.streaming("go", message_id="moved") as frames:
            assert next(data for each, data in frames if each == "approval")["arguments"] == {
                "text": "tell ***"
            }
    with running(create_app(wanted)) as url, Person(url, name, token=token(name)) as alice:
        [approval] = wait_until(lambda: waiting(alice), "it waits here")
        assert approval["arguments"] == {"text": "tell ***"}
        decided(alice, approval)
        wait_until(lambda: len(alice.history()) == 4, "the turn has ended")
        assert alice.history()[2]["content"] == "tell ***"
    assert len(seen("tool_pre_invoke")) == 1
    assert len(seen("tool_post_invoke")) == 1


def test_what_blocks_is_in_the_audit_trail(plugged: Any, model: ModelServer, tmp_path: Path) -> None:
    calls(model, ("demo__echo", {"text": "secret sauce"}))
    does = {
        "tool_pre_invoke": {"do": "block", "word": "sauce"},
        "agent_pre_invoke": {"do": "block", "word": "bomb"},
    }
    with plugged(plugin(hooks=list(does), does=does)) as alice:
        alice.say("go")
        alice.stream("A bomb, please.")
    with closing(sqlite3.connect(tmp_path / "chat.db")) as base:
        found = base.execute("select action, decision, tool, outcome from chat_deed").fetchall()
    assert ("call", "refused", "demo__echo", "blocked") in found
    assert ("block", "refused", "probe", "TEST_CODE") in found


# Faults


FAULTS = [
    ("sequential", "fail", True),
    ("sequential", "ignore", False),
    ("sequential", "disable", False),
    ("transform", "fail", True),
    ("transform", "ignore", False),
    ("audit", "fail", True),
    ("audit", "ignore", False),
    ("concurrent", "fail", True),
    ("concurrent", "ignore", False),
    ("fire_and_forget", "fail", False),
]


@pytest.mark.parametrize("fault", ["raise", "hang"])
@pytest.mark.parametrize(("mode", "on_error", "stops"), FAULTS)
def test_a_fault_is_what_on_error_says(
    plugged: Any,
    model: ModelServer,
    monkeypatch: pytest.MonkeyPatch,
    fault: str,
    mode: str,
    on_error: str,
    stops: bool,
) -> None:
    monkeypatch.setenv("PLUGINS_PLUGIN_TIMEOUT", "1")
    calls(model, ("demo__echo", {"text": "one"}))
    does = {"tool_pre_invoke": {"do": fault}}
    with plugged(plugin(hooks=["tool_pre_invoke"], does=does, mode=mode, on_error=on_error)) as alice:
        began = time.monotonic()
        frames = alice.stream("go")
        assert time.monotonic() - began < 20, "it has an end"
        assert bool(of(frames, "blocked")) is stops
        if stops:
            assert of(frames, "tool_error")[0]["error"] == "Blocked by the plugin probe: The plugin failed."
        else:
            assert of(frames, "tool_end")[0]["output"] == "one"
        assert of(frames, "final")[0]["content"] == "Fine."
        assert "a secret" not in json.dumps(frames)


def test_what_plugins_do_is_counted_by_their_name_and_the_hook(plugged: Any, model: ModelServer) -> None:
    hooks = ["tool_pre_invoke"]
    fail, block = ({"tool_pre_invoke": each} for each in ({"do": "raise"}, {"do": "block", "word": "two"}))
    with plugged(
        plugin("fails", hooks=hooks, does=fail, on_error="ignore", priority=1),
        plugin("blocks", hooks=hooks, does=block, priority=2),
    ) as alice:
        calls(model, ("demo__echo", {"text": "one"}), ("demo__echo", {"text": "two"}))
        alice.stream("go")
        found = measured(alice.http.get("/metrics").text)
    fails, blocks = (found[name, "tool_pre_invoke"] for name in ("fails", "blocks"))
    assert (fails.asked, fails.errors, fails.blocks) == (2, 2, 0)
    assert (blocks.asked, blocks.errors, blocks.blocks) == (2, 0, 1)
    assert fails.seconds > 0


@pytest.mark.parametrize(
    ("mode", "counts"),
    [
        ("sequential", True),
        ("transform", False),
        ("audit", False),
        ("concurrent", True),
        ("fire_and_forget", False),
        ("disabled", False),
    ],
)
def test_which_modes_block(plugged: Any, model: ModelServer, mode: str, counts: bool) -> None:
    calls(model, ("demo__echo", {"text": "one"}))
    does = {"tool_pre_invoke": {"do": "block", "word": "one"}}
    with plugged(plugin(hooks=["tool_pre_invoke"], does=does, mode=mode)) as alice:
        frames = alice.stream("go")
    assert bool(of(frames, "blocked")) is counts
    assert bool(of(frames, "tool_end")) is not counts


@pytest.mark.parametrize(
    ("mode", "counts"),
    [
        ("sequential", True),
        ("transform", True),
        ("audit", False),
        ("concurrent", False),
        ("fire_and_forget", False),
    ],
)
def test_which_modes_change(plugged: Any, model: ModelServer, mode: str, counts: bool) -> None:
    calls(model, ("demo__echo", {"text": "one"}))
    does = {"tool_pre_invoke": {"do": "change", "word": "one", "to": "two"}}
    with plugged(plugin(hooks=["tool_pre_invoke"], does=does, mode=mode)) as alice:
        frames = alice.stream("go")
    assert of(frames, "tool_end")[0]["output"] == ("two" if counts else "one")


def test_priorities_and_conditions(plugged: Any, model: ModelServer, name: str) -> None:
    calls(model, ("demo__echo", {"text": "one"}))
    does = {"tool_pre_invoke": {"do": "change", "word": "two", "to": "three"}}
    first = {"tool_pre_invoke": {"do": "change", "word": "one", "to": "two"}}
    hooks = ["tool_pre_invoke"]
    with plugged(
        plugin("late", hooks=hooks, does=does, priority=9, conditions=[{"tools": ["echo"]}]),
        plugin("early", hooks=hooks, does=first, priority=1, conditions=[{"server_ids": ["demo"]}]),
        plugin("never", hooks=hooks, conditions=[{"user_patterns": ["somebody-else"]}]),
        plugin("other", hooks=hooks, conditions=[{"tools": ["add"]}]),
    ) as alice:
        frames = alice.stream("go")
    assert of(frames, "tool_end")[0]["output"] == "three"
    assert [each.plugin for each in plugins_bridge.SEEN] == ["early", "late"]


def test_no_plugin_is_shown_what_another_user_does(plugged: Any, model: ModelServer, name: str) -> None:
    with plugged(plugin(hooks=ALL)) as alice, Person(str(alice.http.base_url), f"{name}-b") as bob:
        bob.connect(server={"url": seen("chat_pre_connect")[0].payload.servers[0]["url"], "alias": "demo"})
        for person in (alice, bob, alice, bob):
            model.will(Reply(calls=[("demo__echo", {"text": person.name})]), Reply(text=person.name))
            person.say(f"I am {person.name}.")
    for each in plugins_bridge.SEEN:
        other = {name: f"I am {name}-b", f"{name}-b": f"I am {name}."}.get(each.context.user, "\0")
        assert other not in str(each.payload)
        assert len(each.local.state["asked"]) < 20  # one turn's, and no more
    assert {each.context.user for each in plugins_bridge.SEEN} == {name, f"{name}-b"}


def test_an_idle_turn_waits_for_nothing(plugged: Any, model: ModelServer) -> None:
    hooks = ["chat_event", "chat_post_connect"]
    with plugged(plugin(hooks=hooks, does={each: {"do": "hang"} for each in hooks})) as alice:
        model.will(Reply(text="Hello."))
        assert alice.say("Hi")["response"] == "Hello."
        assert seen("chat_event")
