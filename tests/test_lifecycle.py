"""From connect to disconnect: what a user has, whatever expires, rests or is replaced meanwhile."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import httpx
import pytest
from redis import Redis
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mcp_chat.demo.server import build_app
from mcp_chat.identity import user_key
from tests.installation import Installation
from tests.model_server import ModelServer, Reply
from tests.person import Person
from tests.running import running, wait_until
from tests.test_events import Tabs, heard, on_two_workers, until

pytestmark = pytest.mark.slow

SESSION_TTL = 10
SHORT = 300
"""Seconds that may be left to what stays of a user who has disconnected: `LLMCHAT_SESSION_TTL`."""

far_model, far, two = on_two_workers()


@dataclass
class Counted:
    """An MCP server in front of which its sessions are counted."""

    app: ASGIApp
    began: list[str] = field(default_factory=list)
    ended: set[str] = field(default_factory=set)

    @property
    def open(self) -> set[str]:
        """The sessions that were begun and not ended."""
        return set(self.began) - self.ended

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, and look at the ids."""

        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                id_ = dict(message["headers"]).get(b"mcp-session-id", b"").decode()
                if id_ and id_ not in self.began:
                    self.began.append(id_)
            await send(message)

        try:
            if scope["type"] == "http" and scope["method"] == "DELETE":
                self._end(scope)
            await self.app(scope, receive, sent)
        finally:  # a goodbye, or the end of the stream that a client has open all the time
            if scope["type"] == "http" and scope["method"] == "GET":
                self._end(scope)

    def _end(self, scope: Scope) -> None:
        self.ended.add(dict(scope["headers"]).get(b"mcp-session-id", b"").decode())


@pytest.fixture
def counted() -> Counted:
    """The demo server, counted."""
    return Counted(build_app("127.0.0.1"))


@pytest.fixture
def server(counted: Counted) -> Iterator[dict[str, str]]:
    """It, as a body of a connect names it."""
    with running(counted) as url:
        yield {"url": f"{url}/mcp", "alias": "demo"}


@pytest.fixture
def tab(two: Installation, name: str) -> Iterator[Tabs]:
    """Opens windows of a user who is connected."""
    with Tabs(two, name) as tabs:
        tabs().connect()
        yield tabs


def of(redis: Redis, name: str) -> dict[str, int]:
    """A user's keys in Redis, and the seconds that they have left."""
    keys = redis.keys(f"*{{{user_key(name)}}}*")
    return {str(key): int(redis.ttl(key)) for key in keys}


def pass_by(redis: Redis, name: str, seconds: int) -> list[str]:
    """Let all of a user's keys expire that would within so many seconds; none may stay for ever."""
    left = of(redis, name)
    assert all(ttl != -1 for ttl in left.values()), left  # less than a second reads 0
    gone = [key for key, ttl in left.items() if ttl <= seconds]
    if gone:
        redis.delete(*gone)
    return gone


def is_released(url: str, why: str, times: int) -> bool:
    """Whether a user was given up so often for this reason."""
    text = httpx.get(f"{url}/metrics", trust_env=False).text
    [line] = [each for each in text.splitlines() if f'users_released_total{{why="{why}"}}' in each]
    return float(line.rpartition(" ")[2]) == times


# What expires


@pytest.mark.parametrize("database", [True, False], ids=["database", "redis-only"])
def test_the_session_ttl_ends_nothing_that_the_user_had(
    serve: Callable[..., str], valkey_url: str, name: str, model: ModelServer, database: bool
) -> None:
    more: dict[str, Any] = {} if database else {"database_url": ""}
    url = serve(redis_url=valkey_url, session_ttl=SESSION_TTL, **more)
    with Person(url, name) as person, Redis.from_url(valkey_url, decode_responses=True) as redis:
        session = person.connect()["session_id"]
        for count in range(3):
            pass_by(redis, name, SESSION_TTL)
            assert (f"user:config:{{{name}}}" in of(redis, name)) is not database
            assert person.get("status/{me}").json()["connected"] is True
            answer = person.say("hello")
            assert answer["response"] == f"{2 * count + 1} messages, the last from user: hello"
            assert answer["session_id"] == session
        assert person.get("config/{me}").status_code == 200


