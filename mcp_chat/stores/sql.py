"""The archive in SQL: everything that must survive, each message once and in order."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, TypeVar

import anyio
import anyio.to_thread
import structlog
from sqlalchemy import Table, bindparam, case, delete, func, insert, inspect, select, tuple_, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from mcp_chat.exceptions import (
    ChatError,
    Fenced,
    KeyMissing,
    StoreUnavailable,
    TooManySessions,
    WrongSchema,
)
from mcp_chat.message import ID, Message, Usage, new_id
from mcp_chat.session import Session
from mcp_chat.stores.base import Addition, Found, Kept, Recency
from mcp_chat.stores.cipher import PLAIN, Cipher
from mcp_chat.stores.committer import Committer
from mcp_chat.stores.database import VERSION_TABLE, driver_url, newest_revision, prepare_sqlite, translated
from mcp_chat.stores.ledger import Entry, Result, SQLLedger, ended_in, stopped_in
from mcp_chat.stores.rows import (
    attachment_rows,
    changed,
    found_of,
    imported_row,
    is_locked,
    json_text,
    message_of,
    message_rows,
    session_of,
    session_rows,
)
from mcp_chat.stores.search import matching, searched
from mcp_chat.stores.tables import (
    chat_attachment,
    chat_command,
    chat_deed,
    chat_message,
    chat_session,
    chat_upload,
    chat_user,
)
from mcp_chat.stores.trail import SQLTrail, deed_rows
from mcp_chat.stores.uploads import SQLUploads, unused

log = structlog.get_logger()

T = TypeVar("T")

PING = 2.0
PATIENCE = 10.0
"""Seconds that one access may take."""
STANDING = 200
PORTION, PORTION_SIZE = 500, 1_000_000
"""Messages, and characters of them, that an import writes in one transaction: others want to write too."""


class SQLArchive(SQLLedger, SQLTrail, SQLUploads):
    """Users, commands, sessions, messages and uploads in tables.

    An access runs in a task of its own: cancelled half-way it would leave its locks behind, and LangGraph
    cancels its tasks in the middle of what they do.

    Args:
        engine: An engine of `open_sql`.
        cipher: What texts go through.
        deeds_kept: How long a deed stays in the trail; None for ever.
    """

    def __init__(
        self, engine: AsyncEngine, cipher: Cipher = PLAIN, *, deeds_kept: timedelta | None = None
    ) -> None:
        self._engine = engine
        self._cipher = cipher
        self._deeds_kept = deeds_kept
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
            async with self._engine.connect() as plain:
                connection = await plain.execution_options(isolation_level="AUTOCOMMIT")
                revision = await self._found_revision(connection)
            if revision != self._revision:
                raise WrongSchema

    async def _found_revision(self, connection: AsyncConnection) -> str | None:
        if not await connection.run_sync(lambda sync: inspect(sync).has_table(VERSION_TABLE)):
            return None
        found = await connection.exec_driver_sql(f"SELECT version_num FROM {VERSION_TABLE}")  # noqa: S608 - ours
        return found.scalar()

    # Epochs and configurations

    async def epoch(self, user: str) -> int:
        rows = await self._read(select(chat_user.c.epoch).where(chat_user.c.user_key == user))
        return int(rows[0].epoch) if rows else 0

    async def next_epoch(self, user: str, floor: int) -> int:
        async def draw(connection: AsyncConnection) -> int:
            drawn = await connection.execute(self._at_least(user, floor, chat_user.c.epoch + 1))
            return int(drawn.scalar_one())

        return await self._write(draw)

    async def get(self, user: str) -> str | None:
        statement = select(chat_user.c.config).where(chat_user.c.user_key == user)
        rows = await self._read(statement)
        return rows[0].config if rows else None

    async def put(self, user: str, sealed: str, *, epoch: int) -> None:
        await self._configure(user, sealed, epoch)

    async def delete(self, user: str, *, epoch: int) -> None:
        await self._configure(user, None, epoch)

    async def _configure(self, user: str, sealed: str | None, epoch: int) -> None:
        async def configure(connection: AsyncConnection) -> None:
            await self._hold(connection, user, epoch)
            statement = update(chat_user).where(chat_user.c.user_key == user)
            await connection.execute(statement.values(config=sealed, updated_at=_now()))

        await self._write(configure)

    async def _hold(self, connection: AsyncConnection, user: str, epoch: int | None) -> None:
        """Hold the user's row, which from now on knows this epoch, and refuse one that is not the newest."""
        refused = await self._hold_all(connection, [Addition(user=user, session_id="", epoch=epoch)])
        if refused[0]:
            raise refused[0]

    async def _hold_all(
        self, connection: AsyncConnection, entries: Sequence[Entry]
    ) -> list[ChatError | None]:
        """Hold the rows of all users, always in the same order, and tell whose epoch is not the newest."""
        newest = await self._epochs(connection, sorted({entry.user for entry in entries}))
        known = dict(newest)
        refused: list[ChatError | None] = []
        for entry in entries:
            epoch = newest[entry.user] if entry.epoch is None else entry.epoch
            refused.append(Fenced() if epoch < newest[entry.user] else None)
            newest[entry.user] = max(epoch, newest[entry.user])
        raised = [{"who": user, "now": epoch} for user, epoch in newest.items() if epoch > known[user]]
        if raised:
            statement = update(chat_user).where(chat_user.c.user_key == bindparam("who"))
            await connection.execute(statement.values(epoch=bindparam("now")), raised)
        return refused

    async def _epochs(self, connection: AsyncConnection, users: list[str]) -> dict[str, int]:
        """Lock the users' rows and return their epochs; a user who is new gets a row."""
        statement = (
            select(chat_user.c.user_key, chat_user.c.epoch)
            .where(chat_user.c.user_key.in_(users))
            .order_by(chat_user.c.user_key)
            .with_for_update()
        )
        epochs = {row.user_key: row.epoch for row in await connection.execute(statement)}
        if missing := [user for user in users if user not in epochs]:
            rows = [{"user_key": user, "epoch": 0, "updated_at": _now()} for user in missing]
            await connection.execute(self._insert(chat_user).on_conflict_do_nothing(), rows)
            epochs = {row.user_key: row.epoch for row in await connection.execute(statement)}
        return epochs

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

    # Messages

    async def add(self, addition: Addition) -> None:
        await self._committer.add(addition)

    async def _write_all(self, entries: Sequence[Entry]) -> list[Result | ChatError]:
        """Write what many want to write, in one transaction with the same few statements for all."""
        size = sum(len(message.content) for each in _additions(entries) for message in each.messages)
        rows = await self._aside(size, lambda: [self._message_rows(each) for each in entries])
        async with self._engine.begin() as connection:
            refused = await self._hold_all(connection, entries)
            taken = [n for n, error in enumerate(refused) if error is None]
            entries = [entries[n] for n in taken]
            await self._add_all(connection, _additions(entries), [row for n in taken for row in rows[n]])
            results = iter(await self._record_all(connection, entries))
        return [error or next(results) for error in refused]

    async def _add_all(
        self, connection: AsyncConnection, additions: Sequence[Addition], messages: Sequence[dict[str, Any]]
    ) -> None:
        if additions:
            await connection.execute(self._touch_sessions, session_rows(self._cipher, additions))
        if messages:
            await connection.execute(self._add_messages, messages)
        if attachments := [row for each in additions for row in attachment_rows(each)]:
            await connection.execute(self._add_attachments, attachments)
        if deeds := [row for each in additions for row in deed_rows(each)]:
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
                "input_tokens": old.input_tokens + new.input_tokens,
                "output_tokens": old.output_tokens + new.output_tokens,
                "updated_at": case((new.updated_at > old.updated_at, new.updated_at), else_=old.updated_at),
            },
        )

    async def read(self, user: str, session_id: str, *, limit: int) -> list[Message]:
        return [kept.message for kept in await self.page(user, session_id, limit=limit)]

    async def page(
        self, user: str, session_id: str, *, limit: int, before: int | None = None, after: int | None = None
    ) -> list[Kept]:
        if not _is_id(session_id):
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
        if not (_is_id(session_id) and _is_id(run)):
            return []
        of = chat_message.c
        # A range of ids would be quicker, and mean another one in each of PostgreSQL's collations.
        written = of.id.startswith(f"{run}-", autoescape=True)
        statement = select(of.seq, of.body).where(*_of(chat_message, user, session_id), written)
        found = [
            kept.message for kept in await self._kept(user, await self._read(statement.order_by(of.seq)))
        ]
        return [each for each in found if each.id.startswith(run)]  # SQLite takes A for a

    async def count(self, user: str, session_id: str) -> int:
        if not _is_id(session_id):
            return 0
        statement = select(func.count()).select_from(chat_message).where(*_of(chat_message, user, session_id))
        return int((await self._read(statement))[0][0])

    async def standing(self, user: str, session_id: str, ids: Sequence[str]) -> list[Kept]:
        of = chat_message.c
        wanted = of.standing.is_(True) | of.id.in_(list(filter(_is_id, ids)))
        statement = select(of.seq, of.body).where(*_of(chat_message, user, session_id), wanted)
        rows = await self._read(statement.order_by(of.seq).limit(STANDING))
        return [
            Kept(place=row.seq, message=message)
            for row in rows
            if (message := message_of(self._cipher, user, row))
        ]

    async def pick(self, user: str, session_id: str, ids: Sequence[str]) -> list[Message]:
        statement = (
            select(chat_message.c.seq, chat_message.c.body)
            .where(*_of(chat_message, user, session_id), chat_message.c.id.in_(list(filter(_is_id, ids))))
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
        statement = (
            select(chat_message.c.seq, chat_message.c.session_id, chat_message.c.body, chat_session.c.name)
            .join(chat_session, _same_session())
            .where(
                chat_message.c.user_key == user,
                matching(self._engine.dialect.name, self._cipher, user, wanted),
            )
            .order_by(chat_message.c.seq.desc())
            .limit(limit)
        )
        return statement if before is None else statement.where(chat_message.c.seq < before)

    # Sessions

    async def session(self, user: str, session_id: str) -> Session | None:
        if not _is_id(session_id):
            return None  # no id of ours, and perhaps no text that SQL takes
        rows = await self._read(select(chat_session).where(*_named(user, session_id)))
        return session_of(self._cipher, rows[0]) if rows else None

    async def sessions(
        self, user: str, *, limit: int, before: Recency | None = None, after: Recency | None = None
    ) -> list[Session]:
        place = tuple_(chat_session.c.updated_at, chat_session.c.id)
        statement = select(chat_session).where(chat_session.c.user_key == user, _begun()).limit(limit)
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
        if not _is_id(session_id):
            return None

        async def change(connection: AsyncConnection) -> Session | None:
            statement = select(chat_session).where(*_named(user, session_id)).with_for_update()
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
            await connection.execute(update(chat_session).where(*_named(user, session_id)).values(**values))
            return session

        return await self._write(change)

    async def keep_summary(
        self, user: str, session_id: str, summary: Mapping[str, Any], usage: Usage, *, epoch: int
    ) -> bool:
        async def keep(connection: AsyncConnection) -> bool:
            await self._hold(connection, user, epoch)
            statement = select(chat_session).where(*_named(user, session_id)).with_for_update()
            row = (await connection.execute(statement)).first()
            if row is None:
                return False
            session = changed(
                session_of(self._cipher, row), None, {"summary": dict(summary)}
            ).update_token_usage(usage)
            values: dict[str, Any] = {
                "input_tokens": session.token_usage.input_tokens,
                "output_tokens": session.token_usage.output_tokens,
            }
            if not (locked := is_locked(self._cipher, row)):
                values["context"] = self._context_text(user, session)
            await connection.execute(update(chat_session).where(*_named(user, session_id)).values(**values))
            return not locked

        return await self._write(keep)

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
        try:
            for messages in portions(session.messages):
                began = time.monotonic()
                written.append(await self._bring(user, session.id, messages))
                await anyio.sleep(time.monotonic() - began)  # who waits for SQLite's lock looks now and then
            await self._open(user, session, most)
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
        addition = Addition(user=user, session_id=session.id, messages=session.messages)
        attached = await anyio.to_thread.run_sync(attachment_rows, addition)

        async def add(connection: AsyncConnection) -> None:
            await self._hold(connection, user, None)
            if most and (await connection.execute(_numbered(user, most))).first():
                raise TooManySessions
            await connection.execute(insert(chat_session).values(imported_row(self._cipher, user, session)))
            mine = select(chat_upload.c.id).where(chat_upload.c.user_key == user)
            ids = set((await connection.execute(mine)).scalars()) if attached else ()
            if rows := [row for row in attached if row["upload_id"] in ids]:
                await connection.execute(insert(chat_attachment), rows)

        await self._write(add)

    async def _take_back(self, written: Sequence[Addition]) -> None:
        """Delete what was brought of a session that came to nothing; what is left of it nobody sees."""
        for each in written:
            of = _of(chat_message, each.user, each.session_id)
            ids = [message.id for message in each.messages]
            statement = delete(chat_message).where(*of, chat_message.c.id.in_(ids))
            with suppress(StoreUnavailable):
                await self._write(partial(AsyncConnection.execute, statement=statement))

    async def put_away(self, user: str, session_id: str) -> None:
        if not _is_id(session_id):
            return
        new = new_id()

        async def rename(connection: AsyncConnection) -> None:
            await self._hold(connection, user, None)
            await connection.execute(update(chat_session).where(*_named(user, session_id)).values(id=new))
            for table in (chat_message, chat_attachment):
                statement = update(table).where(*_of(table, user, session_id))
                await connection.execute(statement.values(session_id=new))
            await connection.execute(
                update(chat_command).where(*ended_in(user, session_id)).values(session_id=new)
            )

        await self._write(rename)

    async def delete_session(self, user: str, session_id: str, *, epoch: int | None) -> bool:
        if not _is_id(session_id):
            return False

        async def remove(connection: AsyncConnection) -> bool:
            await self._hold(connection, user, epoch)
            gone = await connection.execute(delete(chat_session).where(*_named(user, session_id)))
            await connection.execute(delete(chat_message).where(*_of(chat_message, user, session_id)))
            await connection.execute(delete(chat_command).where(*ended_in(user, session_id)))
            await connection.execute(stopped_in(self._cipher, user, session_id))
            mine = select(chat_attachment.c.upload_id).where(*_of(chat_attachment, user, session_id))
            had = list((await connection.execute(mine)).scalars())
            await connection.execute(delete(chat_attachment).where(*_of(chat_attachment, user, session_id)))
            await connection.execute(delete(chat_upload).where(chat_upload.c.id.in_(had), *unused(user)))
            return bool(gone.rowcount)

        return await self._write(remove)

    async def tidy(self) -> None:
        """Drop what nobody needs: files that no message has, commands long ended, and old deeds."""
        await self._drop_ended()
        await self._drop_unused()
        await self._drop_old_deeds()

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

    def _insert(self, table: Table) -> Any:
        """Both dialects spell ON CONFLICT alike, but SQLAlchemy keeps it with each."""
        dialect = postgresql if self._engine.dialect.name == "postgresql" else sqlite
        return dialect.insert(table)

    async def _write(self, access: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        async def write() -> T:
            async with self._engine.begin() as connection:
                return await access(connection)

        return await self._apart(write)

    async def _read(self, statement: Any) -> Sequence[Any]:
        async def read() -> Sequence[Any]:
            async with self._engine.connect() as plain:
                connection = await plain.execution_options(isolation_level="AUTOCOMMIT")
                return (await connection.execute(statement)).all()

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


def _additions(entries: Sequence[Entry]) -> list[Addition]:
    return [each for each in entries if isinstance(each, Addition)]


def _now() -> datetime:
    return datetime.now(UTC)


def _is_id(text: str) -> bool:
    return re.fullmatch(ID, text) is not None


def _page(user: str, session_id: str, limit: int, before: int | None, after: int | None) -> Any:
    place = chat_message.c.seq
    statement = select(place, chat_message.c.body).where(*_of(chat_message, user, session_id)).limit(limit)
    if before is not None:
        statement = statement.where(place < before)
    if after is not None:
        return statement.where(place > after).order_by(place)
    return statement.order_by(place.desc())


def _of(table: Table, user: str, session_id: str) -> tuple[Any, Any]:
    return table.c.user_key == user, table.c.session_id == session_id


def _named(user: str, id_: str, table: Table = chat_session) -> tuple[Any, Any]:
    return table.c.user_key == user, table.c.id == id_


def _numbered(user: str, number: int) -> Any:
    """One of a user's sessions if there are so many: the key's index is read no further."""
    return select(chat_session.c.id).where(chat_session.c.user_key == user).offset(number - 1).limit(1)


def _begun() -> Any:
    """Sessions with a name or a message: connecting alone begins no conversation that is worth listing."""
    message = select(chat_message.c.seq).where(_same_session()).correlate(chat_session)
    return (chat_session.c.name != "") | message.exists()


def _same_session() -> Any:
    return (chat_session.c.user_key == chat_message.c.user_key) & (
        chat_session.c.id == chat_message.c.session_id
    )


@asynccontextmanager
async def open_sql(url: str, cipher: Cipher = PLAIN, *, audit_days: int = 0) -> AsyncIterator[SQLArchive]:
    """Open the archive at a database URL and close it at the end.

    Args:
        cipher: What texts go through.
        audit_days: How long a deed stays in the trail; 0 for ever.
    """
    engine = create_async_engine(
        driver_url(url, asynchronous=True), pool_pre_ping=not url.startswith("sqlite"), hide_parameters=True
    )
    if engine.dialect.name == "sqlite":
        prepare_sqlite(engine.sync_engine)
    kept = timedelta(days=audit_days) if audit_days else None
    archive = SQLArchive(engine, cipher, deeds_kept=kept)
    writing = asyncio.create_task(archive.run())
    try:
        yield archive
    finally:
        with anyio.CancelScope(shield=True):
            await archive.close()
            await asyncio.wait([writing], timeout=PATIENCE)
            writing.cancel()
            await asyncio.wait([writing])
            await engine.dispose()
