"""OpenAI's chat completions: what its server and the many like it send."""

from __future__ import annotations

import json
from typing import Any

from tests.wires.wire import Scene, events, whole, words

USAGE = {
    "prompt_tokens": 11,
    "completion_tokens": 7,
    "total_tokens": 18,
    "prompt_tokens_details": {"cached_tokens": 5},
    "completion_tokens_details": {"reasoning_tokens": 3},
}


def answer(*deltas: dict[str, Any], end: str | None = "stop", usage: Any = USAGE, **more: Any) -> Scene:
    """Return a stream of these deltas."""
    told = [chunk({"role": "assistant", "content": ""}), *map(chunk, deltas), chunk({}, end=end)]
    counted = [{**shell(), "choices": [], "usage": usage}] if usage else []
    return events(*told, *counted, "[DONE]", **more)


def says(text: str) -> list[dict[str, Any]]:
    """Return a text as deltas."""
    return [{"content": word} for word in words(text)]


def calls(*made: tuple[str, str, Any], size: int = 4) -> list[dict[str, Any]]:
    """Return calls as deltas: each has its id and its name first, then its arguments in pieces."""
    deltas: list[dict[str, Any]] = []
    for index, (id_, name, _) in enumerate(made):
        first = {"id": id_, "type": "function", "function": {"name": name, "arguments": ""}}
        deltas.append({"tool_calls": [{"index": index, **first}]})
    for index, (_, _, args) in enumerate(made):
        told = json.dumps(args)
        pieces = [told[n : n + size] for n in range(0, len(told), size)]
        deltas += [{"tool_calls": [{"index": index, "function": {"arguments": each}}]} for each in pieces]
    return deltas


def at_once(end: str = "stop", usage: Any = USAGE, **message: Any) -> Scene:
    """Return an answer that does not stream."""
    said = {"role": "assistant", "content": None, **message}
    choice = {"index": 0, "message": said, "finish_reason": end}
    return whole({**shell("chat.completion"), "choices": [choice], "usage": usage})


def chunk(delta: Any, *, end: str | None = None, **more: Any) -> dict[str, Any]:
    """Return one chunk."""
    return {**shell(), "choices": [{"index": 0, "delta": delta, "finish_reason": end}], **more}


def shell(kind: str = "chat.completion.chunk") -> dict[str, Any]:
    """Return what each answer has around its choices."""
    return {"id": "chatcmpl-1", "object": kind, "created": 1, "model": "scripted"}
