"""Ollama: what its server sends."""

from __future__ import annotations

from typing import Any

from tests.wires.wire import Scene, lines, whole, words

_STAMP = {"model": "m", "created_at": "2026-01-01T00:00:00Z"}


def answer(*messages: dict[str, Any], end: str = "stop") -> Scene:
    """Return an answer of these pieces."""
    shell = {"role": "assistant", "content": ""}
    pieces = [{**_STAMP, "message": {**shell, **each}, "done": False} for each in messages]
    last = {"message": {"role": "assistant", "content": ""}, "done": True, "done_reason": end}
    return lines(*pieces, {**_STAMP, **last, "prompt_eval_count": 11, "eval_count": 7})


def says(text: str) -> list[dict[str, Any]]:
    """Return the pieces of a text."""
    return [{"content": word} for word in words(text)]


def calls(name: str, args: dict[str, Any]) -> dict[str, Any]:
    """Return a call, which comes whole and without an id."""
    return {"tool_calls": [{"function": {"name": name, "arguments": args}}]}


def refuses(status: int, why: str = "SECRET upstream detail") -> Scene:
    """Return an error."""
    return whole({"error": why}, status=status)
