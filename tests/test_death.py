"""A worker dies or stops with a turn half done: what the next owner makes of it. All processes are real."""

from __future__ import annotations

import asyncio
import re
import signal
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from mcp.server.mcpserver import MCPServer

from tests.chaos import unfenced
from tests.installation import Installation
from tests.model_server import ModelServer, Reply
from tests.person import Frame, Person
from tests.running import running, wait_until

RECOVERY_SECONDS = 60.0
"""A limit for waiting; how long it takes is measured by `make bench`."""


@dataclass
class Till:
    """An MCP server whose calls last until they are let go."""

    calls: list[str] = field(default_factory=list)
    go: threading.Event = field(default_factory=threading.Event)

    def server(self) -> MCPServer:
        """Return it with its tools: `charge` has an effect, `look` may be repeated."""
        server = MCPServer("till", log_level="ERROR")
        server.add_tool(self.charge)
        server.add_tool(self.look)
        return server

    async def charge(self) -> str:
        """Charge."""
        return await self._call("charge")

    async def look(self) -> str:
        """Look."""
        return await self._call("look")

    async def _call(self, name: str) -> str:
        self.calls.append(name)
        while not self.go.is_set():  # noqa: ASYNC110 - set in another thread
            await asyncio.sleep(0.01)
        return f"{name}: done"


@pytest.fixture(scope="module")
def till() -> Till:
    """The server of all tests here."""
    return Till()


@pytest.fixture(scope="module")
def model() -> ModelServer:
    """The model of all tests here."""
    return ModelServer()


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory, till: Till, model: ModelServer) -> Iterator[Installation]:
    """The installation of all tests here that do not break it."""
    with installed(tmp_path_factory.mktemp("death"), till, model) as installation:
        yield installation


@contextmanager
def installed(folder: Path, till: Till, model: ModelServer, **env: str) -> Iterator[Installation]:
    """Start two workers, whose operator calls one of the till's tools safe."""
    app = till.server().streamable_http_app(max_sessions=None)
    with running(app) as server, running(model.app) as model_url:
        servers = {"till": {"url": f"{server}/mcp", "safe_tools": ["look"]}}
        with Installation(folder, f"{model_url}/v1", workers=2, servers=servers, **env) as installation:
            yield installation


@pytest.fixture(autouse=True)
def clean(till: Till, model: ModelServer, chat: Installation) -> Iterator[None]:
    """Leave nothing of the test before, and two workers for the next."""
    model.script.clear()
    model.requests.clear()
    till.calls.clear()
    till.go.clear()
    yield
    till.go.set()
    wait_until(lambda: len(chat.workers()) == 2, "two workers")


@pytest.fixture
def owner(chat: Installation) -> psutil.Process:
    """The worker that will own the user and die."""
    return chat.workers()[0]


@pytest.fixture
def reader(chat: Installation, owner: psutil.Process, name: str) -> Iterator[Person]:
    """The user, served by the owner, in front of the other worker."""
    with chat.person(name, owner) as person:
        person.connect(server={"name": "till"})
    with chat.person(name, chat.workers()[1]) as person:
        yield person


def spoken(frames: Iterator[Frame], text: str) -> None:
    """Read a stream until the model has said this much."""
    said = ""
    while said != text:
        event, data = next(frames)
        assert event == "token", data
        said += data["content"]


def has_fenced(chat: Installation) -> bool:
    """Whether a worker was refused."""
    text = httpx.get(f"{chat.url}/metrics", trust_env=False, timeout=60).text
    return re.search(r"users_fenced_total\{.*\} [1-9]", text) is not None


def rest_of(frames: Iterator[Frame]) -> tuple[list[str], str]:
    """Read a stream to its end: the names of its frames, and its text."""
    found = list(frames)
    return [event for event, _ in found], "".join(
        data["content"] for event, data in found if event == "token"
    )


def told(person: Person) -> list[tuple[str, str]]:
    """Who said what."""
    return [(message["role"], message["content"]) for message in person.history()]


def deeds(chat: Installation, user: str) -> list[tuple[str, ...]]:
    """What the audit trail has of a user's tool calls."""
    with sqlite3.connect(chat.data / "mcp-chat.db") as database:
        return database.execute(
            "SELECT action, decision, tool, outcome FROM chat_deed WHERE user_key = ? AND action = 'call'",
            [user],
        ).fetchall()


def test_an_answer_that_was_broken_off_is_void_and_given_once_more(
    chat: Installation, owner: psutil.Process, reader: Person, model: ModelServer
) -> None:
    model.will(Reply(text="one two three", hang_after=3))
    with reader.streaming("count") as frames:
        spoken(frames, "one two")
        assert owner in chat.talking_to_the_model()
        owner.kill()
        event, data = next(frames)
        assert event == "discard"
        assert set(data) == {"turn_id", "after"}
        names, text = rest_of(frames)
    assert names[-1] == "final"
    assert text == "1 messages, the last from user: count"
    assert told(reader) == [("user", "count"), ("assistant", text)]
    assert "interrupted" not in reader.history()[-1]["metadata"]
    assert len(model.requests) == 2


