"""The tools of a user's connections, by the names the model knows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mcp_chat.arguments import Arguments
from mcp_chat.connections import Connection
from mcp_chat.definitions import identity_of
from mcp_chat.results import ToolResult
from mcp_chat.talk import Talk
from mcp_chat.tools import Tool, find
from mcp_chat.verdicts import Verdict

INVALID, UNFIT, UNKNOWN = "invalid_arguments", "unfit_arguments", "unknown_tool"
"""Reasons not to make a call: its arguments are no JSON or do not fit the schema, or there is no tool."""

CHANGED, OFF, BARRED = "changed_tool", "switched_off", "barred_tool"
"""Further ones: its definition is not the one that the user has accepted, they have switched it off, or it is
denied altogether."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why a call is not made.

    Attributes:
        reason: For the audit trail.
        text: For the model.
    """

    reason: str
    text: str


class Toolbox:
    """What the connections offer now; they may come and go while a turn runs.

    Args:
        connections: By their aliases, in order.
    """

    def __init__(self, connections: Mapping[str, Connection]) -> None:
        self.connections = connections
        self._arguments = Arguments()

    @property
    def tools(self) -> tuple[Tool, ...]:
        """All tools that the model may call, server by server."""
        found = self.connections.values()
        return tuple(tool for connection in found for tool in connection.tools if tool.face.model)

    @property
    def edition(self) -> tuple[int, ...]:
        """Others whenever `tools` are others."""
        return tuple(connection.edition for connection in self.connections.values())

    @property
    def left_out(self) -> dict[str, str]:
        """The tools that are not used, and why."""
        found = self.connections.values()
        return {name: why for connection in found for name, why in connection.left_out.items()}

    def tool(self, name: str) -> Tool | None:
        """Return the tool of this name that the model may call."""
        return find(self.tools, name)

    def verdict(self, tool: Tool) -> Verdict:
        """Return what may be done with a tool before its user is asked."""
        connection = self.connections.get(tool.alias)
        return connection.verdict(tool) if connection else "deny"

    def safe(self, name: str) -> bool:
        """Tell whether the operator has declared that a tool may be called twice."""
        tool = find(self.tools, name)
        return tool is not None and tool.safe

    def server_of(self, name: str) -> str:
        """Return the alias of the server that a call of this name goes to, or nothing."""
        tool = find(self.tools, name)
        return tool.alias if tool else ""

    async def refusal(self, name: str, args: Mapping[str, Any]) -> Refusal | None:
        """Return why such a call is not made, or None if it is."""
        tool = find(self.tools, name)
        if tool is None:
            return self._barred(name) or self._unknown(name)
        return await self.unfit(tool, args)

    async def unfit(self, tool: Tool, args: Mapping[str, Any]) -> Refusal | None:
        """Return what is wrong with a call's arguments, or None."""
        problem = await self._arguments.problem(tool, args)
        return Refusal(reason=UNFIT, text=problem) if problem else None

    def _barred(self, name: str) -> Refusal | None:
        """Return why a tool that there is cannot be called."""
        for connection in self.connections.values():
            tool = find(connection.all_tools, name)
            if tool is None or not tool.face.model:
                continue
            if tool.remote_name in connection.held:
                text = f"The server has changed the tool {name!r}. It is held back until the user accepts it."
                return Refusal(reason=CHANGED, text=text)
            if connection.verdict(tool) == "deny":
                return Refusal(reason=BARRED, text=f"The tool {name!r} may not be called here.")
            return Refusal(reason=OFF, text=f"The user has switched the tool {name!r} off.")
        return None

    def _unknown(self, name: str) -> Refusal:
        known = ", ".join(tool.name for tool in self.tools[:20])
        return Refusal(reason=UNKNOWN, text=f"There is no tool {name!r}. There are: {known or 'none'}.")

    async def call(
        self,
        name: str,
        args: Mapping[str, Any],
        talk: Talk,
        *,
        definition: str = "",
        place: str = "",
        by_app: bool = False,
    ) -> ToolResult:
        """Call a tool by its name in the conversation, when nothing speaks against it.

        Args:
            definition: The hash of the only definition that may be called; empty if it may be any.
            place: Which server it may be called at, as `mcp_chat.definitions.identity_of` has it, likewise.
            by_app: An app asks, and not the model.
        """
        for connection in list(self.connections.values()):
            tool = find(connection.tools, name)
            if tool is not None and (tool.face.app if by_app else tool.face.model):
                if definition not in ("", tool.digest) or place not in ("", identity_of(connection.server)):
                    break
                return await connection.call(tool, args, talk)
        return ToolResult(text="This tool is not there any more.", failed=True)

    def for_app(self, alias: str, remote_name: str) -> Tool | None:
        """Return the tool that an app of a server may call by the name which that server gave it."""
        connection = self.connections.get(alias)
        found = connection.tools if connection else ()
        return next((tool for tool in found if tool.remote_name == remote_name and tool.face.app), None)
