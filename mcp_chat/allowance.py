"""What a user may use in a turn and in a day, and what they have used of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

import anyio

from mcp_chat.exceptions import LimitReached, Unpriced
from mcp_chat.message import now
from mcp_chat.metrics import Metrics
from mcp_chat.prices import Bill
from mcp_chat.spent import DOLLAR, Spent, Sum, dollars, sum_of, total
from mcp_chat.stores.base import Usages

Clock = Callable[[], datetime]

LEAST = 16
"""Tokens that a model must be able to say: with fewer some providers refuse to be asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What may be used; 0 is no limit.

    Attributes:
        turn_nanos: Billionths of a dollar, of what the operator pays.
        unpriced: Models without a known price may be used although money is limited.
        watched: What is used in a day is asked for, also where it is not limited.
    """

    turn_tokens: int = 0
    turn_nanos: int = 0
    turn_calls: int = 0
    day_tokens: int = 0
    day_nanos: int = 0
    day_calls: int = 0
    unpriced: bool = False
    watched: bool = False

    @property
    def daily(self) -> bool:
        """Whether anything is limited for a day."""
        return bool(self.day_tokens or self.day_nanos or self.day_calls)

    @property
    def kept(self) -> bool:
        """Whether it must be known what was used in a day."""
        return self.daily or self.watched

    @property
    def counted(self) -> bool:
        """Whether tokens or money are limited, so that they are estimated before a model is asked."""
        return bool(self.turn_tokens or self.turn_nanos or self.day_tokens or self.day_nanos)


def left(limit: int, used: int) -> int | None:
    """Return what is left of a limit; None if there is none."""
    return max(0, limit - used) if limit else None


def tokens(used: Sum) -> int:
    """Return the tokens of a sum, in both directions."""
    return used.usage.input_tokens + used.usage.output_tokens


def next_day(moment: datetime) -> datetime:
    """Return the midnight, in UTC, at which daily limits begin anew."""
    day = moment.astimezone(UTC).date() + timedelta(days=1)
    return datetime(day.year, day.month, day.day, tzinfo=UTC)


def sentence(limits: Limits, limit: str) -> str:
    """Return what a user is told of a limit that is reached."""
    what = {
        "turn_tokens": f"the {limits.turn_tokens:,} tokens that one answer may take",
        "turn_cost": f"the ${dollars(limits.turn_nanos):.10g} that one answer may cost",
        "turn_calls": f"the {limits.turn_calls:,} tool calls that one answer may take",
        "day_tokens": f"your {limits.day_tokens:,} tokens of today",
        "day_cost": f"your ${dollars(limits.day_nanos):.10g} of today",
        "day_calls": f"your {limits.day_calls:,} tool calls of today",
    }[limit]
    if limit.startswith("turn"):
        return f"This would take more than {what}. Ask for less at once."
    return f"This would take more than what is left of {what}. You can go on after midnight UTC."


def reached(limits: Limits, limit: str, moment: datetime) -> LimitReached:
    """Return the error for a limit that is reached."""
    wait = (next_day(moment) - moment).total_seconds() if limit.startswith("day") else None
    return LimitReached(sentence(limits, limit), limit=limit, retry_after=wait)


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """What one more step may take: the limits with what is left of each, the least of them counts.

    Attributes:
        tokens: Name of the limit and tokens that are left.
        nanos: Name of the limit and money that is left.
    """

    tokens: tuple[tuple[str, int], ...]
    nanos: tuple[tuple[str, int], ...]

    def said(self, read: int, bill: Bill) -> tuple[int | None, str]:
        """Return how much the model may say, None for any length, and the limit that says so.

        Args:
            read: Tokens that it is about to read.
        """
        able = [(amount - read, name) for name, amount in self.tokens]
        able += [(bill.tokens_for(amount, read), name) for name, amount in self.nanos]
        return min(able) if able else (None, "")

    def spent(self) -> str:
        """Return the name of a limit of which nothing is left, or nothing."""
        return next((name for name, amount in (*self.tokens, *self.nanos) if amount <= 0), "")


def room(limits: Limits, turn: Sum, day: Sum, *, own: bool) -> Room:
    """Return what one more step may take.

    Args:
        own: The user pays: money is not limited.
    """
    of_tokens = (
        ("turn_tokens", left(limits.turn_tokens, tokens(turn))),
        ("day_tokens", left(limits.day_tokens, tokens(day))),
    )
    of_money = (
        ("turn_cost", left(limits.turn_nanos, turn.billed)),
        ("day_cost", left(limits.day_nanos, day.billed)),
    )
    return Room(
        tokens=tuple((name, amount) for name, amount in of_tokens if amount is not None),
        nanos=() if own else tuple((name, amount) for name, amount in of_money if amount is not None),
    )


class Allowance:
    """What one user has used today, as their owner counts it.

    The store has it all; here it is read once. Nobody but the owner writes it, so what is added here is
    what is there, and turns that run side by side see each other's.

    Args:
        user: Whose.
        usages: Where it is counted for good.
        limits: What may be used.
        metrics: Counts it for the operator.
        clock: Tells the time.
    """

    def __init__(
        self, user: str, usages: Usages, limits: Limits, metrics: Metrics, clock: Clock = now
    ) -> None:
        self.limits = limits
        self.clock = clock
        self._user = user
        self._usages = usages
        self._metrics = metrics
        self._reading = anyio.Lock()
        self._day: date | None = None
        self._used = Sum()

    @property
    def today(self) -> date:
        """The day, in UTC."""
        return self.clock().astimezone(UTC).date()

    async def read(self) -> None:
        """Read what was used today, before anything is added; nothing if nobody wants to know.

        Raises:
            StoreUnavailable: It cannot be read.
        """
        if self._day is not None or not self.limits.kept:
            return
        async with self._reading:
            if self._day is None:
                today = self.today
                self._used = await used_on(self._usages, self._user, today)
                self._day = today

    def used(self) -> Sum:
        """Return what was used today."""
        if self._day != (today := self.today):
            self._day, self._used = today, Sum()  # nobody else has written since it was read
        return self._used

    def add(self, spent: Spent) -> None:
        """Count a step that is recorded."""
        self._metrics.spent("own" if spent.own else spent.model, spent.usage)
        if self.limits.kept and spent.day == self.today:
            self._used = self.used() + sum_of(spent)

    def reached(self, limit: str) -> LimitReached:
        """Return the error for a limit that is reached."""
        return reached(self.limits, limit, self.clock())

    def check_price(self, bill: Bill) -> None:
        """See that money can be counted where it is limited.

        Raises:
            Unpriced: The model has no known price.
        """
        limits = self.limits
        if (limits.turn_nanos or limits.day_nanos) and not (limits.unpriced or bill.own or bill.known):
            raise Unpriced


async def used_on(usages: Usages, user: str, day: date) -> Sum:
    """Return what a user has used on a day."""
    return total(await usages.sums(user, since=day, until=day, by="day"))


async def check_day(usages: Usages, limits: Limits, user: str, *, own: bool, clock: Clock = now) -> None:
    """See that something is left of a user's day, on a worker that need not be their owner.

    Raises:
        LimitReached: Nothing is.
    """
    if not limits.daily:
        return
    moment = clock()
    day = await used_on(usages, user, moment.astimezone(UTC).date())
    if limit := room(limits, Sum(), day, own=own).spent():
        raise reached(limits, limit, moment)


def nanos(usd: float) -> int:
    """Return dollars as billionths of one."""
    return round(usd * DOLLAR)