@pytest.mark.parametrize("key", ["user:config", "chat:history", "active:session", "chat:events", "*"])
def test_whatever_expires_a_chat_goes_on_without_a_connect(
    tab: Tabs, far: ModelServer, two: Installation, name: str, key: str
) -> None:
    with two.redis() as redis:
        for worker in (0, 1, 0):
            before = len(tab(1).history())
            found = redis.keys(f"{key}:{{{name}}}*")
            if found:
                redis.delete(*found)
            assert tab(1 - worker).get("status/{me}").json()["connected"] is True
            answer = tab(worker).say("hello")
            assert answer["response"] == f"{before + 1} messages, the last from user: hello"


# Rest


@pytest.mark.parametrize("store", ["memory", "redis"])
def test_an_idle_user_is_put_to_rest_and_the_next_message_wakes_them(
    serve: Callable[..., str],
    valkey_url: str,
    model: ModelServer,
    name: str,
    counted: Counted,
    server: dict[str, str],
    store: str,
) -> None:
    url = serve(idle_timeout=0.5, redis_url=valkey_url if store == "redis" else "")
    with Person(url, name) as person:
        session = person.connect(server=server)["session_id"]
        for count in range(1, 3):
            wait_until(lambda: counted.began and not counted.open, "the connection is closed")
            wait_until(partial(is_released, url, "idle", count), "nobody serves the user")
            assert person.get("status/{me}").json()["connected"] is True
            assert person.get("config/{me}").json()["session_id"] == session
            model.will(Reply(calls=[("demo__add", {"a": 2, "b": count})]), Reply(text="Added."))
            answer = person.say("add")
            assert answer["tool_invocations"][1]["output"] == str(2 + count)
            assert answer["session_id"] == session
        assert len(person.history()) == 8


def test_a_user_whose_turn_runs_is_not_idle(
    serve: Callable[..., str], model: ModelServer, name: str, counted: Counted, server: dict[str, str]
) -> None:
    url = serve(idle_timeout=0.3)
    with Person(url, name) as person:
        person.connect(server=server)
        counts = ("demo__slow_count", {"steps": 4, "pause": 0.6})
        model.will(Reply(calls=[counts]), Reply(text="Counted."))
        answer = person.say("count")
        assert answer["response"] == "Counted."
        assert answer["tool_invocations"][1]["output"] == "Counted to 4."


# Connect


@pytest.mark.parametrize("worker", [0, 1])
def test_a_connect_stops_what_runs_and_begins_a_new_conversation(
    tab: Tabs, far: ModelServer, counted: Counted, server: dict[str, str], worker: int
) -> None:
    old = tab().connect(server=server)["session_id"]
    [before] = counted.open
    far.will(Reply(text="one two three", hang_after=3))
    with tab().sending("count") as events:
        heard(events, "one two")
        new = tab(worker).connect(server=server)["session_id"]
        final = until(events, "final", "error")[-1]
    assert (final.name, final.data["stopped"], final.data["content"]) == ("final", True, "one two")
    assert final.data["session_id"] == old != new
    assert len(counted.open) == 1
    assert before not in counted.open
    for place in (0, 1):
        person = tab(place)
        assert person.history() == []
        assert person.get("config/{me}").json()["session_id"] == new
        kept = [message["content"] for message in person.history(f"?session_id={old}")]
        assert kept == ["count", "one two"]
    answer = tab(1 - worker).say("hello")
    assert answer["response"] == "1 messages, the last from user: hello"
    assert answer["session_id"] == new
    listed = tab().get("sessions").json()["sessions"]
    assert [(each["session_id"], each["connected"]) for each in listed] == [(new, True), (old, False)]
    assert tab().say("go on", session_id=old)["response"] == "3 messages, the last from user: go on"


