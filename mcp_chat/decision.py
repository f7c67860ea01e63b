"""What was decided about a call, and what the audit trail says of it: all but the arguments' values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from mcp_chat.deed import Deed, digest
from mcp_chat.desk import name_of
from mcp_chat.questions import Answer, Choice, End, Question

Decided = Choice | Literal["expired", "cancelled"]
"""How a question about a call can end: nobody may have answered it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What came of asking.

    Attributes:
        arguments: What the call may be made with, or might have been.
        edited: Whether they are the user's.
    """

    decision: Decided
    arguments: Mapping[str, Any]
    edited: bool = False


def decision_of(question: Question, answer: Answer | None, how: End) -> Decision:
    """Return how a question about a call has ended."""
    content = answer.content if answer else None
    if not content:
        return Decision(decision="expired" if how == "expired" else "cancelled", arguments=question.arguments)
    edited = content.get("arguments")
    return Decision(
        decision=content["decision"],
        arguments=question.arguments if edited is None else edited,
        edited=edited is not None,
    )


def of_decision(question: Question, decided: Decision) -> Deed:
    """Return the deed of a decision: whoever notes it, it stands in the trail once."""
    return Deed(
        action="approve",
        decision="allowed" if decided.decision in ("once", "session", "always") else "refused",
        by="policy" if decided.decision in ("expired", "cancelled") else "user",
        id=name_of("approve", question.id),
        session_id=question.session_id,
        turn=question.turn,
        server=question.server,
        tool=question.tool,
        arguments=digest(decided.arguments),
        outcome=f"{decided.decision}_edited" if decided.edited else decided.decision,
    )
