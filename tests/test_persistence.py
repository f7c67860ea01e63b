"""A model that fails before it says anything is asked again, or another one is; nothing is said twice."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

from tests.faults import ended_in_error, refused, well_formed, within
from tests.model_server import ModelServer, Reply
from tests.person import Frame, Person
from tests.running import running, wait_until

pytestmark = pytest.mark.slow

TOO_LONG = {
    "error": {"message": "SECRET: maximum context length is 9 tokens", "code": "context_length_exceeded"}
}
LIMITED = Reply(status=429, headers={"retry-after": "2"})


@pytest.fixture
def spare() -> ModelServer:
    """The script of the model that stands in."""
    return ModelServer()


@pytest.fixture
def catalogue(tmp_path: Path, model_url: str, spare: ModelServer) -> Iterator[Path]:
    """Two models: the second one stands in for the first one."""
    with running(spare.app) as url:
        path = tmp_path / "models.yaml"
        path.write_text(
            "models:\n"
            f"  - model: openai:scripted\n    base_url: {model_url}\n    fallbacks: ['openai:spare']\n"
            f"  - model: openai:spare\n    base_url: {url}/v1\n"
            f"  - model: openai:alone\n    base_url: {model_url}\n"
        )
        yield path


def told(frames: list[Frame]) -> str:
    """What a reader has put together."""
    return "".join(data["content"] for event, data in frames if event == "token")


def kinds(frames: list[Frame]) -> list[str]:
    """The kinds of frames, those of the same kind as one."""
    return [event for event, _ in groupby(frames, key=lambda frame: frame[0])]


def notices(frames: list[Frame]) -> list[dict[str, Any]]:
    return [data for event, data in frames if event == "notice"]


# Again


@pytest.mark.parametrize(
    "reply",
    [
        pytest.param(Reply(status=500), id="an error"),
        pytest.param(Reply(status=503), id="overloaded"),
        pytest.param(Reply(status=429), id="limited"),
        pytest.param(Reply(text="never", break_after=0), id="broken off"),
        pytest.param(Reply(), id="empty"),
        pytest.param(
            Reply(body=b'data: {"error": {"message": "SECRET", "code": "server_error"}}\n\n'),
            id="in the stream",
        ),
    ],
)
def test_what_fails_before_its_first_word_is_asked_again(
    alice: Person, model: ModelServer, reply: Reply
) -> None:
    alice.connect(model="openai:alone")
    model.will(reply, Reply(text="one two"))
    frames = alice.stream("hi")
    assert (told(frames), frames[-1][1]["content"]) == ("one two", "one two")
    assert len(model.requests) == 2
    assert model.requests[0] == model.requests[1]
    assert [each["content"] for each in alice.history()] == ["hi", "one two"]


def test_a_retry_after_is_waited_for_and_told(alice: Person, model: ModelServer) -> None:
    alice.connect(model="openai:alone")
    model.will(LIMITED, Reply(text="at last"))
    began = time.monotonic()
    frames = alice.stream("hi")
    assert time.monotonic() - began >= 2
    assert kinds(frames) == ["notice", "token", "final"]
    assert notices(frames) == [
        {
            "type": "notice",
            "code": "model_retry",
            "text": "The model's provider is limiting requests. Trying again in 2 s.",
            "seconds": 2,
        }
    ]


def test_a_wait_in_milliseconds_is_one(alice: Person, model: ModelServer) -> None:
    alice.connect(model="openai:alone")
    model.will(Reply(status=429, headers={"retry-after-ms": "40", "retry-after": "60"}), Reply(text="soon"))
    with within(20):
        assert kinds(alice.stream("hi")) == ["token", "final"]


@pytest.mark.parametrize(
    ("limits", "after"),
    [({"model_retry_wait": 1}, "20"), ({"turn_timeout": 20}, "30"), ({"model_retries": 0}, "0")],
)
def test_what_nobody_can_wait_for_fails_at_once_and_says_when(
    serve: Callable[..., str], name: str, model: ModelServer, limits: dict[str, Any], after: str
) -> None:
    with Person(serve(**limits), name) as person:
        person.connect(model="openai:alone")
        model.will(Reply(status=429, headers={"retry-after": after}))
        with within(10):
            response = person.post("chat", message="hi")
        assert "limiting requests" in refused(response, 503)
        assert response.headers["retry-after"] == str(max(1, int(after)))
    assert len(model.requests) == 1


def test_it_is_given_up_after_so_many_attempts(
    serve: Callable[..., str], name: str, model: ModelServer
) -> None:
    with Person(serve(model_retries=1), name) as person:
        person.connect(model="openai:alone")
        model.will(*[Reply(status=500)] * 5)
        assert "had an error" in refused(person.post("chat", message="hi"), 503)
    assert len(model.requests) == 2


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422])
def test_what_asking_again_cannot_help_is_not_asked_again(
    alice: Person, model: ModelServer, status: int
) -> None:
    alice.connect(model="openai:alone")
    model.will(Reply(status=status))
    refused(alice.post("chat", message="hi"), 503)
    assert len(model.requests) == 1


@pytest.mark.parametrize(
    "reply",
    [
        pytest.param(Reply(text="one two three", pause=0.02, break_after=3), id="break"),
        pytest.param(Reply(text="one two three", pause=0.02, hang_after=3), id="hang"),
    ],
)
def test_what_has_begun_to_speak_is_never_asked_again(
    alice: Person, model: ModelServer, spare: ModelServer, reply: Reply
) -> None:
    alice.connect()
    model.will(reply)
    frames = alice.stream("hi")
    ended_in_error(frames)
    assert told(frames) == "one two"
    assert (len(model.requests), len(spare.requests)) == (1, 0)
    kept = alice.history()[-1]
    assert (kept["content"], kept["metadata"]["interrupted"]) == ("one two", True)


def test_a_call_that_has_begun_is_never_asked_for_again(
    alice: Person, model: ModelServer, demo_url: str
) -> None:
    alice.connect(server={"url": demo_url, "alias": "demo"})
    model.will(Reply(calls=[("demo__add", {"a": 1, "b": 2})], break_after=2, pause=0.02))
    ended_in_error(alice.stream("add"))
    assert len(model.requests) == 1


def test_a_step_behind_a_tool_is_asked_again_and_the_tool_is_not_called_again(
    alice: Person, model: ModelServer, demo_url: str
) -> None:
    alice.connect(server={"url": demo_url, "alias": "demo"})
    model.will(
        Reply(text="I add.", calls=[("demo__add", {"a": 1, "b": 2})]), Reply(status=500), Reply(text="Three.")
    )
    frames = alice.stream("add")
    assert [event for event, _ in frames].count("tool_start") == 1
    assert told(frames) == frames[-1][1]["content"] == "I add.\n\nThree."
    well_formed(model.requests[-1]["messages"])


def test_an_empty_answer_is_asked_for_once_more_and_what_it_cost_is_counted(
    alice: Person, model: ModelServer
) -> None:
    alice.connect(model="openai:alone")
    model.will(Reply(), Reply(text="here"))
    assert alice.say("hi")["usage"]["input_tokens"] == 22
    model.will(Reply(), Reply(), Reply(text="too late"))
    assert "empty answer" in refused(alice.post("chat", message="and now"), 503)
    assert len(model.requests) == 4


def test_a_turn_that_waits_is_stopped_at_once(alice: Person, model: ModelServer) -> None:
    alice.connect(model="openai:alone")
    model.will(Reply(status=429, headers={"retry-after": "30"}))
    with alice.streaming("hi") as frames, within(25):
        assert next(frames)[0] == "notice"
        assert alice.post("cancel").json()["status"] == "cancelled"
        assert next(frames)[1]["stopped"] is True


# Another one


@pytest.mark.parametrize(
    "reply",
    [
        Reply(status=500),
        Reply(status=401),
        Reply(status=404),
        Reply(status=429, headers={"retry-after": "60"}),
        Reply(hang_after=0),
        Reply(body=b'data: {"choices": 5}\n\n'),
        Reply(),
    ],
    ids=["an error", "the key", "the model", "limited", "silence", "nonsense", "nothing"],
)
def test_another_model_answers(
    serve: Callable[..., str], name: str, model: ModelServer, spare: ModelServer, reply: Reply
) -> None:
    with Person(serve(model_retries=0, model_timeout=5), name) as person:
        person.connect()
        model.will(reply)
        spare.will(Reply(text="I stand in."))
        frames = person.stream("hi")
        assert kinds(frames) == ["notice", "token", "final"]
        assert notices(frames)[0]["code"] == "model_fallback"
        assert notices(frames)[0]["model"] == "openai:spare"
        assert told(frames) == frames[-1][1]["content"] == "I stand in."
        answer = person.history()[-1]
        assert (answer["content"], answer["metadata"]["model"]) == ("I stand in.", "openai:spare")
        assert answer["metadata"]["instead_of"] == "openai:scripted"
        assert len(model.requests) == len(spare.requests) == 1
        assert spare.requests[0]["messages"] == model.requests[0]["messages"]
        model.will(Reply(text="I am back."))
        assert person.say("and now")["response"] == "I am back."
        assert person.history()[-1]["metadata"]["model"] == "openai:scripted"
        assert "instead_of" not in person.history()[-1]["metadata"]


def test_if_none_answers_the_last_ones_failure_is_told(
    serve: Callable[..., str], name: str, model: ModelServer, spare: ModelServer
) -> None:
    with Person(serve(model_retries=0), name) as person:
        person.connect()
        model.will(Reply(status=500))
        spare.will(Reply(status=429))
        assert "limiting requests" in refused(person.post("chat", message="hi"), 503)


def test_a_users_own_model_falls_back_to_nothing(
    serve: Callable[..., str], name: str, model: ModelServer, model_url: str, spare: ModelServer
) -> None:
    with Person(serve(model_retries=0), name) as person:
        config = {"model": "scripted", "base_url": model_url, "api_key": "mine"}
        person.connect(llm={"provider": "openai", "config": config})
        model.will(Reply(status=500))
        refused(person.post("chat", message="hi"), 503)
    assert not spare.requests


# Left alone


def test_a_model_that_fails_again_and_again_is_left_alone_and_tried_again_later(
    serve: Callable[..., str], name: str, model: ModelServer
) -> None:
    url = serve(model_retries=0, breaker_failures=2, breaker_rest=6)
    with Person(url, name) as person, Person(url, f"{name}-2") as other:
        for each in (person, other):
            each.connect(model="openai:alone")
        model.will(*[Reply(status=500)] * 2)
        for each in (person, other):
            refused(each.post("chat", message="hi"), 503)
        response = other.post("chat", message="hi")
        assert "left alone" in refused(response, 503)
        assert 1 <= int(response.headers["retry-after"]) <= 6
        assert len(model.requests) == 2, "it was not asked"
        assert person.http.get("/readyz").json()["left_alone"] == 1
        assert 'mcp_chat_breakers_opened_total{what="model"} 1.0' in person.http.get("/metrics").text
        wait_until(lambda: other.post("chat", message="hi").status_code == 200, "it is tried again")
        assert person.say("hi")["response"]
        assert "left_alone" not in person.http.get("/readyz").json()


def test_only_one_tries_a_model_again_that_was_left_alone(
    serve: Callable[..., str], name: str, model: ModelServer
) -> None:
    url = serve(model_retries=0, breaker_failures=1, breaker_rest=0.5)
    with Person(url, name) as person, Person(url, f"{name}-2") as other:
        for each in (person, other):
            each.connect(model="openai:alone")
        more = threading.Event()
        model.will(Reply(status=500), Reply(text="slowly but surely", hold=more))
        refused(person.post("chat", message="hi"), 503)
        time.sleep(0.5)
        with person.streaming("hi") as frames:
            wait_until(lambda: len(model.requests) == 2, "the probe is under way")
            assert "left alone" in refused(other.post("chat", message="hi"), 503)
            more.set()
            assert [event for event, _ in frames][-1] == "final"
        assert other.say("hi")["response"]


def test_a_stopped_probe_is_no_end_of_probing(
    serve: Callable[..., str], name: str, model: ModelServer
) -> None:
    with Person(serve(model_retries=0, breaker_failures=1, breaker_rest=0.2), name) as person:
        person.connect(model="openai:alone")
        model.will(Reply(status=500), Reply(before=30))
        refused(person.post("chat", message="hi"), 503)
        time.sleep(0.2)
        with person.streaming("hi"):
            wait_until(lambda: len(model.requests) == 2, "the probe is under way")
            assert person.post("cancel").json()["status"] == "cancelled"
        assert person.say("hi")["response"]


def test_one_users_own_server_and_key_are_nobody_elses_business(
    serve: Callable[..., str], name: str, model: ModelServer, model_url: str
) -> None:
    url = serve(model_retries=0, breaker_failures=1)
    config = {"model": "scripted", "base_url": model_url, "api_key": "mine"}
    with Person(url, name) as person, Person(url, f"{name}-2") as other, Person(url, f"{name}-3") as third:
        for each in (person, other):
            each.connect(llm={"provider": "openai", "config": config})
        third.connect(model="openai:alone")
        model.will(Reply(status=500))
        refused(person.post("chat", message="hi"), 503)
        assert "left alone" in refused(person.post("chat", message="hi"), 503)
        assert other.say("hi")["response"]
        model.will(*[Reply(status=401)] * 3)
        for _ in range(3):
            assert "key" in refused(third.post("chat", message="hi"), 503)
        assert third.say("hi")["response"], "a refused key is no failure of the provider's"


def test_a_model_that_is_left_alone_is_stood_in_for_at_once(
    serve: Callable[..., str], name: str, model: ModelServer, spare: ModelServer
) -> None:
    with Person(serve(model_retries=0, breaker_failures=1), name) as person:
        person.connect()
        model.will(Reply(status=500))
        for _ in range(2):
            assert person.say("hi")["response"].endswith("hi")
    assert (len(model.requests), len(spare.requests)) == (1, 2)


# Too long


def test_a_conversation_that_is_too_long_is_shown_shorter(alice: Person, model: ModelServer) -> None:
    alice.connect(model="openai:alone")
    for n in range(6):
        model.will(Reply(text=f"answer {n} " * 20))
        alice.say(f"question {n} " * 20)
    model.will(*[Reply(status=400, error=TOO_LONG)] * 2, Reply(text="I see."))
    frames = alice.stream("the last one")
    assert told(frames) == "I see."
    assert [notice["code"] for notice in notices(frames)] == ["context_shortened"] * 2
    lengths = [len(sent["messages"]) for sent in model.requests[-3:]]
    assert lengths[0] == 13
    assert lengths[0] > lengths[1] > lengths[2] >= 1
    assert model.requests[-1]["messages"][-1]["content"] == "the last one"
    assert model.requests[-1]["messages"][0]["role"] == "user"
    assert len(alice.history()) == 14, "the conversation itself is whole"


def test_a_step_behind_tools_can_be_shown_shorter_too(
    alice: Person, model: ModelServer, demo_url: str
) -> None:
    alice.connect(server={"url": demo_url, "alias": "demo"}, model="openai:alone")
    model.will(Reply(text="long " * 200))
    alice.say("talk")
    model.will(
        Reply(calls=[("demo__echo", {"text": "x " * 400})]),
        Reply(status=413, error=TOO_LONG),
        Reply(text="Done."),
    )
    assert alice.say("go")["response"] == "Done."
    shown = well_formed(model.requests[-1]["messages"])
    assert shown[-1]["role"] == "tool"
    assert len(str(shown)) < len(str(model.requests[-2]["messages"]))


def test_a_message_that_is_too_long_by_itself_is_told(alice: Person, model: ModelServer) -> None:
    alice.connect(model="openai:alone")
    model.will(*[Reply(status=400, error=TOO_LONG)] * 9)
    assert "too long for the model" in refused(alice.post("chat", message="word " * 2000), 503)
    assert len(model.requests) <= 4
