"""OpenAI's Responses API on the wire, through `langchain-openai`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mcp_chat.exceptions import ModelFailed
from mcp_chat.models.base import REASONING
from mcp_chat.models.ending import ENDED
from tests.person import Person
from tests.wires.heard import ADD, hear, opened, result, user
from tests.wires.openai_responses import at_once, call, failed, reasoning, refusal, response, text
from tests.wires.wire import Wire, wired

pytestmark = pytest.mark.anyio

NAME = "openai:scripted"
OPTIONS = {"use_responses_api": True}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def wire() -> Iterator[Wire]:
    with wired() as wire:
        yield wire


def sent(wire: Wire) -> list[dict[str, Any]]:
    """Return the items of the last request."""
    items: list[dict[str, Any]] = wire.asked[-1].body["input"]
    return items


async def test_a_text_arrives_word_by_word(wire: Wire) -> None:
    wire.will(response(text("Hello from far away")))
    async with opened(NAME, wire, path="/v1", options=OPTIONS) as model:
        heard = await hear(model)
    assert heard.texts == ["Hello", " from", " far", " away"]
    assert heard.message.metadata == {}
    used = heard.answer.usage
    assert (used.input_tokens, used.output_tokens) == (11, 7)
    assert (used.cached_tokens, used.reasoning_tokens) == (5, 3)
    assert wire.asked[0].path == "/v1/responses"


@pytest.mark.parametrize("encrypted", ["", "SEALED"])
async def test_what_it_has_thought_goes_back_before_the_call(wire: Wire, encrypted: str) -> None:
    options = (
        {**OPTIONS, "store": False, "include": ["reasoning.encrypted_content"]} if encrypted else OPTIONS
    )
    wire.will(
        response(
            reasoning("Two numbers.", "I add them.", encrypted=encrypted),
            text("Let me add."),
            call("call_1", ADD.name, {"a": 1, "b": 2}, item_id="fc_1"),
            call("call_2", ADD.name, {"a": 3}, item_id="fc_2"),
        ),
        response(text("It is 3.", "msg_2")),
    )
    async with opened(NAME, wire, path="/v1", options=options) as model:
        first = await hear(model, user("add"), tools=[ADD])
        assert first.message.content == "Let me add."
        assert first.message.metadata[REASONING] == "Two numbers.\n\nI add them."
        assert [(c.id, c.args) for c in first.message.tool_calls] == [
            ("call_1", {"a": 1, "b": 2}),
            ("call_2", {"a": 3}),
        ]
        results = (result("call_1", "3"), result("call_2", "3"))
        second = await hear(model, user("add"), first.message, *results, tools=[ADD])
    assert second.message.content == "It is 3."
    kinds = [(item["type"], item.get("id"), item.get("call_id")) for item in sent(wire)]
    assert kinds == [
        ("message", None, None),
        ("reasoning", "rs_1", None),
        ("message", None if encrypted else "msg_1", None),
        ("function_call", "fc_1", "call_1"),
        ("function_call", "fc_2", "call_2"),
        ("function_call_output", None, "call_1"),
        ("function_call_output", None, "call_2"),
    ]
    thought = sent(wire)[1]
    assert [part["text"] for part in thought["summary"]] == ["Two numbers.", "I add them."]
    assert thought.get("encrypted_content", "") == encrypted
    assert "status" not in thought


async def test_another_model_never_gets_it(wire: Wire) -> None:
    wire.will(response(reasoning("Secret"), call("call_1", ADD.name, {})), response(text("Done.")))
    async with opened(NAME, wire, path="/v1", options=OPTIONS) as model:
        first = await hear(model, user("add"), tools=[ADD])
    async with opened("openai:another", wire, path="/v1", options=OPTIONS) as model:
        await hear(model, user("add"), first.message, result("call_1", "3"), tools=[ADD])
    assert [item["type"] for item in sent(wire)] == ["message", "function_call", "function_call_output"]
    assert "Secret" not in str(wire.asked[-1].body)


async def test_a_turn_that_is_over_sends_none(wire: Wire) -> None:
    wire.will(response(reasoning("Easy"), text("It is 3.")), response(text("Welcome.")))
    async with opened(NAME, wire, path="/v1", options=OPTIONS) as model:
        first = await hear(model, user("add"))
        await hear(model, user("add"), first.message, user("thanks"))
    assert [item["type"] for item in sent(wire)] == ["message"] * 3


async def test_a_refusal_is_text_and_is_marked(wire: Wire) -> None:
    wire.will(response(refusal("I will not.")))
    async with opened(NAME, wire, path="/v1", options=OPTIONS) as model:
        message = (await hear(model)).message
    assert (message.content, message.metadata) == ("I will not.", {ENDED: "refusal"})


@pytest.mark.parametrize(
    ("incomplete", "ended"),
    [("", None), ("max_output_tokens", "length"), ("content_filter", "content_filter")],
)
async def test_the_message_says_how_it_ended(wire: Wire, incomplete: str, ended: str | None) -> None:
    wire.will(response(text("Once upon"), incomplete=incomplete))
    async with opened(NAME, wire, path="/v1", options=OPTIONS) as model:
        message = (await hear(model)).message
    assert (message.content, message.metadata.get(ENDED)) == ("Once upon", ended)


async def test_a_response_that_fails_is_told(wire: Wire) -> None:
    wire.will(failed(text("Hello")))
    async with opened(NAME, wire, path="/v1", options=OPTIONS) as model:
        with pytest.raises(ModelFailed) as error:
            await hear(model)
    assert "SECRET" not in str(error.value)


async def test_a_response_that_does_not_stream(wire: Wire) -> None:
    wire.will(
        at_once(reasoning("One.", "Two."), text("I add."), call("call_1", ADD.name, {"a": 1})),
        at_once(text("Done."), incomplete="max_output_tokens"),
    )
    async with opened(NAME, wire, path="/v1", options={**OPTIONS, "disable_streaming": True}) as model:
        first = await hear(model, user("add"), tools=[ADD])
        assert (first.thoughts, first.texts) == (["One.\n\nTwo."], ["I add."])
        second = await hear(model, user("add"), first.message, result("call_1", "3"), tools=[ADD])
    assert second.message.metadata == {ENDED: "length"}
    assert [item["type"] for item in sent(wire)] == [
        *("message", "reasoning", "message", "function_call", "function_call_output")
    ]


def test_one_chats_with_it(
    serve: Callable[..., str], wire: Wire, name: str, tmp_path: Path, demo_url: str
) -> None:
    models = tmp_path / "responses.yaml"
    models.write_text(
        f"models:\n  - model: {NAME}\n    base_url: {wire.url}/v1\n    options: {{use_responses_api: true}}\n"
    )
    wire.will(
        response(reasoning("Two numbers."), call("call_1", "demo__add", {"a": 2, "b": 3})),
        response(reasoning("Got it."), text("It is 5."), incomplete="max_output_tokens"),
    )
    with Person(serve(models_file=models), name) as sue:
        sue.connect(model=NAME, server={"url": demo_url, "alias": "demo"})
        frames = sue.stream("add 2 and 3")
        told = "".join(data["content"] for kind, data in frames if kind == "thinking")
        assert told == "Two numbers.Got it."
        assert (frames[-1][1]["content"], frames[-1][1]["ended"]) == ("It is 5.", "length")
        assert [item["type"] for item in sent(wire)] == [
            *("message", "reasoning", "function_call", "function_call_output")
        ]
        assert "blocks" not in str(sue.history())
