"""SQL, the record: SQLite for one machine, PostgreSQL for production.

psycopg serves the migrations and the chat with one driver, and reads a libpq URL as operators write it.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from importlib.resources import files
from itertools import count
from typing import Any

import anyio
import structlog
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    DateTime,
    Engine,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    case,
    event,
    inspect,
    select,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import make_url
from sqlalchemy.exc import OperationalError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from mcp_chat.exceptions import Fenced, SettingsError, StoreUnavailable
from mcp_chat.message import MESSAGE, Message

log = structlog.get_logger()

VERSION_TABLE = "mcp_chat_version"
"""Alembic's own table, under a name of ours: a gateway's migrations may live in the same database."""

PING = 2.0
PATIENCE = 10.0
"""Seconds that one access may take. It is shielded: cancelled half-way, it would leave its locks behind."""

metadata = MetaData()

chat_user = Table(
    "chat_user",
    metadata,
    Column("user_key", String(128), primary_key=True),
    Column("epoch", BigInteger, nullable=False),
    Column("config", Text),
    Column("updated_at", DateTime(timezone=True), nullable=False),
)

chat_session = Table(
    "chat_session",
    metadata,
    Column("user_key", String(128), ForeignKey("chat_user.user_key", ondelete="CASCADE"), primary_key=True),
    Column("id", String(64), primary_key=True),
    Column("created_at", DateTime(timezone=True), nullable=False),
)

chat_message = Table(
    "chat_message",
    metadata,
    Column("seq", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("user_key", String(128), nullable=False),
    Column("session_id", String(64), nullable=False),
    Column("id", String(64), nullable=False),
    Column("body", Text, nullable=False),
    Index("chat_message_id", "user_key", "session_id", "id", unique=True),
    Index("chat_message_order", "user_key", "session_id", "seq"),
)


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


class SQLArchive:
    """Users, sessions and messages in tables.

    Args:
        engine: An engine of `open_sql`.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._revision = newest_revision()

    async def ping(self) -> None:
        with translated(), anyio.fail_after(PING):
            async with self._engine.connect() as plain:
                connection = await plain.execution_options(isolation_level="AUTOCOMMIT")
                revision = await self._found_revision(connection)
            if revision != self._revision:
                raise StoreUnavailable("The database's schema is not this version's: run `mcp-chat migrate`.")

    async def _found_revision(self, connection: AsyncConnection) -> str | None:
        if not await connection.run_sync(lambda sync: inspect(sync).has_table(VERSION_TABLE)):
            return None
        found = await connection.exec_driver_sql(f"SELECT version_num FROM {VERSION_TABLE}")  # noqa: S608 - ours
        return found.scalar()

    async def next_epoch(self, user: str, floor: int) -> int:
        async with self._writing() as connection:
            drawn = await connection.execute(self._at_least(user, floor, chat_user.c.epoch + 1))
            return int(drawn.scalar_one())

    async def get(self, user: str) -> str | None:
        statement = select(chat_user.c.config).where(chat_user.c.user_key == user)
        async with self._reading() as connection:
            sealed: str | None = (await connection.execute(statement)).scalar_one_or_none()
        return sealed

    async def put(self, user: str, sealed: str, *, epoch: int) -> None:
        async with self._writing() as connection:
            await self._check(connection, user, epoch)
            await connection.execute(
                chat_user.update()
                .where(chat_user.c.user_key == user)
                .values(config=sealed, updated_at=_now())
            )

    async def delete(self, user: str, *, epoch: int) -> None:
        async with self._writing() as connection:
            await self._check(connection, user, epoch)
            await connection.execute(
                chat_user.update().where(chat_user.c.user_key == user).values(config=None, updated_at=_now())
            )

    async def open_session(self, user: str, session_id: str, *, epoch: int) -> None:
        async with self._writing() as connection:
            await self._check(connection, user, epoch)
            await self._open(connection, user, session_id)

    async def has_session(self, user: str, session_id: str) -> bool:
        if not re.fullmatch(r"[\w-]{1,64}", session_id, re.ASCII):
            return False  # no id of ours, and perhaps no text that SQL takes
        statement = select(chat_session.c.id).where(
            chat_session.c.user_key == user, chat_session.c.id == session_id
        )
        async with self._reading() as connection:
            return (await connection.execute(statement)).scalar_one_or_none() is not None

    async def append(self, user: str, session_id: str, messages: Sequence[Message], *, epoch: int) -> None:
        rows = [
            {"user_key": user, "session_id": session_id, "id": m.id, "body": MESSAGE.dump_json(m).decode()}
            for m in messages
        ]
        async with self._writing() as connection:
            await self._check(connection, user, epoch)
            await self._open(connection, user, session_id)
            if rows:
                await connection.execute(self._insert(chat_message).on_conflict_do_nothing(), rows)

    async def read(self, user: str, session_id: str, *, limit: int) -> list[Message]:
        statement = (
            select(chat_message.c.body)
            .where(chat_message.c.user_key == user, chat_message.c.session_id == session_id)
            .order_by(chat_message.c.seq.desc())
            .limit(limit)
        )
        async with self._reading() as connection:
            bodies = (await connection.execute(statement)).scalars().all()
        return [MESSAGE.validate_json(body) for body in reversed(bodies)]

    async def _check(self, connection: AsyncConnection, user: str, epoch: int) -> None:
        """Hold the user's row, which from now on knows this epoch, and refuse one that is not the newest."""
        statement = select(chat_user.c.epoch).where(chat_user.c.user_key == user).with_for_update()
        newest = (await connection.execute(statement)).scalar_one_or_none()
        if newest is None or newest < epoch:
            newest = (await connection.execute(self._at_least(user, epoch, chat_user.c.epoch))).scalar_one()
        if newest > epoch:
            raise Fenced

    def _at_least(self, user: str, epoch: int, other: Any) -> Any:
        """The statement that sets a user's epoch to the higher of two, and returns it."""
        return (
            self._insert(chat_user)
            .values(user_key=user, epoch=epoch, updated_at=_now())
            .on_conflict_do_update(
                index_elements=["user_key"],
                set_={"epoch": case((other > epoch, other), else_=epoch), "updated_at": _now()},
            )
            .returning(chat_user.c.epoch)
        )

    async def _open(self, connection: AsyncConnection, user: str, session_id: str) -> None:
        await connection.execute(
            self._insert(chat_session)
            .values(user_key=user, id=session_id, created_at=_now())
            .on_conflict_do_nothing()
        )

    def _insert(self, table: Table) -> Any:
        """Both dialects spell ON CONFLICT alike, but SQLAlchemy keeps it with each."""
        dialect = postgresql if self._engine.dialect.name == "postgresql" else sqlite
        return dialect.insert(table)

    @asynccontextmanager
    async def _writing(self) -> AsyncIterator[AsyncConnection]:
        with translated(), anyio.fail_after(PATIENCE, shield=True):
            async with self._engine.begin() as connection:
                yield connection

    @asynccontextmanager
    async def _reading(self) -> AsyncIterator[AsyncConnection]:
        with translated(), anyio.fail_after(PATIENCE, shield=True):
            async with self._engine.connect() as connection:
                yield await connection.execution_options(isolation_level="AUTOCOMMIT")


