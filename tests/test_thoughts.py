"""What models think aloud: told while it comes, kept with the message, void where it led to nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mcp_chat.events import Discarded, Entry, Event, MessageAdded, TextDelta, ThoughtDelta, TurnStarted
from mcp_chat.langchain import to_langchain
from mcp_chat.message import MESSAGE, Message, ToolCall
from mcp_chat.models.answer import Answer
from mcp_chat.models.base import BLOCKS, LONGEST_REASONING, REASONING, CallPiece, Piece
from mcp_chat.models.blocks import begin_of_turn
from mcp_chat.models.content import Said, delta, said
from mcp_chat.models.ending import ENDED
from mcp_chat.recovery import past_of
from tests.person import Person
from tests.wires.heard import LIMITS
from tests.wires.openai_chat import answer, says
from tests.wires.wire import Wire, wired

STARTED = TurnStarted(session_id="s", run="r")
ASKED = MessageAdded(message=Message(role="user", content="hi", id="r-q"))
ANSWERED = MessageAdded(message=Message(role="assistant", content="Hello", id="r-a0"))


def log(*events: Event) -> list[Entry]:
    return [Entry(id=f"1-{n}", command_id="c", event=event) for n, event in enumerate(events)]


# After a crash


def test_a_thought_without_an_answer_is_taken_back() -> None:
    past = past_of(log(STARTED, ASKED, ThoughtDelta(text="Hm"), ThoughtDelta(text=", yes")))
    assert past.missing([ASKED.message]) == [Discarded(after="1-1")]


def test_a_thought_and_half_an_answer_are_taken_back_together() -> None:
    past = past_of(log(STARTED, ASKED, ThoughtDelta(text="Hm"), TextDelta(text="Hel")))
    assert past.missing([ASKED.message]) == [Discarded(after="1-1")]


def test_the_thoughts_of_a_recorded_answer_stay() -> None:
    events = (STARTED, ASKED, ThoughtDelta(text="Hm"), TextDelta(text="Hello"), ANSWERED)
    assert past_of(log(*events)).missing([ASKED.message, ANSWERED.message]) == []


def test_what_was_taken_back_once_is_not_taken_back_again() -> None:
    events = (STARTED, ASKED, ThoughtDelta(text="Hm"), Discarded(after="1-1"))
    assert past_of(log(*events)).missing([ASKED.message]) == []


# Kept with the message


def put_together(*pieces: Piece) -> Message:
    made = Answer(LIMITS)
    for piece in pieces:
        made.add(piece)
    return made.message(set())


def test_thoughts_with_something_in_between_are_paragraphs() -> None:
    message = put_together(
        Piece(thought="One"),
        Piece(thought=" two"),
        Piece(text="Said."),
        Piece(),
        Piece(thought="Three"),
        Piece(calls=(CallPiece(index=0, id="c", name="t", args="{}"),)),
        Piece(thought="Four"),
    )
    assert message.metadata == {REASONING: "One two\n\nThree\n\nFour"}


def test_a_long_thought_is_kept_in_part() -> None:
    message = put_together(Piece(thought="x" * 3 * LONGEST_REASONING), Piece(text="Done."))
    kept = message.metadata[REASONING]
    assert len(kept) <= LONGEST_REASONING
    assert "characters left out" in kept


def test_a_call_that_was_cut_off_before_its_arguments_is_not_made() -> None:
    message = put_together(Piece(calls=(CallPiece(index=0, id="c", name="t"),)), Piece(end="max_tokens"))
    assert message.metadata == {"unreadable": ["c"], ENDED: "length"}


def test_a_usual_end_does_not_hide_an_unusual_one() -> None:
    message = put_together(Piece(text="No.", end="refusal"), Piece(end="stop"))
    assert message.metadata == {ENDED: "refusal"}


# Sent back


KEPT = {
    "model": "p:m",
    "content": [
        {"block": {"type": "thinking", "signature": "S"}},
        {"text": 5},
        {"call": "tool_use"},
        {"block": {"type": "thinking", "signature": "T"}},
        {"text": 6},
    ],
    "extras": {},
}


def shown(message: Message, model: str = "p:m") -> object:
    return to_langchain(MESSAGE.validate_json(MESSAGE.dump_json(message)), model=model).content


def test_text_and_calls_stand_where_they_stood() -> None:
    call = ToolCall(id="c", name="t", args={"a": 1})
    message = Message(role="assistant", content="Hello world", tool_calls=(call,), metadata={BLOCKS: [KEPT]})
    assert shown(message) == [
        {"type": "thinking", "signature": "S"},
        {"type": "text", "text": "Hello"},
        {"type": "tool_use", "id": "c", "name": "t", "input": {"a": 1}},
        {"type": "thinking", "signature": "T"},
        {"type": "text", "text": " world"},
    ]
    assert shown(message, "p:other") == "Hello world"
    assert shown(message, "") == "Hello world"


@pytest.mark.parametrize("content", ["", "He", "Hello", "Hello wo", "Hello world, and more of it"])
def test_no_text_is_lost_when_it_was_changed(content: str) -> None:
    blocks = shown(Message(role="assistant", content=content, metadata={BLOCKS: [KEPT]}))
    assert isinstance(blocks, list)
    assert "".join(block.get("text", "") for block in blocks) == content


@pytest.mark.parametrize(
    "kept", [None, 7, {}, {"model": "p:m"}, {"model": "p:m", "content": [7, {}, {"text": "x"}]}]
)
def test_what_cannot_be_read_is_left_out(kept: object) -> None:
    content = shown(Message(role="assistant", content="Hello", metadata={BLOCKS: [kept]}))
    assert content in ("Hello", [{"type": "text", "text": "Hello"}])


def test_a_turn_begins_with_its_question() -> None:
    roles = ["user", "assistant", "user", "assistant", "tool", "user", "assistant", "tool"]
    messages = [Message(role=role, content="") for role in roles]  # type: ignore[arg-type]
    assert begin_of_turn(messages) == 2
    assert begin_of_turn(messages[:2]) == 0
    assert begin_of_turn([]) == 0


# Whatever its form


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ("Hi", Said("Hi")),
        (["Hi", " you"], Said("Hi you")),
        ([{"type": "text", "text": "Hi"}, {"type": "text_delta", "text": " you"}], Said("Hi you")),
        ([{"type": "output_text", "text": "Hi"}, {"text": " you"}], Said("Hi you")),
        ([{"type": "refusal", "refusal": "No."}], Said("No.", refused=True)),
        ([{"type": "thinking", "thinking": "Hm", "signature": "S"}], Said(thought="Hm")),
        ([{"type": "thinking_delta", "thinking": "Hm"}], Said(thought="Hm")),
        ([{"type": "thinking", "thinking": [{"type": "text", "text": "Hm"}]}], Said(thought="Hm")),
        ([{"type": "reasoning", "reasoning": "Hm"}], Said(thought="Hm")),
        ([{"type": "reasoning", "summary": [{"type": "summary_text", "text": "Hm"}]}], Said(thought="Hm")),
        (
            [{"type": "reasoning_content", "reasoning_content": {"text": "Hm", "signature": "S"}}],
            Said(thought="Hm"),
        ),
        ([{"type": "redacted_thinking", "data": "x"}], Said()),
        ([{"type": "server_tool_use", "name": "web_search", "input": {"query": "x"}}], Said()),
        (
            [
                {"type": "tool_use", "name": "t", "input": {}},
                {"type": "input_json_delta", "partial_json": "{"},
            ],
            Said(),
        ),
        (
            [{"type": "image", "base64": "x"}, None, 7, {"type": "text"}, {"type": "text", "text": None}],
            Said(),
        ),
        (None, Said()),
        (7, Said()),
        ([], Said()),
        ({}, Said()),
    ],
)
def test_each_content_is_read(content: object, found: Said) -> None:
    assert said(content) == found


@pytest.mark.parametrize(
    ("told", "found"),
    [
        ({"content": "Hi"}, Said("Hi")),
        ({"content": None, "reasoning_content": "Hm"}, Said(thought="Hm")),
        ({"content": "Hi", "reasoning": "Hm"}, Said("Hi", "Hm")),
        ({"reasoning_content": "Hm", "reasoning": "Hm"}, Said(thought="Hm")),
        ({"refusal": "No."}, Said("No.", refused=True)),
        ({"content": "", "refusal": None}, Said()),
        ({"reasoning": {"summary": [{"type": "summary_text", "text": "Hm"}]}}, Said(thought="Hm")),
        ({"reasoning_details": [{"type": "reasoning.encrypted", "data": "x"}]}, Said()),
        ({}, Said()),
    ],
)
def test_each_delta_is_read(told: dict[str, object], found: Said) -> None:
    assert delta(told) == found


# Told


@pytest.fixture
def wire() -> Iterator[Wire]:
    with wired() as wire:
        yield wire


@pytest.fixture
def thea(serve: Callable[..., str], wire: Wire, name: str, tmp_path: Path) -> Iterator[Person]:
    """Someone who talks with a model that thinks."""
    models = tmp_path / "thinks.yaml"
    models.write_text(f"models:\n  - model: openai:thinks\n    base_url: {wire.url}/v1\n")
    with Person(serve(models_file=models), name) as person:
        person.connect(model="openai:thinks")
        yield person


def test_a_turn_that_is_stopped_keeps_its_thoughts(thea: Person, wire: Wire) -> None:
    scene = answer({"reasoning_content": "Hm"}, *says("one two three"))
    wire.will(type(scene)(chunks=scene.chunks[:4], hang=True))
    with thea.streaming("count") as frames:
        text = ""
        while text != "one two":
            kind, data = next(frames)
            text += data["content"] if kind == "token" else ""
        thea.post("cancel")
        assert [kind for kind, _ in frames] == ["final"]
    last = thea.history()[-1]
    assert last["content"] == "one two"
    assert last["metadata"].items() >= {"stopped": True, "reasoning": "Hm"}.items()


def test_a_reader_who_comes_later_sees_the_thoughts(thea: Person, wire: Wire) -> None:
    wire.will(answer({"reasoning_content": "Hm"}, *says("Hello.")))
    thea.say("hi")
    with thea.following(after="0-0") as events:
        told = []
        for event in events:
            told.append((event.name, event.data.get("content")))
            if event.name == "final":
                break
    assert ("thinking", "Hm") in told
