"""A scripted server that speaks OpenAI's chat completions, so that `langchain-openai` runs for real."""

from __future__ import annotations

import asyncio
import json
import threading
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route


@dataclass(kw_only=True)
class Reply:
    """What the model does with one request.

    Attributes:
        text: What it says, sent in pieces of a word.
        calls: Tools it asks for: name and arguments (a dict, or text that is sent as it is).
        status: An HTTP error instead.
        headers: Sent with the answer.
        error: What the body of an HTTP error says.
        before: Seconds of silence before anything.
        pause: Seconds between two pieces.
        break_after: Close the socket after so many pieces.
        hang_after: Say nothing more after so many pieces.
        hold: Say the last word only when this is set.
        body: Raw bytes instead of anything sensible.
        usage: What it has counted, as OpenAI says it; by default 11 tokens read and one for each word.
        counts: Whether it counts at all.
        call_ids: Ids of the calls, if they are not to be good ones.
    """

    text: str = ""
    calls: list[tuple[str, Any]] = field(default_factory=list)
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    error: dict[str, Any] | None = None
    before: float = 0
    pause: float = 0
    break_after: int | None = None
    hang_after: int | None = None
    hold: threading.Event | None = None
    body: bytes | None = None
    call_ids: list[str | None] | None = None
    usage: dict[str, Any] | None = None
    counts: bool = True


class ModelServer:
    """Answers from a script; without one it says what it was sent, so that tests can see it."""

    def __init__(self) -> None:
        self.script: deque[Reply] = deque()
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.hung_up = 0
        self.answered = 0
        self.app = Starlette(
            routes=[
                Route("/v1/chat/completions", self._complete, methods=["POST"]),
                Route("/{path:path}", self._unknown, methods=["GET", "POST"]),
            ],
        )

    def will(self, *replies: Reply) -> None:
        """Set the next answers."""
        self.script = deque(replies)

    def reply_to(self, sent: dict[str, Any]) -> Reply:
        """Return the next answer of the script."""
        return self.script.popleft() if self.script else Reply(text=_described(sent))

    async def _complete(self, request: Request) -> Response:
        sent = await request.json()
        self.requests.append(sent)
        self.headers.append(dict(request.headers))
        reply = self.reply_to(sent)
        await asyncio.sleep(reply.before)
        if reply.body is not None:
            return Response(reply.body, reply.status, media_type="text/event-stream")
        if reply.status != 200:
            error = {"error": {"message": "SECRET upstream detail", "type": "x", "code": "x"}}
            return JSONResponse(reply.error or error, reply.status, reply.headers)
        return StreamingResponse(self._stream(reply), media_type="text/event-stream", headers=reply.headers)

    async def _unknown(self, request: Request) -> Response:
        """What another provider's client asks for: its headers are noted, too."""
        self.headers.append(dict(request.headers))
        return JSONResponse({"error": "SECRET upstream detail"}, 404)

    async def _stream(self, reply: Reply) -> AsyncIterator[str]:
        try:
            pieces = _pieces(reply)
            for place, piece in enumerate(pieces):
                if place == reply.break_after:
                    raise ConnectionResetError
                if place == reply.hang_after:
                    await asyncio.sleep(3600)
                if reply.hold and place == len(pieces) - 3:
                    await asyncio.to_thread(reply.hold.wait, 30)
                yield f"data: {json.dumps(piece)}\n\n"
                await asyncio.sleep(reply.pause)
            yield "data: [DONE]\n\n"
            self.answered += 1
        except (asyncio.CancelledError, GeneratorExit):
            self.hung_up += 1
            raise


def _described(sent: dict[str, Any]) -> str:
    """Number of messages, and the last one: what a test wants to know."""
    last = sent["messages"][-1]
    content = last["content"]
    return f"{len(sent['messages'])} messages, the last from {last['role']}: {content}"


def _pieces(reply: Reply) -> list[dict[str, Any]]:
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
    words = reply.text.split(" ")
    deltas += [{"content": word if i == 0 else f" {word}"} for i, word in enumerate(words) if word or i]
    for i, (name, args) in enumerate(reply.calls):
        text = args if isinstance(args, str) else json.dumps(args)
        call_id = reply.call_ids[i] if reply.call_ids else f"call_{i}_{name}"
        deltas.append(
            {
                "tool_calls": [
                    {
                        "index": i,
                        "id": call_id,
                        "type": "function",
                        "function": {"name": name, "arguments": text},
                    }
                ]
            }
        )
    chunks = [_chunk([{"index": 0, "delta": delta, "finish_reason": None}]) for delta in deltas]
    end = "tool_calls" if reply.calls else "stop"
    chunks.append(_chunk([{"index": 0, "delta": {}, "finish_reason": end}]))
    usage = {"prompt_tokens": 11, "completion_tokens": len(words), "total_tokens": 11 + len(words)}
    return [*chunks, {**_chunk([]), "usage": reply.usage or usage}] if reply.counts else chunks


def _chunk(choices: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "scripted",
        "choices": choices,
    }
