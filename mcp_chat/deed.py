"""What was done for a user beyond this process, or refused: the line of the audit trail."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal
from urllib.parse import urlsplit

import orjson

from mcp_chat.message import new_id, now

Action = Literal["connect", "disconnect", "call"]
Decision = Literal["allowed", "refused"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Deed:
    """Who did what, where, when, and how it went; no secret, no address's path and no text of anybody's.

    Attributes:
        id: Names it, so that it stands in the trail once.
        server: The alias of an MCP server, and its origin if it is the user's own.
        arguments: A hash of a call's exact arguments.
        decision: Whether it was allowed to happen.
        by: Who has allowed it: `policy`, or later a person.
        outcome: How it went: `succeeded`, `failed`, `unknown`, or an error's code.
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


LOGGED = ("action", "decision", "by", "server", "tool", "arguments", "outcome", "ms")


def digest(arguments: Mapping[str, Any]) -> str:
    """Return a hash of a call's arguments: equal for equal ones, and nothing is read from it."""
    text = orjson.dumps(arguments, option=orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS)
    return hashlib.sha256(text).hexdigest()


def origin_of(url: str) -> str:
    """Return scheme, host and port of a URL: its path and query may be secret."""
    parts = urlsplit(url)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    return f"{parts.scheme}://{host}" + (f":{parts.port}" if parts.port else "")


def said_of(deed: Deed) -> dict[str, Any]:
    """Return what a log line says of a deed: all that is not empty."""
    return {name: value for name in LOGGED if (value := getattr(deed, name))}