@pytest.mark.slow
def test_what_has_killed_two_owners_is_given_up_and_its_text_kept(
    chat: Installation, owner: psutil.Process, reader: Person, model: ModelServer
) -> None:
    model.will(Reply(text="one two three", hang_after=3), Reply(text="four five six", hang_after=3))
    reading = chat.workers()[1]
    with reader.streaming("count", message_id="twice") as frames:
        spoken(frames, "one two")
        owner.kill()
        assert next(frames)[0] == "discard"
        spoken(frames, "four five")
        assert chat.talking_to_the_model() == [reading]
        reading.kill()
        with pytest.raises(httpx.RemoteProtocolError):
            list(frames)
    with chat.person(reader.name) as again:
        response = again.post("chat", message="count", message_id="twice")
        assert response.status_code == 503
        assert "interrupted" in response.json()["detail"]
        assert told(again) == [("user", "count"), ("assistant", "four five")]
        assert again.history()[-1]["metadata"]["interrupted"] is True
        assert again.say("go on")["response"] == "3 messages, the last from user: go on"


def test_a_call_whose_outcome_is_unknown_is_never_made_again(
    chat: Installation, owner: psutil.Process, reader: Person, model: ModelServer, till: Till
) -> None:
    model.will(Reply(text="Charging.", calls=[("till__charge", {})]))
    with reader.streaming("pay") as frames:
        assert [next(frames)[0] for _ in range(2)] == ["token", "tool_start"]
        wait_until(lambda: till.calls, "the call has arrived")
        owner.kill()
        found = list(frames)
    assert [event for event, _ in found] == ["tool_error", "error"]
    assert "till__charge" in found[-1][1]["error"]
    assert found[-1][1]["recoverable"] is True
    assert till.calls == ["charge"]
    assert [role for role, _ in told(reader)] == ["user", "assistant", "tool"]
    kept = reader.history()[-1]
    assert kept["status"] == "error"
    assert kept["metadata"] == {"interrupted": True, "outcome": "unknown"}
    assert deeds(chat, reader.name) == [("call", "allowed", "till__charge", "unknown")]
    assert len(model.requests) == 1
    assert reader.say("was it charged?")["response"].startswith("4 messages")
    assert till.calls == ["charge"]


def test_what_was_said_into_a_turn_is_there_once_when_its_owner_dies_before_it_comes_in(
    chat: Installation, owner: psutil.Process, reader: Person, model: ModelServer, till: Till
) -> None:
    model.will(Reply(calls=[("till__look", {})]), Reply(text="Both."))
    with reader.streaming("look") as frames, chat.person(reader.name, chat.workers()[1]) as tab:
        assert next(frames)[0] == "tool_start"
        wait_until(lambda: till.calls, "the call has arrived")
        with tab.streaming("and be brief", if_running="steer", message_id="s1") as more:
            owner.kill()
            wait_until(lambda: till.calls == ["look"] * 2, "it was made again", seconds=RECOVERY_SECONDS)
            till.go.set()
            rest, text = rest_of(more)
        names, whole = rest_of(frames)
    assert (rest[0], rest[-1], text) == ("steered", "final", "Both.")
    assert (names.count("steered"), names[-1], whole) == (1, "final", "Both.")
    assert [role for role, _ in told(reader)] == ["user", "assistant", "tool", "user", "assistant"]
    assert told(reader)[3] == ("user", "and be brief")
    assert reader.say("and be brief", message_id="s1", if_running="steer")["response"] == "Both."
    assert len(model.requests) == 2


def test_what_was_said_into_a_turn_is_there_once_when_its_owner_dies_after_it_came_in(
    chat: Installation, owner: psutil.Process, reader: Person, model: ModelServer
) -> None:
    hold = threading.Event()
    model.will(Reply(text="one two three", hold=hold), Reply(text="four five six", hang_after=3))
    with reader.streaming("count") as frames, chat.person(reader.name, chat.workers()[1]) as tab:
        spoken(frames, "one two")
        with tab.streaming("go on", if_running="steer", message_id="s2") as more:
            tab.taken_up()
            hold.set()
            assert next(more)[0] == "steered"
            spoken(more, "four five")
            model.will(Reply(text="seven"))
            owner.kill()
            assert next(more)[0] == "discard"
            rest, text = rest_of(more)
        whole = list(frames)
    assert (rest[-1], text) == ("final", "seven")
    assert [event for event, _ in whole].count("steered") == 1
    assert whole[-1][1]["content"] == "one two three\n\nseven"
    assert told(reader) == [
        ("user", "count"),
        ("assistant", "one two three"),
        ("user", "go on"),
        ("assistant", "seven"),
    ]
    assert [message["content"] for message in model.requests[-1]["messages"]] == [
        *("count", "one two three", "go on"),
    ]


