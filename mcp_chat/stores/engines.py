"""The ways into one database: for transactions of all sizes, for small ones, and for reading."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from sqlalchemy import Connection, Engine, NullPool, create_engine
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from mcp_chat.stores.database import driver_url, prepare_sqlite
from mcp_chat.stores.sqlite import connector


class AtHand:
    """Reads a row or a few by their keys, at once; what it cannot is read the usual way.

    SQLite has them in microseconds, and to have them fetched by a thread takes a hundred times as long.

    Args:
        engine: Of SQLite, for statements that stand alone.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._connection: Connection | None = None

    def read(self, statement: Any, values: Mapping[str, Any]) -> Sequence[Any] | None:
        """Return the rows; None if that is not possible now."""
        try:
            if self._connection is None:
                self._connection = self.engine.connect()
            return self._connection.execute(statement, values).all()
        except SQLAlchemyError:
            self.close()
            return None

    def close(self) -> None:
        """Close the connection."""
        connection, self._connection = self._connection, None
        if connection:
            with suppress(SQLAlchemyError):
                connection.close()


class Engines:
    """The engines of one database.

    Args:
        url: As in `DATABASE_URL`.
        at_once: Whether SQLite's small statements are executed without its thread.

    Attributes:
        writing: For transactions.
        committing: For those of few small statements, one at a time.
        reading: For single statements: it costs to switch a connection over.
        at_hand: For the smallest of these, if there is a way.
    """

    def __init__(self, url: str, *, at_once: bool = True) -> None:
        with_driver, remote = driver_url(url, asynchronous=True), not url.startswith("sqlite")
        common: dict[str, Any] = {"pool_pre_ping": remote, "hide_parameters": True}
        threaded = {} if remote else {"async_creator": connector(with_driver)}
        self.writing = create_async_engine(with_driver, pool_size=3, max_overflow=4, **common, **threaded)
        self.committing = self.writing
        self.reading = create_async_engine(
            with_driver,
            pool_size=5,
            max_overflow=3,
            isolation_level="AUTOCOMMIT",
            pool_reset_on_return=None,
            **common,
            **threaded,
        )
        self.at_hand: AtHand | None = None
        if not remote:
            self._prepare(url, common, at_once=at_once)

    def _prepare(self, url: str, common: dict[str, Any], *, at_once: bool) -> None:
        prepare_sqlite(self.writing.sync_engine)
        prepare_sqlite(self.reading.sync_engine, reading=True)
        if not at_once:
            return
        creator = connector(driver_url(url, asynchronous=True), at_once=True)
        self.committing = create_async_engine(
            driver_url(url, asynchronous=True), pool_size=1, max_overflow=1, async_creator=creator, **common
        )
        prepare_sqlite(self.committing.sync_engine)
        engine = create_engine(
            driver_url(url, asynchronous=False), poolclass=NullPool, isolation_level="AUTOCOMMIT", **common
        )
        prepare_sqlite(engine, reading=True)
        self.at_hand = AtHand(engine)

    @property
    def all(self) -> list[Engine]:
        """All of them, each once."""
        found: list[AsyncEngine] = list(dict.fromkeys((self.writing, self.committing, self.reading)))
        return [*(each.sync_engine for each in found), *([self.at_hand.engine] if self.at_hand else [])]

    async def dispose(self) -> None:
        """Close all connections."""
        if self.at_hand:
            self.at_hand.close()
        for each in dict.fromkeys((self.writing, self.committing, self.reading)):
            await each.dispose()
