"""The archive in SQL: everything that must survive, each message once and in order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any, TypeVar

import anyio
import anyio.to_thread
import structlog
from sqlalchemy import (
    Boolean,
    Table,
    bindparam,
    case,
    func,
    inspect,
    or_,
    select,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from mcp_chat.exceptions import (
    ChatError,
    StoreUnavailable,
    WrongSchema,
)
from mcp_chat.message import Message
from mcp_chat.session import Session
from mcp_chat.stores.base import Addition, Found, Kept
from mcp_chat.stores.cipher import PLAIN, Cipher
from mcp_chat.stores.committer import Committer
from mcp_chat.stores.conditions import WHICH, WHO, is_id, of, placed, same_session
from mcp_chat.stores.database import VERSION_TABLE, newest_revision, translated
from mcp_chat.stores.engines import Engines
from mcp_chat.stores.ledger import Entry, Result, SQLLedger
from mcp_chat.stores.rows import (
    USAGE_COLUMNS,
    attachment_rows,
    found_of,
    json_text,
    message_of,
    message_rows,
    session_rows,
)
from mcp_chat.stores.search import matching, searched
from mcp_chat.stores.sql_branches import SQLBranches, in_session
from mcp_chat.stores.sql_documents import Keeping, SQLDocuments
from mcp_chat.stores.sql_sessions import SQLSessions
from mcp_chat.stores.sql_usages import SQLUsages
from mcp_chat.stores.sql_users import Setting, SQLUsers
from mcp_chat.stores.tables import (
    chat_attachment,
    chat_deed,
    chat_message,
    chat_session,
)
from mcp_chat.stores.trail import Noting, SQLTrail, deed_rows
from mcp_chat.stores.uploads import SQLUploads

log = structlog.get_logger()

T = TypeVar("T")

PING = 2.0
PATIENCE = 10.0
"""Seconds that one access may take."""
STANDING = 200


# Made once: to make them takes longer than to run them.
_SAID = (
    select(chat_message.c.seq, chat_message.c.body)
    .where(chat_message.c.user_key == WHO, chat_message.c.session_id == WHICH)
    .order_by(chat_message.c.seq)
    .limit(STANDING)
)
_STANDING = _SAID.where(chat_message.c.standing.is_(True))
_STANDING_AND = _SAID.where(
    chat_message.c.standing.is_(True) | chat_message.c.id.in_(bindparam("ids", expanding=True))
)


class SQLArchive(
    SQLUsers, SQLLedger, SQLTrail, SQLUploads, SQLDocuments, SQLUsages, SQLBranches, SQLSessions
):
    """Users, commands, sessions, messages, uploads and documents in tables.

    An access runs in a task of its own: cancelled half-way it would leave its locks behind, and a turn that
    is stopped cancels its tasks in the middle of what they do.

    Args:
        engines: The database.
        cipher: What texts go through.
        deeds_kept: How long a deed stays in the trail; None for ever.
        usages_kept: How long it is known what was spent; None for ever.
    """

    def __init__(
        self,
        engines: Engines,
        cipher: Cipher = PLAIN,
        *,
        deeds_kept: timedelta | None = None,
        usages_kept: timedelta | None = None,
    ) -> None:
        self.engines = engines
        self._engine = engines.writing
        self._reading = engines.reading
        self._cipher = cipher
        self._deeds_kept = deeds_kept
        self._usages_kept = usages_kept
        self._revision = newest_revision()
        self._accesses: set[asyncio.Task[Any]] = set()
        # Made once: to make them takes longer than to run them.
        self._touch_sessions = self._sessions()
        self._add_messages = self._insert(chat_message).on_conflict_do_nothing()
        self._add_attachments = self._insert(chat_attachment).on_conflict_do_nothing()
        self._add_deeds = self._insert(chat_deed).on_conflict_do_nothing()
        self._committer = Committer(self._write_all, patience=PATIENCE)

    async def run(self) -> None:
        """Write what is added, accepted and ended, until cancelled."""
        await self._committer.run()

    async def ping(self) -> None:
        with translated(), anyio.fail_after(PING):
            async with self._reading.connect() as connection:
                revision = await self._found_revision(connection)
            if revision != self._revision:
                raise WrongSchema

    async def _found_revision(self, connection: AsyncConnection) -> str | None:
        if not await connection.run_sync(lambda sync: inspect(sync).has_table(VERSION_TABLE)):
            return None
        found = await connection.exec_driver_sql(f"SELECT version_num FROM {VERSION_TABLE}")  # noqa: S608 - ours
        return found.scalar()

    # Messages

    async def add(self, addition: Addition) -> None:
        await self._committer.add(addition)

    async def _together(self, entry: Entry) -> Result:
        """Write something in a transaction that others share, and return what comes of it."""
        return await self._committer.add(entry)

    async def _write_all(self, entries: Sequence[Entry]) -> list[Result | ChatError]:
        """Write what many want to write, in one transaction with the same few statements for all."""
        size = sum(len(message.content) for each in _of_kind(entries, Addition) for message in each.messages)
        rows = await self._aside(size, lambda: [self._message_rows(each) for each in entries])
        small = size <= self._cipher.large
        async with (self.engines.committing if small else self._engine).begin() as connection:
            outcomes = await self._held(connection, entries)
            taken = [n for n, outcome in enumerate(outcomes) if outcome is None]
            entries = [entries[n] for n in taken]
            await self._add_all(connection, entries, [row for n in taken for row in rows[n]])
            for n, result in zip(taken, await self._results(connection, entries), strict=True):
                outcomes[n] = result
        return outcomes

    async def _held(self, connection: AsyncConnection, entries: Sequence[Entry]) -> list[Result | ChatError]:
        """Hold the users of all that only an owner may write; return what that alone tells of each entry."""
        owned = [each for each in entries if not isinstance(each, Noting)]
        outcomes = iter(await self._hold_all(connection, owned))
        return [None if isinstance(each, Noting) else next(outcomes) for each in entries]

    async def _results(
        self, connection: AsyncConnection, entries: Sequence[Entry]
    ) -> list[Result | ChatError]:
        """Write all that is no addition, and return what comes of each entry."""
        await self._set_all(connection, _of_kind(entries, Setting))
        recorded = await self._record_all(connection, entries)
        kept = iter(await self._keep_all(connection, _of_kind(entries, Keeping)))
        return [
            next(kept) if isinstance(each, Keeping) else result
            for each, result in zip(entries, recorded, strict=True)
        ]

    async def _add_all(
        self, connection: AsyncConnection, entries: Sequence[Entry], messages: Sequence[dict[str, Any]]
    ) -> None:
        if additions := await self._spend_all(connection, _of_kind(entries, Addition)):
            await connection.execute(self._touch_sessions, session_rows(self._cipher, additions))
        if messages:
            await connection.execute(self._add_messages, messages)
        if attachments := [row for each in additions for row in attachment_rows(each)]:
            await connection.execute(self._add_attachments, attachments)
        if deeds := [
            row for each in entries if isinstance(each, Addition | Noting) for row in deed_rows(each)
        ]:
            await connection.execute(self._add_deeds, deeds)

    def _sessions(self) -> Any:
        """The statement that makes sessions, or adds to what is known of them."""
        statement = self._insert(chat_session)
        new, old = statement.excluded, chat_session.c
        return statement.on_conflict_do_update(
            index_elements=["user_key", "id"],
            set_={
                "name": case((old.name == "", new.name), else_=old.name),
                "llm_backend": case((new.llm_backend == "", old.llm_backend), else_=new.llm_backend),
                **{name: _sum(old[name], new[name]) for name in USAGE_COLUMNS},
                "updated_at": case((new.updated_at > old.updated_at, new.updated_at), else_=old.updated_at),
            },
        )

    async def read(self, user: str, session_id: str, *, limit: int) -> list[Message]:
        return [kept.message for kept in await self.page(user, session_id, limit=limit)]

    async def page(
        self, user: str, session_id: str, *, limit: int, before: int | None = None, after: int | None = None
    ) -> list[Kept]:
        if not is_id(session_id):
            return []
        kept: list[Kept] = []
        while (wanted := limit - len(kept)) > 0:  # again, for those that could not be read
            rows = await self._read(_page(user, session_id, wanted, before, after))
            kept += await self._kept(user, rows)
            if len(rows) < wanted:
                break
            before, after = (before, rows[-1].seq) if after is not None else (rows[-1].seq, None)
        return kept if after is not None else kept[::-1]

    async def turn(self, user: str, session_id: str, run: str) -> list[Message]:
        if not (is_id(session_id) and is_id(run)):
            return []
        of = chat_message.c
        # A range of ids would be quicker, and mean another one in each of PostgreSQL's collations.
        written = of.id.startswith(f"{run}-", autoescape=True)
        statement = select(of.seq, of.body).where(in_session(user, session_id), written)
        found = [
            kept.message for kept in await self._kept(user, await self._read(statement.order_by(of.seq)))
        ]
        return [each for each in found if each.id.startswith(run)]  # SQLite takes A for a

    async def count(self, user: str, session_id: str) -> int:
        if not is_id(session_id):
            return 0
        statement = select(func.count()).select_from(chat_message).where(*of(chat_message, user, session_id))
        return int((await self._read(statement))[0][0])

    async def standing(self, user: str, session_id: str, ids: Sequence[str]) -> list[Kept]:
        if pinned := list(filter(is_id, ids)):
            rows = await self._read(_STANDING_AND, {**placed(user, session_id), "ids": pinned})
        else:
            rows = await self._find(_STANDING, **placed(user, session_id))
        return [
            Kept(place=row.seq, message=message)
            for row in rows
            if (message := message_of(self._cipher, user, row))
        ]

    async def pick(self, user: str, session_id: str, ids: Sequence[str]) -> list[Message]:
        statement = (
            select(chat_message.c.seq, chat_message.c.body)
            .where(*of(chat_message, user, session_id), chat_message.c.id.in_(list(filter(is_id, ids))))
            .order_by(chat_message.c.seq)
        )
        return [
            message for row in await self._read(statement) if (message := message_of(self._cipher, user, row))
        ]

    async def search(self, user: str, words: Sequence[str], *, limit: int, before: int | None) -> list[Found]:
        wanted = searched(words)
        found: list[Found] = []
        while wanted and (left := limit - len(found)) > 0:  # again, for those that could not be read
            rows = await self._read(self._matches(user, wanted, left, before))
            found += await self._found(user, rows, wanted)
            if len(rows) < left:
                break
            before = rows[-1].seq
        return found

    def _matches(self, user: str, wanted: list[str], limit: int, before: int | None) -> Any:
        home = chat_session.alias()
        at = func.coalesce(chat_session.c.branch_of, chat_session.c.id)
        hidden = chat_session.c.branch_of.is_not(None)
        statement = (
            select(
                chat_message.c.seq,
                chat_message.c.body,
                home.c.id.label("session_id"),
                home.c.name,
                hidden.label("hidden"),
            )
            .join(chat_session, same_session())
            .join(home, (home.c.user_key == chat_session.c.user_key) & (home.c.id == at))
            .where(
                chat_message.c.user_key == user,
                matching(self._engine.dialect.name, self._cipher, user, wanted),
            )
            .order_by(chat_message.c.seq.desc())
            .limit(limit)
        )
        return statement if before is None else statement.where(chat_message.c.seq < before)

    async def tidy(self) -> None:
        """Drop what nobody needs: files without messages, commands long ended, old deeds and documents."""
        await self._drop_ended()
        await self._drop_unused()
        await self._drop_expired()
        await self._drop_old_deeds()
        await self._drop_old_usages()

    # Rows

    def _context_text(self, user: str, session: Session) -> str:
        return self._cipher.seal(json_text(session.context), user=user, field="context")

    def _message_rows(self, entry: Entry) -> list[dict[str, Any]]:
        return message_rows(self._cipher, entry) if isinstance(entry, Addition) else []

    async def _kept(self, user: str, rows: Sequence[Any]) -> list[Kept]:
        def read() -> list[Kept]:
            found = ((row.seq, message_of(self._cipher, user, row)) for row in rows)
            return [Kept(place=place, message=message) for place, message in found if message]

        return await self._aside(sum(len(row.body) for row in rows), read)

    async def _found(self, user: str, rows: Sequence[Any], wanted: list[str]) -> list[Found]:
        def read() -> list[Found]:
            found = ((row, message_of(self._cipher, user, row)) for row in rows)
            return [found_of(self._cipher, user, row, each, wanted) for row, each in found if each]

        return await self._aside(sum(len(row.body) for row in rows), read)

    async def _aside(self, size: int, work: Callable[[], T]) -> T:
        """Do some work with so many characters, in a thread if they are many."""
        return await anyio.to_thread.run_sync(work) if size > self._cipher.large else work()

    # Accesses

    @property
    def _dialect(self) -> str:
        return self._engine.dialect.name

    def _insert(self, table: Table) -> Any:
        """Both dialects spell ON CONFLICT alike, but SQLAlchemy keeps it with each."""
        dialect = postgresql if self._dialect == "postgresql" else sqlite
        return dialect.insert(table)

    async def _write(self, access: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        async def write() -> T:
            async with self._engine.begin() as connection:
                return await access(connection)

        return await self._apart(write)

    async def _find(self, statement: Any, **values: Any) -> Sequence[Any]:
        """Read a row or a few by their keys."""
        found = self.engines.at_hand.read(statement, values) if self.engines.at_hand else None
        return await self._read(statement, values) if found is None else found

    async def _read(self, statement: Any, values: Mapping[str, Any] | None = None) -> Sequence[Any]:
        async def read() -> Sequence[Any]:
            async with self._reading.connect() as connection:
                return (await connection.execute(statement, values)).all()

        return await self._apart(read)

    async def _apart(self, access: Callable[[], Awaitable[T]], *, patience: float | None = PATIENCE) -> T:
        async def limited() -> T:
            with anyio.fail_after(patience):
                return await access()

        task = asyncio.create_task(limited())
        self._accesses.add(task)
        task.add_done_callback(self._forget)
        with translated(), anyio.CancelScope(shield=True):
            return await asyncio.shield(task)
        raise StoreUnavailable

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._accesses.discard(task)
        if not task.cancelled():
            task.exception()  # whoever asked may be gone

    async def close(self) -> None:
        """Take nothing more to be added, and return when no other access is on its way."""
        self._committer.close()
        if self._accesses:
            await asyncio.wait(self._accesses)


def _sum(old: Any, new: Any) -> Any:
    """Counts add up; marks hold once they are set."""
    return or_(old, new) if isinstance(old.type, Boolean) else old + new


def _of_kind(entries: Sequence[Entry], kind: type[T]) -> list[T]:
    return [each for each in entries if isinstance(each, kind)]


def _page(user: str, session_id: str, limit: int, before: int | None, after: int | None) -> Any:
    place = chat_message.c.seq
    statement = select(place, chat_message.c.body).where(*of(chat_message, user, session_id)).limit(limit)
    if before is not None:
        statement = statement.where(place < before)
    if after is not None:
        return statement.where(place > after).order_by(place)
    return statement.order_by(place.desc())


@asynccontextmanager
async def open_sql(
    url: str, cipher: Cipher = PLAIN, *, audit_days: int = 0, usage_days: int = 0, at_once: bool = True
) -> AsyncIterator[SQLArchive]:
    """Open the archive at a database URL and close it at the end.

    Args:
        cipher: What texts go through.
        audit_days: How long a deed stays in the trail; 0 for ever.
        usage_days: How long it is known what was spent; 0 for ever.
        at_once: Whether SQLite's small statements are executed without its thread.
    """
    engines = Engines(url, at_once=at_once)
    archive = SQLArchive(
        engines,
        cipher,
        deeds_kept=timedelta(days=audit_days) if audit_days else None,
        usages_kept=timedelta(days=usage_days) if usage_days else None,
    )
    writing = asyncio.create_task(archive.run())
    try:
        yield archive
    finally:
        with anyio.CancelScope(shield=True):
            await archive.close()
            await asyncio.wait([writing], timeout=PATIENCE)
            writing.cancel()
            await asyncio.wait([writing])
            await engines.dispose()
