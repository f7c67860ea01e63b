"""OpenAI's chat completions on the wire, and the many servers that are like it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from mcp_chat.exceptions import ModelFailed
from mcp_chat.models.base import REASONING, Model
from mcp_chat.models.ending import ENDED
from tests.person import Person
from tests.wires import openai_chat
from tests.wires.heard import ADD, hear, opened, result, user
from tests.wires.openai_chat import answer, at_once, calls, chunk, says, shell
from tests.wires.wire import Scene, Wire, events, wired

pytestmark = pytest.mark.anyio

NAME = "openai:scripted"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def wire() -> Iterator[Wire]:
    with wired() as wire:
        yield wire


Opens = Callable[..., AbstractAsyncContextManager[Model]]


@pytest.fixture(params=[True, False], ids=["by lines", "by LangChain"])
def opens(request: pytest.FixtureRequest, wire: Wire) -> Opens:
    """Open the model in one of the two ways, which must hear the same."""
    return partial(opened, NAME, wire, path="/v1", raw=request.param)


async def test_a_text_arrives_word_by_word(wire: Wire, opens: Opens) -> None:
    wire.will(answer(*says("Hello from far away")))
    async with opens() as model:
        heard = await hear(model)
    assert heard.texts == ["Hello", " from", " far", " away"]
    assert heard.message.metadata == {}
    used = heard.answer.usage
    assert (used.input_tokens, used.output_tokens) == (11, 7)
    assert (used.cached_tokens, used.reasoning_tokens) == (5, 3)
    [asked] = wire.asked
    assert (asked.path, asked.headers["authorization"]) == ("/v1/chat/completions", "Bearer the-key")


async def test_calls_come_in_pieces_and_side_by_side(wire: Wire, opens: Opens) -> None:
    made = [("c1", ADD.name, {"a": 1, "b": 2}), ("c2", ADD.name, {"a": 3, "b": 4})]
    wire.will(answer(*says("I add."), *calls(*made), end="tool_calls"), answer(*says("3 and 7")))
    async with opens() as model:
        first = await hear(model, user("add"), tools=[ADD])
        told = [(call.id, call.name, dict(call.args)) for call in first.message.tool_calls]
        assert told == made
        results = (result("c1", "3"), result("c2", "7"))
        assert (await hear(model, user("add"), first.message, *results, tools=[ADD])).texts
    assert [message["role"] for message in wire.asked[-1].body["messages"]] == [
        *("user", "assistant", "tool", "tool")
    ]


async def test_calls_without_an_index_are_calls_of_their_own(wire: Wire, opens: Opens) -> None:
    whole = [
        {
            "tool_calls": [
                {"id": f"c{n}", "type": "function", "function": {"name": ADD.name, "arguments": args}}
            ]
        }
        for n, args in enumerate(['{"a":1}', '{"a":2}'])
    ]
    wire.will(answer(*whole, end="tool_calls"))
    async with opens() as model:
        message = (await hear(model, tools=[ADD])).message
    assert [(call.id, call.args) for call in message.tool_calls] == [("c0", {"a": 1}), ("c1", {"a": 2})]


# Thoughts and refusals


@pytest.mark.parametrize(
    "deltas",
    [
        pytest.param([{"reasoning_content": "Let me"}, {"reasoning_content": " see"}], id="DeepSeek, vLLM"),
        pytest.param([{"reasoning": "Let me"}, {"reasoning": " see", "content": ""}], id="OpenRouter, Groq"),
        pytest.param(
            [
                {
                    "reasoning": text,
                    "reasoning_details": [{"type": "reasoning.text", "text": text, "index": 0}],
                }
                for text in ("Let me", " see")
            ],
            id="OpenRouter, both",
        ),
        pytest.param(
            [
                {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": text}]}]}
                for text in ("Let me", " see")
            ],
            id="Mistral",
        ),
    ],
)
async def test_what_it_thinks_is_told_apart_from_what_it_says(
    wire: Wire, deltas: list[dict[str, Any]], opens: Opens
) -> None:
    wire.will(answer(*deltas, *says("It is 3.")), answer(*says("Welcome.")))
    async with opens() as model:
        heard = await hear(model)
        assert (heard.thoughts, heard.message.content) == (["Let me", " see"], "It is 3.")
        assert heard.message.metadata[REASONING] == "Let me see"
        await hear(model, user("hello"), heard.message, user("thanks"))
    assert "Let me" not in str(wire.asked[-1].body)


async def test_details_of_reasoning_go_back_within_the_turn(wire: Wire, opens: Opens) -> None:
    details = [
        {"type": "reasoning.text", "text": text, "index": 0, "format": "anthropic-claude-v1"}
        for text in ("Let me", " see")
    ]
    sealed = {"type": "reasoning.encrypted", "data": "SEALED", "id": "r1", "index": 1}
    deltas = [{"reasoning_details": [each]} for each in (*details, sealed)]
    wire.will(answer(*deltas, *calls(("c1", ADD.name, {})), end="tool_calls"), answer(*says("3")))
    async with opens() as model:
        first = await hear(model, user("add"), tools=[ADD])
        assert first.thoughts == ["Let me", " see"]
        await hear(model, user("add"), first.message, result("c1", "3"), tools=[ADD])
    asking = wire.asked[-1].body["messages"][1]
    assert asking["reasoning_details"] == [
        {"type": "reasoning.text", "text": "Let me see", "format": "anthropic-claude-v1"},
        {"type": "reasoning.encrypted", "data": "SEALED", "id": "r1"},
    ]


@pytest.mark.parametrize("wanted", [False, True])
async def test_thoughts_go_back_where_the_operator_says_so(wire: Wire, wanted: bool, opens: Opens) -> None:
    wire.will(
        answer({"reasoning_content": "Hm"}, *calls(("c1", ADD.name, {})), end="tool_calls"),
        answer(*says("3")),
    )
    async with opens(options={"return_reasoning": wanted}) as model:
        first = await hear(model, user("add"), tools=[ADD])
        await hear(model, user("add"), first.message, result("c1", "3"), tools=[ADD])
    asking = wire.asked[-1].body["messages"][1]
    assert asking.get("reasoning_content") == ("Hm" if wanted else None)


@pytest.mark.parametrize("whole", [False, True])
async def test_a_refusal_is_text_and_is_marked(wire: Wire, whole: bool, opens: Opens) -> None:
    scene = at_once(refusal="I will not.") if whole else answer({"refusal": "I will"}, {"refusal": " not."})
    wire.will(scene)
    async with opens() as model:
        message = (await hear(model)).message
    assert (message.content, message.metadata) == ("I will not.", {ENDED: "refusal"})


@pytest.mark.parametrize(
    ("end", "ended"), [("stop", None), ("length", "length"), ("content_filter", "content_filter")]
)
async def test_the_message_says_how_it_ended(wire: Wire, end: str, ended: str | None, opens: Opens) -> None:
    wire.will(answer(*says("Once upon"), end=end))
    async with opens() as model:
        message = (await hear(model)).message
    assert message.metadata.get(ENDED) == ended


# Without a stream


@pytest.mark.parametrize("options", [{}, {"disable_streaming": True}], ids=["asked to stream", "not asked"])
async def test_an_answer_in_one_piece_of_json(wire: Wire, options: dict[str, Any], opens: Opens) -> None:
    function = {"name": ADD.name, "arguments": '{"a": 1}'}
    call = {"id": "c1", "type": "function", "function": function}
    wire.will(at_once(content="I add.", reasoning_content="Hm", tool_calls=[call], end="tool_calls"))
    async with opens(options=options) as model:
        heard = await hear(model, tools=[ADD])
    assert (heard.thoughts, heard.texts) == (["Hm"], ["I add."])
    assert [(c.id, c.name, c.args) for c in heard.message.tool_calls] == [("c1", ADD.name, {"a": 1})]
    assert heard.answer.usage.cached_tokens == 5
    assert wire.asked[0].body.get("stream", False) is (not options)


async def test_an_answer_in_one_chunk(wire: Wire, opens: Opens) -> None:
    said = {"role": "assistant", "content": "All of it", "reasoning_content": "Hm"}
    wire.will(events(chunk(said, end="stop", usage=openai_chat.USAGE), "[DONE]"))
    async with opens() as model:
        heard = await hear(model)
    assert (heard.texts, heard.thoughts) == (["All of it"], ["Hm"])
    assert heard.answer.usage.output_tokens == 7


async def test_chunks_that_say_nothing_do_no_harm(wire: Wire, opens: Opens) -> None:
    nothing: list[Any] = [
        {**shell(), "choices": []},
        {**shell(), "choices": [], "prompt_filter_results": []},
        chunk({}),
        chunk({"role": "assistant"}),
        chunk({"content": None, "refusal": None, "reasoning_content": None, "tool_calls": None}),
        chunk({"content": ""}),
        chunk({"content": []}),
        chunk(None),
    ]
    wire.will(events(*nothing, chunk({"content": "Hi"}), *nothing, chunk({}, end="stop"), *nothing, "[DONE]"))
    async with opens() as model:
        heard = await hear(model)
    assert heard.message.content == "Hi"
    assert heard.message.metadata == {}


async def test_what_is_counted_anew_with_each_chunk_is_counted_once(wire: Wire, opens: Opens) -> None:
    counted = [
        chunk(delta, usage={"prompt_tokens": 11, "completion_tokens": n, "total_tokens": 11 + n})
        for n, delta in enumerate(says("one two three"), 1)
    ]
    wire.will(events(*counted, "[DONE]"))
    async with opens() as model:
        used = (await hear(model)).answer.usage
    assert (used.input_tokens, used.output_tokens) == (11, 3)


async def test_events_that_are_called_json_are_read(wire: Wire, opens: Opens) -> None:
    stream = answer(*says("Hello you"))
    wire.will(Scene(chunks=stream.chunks, media_type="application/json"))
    async with opens() as model:
        assert (await hear(model)).message.content == "Hello you"


@pytest.mark.parametrize("body", [b"", b"[]", b"null", b"<html>", b'{"error": {"message": "SECRET"}}'])
async def test_json_that_is_no_answer_is_told(wire: Wire, body: bytes, opens: Opens) -> None:
    wire.will(Scene(chunks=(body,), media_type="application/json"))
    async with opens() as model:
        with pytest.raises(ModelFailed) as failed:
            await hear(model)
    assert "SECRET" not in str(failed.value)


# Through the product


@pytest.fixture
def sam(serve: Callable[..., str], wire: Wire, name: str, tmp_path: Path) -> Iterator[Person]:
    """Someone who talks with a model like OpenAI's."""
    models = tmp_path / "like_openai.yaml"
    models.write_text(f"models:\n  - model: {NAME}\n    base_url: {wire.url}/v1\n")
    with Person(serve(models_file=models), name) as person:
        yield person


