"""Commands of one user that meet: each has an end, and the user can go on."""

from __future__ import annotations

import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from mcp.server import MCPServer

from tests.model_server import ModelServer, Reply
from tests.person import Person
from tests.running import running, wait_until

pytestmark = pytest.mark.slow


@contextmanager
def silent_server() -> Iterator[str]:
    """A server that accepts and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/mcp"


def in_background(pool: ThreadPoolExecutor, alice: Person, path: str, **body: Any) -> Any:
    """Post on a connection of its own."""
    cookies = dict(alice.http.cookies)

    def post() -> httpx.Response:
        url = f"{alice.http.base_url}/llmchat/{path}"
        return httpx.post(
            url, json={"user_id": alice.name, **body}, cookies=cookies, timeout=30, trust_env=False
        )

    return pool.submit(post)


def test_a_disconnect_overtakes_a_connect_that_hangs(alice: Person) -> None:
    alice.connect()
    with silent_server() as url, ThreadPoolExecutor() as pool:
        began = time.monotonic()
        hanging = in_background(pool, alice, "connect", server={"url": url}, llm={"model": "openai:scripted"})
        wait_until(lambda: threading.active_count() > 1 and time.monotonic() - began > 0.3, "it hangs")
        assert alice.post("disconnect").json()["status"] == "disconnected"
        assert time.monotonic() - began < 10, "the connect itself may take 15 s"
        assert hanging.result().status_code == 400
    assert alice.post("chat", message="anybody?").status_code == 400


def test_a_turn_is_stopped_while_a_connect_hangs(alice: Person, model: ModelServer) -> None:
    model.will(Reply(text="word " * 500, pause=0.05))
    alice.connect()
    with silent_server() as url, ThreadPoolExecutor() as pool, alice.streaming("tell me") as frames:
        next(frames)
        began = time.monotonic()
        in_background(pool, alice, "connect", server={"url": url}, llm={"model": "openai:scripted"})
        stopped = in_background(pool, alice, "cancel").result()
        assert stopped.json()["status"] == "cancelled"
        assert time.monotonic() - began < 10
        assert list(frames)[-1][1]["stopped"] is True


def test_what_was_queued_behind_a_disconnect_is_carried_out_by_the_next_owner(
    alice: Person, demo_url: str
) -> None:
    alice.connect()
    with silent_server() as url, ThreadPoolExecutor(max_workers=8) as pool:
        server = {"url": demo_url, "alias": "demo"}
        in_background(pool, alice, "connect", server={"url": url}, llm={"model": "openai:scripted"})
        gone = in_background(pool, alice, "disconnect")
        back = in_background(pool, alice, "connect", server=server, llm={"model": "openai:scripted"})
        said = in_background(pool, alice, "chat", message="hello")
        assert gone.result().status_code == 200
        assert back.result().status_code in (200, 400)
        assert said.result().status_code in (200, 400, 503)
    alice.connect(server=server)
    assert alice.say("are you there?")["response"].startswith("1 messages")


def test_a_cancel_in_the_first_moments_of_a_turn_leaves_it_an_end(alice: Person) -> None:
    alice.connect()
    with ThreadPoolExecutor() as pool:
        for round_ in range(25):
            chat = in_background(pool, alice, "chat", message=f"message {round_}")
            time.sleep(round_ / 1000)  # the moment is the point: each round another one
            in_background(pool, alice, "cancel").result()
            assert chat.result().status_code == 200
            assert alice.get("history/{me}").json()["running"] is None
    assert alice.say("still there?")["stopped"] is False


def test_what_was_stopped_while_it_was_written_is_shown_to_the_model(
    serve: Callable[..., str], name: str, valkey_url: str, tmp_path: Path, model: ModelServer
) -> None:
    with (
        Person(serve(redis_url=valkey_url), name) as alice,
        ThreadPoolExecutor() as pool,
        closing(sqlite3.connect(tmp_path / "chat.db")) as other,
    ):
        alice.connect()
        alice.say("first")
        model.will(Reply(text="your name is Alice", pause=0.2))
        with alice.streaming("my name is Alice") as frames:
            said = next(frames)[1]["content"]
            other.execute("BEGIN IMMEDIATE")  # the answer has to wait for its place in the history
            while said != "your name is Alice":
                said += next(frames)[1]["content"]
            stopping = in_background(pool, alice, "cancel")
            time.sleep(2)  # the command is on its way through the inbox
            other.execute("ROLLBACK")
            assert stopping.result().status_code == 200
            assert next(frames)[1]["stopped"] is True
        assert alice.history()[-1]["content"] == "your name is Alice"
        assert alice.say("who am I?")["response"].startswith("5 messages")


def test_a_result_that_was_written_while_its_turn_was_stopped_is_told(
    serve: Callable[..., str], name: str, valkey_url: str, tmp_path: Path, model: ModelServer
) -> None:
    shop, made = MCPServer("shop"), threading.Event()

    @shop.tool()
    def buy() -> str:
        other.execute("BEGIN IMMEDIATE")  # the result has to wait for its place in the history
        made.set()
        return "a pear"

    model.will(Reply(calls=[("shop__buy", {})]))
    with (
        closing(sqlite3.connect(tmp_path / "chat.db", check_same_thread=False)) as other,
        running(shop.streamable_http_app()) as url,
        Person(serve(redis_url=valkey_url), name) as alice,
        ThreadPoolExecutor() as pool,
    ):
        alice.connect(server={"url": f"{url}/mcp", "alias": "shop"})
        with alice.streaming("go") as frames:
            assert made.wait(30)
            stopping = in_background(pool, alice, "cancel")
            time.sleep(2)  # the command is on its way through the inbox
            other.execute("ROLLBACK")
            assert stopping.result().status_code == 200
            told = list(frames)
        assert [data["output"] for event, data in told if event == "tool_end"] == ["a pear"]
        assert told[-1][1]["stopped"] is True
        assert alice.history()[-1]["content"] == "a pear"


def test_the_same_message_id_again_names_the_same_session(alice: Person) -> None:
    alice.connect()
    first = alice.say("hello", session_id="unknown", message_id="m-1")
    again = alice.say("hello", session_id="unknown", message_id="m-1")
    assert first["resumed"] is False
    assert (again["turn_id"], again["session_id"]) == (first["turn_id"], first["session_id"])
    assert len(alice.history(f"?session_id={first['session_id']}")) == 2


def test_the_default_conversation_is_there_before_anything_was_said(alice: Person) -> None:
    session_id = alice.connect()["session_id"]
    assert alice.history(f"?session_id={session_id}") == []


def test_no_limit_gets_past_the_limit(alice: Person) -> None:
    alice.connect()
    for text in ("001009999999999999999999999", "00100999999", "0", "1001", "1e3", "-1", "²"):
        assert alice.get(f"history/{{me}}?limit={text}").status_code == 400
