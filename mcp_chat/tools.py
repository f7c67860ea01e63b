"""An MCP tool as the model sees it."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import mcp_types as mcp

from mcp_chat.apps import PLAIN, Face, face_of
from mcp_chat.definitions import Definition, definition_of
from mcp_chat.limits import ServerLimits
from mcp_chat.names import unique
from mcp_chat.raw import raw_of
from mcp_chat.unseen import seen

MAX_DESCRIPTION = 1024
"""Characters of a tool's description that the model is shown; some providers take no more."""

DEEPEST = 128
"""Objects and lists within each other in all that is said of a tool: as much as can be written down."""

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
        digest: A hash of all that its server says of it.
        face: What it says of apps: which one shows its results, and who may call it.
    """

    name: str
    alias: str
    remote_name: str
    description: str
    schema: Mapping[str, Any]
    safe: bool = False
    digest: str = ""
    face: Face = PLAIN


def named(
    alias: str, tools: Iterable[mcp.Tool], *, safe: Collection[str] = (), trust_read_only: bool = False
) -> tuple[Tool, ...]:
    """Return a server's tools under names that are unique, look different, and fit every provider.

    Args:
        tools: As `listed` keeps them.
        safe: Remote names of tools that may be called again when the outcome of a call is not known.
        trust_read_only: Whether those that the server calls read-only are among them.
    """
    tools = tuple(tools)
    names = unique(alias, [tool.name for tool in tools])
    return tuple(
        Tool(
            name=name,
            alias=alias,
            remote_name=tool.name,
            description=tool.description or "",
            schema=_described(tool.input_schema),
            safe=tool.name in safe or (trust_read_only and _says_read_only(tool)),
            face=face_of(tool.meta),
        )
        for name, tool in zip(names, tools, strict=True)
    )


def _described(schema: Any) -> Any:
    """Return a schema in whose prose nothing is unseen; names and values stay, for the server knows them."""
    match schema:
        case dict():
            return {
                key: seen(value) if key in _PROSE and isinstance(value, str) else _described(value)
                for key, value in schema.items()
            }
        case list():
            return [_described(value) for value in schema]
        case _:
            return schema


@dataclass(frozen=True, slots=True)
class Listed:
    """A tool as its server lists it.

    Attributes:
        tool: What is used of it.
        size: Bytes of that.
        fault: The limit that it is over.
        definition: All that the server says of it, unless that is over a limit.
    """

    tool: mcp.Tool
    size: int
    fault: str | None
    definition: Definition | None = None


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
    description = seen(tool.description or tool.title or "")[:MAX_DESCRIPTION]
    schemas = [schema for schema in (tool.input_schema, tool.output_schema) if schema is not None]
    definition = [tool.name, description, *schemas]
    deep = any(deeper(schema, limits.schema_depth) for schema in schemas)
    size = weight(definition) if deep else _bytes(definition)  # what is too deep cannot be written down
    raw = raw_of(tool)
    fault = _fault(size, before + size, deep, limits)
    if not fault and deeper(raw, DEEPEST):
        fault = f"its definition is nested more than {DEEPEST} levels deep"
    kept = mcp.Tool(
        name=tool.name[:_LONGEST_NAME] if fault else tool.name,
        description=description,
        input_schema={} if fault else tool.input_schema,
        annotations=mcp.ToolAnnotations(read_only_hint=_says_read_only(tool)),
        meta=face_of(tool.meta).meta(),
    )
    return Listed(kept, size, fault, None if fault else definition_of(raw))


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


def find(tools: Sequence[Tool], name: str) -> Tool | None:
    """Return the tool of this name."""
    return next((tool for tool in tools if tool.name == name), None)
