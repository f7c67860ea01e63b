"""The database behind the archive: SQLite for one machine, PostgreSQL for production.

psycopg serves the migrations and the chat with one driver, and reads a libpq URL as operators write it.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Awaitable, Callable, Iterator
from importlib.resources import files
from itertools import count
from typing import Any

import anyio
import structlog
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import ColumnElement, Connection, Engine, Table, delete, event, select
from sqlalchemy.engine import make_url
from sqlalchemy.exc import OperationalError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

from mcp_chat.exceptions import SettingsError, StoreUnavailable
from mcp_chat.stores.sqlite import BEGIN, BUSY_MS

log = structlog.get_logger()

VERSION_TABLE = "mcp_chat_version"
"""Alembic's own table, under a name of ours: a gateway's migrations may live in the same database."""

DROPPED = 5_000
"""Rows that are deleted in one transaction: all of them together may take longer than one may."""

Write = Callable[[Callable[[AsyncConnection], Awaitable[int]]], Awaitable[int]]
"""Does something in a transaction of its own."""


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """Turn what SQLAlchemy raises, and a time that is over, into `StoreUnavailable`."""
    try:
        yield
    except (SQLAlchemyError, OSError) as error:
        log.warning("database.failed", error=type(error).__name__)
        raise StoreUnavailable from error


def driver_url(url: str, *, asynchronous: bool) -> str:
    """Return a database URL with the driver that is used here.

    Raises:
        SettingsError: The URL is neither PostgreSQL's nor SQLite's.
    """
    try:
        parsed = make_url(url)
    except SQLAlchemyError:
        raise SettingsError("DATABASE_URL must be a URL such as postgresql://user@host/name.") from None
    drivers = {
        "postgresql": "postgresql+psycopg",
        "postgres": "postgresql+psycopg",
        "sqlite": "sqlite+aiosqlite" if asynchronous else "sqlite",
    }
    driver = drivers.get(parsed.get_backend_name())
    if driver == drivers["sqlite"] and not parsed.database:
        raise SettingsError("DATABASE_URL must name a file, as sqlite:////path/to/chat.db does.")
    if driver is None:
        raise SettingsError("DATABASE_URL must begin with postgresql:// or sqlite:///.")
    return parsed.set(drivername=driver).render_as_string(hide_password=False)


def _alembic(url: str) -> Config:
    config = Config()
    config.set_main_option("script_location", str(files("mcp_chat.stores") / "migrations"))
    config.attributes["url"] = url and driver_url(url, asynchronous=False)
    return config


def migrate(url: str) -> None:
    """Bring a database's schema to this version; safe to repeat.

    Args:
        url: As in `DATABASE_URL`.

    Raises:
        StoreUnavailable: The database does not answer.
    """
    try:
        with translated():
            command.upgrade(_alembic(url), "head")
    except CommandError as error:
        raise SettingsError(f"The database's schema is not one that this version knows: {error}.") from None


def begin_write_ahead_log(engine: Engine) -> None:
    """Give an SQLite file its write-ahead log, for good. SQLite itself does not wait for another who does."""
    for attempt in count():
        try:
            with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                connection.exec_driver_sql("PRAGMA journal_mode=WAL")
        except OperationalError as error:
            if "locked" not in str(error) or attempt == 500:
                raise
            time.sleep(0.01)
        else:
            return


def newest_revision() -> str | None:
    """Return the schema revision that this version needs."""
    return ScriptDirectory.from_config(_alembic("")).get_current_head()


def prepare_sqlite(engine: Engine, *, reading: bool = False) -> None:
    """Make SQLite fit for several processes: they wait for each other, and take write locks at the beginning.

    A transaction that first reads and then writes would otherwise fail at once when another process writes.
    The write-ahead log is the file's own since it was migrated.

    Args:
        reading: It has no transactions: each of its statements stands alone.
    """

    @event.listens_for(engine, "connect")
    def configure(connection: Any, _record: Any) -> None:
        try:
            connection.isolation_level = None
            cursor = connection.cursor()
            for pragma in (f"busy_timeout={BUSY_MS}", "synchronous=FULL", "foreign_keys=ON"):
                cursor.execute(f"PRAGMA {pragma}")
            cursor.close()
        except BaseException:
            connection.close()  # the pool forgets a connection that this function refuses, and leaves it open
            raise

    if reading:
        return

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        if connection.get_execution_options().get("isolation_level") != "AUTOCOMMIT":
            connection.exec_driver_sql(BEGIN)


async def drop_all(write: Write, table: Table, old: ColumnElement[bool]) -> int:
    """Delete a table's old rows, portion by portion, and return how many there were."""
    portion = select(table.c.seq).where(old).limit(DROPPED)
    statement = delete(table).where(table.c.seq.in_(portion))

    async def drop(connection: AsyncConnection) -> int:
        return (await connection.execute(statement)).rowcount

    dropped = await write(drop)
    total = dropped
    while dropped == DROPPED:
        await anyio.sleep(0.01)  # who waits for SQLite's lock looks now and then
        dropped = await write(drop)
        total += dropped
    return total
