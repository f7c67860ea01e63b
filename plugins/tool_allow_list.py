"""Lets users call the tools that a rule names for them, and no others.

    - name: ToolAllowList
      kind: plugins.tool_allow_list.ToolAllowList
      hooks: [tool_pre_invoke]
      config:
        rules:
          - {tools: ["search_*", "add"]}                                            # everybody, on any server
          - {users: ["*@ops.example.org"], servers: [deploy], tools: ["*"]}

Each pattern is a shell's: `*`, `?`, `[abc]`. A call needs one rule of which each part fits.
"""

from __future__ import annotations

from fnmatch import fnmatchcase

from cpex.framework import (
    Plugin,
    PluginConfig,
    PluginContext,
    PluginViolation,
    ToolPreInvokePayload,
    ToolPreInvokeResult,
)
from pydantic import BaseModel, ConfigDict


class Rule(BaseModel):
    """Who may call what, and where.

    Attributes:
        users: Patterns of ids, as the login gives them.
        servers: Patterns of servers' ids or aliases.
        tools: Patterns of tools' names.
    """

    model_config = ConfigDict(extra="forbid")

    users: list[str] = ["*"]
    servers: list[str] = ["*"]
    tools: list[str]

    def allows(self, user: str, server: str, tool: str) -> bool:
        """Return whether the rule names all three."""
        parts = ((self.users, user), (self.servers, server), (self.tools, tool))
        return all(any(fnmatchcase(value, each) for each in patterns) for patterns, value in parts)


class ToolAllowList(Plugin):
    """Blocks calls that no rule allows."""

    def __init__(self, config: PluginConfig) -> None:
        super().__init__(config)
        self._rules = [Rule.model_validate(each) for each in (config.config or {})["rules"]]

    async def tool_pre_invoke(
        self, payload: ToolPreInvokePayload, context: PluginContext
    ) -> ToolPreInvokeResult:
        """Look for a rule that fits."""
        known = context.global_context
        user, server = str(known.user or ""), known.server_id or ""
        if any(rule.allows(user, server, payload.name) for rule in self._rules):
            return ToolPreInvokeResult()
        violation = PluginViolation(
            reason=f"You may not call {payload.name}.",
            description="No rule of the allow list names this user, server and tool.",
            code="TOOL_NOT_ALLOWED",
        )
        return ToolPreInvokeResult(continue_processing=False, violation=violation)
