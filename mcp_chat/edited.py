"""Arguments that a user has changed: what plugins would make of them, nobody has approved."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any, Final

from mcp_chat.consent import Leave
from mcp_chat.exceptions import BlockedByPlugin
from mcp_chat.toolbox import Refusal

CHANGED_AGAIN: Final = (
    "The user has changed the arguments so that a plugin would change them again, so the call was not made."
)

Seen = Callable[[Mapping[str, Any]], Awaitable[Mapping[str, Any]]]
"""Has plugins look at a call's arguments; returns those that they leave, or raises `BlockedByPlugin`."""


async def seen_again(leave: Leave, seen: Seen) -> Leave:
    """Return a call's leave, refused if its arguments were changed so that plugins would change them again.

    Raises:
        BlockedByPlugin: They would not let it be made.
    """
    if not leave.edited or leave.refusal or await seen(leave.args) == leave.args:
        return leave
    return replace(leave, refusal=Refusal(reason=BlockedByPlugin.code, text=CHANGED_AGAIN))


def refused(leave: Leave, blocked: BlockedByPlugin) -> Leave:
    """Return the leave of a call that plugins have blocked."""
    return replace(leave, refusal=Refusal(reason=blocked.code, text=str(blocked)))
