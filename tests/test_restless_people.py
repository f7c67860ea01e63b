"""People who hang up, read slowly or not at all, send twice, and cancel what has not begun or has ended."""

from __future__ import annotations

import json
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import count, islice
from typing import Any

import httpx
import pytest

from tests.conftest import on_one_stage
from tests.faults import Stage, usable
from tests.model_server import ModelServer, Reply
from tests.person import Person
from tests.running import wait_until

TABS = 100

stage, model, alice = on_one_stage(max_streams=TABS, requests_per_minute=0, turn_timeout=30)

SCRIPT = ("demo__add", {"a": 2, "b": 3})


def script(model: ModelServer) -> None:
    """A turn with words, a call and words."""
    model.will(
        Reply(text="I add.", calls=[SCRIPT], pause=0.005),
        Reply(text="That is five of them.", pause=0.005),
    )


def at_rest(person: Person) -> bool:
    return person.get("history/{me}").json()["running"] is None


def raw(person: Person, message: str, *, buffer: int = 4096) -> socket.socket:
    """Send a message as a client whose socket the test reads, or does not."""
    url = person.http.base_url
    cookie = "; ".join(f"{each.name}={each.value}" for each in person.http.cookies.jar)
    body = json.dumps({"user_id": person.name, "message": message, "streaming": True})
    head = (
        f"POST /llmchat/chat HTTP/1.1\r\nHost: 127.0.0.1\r\nCookie: {cookie}\r\n"
        f"Origin: http://127.0.0.1:{url.port}\r\nSec-Fetch-Site: same-origin\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    made.connect((url.host, url.port or 80))
    made.sendall((head + body).encode())
    return made


# Who hangs up


def test_who_hangs_up_at_any_event_finds_the_whole_turn(
    alice: Person, model: ModelServer, demo_url: str
) -> None:
    alice.connect(server={"url": demo_url, "alias": "demo"})
    script(model)
    whole = alice.stream("add")
    said = whole[-1][1]["content"]
    kinds = {name for name, _ in whole}
    assert {"token", "tool_start", "tool_end", "final"} <= kinds
    for after in count():
        script(model)
        with alice.sending("add") as seen:
            before = list(islice(seen, after))
        if after and before[-1].name == "final":  # a slow machine says all in fewer pieces
            break
        wait_until(lambda: at_rest(alice), f"the turn has ended behind event {after}")
        last = alice.history()[-4:]
        assert [message["role"] for message in last] == ["user", "assistant", "tool", "assistant"], after
        assert "interrupted" not in last[-1]["metadata"]
        assert last[2]["content"] == "5"
        if before:  # and whoever comes back hears the rest, each event once
            with alice.following(last_event_id=before[-1].id) as rest:
                told = [*before, next(rest)]
                while told[-1].name != "final":
                    told.append(next(rest))
            assert told[-1].data["content"] == said
            assert len({each.id for each in told}) == len(told)
    usable(alice, model)


# Who does not read


@pytest.mark.parametrize("reads", ["nothing", "a byte at a time"])
def test_who_reads_slowly_or_is_gone_without_a_word_holds_up_nobody(
    alice: Person, stage: Stage, model: ModelServer, reads: str
) -> None:
    """A half-open connection looks like one that nobody reads from: nothing is ever acknowledged."""
    alice.connect()
    text = " ".join(["x" * 2000] * 150)
    model.will(Reply(text=text))
    with raw(alice, "go", buffer=2048) as reader, Person(stage.url, f"{alice.name}-2") as bob:
        if reads == "a byte at a time":
            assert len([reader.recv(1) for _ in range(50)]) == 50
        wait_until(lambda: len(alice.history()) == 2 and at_rest(alice), "the turn has ended")
        assert alice.history()[-1]["content"] == text
        bob.connect()
        assert bob.say("hi")["response"]
        usable(alice, model)
        if reads == "a byte at a time":
            assert reader.recv(1)


def test_a_hundred_tabs_hear_the_same(alice: Person, model: ModelServer) -> None:
    alice.connect()
    model.will(Reply(text="one two three"))
    with ExitStack() as stack:
        tabs = [stack.enter_context(alice.following()) for _ in range(TABS)]
        assert alice.http.get("/llmchat/events").status_code == 429
        assert alice.say("count")["response"] == "one two three"
        told = []
        for tab in tabs:
            seen = [next(tab)]
            while seen[-1].name != "final":
                seen.append(next(tab))
            told.append([each.id for each in seen if each.name in ("token", "message", "final")])
            said = [each.data["content"] for each in seen if each.name == "token"]
            assert "".join(said) == "one two three"
    assert all(each == told[0] for each in told)


# Who sends twice


def at_the_same_time(person: Person, *bodies: dict[str, Any]) -> list[httpx.Response]:
    """Send messages on connections of their own, all within some milliseconds."""
    ready = threading.Barrier(len(bodies))

    def send(body: dict[str, Any]) -> httpx.Response:
        with httpx.Client(cookies=dict(person.http.cookies), timeout=30, trust_env=False) as http:
            ready.wait(10)
            return http.post(f"{person.http.base_url}/llmchat/chat", json={"user_id": person.name, **body})

    with ThreadPoolExecutor(len(bodies)) as pool:
        return list(pool.map(send, bodies))


def test_a_message_that_is_sent_twice_at_once_by_its_id_is_one_turn(
    alice: Person, model: ModelServer
) -> None:
    alice.connect()
    for round_ in range(10):
        before = len(model.requests)
        body = {"message": f"hello {round_}", "message_id": f"m-{round_}"}
        one, other = at_the_same_time(alice, body, body)
        assert one.status_code == 200
        assert one.json() == other.json()
        assert len(model.requests) == before + 1
    assert [message["role"] for message in alice.history()] == ["user", "assistant"] * 10


def test_two_messages_at_once_are_two_turns_one_behind_the_other(alice: Person, model: ModelServer) -> None:
    alice.connect()
    for _ in range(10):
        answers = at_the_same_time(alice, {"message": "this"}, {"message": "that"})
        assert [answer.status_code for answer in answers] == [200, 200]
        *_, asked, first, asked_too, second = alice.history()
        assert {asked["content"], asked_too["content"]} == {"this", "that"}
        said = {answer.json()["response"] for answer in answers}
        assert said == {first["content"], second["content"]}
        assert first["content"].endswith(f"the last from user: {asked['content']}")
    assert [message["role"] for message in alice.history()] == ["user", "assistant"] * 20


# Who cancels


def test_a_cancel_before_anything_and_after_the_end_changes_nothing(
    alice: Person, model: ModelServer
) -> None:
    assert alice.post("cancel").json()["status"] == "no_running_turn"
    alice.connect()
    assert alice.post("cancel").json()["status"] == "no_running_turn"
    for round_ in range(3):
        answer = alice.say(f"hello {round_}")
        assert alice.post("cancel").json()["status"] == "no_running_turn"
        assert answer["stopped"] is False
    told = alice.history()
    assert [message["role"] for message in told] == ["user", "assistant"] * 3
    assert not any("stopped" in message["metadata"] for message in told)
    usable(alice, model)


def test_a_cancel_counts_once_however_often_it_comes(alice: Person, model: ModelServer) -> None:
    alice.connect()
    model.will(Reply(text="one two three", hang_after=2))
    with alice.sending("count") as seen:
        assert next(seen).name == "token"
        with ThreadPoolExecutor(4) as pool:
            done = list(pool.map(lambda _: cancelled(alice), range(4)))
        rest = [each.name for each in seen]
    assert "cancelled" in done
    assert set(done) <= {"cancelled", "no_running_turn"}
    assert rest.count("final") == 1
    assert "error" not in rest
    assert [message["role"] for message in alice.history()] == ["user", "assistant"]
    usable(alice, model)


def cancelled(person: Person) -> str:
    url = f"{person.http.base_url}/llmchat/cancel"
    body = {"user_id": person.name}
    answer = httpx.post(url, json=body, cookies=dict(person.http.cookies), timeout=30, trust_env=False)
    return str(answer.json()["status"])
