"""Ends a user's day when it is spent, by kinds of users; `MCP_CHAT_DAY_TOKENS` and its like are for all.

    - name: DayBudget
      kind: plugins.day_budget.DayBudget
      hooks: [agent_pre_invoke]
      config:
        budgets:                                           # the first whose `users` fits counts
          - {users: ["*@example.org"], dollars: 5, calls: 200}
          - {users: ["guest-*"], tokens: 20000}

What was used since midnight, UTC, is told by the chat, as `GET /llmchat/usage` tells it: by all workers, and
across restarts.
"""

from __future__ import annotations

from fnmatch import fnmatchcase

from cpex.framework import (
    AgentPreInvokePayload,
    AgentPreInvokeResult,
    Plugin,
    PluginConfig,
    PluginContext,
    PluginViolation,
)
from pydantic import BaseModel, ConfigDict


class Budget(BaseModel):
    """What a user may use in a day; 0 is no limit.

    Attributes:
        users: Patterns of ids, as the login gives them.
        tokens: In both directions.
        dollars: That the operator pays.
        calls: Of tools.
    """

    model_config = ConfigDict(extra="forbid")

    users: list[str] = ["*"]
    tokens: int = 0
    dollars: float = 0
    calls: int = 0

    def fits(self, user: str) -> bool:
        """Return whether it is this user's."""
        return any(fnmatchcase(user, each) for each in self.users)

    def spent(self, used: dict[str, float]) -> str:
        """Return what nothing is left of, or nothing."""
        limits = {"tokens": self.tokens, "dollars": self.dollars, "calls": self.calls}
        return next((name for name, most in limits.items() if most and used[name] >= most), "")


class DayBudget(Plugin):
    """Blocks turns of users who have used their day up."""

    def __init__(self, config: PluginConfig) -> None:
        super().__init__(config)
        self._budgets = [Budget.model_validate(each) for each in (config.config or {})["budgets"]]

    async def agent_pre_invoke(
        self, payload: AgentPreInvokePayload, context: PluginContext
    ) -> AgentPreInvokeResult:
        """Compare what was used today with what may be."""
        known = context.global_context
        user, used = str(known.user or ""), known.metadata["chat"]["today"]
        budget = next((each for each in self._budgets if each.fits(user)), None)
        if budget is None or not (name := budget.spent(used)):
            return AgentPreInvokeResult()
        violation = PluginViolation(
            reason=f"Your {name} of today are used up. You can go on after midnight UTC.",
            description=f"{used[name]} of {getattr(budget, name)} {name} used.",
            code="DAY_SPENT",
        )
        return AgentPreInvokeResult(continue_processing=False, violation=violation)
