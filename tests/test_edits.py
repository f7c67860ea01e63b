"""Messages that are edited and sent again, and the branches they leave, over HTTP."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import need, on_one_stage
from tests.faults import Stage
from tests.model_server import ModelServer, Reply
from tests.person import Person
from tests.running import wait_until
from tests.test_docs import blocks, run, shape

stage, model, alice = on_one_stage(connect_timeout=15, model_timeout=15, turn_timeout=20)


SAID = {"role": "user", "content": "x"}


def answers(model: ModelServer, *texts: str) -> None:
    model.will(*(Reply(text=text) for text in texts))


def told(person: Person) -> list[str]:
    """What the conversation says."""
    return [message["content"] for message in person.history()]


def asked(person: Person, text: str) -> str:
    """The id of a message."""
    return next(str(each["id"]) for each in person.history() if each["content"] == text)


def place(person: Person, text: str) -> str:
    """Which of several branches a message begins, as a tab shows it."""
    message: dict[str, Any] = next(each for each in person.history() if each["content"] == text)
    branches: dict[str, int] = message.get("branches", {"place": 1, "count": 1})
    return f"{branches['place']}/{branches['count']}"


def session_of(person: Person) -> str:
    return str(person.get("config/{me}").json()["session_id"])


def ways(person: Person) -> list[list[tuple[str, int, bool]]]:
    """The forks: for each of their branches its words, its messages, and whether it is shown."""
    answer = person.get(f"sessions/{session_of(person)}/branches")
    assert answer.status_code == 200, answer.text
    return [
        [(each["words"], each["messages"], each["current"]) for each in fork["branches"]]
        for fork in answer.json()["forks"]
    ]


def branch_named(person: Person, words: str) -> str:
    """The id of the branch that begins with these words."""
    forks = person.get(f"sessions/{session_of(person)}/branches").json()["forks"]
    return next(str(each["id"]) for fork in forks for each in fork["branches"] if each["words"] == words)


def switch(person: Person, words: str) -> httpx.Response:
    return person.post(f"sessions/{session_of(person)}/branches/{branch_named(person, words)}")


@pytest.fixture
def talked(alice: Person, model: ModelServer) -> Person:
    """Somebody who has asked two things."""
    answers(model, "one", "two")
    alice.connect()
    alice.say("first")
    alice.say("second")
    return alice


# Editing


def test_an_edited_message_is_answered_in_place_of_the_old_one(talked: Person, model: ModelServer) -> None:
    answers(model, "other")
    answer = talked.say("second, differently", edit=asked(talked, "second"))
    assert answer["response"] == "other"
    assert told(talked) == ["first", "one", "second, differently", "other"]
    seen = [message["content"] for message in model.requests[-1]["messages"]]
    assert seen == ["first", "one", "second, differently"], "the model was shown what is not in the branch"


def test_each_message_of_a_fork_says_which_of_how_many_it_is(talked: Person, model: ModelServer) -> None:
    talked.say("2b", edit=asked(talked, "second"))
    talked.say("2c", edit=asked(talked, "2b"))
    assert [place(talked, text) for text in ("first", "2c")] == ["1/1", "3/3"]
    message = talked.history()[2]["branches"]
    assert (message["before"], message["after"]) == (branch_named(talked, "2b"), None)
    paged = talked.get(f"sessions/{session_of(talked)}/messages").json()["messages"]
    assert paged == talked.history()


def test_what_was_left_is_shown_again_by_a_switch_and_told_to_other_tabs(talked: Person) -> None:
    with talked.following() as events:
        talked.say("2b", edit=asked(talked, "second"))
        forked = next(event for event in events if event.name == "branch")
        assert switch(talked, "second").json()["status"] == "switched"
        switched = next(event for event in events if event.name == "branch")
    assert forked.data["session_id"] == switched.data["session_id"] == session_of(talked)
    assert told(talked) == ["first", "one", "second", "two"]
    assert ways(talked) == [[("second", 2, True), ("2b", 2, False)]]
    assert place(talked, "second") == "1/2"


def test_a_conversation_goes_on_in_the_branch_that_is_shown(talked: Person, model: ModelServer) -> None:
    talked.say("2b", edit=asked(talked, "second"))
    switch(talked, "second")
    answers(model, "three")
    talked.say("third")
    assert told(talked) == ["first", "one", "second", "two", "third", "three"]
    seen = [message["content"] for message in model.requests[-1]["messages"]]
    assert seen == ["first", "one", "second", "two", "third"]


def test_branches_of_branches_are_all_found_again(talked: Person, model: ModelServer) -> None:
    talked.say("2b", edit=asked(talked, "second"))
    talked.say("1b", edit=asked(talked, "first"))
    assert told(talked)[0] == "1b"
    assert ways(talked) == [
        [("first", 4, False), ("1b", 2, True)],
        [("second", 2, False), ("2b", 2, False)],
    ]
    switch(talked, "second")
    assert told(talked) == ["first", "one", "second", "two"]


def test_the_same_edit_sent_again_is_one_edit(talked: Person, model: ModelServer) -> None:
    old = asked(talked, "second")
    first = talked.say("2b", edit=old, message_id="e" * 32)
    count = len(model.requests)
    again = talked.say("2b", edit=old, message_id="e" * 32)
    assert (again["response"], len(model.requests)) == (first["response"], count)
    assert ways(talked) == [[("second", 2, False), ("2b", 2, True)]]
    switch(talked, "second")  # its answer is still known where nobody sees it
    assert talked.say("2b", edit=old, message_id="e" * 32)["response"] == first["response"]


def test_a_message_that_was_edited_elsewhere_is_not_edited(talked: Person) -> None:
    old = asked(talked, "second")
    talked.say("2b", edit=old)
    refused = talked.post("chat", message="2c", edit=old)
    assert refused.status_code == 404, refused.text
    assert told(talked)[2] == "2b"


@pytest.mark.parametrize("way", ["chat", "retry"])
def test_only_messages_of_the_users_own_are_edited(talked: Person, way: str) -> None:
    answer = talked.history()[1]["id"]
    body = {"message": "x", "edit": answer} if way == "chat" else {"message_id": answer}
    assert talked.post(way, **body).status_code == 400
    body = {"message": "x", "edit": "nothing"} if way == "chat" else {"message_id": "nothing"}
    assert talked.post(way, **body).status_code == 404


def test_two_edits_of_one_message_at_once_are_one_edit_and_one_refusal(
    talked: Person, model: ModelServer
) -> None:
    old, hold = asked(talked, "second"), threading.Event()
    model.will(Reply(text="third answer", hold=hold), Reply(text="slow answer"), Reply(text="never"))
    with talked.streaming("third") as first:  # both are accepted before one of them cuts
        next(first)
        with talked.streaming("2b", edit=old) as frames, talked.streaming("2c", edit=old) as others:
            hold.set()
            assert list(frames)[-1][0] == "final"
            name, data = list(others)[-1]
        list(first)
    assert (name, "another way" in data["error"]) == ("error", True)
    assert told(talked) == ["first", "one", "2b", "slow answer"]
    assert ways(talked) == [[("second", 4, False), ("2b", 2, True)]]


def test_an_edit_waits_for_the_turn_that_runs_or_stops_it(talked: Person, model: ModelServer) -> None:
    model.will(Reply(text="a long answer", pause=0.2), Reply(text="after it"))
    with talked.streaming("third") as frames:
        next(frames)
        waits = talked.say("2b", edit=asked(talked, "second"))
        assert list(frames)[-1][1]["stopped"] is False
    assert waits["response"] == "after it"
    assert ways(talked) == [[("second", 4, False), ("2b", 2, True)]]
    model.will(Reply(text="a long answer", pause=2), Reply(text="at once"))
    with talked.streaming("fourth") as frames:
        next(frames)
        talked.say("1b", edit=asked(talked, "first"), if_running="interrupt")
        assert list(frames)[-1][1]["stopped"] is True
    assert told(talked) == ["1b", "at once"]


def test_an_edit_that_is_stopped_while_it_waits_changes_nothing(talked: Person, model: ModelServer) -> None:
    model.will(Reply(text="an answer that is not soon at its end", pause=2))
    with talked.streaming("third") as frames:
        next(frames)
        with talked.streaming("2b", edit=asked(talked, "second")) as others:
            wait_until(lambda: talked.post("cancel").json()["status"] == "cancelled", "all is stopped")
            assert list(others)[-1][1]["stopped"] is True
        list(frames)
    assert told(talked)[:5] == ["first", "one", "second", "two", "third"]
    assert ways(talked) == []


# Sending again


def test_the_last_message_is_run_again_and_the_old_answer_kept(talked: Person, model: ModelServer) -> None:
    answers(model, "two, better")
    answer = talked.post("retry").json()
    assert (answer["response"], answer["session_id"]) == ("two, better", session_of(talked))
    assert told(talked) == ["first", "one", "second", "two, better"]
    assert ways(talked) == [[("second", 2, False), ("second", 2, True)]]
    old = talked.get(f"sessions/{session_of(talked)}/branches").json()["forks"][0]["branches"][0]["id"]
    talked.post(f"sessions/{session_of(talked)}/branches/{old}")
    assert told(talked)[-1] == "two"


def test_an_earlier_message_is_run_again_with_its_files(alice: Person, model: ModelServer) -> None:
    alice.connect()
    sent = alice.http.post(
        "/llmchat/uploads?name=a.txt", content=b"inside", headers={"content-type": "text/plain"}
    )
    alice.say("look", attachments=[sent.json()["upload_id"]])
    alice.say("more")
    answers(model, "again")
    alice.post("retry", message_id=asked(alice, "look"))
    assert told(alice) == ["look", "again"]
    assert alice.history()[0]["parts"][0]["name"] == "a.txt"
    assert "inside" in json.dumps(model.requests[-1])


def test_a_retry_streams_as_a_message_does_and_is_made_once(talked: Person, model: ModelServer) -> None:
    answers(model, "better")
    answer = talked.keyed("retry", "r" * 32, streaming=True)
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert "event: final" in answer.text
    assert talked.keyed("retry", "r" * 32).json()["response"] == "better"
    assert told(talked) == ["first", "one", "second", "better"]
    assert len(ways(talked)[0]) == 2


def test_a_retry_may_use_another_temperature(talked: Person, model: ModelServer) -> None:
    talked.post("retry", temperature=0.25)
    assert model.requests[-1]["temperature"] == 0.25
    talked.post("retry")
    assert model.requests[-1].get("temperature") is None


def test_a_failed_turn_is_tried_again(talked: Person, model: ModelServer) -> None:
    model.will(Reply(status=400), Reply(text="there"))
    assert talked.post("chat", message="third").status_code == 503
    assert talked.post("retry").json()["response"] == "there"
    assert told(talked)[4:] == ["third", "there"]


def test_there_is_nothing_to_run_again_in_a_new_conversation(alice: Person) -> None:
    assert alice.post("retry").status_code == 400
    alice.connect()
    assert alice.post("retry").status_code == 404
    assert alice.post("retry", session_id="none").status_code == 404


# Switching


def test_no_other_branch_is_shown_while_a_turn_runs(talked: Person, model: ModelServer) -> None:
    talked.say("2b", edit=asked(talked, "second"))
    model.will(Reply(text="a long answer", hang_after=2))
    with talked.streaming("third") as frames:
        next(frames)
        refused = switch(talked, "second")
        assert (refused.status_code, refused.json()["code"]) == (409, "turn_running")
        talked.post("cancel")
        list(frames)
    assert switch(talked, "second").status_code == 200


def test_unknown_branches_are_not_found(talked: Person) -> None:
    session = session_of(talked)
    assert talked.post(f"sessions/{session}/branches/none").status_code == 404
    assert talked.post(f"sessions/{session}/branches/{'x' * 99}").status_code == 404
    assert talked.post("sessions/none/branches/none").status_code == 404
    assert talked.get("sessions/none/branches").status_code == 404


# Everything else that knows conversations


def test_branches_are_no_conversations_of_their_own(talked: Person) -> None:
    talked.say("2b", edit=asked(talked, "second"))
    listed = talked.get("sessions").json()["sessions"]
    assert [each["session_id"] for each in listed] == [session_of(talked)]
    assert listed[0]["name"] == "first"


def test_a_search_leads_to_a_branch_that_is_not_shown(talked: Person) -> None:
    talked.say("2b", edit=asked(talked, "second"))
    (found,) = talked.get("search?q=second").json()["results"]
    assert (found["session_id"], found["session_name"]) == (session_of(talked), "first")
    assert talked.get("search?q=first").json()["results"][0]["branch"] is None
    answer = talked.post(f"sessions/{found['session_id']}/branches/{found['branch']}")
    assert answer.status_code == 200
    assert told(talked) == ["first", "one", "second", "two"]


def test_a_search_leads_to_what_was_said_within_a_branch(talked: Person) -> None:
    talked.say("2b", edit=asked(talked, "second"))
    (found,) = talked.get("search?q=two").json()["results"]
    answer = talked.post(f"sessions/{found['session_id']}/branches/{found['branch']}")
    assert answer.status_code == 200, answer.text
    assert told(talked) == ["first", "one", "second", "two"]


def test_branches_are_carried_away_and_brought_along(talked: Person) -> None:
    talked.say("2b", edit=asked(talked, "second"))
    talked.say("1b", edit=asked(talked, "first"))
    away = talked.get(f"sessions/{session_of(talked)}/export").json()
    assert [len(side["messages"]) for side in away["branches"]] == [4, 2]
    brought = talked.http.post("/llmchat/sessions/import", json=away)
    assert brought.status_code == 201, brought.text
    session = brought.json()["session_id"]
    again = talked.get(f"sessions/{session}/export").json()
    assert (again["messages"], again["branches"]) == (away["messages"], away["branches"])
    (hidden,) = (side for side in away["branches"] if side["messages"][0]["content"] in ("second", "2b"))
    talked.post(f"sessions/{session}/branches/{hidden['messages'][0]['id']}")
    shown = talked.history(f"?session_id={session}")
    assert [message["content"] for message in shown][:3] == ["first", "one", hidden["messages"][0]["content"]]


@pytest.mark.parametrize(
    ("branches", "where"),
    [
        ([{"fork": "none", "messages": []}], "branches.0.fork"),
        (
            [{"fork": "m0", "messages": [{"role": "user", "content": "x", "id": "m0"}]}],
            "branches.0.messages.0",
        ),
        ([{"fork": "m1", "messages": [{"role": "user", "content": "x", "id": "m1"}]}], "branches.0.fork"),
        ([{"fork": "m0"}], "branches.0.messages"),
    ],
)
def test_what_is_no_tree_is_not_brought_along(alice: Person, branches: Any, where: str) -> None:
    message = {"role": "user", "content": "a", "id": "m0"}
    document = {"schema": "mcp-chat/session/1", "messages": [message], "branches": branches}
    refused = alice.http.post("/llmchat/sessions/import", json=document)
    assert refused.status_code == 400
    assert where in refused.json()["detail"]


def test_a_deleted_conversation_leaves_none_of_its_branches(talked: Person, stage: Stage) -> None:
    talked.say("2b unheard", edit=asked(talked, "second"))
    talked.http.delete(f"/llmchat/sessions/{session_of(talked)}")
    assert talked.get("search?q=second").json()["results"] == []
    assert talked.get("search?q=unheard").json()["results"] == []


def test_files_stay_as_long_as_a_branch_has_them(alice: Person, model: ModelServer) -> None:
    alice.connect()
    content, headers = b"only here", {"content-type": "text/plain"}
    sent = alice.http.post("/llmchat/uploads?name=a.txt", content=content, headers=headers)
    upload = sent.json()["upload_id"]
    alice.say("look", attachments=[upload])
    alice.say("no file", edit=asked(alice, "look"))
    assert alice.get(f"uploads/{upload}").status_code == 200
    switch(alice, "look")
    answers(model, "seen")
    alice.say("what is in it?")
    assert "only here" in json.dumps(model.requests[-1])
    alice.http.delete(f"/llmchat/sessions/{session_of(alice)}")
    assert alice.get(f"uploads/{upload}").status_code == 404


def test_tokens_that_were_spent_stay_spent(talked: Person) -> None:
    def spent() -> int:
        shown = talked.get(f"sessions/{session_of(talked)}").json()
        return int(shown["token_usage"]["total_tokens"])

    before = spent()
    talked.say("1b", edit=asked(talked, "first"))
    assert spent() > before


def test_pins_of_a_branch_come_back_with_it(talked: Person, model: ModelServer) -> None:
    session, second = session_of(talked), asked(talked, "second")
    talked.http.patch(f"/llmchat/sessions/{session}", json={"pinned": [second]})
    talked.say("2b", edit=second)
    also = talked.http.patch(
        f"/llmchat/sessions/{session}", json={"pinned": [second, asked(talked, "first")]}
    )
    assert also.status_code == 200, also.text
    switch(talked, "second")
    assert talked.get(f"sessions/{session}").json()["context"]["pinned"][0] == second


# Without a database


@pytest.fixture(params=["memory", "valkey"])
def lone(request: pytest.FixtureRequest, serve: Callable[..., str], name: str) -> Iterator[Person]:
    """Somebody where nothing but windows is kept."""
    more = {} if request.param == "memory" else {"redis_url": request.getfixturevalue("valkey_url")}
    with Person(serve(database_url="", **more), name) as person:
        person.connect()
        yield person


@pytest.fixture
def catalogue(tmp_path: Path, stage: Stage) -> Path:
    """A models file with the model of the stage."""
    path = tmp_path / "models.yaml"
    path.write_text(f"models:\n  - model: openai:scripted\n    base_url: {stage.model_url}\n")
    return path


def test_without_a_database_messages_are_edited_and_sent_again_too(lone: Person, model: ModelServer) -> None:
    answers(model, "one", "two", "three", "four")
    lone.say("first")
    lone.say("second")
    lone.say("2b", edit=asked(lone, "second"))
    assert told(lone) == ["first", "one", "2b", "three"]
    assert place(lone, "2b") == "2/2"
    lone.post("retry")
    assert told(lone) == ["first", "one", "2b", "four"]
    assert place(lone, "2b") == "3/3"


# The documents


def test_the_documented_examples_answer_what_is_shown(
    stage: Stage, model: ModelServer, tmp_path: Path
) -> None:
    need("curl")
    with Person(stage.url, "alice") as person:
        person.connect()
    answers(model, "There is a flight at ten.", "There is one at noon, too.")
    signing = f"curl -s -c cookies -H 'Content-Type: application/json' {stage.url}/auth/demo"
    run(f"""{signing} -d '{{"user": "alice"}}'""", tmp_path, stage.url)
    found = [*(each for each in blocks("docs/history.md") if each[0] != "python"), ("sh", "")]
    commands = [(asked, after) for asked, after in pairwise(found) if asked[0] == "sh"]
    assert len(commands) == 6
    for (_, command), (language, shown) in commands:
        answered = run(command, tmp_path, stage.url)
        if language == "json":
            assert shape(json.loads(answered)) == shape(json.loads(shown))
        else:
            assert answered == (shown if language == "text" else "")
