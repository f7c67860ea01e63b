"""The question whether an app's call may be made: it belongs to no turn, and its user may be elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any

from mcp_chat.toolbox import UNKNOWN, Refusal, Toolbox
from mcp_chat.tools import Tool, find
from mcp_chat.verdicts import Verdict


class AppAsker:
    """Asks for an app; see `mcp_chat.consent.Asker`."""

    session_id = ""
    turn_id = ""
    run_id = "app"

    def away(self, *, resumable: bool) -> AbstractAsyncContextManager[None]:
        """Wait; nothing has to be given back meanwhile."""
        return nullcontext()


class AppBox:
    """The tools that apps of one server may call; see `mcp_chat.consent.Box`.

    Args:
        toolbox: The user's.
        alias: The server's.
    """

    def __init__(self, toolbox: Toolbox, alias: str) -> None:
        self.connections = toolbox.connections
        self._toolbox = toolbox
        self._alias = alias

    def tool(self, name: str) -> Tool | None:
        """Return the tool of this name in the conversation."""
        connection = self.connections.get(self._alias)
        tool = find(connection.tools, name) if connection else None
        return tool if tool and tool.face.app else None

    def verdict(self, tool: Tool) -> Verdict:
        """Return what may be done with a tool before its user is asked."""
        return self._toolbox.verdict(tool)

    async def refusal(self, name: str, args: Mapping[str, Any]) -> Refusal | None:
        """Return why such a call is not made, or None if it is."""
        tool = self.tool(name)
        if tool is None:
            return Refusal(reason=UNKNOWN, text="The app may not call this tool any more.")
        return await self._toolbox.unfit(tool, args)
