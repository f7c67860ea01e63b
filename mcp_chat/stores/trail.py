"""The audit trail in SQL: what was done for whom, for as long as the operator wants to know."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import fields
from datetime import datetime, timedelta
from typing import Any, TypeVar

import structlog
from sqlalchemy import Table, select
from sqlalchemy.ext.asyncio import AsyncConnection

from mcp_chat.deed import Deed
from mcp_chat.message import now
from mcp_chat.stores.base import Addition, Noted
from mcp_chat.stores.database import drop_all
from mcp_chat.stores.rows import utc
from mcp_chat.stores.tables import chat_deed

log = structlog.get_logger()

T = TypeVar("T")

NAMES = tuple(each.name for each in fields(Deed))


class SQLTrail(ABC):
    """What `SQLArchive` does as a trail, by the access to the database that it has."""

    _deeds_kept: timedelta | None

    @abstractmethod
    def _insert(self, table: Table) -> Any: ...

    @abstractmethod
    async def _write(self, access: Callable[[AsyncConnection], Awaitable[T]]) -> T: ...

    @abstractmethod
    async def _read(self, statement: Any) -> Sequence[Any]: ...

    async def note(self, user: str, deeds: Sequence[Deed]) -> None:
        """Put deeds into the trail, each once by its id."""
        statement = self._insert(chat_deed).on_conflict_do_nothing()

        async def add(connection: AsyncConnection) -> None:
            await connection.execute(statement, [_row(user, deed) for deed in deeds])

        await self._write(add)

    async def deeds(
        self,
        user: str | None,
        *,
        limit: int,
        before: int | None = None,
        action: str = "",
        since: datetime | None = None,
    ) -> list[Noted]:
        """Return the last deeds of a user, or of all, the latest first."""
        of = chat_deed.c
        statement = select(chat_deed).order_by(of.seq.desc()).limit(limit)
        if user is not None:
            statement = statement.where(of.user_key == user)
        if before is not None:
            statement = statement.where(of.seq < before)
        if action:
            statement = statement.where(of.action == action)
        if since is not None:
            statement = statement.where(of.at >= utc(since))
        return [_noted(row) for row in await self._read(statement)]

    async def _drop_old_deeds(self) -> None:
        if self._deeds_kept is None:
            return
        old = chat_deed.c.at < now() - self._deeds_kept
        if dropped := await drop_all(self._write, chat_deed, old):
            log.info("deeds.dropped", deeds=dropped)


def deed_rows(addition: Addition) -> list[dict[str, Any]]:
    """Return the rows of an addition's deeds."""
    return [_row(addition.user, deed) for deed in addition.deeds]


def _row(user: str, deed: Deed) -> dict[str, Any]:
    return {"user_key": user, **{name: getattr(deed, name) for name in NAMES}}


def _noted(row: Any) -> Noted:
    deed = Deed(**{name: getattr(row, name) for name in NAMES} | {"at": utc(row.at)})
    return Noted(place=row.seq, user=row.user_key, deed=deed)
