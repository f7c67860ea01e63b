"""The least that a turn can cost with LangChain: its agent behind one route, without users, history, record.

It speaks as much of the chat's dialect as a measurement needs. uvicorn runs it with `FLOOR_MODEL` and
`FLOOR_MCP`.
"""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from langchain.agents import create_agent
from langchain_core.tools import StructuredTool
from langchain_openai import ChatOpenAI
from mcp import Client
from pydantic import SecretStr
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

HISTORY = [("user", "plain"), ("assistant", "word ")] * 5
"""What the others have in their histories."""


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    """Open the server, and make the agent once."""
    async with Client(os.environ["FLOOR_MCP"]) as client:

        async def add(a: int, b: int) -> str:
            result = await client.call_tool("add", {"a": a, "b": b})
            return str(result.structured_content)

        tool = StructuredTool.from_function(coroutine=add, name="add", description="Add.")
        model = ChatOpenAI(
            model="scripted",
            base_url=os.environ["FLOOR_MODEL"],
            api_key=SecretStr("none"),
            max_retries=0,
            stream_usage=True,
        )
        app.state.agent = create_agent(model, [tool])
        yield


async def chat(request: Request) -> Response:
    """Answer a message."""
    body = await request.json()
    asked: dict[str, Any] = {"messages": [*HISTORY, ("user", body["message"])]}
    agent = request.app.state.agent
    if body["streaming"]:
        return StreamingResponse(_frames(agent, asked), media_type="text/event-stream")
    answer = await agent.ainvoke(asked)
    return JSONResponse({"response": answer["messages"][-1].text})


async def _frames(agent: Any, asked: dict[str, Any]) -> AsyncIterator[str]:
    text = ""
    async for message, _ in agent.astream(asked, stream_mode="messages"):
        if message.type == "AIMessageChunk" and message.text:
            text += message.text
            yield f"event: token\ndata: {json.dumps({'content': message.text})}\n\n"
    yield f"event: final\ndata: {json.dumps({'content': text})}\n\n"


app = Starlette(routes=[Route("/llmchat/chat", chat, methods=["POST"])], lifespan=lifespan)
