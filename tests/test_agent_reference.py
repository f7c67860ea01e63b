"""Our loop asks a model what LangChain's own agent asks it, and comes to the same answer."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.tools import StructuredTool
from langchain_openai import ChatOpenAI
from pydantic import SecretStr

from mcp_chat.agent import Agent
from mcp_chat.catalogue import CatalogueEntry
from mcp_chat.events import Event, TextDelta
from mcp_chat.exceptions import ModelFailed
from mcp_chat.langchain import to_langchain
from mcp_chat.message import Message, ToolCall, Usage
from mcp_chat.models.answer import Answer
from mcp_chat.models.base import Piece, Request
from mcp_chat.netguard import Policy
from mcp_chat.providers import Providers
from mcp_chat.recording import Tape
from mcp_chat.tools import Tool
from tests.model_server import ModelServer, Reply
from tests.running import running

pytestmark = pytest.mark.anyio

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}}
ADD = Tool(name="add", alias="", remote_name="add", description="Add two numbers.", schema=SCHEMA)
SYSTEM = Message(role="system", content="Be brief.")
HELLO = Message(role="user", content="What is 1 + 2?")
ASKED = Message(role="assistant", content="", tool_calls=(ToolCall(id="0", name="add", args={"a": 1}),))
EARLIER = (Message(role="user", content="Before"), ASKED, Message(role="tool", content="7", tool_call_id="0"))


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def server() -> Iterator[tuple[ModelServer, str]]:
    scripted = ModelServer()
    with running(scripted.app) as url:
        yield scripted, f"{url}/v1"


def added(a: int, b: int) -> str:
    """Add two numbers, or refuse."""
    if b == 0:
        raise ValueError("b must not be 0")
    return str(a + b)


def result_of(a: int, b: int) -> str:
    """Return what the model is told of a call, in both loops."""
    try:
        return added(a, b)
    except ValueError as error:
        return f"Error: {error}"


@dataclass
class Loop:
    """What a turn does for the agent, without a turn."""

    tape: Tape | None = None
    told: list[str] = field(default_factory=list)

    async def allow(self, request: Request, answer: Answer, model: str) -> Request:
        return request

    def answered(self, pieces: AsyncGenerator[Piece], hear: Any) -> AsyncGenerator[Piece]:
        return pieces

    def tell(self, event: Event) -> None:
        if isinstance(event, TextDelta):
            self.told.append(event.text)

    def fewer(self, tokens: int) -> list[Message]:
        return []

    async def steered(self, *, last: bool = False) -> list[Message]:
        return []

    def left(self) -> float:
        return 60.0

    async def record(self, message: Message, usage: Usage) -> Message:
        return message

    async def run_call(self, call: ToolCall) -> Message:
        text = result_of(**call.args)
        return Message(role="tool", content=text, tool_call_id=call.id, name=call.name, status="success")


def call(a: int, b: int) -> tuple[str, Any]:
    return "add", {"a": a, "b": b}


CONVERSATIONS: dict[str, list[Reply]] = {
    "plain": [Reply(text="It is three.")],
    "a tool": [Reply(calls=[call(1, 2)]), Reply(text="It is 3.")],
    "text and a tool": [Reply(text="Let me see.", calls=[call(1, 2)]), Reply(text="It is 3.")],
    "parallel tools": [Reply(calls=[call(1, 2), call(3, 4), call(5, 6)]), Reply(text="3, 7 and 11.")],
    "a tool that fails": [Reply(calls=[call(1, 0)]), Reply(text="That cannot be added.")],
    "several rounds": [
        Reply(calls=[call(1, 2)], call_ids=["one"]),
        Reply(text="And now", calls=[call(3, 3), call(1, 0)], call_ids=["two", "three"]),
        Reply(calls=[call(6, 1)], call_ids=["four"]),
        Reply(text="Seven."),
    ],
}


@pytest.mark.parametrize("earlier", [(), (SYSTEM, *EARLIER)], ids=["at first", "later"])
@pytest.mark.parametrize("name", CONVERSATIONS)
@pytest.mark.parametrize("raw", [True, False], ids=["raw", "plain"])
async def test_the_loop_asks_what_langchains_agent_asks(
    server: tuple[ModelServer, str], name: str, earlier: tuple[Message, ...], raw: bool
) -> None:
    scripted, url = server
    messages = [*earlier, HELLO]

    scripted.will(*CONVERSATIONS[name])
    reference = await langchains(url, messages)
    asked, scripted.requests = scripted.requests, []

    scripted.will(*CONVERSATIONS[name])
    answer = await ours(url, messages, raw=raw)
    assert answer == reference
    assert [shown(each) for each in scripted.requests] == [shown(each) for each in asked]
    assert len(asked) == len(CONVERSATIONS[name])


async def langchains(url: str, messages: list[Message]) -> str:
    """Return the answer of LangChain's agent: what was streamed of its last message."""
    key = SecretStr("none")
    chat = ChatOpenAI(model="m", base_url=url, api_key=key, max_retries=0, stream_usage=True)
    tool = StructuredTool.from_function(
        result_of, name=ADD.name, description=ADD.description, args_schema=dict(SCHEMA)
    )
    agent: Any = create_agent(chat, [tool])
    told: list[str] = []
    shown_ = {"messages": [to_langchain(message) for message in messages]}
    async for message, _ in agent.astream(shown_, stream_mode="messages"):
        if message.type == "AIMessageChunk":
            told.append(message.text)
    return "".join(told)


async def ours(url: str, messages: list[Message], *, raw: bool) -> str:
    entry = CatalogueEntry(model="openai:m", base_url=url)
    made = Providers([entry], policy=Policy(), ollama_url="", silence=60, environ={}, raw=raw)
    model, loop = made.open(await made.choose("openai:m")), Loop()
    try:
        await Agent(model, [ADD], rounds=10, silence=60).run(messages, {}, loop)
    finally:
        await model.aclose()
    return "".join(loop.told)


def shown(sent: dict[str, Any]) -> Any:
    """Return what a model is shown, whatever the order of names in it."""
    return json.loads(json.dumps({**sent, "tools": [tool["function"]["name"] for tool in sent["tools"]]}))


async def test_the_tools_are_shown_as_langchain_shows_them(server: tuple[ModelServer, str]) -> None:
    scripted, url = server
    await langchains(url, [HELLO])
    await ours(url, [HELLO], raw=True)
    theirs, mine = [each["tools"][0] for each in scripted.requests]
    assert mine == theirs


async def test_a_model_that_asks_for_tools_without_end_is_stopped(server: tuple[ModelServer, str]) -> None:
    """LangGraph's own limit raises, too, and has no sentence for a user."""
    scripted, url = server
    scripted.will(*(Reply(calls=[call(1, 2)]) for _ in range(20)))
    with pytest.raises(ModelFailed, match="again and again"):
        await ours(url, [HELLO], raw=True)
    assert len(scripted.requests) == 11