def _now() -> datetime:
    return datetime.now(UTC)


@asynccontextmanager
async def open_sql(url: str) -> AsyncIterator[SQLArchive]:
    """Open the archive at a database URL and close it at the end."""
    engine = create_async_engine(driver_url(url, asynchronous=True), pool_pre_ping=True)
    if engine.dialect.name == "sqlite":
        prepare_sqlite(engine.sync_engine)
    try:
        yield SQLArchive(engine)
    finally:
        await engine.dispose()


def prepare_sqlite(engine: Engine) -> None:
    """Make SQLite fit for several processes: they wait for each other, and take write locks at the beginning.

    A transaction that first reads and then writes would otherwise fail at once when another process writes.
    The write-ahead log is the file's own since it was migrated.
    """

    @event.listens_for(engine, "connect")
    def configure(connection: Any, _record: Any) -> None:
        try:
            connection.isolation_level = None
            cursor = connection.cursor()
            for pragma in ("busy_timeout=5000", "synchronous=NORMAL", "foreign_keys=ON"):
                cursor.execute(f"PRAGMA {pragma}")
            cursor.close()
        except BaseException:
            connection.close()  # the pool forgets a connection that this function refuses, and leaves it open
            raise

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        if connection.get_execution_options().get("isolation_level") != "AUTOCOMMIT":
            connection.exec_driver_sql("BEGIN IMMEDIATE")
