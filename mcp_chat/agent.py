"""One LangChain agent: messages and tools in, our events out. The only reader of LangChain's stream.

LangChain runs the loop. What it says is read from its `messages` stream; what must be recorded before the
loop goes on (an answer with tool calls, a tool's result) is recorded inside the loop by a middleware.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import anyio
import httpx
import httpx2
import orjson
import structlog
from langchain.agents import create_agent
from langchain.agents.middleware import AgentMiddleware
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    AnyMessage,
    HumanMessage,
    SystemMessage,
)

from mcp_chat.events import Event, TextDelta
from mcp_chat.exceptions import AnswerTooLong, ChatError, InvalidSession, ModelFailed, ModelTimeout
from mcp_chat.langchain import from_langchain, to_langchain
from mcp_chat.limits import ModelLimits
from mcp_chat.message import UNREADABLE, Message, ToolCall, Usage, new_id, wellformed
from mcp_chat.netguard import AddressNotAllowed, AnswerTooLarge, refusal
from mcp_chat.session import plain
from mcp_chat.tools import Tool, weight
from mcp_chat.upload import Upload

log = structlog.get_logger()

Emit = Callable[[Event], None]

STOP_LIMIT = 5.0
"""Seconds that the model and the tools of a stopped turn get to end."""

SUM_UP_LIMIT = 120.0


class Loop(Protocol):
    """What a turn does for the agent inside the loop."""

    async def record(self, message: Message, usage: Usage, emit: Emit) -> None:
        """Put the model's message into the history; when this returns it is committed."""
        ...

    async def run_call(self, call: ToolCall, emit: Emit) -> Message:
        """Run a tool call, or answer it with what is wrong with its arguments; return the recorded result."""
        ...


@dataclass
class _Context:
    """What the middleware is given for one run."""

    loop: Loop
    seen: set[str]
    rounds: int = 0


class _Recorder(AgentMiddleware[Any, Any, Any]):
    """Offers the tools, and records each step before the next one begins."""

    def __init__(self, tools: Sequence[Tool], rounds: int, limits: ModelLimits) -> None:
        super().__init__()
        self._limits = limits
        self._rounds = rounds
        self._offers = [_offer(tool) for tool in tools]

    async def awrap_model_call(self, request: Any, handler: Any) -> Any:
        response = await handler(request.override(tools=self._offers))
        context: _Context = request.runtime.context
        for message in response.result:
            if isinstance(message, AIMessage):
                Measure(self._limits).add(message)
                unreadable = mend(message, context.seen)
                ours = from_langchain(message)
                if unreadable:
                    ours = replace(ours, metadata={UNREADABLE: unreadable})
                await context.loop.record(ours, _usage(message), request.runtime.stream_writer)
                self._count(message, context)
        return response

    def _count(self, message: AIMessage, context: _Context) -> None:
        context.rounds += bool(message.tool_calls)
        if context.rounds > self._rounds:
            raise ModelFailed(
                "The model asked for tools again and again without an answer. Ask for less at once."
            )

    async def awrap_tool_call(self, request: Any, handler: Any) -> Any:
        context: _Context = request.runtime.context
        call = ToolCall(
            id=request.tool_call["id"], name=request.tool_call["name"], args=request.tool_call["args"]
        )
        message = await context.loop.run_call(call, from_anywhere(request.runtime.stream_writer))
        return to_langchain(message)


class Measure:
    """How much a model says in one message, which may come in pieces.

    Args:
        limits: How much that may be.
    """

    def __init__(self, limits: ModelLimits) -> None:
        self._limits = limits
        self._bytes = 0
        self._calls = 0
        self._begun: set[Any] = set()

    def add(self, message: AIMessage) -> None:
        """Count the message, or a piece of it.

        Raises:
            AnswerTooLong: It says too much.
            ModelFailed: It asks for too many tools.
        """
        calls: list[Any] = [*message.tool_calls, *message.invalid_tool_calls]
        if isinstance(message, AIMessageChunk):
            calls = list(message.tool_call_chunks)
        for call in calls:
            place = call.get("index")  # pieces of one call have the same; a call that is whole has none
            self._calls += place is None or place not in self._begun
            self._begun.add(place)
        self._bytes += weight(message.content) + sum(_length(call["args"]) for call in calls)
        self._judge()

    def _judge(self) -> None:
        if self._bytes > self._limits.message_bytes:
            raise AnswerTooLong
        if self._calls > self._limits.calls:
            raise ModelFailed(
                f"The model asked for more than {self._limits.calls} tool calls at once, and none was made. "
                "Ask for less at once."
            )


