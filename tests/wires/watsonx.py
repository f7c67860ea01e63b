"""IBM watsonx.ai: what its servers send, the one for tokens among them."""

from __future__ import annotations

from typing import Any

from tests.wires.wire import Scene, events, whole, words

USAGE = {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}


def token(text: str = "a-token") -> Scene:
    """Return what a key buys."""
    return whole({"access_token": text, "expires_in": 3600, "token_type": "Bearer"})


def answer(*deltas: dict[str, Any], end: str = "stop") -> Scene:
    """Return an answer of these pieces."""
    chunks = [_chunk([{"index": 0, "delta": delta, "finish_reason": None}]) for delta in deltas]
    last = _chunk([{"index": 0, "delta": {"content": ""}, "finish_reason": end}])
    return events(*chunks, last, {**_chunk([]), "usage": USAGE})


def says(text: str) -> list[dict[str, Any]]:
    """Return the pieces of a text."""
    return [{"role": "assistant", "content": word} for word in words(text)]


def calls(id_: str, name: str, args: str) -> list[dict[str, Any]]:
    """Return the pieces of a call."""
    first = {"index": 0, "id": id_, "type": "function", "function": {"name": name, "arguments": args[:4]}}
    then = {"index": 0, "function": {"name": "", "arguments": args[4:]}}
    return [{"role": "assistant", "tool_calls": [first]}, {"tool_calls": [then]}]


def refuses(status: int) -> Scene:
    """Return an error."""
    errors = [{"code": "x", "message": "SECRET upstream detail"}]
    return whole({"errors": errors, "status_code": status}, status=status, headers={"retry-after": "7"})


def _chunk(choices: list[dict[str, Any]]) -> dict[str, Any]:
    stamp = {"id": "c-1", "created": 1, "created_at": "2026-01-01T00:00:00.000Z"}
    return {**stamp, "object": "chat.completion.chunk", "model_id": "m", "model": "m", "choices": choices}
