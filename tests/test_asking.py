"""A server asks its user in the middle of a call: in both generations, through HTTP."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.asking_mcp import AskingMCP, Older, sdk_server
from tests.faults import Stage, staged
from tests.model_server import ModelServer, Reply
from tests.person import Frame, Person
from tests.running import running, wait_until

SECRET = "2027-01-31"
"""A day that somebody fills in, and nobody else is to hear of."""


@pytest.fixture(scope="module")
def asking() -> AskingMCP:
    """The server of the newer generation."""
    return AskingMCP()


@pytest.fixture(scope="module")
def asking_url(asking: AskingMCP) -> Iterator[str]:
    with running(asking.app) as url:
        yield f"{url}/mcp"


@pytest.fixture(scope="module")
def done() -> list[Any]:
    """What the SDK's servers have carried out."""
    return []


@pytest.fixture(scope="module")
def sdk_url(done: list[Any]) -> Iterator[str]:
    with running(sdk_server(done).streamable_http_app(max_sessions=None)) as url:
        yield f"{url}/mcp"


@pytest.fixture(scope="module")
def older_url(done: list[Any]) -> Iterator[str]:
    with running(Older(sdk_server(done).streamable_http_app(max_sessions=None))) as url:
        yield f"{url}/mcp"


HASTY = {"tool_timeout": 4, "turn_timeout": 9}
"""Limits for tests that outlast them."""

hasty = pytest.mark.parametrize("stage", [HASTY], ids=["hasty"], indirect=True)


