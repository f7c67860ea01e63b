"""Users' documents in SQL. Each write is a row of its own, whose number is the version: none comes twice."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import structlog
from sqlalchemy import delete, func, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from mcp_chat.exceptions import ChatError, TooLarge
from mcp_chat.message import now
from mcp_chat.stores.database import drop_all
from mcp_chat.stores.documents import Document, can_be, check_room, life, size_of
from mcp_chat.stores.tables import chat_document

log = structlog.get_logger()

T = TypeVar("T")

_of = chat_document.c


@dataclass(frozen=True, slots=True, kw_only=True)
class Keeping:
    """A document that is to be kept, if it still has this version; None for whichever."""

    user: str
    epoch: int | None
    kind: str
    name: str
    text: str
    size: int
    seconds: float
    version: int | None


class SQLDocuments(ABC):
    """What `SQLArchive` does with documents, by the access to the database that it has."""

    @property
    @abstractmethod
    def _dialect(self) -> str: ...

    @abstractmethod
    async def _write(self, access: Callable[[AsyncConnection], Awaitable[T]]) -> T: ...

    @abstractmethod
    async def _read(self, statement: Any) -> Sequence[Any]: ...

    @abstractmethod
    async def _together(self, entry: Any) -> Any: ...

    @abstractmethod
    async def _hold(self, connection: AsyncConnection, user: str, epoch: int | None) -> None: ...

    async def get_document(self, user: str, kind: str, name: str) -> Document | None:
        """Return a document whose time is not over."""
        if not can_be(kind, name):
            return None
        statement = select(_of.seq, _of.name, _of.text).where(*_named(user, kind, name), self._lives())
        rows = await self._read(statement)
        return _document(rows[0]) if rows else None

    async def list_documents(self, user: str, kind: str) -> list[Document]:
        """Return a user's documents of a kind, by their names."""
        statement = select(_of.seq, _of.name, _of.text).where(*_of_kind(user, kind), self._lives())
        found = [_document(row) for row in await self._read(statement)]
        return sorted(found, key=lambda document: document.name)  # databases have orders of their own

    async def put_document(
        self,
        user: str,
        kind: str,
        name: str,
        text: str,
        *,
        seconds: float,
        version: int | None = None,
        epoch: int | None = None,
    ) -> int | None:
        """Set a document, and return its new version; None if it has not the version that was given."""
        keeping = Keeping(
            user=user,
            epoch=epoch,
            kind=kind,
            name=name,
            text=text,
            size=size_of(kind, name, text),
            seconds=seconds,
            version=version,
        )
        kept: int | None = await self._together(keeping)
        return kept

    async def _keep_all(
        self, connection: AsyncConnection, keepings: Sequence[Keeping]
    ) -> list[ChatError | int | None]:
        """Keep documents one after the other; holds their users. One that is refused has written nothing."""
        outcomes: list[ChatError | int | None] = []
        for each in keepings:
            try:
                outcomes.append(await self._keep(connection, each))
            except TooLarge as error:
                outcomes.append(error)
        return outcomes

    async def _keep(self, connection: AsyncConnection, each: Keeping) -> int | None:
        name = each.user, each.kind, each.name
        if each.version is not None and each.version != await self._version(connection, *name):
            return None
        await self._check_room(connection, *name, each.size)
        await connection.execute(delete(chat_document).where(*_named(*name)))
        statement = insert(chat_document).values(
            user_key=each.user,
            kind=each.kind,
            name=each.name,
            text=each.text,
            size=each.size,
            expires_at=self._now() + timedelta(seconds=life(each.seconds)),
        )
        return int((await connection.execute(statement.returning(_of.seq))).scalar_one())

    async def drop_document(self, user: str, kind: str, name: str, *, version: int | None = None) -> bool:
        """Delete a document, if given only that version of it; tell whether there was one."""
        if not can_be(kind, name):
            return False
        statement = delete(chat_document).where(*_named(user, kind, name), self._lives())
        if version is not None:
            statement = statement.where(_of.seq == version)

        async def drop(connection: AsyncConnection) -> bool:
            await self._hold(connection, user, None)
            return bool((await connection.execute(statement)).rowcount)

        return await self._write(drop)

    async def _version(self, connection: AsyncConnection, user: str, kind: str, name: str) -> int:
        statement = select(_of.seq).where(*_named(user, kind, name), self._lives())
        return int((await connection.execute(statement)).scalar() or 0)

    async def _check_room(
        self, connection: AsyncConnection, user: str, kind: str, name: str, size: int
    ) -> None:
        together = func.coalesce(func.sum(_of.size), 0)
        others = select(func.count(), together).where(*_of_kind(user, kind), _of.name != name, self._lives())
        [row] = await connection.execute(others)
        check_room(int(row[0]), int(row[1]), size)

    async def _drop_expired(self) -> None:
        if dropped := await drop_all(self._write, chat_document, ~self._lives()):
            log.info("documents.dropped", documents=dropped)

    def _lives(self) -> Any:
        return _of.expires_at > self._now()

    def _now(self) -> Any:
        """The database's clock, which all hosts share; SQLite has that of its one host."""
        return func.clock_timestamp() if self._dialect == "postgresql" else now()


def _of_kind(user: str, kind: str) -> tuple[Any, Any]:
    return _of.user_key == user, _of.kind == kind


def _named(user: str, kind: str, name: str) -> tuple[Any, ...]:
    return *_of_kind(user, kind), _of.name == name


def _document(row: Any) -> Document:
    return Document(name=row.name, text=row.text, version=row.seq)
