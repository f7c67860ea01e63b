"""What a tool call gave: text for the model, and files for the user that no log has to carry."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import mcp_types as mcp
import orjson
from anyio import to_thread

from mcp_chat.kinds import ANY, clean_name, kind_of, name_of
from mcp_chat.message import Part, wellformed
from mcp_chat.unseen import visible

MAX_RESULT = 32_768
"""Characters of a result that the model and the log are given."""

MAX_STRUCTURED = 16_384
"""Bytes of structured content that readers are given as such."""

STRUCTURED = "structured"
"""In the metadata of a result's message: the server's own value."""

MAX_MEDIA = 16
"""Files of one result."""

QUICK = 32_768
"""Characters that are read without asking a thread."""

_CLAIM = re.compile(r"[a-z0-9]+/[a-z0-9.+-]{1,40}\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class Media:
    """A file that a tool gave.

    Attributes:
        media_type: What it is: never just what the server says.
    """

    content: bytes
    media_type: str
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolResult:
    """What a call gave; a failure is for the model to read.

    Attributes:
        text: What the model reads of it.
        media: What is kept for the user besides.
        structured: The server's own value, for programs; small, or None.
    """

    text: str
    failed: bool = False
    media: tuple[Media, ...] = ()
    structured: Any = None


Loss = Literal["nowhere", "full", "unavailable"]
"""Why a file was not kept."""

_LOSSES: dict[Loss, str] = {
    "nowhere": "not kept, since there is no database",
    "full": "not kept, since the user's files are full",
    "unavailable": "not kept, since it could not be stored",
}


async def read(answer: mcp.CallToolResult, *, limit: int) -> ToolResult:
    """Return a server's answer; a long one is read in a thread, as that takes a while.

    Args:
        limit: Bytes of an answer that is read at all.
    """
    if answer.structured_content is None and sum(map(len, _texts(answer))) <= QUICK:
        return result(answer, limit=limit)
    return await to_thread.run_sync(lambda: result(answer, limit=limit))


def result(answer: mcp.CallToolResult, *, limit: int) -> ToolResult:
    """Return a server's answer as `read` does, here and now."""
    structured = _as_json(answer.structured_content)
    size = sum(len(text.encode("utf-8", "surrogatepass")) for text in (*_texts(answer), structured))
    if size > limit:
        text = f"The tool's result is larger than {limit} bytes and was not read. Ask it for less at once."
        return ToolResult(text=text, failed=True)
    parts = [_medium(part) or _said(part) for part in answer.content]
    media = [part for part in parts if isinstance(part, Media)]
    text = wellformed("\n".join(part for part in parts if isinstance(part, str)))
    whole, kind = (text, "text/plain") if text else (structured, "application/json")
    left_out = len(media) - MAX_MEDIA
    note = f"\n[{left_out} more files were left out]" if left_out > 0 else ""
    return ToolResult(
        text=shortened(whole) + note,
        failed=bool(answer.is_error),
        media=(*_whole(whole, kind), *media[:MAX_MEDIA]),
        structured=_news(_small(structured), text),
    )


def noted(result: ToolResult, kept: Sequence[Part | Loss]) -> ToolResult:
    """Return the result with a line for each of its files, of which the content is dropped.

    Args:
        kept: What became of each.
    """
    notes = [_note(media, what) for media, what in zip(result.media, kept, strict=True)]
    return replace(result, text="\n".join(filter(None, [result.text, *notes])), media=())


def shortened(text: str) -> str:
    """Return the text within `MAX_RESULT` characters."""
    if len(text) <= MAX_RESULT:
        return text
    return f"{text[:MAX_RESULT]}\n[shortened: {len(text) - MAX_RESULT} more characters are not shown]"


def _texts(answer: mcp.CallToolResult) -> list[str]:
    """Return all that an answer holds, without its frame and its structured content."""
    texts = []
    for part in answer.content:
        match part:
            case mcp.EmbeddedResource(resource=mcp.TextResourceContents(text=text)):
                texts.append(text)
            case mcp.EmbeddedResource(resource=mcp.BlobResourceContents(blob=text)):
                texts.append(text)
            case mcp.TextContent(text=text) | mcp.ImageContent(data=text) | mcp.AudioContent(data=text):
                texts.append(text)
            case mcp.ResourceLink(uri=uri, name=name):
                texts += [uri, name]
    return texts


def _as_json(structured: Any) -> str:
    """Return structured content as every reader of JSON takes it."""
    if structured is None:
        return ""
    return wellformed(json.dumps(structured, ensure_ascii=False, separators=(",", ":")))


def _small(structured: str) -> Any:
    if not structured or len(structured.encode()) > MAX_STRUCTURED:
        return None
    try:
        return orjson.loads(structured)
    except orjson.JSONDecodeError:  # Python's own JSON has numbers that are none
        return None


def _news(structured: Any, text: str) -> Any:
    """Return what is not in the text as well: many servers wrap a text, or a number, and say it twice."""
    match structured:
        case {"result": str(value), **others} if not others and value == text:
            return None
        case {"result": int() | float() | bool() | None as value, **others} if not others:
            return None if text == orjson.dumps(value).decode() else structured
        case _:
            return structured


def _whole(text: str, kind: str) -> list[Media]:
    if len(text) <= MAX_RESULT:
        return []
    name = "result.txt" if kind == "text/plain" else "result.json"
    return [Media(content=text.encode(), media_type=kind, name=name)]


def _said(part: mcp.ContentBlock) -> str:
    """Return what the model is told of a part that is no file."""
    match part:
        case mcp.TextContent(text=text):
            return text
        case mcp.EmbeddedResource(resource=mcp.TextResourceContents(text=text)):
            return text
        case mcp.ResourceLink(uri=uri, name=name):
            return f"[resource {visible(name)}: {visible(uri)}]"
        case _:
            return f"[{part.type} that cannot be read]"


def _medium(part: mcp.ContentBlock) -> Media | None:
    match part:
        case mcp.ImageContent(mime_type=claimed, data=data) | mcp.AudioContent(mime_type=claimed, data=data):
            return _decoded(data, claimed, "")
        case mcp.EmbeddedResource(resource=mcp.BlobResourceContents(blob=data, mime_type=claimed, uri=uri)):
            return _decoded(data, claimed or "", uri)
        case _:
            return None


def _decoded(data: str, claimed: str, uri: str) -> Media | None:
    try:
        content = base64.b64decode(data)
    except (binascii.Error, ValueError):
        return None
    if not content:
        return None
    kind = kind_of(claimed, content)
    return Media(content=content, media_type=kind, name=clean_name(uri) or _name(kind, claimed))


def _name(kind: str, claimed: str) -> str:
    """Return a name; that of a file that is not what it is said to be has what is said."""
    claim = claimed.strip().lower()
    if kind == ANY and _CLAIM.match(claim):
        return f"{claim.replace('/', '-')}.bin"
    return name_of(kind)


def _note(media: Media, what: Part | Loss) -> str:
    fate = f"kept for the user as {what.upload_id}" if isinstance(what, Part) else _LOSSES[what]
    return f"[{media.name}: {media.media_type}, {len(media.content)} bytes, {fate}]"
