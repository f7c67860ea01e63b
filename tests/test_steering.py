"""What a user says into a running turn comes before what the model is asked next, once and in order."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.faults import well_formed, within
from tests.model_server import ModelServer, Reply
from tests.person import Frame, Person
from tests.running import wait_until


@pytest.fixture
def hold() -> Iterator[threading.Event]:
    """Set when the model may end its answer; in any case in the end."""
    event = threading.Event()
    yield event
    event.set()


@pytest.fixture
def url(serve: Callable[..., str]) -> str:
    return serve()


@pytest.fixture
def alice(url: str, name: str) -> Iterator[Person]:
    with Person(url, name) as person:
        person.connect()
        yield person


@pytest.fixture
def tab(url: str, name: str) -> Iterator[Person]:
    """The same user in another tab."""
    with Person(url, name) as person:
        yield person


def told(frames: list[Frame]) -> str:
    return "".join(data["content"] for event, data in frames if event == "token")


def contents(sent: dict[str, Any]) -> list[str]:
    return [message["content"] for message in well_formed(sent["messages"])]


def test_it_goes_into_the_running_turn(
    alice: Person, tab: Person, model: ModelServer, hold: threading.Event
) -> None:
    model.will(Reply(text="one two three", hold=hold), Reply(text="four five"))
    with alice.streaming("count") as frames:
        seen = [next(frames)]
        with tab.streaming("go on", if_running="steer") as more:
            tab.taken_up()
            hold.set()
            rest = list(more)
        seen += list(frames)
    assert told(seen) == seen[-1][1]["content"] == "one two three\n\nfour five"
    steered = next(data for event, data in seen if event == "steered")
    assert steered["content"] == "go on"
    assert rest[0] == ("steered", steered)
    assert told(rest) == rest[-1][1]["content"] == "four five"
    assert rest[-1][1]["turn_id"] == seen[-1][1]["turn_id"]
    assert contents(model.requests[1]) == ["count", "one two three", "go on"]
    assert [(m["role"], m["content"]) for m in alice.history()] == [
        ("user", "count"),
        ("assistant", "one two three"),
        ("user", "go on"),
        ("assistant", "four five"),
    ]
    assert alice.history()[2]["id"] == steered["id"]


def test_without_a_stream_the_answer_is_the_rest(
    alice: Person, tab: Person, model: ModelServer, hold: threading.Event
) -> None:
    model.will(Reply(text="one two", hold=hold), Reply(text="three"))
    with ThreadPoolExecutor() as pool:
        first = pool.submit(alice.say, "count")
        wait_until(lambda: model.requests, "the turn runs")
        second = pool.submit(tab.say, "go on", if_running="steer", message_id="m1")
        wait_until(lambda: taken(alice, "m1"), "it is accepted")
        alice.taken_up()
        hold.set()
        one, two = first.result(), second.result()
    assert one["response"] == "one two\n\nthree"
    assert two["response"] == "three"
    assert two["turn_id"] == one["turn_id"]


def taken(person: Person, message_id: str) -> bool:
    """Whether a message is accepted: sent once more it changes nothing."""
    body = {"user_id": person.name, "message": "go on", "message_id": message_id, "if_running": "steer"}
    with person.http.stream("POST", "/llmchat/chat", json={**body, "streaming": True}) as response:
        return response.status_code == 200


def test_it_comes_behind_the_tools_that_run(
    alice: Person, tab: Person, model: ModelServer, demo_url: str
) -> None:
    alice.connect(server={"url": demo_url, "alias": "demo"})
    calls = Reply(calls=[("demo__slow_count", {"to": 3}), ("demo__add", {"a": 1, "b": 2})])
    model.will(calls, Reply(text="Both."))
    with alice.streaming("do both") as frames:
        assert next(frames)[0] == "tool_start"
        with tab.streaming("and be brief", if_running="steer") as more:
            assert told(list(more)) == "Both."
        list(frames)
    assert len(model.requests) == 2
    assert [m["role"] for m in well_formed(model.requests[1]["messages"])] == [
        *("user", "assistant", "tool", "tool", "user"),
    ]


def test_several_keep_their_order_and_each_is_there_once(
    alice: Person, tab: Person, model: ModelServer, hold: threading.Event
) -> None:
    model.will(Reply(text="one two", hold=hold), Reply(text="all of it"))
    with alice.streaming("count") as frames:
        next(frames)
        for n in (1, 2, 1, 3, 2):
            with tab.streaming(f"more {n}", if_running="steer", message_id=f"m{n}"):
                pass
        tab.taken_up()
        hold.set()
        list(frames)
    assert contents(model.requests[1]) == ["count", "one two", "more 1", "more 2", "more 3"]
    assert len(model.requests) == 2
    again = tab.say("more 2", if_running="steer", message_id="m2")
    assert again["response"] == "all of it"
    assert len(alice.history()) == 6


def test_if_nothing_runs_it_is_an_ordinary_message(alice: Person, model: ModelServer) -> None:
    frames = alice.stream("hello", if_running="steer", message_id="m1")
    assert {event for event, _ in frames} == {"token", "final"}
    assert frames[-1][1]["turn_id"] == "m1"
    assert contents(model.requests[0]) == ["hello"]


def test_another_conversations_turn_is_left_alone(
    alice: Person, tab: Person, model: ModelServer, hold: threading.Event
) -> None:
    model.will(Reply(text="one two", hold=hold), Reply(text="elsewhere"))
    with alice.streaming("count") as frames:
        next(frames)
        assert tab.say("hi", if_running="steer", session_id="new")["response"] == "elsewhere"
        hold.set()
        assert told(list(frames)).endswith("two")
    assert contents(model.requests[1]) == ["hi"]


def test_a_turn_that_fails_leaves_it_to_one_of_its_own(
    serve: Callable[..., str], name: str, model: ModelServer
) -> None:
    url = serve(model_timeout=6)
    with Person(url, name) as alice, Person(url, name) as tab:
        alice.connect()
        model.will(Reply(text="one two three", hang_after=2), Reply(text="I am back."))
        with alice.streaming("count") as frames:
            next(frames)
            with tab.streaming("are you there?", if_running="steer") as more:
                answer = list(more)
            assert list(frames)[-1][0] == "error"
    assert told(answer) == answer[-1][1]["content"] == "I am back."
    assert contents(model.requests[1])[-1] == "are you there?"


def test_whoever_stops_the_turn_stops_it_too(
    alice: Person, tab: Person, model: ModelServer, hold: threading.Event
) -> None:
    model.will(Reply(text="one two", hold=hold))
    with alice.streaming("count") as frames:
        next(frames)
        with tab.streaming("go on", if_running="steer") as more, within(25):
            alice.post("cancel")
            assert list(more)[-1][1]["stopped"] is True
        assert list(frames)[-1][1]["stopped"] is True
    assert len(model.requests) == 1
    assert [m["content"] for m in alice.history()][-1] == "go on"


def test_every_tab_hears_of_it(alice: Person, tab: Person, model: ModelServer, hold: threading.Event) -> None:
    model.will(Reply(text="one two", hold=hold), Reply(text="three"))
    with tab.following() as events:
        with alice.streaming("count") as frames:
            next(frames)
            with alice.streaming("go on", if_running="steer"):
                alice.taken_up()
                hold.set()
            list(frames)
        seen = []
        for event in events:
            seen.append(event)
            if event.name == "final":
                break
    messages = [event.data["message"] for event in seen if event.name == "message"]
    assert [message["content"] for message in messages] == ["count", "one two", "go on", "three"]
    assert [event.name for event in seen].count("turn") == 1
