"""Anthropic's Messages on the wire, through `langchain-anthropic`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mcp_chat.exceptions import ModelFailed
from mcp_chat.models.base import BLOCKS, REASONING
from mcp_chat.models.ending import ENDED
from tests.person import Person
from tests.wires import anthropic
from tests.wires.heard import ADD, hear, opened, result, user
from tests.wires.wire import Scene, Wire, whole, wired

pytestmark = pytest.mark.anyio

NAME = "anthropic:claude-scripted"
THINKS = {"thinking": {"type": "enabled", "budget_tokens": 1024}, "max_tokens": 2048, "max_retries": 0}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def wire() -> Iterator[Wire]:
    with wired() as wire:
        yield wire


def sent(wire: Wire) -> list[dict[str, Any]]:
    """Return the messages of the last request."""
    messages: list[dict[str, Any]] = wire.asked[-1].body["messages"]
    return messages


@pytest.mark.parametrize("tools", [(), (ADD,)], ids=["text chunks", "lists of blocks"])
async def test_a_text_arrives_word_by_word(wire: Wire, tools: tuple[Any, ...]) -> None:
    wire.will(anthropic.message(anthropic.text("Hello from far away")))
    async with opened(NAME, wire) as model:
        heard = await hear(model, tools=tools)
    assert heard.texts == ["Hello", " from", " far", " away"]
    assert heard.message.content == "Hello from far away"
    assert heard.message.metadata == {}
    [asked] = wire.asked
    assert asked.path == anthropic.PATH
    assert "the-key" in {asked.headers.get("x-api-key"), asked.headers.get("authorization", "")[7:]}
    assert asked.body["stream"] is True


async def test_two_texts_are_one_behind_the_other(wire: Wire) -> None:
    wire.will(anthropic.message(anthropic.text("One."), anthropic.text(" Two.")))
    async with opened(NAME, wire) as model:
        heard = await hear(model, tools=[ADD])
    assert heard.message.content == "One. Two."


async def test_what_is_counted_has_cached_and_thought_tokens(wire: Wire) -> None:
    usage = {
        "cache_read_input_tokens": 100,
        "cache_creation_input_tokens": 20,
        "output_tokens_details": {"thinking_tokens": 4},
    }
    wire.will(anthropic.message(anthropic.text("Hi"), usage=usage))
    async with opened(NAME, wire) as model:
        used = (await hear(model)).answer.usage
    assert (used.input_tokens, used.output_tokens) == (131, 7)
    assert (used.cached_tokens, used.reasoning_tokens) == (100, 4)


# Thoughts


async def test_a_signed_thought_goes_back_before_the_call_that_it_led_to(wire: Wire) -> None:
    wire.will(
        anthropic.message(
            anthropic.thinking("Two numbers to add", "SIGNED"),
            anthropic.text("Let me add."),
            anthropic.tool("toolu_1", ADD.name, {"a": 1, "b": 2}),
            stop="tool_use",
        ),
        anthropic.message(anthropic.text("It is 3.")),
    )
    async with opened(NAME, wire, options=THINKS) as model:
        first = await hear(model, user("add"), tools=[ADD])
        assert first.thoughts == ["Two", " numbers", " to", " add"]
        assert first.texts == ["Let", " me", " add."]
        assert first.message.metadata[REASONING] == "Two numbers to add"
        second = await hear(model, user("add"), first.message, result("toolu_1", "3"), tools=[ADD])
    assert second.message.content == "It is 3."
    assert wire.asked[0].body["thinking"]["budget_tokens"] == 1024
    _, asking, told = sent(wire)
    assert asking["content"] == [
        {"type": "thinking", "thinking": "Two numbers to add", "signature": "SIGNED"},
        {"type": "text", "text": "Let me add."},
        {"type": "tool_use", "id": "toolu_1", "name": ADD.name, "input": {"a": 1, "b": 2}},
    ]
    assert told["content"][0]["tool_use_id"] == "toolu_1"


async def test_thoughts_between_texts_and_calls_keep_their_places(wire: Wire) -> None:
    wire.will(
        anthropic.message(
            anthropic.redacted("SEALED"),
            anthropic.thinking("First", "S1"),
            anthropic.text("One."),
            anthropic.thinking("Second", "S2"),
            anthropic.text(" Two."),
            anthropic.tool("toolu_1", ADD.name, {"a": 1}),
            anthropic.thinking("Third", "S3"),
            anthropic.tool("toolu_2", ADD.name, {"b": 2}),
            stop="tool_use",
        ),
        anthropic.message(anthropic.text("Done.")),
    )
    async with opened(NAME, wire, options=THINKS) as model:
        first = await hear(model, user("add"), tools=[ADD])
        assert first.message.metadata[REASONING] == "First\n\nSecond\n\nThird"
        results = (result("toolu_1", "1"), result("toolu_2", "2"))
        await hear(model, user("add"), first.message, *results, tools=[ADD])
    kinds = [
        (block["type"], block.get("signature") or block.get("text")) for block in sent(wire)[1]["content"]
    ]
    assert kinds == [
        ("redacted_thinking", None),
        ("thinking", "S1"),
        ("text", "One."),
        ("thinking", "S2"),
        ("text", " Two."),
        ("tool_use", None),
        ("thinking", "S3"),
        ("tool_use", None),
    ]


async def test_a_search_that_the_provider_made_goes_back_with_its_result(wire: Wire) -> None:
    call, found = anthropic.search("srvtoolu_1", "weather")
    wire.will(
        anthropic.message(
            call, found, anthropic.text("Sunny."), anthropic.tool("toolu_1", ADD.name, {}), stop="tool_use"
        ),
        anthropic.message(anthropic.text("Done.")),
    )
    async with opened(NAME, wire) as model:
        first = await hear(model, user("add"), tools=[ADD])
        assert (first.message.content, len(first.message.tool_calls)) == ("Sunny.", 1)
        await hear(model, user("add"), first.message, result("toolu_1", "1"), tools=[ADD])
    content = sent(wire)[1]["content"]
    assert [block["type"] for block in content] == [
        *("server_tool_use", "web_search_tool_result", "text", "tool_use")
    ]
    assert content[0]["input"] == {"query": "weather"}
    assert content[1]["content"][0]["encrypted_content"] == "SEALED"


async def test_another_model_never_gets_them(wire: Wire) -> None:
    wire.will(
        anthropic.message(
            anthropic.thinking("Secret", "SIGNED"), anthropic.tool("toolu_1", ADD.name, {}), stop="tool_use"
        ),
        anthropic.message(anthropic.text("Done.")),
    )
    async with opened(NAME, wire, options=THINKS) as model:
        first = await hear(model, user("add"), tools=[ADD])
    assert first.message.metadata[BLOCKS][0]["model"] == NAME
    async with opened("anthropic:another", wire, options=THINKS) as model:
        await hear(model, user("add"), first.message, result("toolu_1", "1"), tools=[ADD])
    assert [block["type"] for block in sent(wire)[1]["content"]] == ["tool_use"]
    assert "SIGNED" not in str(wire.asked[-1].body)
    assert "Secret" not in str(wire.asked[-1].body)


async def test_a_turn_that_is_over_sends_none(wire: Wire) -> None:
    wire.will(
        anthropic.message(anthropic.thinking("Easy", "SIGNED"), anthropic.text("It is 3.")),
        anthropic.message(anthropic.text("You are welcome.")),
    )
    async with opened(NAME, wire, options=THINKS) as model:
        first = await hear(model, user("add"))
        await hear(model, user("add"), first.message, user("thanks"))
    assert sent(wire)[1] == {"role": "assistant", "content": "It is 3."}


# Ends


@pytest.mark.parametrize(
    ("stop", "ended"),
    [
        ("end_turn", None),
        ("stop_sequence", None),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("pause_turn", "length"),
        ("refusal", "refusal"),
    ],
)
async def test_the_message_says_how_it_ended(wire: Wire, stop: str, ended: str | None) -> None:
    wire.will(anthropic.message(anthropic.text("Once upon a time"), stop=stop))
    async with opened(NAME, wire) as model:
        message = (await hear(model)).message
    assert message.content == "Once upon a time"
    assert message.metadata.get(ENDED) == ended


async def test_a_call_in_an_answer_that_is_refused_is_not_made(wire: Wire) -> None:
    wire.will(anthropic.message(anthropic.tool("toolu_1", ADD.name, {"a": 1}), stop="refusal"))
    async with opened(NAME, wire) as model:
        message = (await hear(model, tools=[ADD])).message
    assert message.tool_calls == ()


async def test_an_overload_in_the_middle_is_told(wire: Wire) -> None:
    wire.will(anthropic.broken(anthropic.text("Hello you")))
    async with opened(NAME, wire) as model:
        with pytest.raises(ModelFailed) as failed:
            await hear(model)
    assert str(failed.value) == "The model's provider is overloaded. Please try again in a moment."


@pytest.mark.parametrize(("status", "advice"), [(401, "Check the key"), (429, "Wait"), (529, "overloaded")])
async def test_an_error_is_told_without_what_it_said(wire: Wire, status: int, advice: str) -> None:
    error = {"type": "error", "error": {"type": "x", "message": "SECRET upstream detail"}}
    wire.will(whole(error, status=status, headers={"retry-after": "7"}))
    async with opened(NAME, wire, options={"max_retries": 0}) as model:
        with pytest.raises(ModelFailed, match=advice) as failed:
            await hear(model)
    assert failed.value.retry_after == 7


async def test_a_stream_that_breaks_off_is_told(wire: Wire) -> None:
    begun = anthropic.message(anthropic.text("Hello you")).chunks[:4]
    wire.will(Scene(chunks=begun, cut=True))
    async with opened(NAME, wire) as model:
        with pytest.raises(ModelFailed, match="broke off"):
            await hear(model)


# Without a stream


async def test_a_model_that_does_not_stream_says_all_at_once(wire: Wire) -> None:
    wire.will(
        anthropic.at_once(
            {"type": "thinking", "thinking": "Hm", "signature": "SIGNED"},
            {"type": "text", "text": "Let me add."},
            {"type": "tool_use", "id": "toolu_1", "name": ADD.name, "input": {"a": 1}},
            stop="tool_use",
        ),
        anthropic.at_once({"type": "text", "text": "Done."}, stop="max_tokens"),
    )
    async with opened(NAME, wire, options={**THINKS, "disable_streaming": True}) as model:
        first = await hear(model, user("add"), tools=[ADD])
        assert (first.texts, first.thoughts) == (["Let me add."], ["Hm"])
        assert first.message.tool_calls[0].args == {"a": 1}
        assert first.answer.usage.input_tokens == 11
        second = await hear(model, user("add"), first.message, result("toolu_1", "1"), tools=[ADD])
    assert second.message.metadata == {ENDED: "length"}
    assert "stream" not in wire.asked[0].body
    assert [block["type"] for block in sent(wire)[1]["content"]] == ["thinking", "text", "tool_use"]


# Through the product


@pytest.fixture
def claudia(
    serve: Callable[..., str], wire: Wire, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Person]:
    """Someone who talks with a model that thinks."""
    monkeypatch.setenv("WIRE_KEY", "the-key")
    models = tmp_path / "claude.yaml"
    models.write_text(
        f"models:\n  - model: {NAME}\n    base_url: {wire.url}\n    api_key_env: WIRE_KEY\n"
        "    options: {thinking: {type: enabled, budget_tokens: 1024}, max_tokens: 2048}\n"
    )
    with Person(serve(models_file=models), name) as person:
        yield person


def test_one_chats_with_it(claudia: Person, wire: Wire, demo_url: str) -> None:
    claudia.connect(model=NAME, server={"url": demo_url, "alias": "demo"})
    wire.will(
        anthropic.message(
            anthropic.thinking("Two numbers", "SIGNED"),
            anthropic.tool("toolu_1", "demo__add", {"a": 2, "b": 3}),
            stop="tool_use",
        ),
        anthropic.message(
            anthropic.thinking("Got it", "AGAIN"), anthropic.text("It is 5."), stop="max_tokens"
        ),
    )
    frames = claudia.stream("add 2 and 3")
    assert "".join(data["content"] for kind, data in frames if kind == "thinking") == "Two numbersGot it"
    assert "".join(data["content"] for kind, data in frames if kind == "token") == "It is 5."
    assert frames[-1][1]["ended"] == "length"
    assert frames[-1][1]["content"] == "It is 5."
    assert sent(wire)[1]["content"][0] == {
        "type": "thinking",
        "thinking": "Two numbers",
        "signature": "SIGNED",
    }
    asking, _, last = claudia.history()[1:]
    assert asking["metadata"]["reasoning"] == "Two numbers"
    assert (last["metadata"]["reasoning"], last["metadata"]["ended"]) == ("Got it", "length")


@pytest.mark.parametrize(
    ("stop", "sentence"),
    [
        ("refusal", "The model refused to answer."),
        ("max_tokens", "The model came to its limit of length before it said anything."),
        ("end_turn", "The model gave an empty answer."),
    ],
)
def test_an_empty_answer_says_why(claudia: Person, wire: Wire, stop: str, sentence: str) -> None:
    claudia.connect(model=NAME)
    wire.will(anthropic.message(anthropic.thinking("No.", "SIGNED"), stop=stop))
    response = claudia.post("chat", message="hi")
    assert response.status_code == 503
    assert sentence in response.json()["detail"]


def test_what_is_kept_for_the_provider_is_shown_to_nobody(claudia: Person, wire: Wire) -> None:
    connected = claudia.connect(model=NAME)
    wire.will(anthropic.message(anthropic.thinking("Hm", "SIGNED"), anthropic.text("Hello.")))
    claudia.say("hi")
    session = f"/llmchat/sessions/{connected['session_id']}"
    for path in (f"{session}/messages", f"{session}/export", f"{session}/context"):
        shown = claudia.http.get(path)
        assert shown.status_code == 200, shown.text
        assert "SIGNED" not in shown.text
        assert '"Hm"' in shown.text
    exported = claudia.http.get(f"{session}/export").json()
    exported["messages"][1]["metadata"]["blocks"] = [
        {"model": NAME, "content": [{"block": {"type": "evil"}}]}
    ]
    brought = claudia.http.post("/llmchat/sessions/import", json=exported)
    assert brought.status_code == 201, brought.text
    again = claudia.http.get(f"/llmchat/sessions/{brought.json()['session_id']}/export").text
    assert "evil" not in again
