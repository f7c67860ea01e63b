"""What was spent: one step of a turn, or several together."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, date
from typing import Any, Literal

from pydantic import TypeAdapter

from mcp_chat.message import Message, Usage

By = Literal["day", "model", "session"]
"""What sums can be told apart by."""

USAGE = "usage"
"""In the metadata of a model's message: what it has cost."""

DOLLAR = 1_000_000_000
"""Billionths of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """A call of a model, and the tool calls that it asked for.

    Attributes:
        id: That of the message which came of it, or what else names it: it counts once.
        day: In UTC.
        model: `provider:model`.
        calls: Tool calls that were let through.
        own: Whether a key or a server of the user's own was used: then the operator does not pay.
    """

    id: str
    day: date
    session_id: str
    model: str
    usage: Usage = field(default_factory=Usage)
    calls: int = 0
    own: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Sum:
    """Several steps together.

    Attributes:
        key: The day, the model or the session that they have in common.
        user: Whose they are, where several users' are told.
        billed: Billionths of a dollar of their cost that the operator pays.
    """

    key: str = ""
    user: str = ""
    usage: Usage = field(default_factory=Usage)
    steps: int = 0
    calls: int = 0
    billed: int = 0

    def __add__(self, other: Sum) -> Sum:
        return replace(
            self,
            usage=self.usage + other.usage,
            steps=self.steps + other.steps,
            calls=self.calls + other.calls,
            billed=self.billed + other.billed,
        )


SPENT: TypeAdapter[Spent] = TypeAdapter(Spent)
"""Steps as JSON."""

_USAGE: TypeAdapter[Usage] = TypeAdapter(Usage)


def sum_of(spent: Spent, key: str = "") -> Sum:
    """Return a step as a sum of one."""
    billed = 0 if spent.own else spent.usage.cost_nanos
    return Sum(key=key, usage=spent.usage, steps=1, calls=spent.calls, billed=billed)


def total(sums: Iterable[Sum]) -> Sum:
    """Return all of them together."""
    return sum(sums, Sum())


def key_of(spent: Spent, by: By) -> str:
    """Return what a step has in common with others."""
    match by:
        case "day":
            return spent.day.isoformat()
        case "model":
            return spent.model
        case "session":
            return spent.session_id


def summed(steps: Iterable[Spent], by: By) -> list[Sum]:
    """Return the sums of steps, in the order of their keys."""
    found: dict[str, Sum] = {}
    for each in steps:
        key = key_of(each, by)
        found[key] = found.get(key, Sum(key=key)) + sum_of(each)
    return [found[key] for key in sorted(found)]


def noted(message: Message, spent: Spent) -> Message:
    """Return a message that says what it has cost."""
    known = {name: value for name, value in asdict(spent.usage).items() if value}
    paid = {"model": spent.model, **({"own": True} if spent.own else {})}
    return replace(message, metadata={**message.metadata, USAGE: {**known, **paid}})


def spent_on(message: Message, session_id: str) -> Spent:
    """Return what a message of ours says that it has cost, as the step that it is."""
    paid = message.metadata.get(USAGE) or {}
    return Spent(
        id=message.id,
        day=message.created_at.astimezone(UTC).date(),
        session_id=session_id,
        model=str(paid.get("model", "")),
        usage=usage_in(message),
        calls=len(message.tool_calls),
        own=paid.get("own") is True,
    )


def usage_in(message: Message) -> Usage:
    """Return what a message says that it has cost; one that was brought from elsewhere may say anything."""
    try:
        return _USAGE.validate_python(message.metadata.get(USAGE) or {})
    except ValueError:
        return Usage()


def dollars(nanos: int) -> float:
    """Return billionths of a dollar as dollars."""
    return nanos / DOLLAR


def cost(usage: Usage) -> float | None:
    """Return what was paid in dollars; None if nothing of it is known."""
    return None if usage.unpriced and not usage.cost_nanos else dollars(usage.cost_nanos)


def told(usage: Usage) -> dict[str, Any]:
    """Return what was used, as all answers have it."""
    return {
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "cached_tokens": usage.cached_tokens,
        "reasoning_tokens": usage.reasoning_tokens,
        "cost": cost(usage),
        "estimated": usage.estimated,
    }
