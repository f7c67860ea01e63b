"""Bringing what is in the database under the newest key, while workers run.

A value is written only where the one that was read still stands: an owner may have written a newer one.
Each run looks only for what is not under the newest key, so one that was stopped half-way is run again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import anyio
from pydantic import ValidationError
from sqlalchemy import Column, and_, case, func, not_, select, text, tuple_, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from mcp_chat.exceptions import Unreadable
from mcp_chat.message import MESSAGE
from mcp_chat.stores.cipher import ESCAPED, SEALED
from mcp_chat.stores.database import driver_url, prepare_sqlite, translated
from mcp_chat.stores.documents import field_of
from mcp_chat.stores.renewal import PLAIN_TEXT, Renewal, Tally
from mcp_chat.stores.tables import (
    chat_command,
    chat_document,
    chat_message,
    chat_session,
    chat_upload,
    chat_user,
)
from mcp_chat.stores.words import index
from mcp_chat.vault import key_id_of

Values = dict[str, Any]
"""Columns, and what is to stand in them."""

HEAD = len("v2.") + 16
"""Letters of a sealed value that tell its key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """A column with sealed values.

    Attributes:
        fresh: Returns what becomes of a value of a user's in a field, or None.
        field: What its values are sealed for, or how a row tells.
        named: More columns, which it is told by.
        kind: A secret is always sealed, a command may hold one, a text is sealed if it is to be.
        portion: Rows that are read and written at a time.
    """

    column: Column[Any]
    field: str | Callable[[Any], str]
    fresh: Callable[[Renewal, str, str, Any], Any]
    named: tuple[Column[Any], ...] = ()
    kind: str = "text"
    portion: int = 200

    def field_of(self, row: Any) -> str:
        """Return what a row's value is sealed for."""
        return self.field if isinstance(self.field, str) else self.field(row)


SLOTS = (
    Slot(column=chat_user.c.config, field="config", fresh=Renewal.secret, kind="secret"),
    Slot(column=chat_command.c.body, field="command", fresh=Renewal.command, kind="command"),
    Slot(column=chat_command.c.outcome, field="outcome", fresh=Renewal.text),
    Slot(column=chat_session.c.name, field="name", fresh=Renewal.text),
    Slot(column=chat_session.c.context, field="context", fresh=Renewal.text),
    Slot(column=chat_message.c.body, field="message", fresh=Renewal.text),
    Slot(column=chat_upload.c.name, field="file name", fresh=Renewal.text),
    Slot(column=chat_upload.c.content, field="file", fresh=Renewal.content, portion=4),
    Slot(
        column=chat_document.c.text,
        field=lambda row: field_of(row.kind, row.name),
        named=(chat_document.c.kind, chat_document.c.name),
        fresh=Renewal.secret,
        kind="secret",
        portion=8,
    ),
)