@pytest.mark.slow
def test_a_call_that_the_operator_has_declared_safe_is_made_again(
    owner: psutil.Process, reader: Person, model: ModelServer, till: Till
) -> None:
    model.will(Reply(calls=[("till__look", {})]), Reply(text="Seen."))
    with reader.streaming("look") as frames:
        assert next(frames)[0] == "tool_start"
        wait_until(lambda: till.calls, "the call has arrived")
        owner.kill()
        wait_until(lambda: till.calls == ["look"] * 2, "it was made again", seconds=RECOVERY_SECONDS)
        till.go.set()
        names, text = rest_of(frames)
    assert names == ["tool_start", "tool_end", "token", "final"]
    assert text == "Seen."
    assert [role for role, _ in told(reader)] == ["user", "assistant", "tool", "assistant"]


@pytest.mark.slow
def test_a_turn_whose_reader_dies_with_its_owner_goes_on_unasked(
    chat: Installation, owner: psutil.Process, model: ModelServer, name: str
) -> None:
    model.will(Reply(text="one two three", hang_after=3))
    with chat.person(name, owner) as person, chat.person(name, chat.workers()[1]) as witness:
        person.connect()
        with person.streaming("count") as frames:
            spoken(frames, "one two")
            owner.kill()
            with pytest.raises(httpx.RemoteProtocolError):
                list(frames)
        wait_until(lambda: len(model.requests) == 2, "the model is asked again", seconds=RECOVERY_SECONDS)
        wait_until(lambda: len(told(witness)) == 2, "the answer is in the history")
        assert told(witness)[-1] == ("assistant", "1 messages, the last from user: count")


@pytest.mark.slow
def test_a_worker_that_was_stopped_for_a_while_cannot_write_any_more(
    chat: Installation, owner: psutil.Process, reader: Person, model: ModelServer
) -> None:
    hold = threading.Event()
    model.will(Reply(text="one two three four", hold=hold))
    with reader.streaming("count") as frames:
        spoken(frames, "one two three")
        owner.suspend()
        hold.set()  # the rest is there for it when it goes on
        try:
            assert next(frames)[0] == "discard"
            names, text = rest_of(frames)
        finally:
            owner.resume()
    assert names[-1] == "final"
    assert told(reader) == [("user", "count"), ("assistant", text)]
    with chat.person(reader.name, owner) as back:
        assert back.say("go on")["response"] == "3 messages, the last from user: go on"
        assert told(back) == told(reader)


@pytest.mark.slow
@pytest.mark.parametrize("fenced", [True, False])
def test_it_is_the_fences_that_keep_a_stopped_worker_from_a_second_call(
    tmp_path: Path, model: ModelServer, till: Till, name: str, fenced: bool
) -> None:
    call: list[tuple[str, Any]] = [("till__charge", {})]
    hold = threading.Event()
    model.will(Reply(text="one two three", calls=call, hold=hold), Reply(calls=call))
    with installed(tmp_path, till, model, **({} if fenced else unfenced.ENV)) as chat:
        owner, other = chat.workers()
        with chat.person(name, owner) as person:
            person.connect(server={"name": "till"})
        with chat.person(name, other) as reader, reader.streaming("pay") as frames:
            spoken(frames, "one two three")
            owner.suspend()
            hold.set()
            wait_until(lambda: till.calls == ["charge"], "the next owner calls", seconds=RECOVERY_SECONDS)
            owner.resume()
            wait_until(lambda: len(till.calls) == 2 or has_fenced(chat), "a call or a refusal")
            till.go.set()
            assert any(event in ("final", "error") for event, _ in frames)
            assert len(till.calls) == (1 if fenced else 2)


@pytest.mark.slow
def test_a_deploy_breaks_no_turn(
    chat: Installation, owner: psutil.Process, reader: Person, model: ModelServer, till: Till
) -> None:
    model.will(Reply(text="one two three", hang_after=3))
    before = chat.workers()
    with reader.streaming("count", message_id="long") as frames:
        spoken(frames, "one two")
        chat.master().send_signal(signal.SIGHUP)
        found = list(frames)
    assert found[-1][0] == "reconnect"
    wait_until(lambda: not set(before) & set(chat.workers()), "all workers are new", seconds=90)
    with chat.person(reader.name) as again:
        with again.streaming("count", message_id="long") as frames:
            names, _ = rest_of(frames)
        assert names[-1] == "final"
        assert told(again) == [("user", "count"), ("assistant", "1 messages, the last from user: count")]
        assert "interrupted" not in again.history()[-1]["metadata"]