@pytest.fixture(scope="module")
def stage(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    limits = {"tool_timeout": 55, "turn_timeout": 110, "model_timeout": 55, "question_timeout": 110}
    folder = tmp_path_factory.mktemp("asking")
    with staged(folder, **{**limits, **getattr(request, "param", {})}) as stage:
        yield stage


@pytest.fixture
def model(stage: Stage, asking: AskingMCP, done: list[Any]) -> ModelServer:
    asking.clear()
    done.clear()
    return stage.cleared()


@pytest.fixture
def alice(stage: Stage, name: str, model: ModelServer) -> Iterator[Person]:
    with Person(stage.url, name) as person:
        yield person


def call(model: ModelServer, *tools: str, **args: Any) -> None:
    """Have the model call tools, and then be content."""
    model.will(Reply(calls=[(f"s__{tool}", args) for tool in tools]), Reply(text="Fine."))


def connect(person: Person, url: str) -> None:
    """Connect to one server, called `s`."""
    person.connect(server={"url": url, "alias": "s"})


class Turn:
    """A turn that is read in a thread."""

    def __init__(self, frames: Iterator[Frame]) -> None:
        self.frames: list[Frame] = []
        self._thread = threading.Thread(target=lambda: self.frames.extend(self._each(frames)), daemon=True)
        self._thread.start()

    def _each(self, frames: Iterator[Frame]) -> Iterator[Frame]:
        for frame in frames:
            self.frames.append(frame)
        return iter(())

    def of(self, name: str) -> list[dict[str, Any]]:
        """The frames of a kind."""
        return [data for event, data in self.frames if event == name]

    def question(self, number: int = 0) -> dict[str, Any]:
        """A question, when it is asked."""
        wait_until(lambda: len(self.of("question")) > number, f"a question; there are {self.frames}")
        return self.of("question")[number]

    def result(self) -> str:
        """What the first tool call has come to."""
        wait_until(lambda: self.of("tool_end") or self.of("tool_error"), f"a result; there are {self.frames}")
        ends = [
            data.get("output") or data.get("error") for data in self.of("tool_end") + self.of("tool_error")
        ]
        return str(ends[0])

    def end(self) -> list[str]:
        """The names of all frames, when there are no more."""
        self._thread.join(60)
        assert not self._thread.is_alive(), self.frames
        return [event for event, _ in self.frames]


@contextmanager
def turn(person: Person, message: str = "go", **body: Any) -> Iterator[Turn]:
    """Send a message and read along."""
    with person.streaming(message, **body) as frames:
        turn = Turn(frames)
        yield turn
        turn.end()


def answer(person: Person, question: dict[str, Any], action: str = "accept", **content: Any) -> Any:
    """Answer a question."""
    body: dict[str, Any] = {"action": action}
    if content or (action == "accept" and question["kind"] == "form"):
        body["content"] = content
    return person.post(f"questions/{question['id']}", **body)


def test_a_form_is_shown_and_its_answer_reaches_the_server(
    alice: Person, model: ModelServer, asking: AskingMCP, asking_url: str
) -> None:
    connect(alice, asking_url)
    call(model, "book")
    with turn(alice) as going:
        question = going.question()
        assert question["kind"] == "form"
        assert question["server"] == "s"
        assert question["message"] == "When?"
        assert question["tool"] == "s__book"
        assert set(question["schema"]["properties"]) == {"day", "seats", "menu", "extras"}
        open_now = alice.get("questions").json()
        assert open_now["count"] == 1
        assert {"type": "question", **open_now["questions"][0]} == question
        response = answer(alice, question, day=SECRET, extras=["w"])
        assert response.status_code == 200, response.text
        assert going.result() == "book: done"
    names = going.end()
    assert (
        names.index("tool_start")
        < names.index("question")
        < names.index("question_end")
        < names.index("tool_end")
    )
    assert names[-1] == "final"
    given = {"action": "accept", "content": {"day": SECRET, "seats": 2, "extras": ["w"]}}
    assert asking.done == [("book", {"when": given})]
    assert asking.calls == ["book", "book"]
    assert alice.get("questions").json()["count"] == 0
    assert asking.capabilities["elicitation"] == {"form": {}, "url": {}}
    assert not {"sampling", "roots"} & set(asking.capabilities)


def test_what_was_answered_is_told_to_nobody_but_the_server(
    alice: Person, model: ModelServer, asking_url: str
) -> None:
    connect(alice, asking_url)
    call(model, "book")
    with turn(alice) as going:
        answer(alice, going.question(), day=SECRET)
        going.result()
    assert SECRET not in json.dumps(going.frames)
    assert SECRET not in json.dumps(model.requests)
    assert SECRET not in json.dumps(alice.history())


@pytest.mark.parametrize("action", ["decline", "cancel"])
def test_a_question_can_be_declined_and_cancelled(
    alice: Person, model: ModelServer, asking: AskingMCP, asking_url: str, action: str
) -> None:
    connect(alice, asking_url)
    call(model, "book")
    with turn(alice) as going:
        assert answer(alice, going.question(), action).status_code == 200
        assert going.result() == "book: not done"
    assert asking.done == [("book", {"when": {"action": action}})]
    assert going.of("question_end") == [
        {"type": "question_end", "id": going.question()["id"], "action": action}
    ]


def test_a_wrong_answer_is_refused_with_a_sentence_for_each_field(
    alice: Person, model: ModelServer, asking: AskingMCP, asking_url: str
) -> None:
    connect(alice, asking_url)
    call(model, "book")
    with turn(alice) as going:
        question = going.question()
        response = answer(alice, question, seats=9, menu="meat", extras=["w", "w"], more=1)
        assert response.status_code == 422
        said = {each["loc"][-1]: each["msg"] for each in response.json()["errors"]}
        assert said == {
            "day": "this field is required",
            "seats": "this must be at most 8",
            "menu": "this must be one of: fish, soup",
            "extras": "these must be some of: w, h",
            "more": "there is no such field",
        }
        assert answer(alice, question, day="tomorrow").status_code == 422
        assert answer(alice, question, "maybe").status_code == 422
        assert answer(alice, question, "decline", day=SECRET).status_code == 422
        assert asking.calls == ["book"]
        answer(alice, question, "decline")


def test_an_answer_counts_once(alice: Person, model: ModelServer, asking: AskingMCP, asking_url: str) -> None:
    connect(alice, asking_url)
    call(model, "book")
    with turn(alice) as going:
        question = going.question()
        assert answer(alice, question, day=SECRET).status_code == 200
        assert answer(alice, question, day=SECRET).status_code == 200
        assert answer(alice, question, day="2027-02-01").status_code == 409
        going.result()
    assert answer(alice, question, day=SECRET).status_code == 200
    assert answer(alice, question, "decline").status_code == 409
    assert len(asking.done) == 1


def test_a_question_of_somebody_else_does_not_exist(
    alice: Person, stage: Stage, model: ModelServer, asking: AskingMCP, asking_url: str
) -> None:
    connect(alice, asking_url)
    call(model, "book")
    with turn(alice) as going, Person(stage.url, f"{alice.name}-b") as bob:
        question = going.question()
        assert bob.get("questions").json() == {"questions": [], "count": 0}
        theirs = answer(bob, question, day=SECRET)
        none = bob.post("questions/nothing", action="decline")
        assert (theirs.status_code, theirs.json()) == (none.status_code, none.json()) == (404, none.json())
        assert asking.calls == ["book"]
        answer(alice, question, "cancel")


def test_an_address_is_shown_in_full_and_opened_by_nobody(
    alice: Person, model: ModelServer, asking: AskingMCP, asking_url: str
) -> None:
    connect(alice, asking_url)
    call(model, "pay")
    with turn(alice) as going:
        question = going.question()
        assert question["kind"] == "url"
        assert question["url"] == "https://pay.example/checkout?order=1"
        assert question["host"] == "pay.example"
        assert answer(alice, question, "accept").status_code == 200
        assert going.result() == "pay: done"
    assert asking.done == [("pay", {"pay": {"action": "accept"}})]
    assert "pay.example" not in json.dumps(model.requests)


def test_two_questions_at_once_are_answered_one_by_one(
    alice: Person, model: ModelServer, asking: AskingMCP, asking_url: str
) -> None:
    connect(alice, asking_url)
    call(model, "two")
    with turn(alice) as going:
        first, second = going.question(0), going.question(1)
        assert answer(alice, second, yes=False).status_code == 200
        assert alice.get("questions").json()["count"] == 1
        assert asking.calls == ["two"]
        assert answer(alice, first, yes=True).status_code == 200
        assert going.result() == "two: done"
    _, given = asking.done[0]
    assert {key: each["content"]["yes"] for key, each in given.items()} == {"a": True, "b": False}


def test_a_server_may_ask_again(
    alice: Person, model: ModelServer, asking: AskingMCP, asking_url: str
) -> None:
    connect(alice, asking_url)
    call(model, "then")
    with turn(alice) as going:
        answer(alice, going.question(0), word="x")
        answer(alice, going.question(1), word="y")
        assert going.result() == "then: done"
    assert asking.calls == ["then"] * 3


@hasty
def test_time_does_not_run_while_a_person_is_asked(
    alice: Person, model: ModelServer, asking_url: str
) -> None:
    """The turn may take 9 seconds, and a call 4."""
    connect(alice, asking_url)
    call(model, "book")
    with turn(alice) as going:
        question = going.question()
        threading.Event().wait(9.5)
        assert answer(alice, question, day=SECRET).status_code == 200
        assert going.result() == "book: done"
    assert going.end()[-1] == "final"


def test_a_stop_ends_the_question(
    alice: Person, model: ModelServer, asking: AskingMCP, asking_url: str
) -> None:
    connect(alice, asking_url)
    call(model, "book")
    with turn(alice) as going:
        question = going.question()
        assert alice.post("cancel").json()["status"] == "cancelled"
    assert going.of("question_end")[0]["action"] == "cancel"
    assert going.of("final")[0]["stopped"] is True
    assert answer(alice, question, day=SECRET).status_code == 410
    assert alice.get("questions").json()["count"] == 0
    assert asking.calls == ["book"]


def test_a_disconnect_ends_the_question(alice: Person, model: ModelServer, asking_url: str) -> None:
    connect(alice, asking_url)
    call(model, "book")
    with turn(alice) as going:
        question = going.question()
        assert alice.post("disconnect").status_code == 200
    assert answer(alice, question, day=SECRET).status_code == 410


def test_a_question_waits_no_longer_than_it_says(
    tmp_path_factory: pytest.TempPathFactory, asking: AskingMCP, asking_url: str, name: str
) -> None:
    with (
        staged(tmp_path_factory.mktemp("short"), question_timeout=0.5) as short,
        Person(short.url, name) as alice,
    ):
        asking.clear()
        connect(alice, asking_url)
        call(short.cleared(), "book")
        with turn(alice) as going:
            assert going.result() == "book: not done"
        assert going.of("question_end")[0]["action"] == "expired"
        assert answer(alice, going.question(), day=SECRET).status_code == 410
    assert asking.done == [("book", {"when": {"action": "cancel"}})]


def test_a_server_without_questions_is_only_given_time(
    alice: Person, model: ModelServer, asking: AskingMCP, asking_url: str
) -> None:
    connect(alice, asking_url)
    call(model, "patient")
    with turn(alice) as going:
        assert going.result() == "patient: done"
    assert not going.of("question")


def test_a_call_whose_headers_do_not_match_is_made_again_with_a_new_list(
    alice: Person, model: ModelServer, asking: AskingMCP, asking_url: str
) -> None:
    connect(alice, asking_url)
    call(model, "moved")
    with turn(alice) as going:
        assert going.result() == "moved"
    assert asking.calls == ["moved", "moved"]


BAD = {
    "bomb": "more than 64 fields",
    "nested": "could not be read|cannot be shown",
    "thousand": "asked for more and more",
    "huge-state": "more kept",
    "samples": "does not get",
    "script": "no web address",
    "plain": "not encrypted",
    "user-info": "no web address",
    "wrong": "could not be read",
    "for-ever": "asked for more and more|did not answer within",
}


@hasty
@pytest.mark.parametrize("tool", BAD)
def test_what_cannot_be_asked_fails_the_call_alone(
    alice: Person, model: ModelServer, asking: AskingMCP, asking_url: str, tool: str
) -> None:
    connect(alice, asking_url)
    call(model, tool)
    with turn(alice) as going:
        text = going.result()
    assert any(part in text for part in BAD[tool].split("|")), text
    assert not going.of("question")
    assert going.end()[-1] == "final"
    assert alice.get("questions").json()["count"] == 0
    call(model, "book")
    with turn(alice) as going:
        answer(alice, going.question(), day=SECRET)
        assert going.result() == "book: done"


def test_a_server_that_never_has_enough_is_given_up(
    alice: Person, model: ModelServer, asking: AskingMCP, asking_url: str
) -> None:
    connect(alice, asking_url)
    call(model, "endless")
    with turn(alice) as going:
        for n in range(10):
            answer(alice, going.question(n))
        assert "asked for more and more" in going.result()
    assert len(asking.calls) == 11


# The SDK's own servers


def test_the_sdks_server_asks_by_its_results(
    alice: Person, model: ModelServer, sdk_url: str, done: list[Any]
) -> None:
    connect(alice, sdk_url)
    call(model, "book", where="here")
    with turn(alice) as going:
        answer(alice, going.question(), day=SECRET)
        assert going.result() == "booked here"
    assert done == [("here", {"day": SECRET, "seats": 2})]


@hasty
@pytest.mark.parametrize("tool", ["book", "live"])
def test_an_older_server_asks_in_the_middle_of_a_call(
    alice: Person, model: ModelServer, older_url: str, done: list[Any], tool: str
) -> None:
    connect(alice, older_url)
    call(model, tool, **({"where": "here"} if tool == "book" else {}))
    with turn(alice) as going:
        question = going.question()
        assert question["tool"] == f"s__{tool}"
        threading.Event().wait(4.5)  # longer than a call may take
        assert answer(alice, question, day=SECRET).status_code == 200
        assert going.result() in ("booked here", "live: accept")
    assert SECRET in json.dumps(done)
    assert '"seats": 2' in json.dumps(done)
    assert going.of("question_end")[0]["action"] == "accept"


@pytest.mark.parametrize("action", ["accept", "decline", "cancel"])
def test_an_older_server_asks_to_open_an_address(
    alice: Person, model: ModelServer, older_url: str, done: list[Any], action: str
) -> None:
    connect(alice, older_url)
    call(model, "live_page")
    with turn(alice) as going:
        question = going.question()
        assert (question["kind"], question["url"]) == ("url", "https://pay.example/checkout")
        assert answer(alice, question, action).status_code == 200
        assert going.result() == f"page: {action}"


def test_a_stop_answers_an_older_server_too(
    alice: Person, model: ModelServer, older_url: str, done: list[Any]
) -> None:
    connect(alice, older_url)
    call(model, "live")
    with turn(alice) as going:
        question = going.question()
        alice.post("cancel")
    assert answer(alice, question, day=SECRET).status_code == 410
    assert going.of("question_end")[0]["action"] == "cancel"


@pytest.mark.parametrize("action", ["accept", "decline"])
def test_an_older_server_wants_an_address_visited_before_it_takes_a_call(
    alice: Person, model: ModelServer, older_url: str, done: list[Any], action: str
) -> None:
    connect(alice, older_url)
    call(model, "gate")
    with turn(alice) as going:
        question = going.question()
        assert question["url"] == "https://pay.example/first"
        assert done == []
        answer(alice, question, action)
        text = going.result()
    assert text == "gate: open" if action == "accept" else "The user did not do" in text
    assert done == (["gate"] if action == "accept" else [])


def test_who_waits_takes_nobodys_place(
    tmp_path_factory: pytest.TempPathFactory, asking: AskingMCP, asking_url: str, name: str
) -> None:
    folder = tmp_path_factory.mktemp("places")
    with (
        staged(folder, max_turns=1) as small,
        Person(small.url, name) as alice,
        Person(small.url, "bob") as bob,
    ):
        asking.clear()
        connect(alice, asking_url)
        bob.connect()
        small.cleared().will(Reply(calls=[("s__book", {})]), Reply(text="Hello."), Reply(text="Fine."))
        with turn(alice) as going:
            question = going.question()
            assert bob.say("hello")["response"] == "Hello."
            answer(alice, question, day=SECRET)
            assert going.result() == "book: done"


# Tasks


@hasty
def test_a_task_is_followed_to_its_result(
    alice: Person, model: ModelServer, asking: AskingMCP, asking_url: str
) -> None:
    connect(alice, asking_url)
    call(model, "count")
    with turn(alice) as going:
        wait_until(lambda: len(going.of("tool_progress")) > 1, "progress")
        threading.Event().wait(4.5)  # longer than a call may take
        asking.go.set()
        assert going.result() == "count: done"
    assert asking.calls == ["count"]
    assert going.of("tool_progress")[0]["message"].startswith("look ")
    assert not asking.cancelled
    assert any(headers.get("mcp-name") in asking.jobs for headers in asking.headers)
    assert "io.modelcontextprotocol/tasks" in asking.capabilities["extensions"]


def test_a_task_may_ask(alice: Person, model: ModelServer, asking: AskingMCP, asking_url: str) -> None:
    connect(alice, asking_url)
    call(model, "ask-and-count")
    with turn(alice) as going:
        answer(alice, going.question(), day=SECRET)
        wait_until(lambda: asking.updates, "the task hears of it")
        asking.go.set()
        assert going.result() == "ask-and-count: done"
    assert asking.updates == [{"when": {"action": "accept", "content": {"day": SECRET, "seats": 2}}}]


def test_a_task_of_a_turn_that_is_stopped_is_cancelled(
    alice: Person, model: ModelServer, asking: AskingMCP, asking_url: str
) -> None:
    connect(alice, asking_url)
    call(model, "count")
    with turn(alice) as going:
        wait_until(lambda: going.of("tool_progress"), "progress")
        alice.post("cancel")
    assert asking.cancelled == list(asking.jobs)
    assert going.of("final")[0]["stopped"] is True


def test_a_task_that_its_server_has_lost_is_told_as_lost(
    alice: Person, model: ModelServer, asking: AskingMCP, asking_url: str
) -> None:
    connect(alice, asking_url)
    call(model, "lost")
    with turn(alice) as going:
        assert "does not know the task" in going.result()


def test_a_task_takes_no_longer_than_it_may(
    tmp_path_factory: pytest.TempPathFactory, asking: AskingMCP, asking_url: str, name: str
) -> None:
    with (
        staged(tmp_path_factory.mktemp("brief"), task_timeout=0.5) as brief,
        Person(brief.url, name) as alice,
    ):
        asking.clear()
        connect(alice, asking_url)
        call(brief.cleared(), "count")
        with turn(alice) as going:
            assert "longer than 0.5 seconds" in going.result()
    assert asking.cancelled == list(asking.jobs)
