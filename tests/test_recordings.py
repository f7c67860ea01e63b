"""Recordings of turns that were interrupted by limits, people and bad text: kept, replayed and deleted."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import anyio
import pytest

from mcp_chat.commands import Send
from mcp_chat.events import TurnFinished
from mcp_chat.papers import Papers
from mcp_chat.recording import Recording, read_recording
from mcp_chat.replay import differences, replay
from mcp_chat.stores.base import Lease
from mcp_chat.stores.memory import MemoryDocuments, MemoryStore
from mcp_chat.tapes import Tapes
from mcp_chat.vault import Vault
from tests.asked import decided, turn
from tests.faults import within
from tests.model_server import ModelServer, Reply
from tests.person import Person
from tests.running import wait_until


@pytest.fixture(autouse=True)
def kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow the disk is."""
    monkeypatch.setattr("mcp_chat.tapes.KEEP_LIMIT", 60)


def taken(person: Person, turn_id: str) -> Recording:
    """The recording of a turn, as its user gets it."""
    answer = person.get(f"turns/{turn_id}/recording")
    assert answer.status_code == 200, answer.text
    return read_recording(answer.content)


def replayed_otherwise(recording: Recording) -> list[str]:
    """In what a replay differs from what was recorded."""
    with within(30):
        events = anyio.run(replay, recording)
    return differences([event for _, event in recording.events], events)


@contextmanager
def connected(url: str, name: str, demo_url: str) -> Iterator[Person]:
    with Person(url, name) as person:
        person.connect(server={"url": demo_url, "alias": "demo"})
        yield person


def add(*numbers: int) -> Reply:
    return Reply(text="Adding.", calls=[("demo__add", {"a": n, "b": 1}) for n in numbers])


def test_text_that_is_no_unicode_is_recorded(
    serve: Any, model: ModelServer, demo_url: str, name: str
) -> None:
    model.will(Reply(text="half \ud83d of it", calls=[("demo__add", '{"a": 1, "b": 2, "\ud83d": 3}')]))
    with connected(serve(), name, demo_url) as alice:
        with within(10):
            answer = alice.post("chat", message="go", record=True, message_id="odd")
        assert answer.status_code == 200, answer.text
        assert replayed_otherwise(taken(alice, "odd")) == []
        assert alice.say("and on")["response"]


def test_a_limit_between_two_answers_is_replayed(
    serve: Any, model: ModelServer, demo_url: str, name: str
) -> None:
    model.will(add(1, 2), Reply(text="never"))
    with connected(serve(turn_calls=1), name, demo_url) as alice:
        assert alice.post("chat", message="add", record=True, message_id="m").status_code == 429
        assert replayed_otherwise(taken(alice, "m")) == []


def test_calls_that_were_made_one_after_the_other_are_replayed(
    serve: Any, model: ModelServer, demo_url: str, name: str
) -> None:
    model.will(add(1, 2, 3), Reply(text="Done."))
    with connected(serve(parallel_calls=1), name, demo_url) as alice:
        assert alice.post("chat", message="add", record=True, message_id="m").status_code == 200
        assert replayed_otherwise(taken(alice, "m")) == []


def test_an_answer_that_a_limit_cut_off_is_replayed(
    serve: Any, model: ModelServer, demo_url: str, name: str
) -> None:
    usage = {"prompt_tokens": 4, "completion_tokens": 4999, "total_tokens": 5003}
    model.will(Reply(text="cut short", usage=usage))
    with Person(serve(turn_tokens=2000), name) as alice:
        alice.connect()
        assert alice.post("chat", message="hi", record=True, message_id="m").status_code == 429
        assert replayed_otherwise(taken(alice, "m")) == []


def test_too_many_rounds_are_replayed(serve: Any, model: ModelServer, demo_url: str, name: str) -> None:
    model.will(add(1), add(2), add(3))
    with connected(serve(tool_rounds=1), name, demo_url) as alice:
        assert alice.post("chat", message="add", record=True, message_id="m").status_code == 503
        assert replayed_otherwise(taken(alice, "m")) == []


def test_a_retried_answer_is_replayed(serve: Any, model: ModelServer, demo_url: str, name: str) -> None:
    model.will(Reply(status=500), add(1), Reply(status=500), Reply(text="Done."))
    with connected(serve(), name, demo_url) as alice:
        assert alice.post("chat", message="add", record=True, message_id="m").status_code == 200
        assert replayed_otherwise(taken(alice, "m")) == []


def test_what_failed_again_and_again_is_replayed(
    serve: Any, model: ModelServer, demo_url: str, name: str
) -> None:
    model.will(add(1), *[Reply(status=500) for _ in range(9)])
    with connected(serve(), name, demo_url) as alice:
        assert alice.post("chat", message="add", record=True, message_id="m").status_code == 503
        assert replayed_otherwise(taken(alice, "m")) == []


