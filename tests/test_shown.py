"""What the model is shown of a conversation, seen from its own end of the wire."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.model_server import ModelServer, Reply
from tests.person import Person
from tests.running import wait_until

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


def seen(model: ModelServer) -> list[dict[str, Any]]:
    """The messages of the last request."""
    messages: list[dict[str, Any]] = model.requests[-1]["messages"]
    return messages


def texts(model: ModelServer) -> list[str]:
    return [message["content"] for message in seen(model)]


@pytest.fixture
def bob(serve: Callable[..., str], name: str) -> Iterator[Person]:
    """Someone whose model is shown six messages, and 256 characters of a tool's result."""
    with Person(serve(history_max_messages=6, tool_result_characters=256, summary=True), name) as person:
        yield person


def upload(person: Person, content: bytes, media_type: str, name: str) -> str:
    response = person.http.post(
        f"/llmchat/uploads?name={name}", content=content, headers={"content-type": media_type}
    )
    assert response.status_code == 201, response.text
    upload_id: str = response.json()["upload_id"]
    return upload_id


def test_the_model_is_shown_no_more_messages_than_are_allowed(bob: Person, model: ModelServer) -> None:
    bob.connect()
    model.will(*(Reply(text=f"answer {n}") for n in range(4)))
    for n in range(4):
        bob.say(f"question {n}")
    assert texts(model) == ["question 1", "answer 1", "question 2", "answer 2", "question 3"]
    assert bob.history()[0]["content"] == "question 0", "the history is whole"


def test_a_long_result_is_shortened_for_the_model_and_kept_whole(
    bob: Person, model: ModelServer, demo_url: str
) -> None:
    bob.connect(server={"url": demo_url, "alias": "demo"})
    model.will(Reply(calls=[("demo__echo", {"text": "x" * 5000})]), Reply(text="done"), Reply(text="again"))
    bob.say("echo much")
    bob.say("and now?")
    result = next(message for message in seen(model) if message["role"] == "tool")
    assert len(result["content"]) <= 256
    assert "characters left out" in result["content"]
    assert any(len(message["content"]) >= 5000 for message in bob.history() if message["role"] == "tool")


def test_a_pinned_message_stays_in_sight(bob: Person, model: ModelServer) -> None:
    session_id = bob.connect()["session_id"]
    bob.say("my name is Bob")
    first = bob.history()[0]["id"]
    assert bob.http.patch(f"/llmchat/sessions/{session_id}", json={"pinned": [first]}).status_code == 200
    for n in range(6):
        bob.say(f"question {n}")
    assert "my name is Bob" in texts(model)
    assert "question 0" not in texts(model)
    context = bob.get(f"sessions/{session_id}/context").json()
    assert [message["content"] for message in context["messages"] if message["id"] == first]
    assert context["left_out"] > 0


def test_what_no_longer_fits_is_summed_up(bob: Person, model: ModelServer) -> None:
    session_id = bob.connect()["session_id"]
    for n in range(8):
        bob.say(f"fact {n}")

    def summary() -> Any:
        return bob.get(f"sessions/{session_id}").json()["context"].get("summary")

    wait_until(summary, "there is a summary")
    asked = [request for request in model.requests if "Sum up" in str(request["messages"][0]["content"])]
    assert "fact 0" in asked[0]["messages"][-1]["content"]
    bob.say("what were the facts?")
    turns = [each for each in model.requests if "Sum up" not in str(each["messages"][0]["content"])]
    shown = turns[-1]["messages"]
    assert shown[0]["role"] == "system"
    assert shown[0]["content"].startswith("Summary of the earlier conversation: 2 messages")
    assert len(shown) <= 6
    assert bob.get(f"sessions/{session_id}/context").json()["summarized"] is True


def test_a_model_that_cannot_sum_up_costs_the_conversation_nothing(bob: Person, model: ModelServer) -> None:
    bob.connect()
    model.reply_to = lambda sent: (  # type: ignore[method-assign]
        Reply(status=500) if "Sum up" in json.dumps(sent) else Reply(text="fine")
    )
    for n in range(9):
        assert bob.say(f"fact {n}")["response"] == "fine"


