"""The far sides of a comparison: a model that does what the message says, and an MCP server with one tool."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection as Pipe
from typing import Any

import psutil
import uvloop
from mcp.server import MCPServer

from benchmarks.wire import Write, serve
from tests.running import running

PLAIN, CALL = "plain", "call"
"""Messages: say one word; call the tool and then say one word."""


def story(tokens: int, pause: float) -> str:
    """Return the message that makes the model say so many tokens, one every so many seconds."""
    return f"story {tokens} {pause}"


def _chunk(delta: dict[str, Any], end: str | None = None, **more: Any) -> bytes:
    choices = [{"index": 0, "delta": delta, "finish_reason": end}]
    chunk = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "scripted"}
    return f"data: {json.dumps({**chunk, 'choices': choices, **more})}\n\n".encode()


_USAGE = {"prompt_tokens": 11, "completion_tokens": 1, "total_tokens": 12}
_ROLE, _WORD = _chunk({"role": "assistant", "content": ""}), _chunk({"content": "word "})
_END = _chunk({}, "stop") + _chunk({}, None, usage=_USAGE) + b"data: [DONE]\n\n"
_CALLED = _chunk({}, "tool_calls") + _chunk({}, None, usage=_USAGE) + b"data: [DONE]\n\n"


def _call(sent: dict[str, Any]) -> dict[str, Any]:
    name = next(t["function"]["name"] for t in sent["tools"] if "add" in t["function"]["name"])
    function = {"name": name, "arguments": '{"a": 1, "b": 2}'}
    return {"index": 0, "id": f"call-{time.monotonic_ns()}", "type": "function", "function": function}


def _whole(calls: list[dict[str, Any]]) -> bytes:
    message = {
        "role": "assistant",
        "content": None if calls else "word ",
        **({"tool_calls": calls} if calls else {}),
    }
    choice = {"index": 0, "message": message, "finish_reason": "tool_calls" if calls else "stop"}
    answer = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "scripted"}
    return json.dumps({**answer, "choices": [choice], "usage": _USAGE}).encode()


async def _answer(sent: dict[str, Any], write: Write) -> None:
    last = sent["messages"][-1]
    said = last["content"] if isinstance(last["content"], str) else last["content"][0]["text"]
    asked = last["role"] == "user" and said == CALL
    if not sent.get("stream"):
        return write(_whole([_call(sent)] if asked else []))
    write(_ROLE)
    if asked:
        write(_chunk({"tool_calls": [_call(sent)]}) + _CALLED)
    elif found := re.fullmatch(r"story (\d+) (\S+)", said):
        await _tell(int(found[1]), float(found[2]), write)
        write(_END)
    else:
        write(_WORD + _END)
    return None


async def _tell(tokens: int, pause: float, write: Write) -> None:
    """Say so many tokens by the clock, however long the sending takes; without a pause all at once."""
    if not pause:
        for _ in range(tokens):
            write(_WORD)
        return
    began = time.monotonic()
    for n in range(tokens):
        await asyncio.sleep(began + n * pause - time.monotonic())
        write(_WORD)


def _model(pipe: Pipe) -> None:
    async def main() -> None:
        task = asyncio.ensure_future(serve(_answer, lambda port: pipe.send(f"http://127.0.0.1:{port}/v1")))
        await asyncio.to_thread(pipe.recv)
        task.cancel()

    uvloop.run(main())


def add(a: int, b: int) -> int:
    """Add."""
    return a + b


def _tools(pipe: Pipe) -> None:
    server = MCPServer("calculator", log_level="ERROR")
    server.add_tool(add)
    for n in range(pipe.recv() - 1):
        server.add_tool(add, name=f"more_{n}", description="Add two numbers, as the others do. " * 3)
    with running(server.streamable_http_app(stateless_http=True), grace=0) as url:
        pipe.send(f"{url}/mcp")
        pipe.recv()


@contextmanager
def _beside(run: Callable[[Pipe], None], *first: Any) -> Iterator[tuple[str, psutil.Process]]:
    spawn = multiprocessing.get_context("spawn")
    here, there = spawn.Pipe()
    process = spawn.Process(target=run, args=(there,))
    process.start()
    there.close()  # so that its end is noticed here
    try:
        for each in first:
            here.send(each)
        yield here.recv(), psutil.Process(process.pid)
    finally:
        here.send("stop")
        process.join(10)
        process.kill()


def model() -> Any:
    """Run the model in a process of its own; give its URL and the process."""
    return _beside(_model)


def calculator(tools: int = 1) -> Any:
    """Run an MCP server with so many tools in a process of its own; give its URL and the process."""
    return _beside(_tools, tools)
