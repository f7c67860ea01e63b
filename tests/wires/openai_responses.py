"""OpenAI's Responses API: what its server sends."""

from __future__ import annotations

import json
from typing import Any

from tests.wires.wire import Scene, events, whole, words

USAGE = {
    "input_tokens": 11,
    "output_tokens": 7,
    "total_tokens": 18,
    "input_tokens_details": {"cached_tokens": 5},
    "output_tokens_details": {"reasoning_tokens": 3},
}

Told = tuple[list[dict[str, Any]], dict[str, Any]]
"""The events of an item, and the item when it is done."""


def response(*items: Told, incomplete: str = "", **more: Any) -> Scene:
    """Return a streamed response of these items."""
    told: list[dict[str, Any]] = [{"type": "response.created", "response": _shell()}]
    for index, (its, _) in enumerate(items):
        told += [{**each, "output_index": index} for each in its]
    done = [item for _, item in items]
    status = "incomplete" if incomplete else "completed"
    details = {"reason": incomplete} if incomplete else None
    last = {**_shell(status), "output": done, "usage": USAGE, "incomplete_details": details}
    told.append({"type": f"response.{status}", "response": last})
    numbered = [{**each, "sequence_number": n} for n, each in enumerate(told)]
    return events(*numbered, named=True, **more)


def at_once(*items: Told, incomplete: str = "") -> Scene:
    """Return a response that does not stream."""
    details = {"reason": incomplete} if incomplete else None
    shell = _shell("incomplete" if incomplete else "completed")
    done = [item for _, item in items]
    return whole({**shell, "output": done, "usage": USAGE, "incomplete_details": details})


def failed(*items: Told) -> Scene:
    """Return a streamed response that fails."""
    told = [{"type": "response.created", "response": _shell()}, *(each for its, _ in items for each in its)]
    error = {"code": "server_error", "message": "SECRET upstream detail"}
    told.append({"type": "response.failed", "response": {**_shell("failed"), "error": error}})
    return events(
        *({"output_index": 0, **each, "sequence_number": n} for n, each in enumerate(told)), named=True
    )


def text(said: str, id_: str = "msg_1") -> Told:
    """Return a text."""
    part = {"type": "output_text", "text": said, "annotations": []}
    item = {"type": "message", "id": id_, "role": "assistant", "status": "completed", "content": [part]}
    place = {"item_id": id_, "content_index": 0}
    its: list[dict[str, Any]] = [_added({**item, "status": "in_progress", "content": []})]
    its.append({"type": "response.content_part.added", **place, "part": {**part, "text": ""}})
    its += [
        {"type": "response.output_text.delta", **place, "delta": word, "logprobs": []} for word in words(said)
    ]
    its.append({"type": "response.output_text.done", **place, "text": said, "logprobs": []})
    return [*its, {"type": "response.content_part.done", **place, "part": part}, _done(item)], item


def refusal(said: str, id_: str = "msg_1") -> Told:
    """Return a refusal."""
    part = {"type": "refusal", "refusal": said}
    item = {"type": "message", "id": id_, "role": "assistant", "status": "completed", "content": [part]}
    place = {"item_id": id_, "content_index": 0}
    its: list[dict[str, Any]] = [_added({**item, "status": "in_progress", "content": []})]
    its += [{"type": "response.refusal.delta", **place, "delta": word} for word in words(said)]
    return [*its, {"type": "response.refusal.done", **place, "refusal": said}, _done(item)], item


def reasoning(*summaries: str, id_: str = "rs_1", encrypted: str = "") -> Told:
    """Return what the model has thought: summaries, and maybe all of it, for OpenAI only."""
    item: dict[str, Any] = {"type": "reasoning", "id": id_, "summary": []}
    its: list[dict[str, Any]] = [_added(item)]
    for index, summary in enumerate(summaries):
        place = {"item_id": id_, "summary_index": index}
        part = {"type": "summary_text", "text": ""}
        its.append({"type": "response.reasoning_summary_part.added", **place, "part": part})
        for word in words(summary):
            its.append({"type": "response.reasoning_summary_text.delta", **place, "delta": word})
        its.append({"type": "response.reasoning_summary_text.done", **place, "text": summary})
    item = {**item, "summary": [{"type": "summary_text", "text": summary} for summary in summaries]}
    if encrypted:
        item["encrypted_content"] = encrypted
    return [*its, _done(item)], item


def call(id_: str, name: str, args: Any, *, item_id: str = "fc_1") -> Told:
    """Return a call, its arguments in pieces."""
    told = json.dumps(args)
    item = {"type": "function_call", "id": item_id, "call_id": id_, "name": name, "arguments": told}
    its: list[dict[str, Any]] = [_added({**item, "arguments": "", "status": "in_progress"})]
    for n in range(0, len(told), 5):
        delta = {"item_id": item_id, "delta": told[n : n + 5]}
        its.append({"type": "response.function_call_arguments.delta", **delta})
    its.append({"type": "response.function_call_arguments.done", "item_id": item_id, "arguments": told})
    item = {**item, "status": "completed"}
    return [*its, _done(item)], item


def _added(item: dict[str, Any]) -> dict[str, Any]:
    return {"type": "response.output_item.added", "item": item}


def _done(item: dict[str, Any]) -> dict[str, Any]:
    return {"type": "response.output_item.done", "item": item}


def _shell(status: str = "in_progress") -> dict[str, Any]:
    return {
        "id": "resp_1",
        "object": "response",
        "created_at": 1,
        "model": "scripted",
        "status": status,
        "output": [],
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "metadata": {},
        "parallel_tool_calls": True,
        "temperature": 1.0,
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        "usage": None,
    }