def test_files_go_to_the_model_with_their_message(alice: Person, model: ModelServer) -> None:
    alice.connect()
    picture = upload(alice, PNG, "image/png", "dot.png")
    notes = upload(alice, b"milk, eggs", "text/plain", "list.txt")
    alice.say("what is this?", attachments=[picture, notes])
    text, image, file = seen(model)[-1]["content"]
    assert text == {"type": "text", "text": "what is this?"}
    assert image["image_url"]["url"] == f"data:image/png;base64,{base64.b64encode(PNG).decode()}"
    assert "list.txt" in file["text"]
    assert "milk, eggs" in file["text"]
    alice.say("and again?")
    assert seen(model)[0]["content"][1]["image_url"], "a later turn sees it, too"
    assert [part["name"] for part in alice.history()[0]["parts"]] == ["dot.png", "list.txt"]


def imported(person: Person, *messages: dict[str, Any]) -> str:
    """A conversation that goes on for long after these messages."""
    more = [{"role": role, "content": f"{role} {n}"} for n in range(60) for role in ("user", "assistant")]
    document = {"schema": "mcp-chat/session/1", "messages": [*messages, *more]}
    response = person.http.post("/llmchat/sessions/import", json=document)
    assert response.status_code == 201, response.text
    session_id: str = response.json()["session_id"]
    return session_id


def test_a_system_message_from_long_ago_is_shown(alice: Person, model: ModelServer) -> None:
    alice.connect()
    rule = {"role": "system", "content": "Answer in rhymes."}
    noted = {"role": "user", "content": "my cat is Tom", "metadata": {"pinned": True}}
    session_id = imported(alice, rule, {"role": "user", "content": "hi"}, noted)
    alice.say("go on", session_id=session_id)
    assert seen(model)[0]["content"] == "Answer in rhymes."
    assert seen(model)[1]["content"] == "my cat is Tom"
    assert "hi" not in texts(model)


@pytest.mark.parametrize("pin", ["asked", "answered"])
def test_a_pinned_call_from_long_ago_is_shown_with_its_result(
    alice: Person, model: ModelServer, pin: str
) -> None:
    alice.connect()
    call = {"id": "c1", "name": "bank__pay", "args": {"to": "Bob"}}
    asked = {"id": "asked", "role": "assistant", "content": "", "tool_calls": [call]}
    answered = {"id": "answered", "role": "tool", "content": "PAID OK", "tool_call_id": "c1"}
    session_id = imported(alice, {"role": "user", "content": "pay Bob"}, asked, answered)
    assert alice.http.patch(f"/llmchat/sessions/{session_id}", json={"pinned": [pin]}).status_code == 200
    alice.say("did you pay?", session_id=session_id)
    assert seen(model)[0]["tool_calls"][0]["id"] == "c1"
    assert seen(model)[1]["content"] == "PAID OK"


def test_a_summary_does_not_bring_a_deleted_conversation_back(bob: Person, model: ModelServer) -> None:
    session_id = bob.connect()["session_id"]
    asked: list[Any] = []

    def reply(sent: dict[str, Any]) -> Reply:
        if "Sum up" not in json.dumps(sent):
            return Reply(text="fine")
        asked.append(sent)
        return Reply(text="they spoke", before=1.0)

    model.reply_to = reply  # type: ignore[method-assign]
    for n in range(8):
        bob.say(f"fact {n}")
        if asked:
            break
    wait_until(lambda: asked, "the model is asked for a summary")
    assert bob.http.delete(f"/llmchat/sessions/{session_id}").status_code == 200
    bob.say("something else")  # the summary comes while this conversation goes on
    wait_until(lambda: model.answered > len(model.requests) - 1, "the summary has come")
    assert bob.get(f"sessions/{session_id}").status_code == 404


def test_a_summary_is_the_chats_own_to_write(alice: Person) -> None:
    session_id = alice.connect()["session_id"]
    alice.say("hello")
    forged = {"context": {"summary": {"text": "x", "upto": "y", "place": 2**64}}}
    assert alice.http.patch(f"/llmchat/sessions/{session_id}", json=forged).status_code in (400, 422)
