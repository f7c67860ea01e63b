"""Nothing of what plugins block or change is anywhere before they have seen it: in no event, store or tab."""

from __future__ import annotations

import json
import secrets
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
import redis
import yaml

from mcp_chat.models.base import Piece
from mcp_chat.plugins.held import characters, cut_of, held, nothing, sentences
from tests import plugins_bridge
from tests.model_server import ModelServer, Reply
from tests.person import Person
from tests.plugins_bridge import seen
from tests.running import wait_until
from tests.test_plugins_bridge import of, plugin
from tests.test_recordings import replayed_otherwise, taken
from tests.test_uploads import send

pytestmark = pytest.mark.slow

SECRET = f"SECRET-{secrets.token_hex(4)}"
TEXT = f"One is fine. Two is fine. The word is {SECRET} here. Three is fine."


@pytest.fixture(autouse=True)
def _forget() -> None:
    plugins_bridge.SEEN.clear()


@pytest.fixture
def plugged(serve: Callable[..., str], tmp_path: Path, name: str, demo_url: str, valkey_url: str) -> Any:
    """Someone connected to the demo server, in front of an application with plugins and Valkey."""

    @contextmanager
    def begin(*plugins: Any, **settings: Any) -> Iterator[Person]:
        path = tmp_path / "config.yaml"
        path.write_text(yaml.safe_dump({"plugins": list(plugins)}))
        values = {"plugins_enabled": bool(plugins), "plugins_config_file": path, "redis_url": valkey_url}
        with Person(serve(**{**values, **settings}), name) as person:
            person.connect(server={"url": demo_url, "alias": "demo"})
            yield person

    return begin


def everywhere(tmp_path: Path, valkey_url: str, *told: Any) -> str:
    """All that anybody could read: what was told, Valkey, and the database."""
    with (
        closing(redis.Redis.from_url(valkey_url)) as store,
        closing(sqlite3.connect(tmp_path / "chat.db")) as base,
    ):
        kept = [repr(store.dump(key)) + repr(_all(store, key)) for key in store.scan_iter()]
        return "".join([json.dumps(told), *kept, *base.iterdump()])


def _all(store: Any, key: bytes) -> Any:
    match store.type(key):
        case b"stream":
            return store.xrange(key)
        case b"list":
            return store.lrange(key, 0, -1)
        case b"hash":
            return store.hgetall(key)
        case b"string":
            return store.get(key)
    return None


BEFORE_IT = {
    "sentence": "One is fine. Two is fine. ",
    "12": "One is fine. Two is fine. The word is ",
    "answer": "",
}
"""What is told of the text before the piece with the secret."""

HOOKS = ["cmf.llm_output", "evaluate", "agent_post_invoke"]


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("hold", ["sentence", "12", "answer"])
def test_what_is_blocked_is_nowhere(
    plugged: Any, model: ModelServer, tmp_path: Path, valkey_url: str, hook: str, hold: str
) -> None:
    model.will(Reply(text=TEXT))
    does = {hook: {"do": "block", "word": SECRET, "about": "such word"}}
    with plugged(plugin(hooks=[hook], does=does), plugin_hold=hold, record_turns="all") as alice:
        with alice.following() as tab:
            frames = alice.stream("Tell me.")
            second = []
            for event in tab:
                second.append(event)
                if event.name in ("error", "final"):
                    break
        history = alice.history()
        assert of(frames, "blocked")[0]["reason"] == "No such word here."
        assert any(event.name == "blocked" for event in second)
        assert "Blocked by the plugin probe" in of(frames, "error")[0]["error"]
        told = "".join(each["content"] for each in of(frames, "token"))
        assert told == (BEFORE_IT[hold] if hook != HOOKS[2] else "")
        note = history[-1]
        assert (note["content"], note["metadata"]["blocked"]["plugin"]) == (told, "probe")
        found = everywhere(tmp_path, valkey_url, frames, second, history)
    assert "is fine" in found or not told
    assert SECRET not in found
    assert "Three is" not in found


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("streamed", [True, False])
def test_what_is_changed_is_changed_everywhere(
    plugged: Any, model: ModelServer, tmp_path: Path, valkey_url: str, hook: str, streamed: bool
) -> None:
    model.will(Reply(text=TEXT), Reply(text="Yes."))
    does = {hook: {"do": "change", "word": SECRET, "to": "****"}}
    wanted = TEXT.replace(SECRET, "****")
    with plugged(plugin(hooks=[hook], does=does)) as alice:
        told = alice.stream("Tell me.") if streamed else alice.say("Tell me.")
        said = of(told, "final")[0]["content"] if streamed else told["response"]
        assert said == wanted
        assert alice.history()[-1]["content"] == wanted
        alice.say("Really?")
        assert SECRET not in everywhere(tmp_path, valkey_url, told)
    assert SECRET not in json.dumps(model.requests)


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize(("mode", "does"), [("transform", "change"), ("concurrent", "block")])
def test_each_mode_that_counts_holds_back(
    plugged: Any, model: ModelServer, hook: str, mode: str, does: str
) -> None:
    model.will(Reply(text=TEXT))
    wanted = {hook: {"do": does, "word": SECRET, "to": "****", "about": "such word"}}
    with plugged(plugin(hooks=[hook], does=wanted, mode=mode)) as alice:
        frames = alice.stream("Tell me.")
    assert bool(of(frames, "blocked")) is (does == "block")
    assert SECRET not in json.dumps(frames)