class SQLSweep:
    """Goes through the tables.

    Args:
        engine: An engine of `open_sweep`.
        renewal: What becomes of values.
    """

    def __init__(self, engine: AsyncEngine, renewal: Renewal) -> None:
        self._engine = engine
        self._renewal = renewal

    async def renew(self) -> Tally:
        """Go through all tables once."""
        tally = Tally()
        for slot in SLOTS:
            async for rows in self._portions(slot, self._stale(slot)):
                tally += await self._renew(slot, rows)
                await anyio.sleep(0.01)  # who waits for SQLite's lock looks now and then
        return tally

    async def key_ids(self) -> Counter[str]:
        """Count the values by the names of their keys."""
        found: Counter[str] = Counter()
        for slot in SLOTS:
            if slot.kind == "command":
                async for rows in self._portions(slot, slot.column.is_not(None)):
                    for row in rows:
                        found += self._renewal.key_ids(row.user_key, slot.field_of(row), row.value)
            else:
                found += await self._heads(slot)
        return found

    async def _heads(self, slot: Slot) -> Counter[str]:
        head = _head(slot)
        statement = select(head, func.count()).where(slot.column.is_not(None)).group_by(head)
        rows = await self._read(statement)
        found: Counter[str] = Counter()
        for kept, count in rows:
            told = kept.decode("ascii", "replace") if isinstance(kept, bytes) else kept
            found[key_id_of(f"{told}.") or PLAIN_TEXT] += count
        return found

    def _stale(self, slot: Slot) -> Any:
        """What holds for values that are perhaps to be renewed."""
        head = self._renewal.vault.head
        if slot.kind == "command":
            return slot.column.is_not(None)
        if slot.kind == "secret":
            return not_(_begins(slot.column, head))
        stale = not_(_begins(slot.column, SEALED + head))
        if self._renewal.seals:
            return and_(stale, func.length(slot.column) > 0)
        return and_(stale, _begins(slot.column, SEALED), not_(_begins(slot.column, ESCAPED)))

    async def _portions(self, slot: Slot, wanted: Any) -> AsyncIterator[Sequence[Any]]:
        table = slot.column.table
        keys = list(table.primary_key.columns)
        columns = [
            *keys,
            *([] if table.c.user_key in keys else [table.c.user_key]),
            *slot.named,
            slot.column.label("value"),
        ]
        if table is chat_message:
            columns.append(chat_message.c.text)
        statement = select(*columns).where(wanted).order_by(*keys).limit(slot.portion)
        rows: Sequence[Any] = ()
        while True:
            behind = tuple_(*keys) > tuple_(*(getattr(rows[-1], key.name) for key in keys)) if rows else None
            rows = await self._read(statement if behind is None else statement.where(behind))
            if not rows:
                return
            yield rows

    async def _renew(self, slot: Slot, rows: Sequence[Any]) -> Tally:
        tally = Tally()
        changes: list[tuple[Any, Values]] = []
        for row in rows:
            try:
                if values := self._values(slot, row):
                    changes.append((row, values))
            except (Unreadable, ValidationError):
                tally.unreadable += 1
        if self._engine.dialect.name == "sqlite":
            return tally + await self._write(partial(self._put_all, slot, changes))
        for change in changes:  # each alone: who holds several rows may wait for a worker that waits for it
            tally += await self._write(partial(self._put_all, slot, [change]))
        return tally

    def _values(self, slot: Slot, row: Any) -> Values | None:
        fresh = slot.fresh(self._renewal, row.user_key, slot.field_of(row), row.value)
        if fresh is None:
            return None
        if slot.column is not chat_message.c.body:
            return {slot.column.name: fresh}
        cipher = self._renewal.cipher
        message = MESSAGE.validate_json(cipher.open(fresh, user=row.user_key, field=slot.field_of(row)))
        return {"body": fresh, "text": cipher.index(index(message.content), user=row.user_key)}

    async def _read(self, statement: Any) -> Sequence[Any]:
        """Read without a transaction, which would hold SQLite's write lock while a table is gone through."""
        with translated():
            async with self._engine.connect() as plain:
                connection = await plain.execution_options(isolation_level="AUTOCOMMIT")
                return (await connection.execute(statement)).all()

    async def _write(self, work: Callable[[AsyncConnection], Any]) -> Tally:
        with translated():
            async with self._engine.begin() as connection:
                tally: Tally = await work(connection)
                return tally

    async def _put_all(
        self, slot: Slot, changes: Sequence[tuple[Any, Values]], connection: AsyncConnection
    ) -> Tally:
        tally = Tally()
        for row, values in changes:
            if await self._put(slot, row, values, connection):
                tally.renewed += 1
            else:
                tally.missed += 1
        return tally

    async def _put(self, slot: Slot, row: Any, values: Values, connection: AsyncConnection) -> bool:
        """Write a row's values if what was read still stands there, and tell whether it did."""
        table = slot.column.table
        same = [key == getattr(row, key.name) for key in table.primary_key.columns]
        done = await connection.execute(update(table).where(*same, slot.column == row.value).values(**values))
        searched = slot.column is chat_message.c.body and self._engine.dialect.name == "sqlite"
        if done.rowcount and searched:
            await _reindex(connection, row, values["text"])
        return bool(done.rowcount)


async def _reindex(connection: AsyncConnection, row: Any, words: str) -> None:
    """SQLite's index reads the message's text: it forgets what it was told by hearing it again."""
    owner = row.user_key.encode().hex()
    delete = (
        "INSERT INTO chat_search (chat_search, rowid, owner, text) VALUES ('delete', :seq, :owner, :words)"
    )
    await connection.execute(text(delete), {"seq": row.seq, "owner": owner, "words": row.text})
    insert = "INSERT INTO chat_search (rowid, owner, text) VALUES (:seq, :owner, :words)"
    await connection.execute(text(insert), {"seq": row.seq, "owner": owner, "words": words})


def _begins(column: Column[Any], prefix: str) -> Any:
    """Not LIKE, to which small letters are as good as capitals in SQLite."""
    wanted = prefix.encode() if column is chat_upload.c.content else prefix
    return func.substr(column, 1, len(prefix), type_=column.type) == wanted


def _head(slot: Slot) -> Any:
    """The letters of a value that tell its key; none of one that is not sealed."""
    column, skip = slot.column, 0 if slot.kind == "secret" else len(SEALED)
    head = func.substr(column, skip + 1, HEAD, type_=column.type)
    if slot.kind == "secret":
        return head
    nothing = func.substr(column, 1, 0, type_=column.type)
    return case((and_(_begins(column, SEALED), not_(_begins(column, ESCAPED))), head), else_=nothing)


@asynccontextmanager
async def open_sweep(url: str, renewal: Renewal) -> AsyncIterator[SQLSweep]:
    """Open a sweep of the database at a URL."""
    engine = create_async_engine(driver_url(url, asynchronous=True), hide_parameters=True)
    if engine.dialect.name == "sqlite":
        prepare_sqlite(engine.sync_engine)
    try:
        yield SQLSweep(engine, renewal)
    finally:
        await engine.dispose()
