"""OpenAI's answers read without the SDK: the same requests, and the same of every answer, as with it."""

from __future__ import annotations

import gc
import json
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import anyio
import pytest

from mcp_chat.catalogue import CatalogueEntry
from mcp_chat.exceptions import ChatError
from mcp_chat.message import Message, ToolCall
from mcp_chat.models.answer import Answer
from mcp_chat.models.base import Model, Request
from mcp_chat.models.openai import OpenAIModel
from mcp_chat.netguard import Policy
from mcp_chat.providers import Providers
from mcp_chat.tools import Tool
from mcp_chat.upload import Upload
from tests.wires.heard import LIMITS
from tests.wires.openai_chat import answer, at_once, calls, chunk, says, shell
from tests.wires.wire import Scene, Wire, event, events, wired

pytestmark = pytest.mark.anyio

HELLO = (Message(role="user", content="hello"),)
IMAGE = Upload(name="dot.png", media_type="image/png", content=b"\x89PNG\r\n\x1a\n")
NOTE = Upload(name="note.txt", media_type="text/plain", content="Grüße".encode())
ADD = Tool(
    name="calc__add",
    alias="calc",
    remote_name="add",
    description="Add «numbers»",
    schema={"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]},
)
LOOK = replace(ADD, name="calc__look", description="", schema={"type": "object"})


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def wire() -> Iterator[Wire]:
    with wired() as wire:
        yield wire


@asynccontextmanager
async def opened(
    wire: Wire, *, raw: bool, model: str = "m", silence: float = 15, **options: Any
) -> AsyncIterator[Model]:
    name = f"openai:{model}"
    entry = CatalogueEntry(model=name, base_url=f"{wire.url}/v1", api_key_env="KEY", options=options)
    environ = {"KEY": "the-key"}
    made = Providers([entry], policy=Policy(), ollama_url="", silence=silence, environ=environ, raw=raw)
    model_ = made.open(await made.choose(name, max_tokens=99))
    try:
        yield model_
    finally:
        await model_.aclose()


async def heard(model: Model, request: Request) -> dict[str, Any]:
    """Return all that a turn has of an answer, or how it failed."""
    said, end = Answer(LIMITS), ""
    try:
        async for piece in model.stream(request):
            said.add(piece)
            end = piece.end or end
    except ChatError as error:
        return {"error": (type(error), str(error), getattr(error, "retry_after", None))}
    message = said.message({"taken"})
    calls = [(call.name, call.args, call.id.startswith("call_")) for call in message.tool_calls]
    return {
        "text": message.content,
        "calls": calls,
        "metadata": {name: value for name, value in message.metadata.items() if name != "unreadable"},
        "unreadable": len(message.metadata.get("unreadable", ())),
        "usage": said.usage,
        "end": end,
    }


async def both(
    wire: Wire, *scenes: Scene, request: Request | None = None, **options: Any
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what is heard in the plain way and in the quick one."""
    found = []
    for raw in (False, True):
        wire.will(*scenes)
        async with opened(wire, raw=raw, **options) as model:
            assert isinstance(model, OpenAIModel) == raw
            found.append(await heard(model, request or Request(messages=HELLO)))
    return found[0], found[1]


def told(*chunks: Any, **more: Any) -> Scene:
    return events(*chunks, "[DONE]", **more)


def cut(scene: Scene, size: int) -> Scene:
    """Send the same bytes in other pieces."""
    body = b"".join(scene.chunks)
    return replace(scene, chunks=tuple(body[n : n + size] for n in range(0, len(body), size)))


GREETING = answer(*says("Grüße, 世界 🌍!"))
HALF = event(chunk({"content": "x"})).replace(b'"x"', b'"\\ud800 half"')
FIRST = event(chunk({"content": "Hel"}))
DONE = b"data: [DONE]\n\n"

WIRES: dict[str, Scene] = {
    "text": GREETING,
    "text cut within letters": cut(GREETING, 3),
    "text byte by byte": cut(answer(*says("é ü")), 1),
    "text at once": cut(GREETING, 100_000),
    "a call in pieces": answer(*calls(("1", "calc__add", {"a": "ü" * 40})), end="tool_calls"),
    "parallel calls": answer(*calls(("1", "calc__add", {"a": 1}), ("2", "calc__look", {})), end="tool_calls"),
    "text and a call": answer(*says("Let me see"), *calls(("1", "calc__add", {"a": 1})), end="tool_calls"),
    "a repeated id": answer(*calls(("taken", "calc__add", {"a": 1})), end="tool_calls"),
    "broken arguments": answer(
        {"tool_calls": [{"index": 0, "id": "1", "function": {"name": "x", "arguments": '{"a": '}}]}
    ),
    "a call without an index": answer({"tool_calls": [{"id": "1", "function": {"name": "x"}}]}),
    "a call without a function": answer({"tool_calls": [{"index": 0, "id": "1"}]}),
    "a call with nulls": answer(
        {"tool_calls": [{"index": 0, "id": None, "function": {"name": None, "arguments": None}}]}
    ),
    "calls that are null": answer({"content": "x", "tool_calls": None}),
    "no usage": answer(*says("hello"), usage=None),
    "usage with every chunk": told(
        chunk({"content": "a"}, usage={"prompt_tokens": 1, "completion_tokens": 1}),
        chunk({"content": "b"}, end="stop", usage={"prompt_tokens": 1, "completion_tokens": 2}),
    ),
    "usage of null": told(chunk({"content": "a"}, usage=None), chunk({}, end="stop", usage={})),
    "a refusal": answer({"refusal": "I can"}, {"refusal": "not."}),
    "an empty answer": answer(),
    "cut short": answer(*says("once upon a"), end="length"),
    "filtered": answer(*says("once"), end="content_filter"),
    "thoughts of DeepSeek": answer({"reasoning_content": "Hm. "}, {"reasoning_content": "So."}, *says("4")),
    "thoughts of OpenRouter": answer(
        {"reasoning": "Hm", "reasoning_details": [{"type": "reasoning.text", "index": 0, "text": "Hm"}]},
        {"reasoning_details": [{"type": "reasoning.text", "index": 0, "signature": "s"}]},
        *says("4"),
    ),
    "blocks of Mistral": answer(
        {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "Hm"}]}]},
        {"content": [{"type": "text", "text": "four"}]},
    ),
    "null content": told(chunk({"content": None}), chunk({"content": "a"}), chunk({}, end="stop")),
    "a null delta": told(chunk(None), chunk({"content": "a"}), chunk({}, end="stop")),
    "no choices": told({**shell(), "choices": []}, {**shell()}, chunk({"content": "a"})),
    "null choices": told({**shell(), "choices": None}, chunk({"content": "a"})),
    "a choice without a delta": told({**shell(), "choices": [{"index": 0}]}, chunk({"content": "a"})),
    "a chunk with nothing around": told({"choices": [{"delta": {"content": "bare"}}]}),
    "half a surrogate pair": Scene(chunks=(HALF, DONE)),
    "letters escaped": Scene(chunks=(event(chunk({"content": "é🌍\u2028"})), DONE)),
    "broken JSON": Scene(chunks=(FIRST, b'data: {"choices": [\n\n', DONE)),
    "no object": Scene(chunks=(FIRST, b"data: 5\n\n", DONE)),
    "no UTF-8": Scene(chunks=(FIRST, b'data: {"choices": [{"delta": {"content": "\xff"}}]}\n\n', DONE)),
    "an error in the stream": Scene(
        chunks=(FIRST, event({"error": {"message": "SECRET", "type": "server_error"}}))
    ),
    "an overflow in the stream": Scene(
        chunks=(event({"error": {"message": "This exceeds the context window", "type": "x"}}),)
    ),
    "an error that is text": Scene(chunks=(event({"error": "SECRET"}),)),
    "an error in place of a stream": Scene(
        chunks=(b'{"error": {"message": "SECRET"}}',), media_type="application/json"
    ),
    "no end": Scene(chunks=answer(*says("hello")).chunks[:-1]),
    "an end without an empty line": Scene(chunks=(FIRST, event(chunk({"content": "lo"})).rstrip(b"\n"))),
    "bytes behind the end": Scene(chunks=(FIRST, DONE, b"data: nonsense\n\n")),
    "CRLF": Scene(chunks=tuple(c.replace(b"\n", b"\r\n") for c in GREETING.chunks)),
    "CRLF byte by byte": cut(
        Scene(chunks=((FIRST + DONE).replace(b"\n", b"\r\n"),)),
        1,
    ),
    "CR": Scene(chunks=tuple(c.replace(b"\n", b"\r") for c in GREETING.chunks)),
    "comments and other fields": Scene(
        chunks=(b": alive\n\n", b"id: 7\nevent: message\n" + FIRST, b":\n" + FIRST + b"retry: 5\n", DONE)
    ),
    "data on several lines": Scene(
        chunks=(b'data: {"choices":\ndata:[{"delta": {"content": "two lines"}}]}\n\n', DONE)
    ),
    "no space behind the colon": Scene(chunks=(FIRST.replace(b"data: ", b"data:"), b"data:[DONE]\n\n")),
    "an answer that does not stream": at_once(content="all at once"),
    "a call that does not stream": at_once(
        end="tool_calls",
        tool_calls=[{"id": "1", "type": "function", "function": {"name": "x", "arguments": '{"a": 1}'}}],
    ),
    "a stream called JSON": replace(GREETING, media_type="application/json"),
    "cut off": Scene(chunks=(FIRST,), cut=True),
    "nothing at all": Scene(chunks=()),
}
ERRORS: dict[str, Scene] = {
    f"status {status}": Scene(
        chunks=(json.dumps({"error": {"message": text, "code": code}}).encode(),),
        media_type="application/json",
        status=status,
        headers=headers,
    )
    for status, text, code, headers in (
        (400, "Invalid", "x", {}),
        (400, "maximum context length", "context_length_exceeded", {}),
        (401, "key", "x", {}),
        (403, "no", "x", {}),
        (404, "model", "x", {}),
        (413, "large", "x", {}),
        (422, "odd", "x", {}),
        (429, "slow", "rate_limit_exceeded", {"retry-after": "7"}),
        (429, "money", "insufficient_quota", {"retry-after": "soon"}),
        (500, "oh", "x", {}),
        (503, "busy", "x", {"retry-after": "3"}),
        (307, "there", "x", {"location": "/elsewhere"}),
    )
} | {
    "a page of HTML": Scene(chunks=(b"<html>bad gateway",), media_type="text/html", status=502),
    "a page of HTML that is no error": Scene(chunks=(b"<html>sign in",), media_type="text/html"),
}


@pytest.mark.parametrize("name", WIRES | ERRORS)
async def test_the_same_is_heard(wire: Wire, name: str) -> None:
    plain, quick = await both(wire, (WIRES | ERRORS)[name])
    assert quick == plain


async def test_a_silent_server_is_given_up_alike(wire: Wire) -> None:
    slow = replace(answer(*says("hello you")), pause=1.5)
    plain, quick = await both(wire, slow, silence=1)
    assert quick == plain
    assert "error" in quick


KEPT = {"model": "openai:m", "content": [], "extras": {"reasoning_details": [{"text": "Hm"}]}}
CONVERSATION = (
    Message(role="system", content="Be «brief»."),
    Message(role="user", content="What is it?\n\t\u2028<&>"),
    Message(role="assistant", content="Let me see.", metadata={"reasoning": "Hm"}),
    Message(role="user", content=""),
    Message(
        role="assistant",
        content="",
        tool_calls=(
            ToolCall(id="1", name="calc__add", args={"a": [1.5, None, True, {"é": "<\u2028>"}]}),
            ToolCall(id="2", name="calc__look"),
        ),
    ),
    Message(role="tool", content="", tool_call_id="1", name="calc__add", status="error"),
    Message(role="tool", content="a tree", tool_call_id="2", name="calc__look"),
    Message(
        role="assistant", content="And…", tool_calls=(ToolCall(id="3", name="calc__add", args={"a": 10**30}),)
    ),
    Message(role="tool", content="x", tool_call_id="3", metadata={"elapsed_ms": 5}),
    Message(role="user", content="Go on."),
)
REQUESTS: dict[str, Request] = {
    "a word": Request(messages=HELLO),
    "a conversation": Request(messages=CONVERSATION),
    "fifty messages": Request(messages=CONVERSATION * 5),
    "tools": Request(messages=CONVERSATION, tools=(ADD, LOOK)),
    "a temperature": Request(messages=HELLO, tools=(ADD,), temperature=0.25),
    "few tokens": Request(messages=HELLO, max_tokens=7),
    "more tokens than it was made with": Request(messages=HELLO, tools=(ADD,), max_tokens=7000),
    "a temperature of nothing": Request(messages=HELLO, temperature=0.0),
    "files": Request(
        messages=(replace(HELLO[0], parts=(IMAGE.part(), NOTE.part())), *CONVERSATION[1:]),
        files={upload.id: upload for upload in (IMAGE, NOTE)},
    ),
    "what was kept": Request(
        messages=(
            *HELLO,
            Message(
                role="assistant",
                content="",
                tool_calls=(ToolCall(id="1", name="x"),),
                metadata={"blocks": [KEPT]},
            ),
            Message(role="tool", content="x", tool_call_id="1"),
        )
    ),
}
OPTIONS: dict[str, Mapping[str, Any]] = {
    "none": {},
    "sampling": {"temperature": 0.5, "top_p": 0.9, "seed": 7, "presence_penalty": 0.1, "logit_bias": {5: 1}},
    "stops": {"stop": ["END"], "n": 1, "max_tokens": 5},
    "reasoning": {"model": "gpt-5", "reasoning_effort": "low", "verbosity": "low"},
    "the o series": {"model": "o3-mini"},
    "kwargs": {"model_kwargs": {"user": "u", "parallel_tool_calls": False}},
    "a body": {"extra_body": {"chat_template_kwargs": {"thinking": True}, "temperature": 1}},
    "headers": {"default_headers": {"X-Title": "chat", "HTTP-Referer": "https://e.org"}},
    "headers of a request": {"model_kwargs": {"extra_headers": {"X-One": "1"}, "extra_query": {"q": "1"}}},
    "a query": {"default_query": {"api-version": "1"}},
    "an organization": {"organization": "org-1"},
    "no usage": {"stream_usage": False},
    "usage by hand": {"model_kwargs": {"stream_options": {"include_usage": True}}},
    "tiers": {"service_tier": "flex", "store": False},
    "retries": {"max_retries": 2},
    "tags": {"tags": ["a"], "metadata": {"b": "c"}, "name": "mine"},
}


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("name", REQUESTS)
async def test_the_same_is_asked(wire: Wire, name: str, options: str) -> None:
    wire.asked.clear()
    plain, quick = await both(wire, GREETING, GREETING, request=REQUESTS[name], **OPTIONS[options])
    assert plain == quick
    assert plain["text"] == "Grüße, 世界 🌍!"
    before, after = wire.asked
    assert json.dumps(after.body, sort_keys=True) == json.dumps(before.body, sort_keys=True)
    assert after.path == before.path
    assert _told_by(after.headers) == _told_by(before.headers)


def _told_by(headers: Mapping[str, str]) -> dict[str, str]:
    """But for what is counted in bytes: the SDK writes JSON with spaces."""
    return {name: value for name, value in headers.items() if name != "content-length"}


async def test_a_second_request_is_the_same_again(wire: Wire) -> None:
    """The first one makes the plan, and the second one uses it."""
    bodies = []
    for raw in (False, True):
        async with opened(wire, raw=raw) as model:
            for tools in ((), (ADD,), (LOOK, ADD), (ADD,), ()):
                wire.will(GREETING)
                wire.asked.clear()
                await heard(model, Request(messages=CONVERSATION, tools=tools))
                bodies.append(wire.asked[0].body)
    assert bodies[:5] == bodies[5:]


@pytest.mark.parametrize(
    "options",
    [{"use_responses_api": True}, {"model_kwargs": {"response_format": {"type": "json_object"}}}],
    ids=["the Responses API", "a format"],
)
async def test_what_is_not_understood_goes_the_plain_way(wire: Wire, options: Mapping[str, Any]) -> None:
    """To the same path, with the same body: what comes of it is the SDK's business."""
    wire.asked.clear()
    await both(wire, GREETING, **options)
    plain, quick = wire.asked
    assert (plain.path, plain.body) == (quick.path, quick.body)


async def test_tracing_goes_the_plain_way(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever watches LangChain sees the requests."""
    monkeypatch.setattr("mcp_chat.models.openai.tracing_is_enabled", lambda: True)
    seen: list[str] = []

    async def stream(self: Any, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        seen.append("plain")
        async for each in original(self, *args, **kwargs):
            yield each

    from mcp_chat.models.chain import ChainModel

    original = ChainModel.stream
    monkeypatch.setattr(ChainModel, "stream", stream)
    _, quick = await both(wire, GREETING)
    assert quick["text"] == "Grüße, 世界 🌍!"
    assert seen == ["plain", "plain"]  # that of the plain model, and that of the other one


async def test_fifty_messages_are_asked_in_no_time(wire: Wire) -> None:
    """Nothing of LangChain's or the SDK's is made for them, however much is left to be said."""
    async with opened(wire, raw=True) as model:
        assert isinstance(model, OpenAIModel)
        many: Sequence[Message] = CONVERSATION * 5
        wire.will(GREETING)
        await heard(model, Request(messages=many, tools=(ADD,), max_tokens=50))

        def never(*_: Any) -> Any:
            raise AssertionError("it was made by LangChain")

        model.chat.__dict__["_get_request_payload"] = never
        wire.will(GREETING)
        found = await heard(model, Request(messages=many, tools=(ADD,), max_tokens=40))
    assert wire.asked[-1].body["max_completion_tokens"] == 40
    assert found["text"] == "Grüße, 世界 🌍!"


async def test_one_that_is_stopped_before_it_is_asked_leaves_nothing_behind(wire: Wire) -> None:
    before = list(wire.asked)
    async with opened(wire, raw=True) as model:
        with anyio.CancelScope() as stopped:
            stopped.cancel()
            await heard(model, Request(messages=HELLO))
        assert stopped.cancelled_caught
        gc.collect()
    assert wire.asked == before