def test_one_chats_with_it(sam: Person, wire: Wire, demo_url: str) -> None:
    sam.connect(model=NAME, server={"url": demo_url, "alias": "demo"})
    wire.will(
        answer(
            {"reasoning_content": "Two numbers"},
            *calls(("c1", "demo__add", {"a": 2, "b": 3})),
            end="tool_calls",
        ),
        answer({"reasoning_content": "Got it"}, *says("It is 5."), end="length"),
    )
    frames = sam.stream("add 2 and 3")
    assert "".join(data["content"] for kind, data in frames if kind == "thinking") == "Two numbersGot it"
    assert (frames[-1][1]["content"], frames[-1][1]["ended"]) == ("It is 5.", "length")
    assert [message["metadata"].get("reasoning") for message in sam.history()] == [
        *(None, "Two numbers", None, "Got it")
    ]


@pytest.mark.parametrize(
    ("scene", "sentence"),
    [
        (answer(end="content_filter"), "The provider's content filter held the answer back."),
        (answer({"reasoning": "Hm"}, end="length"), "limit of length before it said anything"),
        (answer(), "The model gave an empty answer."),
    ],
)
def test_an_empty_answer_says_why(sam: Person, wire: Wire, scene: Scene, sentence: str) -> None:
    sam.connect(model=NAME)
    wire.will(*[scene] * 3)  # what says nothing at all is asked again
    response = sam.post("chat", message="hi")
    assert response.status_code == 503
    assert sentence in response.json()["detail"]


def test_a_refusal_is_an_answer(sam: Person, wire: Wire) -> None:
    sam.connect(model=NAME)
    wire.will(answer({"refusal": "I will"}, {"refusal": " not."}))
    answered = sam.say("hi")
    assert (answered["response"], answered["ended"]) == ("I will not.", "refusal")
