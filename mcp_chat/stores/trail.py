"""The audit trail in SQL: what was done for whom, for as long as the operator wants to know."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from typing import Any, TypeVar

import structlog
from sqlalchemy import select
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Noting:
    """Deeds that are to be put into the trail, whoever owns their user."""

    user: str
    deeds: tuple[Deed, ...]


class SQLTrail(ABC):
    """What `SQLArchive` does as a trail, by the access to the database that it has."""

    _deeds_kept: timedelta | None

    @abstractmethod
    async def _together(self, entry: Any) -> Any: ...

    @abstractmethod
    async def _write(self, access: Callable[[AsyncConnection], Awaitable[T]]) -> T: ...

    @abstractmethod
    async def _read(self, statement: Any) -> Sequence[Any]: ...

    async def note(self, user: str, deeds: Sequence[Deed]) -> None:
        """Put deeds into the trail, each once by its id."""
        await self._together(Noting(user=user, deeds=tuple(deeds)))

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


def deed_rows(noted: Addition | Noting) -> list[dict[str, Any]]:
    """Return the rows of the deeds that are to be noted."""
    return [_row(noted.user, deed) for deed in noted.deeds]


def _row(user: str, deed: Deed) -> dict[str, Any]:
    return {"user_key": user, **{name: getattr(deed, name) for name in NAMES}}


def _noted(row: Any) -> Noted:
    deed = Deed(**{name: getattr(row, name) for name in NAMES} | {"at": utc(row.at)})
    return Noted(place=row.seq, user=row.user_key, deed=deed)
