"""What users have spent, where there is no database: in memory, and in Redis."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from itertools import groupby
from typing import Protocol

from mcp_chat.spent import SPENT, By, Spent, Sum, summed
from mcp_chat.stores.client import Client, execute_many
from mcp_chat.stores.scripts import Scripts

DAYS = 400
"""Days for which it is known what was spent, unless the operator says otherwise."""
FOR_EVER = 3650
DAY = 86_400


class Fence(Protocol):
    """Knows the owners' epochs."""

    def check(self, user: str, epoch: int | None) -> None:
        """Raise `Fenced` if a higher epoch owns the user."""
        ...


class MemoryUsages:
    """All steps of a user, by their ids.

    Args:
        fence: Refuses earlier owners.
        days: How long they are kept.
    """

    def __init__(self, fence: Fence, days: int = DAYS) -> None:
        self._fence = fence
        self._days = days or FOR_EVER
        self._steps: dict[str, dict[str, Spent]] = {}

    async def spend(self, user: str, steps: Sequence[Spent], *, epoch: int) -> None:
        self._fence.check(user, epoch)
        known = self._steps.setdefault(user, {})
        for each in steps:
            known.setdefault(each.id, each)
            self._drop_old(known, each.day)

    def _drop_old(self, known: dict[str, Spent], today: date) -> None:
        """Drop the steps at the front that have had their time: they came in order."""
        while known and (first := next(iter(known.values()))).day <= today - timedelta(days=self._days):
            del known[first.id]

    async def steps(self, user: str, run: str, *, since: date) -> list[Spent]:
        known = self._steps.get(user, {}).values()
        return [each for each in known if each.id.startswith(f"{run}-") and each.day >= since]

    async def sums(self, user: str, *, since: date, until: date, by: By) -> list[Sum]:
        known = self._steps.get(user, {}).values()
        return summed((each for each in known if since <= each.day <= until), by)


class RedisUsages:
    """A hash for each user and day, of steps by their ids.

    Args:
        redis: A client with `decode_responses=True`.
        days: How long a day is kept.
    """

    def __init__(self, redis: Client, scripts: Scripts, days: int = DAYS) -> None:
        self._redis = redis
        self._scripts = scripts
        self._days = days or FOR_EVER

    async def spend(self, user: str, steps: Sequence[Spent], *, epoch: int) -> None:
        for day, some in groupby(steps, lambda each: each.day):
            pairs = [text for each in some for text in (each.id, SPENT.dump_json(each).decode())]
            keys = [_key(user, day), f"active:session:{{{user}}}"]
            await self._scripts.run_fenced("spend", keys, [epoch, self._days * DAY, *pairs])

    async def steps(self, user: str, run: str, *, since: date) -> list[Spent]:
        found = await self._read(user, since, datetime.now(UTC).date() + timedelta(days=1))
        return [each for each in found if each.id.startswith(f"{run}-")]

    async def sums(self, user: str, *, since: date, until: date, by: By) -> list[Sum]:
        return summed(await self._read(user, since, until), by)

    async def _read(self, user: str, since: date, until: date) -> list[Spent]:
        kept = datetime.now(UTC).date() - timedelta(days=self._days)
        days = list(each_day(max(since, kept), until))
        found = await execute_many(self._redis, [("HVALS", _key(user, day)) for day in days])
        for answer in found:
            if isinstance(answer, BaseException):
                raise answer
        return [SPENT.validate_json(text) for texts in found for text in texts or ()]


def each_day(since: date, until: date) -> Iterator[date]:
    """Yield the days from one to another, both among them."""
    day = since
    while day <= until:
        yield day
        day += timedelta(days=1)


def _key(user: str, day: date) -> str:
    return f"chat:usage:{{{user}}}:{day.isoformat()}"