@pytest.mark.parametrize("second", [Reply(text="four five"), Reply(text="four five six", break_after=3)])
def test_a_turn_that_was_steered_is_replayed(
    serve: Any, model: ModelServer, name: str, second: Reply
) -> None:
    url, hold = serve(), threading.Event()
    model.will(Reply(text="one two three", hold=hold), second)
    with Person(url, name) as alice, Person(url, name) as tab:
        alice.connect()
        with alice.streaming("count", record=True, message_id="m") as frames:
            next(frames)
            with tab.streaming("go on", if_running="steer", message_id="s") as more:
                tab.taken_up()
                hold.set()
                list(more)
            list(frames)
        assert replayed_otherwise(taken(alice, "m")) == []


def test_a_steered_message_that_is_said_again_is_replayed(serve: Any, model: ModelServer, name: str) -> None:
    url, hold = serve(record_turns="all"), threading.Event()
    model.will(Reply(text="one two three", hold=hold), Reply(text="four"), Reply(text="five"))
    with Person(url, name) as alice, Person(url, name) as tab:
        alice.connect()
        with alice.streaming("count") as frames:
            next(frames)
            with tab.streaming("go on", if_running="steer") as more:
                tab.taken_up()
                hold.set()
                list(more)
            list(frames)
        again = alice.post("retry").json()
        assert [m["content"] for m in alice.history()] == ["count", "one two three", "go on", "five"]
        recording = taken(alice, again["turn_id"])
        assert recording.question
        assert recording.question.metadata == {}
        assert replayed_otherwise(recording) == []


def test_the_recording_goes_with_its_conversation(serve: Any, model: ModelServer, name: str) -> None:
    with Person(serve(), name) as alice:
        session_id = alice.connect()["session_id"]
        alice.say("secret", record=True, message_id="m", session_id=session_id)
        alice.say("other", record=True, message_id="n", session_id="other")
        taken(alice, "m")
        assert alice.http.delete(f"/llmchat/sessions/{session_id}").status_code == 200
        assert alice.get("turns/m/recording").status_code == 404
        taken(alice, "n")


class _Slow(MemoryDocuments):
    """A store that never answers."""

    async def put_document(self, *args: Any, **more: Any) -> int | None:
        await anyio.sleep_forever()
        raise AssertionError


@pytest.mark.anyio
async def test_a_recording_that_cannot_be_kept_holds_no_end_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mcp_chat.tapes.KEEP_LIMIT", 0.05)
    papers = Papers(_Slow(MemoryStore().leases, time.monotonic), Vault([bytes(32)]))
    tapes = Tapes(lease=Lease(user="u", worker="w", epoch=1), papers=papers, which="all")
    command = Send(session_id="s", text="hi")
    with anyio.fail_after(5):
        await tapes.keep(command, tapes.begin(command, model="", resumed=False), TurnFinished())


@pytest.mark.parametrize("parallel", [1, 8])
@pytest.mark.parametrize("calls", [(1, 2, "wait"), (1, "wait", 2), ("wait", 1, 2)])
def test_a_turn_that_was_stopped_among_several_calls_is_replayed(
    serve: Any, model: ModelServer, demo_url: str, name: str, parallel: int, calls: tuple[Any, ...]
) -> None:
    made = [
        ("demo__add", {"a": n, "b": 1}) if n != "wait" else ("demo__slow_count", {"steps": 60}) for n in calls
    ]
    model.will(Reply(text="Adding.", calls=made))
    with connected(serve(parallel_calls=parallel), name, demo_url) as alice:
        with turn(alice, record=True, message_id="m") as going:
            before = len(calls) - 1 if parallel > 1 else 0  # which comes first at one place is chance
            wait_until(lambda: len(going.of("tool_end")) >= before, "the others are done")
            wait_until(
                lambda: any(each["tool"] == "demo__slow_count" for each in going.of("tool_start")), "it waits"
            )
            alice.post("cancel")
        assert replayed_otherwise(taken(alice, "m")) == []


@pytest.mark.parametrize("how", ["changed", "denied", "stopped"])
def test_a_turn_that_asked_its_user_is_replayed(
    serve: Any, model: ModelServer, demo_url: str, name: str, how: str
) -> None:
    model.will(add(1), Reply(text="Done."))
    with connected(serve(approvals=True), name, demo_url) as alice:
        with turn(alice, record=True, message_id="m") as going:
            asked = going.approval()
            if how == "stopped":
                alice.post("cancel")
            elif how == "changed":
                decided(alice, asked, arguments={"a": 5, "b": 5})
            else:
                decided(alice, asked, "deny", reason="No.")
        assert replayed_otherwise(taken(alice, "m")) == []
