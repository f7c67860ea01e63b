"""Anthropic's Messages: what its server sends."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from tests.wires.wire import Scene, events, whole, words

Event = dict[str, Any]

PATH = "/v1/messages"


def message(
    *blocks: Sequence[Event], stop: str | None = "end_turn", usage: Event | None = None, **more: Any
) -> Scene:
    """Return a streamed message of these blocks."""
    counted = {"input_tokens": 11, "output_tokens": 7, **(usage or {})}
    told: list[Any] = [{"type": "message_start", "message": _shell(counted)}, {"type": "ping"}]
    for index, block in enumerate(blocks):
        told += [{**each, "index": index} for each in block]
    end = {"stop_reason": stop, "stop_sequence": None}
    told += [{"type": "message_delta", "delta": end, "usage": counted}, {"type": "message_stop"}]
    return events(*told, named=True, **more)


def at_once(*blocks: Event, stop: str = "end_turn", usage: Event | None = None) -> Scene:
    """Return a message that does not stream."""
    counted = {"input_tokens": 11, "output_tokens": 7, **(usage or {})}
    return whole({**_shell(counted), "content": list(blocks), "stop_reason": stop})


def broken(*blocks: Sequence[Event], error: str = "overloaded_error") -> Scene:
    """Return a streamed message that an error ends."""
    told: list[Any] = [{"type": "message_start", "message": _shell({"input_tokens": 1, "output_tokens": 1})}]
    for index, block in enumerate(blocks):
        told += [{**each, "index": index} for each in block]
    told.append({"type": "error", "error": {"type": error, "message": "SECRET upstream detail"}})
    return events(*told, named=True)


def text(said: str) -> list[Event]:
    """Return the events of a text."""
    deltas = [_delta("text_delta", text=word) for word in words(said)]
    return [_start(type="text", text=""), *deltas, STOP]


def thinking(thought: str, signature: str) -> list[Event]:
    """Return the events of a signed thought."""
    deltas = [_delta("thinking_delta", thinking=word) for word in words(thought)]
    signed = _delta("signature_delta", signature=signature)
    return [_start(type="thinking", thinking="", signature=""), *deltas, signed, STOP]


def redacted(data: str) -> list[Event]:
    """Return the events of a thought that only Anthropic can read."""
    return [_start(type="redacted_thinking", data=data), STOP]


def tool(id_: str, name: str, args: Any) -> list[Event]:
    """Return the events of a call, its arguments in pieces."""
    told = json.dumps(args)
    pieces = [told[n : n + 5] for n in range(0, len(told), 5)]
    deltas = [_delta("input_json_delta", partial_json=piece) for piece in ["", *pieces]]
    return [_start(type="tool_use", id=id_, name=name, input={}), *deltas, STOP]


def search(id_: str, query: str) -> tuple[list[Event], list[Event]]:
    """Return the events of a web search that Anthropic makes itself: the call, and its result."""
    call = _start(type="server_tool_use", id=id_, name="web_search", input={})
    found = [
        {
            "type": "web_search_result",
            "title": "A page",
            "url": "https://example.com",
            "encrypted_content": "SEALED",
            "page_age": None,
        }
    ]
    result = _start(type="web_search_tool_result", tool_use_id=id_, content=found)
    asked = _delta("input_json_delta", partial_json=json.dumps({"query": query}))
    return [call, asked, STOP], [result, STOP]


STOP: Event = {"type": "content_block_stop"}


def _start(**block: Any) -> Event:
    return {"type": "content_block_start", "content_block": block}


def _delta(kind: str, **more: Any) -> Event:
    return {"type": "content_block_delta", "delta": {"type": kind, **more}}


def _shell(usage: Event) -> Event:
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude-scripted",
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": usage,
    }
