"""Tool calls as plugins see them: under the names and in the form in which the gateway has them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import mcp_types as mcp
import orjson
from pydantic import ValidationError

from mcp_chat.config import ServerConfig
from mcp_chat.exceptions import InvalidSession
from mcp_chat.plugins import hooks
from mcp_chat.plugins.base import Occasion, Plugins
from mcp_chat.plugins.blocks import unfit
from mcp_chat.session import plain

_VIRTUAL = re.compile(r"/servers/([A-Za-z0-9-]{1,64})/(?:mcp|sse)/?\Z")

LONGEST_BLOB = 4_096
"""Characters of a file in a result that plugins are shown; of a longer one they see that it is there."""

WHOLE = "structuredContent"
"""Has no files in the protocol's form: what is called `blob` there may be any text."""


def server_id(server: ServerConfig) -> str:
    """Return what plugins' conditions know a server by: a gateway's id of it, else its alias.

    A user's own server is known by its alias alone: its address could look like anything.
    """
    if (server.operator or server.login) and server.url:
        found = _VIRTUAL.search(server.url)
        return found[1] if found else server.alias
    return server.alias


class ToolDoor:
    """The hooks around each call of a turn, or of an app.

    Args:
        plugins: The operator's.
        occasion: The turn, or the app's request.
    """

    def __init__(self, plugins: Plugins, occasion: Occasion) -> None:
        self._plugins = plugins
        self._occasion = occasion
        self._calls: dict[str, Occasion] = {}

    @property
    def asks(self) -> bool:
        """Whether anybody looks at calls before they are made."""
        return bool(self._plugins.hooks & {hooks.TOOL_PRE, hooks.CMF_TOOL_PRE})

    @property
    def hears(self) -> bool:
        """Whether anybody looks at results before they are told."""
        return bool(self._plugins.hooks & {hooks.TOOL_POST, hooks.CMF_TOOL_POST})

    def _call(self, call_id: str, name: str, server: ServerConfig) -> Occasion:
        if call_id not in self._calls:
            self._calls[call_id] = self._occasion.part(
                server_id(server), server=server.alias, tool=name, call_id=call_id
            )
        return self._calls[call_id]

    async def before(
        self, call_id: str, name: str, args: Mapping[str, Any], *, server: ServerConfig
    ) -> Mapping[str, Any]:
        """Return the arguments that a call is made with.

        Args:
            name: The tool's at its server.

        Raises:
            BlockedByPlugin: It is not to be made.
        """
        if not self.asks:
            return args
        occasion = self._call(call_id, name, server)
        changed = await self._plugins.ask(hooks.TOOL_PRE, {"name": name, "args": dict(args)}, occasion)
        args = _clean(changed["args"] or {}) if "args" in changed else args
        told = {"tool_call_id": call_id, "name": name, "arguments": dict(args)}
        wanted = await self._message(hooks.CMF_TOOL_PRE, "assistant", "tool_call", told, occasion)
        return args if wanted is told else _clean(wanted.get("arguments") or {})

    async def _message(
        self, hook: str, role: str, kind: str, content: Mapping[str, Any], occasion: Occasion
    ) -> Mapping[str, Any]:
        """Ask plugins that look at messages; return the content of the one that they leave."""
        message = {"role": role, "content": [{"content_type": kind, "content": content}]}
        fields = {"message": message, "hook": hook.partition(".")[2]}
        changed = await self._plugins.ask(hook, fields, occasion)
        match changed.get("message", message):
            case {"content": [{"content_type": str(found), "content": dict(left)}]} if found == kind:
                return left
        raise unfit(hook)

    async def after(
        self, call_id: str, name: str, answer: mcp.CallToolResult, *, server: ServerConfig
    ) -> mcp.CallToolResult:
        """Return what a call has given, as it may be told and shown to the model.

        Raises:
            BlockedByPlugin: Nothing of it.
        """
        if not self.hears:
            return answer
        told, files = lighter(answer.model_dump(mode="json", by_alias=True, exclude_none=True))
        occasion = self._call(call_id, name, server)
        changed = await self._plugins.ask(hooks.TOOL_POST, {"name": name, "result": told}, occasion)
        left = changed.get("result", told)
        failed = bool(answer.is_error)
        content = {"tool_call_id": call_id, "tool_name": name, "content": left, "is_error": failed}
        found = await self._message(hooks.CMF_TOOL_POST, "tool", "tool_result", content, occasion)
        if found.get("content") is told:
            return answer
        try:
            return mcp.CallToolResult.model_validate(restored(found.get("content"), files))
        except ValidationError:
            raise unfit(hooks.TOOL_POST) from None

    def close(self, call_id: str) -> None:
        """Forget a call: it has its result."""
        self._calls.pop(call_id, None)


def _clean(args: Any) -> dict[str, Any]:
    """Return arguments as every reader of JSON takes them.

    Raises:
        BlockedByPlugin: They cannot be.
    """
    try:
        cleaned: dict[str, Any] = plain(dict(args), ())
        orjson.dumps(cleaned)
    except (TypeError, ValueError, RecursionError, InvalidSession):
        raise unfit(hooks.TOOL_PRE) from None
    return cleaned


def lighter(value: Any) -> tuple[Any, dict[str, str]]:
    """Return a server's answer with marks in place of its files, and the files by their marks."""
    files: dict[str, str] = {}

    def light(inner: Any) -> Any:
        match inner:
            case {"type": "image" | "audio", "data": str(data), **rest} if len(data) > LONGEST_BLOB:
                return {**rest, "type": inner["type"], "data": mark(data)}
            case {"blob": str(data), **rest} if len(data) > LONGEST_BLOB:
                return {**light(rest), "blob": mark(data)}
            case dict():
                return {key: each if key == WHOLE else light(each) for key, each in inner.items()}
            case list():
                return [light(each) for each in inner]
        return inner

    def mark(data: str) -> str:
        name = f"file-{len(files)}"
        files[name] = data
        return name

    return light(value), files


def restored(value: Any, files: Mapping[str, str]) -> Any:
    """Return an answer with its files in their places again."""
    match value:
        case {"data": str(name)} | {"blob": str(name)} if name in files:
            key = "data" if "data" in value else "blob"
            return {**{k: restored(v, files) for k, v in value.items() if k != key}, key: files[name]}
        case dict():
            return {key: each if key == WHOLE else restored(each, files) for key, each in value.items()}
        case list():
            return [restored(each, files) for each in value]
    return value
