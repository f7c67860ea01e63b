"""SQLite behind its thread: a statement goes there and back once, with all its rows.

SQLAlchemy goes there for the cursor, the statement, the rows and the cursor's end, and to go there is what
costs most of a small statement: the thread and the event loop wait for each other's turn. So a connection
for transactions of a few small statements executes them at once. It goes to its thread for what may wait: the
lock if somebody else has it, and the commit.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, Self

import aiosqlite
from sqlalchemy.dialects.sqlite.aiosqlite import SQLiteDialect_aiosqlite
from sqlalchemy.engine import make_url


class Cursor:
    """One statement and its rows.

    Args:
        execute: Calls a function with the connection, in its thread.

    Attributes:
        description: The rows' columns, None if there are none.
        rowcount: How many rows it has changed.
        lastrowid: The number of the row that was added last.
    """

    def __init__(self, execute: Callable[..., Any]) -> None:
        self._execute = execute
        self._rows: Sequence[Any] = ()
        self.description: Any = None
        self.rowcount = -1
        self.lastrowid: int | None = None
        self.arraysize = 1

    async def __aenter__(self) -> Self:
        return self

    async def execute(self, statement: str, values: Any = ()) -> Self:
        """Execute a statement."""
        await self._execute(self._run, "execute", statement, values)
        return self

    async def executemany(self, statement: str, values: Any) -> Self:
        """Execute a statement with many values, one after the other."""
        await self._execute(self._run, "executemany", statement, values)
        return self

    async def fetchall(self) -> Sequence[Any]:
        """Return the rows."""
        rows, self._rows = self._rows, ()
        return rows

    async def close(self) -> None:
        """Forget the rows; what the database had open is closed already."""
        self._rows = ()

    def _run(self, connection: sqlite3.Connection, how: str, statement: str, values: Any) -> None:
        cursor = connection.cursor()
        try:
            getattr(cursor, how)(statement, values)
            self.description = cursor.description
            self._rows = cursor.fetchall() if cursor.description else ()
            self.rowcount, self.lastrowid = cursor.rowcount, cursor.lastrowid
        finally:
            cursor.close()


BEGIN: Final = "BEGIN IMMEDIATE"
BUSY_MS: Final = 5000
"""Milliseconds to wait for a lock."""


class Connection(aiosqlite.Connection):
    """A connection in its thread.

    Attributes:
        at_once: Statements are executed by whoever has them, without the thread.
    """

    at_once = False

    def cursor(self) -> Cursor:  # type: ignore[override]
        """Return a cursor, which costs nothing until it executes something."""
        return Cursor(self._with_connection)

    async def rollback(self) -> None:
        """Take back what has begun, if something has."""
        if self.in_transaction:
            await super().rollback()

    async def _with_connection(self, work: Callable[..., Any], how: str, statement: str, values: Any) -> None:
        if self.at_once and statement != BEGIN:
            work(self._conn, how, statement, values)
        elif not (self.at_once and has_begun(self._conn)):
            await self._execute(work, self._conn, how, statement, values)  # type: ignore[no-untyped-call]


def has_begun(connection: sqlite3.Connection) -> bool:
    """Begin a transaction if nobody else has the lock; tell whether it has begun."""
    connection.execute("PRAGMA busy_timeout=0")
    try:
        connection.execute(BEGIN)
    except sqlite3.OperationalError:  # whatever else it is, the thread meets it again
        return False
    finally:
        connection.execute(f"PRAGMA busy_timeout={BUSY_MS}")
    return True


def connector(url: str, *, at_once: bool = False) -> Callable[[], Connection]:
    """Return what opens connections for an engine of this URL.

    Args:
        at_once: They are for few and small statements only, and execute them without their threads.
    """
    args, options = SQLiteDialect_aiosqlite().create_connect_args(make_url(url))
    options["check_same_thread"] = False  # only one of the two threads uses it at a time

    def connect() -> Connection:
        connection = Connection(partial(sqlite3.connect, *args, **options), 64)
        connection.at_once = at_once
        connection._thread.daemon = True
        return connection

    return connect
