"""The chat through its HTTP door: real langchain-openai, real MCP, the model's far side scripted."""

from __future__ import annotations

from tests.model_server import ModelServer, Reply
from tests.person import Person


def test_an_answer_is_streamed_in_pieces_and_ends_with_final(alice: Person, model: ModelServer) -> None:
    model.will(Reply(text="one two three", pause=0.05))
    alice.connect()
    frames = alice.stream("count")
    assert [data["content"] for event, data in frames if event == "token"] == ["one", " two", " three"]
    event, final = frames[-1]
    assert event == "final"
    assert final["content"] == "one two three"
    assert final["type"] == "final"
    assert final["tool_used"] is False
    assert final["tools"] == []
    assert final["usage"] == {"input_tokens": 11, "output_tokens": 3}


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
