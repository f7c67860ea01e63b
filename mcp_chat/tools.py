"""An MCP tool as the model sees it, and its result as the model reads it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import mcp_types as mcp
import orjson

from mcp_chat.limits import ServerLimits
from mcp_chat.message import wellformed

MAX_RESULT = 32_768
"""Characters of a result that the model and the log are given."""

MAX_DESCRIPTION = 1024
"""Characters of a tool's description that the model is shown; some providers take no more."""

_UNSEEN = re.compile(
    r"[\0-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff\U000e0000-\U000e007f]"
)
"""What a person who reads a description does not see, and a model does."""

_UNSAFE = re.compile(r"[^A-Za-z0-9_-]")
_MAX_NAME = 64
_LONGEST_NAME = 256
_PROSE = ("title", "description", "$comment")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """A tool of one connection.

    Attributes:
        name: `alias__tool`, unique in a conversation, in the characters that all providers take.
        remote_name: Its name at the server.
        schema: JSON Schema of the arguments.
        safe: Whether the operator allows it to be called again when the outcome of a call is not known.
    """

    name: str
    alias: str
    remote_name: str
    description: str
    schema: Mapping[str, Any]
    safe: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolResult:
    """What a call gave, as text; a failure is for the model to read."""

    text: str
    failed: bool = False


def named(
    alias: str, tools: Iterable[mcp.Tool], *, safe: Collection[str] = (), trust_read_only: bool = False
) -> tuple[Tool, ...]:
    """Return a server's tools under names that are unique and fit every provider.

    Args:
        tools: As `listed` keeps them.
        safe: Remote names of tools that may be called again when the outcome of a call is not known.
        trust_read_only: Whether those that the server calls read-only are among them.
    """
    taken: set[str] = set()
    return tuple(
        Tool(
            name=_unique(alias, tool.name, taken),
            alias=alias,
            remote_name=tool.name,
            description=tool.description or "",
            schema=_described(tool.input_schema),
            safe=tool.name in safe or (trust_read_only and _says_read_only(tool)),
        )
        for tool in tools
    )


def _seen(text: str) -> str:
    return _UNSEEN.sub("", text)


def _described(schema: Any) -> Any:
    """Return a schema in whose prose nothing is unseen; names and values stay, for the server knows them."""
    match schema:
        case dict():
            return {
                key: _seen(value) if key in _PROSE and isinstance(value, str) else _described(value)
                for key, value in schema.items()
            }
        case list():
            return [_described(value) for value in schema]
        case _:
            return schema


@dataclass(frozen=True, slots=True)
class Listed:
    """A tool as its server lists it, without what is not used, its bytes, and the limit that it is over."""

    tool: mcp.Tool
    size: int
    fault: str | None


def listed(tools: Iterable[mcp.Tool], limits: ServerLimits, *, before: int = 0) -> list[Listed]:
    """Return what is kept of definitions; takes a while for many.

    Args:
        before: Bytes of those that the server has listed already.
    """
    found: list[Listed] = []
    for tool in tools:
        found.append(_listed(tool, limits, before))
        before += found[-1].size
    return found


def _listed(tool: mcp.Tool, limits: ServerLimits, before: int) -> Listed:
    """Return what is kept of a definition; of one over a limit little more than its name."""
    description = _seen(tool.description or tool.title or "")[:MAX_DESCRIPTION]
    schemas = [schema for schema in (tool.input_schema, tool.output_schema) if schema is not None]
    definition = [tool.name, description, *schemas]
    deep = any(deeper(schema, limits.schema_depth) for schema in schemas)
    size = weight(definition) if deep else _bytes(definition)  # what is too deep cannot be written down
    fault = _fault(size, before + size, deep, limits)
    kept = mcp.Tool(
        name=tool.name[:_LONGEST_NAME] if fault else tool.name,
        description=description,
        input_schema={} if fault else tool.input_schema,
        annotations=mcp.ToolAnnotations(read_only_hint=_says_read_only(tool)),
    )
    return Listed(kept, size, fault)


def _fault(size: int, total: int, deep: bool, limits: ServerLimits) -> str | None:
    if total > limits.tools_bytes:
        most = limits.tools_bytes
        return f"the server's definitions up to here are larger than {most} bytes; no more are read"
    if deep:
        return f"its schema is nested more than {limits.schema_depth} levels deep"
    if size > limits.tool_bytes:
        return f"its definition is larger than {limits.tool_bytes} bytes"
    return None


