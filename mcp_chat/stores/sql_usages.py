"""What users have spent, in SQL: a row for each step, written along with its message."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import replace
from datetime import date, timedelta
from functools import cached_property
from typing import Any, TypeVar

import structlog
from sqlalchemy import Integer, Table, case, cast, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from mcp_chat.message import Usage, now
from mcp_chat.spent import By, Spent, Sum
from mcp_chat.stores.base import Addition
from mcp_chat.stores.database import drop_all
from mcp_chat.stores.rows import usage_columns, usage_of
from mcp_chat.stores.tables import chat_usage

log = structlog.get_logger()

T = TypeVar("T")

_of = chat_usage.c
_KEYS = {"day": _of.day, "model": _of.model, "session": _of.session_id}
_MARKS = ("estimated", "unpriced")


class SQLUsages(ABC):
    """What `SQLArchive` does as a store of usages, by the access to the database that it has."""

    _usages_kept: timedelta | None

    @abstractmethod
    def _insert(self, table: Table) -> Any: ...

    @abstractmethod
    async def _write(self, access: Callable[[AsyncConnection], Awaitable[T]]) -> T: ...

    @abstractmethod
    async def _read(self, statement: Any) -> Sequence[Any]: ...

    @abstractmethod
    async def add(self, addition: Addition) -> None:
        """Add messages."""

    async def spend(self, user: str, steps: Sequence[Spent], *, epoch: int) -> None:
        """Count steps."""
        for session_id in dict.fromkeys(each.session_id for each in steps):
            its = tuple(each for each in steps if each.session_id == session_id)
            await self.add(Addition(user=user, session_id=session_id, spent=its, epoch=epoch))

    async def steps(self, user: str, run: str, *, since: date) -> list[Spent]:
        """Return the steps of a turn that were counted since a day."""
        begins = _of.id.startswith(f"{run}-", autoescape=True)
        statement = select(chat_usage).where(_of.user_key == user, _of.day >= since, begins)
        found = [_spent(row) for row in await self._read(statement.order_by(_of.seq))]
        return [each for each in found if each.id.startswith(run)]  # SQLite takes A for a

    async def sums(self, user: str, *, since: date, until: date, by: By) -> list[Sum]:
        """Return what a user has spent from one day to another."""
        return await self._sums(by, _of.user_key == user, _of.day >= since, _of.day <= until)

    async def all_sums(self, *, since: date, until: date, by: By) -> list[Sum]:
        """Return what all users have spent from one day to another."""
        return await self._sums(by, _of.day >= since, _of.day <= until)

    async def _sums(self, by: By, *where: Any) -> list[Sum]:
        key = _KEYS[by]
        counted = [
            func.max(cast(_of[name], Integer)).label(name) if name in _MARKS else _total(_of[name], name)
            for name in usage_columns(Usage())
        ]
        billed = _total(case((_of.own, 0), else_=_of.cost_nanos), "billed")
        more = [billed, _total(_of.calls, "calls"), func.count().label("steps")]
        statement = select(_of.user_key, key.label("its"), *counted, *more).where(*where)
        rows = await self._read(statement.group_by(_of.user_key, key).order_by(_of.user_key, key))
        return [_sum(row) for row in rows]

    async def _drop_old_usages(self) -> None:
        if self._usages_kept is None:
            return
        old = chat_usage.c.day < (now() - self._usages_kept).date()
        if dropped := await drop_all(self._write, chat_usage, old):
            log.info("usages.dropped", steps=dropped)

    # In a transaction that others share

    async def _spend_all(self, connection: AsyncConnection, additions: Sequence[Addition]) -> list[Addition]:
        """Count what additions have cost, and return them with what was not counted before."""
        rows = [_row(each.user, step) for each in additions for step in each.spent]
        if not rows:
            return list(additions)
        counted = {(row.user_key, row.id) for row in await connection.execute(self._add_usages, rows)}
        return [_new(each, counted) for each in additions]

    @cached_property
    def _add_usages(self) -> Any:
        """Made once: to make it takes longer than to run it."""
        return self._insert(chat_usage).on_conflict_do_nothing().returning(_of.user_key, _of.id)


def _new(addition: Addition, counted: Collection[tuple[str, str]]) -> Addition:
    if all((addition.user, step.id) in counted for step in addition.spent):
        return addition
    return replace(
        addition, spent=tuple(step for step in addition.spent if (addition.user, step.id) in counted)
    )


def _total(column: Any, name: str) -> Any:
    return func.sum(column).label(name)


def _row(user: str, step: Spent) -> dict[str, Any]:
    return {
        "user_key": user,
        "id": step.id,
        "day": step.day,
        "session_id": step.session_id,
        "model": step.model,
        **usage_columns(step.usage),
        "calls": step.calls,
        "own": step.own,
    }


def _spent(row: Any) -> Spent:
    return Spent(
        id=row.id,
        day=row.day,
        session_id=row.session_id,
        model=row.model,
        usage=usage_of(row),
        calls=row.calls,
        own=row.own,
    )


def _sum(row: Any) -> Sum:
    """PostgreSQL adds large integers up to decimal numbers."""
    counts = {name: int(getattr(row, name)) for name in usage_columns(Usage())}
    usage = Usage(**{**counts, **{name: bool(counts[name]) for name in _MARKS}})  # type: ignore[arg-type]
    key = row.its.isoformat() if isinstance(row.its, date) else row.its
    return Sum(
        key=key,
        user=row.user_key,
        usage=usage,
        steps=row.steps,
        calls=int(row.calls),
        billed=int(row.billed),
    )