def test_a_sentence_waits_for_its_end_and_not_for_the_answer(plugged: Any, model: ModelServer) -> None:
    more = threading.Event()
    model.will(Reply(text="One is fine. Two is it", hold=more))
    hook = "cmf.llm_output"
    with (
        plugged(
            plugin(hooks=[hook], does={hook: {"do": "block", "word": SECRET, "about": "such word"}})
        ) as alice,
        alice.streaming("Tell me.") as frames,
    ):
        first = next(data["content"] for each, data in frames if each == "token")
        assert first == "One is fine. "
        more.set()
        assert "".join(data["content"] for each, data in frames if each == "token") == "Two is it"


@pytest.mark.parametrize("plugins", [[], [plugin(hooks=HOOKS, mode="audit")]])
def test_without_such_a_plugin_no_word_waits(plugged: Any, model: ModelServer, plugins: list[Any]) -> None:
    more = threading.Event()
    model.will(Reply(text="One two", hold=more))
    with plugged(*plugins) as alice, alice.streaming("Tell me.") as frames:
        assert next(data["content"] for each, data in frames if each == "token").strip() == "One"
        more.set()
        assert list(frames)[-1][0] == "final"
    assert len(seen("cmf.llm_output")) == len(plugins)


@pytest.mark.parametrize(("hooks", "thought"), [(HOOKS[2:], ""), (HOOKS, "I know ****.")])
def test_what_a_model_thinks_is_not_told_past_plugins(
    plugged: Any, model: ModelServer, tmp_path: Path, valkey_url: str, hooks: list[str], thought: str
) -> None:
    said = [{"reasoning_content": f"I know {SECRET}."}, {"content": "No."}]
    chunks = [{"choices": [{"index": 0, "delta": each, "finish_reason": None}]} for each in said]
    model.will(Reply(body="".join(f"data: {json.dumps(each)}\n\n" for each in chunks).encode()))
    does = {each: {"do": "change", "word": SECRET, "to": "****"} for each in hooks}
    with plugged(plugin(hooks=hooks, does=does)) as alice:
        frames = alice.stream("Tell me.")
        assert of(frames, "final")[0]["content"] == "No."
        assert alice.history()[-1]["metadata"].get("reasoning", "") == thought
        assert SECRET not in everywhere(tmp_path, valkey_url, frames)


def test_a_tool_call_behind_what_is_blocked_is_not_made(plugged: Any, model: ModelServer) -> None:
    model.will(Reply(text=f"{SECRET}.", calls=[("demo__add", {"a": 1, "b": 1})]), Reply(text="Done."))
    hook = "cmf.llm_output"
    with plugged(
        plugin(hooks=[hook], does={hook: {"do": "block", "word": SECRET, "about": "such word"}})
    ) as alice:
        frames = alice.stream("go")
        assert of(frames, "tool_start") == []
        assert [each["role"] for each in alice.history()] == ["user", "assistant"]


@pytest.mark.parametrize("does", ["change", "block"])
def test_a_recording_has_what_was_let_through(plugged: Any, model: ModelServer, does: str) -> None:
    calls = [("demo__echo", {"text": SECRET})]
    model.will(Reply(text="So.", calls=calls), Reply(text=f"Fine. {SECRET}. So."))
    answer = {"do": does, "word": SECRET, "to": "****", "about": "such word"}
    hooks = ["tool_pre_invoke", "tool_post_invoke", "cmf.llm_output"]
    wanted = dict.fromkeys(hooks, answer)
    with plugged(plugin(hooks=hooks, does=wanted), record_turns="all") as alice:
        ended = alice.stream("go", message_id="recorded")
        recording = taken(alice, "recorded")
        assert ended[-1][0] == ("final" if does == "change" else "error")
        assert SECRET not in alice.get("turns/recorded/recording").text
        assert replayed_otherwise(recording) == []


def test_files_that_go_with_a_message_are_looked_at(plugged: Any, model: ModelServer) -> None:
    hook = "cmf.llm_input"
    with plugged(plugin(hooks=[hook], does={hook: {"do": "change", "word": SECRET, "to": "****"}})) as alice:
        upload = send(alice, f"So: {SECRET}".encode(), name="note.txt").json()
        model.will(Reply(text="Read."))
        alice.say("Read it.", attachments=[upload["upload_id"]])
    assert "So: ****" in json.dumps(model.requests)
    assert SECRET not in json.dumps(model.requests)


def test_the_summary_goes_through_the_same_doors(
    plugged: Any, model: ModelServer, tmp_path: Path, valkey_url: str
) -> None:
    hook = "cmf.llm_output"
    does = {hook: {"do": "change", "word": SECRET, "to": "****"}}
    hooks = [hook, "cmf.llm_input"]
    with plugged(plugin(hooks=hooks, does=does), summary=True, history_max_messages=2) as alice:
        model.will(*[Reply(text=f"Answer {n}: {SECRET}.") for n in range(9)])
        for n in range(4):
            alice.say(f"Question {n}?")
        wait_until(lambda: _summaries(hook), "a summary was looked at")
        assert _summaries("cmf.llm_input")
        assert SECRET not in everywhere(tmp_path, valkey_url, alice.history())


