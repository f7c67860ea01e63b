"""What was done for a user beyond this process, or refused: the line of the audit trail."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

import orjson

from mcp_chat.config import UserConfig
from mcp_chat.message import Message, ToolCall, new_id, now
from mcp_chat.urls import origin_of

Action = Literal["connect", "reconnect", "disconnect", "call", "app_call", "answer", "approve", "block"]
Decision = Literal["allowed", "refused"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Deed:
    """Who did what, where, when, and how it went; no secret, no address's path and no text of anybody's.

    Attributes:
        id: Names it, so that it stands in the trail once.
        server: The alias of an MCP server, or `model`; and the origin if it is the user's own.
        arguments: A hash of a call's exact arguments.
        decision: Whether it was allowed to happen.
        by: Who has allowed it: `policy`, a `user`, or a `grant` that they have given before.
        outcome: How it went: `succeeded`, `failed`, `unknown`, `stopped`, or an error's code.
        ms: How long it took, in milliseconds.
    """

    action: Action
    decision: Decision = "allowed"
    by: str = "policy"
    id: str = field(default_factory=new_id)
    session_id: str = ""
    turn: str = ""
    server: str = ""
    tool: str = ""
    arguments: str = ""
    outcome: str = ""
    ms: int = 0
    at: datetime = field(default_factory=now)


LOGGED = {
    "action": "action",
    "decision": "decision",
    "by": "by",
    "session": "session_id",
    "turn": "turn",
    "server": "server",
    "tool": "tool",
    "arguments": "arguments",
    "outcome": "outcome",
    "ms": "ms",
}

NAMELESS = frozenset({"invalid_arguments", "unknown_tool"})
"""Reasons for which a call was not made that may have no tool: what the model calls one is its own text."""

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")


def digest(arguments: Mapping[str, Any]) -> str:
    """Return a hash of a call's arguments: equal for equal ones, and nothing is read from it."""
    text = orjson.dumps(arguments, option=orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS)
    return hashlib.sha256(text).hexdigest()


def places_of(config: UserConfig) -> list[str]:
    """Return where a configuration leads: its servers, and a model at an address of the user's own."""
    places = [(server.alias, None if server.operator else server.url) for server in config.servers]
    if config.model.base_url and not config.model.operator:
        places.append(("model", config.model.base_url))
    return [f"{alias} {_told(url)}" if url else alias for alias, url in places]


def _told(url: str) -> str:
    try:
        return origin_of(url)
    except ValueError:
        return "?"


def of_call(
    call: ToolCall, result: Message, *, run: str, turn: str, session_id: str, refused: str, by: str = "policy"
) -> Deed:
    """Return the deed of a tool call by its result.

    Args:
        run: Begins the ids of the turn's messages: whoever runs the turn gives the same deed the same id.
        refused: Why it was not made.
        by: Who has said so.
    """
    named = refused not in NAMELESS and _NAME.match(call.name)
    return Deed(
        action="call",
        decision="refused" if refused else "allowed",
        by=by,
        id=hashlib.sha256(f"{run} {call.id}".encode()).hexdigest()[:32],
        session_id=session_id,
        turn=turn,
        server=call.name.partition("__")[0] if named else "",
        tool=call.name if named else "",
        arguments=digest(call.args),
        outcome=refused or _outcome(result),
        ms=int(result.metadata.get("elapsed_ms", 0)),
    )


def of_rule(server: str, tool: str, verdict: str) -> Deed:
    """Return the deed of a user who decides about all calls of a tool."""
    decision: Decision = "refused" if verdict == "deny" else "allowed"
    named = tool if _NAME.match(tool) else ""
    return Deed(action="approve", decision=decision, by="user", server=server, tool=named, outcome=verdict)


def of_block(block: Mapping[str, str], *, turn: str, session_id: str) -> Deed:
    """Return the deed of a plugin that has blocked a turn: its name and its code, as far as they are names.

    Args:
        block: As the history keeps it; see `mcp_chat.plugins.blocks.noted`.
    """
    plugin, code = block["plugin"], block["code"]
    return Deed(
        action="block",
        decision="refused",
        session_id=session_id,
        turn=turn,
        server="plugin",
        tool=plugin if _NAME.match(plugin) else "",
        outcome=code if _NAME.match(code) else "blocked",
    )


def _outcome(result: Message) -> str:
    if outcome := result.metadata.get("outcome"):
        return str(outcome)
    for mark in ("blocked", "stopped", "interrupted"):
        if result.metadata.get(mark):
            return mark
    return "succeeded" if result.status == "success" else "failed"


def said_of(deed: Deed) -> dict[str, Any]:
    """Return what a log line says of a deed: all that is not empty."""
    return {said: value for said, name in LOGGED.items() if (value := getattr(deed, name))}
