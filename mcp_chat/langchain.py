"""Between our messages and LangChain's."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, SystemMessage, ToolMessage

from mcp_chat.message import Message, Part, ToolCall
from mcp_chat.upload import Upload

NO_FILES: Mapping[str, Upload] = {}


def to_langchain(message: Message, files: Mapping[str, Upload] = NO_FILES) -> AnyMessage:
    """Return our message as LangChain's.

    Args:
        files: What is in the files that go with it, by their ids.
    """
    match message.role:
        case "user":
            blocks = [_block(part, files.get(part.upload_id)) for part in message.parts]
            text: Any = [{"type": "text", "text": message.content}] if message.content else []
            return HumanMessage([*text, *blocks] if blocks else message.content, id=message.id)
        case "system":
            return SystemMessage(message.content, id=message.id)
        case "tool":
            return ToolMessage(
                message.content,
                id=message.id,
                tool_call_id=message.tool_call_id or "",
                name=message.name,
                status=message.status or "success",
            )
        case "assistant":
            calls: Any = [{"id": c.id, "name": c.name, "args": dict(c.args)} for c in message.tool_calls]
            return AIMessage(message.content, id=message.id, tool_calls=calls)


def from_langchain(message: AIMessage) -> Message:
    """Return a mended message as ours."""
    calls = tuple(
        ToolCall(id=call["id"] or "", name=call["name"], args=call["args"]) for call in message.tool_calls
    )
    return Message(role="assistant", content=str(message.text), tool_calls=calls)


def _block(part: Part, upload: Upload | None) -> dict[str, Any]:
    """A file as a provider takes it: an image or a document as it is, any other as its text."""
    if upload is None:
        return {"type": "text", "text": f"[The file {part.name} cannot be shown here.]"}
    kind = upload.media_type.partition("/")[0]
    if kind == "image" or upload.media_type == "application/pdf":
        block = {
            "type": "image" if kind == "image" else "file",
            "base64": base64.b64encode(upload.content).decode(),
            "mime_type": upload.media_type,
        }
        return block if kind == "image" else {**block, "filename": part.name}
    return {"type": "text", "text": f"The file {part.name}:\n\n{upload.content.decode(errors='replace')}"}