def _length(args: Any) -> int:
    """Return the bytes of a call's arguments: text in pieces, or what was made of it."""
    return weight(args or "")


class Agent:
    """A model with tools, ready to answer.

    Args:
        model: The chat model.
        tools: What it may ask for.
        rounds: Rounds of tool calls in one turn.
        silence: Seconds the model may say nothing.
        limits: How much it may say at once.
    """

    def __init__(
        self,
        model: BaseChatModel,
        tools: Sequence[Tool],
        *,
        rounds: int,
        silence: float,
        limits: ModelLimits = ModelLimits(),  # noqa: B008 - a value
    ) -> None:
        self._model = model
        self._rounds = rounds
        self._silence = silence
        self._limits = limits
        recorder = _Recorder(tools, rounds, limits)
        self._graph = create_agent(model, [], middleware=[recorder], context_schema=_Context)

    async def run(
        self, messages: Sequence[Message], files: Mapping[str, Upload], loop: Loop
    ) -> AsyncIterator[Event]:
        """Answer the last message: yields text as it comes, and what the loop emits, in order.

        Args:
            messages: What the model is shown, complete.
            files: What is in the files that go with them.

        Raises:
            ModelFailed: The provider refused, broke off, was silent, or asked for too much.
        """
        context = _Context(loop=loop, seen={call.id for m in messages for call in m.tool_calls})
        stream: Any = self._graph.astream(
            {"messages": [to_langchain(message, files) for message in messages]},
            stream_mode=["messages", "custom"],
            context=context,
            config={"recursion_limit": 2 * self._rounds + 3},
        )
        spoken: set[str] = set()
        step, measure = 0, Measure(self._limits)
        with translated():
            async with contextlib.aclosing(pumped(stream)) as items:
                async for mode, item in self._watched(items, loop):
                    if mode == "custom":
                        yield item
                        continue
                    if item[1]["langgraph_step"] != step:  # ids are the provider's, and may be any
                        step, measure = item[1]["langgraph_step"], Measure(self._limits)
                    if isinstance(item[0], AIMessageChunk):
                        measure.add(item[0])
                    if text := _text(item[0], spoken):
                        yield TextDelta(text=text)

    async def sum_up(self, task: str, text: str) -> tuple[str, Usage]:
        """Ask the model for one text, without tools.

        Raises:
            ModelFailed: It did not answer.
        """
        asked: list[AnyMessage] = [SystemMessage(task), HumanMessage(text)]
        said, measure = AIMessageChunk(content=""), Measure(self._limits)
        with translated(), anyio.fail_after(SUM_UP_LIMIT):
            async for chunk in self._model.astream(asked):
                measure.add(chunk)
                said += chunk
        return wellformed(str(said.text)), _usage(said)

    async def _watched(self, items: Any, loop: Loop) -> AsyncIterator[Any]:
        """Hand items on; raise when the model is silent for too long. Tools have their own limit."""
        busy = 0
        while True:
            with anyio.move_on_after(None if busy else self._silence) as scope:
                item = await anext(items, None)
            if scope.cancelled_caught:
                raise ModelTimeout
            if item is None:
                return
            if item[0] == "custom":
                busy += _busier(item[1])
            yield item


async def pumped(stream: AsyncGenerator[Any]) -> AsyncGenerator[Any]:
    """Yield what LangGraph yields, read in a plain task that is cancelled once.

    At its end LangGraph awaits tasks that stop the model and the tools. anyio delivers a cancellation again
    and again; that would end those tasks before they begin, and the model would go on talking to nobody.
    """
    items: asyncio.Queue[Any] = asyncio.Queue()

    async def pump() -> None:
        try:
            async with contextlib.aclosing(stream):
                async for item in stream:
                    items.put_nowait(item)
        finally:
            items.put_nowait(None)

    task = asyncio.create_task(pump())
    try:
        while (item := await items.get()) is not None:
            yield item
        await task
    finally:
        task.cancel()
        with anyio.move_on_after(STOP_LIMIT, shield=True):
            await asyncio.wait([task])


def _busier(event: Event) -> int:
    return {"tool_started": 1, "tool_finished": -1}.get(event.type, 0)


def from_anywhere(write: Emit) -> Emit:
    """Return LangGraph's writer for tasks that are not its own, such as those that hear of progress."""
    context = contextvars.copy_context()
    return lambda event: context.run(write, event)


def _offer(tool: Tool) -> dict[str, Any]:
    """A tool as the model is told of it.

    LangChain would resolve the references in a LangChain tool's schema at each request: a schema with one
    that leads nowhere would fail every turn, and one whose references double at each level would never end.
    """
    return {
        "type": "function",
        "function": {
            "name": tool.name,
            "description": tool.description or tool.remote_name,
            "parameters": {"properties": {}, **tool.schema},
        },
    }


