"""What a user has spent, and what is left for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any, get_args

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from mcp_chat.allowance import Clock, Limits, left, next_day, tokens, used_on
from mcp_chat.api.identity import Identity, require_user
from mcp_chat.exceptions import InvalidRequest
from mcp_chat.message import now
from mcp_chat.spent import By, Sum, dollars, told, total
from mcp_chat.stores.base import Usages

MONTH = 30
"""Days that are told of if nobody says since when."""
LONGEST = 1_000
"""Days that are told of at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spending:
    """The endpoint and what it works with."""

    identity: Identity
    usages: Usages
    limits: Limits
    clock: Clock = now

    async def usage(self, request: Request) -> Response:
        """Tell what the user has spent, by day, model or session, and what is left of today."""
        user = await require_user(request, self.identity, request.query_params.get("user_id"))
        moment = self.clock().astimezone(UTC)
        since, until, by = asked(request.query_params, moment.date())
        sums = await self.usages.sums(user.key, since=since, until=until, by=by)
        today = await used_on(self.usages, user.key, moment.date())
        begin = moment.date().replace(day=1)
        month = await self.usages.sums(user.key, since=begin, until=moment.date(), by="day")
        return JSONResponse(
            {
                "user_id": user.id,
                "since": since.isoformat(),
                "until": until.isoformat(),
                "by": by,
                "usage": [{by: each.key, **shown(each)} for each in sums],
                "total": shown(total(sums)),
                "today": shown(today),
                "month": shown(total(month)),
                "limits": standing(self.limits, today, moment),
            }
        )


def asked(query: Mapping[str, str], today: date) -> tuple[date, date, By]:
    """Return which days are asked for, and what they are told apart by.

    Raises:
        InvalidRequest: They are no days, too many, or it is nothing that can be told apart.
    """
    by: By | None = next((each for each in get_args(By) if each == query.get("by", "day")), None)
    if by is None:
        raise InvalidRequest(f"by is one of {', '.join(get_args(By))}.")
    until = _day(query.get("until"), today)
    since = _day(query.get("since"), max(until, date(1970, 1, 1) + timedelta(MONTH)) - timedelta(MONTH - 1))
    if not 0 <= (until - since).days < LONGEST:
        raise InvalidRequest(f"since is a day before until, at most {LONGEST} days.")
    return since, until, by


def _day(text: str | None, usual: date) -> date:
    try:
        return date.fromisoformat(text) if text else usual
    except ValueError:
        raise InvalidRequest("since and until are days, such as 2026-01-31.") from None


def shown(used: Sum) -> dict[str, Any]:
    """Return a sum as it is told."""
    return {
        **told(used.usage),
        "unpriced": used.usage.unpriced,
        "billed": dollars(used.billed),
        "steps": used.steps,
        "calls": used.calls,
    }


def standing(limits: Limits, today: Sum, moment: datetime) -> dict[str, Any]:
    """Return the limits that there are, what is left of those of the day, and when they begin anew."""
    daily = {
        "day_tokens": (limits.day_tokens, tokens(today)),
        "day_calls": (limits.day_calls, today.calls),
    }
    found: dict[str, Any] = {
        name: {"limit": most, "used": used, "left": left(most, used)}
        for name, (most, used) in daily.items()
        if most
    }
    if limits.day_nanos:
        rest = left(limits.day_nanos, today.billed) or 0
        found["day_cost"] = {
            "limit": dollars(limits.day_nanos),
            "used": dollars(today.billed),
            "left": dollars(rest),
        }
    turn = {"turn_tokens": limits.turn_tokens, "turn_calls": limits.turn_calls}
    found |= {name: {"limit": most} for name, most in turn.items() if most}
    if limits.turn_nanos:
        found["turn_cost"] = {"limit": dollars(limits.turn_nanos)}
    again = next_day(moment).isoformat().replace("+00:00", "Z")
    return {**found, "resets_at": again}
