"""Our messages as plugins are shown them, and what of that is ours again when they have changed it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mcp_chat.message import Message, wellformed

AGENT = "mcp-chat"
"""The chat's own name among agents."""

UNFIT = "what a plugin has made of it cannot be used"


def of_message(message: Message) -> dict[str, Any]:
    """Return a message as the framework's `Message` has it: its text, its calls, or a tool's result."""
    if message.role == "tool":
        result = {
            "tool_call_id": message.tool_call_id or "",
            "tool_name": message.name or "",
            "content": message.content,
            "is_error": message.status == "error",
        }
        return {"role": "tool", "content": [{"content_type": "tool_result", "content": result}]}
    calls = [
        {
            "content_type": "tool_call",
            "content": {"tool_call_id": call.id, "name": call.name, "arguments": dict(call.args)},
        }
        for call in message.tool_calls
    ]
    return {"role": message.role, "content": [*_text(message.content), *calls]}


def of_answer(text: str, *, thought: bool = False) -> dict[str, Any]:
    """Return a piece of what a model says, or of what it thinks aloud."""
    if thought:
        content = [{"content_type": "thinking", "text": text}]
        return {"role": "assistant", "content": content, "channel": "analysis"}
    return {"role": "assistant", "content": _text(text)}


def _text(text: str) -> list[dict[str, Any]]:
    return [{"content_type": "text", "text": text}] if text else []


def text_in(message: Mapping[str, Any]) -> str:
    """Return the texts of a message that plugins have changed.

    Raises:
        ValueError: There is one that is no text.
    """
    texts: list[str] = []
    for part in message.get("content", ()):
        match part:
            case {"content_type": "text" | "thinking", "text": str(text)}:
                texts.append(text)
            case {"content_type": "tool_result", "content": {"content": str(text)}}:
                texts.append(text)
            case {"content_type": "text" | "thinking" | "tool_result"}:
                raise ValueError(UNFIT)
    return wellformed("".join(texts))


def with_changes(message: Message, changed: Mapping[str, Any]) -> Message:
    """Return our message with what plugins have changed of its text and its calls' arguments.

    Raises:
        ValueError: They made something else of it.
    """
    wanted = {
        str(part["content"]["tool_call_id"]): part["content"].get("arguments") or {}
        for part in changed.get("content", ())
        if part.get("content_type") == "tool_call"
    }
    if any(not isinstance(args, dict) for args in wanted.values()):
        raise ValueError(UNFIT)
    calls = tuple(replace(call, args=wanted.get(call.id, call.args)) for call in message.tool_calls)
    return replace(message, content=text_in(changed), tool_calls=calls)


def for_agent(message: Message) -> dict[str, Any]:
    """Return a message as agents' hooks have it: role, and a content with a text."""
    return {
        "id": message.id,
        "role": message.role,
        "content": {"type": "text", "text": message.content},
        "name": message.name,
    }


def agent_text(message: Mapping[str, Any]) -> str:
    """Return the text of a message of an agent's hook, as a text or with one in it.

    Raises:
        ValueError: There is none.
    """
    match message.get("content"):
        case str(text) | {"text": str(text)}:
            return wellformed(text)
    raise ValueError(UNFIT)
