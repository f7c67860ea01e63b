"""What users spend, through the HTTP door: counted, priced, told, and held to limits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.faults import refused
from tests.model_server import ModelServer, Reply
from tests.person import Person

PRICED = """models:
  - model: openai:scripted
    base_url: {url}
    prices: {{input: 2, output: 10, cached_input: 0.5}}
  - model: openai:nameless
    base_url: {url}
"""
"""In dollars for a million tokens."""

Serve = Callable[..., str]


@pytest.fixture
def catalogue(tmp_path: Path, model_url: str) -> Path:
    """One model with prices and one without."""
    path = tmp_path / "models.yaml"
    path.write_text(PRICED.format(url=model_url))
    return path


@pytest.fixture
def limited(serve: Serve, name: str) -> Iterator[Callable[..., Person]]:
    """Make someone in front of an application with limits."""
    people: list[Person] = []

    def make(**limits: Any) -> Person:
        people.append(Person(serve(**limits), name))
        return people[-1]

    yield make
    for person in people:
        person.http.close()


def counted(read: int, said: int, *, cached: int = 0, thought: int = 0) -> dict[str, Any]:
    """What OpenAI says that an answer took."""
    return {
        "prompt_tokens": read,
        "completion_tokens": said,
        "total_tokens": read + said,
        "prompt_tokens_details": {"cached_tokens": cached},
        "completion_tokens_details": {"reasoning_tokens": thought},
    }


def usage(person: Person, query: str = "") -> dict[str, Any]:
    """What a user is told of what they have spent."""
    answer = person.get(f"usage{query}")
    assert answer.status_code == 200, answer.text
    told: dict[str, Any] = answer.json()
    return told


def add(n: int = 1) -> Reply:
    """The model asks for so many additions."""
    return Reply(text="Adding.", calls=[("demo__add", {"a": each, "b": 1}) for each in range(n)])


# Counted and told


def test_an_answer_says_what_it_took_and_what_it_cost(alice: Person, model: ModelServer) -> None:
    model.will(Reply(text="Hello.", usage=counted(1000, 100, cached=400, thought=60)))
    alice.connect()
    final = dict(alice.stream("hi"))["final"]
    assert final["usage"] == {
        "input_tokens": 1000,
        "output_tokens": 100,
        "cached_tokens": 400,
        "reasoning_tokens": 60,
        "cost": (600 * 2 + 400 * 0.5 + 100 * 10) / 1_000_000,
        "estimated": False,
        "steps": 1,
    }


def test_steps_add_up_in_turn_session_and_day(alice: Person, model: ModelServer, demo_url: str) -> None:
    steps = [
        Reply(text="A.", calls=[("demo__add", {"a": 1, "b": 1})], usage=counted(100, 10)),
        Reply(text="B.", usage=counted(200, 20, cached=100)),
    ]
    model.will(*steps, Reply(text="C.", usage=counted(300, 30)))
    session = alice.connect(server={"url": demo_url, "alias": "demo"})["session_id"]
    turn = alice.say("add")["usage"]
    cost = (200 * 2 + 100 * 0.5 + 30 * 10) / 1e6
    assert (turn["input_tokens"], turn["output_tokens"], turn["cached_tokens"]) == (300, 30, 100)
    assert (turn["steps"], turn["cost"]) == (2, pytest.approx(cost))
    alice.say("more")
    of_session = alice.get(f"sessions/{session}").json()["token_usage"]
    whole = pytest.approx(cost + (300 * 2 + 30 * 10) / 1e6)
    assert (of_session["input_tokens"], of_session["output_tokens"], of_session["cost"]) == (600, 60, whole)
    told = usage(alice)
    today = told["today"]
    assert (today["steps"], today["calls"], today["cost"], today["billed"]) == (3, 1, whole, whole)
    assert told["usage"] == [{"day": str(datetime.now(UTC).date()), **today}]
    assert told["month"] == told["total"] == today
    by_model = usage(alice, "?by=model")["usage"]
    assert [(each["model"], each["steps"]) for each in by_model] == [("openai:scripted", 3)]
    assert [each["session"] for each in usage(alice, "?by=session")["usage"]] == [session]


def test_messages_of_the_history_show_their_steps(alice: Person, model: ModelServer) -> None:
    model.will(Reply(text="Hello.", usage=counted(7, 3, thought=2)))
    alice.connect()
    alice.say("hi")
    said = alice.history()[-1]
    assert said["metadata"]["usage"] == {
        "input_tokens": 7,
        "output_tokens": 3,
        "reasoning_tokens": 2,
        "cost_nanos": 44_000,
        "model": "openai:scripted",
    }


def test_what_a_provider_does_not_count_is_estimated_and_said_to_be(
    alice: Person, model: ModelServer
) -> None:
    model.will(Reply(text="one two three four five six seven eight", counts=False))
    alice.connect()
    took = alice.say("hello there")["usage"]
    assert took["estimated"] is True
    assert 5 <= took["input_tokens"] <= 50
    assert 8 <= took["output_tokens"] <= 16
    assert took["cost"] > 0


@pytest.mark.parametrize("how", ["stopped", "broken off"])
def test_an_answer_that_breaks_off_was_paid_for(alice: Person, model: ModelServer, how: str) -> None:
    words = " ".join(f"word{n}" for n in range(20))
    model.will(Reply(text=words, hang_after=11) if how == "stopped" else Reply(text=words, break_after=11))
    alice.connect()
    with alice.streaming("count") as frames:
        for event, _ in frames:
            if event == "token" and how == "stopped":
                alice.post("cancel")
    partial = alice.history()[-1]
    assert partial["role"] == "assistant"
    assert partial["metadata"]["usage"]["estimated"] is True
    today = usage(alice)["today"]
    assert today["steps"] == 1
    assert today["output_tokens"] == partial["metadata"]["usage"]["output_tokens"] >= 1
    assert today["estimated"] is True


def test_what_never_said_a_word_cost_nothing(alice: Person, model: ModelServer) -> None:
    model.will(*[Reply(status=500)] * 10)
    alice.connect()
    assert alice.post("chat", message="hi").status_code == 503
    assert usage(alice)["today"]["steps"] == 0


def test_a_model_without_a_price_costs_nobody_knows_what(alice: Person) -> None:
    alice.connect(model="openai:nameless")
    assert alice.say("hi")["usage"]["cost"] is None
    today = usage(alice)["today"]
    assert (today["cost"], today["unpriced"]) == (None, True)


def test_ones_own_key_is_not_billed_to_the_operator(
    alice: Person, model: ModelServer, model_url: str
) -> None:
    llm = {"provider": "openai", "config": {"model": "gpt-4o-mini", "base_url": model_url, "api_key": "k"}}
    assert alice.post("connect", llm=llm).status_code == 200
    alice.say("hi")
    (by_model,) = usage(alice, "?by=model")["usage"]
    assert (by_model["model"], by_model["billed"]) == ("openai:gpt-4o-mini", 0)


def test_a_summary_is_counted_with_its_conversation(serve: Serve, model: ModelServer, name: str) -> None:
    with Person(serve(summary=True, history_max_messages=4, context_tokens=256), name) as bob:
        session = bob.connect()["session_id"]
        for n in range(8):
            bob.say(f"Question {n}")
        asked = [sent for sent in model.requests if "Sum up a conversation" in str(sent["messages"][0])]
        assert asked
        found = usage(bob)["today"]
        of_session = bob.get(f"sessions/{session}").json()["token_usage"]
        assert found["steps"] >= 9
        assert of_session["input_tokens"] >= 11 * 9


def test_nobody_is_told_what_others_have_spent(serve: Serve, name: str) -> None:
    url = serve()
    with Person(url, name) as bob, Person(url, f"{name}-2") as eve:
        bob.connect()
        bob.say("hi")
        assert usage(bob)["today"]["steps"] == 1
        assert usage(eve)["today"]["steps"] == 0
        assert eve.get(f"usage?user_id={name}").status_code == 403


@pytest.mark.parametrize(
    "query",
    [
        "by=user",
        "since=yesterday",
        "until=2026-13-01",
        "since=2026-02-01&until=2026-01-01",
        "since=0001-01-01",
    ],
)
def test_what_cannot_be_told_is_refused(alice: Person, query: str) -> None:
    refused(alice.get(f"usage?{query}"), 400)


def test_metrics_count_tokens_and_money_without_naming_anybody(alice: Person, model: ModelServer) -> None:
    model.will(Reply(text="Hi.", usage=counted(10, 5, cached=4)))
    alice.connect()
    alice.say("hi")
    lines = alice.http.get("/metrics").text.splitlines()
    assert 'mcp_chat_tokens_total{kind="cached",model="openai:scripted"} 4.0' in lines
    cost = next(line for line in lines if line.startswith("mcp_chat_cost_dollars_total"))
    assert float(cost.split()[-1]) == pytest.approx((6 * 2 + 4 * 0.5 + 5 * 10) / 1e6)
    assert not [line for line in lines if alice.name in line]


# Limits


def reached(answer: httpx.Response, limit: str) -> dict[str, Any]:
    """What is told of a limit that is reached."""
    assert answer.status_code == 429, answer.text
    told: dict[str, Any] = answer.json()
    assert (told["code"], told["limit"]) == ("limit_reached", limit)
    return told


def until_midnight() -> float:
    """Seconds until the next day in UTC."""
    now = datetime.now(UTC)
    return (datetime.combine(now.date() + timedelta(days=1), datetime.min.time(), UTC) - now).total_seconds()


def test_a_day_whose_tokens_are_used_up_takes_no_new_message(
    limited: Callable[..., Person], model: ModelServer
) -> None:
    alice = limited(day_tokens=1000)
    model.will(Reply(text="Hello.", usage=counted(900, 100)))
    alice.connect()
    alice.say("hi")
    answer = alice.post("chat", message="more")
    assert "today" in reached(answer, "day_tokens")["detail"]
    assert int(answer.headers["retry-after"]) == pytest.approx(until_midnight(), abs=30)
    assert len(model.requests) == 1
    assert usage(alice)["limits"]["day_tokens"] == {"limit": 1000, "used": 1000, "left": 0}


def test_a_message_that_was_answered_is_answered_again_behind_the_limit(
    limited: Callable[..., Person], model: ModelServer
) -> None:
    alice = limited(day_tokens=1000)
    model.will(Reply(text="Hello.", usage=counted(900, 100)))
    alice.connect()
    first = alice.keyed("chat", "once", message="hi").json()
    assert alice.keyed("chat", "once", message="hi").json()["response"] == first["response"] == "Hello."
    reached(alice.keyed("chat", "twice", message="hi"), "day_tokens")


def test_a_limit_in_mid_turn_ends_it_and_keeps_what_was_said(
    limited: Callable[..., Person], model: ModelServer, demo_url: str
) -> None:
    alice = limited(turn_tokens=1000)
    first = Reply(text="Adding.", calls=[("demo__add", {"a": 1, "b": 1})], usage=counted(800, 100))
    model.will(first, Reply(text="never"))
    alice.connect(server={"url": demo_url, "alias": "demo"})
    told = reached(alice.post("chat", message="add"), "turn_tokens")
    assert "1,000 tokens" in told["detail"]
    assert [message["role"] for message in alice.history()] == ["user", "assistant", "tool"]
    assert alice.history()[-1]["content"] == "2"
    assert len(model.requests) == 1
    model.will(Reply(text="again"))
    assert alice.say("another turn")["response"] == "again"


def test_the_model_may_say_no_more_than_what_is_left(
    limited: Callable[..., Person], model: ModelServer
) -> None:
    alice = limited(turn_tokens=500)
    model.will(Reply(text="cut short", usage=counted(4, 496)))
    alice.connect()
    reached(alice.post("chat", message="hi"), "turn_tokens")
    sent = model.requests[0]
    most = int(sent.get("max_completion_tokens") or sent["max_tokens"])
    assert 400 < most < 500
    assert alice.history()[-1]["content"] == "cut short"


def test_a_question_that_is_larger_than_the_limit_is_not_asked(
    limited: Callable[..., Person], model: ModelServer
) -> None:
    alice = limited(turn_tokens=100)
    alice.connect()
    reached(alice.post("chat", message="word " * 200), "turn_tokens")
    assert model.requests == []
    assert [message["role"] for message in alice.history()] == ["user"]


def test_calls_over_the_limit_are_not_made(
    limited: Callable[..., Person], model: ModelServer, demo_url: str
) -> None:
    alice = limited(turn_calls=3)
    model.will(add(2), add(3), Reply(text="never"))
    alice.connect(server={"url": demo_url, "alias": "demo"})
    reached(alice.post("chat", message="add"), "turn_calls")
    results = [message for message in alice.history() if message["role"] == "tool"]
    refusals = [message["content"] for message in results if message["status"] == "error"]
    assert (len(results), len(refusals)) == (5, 2)
    assert all(content.startswith("Not called: ") for content in refusals)
    assert usage(alice)["today"]["calls"] == 3
    assert len(model.requests) == 2


def test_a_turn_with_exactly_as_many_calls_as_it_may_make_is_answered(
    limited: Callable[..., Person], model: ModelServer, demo_url: str
) -> None:
    alice = limited(turn_calls=2, day_calls=2)
    model.will(add(2), Reply(text="Done."))
    alice.connect(server={"url": demo_url, "alias": "demo"})
    assert alice.say("add")["response"].endswith("Done.")
    model.will(add(1))
    reached(alice.post("chat", message="add"), "day_calls")
    model.will(Reply(text="No tool."))
    assert alice.say("only talk")["response"] == "No tool."


def test_money_is_limited_by_turn_and_by_day(limited: Callable[..., Person], model: ModelServer) -> None:
    alice = limited(turn_cost=0.01, day_cost=0.015)
    model.will(Reply(text="One.", usage=counted(100, 900)), Reply(text="Two.", usage=counted(100, 900)))
    alice.connect()
    assert alice.say("hi")["usage"]["cost"] == pytest.approx(0.0092)
    assert usage(alice)["limits"]["day_cost"]["left"] == pytest.approx(0.0058)
    reached(alice.post("chat", message="hi"), "day_cost")  # said before, but longer than was allowed
    sent = model.requests[1]
    most = int(sent.get("max_completion_tokens") or sent["max_tokens"])
    assert 500 < most < 580
    told = reached(alice.post("chat", message="hi"), "day_cost")
    assert "$0.015" in told["detail"]
    assert len(model.requests) == 2


def test_where_money_is_limited_a_model_without_a_price_is_not_asked(
    limited: Callable[..., Person], model: ModelServer
) -> None:
    alice = limited(day_cost=1)
    alice.connect(model="openai:nameless")
    answer = alice.post("chat", message="hi")
    assert (answer.status_code, answer.json()["code"]) == (422, "unpriced")
    assert model.requests == []


def test_an_operator_can_let_models_without_a_price_count_as_free(
    limited: Callable[..., Person], model: ModelServer
) -> None:
    alice = limited(day_cost=1, allow_unpriced=True)
    alice.connect(model="openai:nameless")
    assert alice.say("hi")["usage"]["cost"] is None


def test_who_pays_themselves_is_not_limited_in_money(
    limited: Callable[..., Person], model: ModelServer, model_url: str
) -> None:
    alice = limited(day_cost=0.001, turn_cost=0.001)
    llm = {"provider": "openai", "config": {"model": "own", "base_url": model_url, "api_key": "k"}}
    assert alice.post("connect", llm=llm).status_code == 200
    for _ in range(2):
        model.will(Reply(text="Hi.", usage=counted(10**6, 10**6)))
        alice.say("hi")


def test_turns_side_by_side_overspend_by_a_step_each_at_most(
    limited: Callable[..., Person], model: ModelServer, demo_url: str
) -> None:
    alice = limited(day_tokens=1000)
    alice.connect(server={"url": demo_url, "alias": "demo"})
    sessions = [alice.post("sessions", name=f"s{n}").json()["session_id"] for n in range(3)]
    call = [("demo__add", {"a": 1, "b": 1})]
    model.will(*[Reply(text="A.", calls=call, usage=counted(300, 10), pause=0.05)] * 30)

    def say(session: str) -> httpx.Response:
        return alice.post("chat", message="add for ever", session_id=session)

    with ThreadPoolExecutor(3) as pool:
        answers = list(pool.map(say, sessions))
    for answer in answers:
        reached(answer, "day_tokens")
    assert 3 <= len(model.requests) <= 3 + 2  # a step each beyond what the limit would have let through
    assert usage(alice)["today"]["steps"] == len(model.requests)


def test_a_stream_ends_with_the_limit_and_when_it_is_free_again(
    limited: Callable[..., Person], model: ModelServer, demo_url: str
) -> None:
    alice = limited(day_tokens=5000)
    model.will(Reply(text="A.", calls=[("demo__add", {"a": 1, "b": 1})], usage=counted(4900, 100)))
    alice.connect(server={"url": demo_url, "alias": "demo"})
    event, told = alice.stream("add")[-1]
    assert (event, told["code"], told["limit"]) == ("error", "limit_reached", "day_tokens")
    assert told["retry_after"] == pytest.approx(until_midnight(), abs=30)
    (result,) = [message for message in alice.history() if message["role"] == "tool"]
    assert result["status"] == "error"  # nobody would have read what it gives


def test_the_next_owner_knows_what_was_spent(serve: Serve, model: ModelServer, name: str) -> None:
    with Person(serve(day_tokens=1000), name) as first:
        model.will(Reply(text="Hello.", usage=counted(500, 100)))
        first.connect()
        first.say("hi")
    with Person(serve(day_tokens=1000), name) as second:  # another application over the same database
        model.will(Reply(text="Hello.", usage=counted(350, 50)))
        second.connect()
        second.say("hi")
        reached(second.post("chat", message="hi"), "day_tokens")
        assert usage(second)["today"]["steps"] == 2