def mend(message: AIMessage, seen: set[str]) -> list[str]:
    """Make a message fit to be stored and shown to a model again.

    Every call gets an id of its own.

    Args:
        seen: The ids that calls have already.

    Returns:
        The ids of calls whose arguments are not JSON; they are kept, without any.
    """
    unreadable: list[str] = []
    message.content = _clean(message.content)
    calls: list[tuple[Any, dict[str, Any] | None]] = [(c, _json(c["args"])) for c in message.tool_calls]
    calls += [(call, None) for call in message.invalid_tool_calls]
    message.tool_calls, message.invalid_tool_calls = [], []
    for call, args in calls:
        call_id = wellformed(call["id"] or "")
        if not call_id or call_id in seen:
            call_id = f"call_{new_id()}"
        seen.add(call_id)
        if args is None:
            unreadable.append(call_id)
        message.tool_calls.append(
            {"name": wellformed(call["name"] or ""), "args": args or {}, "id": call_id, "type": "tool_call"}
        )
    return unreadable


def _json(args: dict[str, Any]) -> dict[str, Any] | None:
    """Return arguments that every reader of JSON takes: Python's own also takes NaN and endless integers."""
    cleaned: dict[str, Any] = _clean(args)
    try:
        plain(cleaned, ())
        orjson.dumps(cleaned)
    except (TypeError, ValueError, InvalidSession):
        return None
    return cleaned


def _clean(value: Any) -> Any:
    """What the model wrote, but in text that can be stored."""
    match value:
        case str():
            return wellformed(value)
        case dict():
            return {wellformed(str(name)): _clean(each) for name, each in value.items()}
        case list():
            return [_clean(each) for each in value]
        case _:
            return value


def _usage(message: AIMessage) -> Usage:
    counted = message.usage_metadata
    if counted is None:
        return Usage()
    return Usage(input_tokens=_count(counted["input_tokens"]), output_tokens=_count(counted["output_tokens"]))


def _count(tokens: int) -> int:
    """A provider may say anything; what it says is stored in 64 bits."""
    return max(0, min(tokens, 2**48))


def _text(message: Any, spoken: set[str]) -> str:
    """Return the text that is new: pieces as they come, or all of a model that does not stream."""
    if isinstance(message, AIMessageChunk):
        spoken.add(message.id or "")
        return wellformed(str(message.text))
    if isinstance(message, AIMessage) and (message.id or "") not in spoken:
        return wellformed(str(message.text))
    return ""


@contextlib.contextmanager
def translated() -> Any:
    """Turn what LangChain and the providers' packages raise into `ModelFailed`."""
    try:
        yield
    except (AddressNotAllowed, AnswerTooLarge) as error:
        raise failure(error) from error
    except ChatError:
        raise
    except Exception as error:  # the providers' packages raise what they like
        raise failure(error) from error


def failure(error: Exception) -> ChatError:
    """Return what a user is told of a provider's error: what to do, and nothing of what it said."""
    match refusal(error):
        case AddressNotAllowed():
            return ModelFailed("The model's address is not allowed. Connect again with another one.")
        case AnswerTooLarge():
            return AnswerTooLong()
    status = getattr(error, "status_code", None)
    if isinstance(status, int):
        return ModelFailed(_sentence(status), retry_after=_retry_after(error))
    if (
        isinstance(error, (TimeoutError, httpx.TimeoutException, httpx2.TimeoutException))
        or "Timeout" in type(error).__name__
    ):
        return ModelTimeout()
    if isinstance(error, (httpx.HTTPError, httpx2.HTTPError)) or "Connection" in type(error).__name__:
        return ModelFailed("The model's provider could not be reached or broke off. Please try again.")
    log.warning("model.failed", error=type(error).__name__, exc_info=error)
    return ModelFailed("The model's answer could not be read. Please try again.")


def _sentence(status: int) -> str:
    match status:
        case 401 | 403:
            return "The model's provider refused the API key. Check the key and connect again."
        case 404:
            return "The model's provider does not know this model. Choose another one and connect again."
        case 429:
            return "The model's provider is limiting requests. Wait a moment and try again."
        case 400 | 413 | 422:
            return "The model's provider refused the request. A shorter message or another model may help."
        case _:
            return "The model's provider had an error. Please try again."


def _retry_after(error: Exception) -> float | None:
    headers = getattr(getattr(error, "response", None), "headers", {})
    try:
        seconds = float(headers["retry-after"])
    except (KeyError, ValueError):
        return None
    return min(seconds, 3600.0) if seconds >= 0 else None
