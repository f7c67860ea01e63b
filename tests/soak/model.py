"""A model that says whose key it was asked with, and which message it answers; as lean as it can be.

``python -m tests.soak.model --port 8020``
"""

from __future__ import annotations

import argparse
import asyncio
import re
import secrets
from collections.abc import Iterator
from typing import Any, Final

import orjson
import uvicorn
from starlette.types import Receive, Scope, Send

from tests.soak.canary import OPERATOR, Canary, found
from tests.soak.witness import Witness

PAUSE: Final = 0.01
"""Seconds between two words of a slow answer."""

_WISH = re.compile(r"words=(\d+)(?: tool=(\w+))?( slowly)?")


def wish(message: Canary, words: int, *, tool: str = "", slowly: bool = False) -> str:
    """Return the message that makes the model say so many words, after a call of the tool."""
    return f"{message} words={words}" + (f" tool={tool}" if tool else "") + (" slowly" if slowly else "")


async def model(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer a request for a completion."""
    if scope["type"] != "http":
        return
    sent = orjson.loads((await receive())["body"])
    head = b"\n".join(value for _, value in scope["headers"])
    pieces, slowly = _answer(sent["messages"], next(iter(found(head)), Canary(OPERATOR, "key", 0)).user)
    headers = [(b"content-type", b"text/event-stream")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    for batch in pieces if slowly else [b"".join(pieces)]:
        await send({"type": "http.response.body", "body": batch, "more_body": True})
        await asyncio.sleep(PAUSE if slowly else 0)
    await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})


def _answer(messages: list[dict[str, Any]], user: int) -> tuple[list[bytes], bool]:
    place = max(i for i, message in enumerate(messages) if message["role"] == "user")
    text = _text(messages[place]["content"])
    asked = next((canary for canary in found(text.encode()) if canary.kind == "msg"), Canary(0, "msg", 0))
    words, tool, slowly = _understood(text)
    if tool and not any(message["role"] == "tool" for message in messages[place:]):
        return list(_calling(tool, {"text": str(asked)})), False
    said = Canary(user or asked.user, "ans", asked.number)
    return list(_saying(["word"] * words + [str(said)])), slowly


def _understood(text: str) -> tuple[int, str, bool]:
    wished = _WISH.search(text)
    return (int(wished[1]), wished[2] or "", bool(wished[3])) if wished else (1, "", False)


def _text(content: Any) -> str:
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


def _saying(words: list[str]) -> Iterator[bytes]:
    for word in words:
        yield _chunk({"role": "assistant", "content": f"{word} "}, None)
    yield _chunk({}, "stop")


def _calling(tool: str, args: dict[str, Any]) -> Iterator[bytes]:
    function = {"name": tool, "arguments": orjson.dumps(args).decode()}
    call = {"index": 0, "id": f"call-{secrets.token_hex(8)}", "type": "function", "function": function}
    yield _chunk({"role": "assistant", "content": "", "tool_calls": [call]}, None)
    yield _chunk({}, "tool_calls")


def _chunk(delta: dict[str, Any], end: str | None) -> bytes:
    chunk = {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "scripted",
        "choices": [{"index": 0, "delta": delta, "finish_reason": end}],
    }
    return b"data: " + orjson.dumps(chunk) + b"\n\n"


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser(prog="tests.soak.model")
    parser.add_argument("--port", type=int, required=True)
    options = parser.parse_args()
    uvicorn.run(Witness(model, "key", 0), port=options.port, log_level="error", access_log=False)


if __name__ == "__main__":
    main()
