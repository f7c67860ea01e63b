"""Branches of conversations in SQL: a side is a session of its own that nobody sees.

Messages keep their numbers when they move: what was said behind a message always has a higher one than it,
whichever way it went, so each way is in order.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

from sqlalchemy import delete, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from mcp_chat.branch import BEGINNING, Branch, Side, branch_of, in_order, ordered
from mcp_chat.exceptions import KeyMissing, MessageMoved
from mcp_chat.message import Message, Usage, new_id, now
from mcp_chat.session import Session
from mcp_chat.stores.cipher import Cipher
from mcp_chat.stores.rows import changed, is_locked, json_text, message_of, session_of, usage_columns
from mcp_chat.stores.tables import chat_message, chat_session

T = TypeVar("T")

PAGE = 1000

_of, _in = chat_session.c, chat_message.c


class SQLBranches(ABC):
    """What `SQLArchive` does with branches, by the access to the database that it has."""

    _cipher: Cipher

    @abstractmethod
    async def _write(self, access: Callable[[AsyncConnection], Awaitable[T]]) -> T: ...

    @abstractmethod
    async def _read(self, statement: Any) -> Sequence[Any]: ...

    @abstractmethod
    async def _hold(self, connection: AsyncConnection, user: str, epoch: int | None) -> None: ...

    @abstractmethod
    def _context_text(self, user: str, session: Session) -> str: ...

    async def cut(self, user: str, session_id: str, message_id: str, *, side: str, epoch: int | None) -> None:
        """Put a message and all behind it into a new side; with that side there already, do nothing."""

        async def cut(connection: AsyncConnection) -> None:
            await self._hold(connection, user, epoch)
            there = select(_of.id).where(_of.user_key == user, _of.id == side, _of.branch_of == session_id)
            if (await connection.execute(there)).first():
                return
            place = await _place(connection, user, session_id, message_id)
            if place is None:
                raise MessageMoved
            await self._hide(connection, user, session_id, place, side)

        await self._write(cut)

    async def switch(self, user: str, session_id: str, message_id: str, *, epoch: int | None) -> None:
        """Show the branch that a message is in; what was shown instead is a side from then on."""

        async def switch(connection: AsyncConnection) -> None:
            await self._hold(connection, user, epoch)
            for side in await _way(connection, user, session_id, message_id):
                await self._swap(connection, user, session_id, side)

        await self._write(switch)

    async def _swap(self, connection: AsyncConnection, user: str, session_id: str, side: Any) -> None:
        fork = await _place(connection, user, session_id, side.fork) if side.fork else -1
        if fork is None:
            raise MessageMoved
        behind = select(func.min(_in.seq)).where(*_said(user, session_id), _in.seq > fork)
        first = (await connection.execute(behind)).scalar()
        if first is not None:
            await self._hide(connection, user, session_id, first, new_id())
        moved = update(chat_message).where(*_said(user, side.id)).values(session_id=session_id)
        await connection.execute(moved)
        await connection.execute(delete(chat_session).where(_of.user_key == user, _of.id == side.id))

    async def _hide(
        self, connection: AsyncConnection, user: str, session_id: str, place: int, side: str
    ) -> None:
        """Move what is in the line from a place on into a new side."""
        before = select(_in.id).where(*_said(user, session_id), _in.seq < place).order_by(_in.seq.desc())
        fork = (await connection.execute(before.limit(1))).scalar()
        row = side_row(self._cipher, user, session_id, side, fork or BEGINNING)
        await connection.execute(insert(chat_session).values(row))
        moved = update(chat_message).where(*_said(user, session_id), _in.seq >= place)
        await connection.execute(moved.values(session_id=side))
        await self._drop_summary(connection, user, session_id, place)

    async def _drop_summary(
        self, connection: AsyncConnection, user: str, session_id: str, place: int
    ) -> None:
        """Forget a summary of something that is not in the line any more."""
        mine = (_of.user_key == user, _of.id == session_id)
        row = (await connection.execute(select(chat_session).where(*mine).with_for_update())).first()
        if row is None:
            return
        if is_locked(self._cipher, row):
            raise KeyMissing
        session = session_of(self._cipher, row)
        summary = session.context.get("summary")
        if not isinstance(summary, Mapping) or _number(summary.get("place")) < place:
            return
        text = self._context_text(user, changed(session, None, {"summary": None}))
        await connection.execute(update(chat_session).where(*mine).values(context=text))

    async def holds(self, user: str, session_id: str, message_id: str) -> bool:
        """Tell whether a message is in a session, in the line that is shown or in a side."""
        statement = select(_in.id).where(in_session(user, session_id), _in.id == message_id)
        return bool(await self._read(statement.limit(1)))

    async def branches(self, user: str, session_id: str) -> list[Branch]:
        """Return the branches behind each message that has some, in the order of their beginnings."""
        sides = await self._sides(user, session_id)
        if not sides:
            return []
        ids = [session_id, *(side.id for side in sides)]
        heads = {row.session_id: row for row in await self._read(_heads(user, ids))}
        ways = [(h.first, side.fork, h.count, False) for side in sides if (h := heads.get(side.id))]
        if any(side.fork == BEGINNING for side in sides) and (head := heads.get(session_id)):
            ways.append((head.first, BEGINNING, head.count, True))
        for row in await self._read(_next(user, ids, {side.fork for side in sides})):
            if row.first is not None:
                ways.append((row.first, row.id, row.count, row.session_id == session_id))
        said = await self._messages(user, [first for first, *_ in ways])
        return ordered(
            branch_of(said[first], fork, count, current=current)
            for first, fork, count, current in ways
            if first in said
        )

    async def _messages(self, user: str, places: Sequence[int]) -> dict[int, Message]:
        rows = await self._read(select(_in.seq, _in.body).where(_in.user_key == user, _in.seq.in_(places)))
        return {row.seq: message for row in rows if (message := message_of(self._cipher, user, row))}

    async def sides(self, user: str, session_id: str) -> list[Side]:
        """Return what is not shown, each side behind the one that it forks from."""
        sides = [
            Side(id=row.id, fork=row.fork, messages=tuple(await self._whole(user, row.id)))
            for row in await self._sides(user, session_id)
        ]
        forks = {side.fork for side in sides}
        line = await self._read(select(_in.id, _in.seq).where(*_said(user, session_id), _in.id.in_(forks)))
        known = [Message(role="user", content="", id=row.id) for row in line]
        return in_order(sides, known)

    async def _sides(self, user: str, session_id: str) -> Sequence[Any]:
        return await self._read(select(_of.id, _of.fork).where(*_sides_of(user, session_id)))

    async def _whole(self, user: str, session_id: str) -> list[Message]:
        found: list[Message] = []
        place = -1
        statement = select(_in.seq, _in.body).order_by(_in.seq).limit(PAGE)
        while rows := await self._read(statement.where(*_said(user, session_id), _in.seq > place)):
            found += [message for row in rows if (message := message_of(self._cipher, user, row))]
            place = rows[-1].seq
        return found


def side_row(cipher: Cipher, user: str, session_id: str, side: str, fork: str) -> dict[str, Any]:
    """Return the row of a side."""
    return {
        "user_key": user,
        "id": side,
        "name": cipher.seal("", user=user, field="name"),
        "llm_backend": "",
        "context": cipher.seal(json_text({}), user=user, field="context"),
        **usage_columns(Usage()),
        "created_at": now(),
        "updated_at": now(),
        "branch_of": session_id,
        "fork": fork,
    }


def in_session(user: str, session_id: str) -> Any:
    """Return what holds for a session's messages, in the line and in its sides."""
    sides = select(_of.id).where(*_sides_of(user, session_id))
    return (_in.user_key == user) & ((_in.session_id == session_id) | _in.session_id.in_(sides))


