"""OpenAI's chat completions without the cost of the SDK's types: the same request, an answer read by lines.

LangChain and the SDK build a request once for each set of tools and options, and it is caught before it is
sent: it says everything that the operator has set, in whatever way. From then on only the messages in it are
ours, and only if ours came out the same in that first one. Whatever is not understood goes the plain way.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, fields, replace
from typing import Any

import httpx2
import openai
import orjson
from anyio import to_thread
from langchain_openai.chat_models import base as langchain
from langchain_openai.chat_models.base import BaseChatOpenAI
from langsmith.utils import tracing_is_enabled
from pydantic import SecretStr

from mcp_chat.message import Message, ToolCall
from mcp_chat.models.base import BLOCKS, NO_FILES, Piece, Request
from mcp_chat.models.blocks import Keeper
from mcp_chat.models.chain import ChainModel, capped
from mcp_chat.models.chunks import DONE, Events, Reading, parsed, whole
from mcp_chat.models.compatible import CompatibleOpenAI
from mcp_chat.models.failures import translated
from mcp_chat.netguard import guarded_client2
from mcp_chat.tools import Tool

PLANS = 4
"""Sets of tools and options of which it is known how they are asked for."""

_PROBE = (
    Message(role="system", content="Be brief."),
    Message(role="user", content="What is it?"),
    Message(
        role="assistant", content="", tool_calls=(ToolCall(id="1", name="look", args={"é": [1, None, "<"]}),)
    ),
    Message(role="tool", content="a tree", tool_call_id="1", name="look", status="error"),
    Message(role="assistant", content="A tree."),
)

_NO_PLAN = ("messages", "files", "max_tokens")
"""Fields of a request for which no plan of their own is made."""
_MOST = ("max_completion_tokens", "max_tokens")

_catching: ContextVar[bool] = ContextVar("catching", default=False)


class _Caught(BaseException):
    """Carries a request out of LangChain and the SDK, past all that they would make of an error."""

    def __init__(self, request: httpx2.Request) -> None:
        super().__init__()
        self.request = request


@dataclass(frozen=True, slots=True)
class _Plan:
    """How something is asked for.

    Attributes:
        key: All of a request but what was said, and how much may be.
        request: As the SDK makes it; None if it is not to be asked for in this way.
        body: What it says besides the messages.
        system: What the role of instructions is called.
        most: Under which name it says how many tokens the answer may have.
        quick: Whether messages are written as we write them.
    """

    key: tuple[Any, ...]
    request: httpx2.Request | None = None
    body: Mapping[str, Any] | None = None
    system: str = "system"
    most: str = ""
    quick: bool = False


class OpenAIModel:
    """A model that speaks OpenAI's chat completions.

    Args:
        plain: The same by way of LangChain.
        chat: The model in there.
        http: Its client.
    """

    def __init__(self, plain: ChainModel, chat: BaseChatOpenAI, http: httpx2.AsyncClient) -> None:
        self.name = plain.name
        self._plain = plain
        self.chat = chat
        self._http = http
        self._plans: list[_Plan] = []
        hooks = http.event_hooks
        http.event_hooks = {**hooks, "request": [*hooks.get("request", []), _catch]}

    async def stream(self, request: Request) -> AsyncGenerator[Piece]:
        """Answer in pieces; see `mcp_chat.models.base.Model`."""
        with translated():
            sent = await self._request(request)
        pieces = self._plain.stream(request) if sent is None else self._answer(sent)
        async with contextlib.aclosing(pieces):
            async for piece in pieces:
                yield piece

    async def aclose(self) -> None:
        """Close what it holds open."""
        await self._plain.aclose()

    async def _request(self, request: Request) -> httpx2.Request | None:
        """Return what is to be sent, None if that is for the SDK to do."""
        plan = await self._plan(request)
        if plan.request is None:
            return None
        if not plan.quick or not all(map(_is_quick, request.messages)):
            return await self._caught(request)
        body = {**(plan.body or {}), "messages": [written(m, plan.system) for m in request.messages]}
        if request.max_tokens is not None:
            body[plan.most] = next(iter(capped(self.name, self.chat, request.max_tokens).values()))
        return _with(plan.request, orjson.dumps(body))

    async def _plan(self, request: Request) -> _Plan:
        most = None if request.max_tokens is None else 1
        key = (*(getattr(request, f.name) for f in fields(request) if f.name not in _NO_PLAN), most)
        for plan in self._plans:
            if plan.key == key:
                return plan
        caught = None
        if _is_understood(self.chat):
            probe = replace(request, messages=_PROBE, files=NO_FILES, max_tokens=most)
            # In a thread: 500 tools take a while. Made there: who is stopped before has made nothing.
            caught = await to_thread.run_sync(lambda: asyncio.run(self._caught(probe)))
        plan = _planned(key, caught) if caught else _Plan(key)
        self._plans = [plan, *self._plans[: PLANS - 1]]
        return plan

    async def _caught(self, request: Request) -> httpx2.Request | None:
        """Return the request that LangChain and the SDK make; None if they make none."""
        token = _catching.set(True)
        try:
            async for _ in self._plain.stream(request):
                return None  # it answers without asking
        except _Caught as caught:
            return caught.request
        finally:
            _catching.reset(token)
        return None

    async def _answer(self, request: httpx2.Request) -> AsyncGenerator[Piece]:
        reading = Reading(Keeper(self.name, self._plain.extras))
        with translated(), _as_langchain():
            response = await self._http.send(request, stream=True)
            async with contextlib.aclosing(response):
                if not response.is_success:
                    await response.aread()
                    raise self.chat.root_async_client._make_status_error_from_response(response)
                async with contextlib.aclosing(_events(response)) as portions:
                    async for data in (data async for events in portions for data in events):
                        if data.startswith(DONE):
                            break
                        chunk = parsed(data)
                        if error := chunk.get("error"):
                            raise _told(error, request)
                        if piece := reading.piece(chunk):
                            yield piece
            if not reading.begun:
                raise ValueError("no chunk was sent")
        for piece in reading.last():
            yield piece


async def _events(response: httpx2.Response) -> AsyncGenerator[Iterable[bytes]]:
    """Yield the data of events as they come, some at a time."""
    if response.headers.get("content-type", "").startswith("application/json"):
        yield whole(await response.aread())
        return
    events = Events()
    async for some in response.aiter_raw():
        yield events.feed(some)


async def _catch(request: httpx2.Request) -> None:
    if _catching.get():
        raise _Caught(request)


def _is_understood(chat: BaseChatOpenAI) -> bool:
    """Tell whether nothing is wanted of LangChain or the SDK but to make a request and to read the answer."""
    makes_keys = callable(chat.openai_api_key) or any(
        getattr(chat, name, None) for name in ("azure_ad_token_provider", "azure_ad_async_token_provider")
    )
    others = (
        *(chat.rate_limiter, chat.callbacks, chat.root_async_client.max_retries),
        chat.disable_streaming is True,
    )
    return not (makes_keys or any(others) or tracing_is_enabled())


def _planned(key: tuple[Any, ...], caught: httpx2.Request) -> _Plan:
    body = json.loads(caught.content)
    if (
        not caught.url.path.endswith("/chat/completions")
        or not body.get("stream")
        or "response_format" in body
    ):
        return _Plan(key)
    messages = body.pop("messages")
    system = messages[0].get("role")
    quick = messages == [written(message, system) for message in _PROBE]
    most = next((name for name in _MOST if body.get(name) == key[-1]), "") if key[-1] else ""
    if "tools" in body:
        body["tools"] = orjson.Fragment(orjson.dumps(body["tools"]))
    return _Plan(key, caught, body, system, most, quick and bool(most or not key[-1]))


def _with(request: httpx2.Request, content: bytes) -> httpx2.Request:
    """Return the request with another body."""
    headers = [(name, value) for name, value in request.headers.raw if name.lower() != b"content-length"]
    return httpx2.Request(
        request.method, request.url, headers=headers, content=content, extensions=dict(request.extensions)
    )


def _is_quick(message: Message) -> bool:
    """Tell whether a message is text and calls alone."""
    return not message.parts and BLOCKS not in message.metadata


def written(message: Message, system: str) -> dict[str, Any]:
    """Return a message of text and calls as OpenAI takes it.

    Args:
        system: What the role of instructions is called.
    """
    match message.role:
        case "tool":
            return {"role": "tool", "content": message.content, "tool_call_id": message.tool_call_id or ""}
        case "assistant" if message.tool_calls:
            calls = [_written(call) for call in message.tool_calls]
            return {"role": "assistant", "content": message.content or None, "tool_calls": calls}
        case "system":
            return {"role": system, "content": message.content}
        case role:
            return {"role": role, "content": message.content}


def _written(call: ToolCall) -> dict[str, Any]:
    args = json.dumps(dict(call.args), ensure_ascii=False)
    return {"type": "function", "id": call.id, "function": {"name": call.name, "arguments": args}}


def _told(error: Any, request: httpx2.Request) -> openai.APIError:
    """Return an error that came in the stream, as the SDK raises it."""
    message = error.get("message") if isinstance(error, dict) else None
    text = message if isinstance(message, str) and message else "An error occurred during streaming"
    return openai.APIError(message=text, request=request, body=error)


class _as_langchain(contextlib.AbstractContextManager[None]):  # noqa: N801 - reads as a function
    """Raises the SDK's errors as LangChain does."""

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, openai.BadRequestError):
            langchain._handle_openai_bad_request(error)
        elif isinstance(error, openai.APIError):
            langchain._handle_openai_api_error(error)


def warm_up() -> None:
    """Do once for all workers what the first request of each would do: packages import and compile a lot."""
    http = guarded_client2(None, timeout=1)
    chat = CompatibleOpenAI(model="none", api_key=SecretStr("none"), max_retries=0, http_async_client=http)
    chat.root_async_client._platform = "Unknown"  # else it is asked for in a thread, and a fork is to come
    model = OpenAIModel(ChainModel("openai:none", chat), chat, http)
    tool = Tool(name="none", alias="", remote_name="none", description="", schema={"type": "object"})
    asyncio.run(model._caught(Request(messages=_PROBE, tools=(tool,))))