def _summaries(hook: str) -> list[Any]:
    return [each for each in seen(hook) if each.context.request_id.startswith("summary-")]


@pytest.mark.parametrize("does", ["block", "hang"])
def test_what_is_held_back_and_never_told_is_counted(plugged: Any, model: ModelServer, does: str) -> None:
    """Whether a plugin blocks it, or the user stops before a plugin has looked at it."""
    model.will(Reply(text=f"{'word ' * 400}{SECRET}", counts=False))
    hook = "cmf.llm_output"
    wanted = {hook: {"do": does, "word": SECRET, "about": "such word"}}
    with plugged(plugin(hooks=[hook], does=wanted), plugin_hold="answer") as alice:
        with alice.streaming("Tell me.") as frames:
            wait_until(lambda: seen(hook), "the plugin is asked")
            if does == "hang":
                alice.post("cancel")
            told = list(frames)
        assert of(told, "token") == []
        assert SECRET not in json.dumps(told)
        assert alice.get("usage").json()["today"]["output_tokens"] > 400


# How much is held back


def cuts(text: str, hold: str) -> list[str]:
    """The parts in which plugins see a text that comes sign by sign."""
    parts: list[str] = []

    async def judge(part: str, thought: bool) -> str:
        parts.append(part)
        return part

    async def finish(whole: Any) -> str:
        assert whole.text == text
        return text

    async def pieces() -> Any:
        for sign in text:
            yield Piece(text=sign)

    async def run() -> str:
        return "".join([each.text async for each in held(pieces(), judge, finish, cut_of(hold), most=9999)])

    assert anyio.run(run) == text
    return parts


@pytest.mark.parametrize(
    ("text", "hold", "parts"),
    [
        ("Pi is 3.14. It is! Yes", "sentence", ["Pi is 3.14. ", "It is! ", "Yes"]),
        ("Mail a.b@c.de now.\nOr not", "sentence", ["Mail a.b@c.de now.\n", "Or not"]),
        ("好。再见", "sentence", ["好。", "再见"]),
        ("one two three four", "8", ["one two ", "three four"]),
        ("one two. three", "answer", ["one two. three"]),
        ("unbreakable" * 3, "4", ["unbreakable" * 3]),
    ],
)
def test_where_a_text_is_cut(text: str, hold: str, parts: list[str]) -> None:
    assert cuts(text, hold) == parts


def test_a_thought_without_an_end_is_told_before_the_text() -> None:
    async def judge(part: str, thought: bool) -> str:
        return part

    async def finish(whole: Any) -> str:
        return str(whole.text)

    async def pieces() -> Any:
        for piece in (Piece(thought="I add"), Piece(text="It is 3. "), Piece(text="Yes")):
            yield piece

    async def run() -> list[str]:
        told = held(pieces(), judge, finish, sentences, most=9999)
        return [said async for each in told for said in (each.thought, each.text) if said]

    assert anyio.run(run) == ["I add", "It is 3. ", "Yes"]


@pytest.mark.parametrize("aloud", [True, False])
def test_thoughts_are_told_only_where_a_plugin_could_look_at_them(aloud: bool) -> None:
    """The whole answer is looked at without them; their model is shown them again all the same."""
    blocks = ({"block": {"thinking": "I add"}},)

    async def judge(part: str, thought: bool) -> str:
        return part

    async def finish(whole: Any) -> str:
        return str(whole.text)

    async def pieces() -> Any:
        for piece in (Piece(thought="I add"), Piece(text="It is 3."), Piece(blocks=blocks)):
            yield piece

    async def run() -> list[Piece]:
        return [each async for each in held(pieces(), judge, finish, nothing, most=9999, aloud=aloud)]

    told = anyio.run(run)
    assert "".join(each.thought for each in told) == ("I add" if aloud else "")
    assert "".join(each.text for each in told) == "It is 3."
    assert [each.blocks for each in told if each.blocks] == [blocks]


def test_a_changed_thought_is_told_and_kept_for_its_model_in_no_other_form() -> None:
    async def judge(part: str, thought: bool) -> str:
        return part.replace("hush", "****")

    async def finish(whole: Any) -> str:
        return str(whole.text)

    async def pieces() -> Any:
        for piece in (Piece(thought="Say hush. "), Piece(text="No."), Piece(blocks=({"thinking": "hush"},))):
            yield piece

    async def run() -> list[Piece]:
        return [each async for each in held(pieces(), judge, finish, sentences, most=9999)]

    told = anyio.run(run)
    assert "".join(each.thought for each in told) == "Say ****. "
    assert [each.blocks for each in told if each.blocks] == []


def test_each_setting_has_its_way() -> None:
    assert (cut_of("sentence"), cut_of("answer")) == (sentences, nothing)
    assert characters(3)("ab cd") == 3