def _sides_of(user: str, session_id: str) -> tuple[Any, Any]:
    return _of.user_key == user, _of.branch_of == session_id


def _said(user: str, session_id: str) -> tuple[Any, Any]:
    return _in.user_key == user, _in.session_id == session_id


def _number(value: object) -> int:
    return value if isinstance(value, int) else 0


async def _place(connection: AsyncConnection, user: str, session_id: str, message_id: str) -> int | None:
    found = select(_in.seq).where(*_said(user, session_id), _in.id == message_id)
    place: int | None = (await connection.execute(found)).scalar()
    return place


async def _way(connection: AsyncConnection, user: str, session_id: str, message_id: str) -> list[Any]:
    """Return the sides to take up, one after the other, until a message is in the line."""
    found = await connection.execute(select(_of.id, _of.fork).where(*_sides_of(user, session_id)))
    sides = {row.id: row for row in found}
    way: list[Any] = []
    while await _place(connection, user, session_id, message_id) is None:
        where = select(_in.session_id).where(
            _in.user_key == user, _in.session_id.in_(list(sides)), _in.id == message_id
        )
        side = sides.pop((await connection.execute(where)).scalar() or "", None)
        if side is None:
            raise MessageMoved
        way.insert(0, side)
        if side.fork == BEGINNING:
            break
        message_id = side.fork
    return way


def _heads(user: str, ids: Sequence[str]) -> Any:
    """The place of the first message of each of these sessions, and how many it has."""
    found = select(_in.session_id, func.min(_in.seq).label("first"), func.count().label("count"))
    return found.where(_in.user_key == user, _in.session_id.in_(ids)).group_by(_in.session_id)


def _next(user: str, ids: Sequence[str], forks: set[str]) -> Any:
    """The place of the message behind each of these, in the same session, and how many there are."""
    other = chat_message.alias().c
    behind = (other.user_key == user, other.session_id == _in.session_id, other.seq > _in.seq)
    first = select(func.min(other.seq)).where(*behind).scalar_subquery()
    count = select(func.count(other.seq)).where(*behind).scalar_subquery()
    found = select(_in.id, _in.session_id, first.label("first"), count.label("count"))
    return found.where(_in.user_key == user, _in.session_id.in_(ids), _in.id.in_(forks))