def _bytes(value: Any) -> int:
    return len(json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass"))


def weight(value: Any) -> int:
    """Return about how many bytes a value has, exactly of a text; takes any depth."""
    waiting, total = [value], 0
    while waiting:
        match waiting.pop():
            case str(text):
                total += len(text.encode("utf-8", "surrogatepass"))
            case Mapping() as inner:
                waiting += [*inner.keys(), *inner.values()]
                total += 1
            case list(inner):
                waiting += inner
                total += 1
            case _:
                total += 1
    return total


def deeper(value: Any, limit: int) -> bool:
    """Tell whether more objects and lists than these stand within each other; takes any depth."""
    level = [value]
    for _ in range(limit + 1):
        level = [each for each in level if isinstance(each, Mapping | list)]
        if not level:
            return False
        level = [inner for each in level for inner in (each.values() if isinstance(each, Mapping) else each)]
    return True


def _says_read_only(tool: mcp.Tool) -> bool:
    return tool.annotations is not None and tool.annotations.read_only_hint is True


def _unique(alias: str, name: str, taken: set[str]) -> str:
    """Short clean names stay as they are; what was changed gets a piece of a hash, so nothing collides."""
    plain = f"{alias}__{name}"
    safe = clean = _UNSAFE.sub("_", plain)[: _MAX_NAME + 1]
    attempt = 0
    while safe in taken or len(safe) > _MAX_NAME or (not attempt and clean != plain):
        # of the name alone: a server may list in another order when it is opened again
        mark = hashlib.sha256(f"{plain} {attempt}".encode("utf-8", "surrogatepass")).hexdigest()[:8]
        safe = f"{clean[: _MAX_NAME - 9]}_{mark}"
        attempt += 1
    taken.add(safe)
    return safe


def result(answer: mcp.CallToolResult, *, limit: int) -> ToolResult:
    """Return a server's answer as text, shortened with a note that says so.

    Args:
        limit: Bytes of an answer that is read at all.
    """
    if _size(answer) > limit:
        text = f"The tool's result is larger than {limit} bytes and was not read. Ask it for less at once."
        return ToolResult(text=text, failed=True)
    text = wellformed("\n".join(_part(part) for part in answer.content))
    if not text and answer.structured_content is not None:
        text = orjson.dumps(answer.structured_content).decode()
    return ToolResult(text=shortened(text), failed=bool(answer.is_error))


def _size(answer: mcp.CallToolResult) -> int:
    """Return the bytes of what an answer holds, without its frame."""
    structured = answer.structured_content
    texts = [json.dumps(structured, ensure_ascii=False)] if structured is not None else []
    for part in answer.content:
        match part:
            case mcp.EmbeddedResource(resource=mcp.TextResourceContents(text=text)):
                texts.append(text)
            case mcp.EmbeddedResource(resource=mcp.BlobResourceContents(blob=text)):
                texts.append(text)
            case mcp.TextContent(text=text) | mcp.ImageContent(data=text) | mcp.AudioContent(data=text):
                texts.append(text)
    return sum(len(text.encode("utf-8", "surrogatepass")) for text in texts)


def shortened(text: str) -> str:
    """Return the text within `MAX_RESULT` characters."""
    if len(text) <= MAX_RESULT:
        return text
    return f"{text[:MAX_RESULT]}\n[shortened: {len(text) - MAX_RESULT} more characters are not shown]"


def _part(part: mcp.ContentBlock) -> str:
    match part:
        case mcp.TextContent(text=text):
            return text
        case mcp.EmbeddedResource(resource=mcp.TextResourceContents(text=text)):
            return text
        case mcp.ResourceLink(uri=uri, name=name):
            return f"[resource {name}: {uri}]"
        case mcp.ImageContent(mime_type=kind, data=data) | mcp.AudioContent(mime_type=kind, data=data):
            return f"[{kind}, {len(data) * 3 // 4} bytes]"
        case _:
            return f"[{part.type}]"


def find(tools: Sequence[Tool], name: str) -> Tool | None:
    """Return the tool of this name."""
    return next((tool for tool in tools if tool.name == name), None)