@pytest.mark.parametrize("worker", [0, 1])
def test_a_connect_that_fails_leaves_all_as_it_was(
    tab: Tabs, far: ModelServer, counted: Counted, server: dict[str, str], worker: int
) -> None:
    tab().connect(server=server)
    config = tab().get("config/{me}").json()
    opened = counted.open
    hold = threading.Event()
    far.will(Reply(text="one two three four", hold=hold))
    with tab().sending("count") as events:
        heard(events, "one two three")
        with socket.create_server(("127.0.0.1", 0)) as closed:
            dead = {"url": f"http://127.0.0.1:{closed.getsockname()[1]}/mcp", "alias": "dead"}
        llm = {"model": "openai:scripted", "temperature": 0.5}
        refused = tab(worker).post("connect", llm=llm, servers=[server, dead])
        assert refused.status_code == 503, refused.text
        wait_until(lambda: counted.open == opened, "what was opened in vain is closed")
        assert tab(worker).get("history/{me}").json()["running"] is not None
        hold.set()
        final = until(events, "final", "error")[-1]
    assert (final.name, final.data["stopped"], final.data["content"]) == (
        *("final", False),
        "one two three four",
    )
    assert tab(1 - worker).get("config/{me}").json() == config
    far.will(Reply(calls=[("demo__add", {"a": 2, "b": 3})]), Reply(text="It is 5."))
    assert tab(worker).say("add")["tool_invocations"][1]["output"] == "5"


def test_a_turn_that_calls_a_tool_is_stopped_by_a_connect_and_writes_nothing_more(
    tab: Tabs, far: ModelServer, counted: Counted, server: dict[str, str]
) -> None:
    old = tab().connect(server=server)["session_id"]
    far.will(Reply(calls=[("demo__slow_count", {"steps": 60})]))
    with tab().sending("count") as events:
        until(events, "tool_start")
        tab(1).connect()
        assert until(events, "final")[-1].data["stopped"] is True
    assert counted.open == set()
    assert tab().history() == []
    kept = tab().history(f"?session_id={old}")
    assert [message["role"] for message in kept] == ["user", "assistant", "tool"]
    tab(1).say("hello")
    assert tab().history(f"?session_id={old}") == kept


# Disconnect


@pytest.mark.parametrize("worker", [0, 1])
def test_when_a_disconnect_answers_all_has_ended(
    tab: Tabs,
    far: ModelServer,
    two: Installation,
    name: str,
    counted: Counted,
    server: dict[str, str],
    worker: int,
) -> None:
    tab().connect(server=server)
    tab().say("hello")
    far.will(Reply(text="one two three", hang_after=3))
    with tab().sending("count") as events, two.redis() as redis:
        heard(events, "one two")
        person = tab(worker)
        assert any(key.startswith("chat:history") for key in of(redis, name))
        assert person.post("disconnect").json()["status"] == "disconnected"
        left = of(redis, name)
        assert counted.open == set()
        final = until(events, "final", "error")[-1]
    assert (final.name, final.data["stopped"], final.data["content"]) == ("final", True, "one two")
    wait_until(lambda: far.hung_up, "the model sees that nobody listens")
    assert not [key for key in left if key.startswith(("user:config", "chat:history"))]
    assert {key: ttl for key, ttl in left.items() if ttl > SHORT and ":seen:" not in key} == {}
    for place in (0, 1):
        assert tab(place).get("status/{me}").json()["connected"] is False
        refused = tab(place).post("chat", message="still there?")
        assert refused.json()["detail"].startswith("No active session found.")


def test_a_disconnect_removes_the_recent_messages_of_all_conversations(
    tab: Tabs, far: ModelServer, two: Installation, name: str
) -> None:
    other = tab().http.post("/llmchat/sessions", json={}).json()["session_id"]
    tab().say("hello")
    tab().say("hello", session_id=other)
    assert tab(1).post("disconnect").json()["status"] == "disconnected"
    with two.redis() as redis:
        assert not [key for key in of(redis, name) if key.startswith("chat:history")]


def test_what_is_left_of_a_user_who_disconnected_soon_expires(
    tab: Tabs, far: ModelServer, two: Installation, name: str
) -> None:
    tab().say("hello")
    assert tab(1).post("disconnect").json()["status"] == "disconnected"
    with two.redis() as redis:
        keys = [f"{kind}:{{{name}}}" for kind in ("active:session", "chat:events")]
        wait_until(lambda: all(of(redis, name)[key] <= SHORT for key in keys), "they expire soon")
        pass_by(redis, name, SHORT)
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda person: person.connect()["session_id"], (tab(0), tab(1)))
    config = tab().get("config/{me}").json()
    assert config["session_id"] in (first, second)
    assert tab(1).say("anew")["response"] == "1 messages, the last from user: anew"
