"""Between our values and the payloads of ContextForge's framework; the bridge alone imports this."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from cpex.framework import PluginPayload, PluginResult, get_hook_registry
from cpex.framework.utils import coerce_nested
from pydantic import BaseModel, Field

from mcp_chat.plugins import hooks


class ChatConnectPayload(PluginPayload):
    """A user's connect to MCP servers, before it and when it is done.

    Attributes:
        servers: Each with `alias`, `url` and `operator`, which says whose the server is.
        model: `provider:model`.
        tools: Names of the tools that were found; none before.
    """

    session_id: str = ""
    servers: list[dict[str, Any]] = Field(default_factory=list)
    model: str = ""
    tools: list[str] = Field(default_factory=list)


class ChatDisconnectPayload(PluginPayload):
    """A user's disconnect, before it."""

    session_id: str = ""


class ChatEventPayload(PluginPayload):
    """Something that readers of a user's log were told.

    Attributes:
        entry_id: Its place in the log.
        command_id: The command that caused it; a turn's is the turn's id.
        event: As JSON; its `type` says what it is.
    """

    entry_id: str
    command_id: str
    event: dict[str, Any]


class ChatExportPayload(PluginPayload):
    """A conversation that its user carries away, before it leaves.

    Attributes:
        format: `json` or `markdown`.
        content: The whole file.
    """

    session_id: str
    format: str
    content: str


_OURS: Mapping[str, type[PluginPayload]] = {
    hooks.CHAT_PRE_CONNECT: ChatConnectPayload,
    hooks.CHAT_POST_CONNECT: ChatConnectPayload,
    hooks.CHAT_PRE_DISCONNECT: ChatDisconnectPayload,
    hooks.CHAT_EVENT: ChatEventPayload,
    hooks.CHAT_EXPORT: ChatExportPayload,
}


REGISTERING = ("cpex.framework.hooks.message", "cpex.framework.hooks.identity")
"""Modules whose hooks are there when they are imported, which the framework leaves to its host."""


def register() -> None:
    """Tell the framework of the hooks that are ours; plugins in other processes get their payloads, too."""
    for module in REGISTERING:
        import_module(module)
    registry = get_hook_registry()
    for hook, payload in _OURS.items():
        if not registry.is_registered(hook):
            registry.register_hook(hook, payload, PluginResult[payload])


def made(hook: str, fields: Mapping[str, Any]) -> PluginPayload:
    """Return a hook's payload with these fields."""
    if hook == hooks.RESOURCE_POST:  # its one free field, in which plugins look for attributes
        fields = {**fields, "content": coerce_nested(fields["content"])}
    return get_hook_registry().get_payload_type(hook)(**fields)


def changed(hook: str, before: PluginPayload, after: Any) -> dict[str, Any]:
    """Return the fields that plugins have changed, as plain values.

    Raises:
        ValueError: What they made of it is no payload of this hook.
    """
    if after is None or after is before:
        return {}
    if hook == hooks.IDENTITY:  # what comes back is of another kind
        return {"identity": plainly(after)}
    if not isinstance(after, type(before)):
        raise ValueError(hook)
    named = {name: (getattr(before, name), getattr(after, name)) for name in hooks.WRITABLE[hook]}
    plain = {name: (plainly(old), plainly(new)) for name, (old, new) in named.items()}
    return {name: new for name, (old, new) in plain.items() if old != new}


def plainly(value: Any) -> Any:
    """Return a value as dictionaries, lists and what JSON has besides, whatever plugins made of it."""
    match value:
        case BaseModel():
            return plainly(
                {name: getattr(value, name) for name in (*type(value).model_fields, *_extra(value))}
            )
        case Mapping():
            return {str(key): plainly(each) for key, each in value.items()}
        case list() | tuple() | set() | frozenset():
            return [plainly(each) for each in value]
        case str():
            return str(getattr(value, "value", value))
        case int() | float() | bool() | bytes() | None:
            return value
        case _ if hasattr(value, "get_secret_value"):
            return value.get_secret_value()
        case _ if hasattr(value, "__dict__"):
            return plainly(vars(value))
        case _:
            raise ValueError(type(value).__name__)


def _extra(value: BaseModel) -> tuple[str, ...]:
    return tuple(value.model_extra or ())
