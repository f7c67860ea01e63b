"""The chat through its HTTP door: real langchain-openai, real MCP, the model's far side scripted."""

from __future__ import annotations

import threading

import pytest

from tests.faults import refused
from tests.model_server import ModelServer, Reply
from tests.person import Frame, Person, frames


def test_an_answer_is_streamed_in_pieces_and_ends_with_final(alice: Person, model: ModelServer) -> None:
    hold = threading.Event()
    model.will(Reply(text="one two three", hold=hold))
    alice.connect()
    frames: list[Frame] = []
    with alice.streaming("count") as coming:
        for frame in coming:
            frames.append(frame)
            said = [data["content"] for event, data in frames if event == "token"]
            if "".join(said) == "one two":
                hold.set()  # the last word is said only to whoever has the others
    assert said[-1] == " three"
    assert "".join(said) == "one two three"
    event, final = frames[-1]
    assert event == "final"
    assert final["content"] == "one two three"
    assert final["type"] == "final"
    assert final["tool_used"] is False
    assert final["tools"] == []
    usage = final["usage"]
    assert (usage["input_tokens"], usage["output_tokens"], usage["steps"]) == (11, 3, 1)


def test_both_forms_say_which_conversation_it_is_and_whether_it_goes_on(
    alice: Person, model: ModelServer
) -> None:
    connected = alice.connect()["session_id"]
    for streaming in (False, True):
        for asked, resumed in ((None, True), (connected, True), ("stale", False)):
            body = {"message": "hi", "session_id": asked, "streaming": streaming}
            answer = alice.post("chat", **body)
            told = frames(iter([answer.text])) if streaming else [("final", answer.json())]
            final = dict(told)["final"]
            assert final["resumed"] is resumed
            assert (final["session_id"] == connected) is resumed
            assert answer.headers["mcp-chat-resumed"] == str(resumed).lower()
            assert answer.headers["mcp-chat-session"] == final["session_id"]
            assert answer.headers["mcp-chat-turn"] == final["turn_id"]


@pytest.mark.parametrize("model_name", ["m\x00", "m\nn", "m\u2028"])
def test_a_model_with_signs_that_no_model_has_is_refused(alice: Person, model_name: str) -> None:
    llm = {"provider": "openai", "config": {"model": model_name}}
    assert "control characters" in refused(alice.post("connect", llm=llm), 422)


def test_a_tool_is_called_and_its_result_goes_back_to_the_model(
    alice: Person, model: ModelServer, demo_url: str
) -> None:
    model.will(Reply(text="Adding.", calls=[("demo__add", {"a": 2, "b": 3})]), Reply(text="It is 5."))
    connected = alice.connect(server={"url": demo_url, "alias": "demo"})
    assert "demo__add" in connected["tools"]
    answer = alice.say("add 2 and 3")
    assert answer["response"] == "Adding.\n\nIt is 5."
    assert answer["tool_used"] is True
    assert answer["tools"] == ["demo__add"]
    start, end = answer["tool_invocations"]
    assert (start["type"], start["tool"], start["input"]) == ("tool_start", "demo__add", {"a": 2, "b": 3})
    assert (end["type"], end["id"], end["output"]) == ("tool_end", start["id"], "5")
    told = model.requests[1]["messages"]
    assert [message["role"] for message in told] == ["user", "assistant", "tool"]
    assert told[2]["content"] == "5"
