"""Sessions in SQL: found, listed, changed, brought in, put away and deleted."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from itertools import chain
from typing import Any, TypeVar

import anyio
import anyio.to_thread
from sqlalchemy import (
    delete,
    insert,
    select,
    tuple_,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from mcp_chat.exceptions import (
    KeyMissing,
    StoreUnavailable,
    TooManySessions,
)
from mcp_chat.message import Message, Usage, new_id
from mcp_chat.session import Session
from mcp_chat.spent import Spent
from mcp_chat.stores.base import Addition, Recency
from mcp_chat.stores.cipher import Cipher
from mcp_chat.stores.conditions import WHICH, WHO, begun, is_id, named, of, placed, shown
from mcp_chat.stores.ledger import ended_in, stopped_in
from mcp_chat.stores.rows import (
    attachment_rows,
    changed,
    imported_row,
    is_locked,
    message_rows,
    session_of,
    usage_columns,
)
from mcp_chat.stores.sql_branches import in_session, side_row
from mcp_chat.stores.tables import (
    chat_attachment,
    chat_command,
    chat_message,
    chat_session,
    chat_upload,
)
from mcp_chat.stores.uploads import unused

T = TypeVar("T")

PORTION, PORTION_SIZE = 500, 1_000_000
"""Messages, and characters of them, that an import writes in one transaction: others want to write too."""

_SESSION = select(chat_session).where(
    chat_session.c.user_key == WHO, chat_session.c.id == WHICH, chat_session.c.branch_of.is_(None)
)


class SQLSessions(ABC):
    """What `SQLArchive` does with sessions, by the access to the database that it has."""

    _cipher: Cipher

    @abstractmethod
    async def _write(self, access: Callable[[AsyncConnection], Awaitable[T]]) -> T: ...

    @abstractmethod
    async def _read(self, statement: Any) -> Sequence[Any]: ...

    @abstractmethod
    async def _find(self, statement: Any, **values: Any) -> Sequence[Any]: ...

    @abstractmethod
    async def _apart(self, access: Callable[[], Awaitable[T]], *, patience: float | None = ...) -> T: ...

    @abstractmethod
    async def _aside(self, size: int, work: Callable[[], T]) -> T: ...

    @abstractmethod
    async def _hold(self, connection: AsyncConnection, user: str, epoch: int | None) -> None: ...

    @abstractmethod
    async def _spend_all(self, connection: AsyncConnection, entries: Sequence[Any]) -> Any: ...

    @abstractmethod
    def _context_text(self, user: str, session: Session) -> str: ...

    async def session(self, user: str, session_id: str) -> Session | None:
        if not is_id(session_id):
            return None  # no id of ours, and perhaps no text that SQL takes
        rows = await self._find(_SESSION, **placed(user, session_id))
        return session_of(self._cipher, rows[0]) if rows else None

    async def sessions(
        self, user: str, *, limit: int, before: Recency | None = None, after: Recency | None = None
    ) -> list[Session]:
        place = tuple_(chat_session.c.updated_at, chat_session.c.id)
        statement = select(chat_session).where(chat_session.c.user_key == user, shown(), begun()).limit(limit)
        if before:
            statement = statement.where(place < tuple_(before.updated_at, before.id))
        if after:
            statement = statement.where(place > tuple_(after.updated_at, after.id))
        order = [chat_session.c.updated_at, chat_session.c.id]
        rows = await self._read(statement.order_by(*(order if after else (each.desc() for each in order))))
        found = [session_of(self._cipher, row) for row in rows]
        return found[::-1] if after else found

    async def change_session(
        self, user: str, session_id: str, *, name: str | None = None, context: Mapping[str, Any] | None = None
    ) -> Session | None:
        if not is_id(session_id):
            return None

        async def change(connection: AsyncConnection) -> Session | None:
            statement = select(chat_session).where(*named(user, session_id)).with_for_update()
            row = (await connection.execute(statement)).first()
            if row is None:
                return None
            session = replace(changed(session_of(self._cipher, row), name, context or {}), updated_at=_now())
            values: dict[str, Any] = {"updated_at": session.updated_at}  # what nobody can read now stays
            if name is not None:
                values["name"] = self._cipher.seal(name, user=user, field="name")
            if context:
                if is_locked(self._cipher, row):
                    raise KeyMissing
                values["context"] = self._context_text(user, session)
            await connection.execute(update(chat_session).where(*named(user, session_id)).values(**values))
            return session

        return await self._write(change)

    async def keep_summary(
        self, user: str, session_id: str, summary: Mapping[str, Any], spent: Spent, *, epoch: int
    ) -> bool:
        cost = Addition(user=user, session_id=session_id, spent=(spent,))

        async def keep(connection: AsyncConnection) -> bool:
            await self._hold(connection, user, epoch)
            new = (await self._spend_all(connection, [cost]))[0].spent
            statement = select(chat_session).where(*named(user, session_id)).with_for_update()
            row = (await connection.execute(statement)).first()
            if row is None:
                return False
            lost = is_locked(self._cipher, row) or await self._is_left(connection, user, session_id, summary)
            session = changed(
                session_of(self._cipher, row), None, {"summary": dict(summary)}
            ).update_token_usage(sum((each.usage for each in new), Usage()))
            values = usage_columns(session.token_usage)
            if not lost:  # nor has it gone on another way meanwhile
                values["context"] = self._context_text(user, session)
            await connection.execute(update(chat_session).where(*named(user, session_id)).values(**values))
            return not lost

        return await self._write(keep)

    async def _is_left(
        self, connection: AsyncConnection, user: str, session_id: str, summary: Mapping[str, Any]
    ) -> bool:
        """Tell whether a conversation has gone on another way than the one that is summed up."""
        if "upto" not in summary:
            return False
        mine = (*of(chat_message, user, session_id), chat_message.c.id == summary["upto"])
        return (await connection.execute(select(chat_message.c.seq).where(*mine))).first() is None

    async def has_sessions(self, user: str, number: int) -> bool:
        return bool(await self._read(_numbered(user, number)))

    async def import_session(self, user: str, session: Session, *, most: int | None = None) -> None:
        await self._apart(partial(self._import, user, session, most), patience=None)

    async def _import(self, user: str, session: Session, most: int | None) -> None:
        """Write the messages first and the session last: until it is there nobody sees any of them."""
        if most and session.messages and await self.has_sessions(user, most):
            raise TooManySessions  # all the writing would be for nothing
        if await self.session(user, session.id):
            raise StoreUnavailable  # as when somebody else makes it meanwhile
        written: list[Addition] = []
        sides = tuple(replace(side, id=new_id()) for side in session.branches)
        try:
            for messages in portions(session.messages):
                began = time.monotonic()
                written.append(await self._bring(user, session.id, messages))
                await anyio.sleep(time.monotonic() - began)  # who waits for SQLite's lock looks now and then
            for side in sides:
                for messages in portions(side.messages):
                    written.append(await self._bring(user, side.id, messages))
            await self._open(user, replace(session, branches=sides), most)
        except Exception:
            await self._take_back(written)
            raise

    async def _bring(self, user: str, session_id: str, messages: Sequence[Message]) -> Addition:
        addition = Addition(user=user, session_id=session_id, messages=tuple(messages))
        rows = await self._aside(
            sum(len(each.content) for each in messages), lambda: message_rows(self._cipher, addition)
        )
        await self._write(lambda connection: connection.execute(insert(chat_message), rows))
        return addition

    async def _open(self, user: str, session: Session, most: int | None) -> None:
        """Add the session of messages that are there, and which of the user's files they have."""
        everything = chain(session.messages, *(side.messages for side in session.branches))
        addition = Addition(user=user, session_id=session.id, messages=tuple(everything))
        attached = await anyio.to_thread.run_sync(attachment_rows, addition)

        async def add(connection: AsyncConnection) -> None:
            await self._hold(connection, user, None)
            if most and (await connection.execute(_numbered(user, most))).first():
                raise TooManySessions
            await connection.execute(insert(chat_session).values(imported_row(self._cipher, user, session)))
            if sides := [
                side_row(self._cipher, user, session.id, each.id, each.fork) for each in session.branches
            ]:
                await connection.execute(insert(chat_session), sides)
            mine = select(chat_upload.c.id).where(chat_upload.c.user_key == user)
            ids = set((await connection.execute(mine)).scalars()) if attached else ()
            if rows := [row for row in attached if row["upload_id"] in ids]:
                await connection.execute(insert(chat_attachment), rows)

        await self._write(add)

    async def _take_back(self, written: Sequence[Addition]) -> None:
        """Delete what was brought of a session that came to nothing; what is left of it nobody sees."""
        for each in written:
            mine = of(chat_message, each.user, each.session_id)
            ids = [message.id for message in each.messages]
            statement = delete(chat_message).where(*mine, chat_message.c.id.in_(ids))
            with suppress(StoreUnavailable):
                await self._write(partial(AsyncConnection.execute, statement=statement))

    async def put_away(self, user: str, session_id: str) -> None:
        if not is_id(session_id):
            return
        new = new_id()

        async def rename(connection: AsyncConnection) -> None:
            await self._hold(connection, user, None)
            await connection.execute(update(chat_session).where(*named(user, session_id)).values(id=new))
            sides = update(chat_session).where(
                chat_session.c.user_key == user, chat_session.c.branch_of == session_id
            )
            await connection.execute(sides.values(branch_of=new))
            for table in (chat_message, chat_attachment):
                statement = update(table).where(*of(table, user, session_id))
                await connection.execute(statement.values(session_id=new))
            await connection.execute(
                update(chat_command).where(*ended_in(user, session_id)).values(session_id=new)
            )

        await self._write(rename)

    async def delete_session(self, user: str, session_id: str, *, epoch: int | None) -> bool:
        if not is_id(session_id):
            return False

        async def remove(connection: AsyncConnection) -> bool:
            await self._hold(connection, user, epoch)
            await connection.execute(delete(chat_message).where(in_session(user, session_id)))
            gone = await connection.execute(delete(chat_session).where(*named(user, session_id)))
            sides = (chat_session.c.user_key == user, chat_session.c.branch_of == session_id)
            await connection.execute(delete(chat_session).where(*sides))
            await connection.execute(delete(chat_command).where(*ended_in(user, session_id)))
            await connection.execute(stopped_in(self._cipher, user, session_id))
            mine = select(chat_attachment.c.upload_id).where(*of(chat_attachment, user, session_id))
            had = list((await connection.execute(mine)).scalars())
            await connection.execute(delete(chat_attachment).where(*of(chat_attachment, user, session_id)))
            await connection.execute(delete(chat_upload).where(chat_upload.c.id.in_(had), *unused(user)))
            return bool(gone.rowcount)

        return await self._write(remove)


def portions(messages: Sequence[Message]) -> Iterator[Sequence[Message]]:
    """Return messages in order, so many at a time as one transaction is to write."""
    begin = size = 0
    for n, message in enumerate(messages):
        size += len(message.content)
        if n > begin and (n - begin == PORTION or size > PORTION_SIZE):
            yield messages[begin:n]
            begin, size = n, len(message.content)
    if messages:
        yield messages[begin:]


def _numbered(user: str, number: int) -> Any:
    """One of a user's sessions if there are so many: the key's index is read no further."""
    mine = select(chat_session.c.id).where(chat_session.c.user_key == user, shown())
    return mine.offset(number - 1).limit(1)


def _now() -> datetime:
    return datetime.now(UTC)
