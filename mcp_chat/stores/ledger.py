"""The record of accepted commands in SQL: each once for its id, and how it ended."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import cached_property
from typing import Any, ClassVar, TypeVar

import structlog
from sqlalchemy import Table, bindparam, delete, func, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncConnection

from mcp_chat.commands import Command
from mcp_chat.events import Failed, Final
from mcp_chat.exceptions import Interrupted, KeyMissing
from mcp_chat.message import ID, now
from mcp_chat.stores.base import Accepted, Addition
from mcp_chat.stores.cipher import Cipher
from mcp_chat.stores.committer import Committer
from mcp_chat.stores.database import drop_all
from mcp_chat.stores.rows import LOST, accepted_of, command_row, outcome_text
from mcp_chat.stores.sql_documents import Keeping
from mcp_chat.stores.sql_users import Draw, Setting
from mcp_chat.stores.tables import chat_command
from mcp_chat.stores.trail import Noting

log = structlog.get_logger()

T = TypeVar("T")
Key = tuple[str, str]
"""A user's key and a command's id."""

DELETED = Failed(code=Interrupted.code, text="The conversation was deleted.")
"""The outcome of a message in a session that was deleted before its owner could stop it."""

REMEMBERED = timedelta(days=7)
"""How long it is known how a command ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Acceptance:
    """A command that is to be recorded; any worker may."""

    epoch: ClassVar[None] = None
    user: str
    command: Command

    @property
    def key(self) -> Key:
        """What names the command."""
        return self.user, self.command.id


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How a command ended.

    Attributes:
        epoch: The owner's; None when it is no owner's word that nobody can carry it out.
    """

    user: str
    command_id: str
    outcome: Final
    epoch: int | None

    @property
    def key(self) -> Key:
        """What names the command."""
        return self.user, self.command_id


Entry = Addition | Acceptance | Ending | Draw | Setting | Noting | Keeping
"""What shares transactions."""
Result = Accepted | int | None
"""What comes of an entry: what the record has of a command, the epoch that is drawn, a document's version."""

_of = chat_command.c
_AS_RECORDED = select(
    _of.seq, _of.user_key, _of.id, _of.session_id, _of.run, _of.body, _of.outcome, _of.created_at
)
_ACCEPTED = _AS_RECORDED.where(_of.user_key == bindparam("who"), _of.id == bindparam("which"))
_ALL_OPEN = _AS_RECORDED.where(_of.user_key == bindparam("who"), _of.outcome.is_(None)).order_by(_of.seq)
_ONE_OPEN = update(chat_command).where(
    _of.user_key == bindparam("who"), _of.id == bindparam("which"), _of.outcome.is_(None)
)
_AGAIN = _ONE_OPEN.values(again=True)
_END = _ONE_OPEN.values(outcome=bindparam("how"), ended_at=bindparam("then"), body=None)


class SQLLedger(ABC):
    """What `SQLArchive` does as a ledger, by the access to the database that it has."""

    _cipher: Cipher
    _committer: Committer[Entry, Result]

    @abstractmethod
    def _insert(self, table: Table) -> Any: ...

    @abstractmethod
    async def _write(self, access: Callable[[AsyncConnection], Awaitable[T]]) -> T: ...

    @abstractmethod
    async def _read(self, statement: Any) -> Sequence[Any]: ...

    @abstractmethod
    async def _find(self, statement: Any, **values: Any) -> Sequence[Any]: ...

    @abstractmethod
    async def _hold(self, connection: AsyncConnection, user: str, epoch: int | None) -> None: ...

    async def accept(self, user: str, command: Command) -> Accepted:
        """Record a command unless its id is known, and return what the record has."""
        accepted = await self._committer.add(Acceptance(user=user, command=command))
        assert isinstance(accepted, Accepted)
        if accepted.command is None and accepted.outcome is None:
            raise KeyMissing
        return accepted

    async def withdraw(self, user: str, command_id: str) -> None:
        """Forget a command that has not ended, unless somebody has brought it again and relies on it."""
        lonely = delete(chat_command).where(*_open(user), _of.id == command_id, _of.again.is_(False))

        async def forget(connection: AsyncConnection) -> None:
            await self._hold(connection, user, None)
            await connection.execute(lonely)

        await self._write(forget)

    async def accepted(self, user: str, command_id: str) -> Accepted | None:
        """Return a command."""
        if re.fullmatch(ID, command_id) is None:
            return None
        rows = await self._find(_ACCEPTED, who=user, which=command_id)
        return accepted_of(self._cipher, rows[0]) if rows else None

    async def failures(self, user: str, runs: Sequence[str]) -> dict[str, Failed]:
        """Return why turns failed, as far as they did, by what the ids of their messages begin with."""
        ended = _of.user_key == user, _of.run.in_(runs), _of.outcome.is_not(None)
        rows = await self._read(_AS_RECORDED.where(*ended))
        found = ((row.run, accepted_of(self._cipher, row).outcome) for row in rows)
        return {run: outcome for run, outcome in found if isinstance(outcome, Failed) and outcome is not LOST}

    async def open_commands(self, user: str) -> list[Command]:
        """Return the commands that have not ended, in order; those that nobody can ever read end here."""
        rows = await self._find(_ALL_OPEN, who=user)
        found = [accepted_of(self._cipher, row) for row in rows]
        for each in found:
            if each.outcome is not None:
                await self._end(user, each.id, each.outcome, None)
        return [each.command for each in found if each.command is not None]

    async def retry(self, user: str, command_id: str, *, epoch: int) -> int:
        """Count one more attempt at an open command and return the number of them, 0 if there is none."""
        statement = update(chat_command).where(*_open(user), _of.id == command_id)

        async def count(connection: AsyncConnection) -> int:
            await self._hold(connection, user, epoch)
            counted = await connection.execute(
                statement.values(attempts=_of.attempts + 1).returning(_of.attempts)
            )
            return int(counted.scalar() or 0)

        return await self._write(count)

    async def end(self, user: str, command_id: str, outcome: Final, *, epoch: int) -> None:
        """Record how a command ended; the first end counts."""
        await self._end(user, command_id, outcome, epoch)

    async def _end(self, user: str, command_id: str, outcome: Final, epoch: int | None) -> None:
        await self._committer.add(Ending(user=user, command_id=command_id, outcome=outcome, epoch=epoch))

    async def neglected(self, *, seconds: float, limit: int = 1000) -> list[str]:
        """Return the users whose commands have waited so long for their ends, the longest first."""
        since = now() - timedelta(seconds=seconds)
        statement = (
            select(_of.user_key)
            .where(_of.outcome.is_(None), _of.created_at < since)
            .group_by(_of.user_key)
            .order_by(func.min(_of.created_at))
            .limit(limit)
        )
        return [row.user_key for row in await self._read(statement)]

    async def _drop_ended(self) -> None:
        ended = _of.outcome.is_not(None) & (_of.ended_at < now() - REMEMBERED)
        if dropped := await drop_all(self._write, chat_command, ended):
            log.info("commands.dropped", commands=dropped)

    # In a transaction that others share

    async def _record_all(self, connection: AsyncConnection, entries: Sequence[Entry]) -> list[Result]:
        """Accept and end commands, in order, and return what comes of each entry; holds their users."""
        results: list[Result] = []
        for portion in _portions(entries):
            acceptances = [each for each in portion if isinstance(each, Acceptance)]
            accepted = iter(await self._accept_all(connection, acceptances))
            if ended := [self._ended(end) for each in portion if (end := _ending(each))]:
                await connection.execute(_END, ended)
            results += [next(accepted) if isinstance(each, Acceptance) else None for each in portion]
        return results

    def _ended(self, ending: Ending) -> dict[str, Any]:
        how = outcome_text(self._cipher, ending.user, ending.outcome)
        return {"who": ending.user, "which": ending.command_id, "how": how, "then": now()}

    async def _accept_all(
        self, connection: AsyncConnection, acceptances: Sequence[Acceptance]
    ) -> list[Accepted]:
        first: dict[Key, Acceptance] = {}
        for each in acceptances:
            first.setdefault(each.key, each)
        known: dict[Key, Accepted] = {}
        while missing := [each for key, each in first.items() if key not in known]:
            # Again, for one that was known and is dropped in between.
            known |= await self._added(connection, missing)
            known |= await self._known(connection, [each.key for each in missing if each.key not in known])
        if again := [each for each in acceptances if first[each.key] is not each or not known[each.key].new]:
            await connection.execute(_AGAIN, [{"who": each.user, "which": each.command.id} for each in again])
        return [
            known[each.key] if first[each.key] is each else replace(known[each.key], new=False)
            for each in acceptances
        ]

    async def _added(
        self, connection: AsyncConnection, acceptances: Sequence[Acceptance]
    ) -> dict[Key, Accepted]:
        """Add the commands whose ids are new, and return these."""
        rows = {each.key: command_row(self._cipher, each.user, each.command) for each in acceptances}
        added = await connection.execute(self._add_commands, list(rows.values()))
        commands = {each.key: each.command for each in acceptances}
        keys: list[Key] = [(row.user_key, row.id) for row in added]
        return {
            key: Accepted(
                id=key[1],
                session_id=rows[key]["session_id"],
                run=rows[key]["run"],
                command=commands[key],
                new=True,
            )
            for key in keys
        }

    @cached_property
    def _add_commands(self) -> Any:
        """Made once: to make it takes longer than to run it."""
        return self._insert(chat_command).on_conflict_do_nothing().returning(_of.user_key, _of.id)

    async def _known(self, connection: AsyncConnection, keys: Sequence[Key]) -> dict[Key, Accepted]:
        if not keys:
            return {}
        found = await connection.execute(_AS_RECORDED.where(tuple_(_of.user_key, _of.id).in_(keys)))
        return {(row.user_key, row.id): accepted_of(self._cipher, row) for row in found}


def ended_in(user: str, session_id: str) -> tuple[Any, ...]:
    """Return what holds for the commands of a session that have ended."""
    return _of.user_key == user, _of.session_id == session_id, _of.outcome.is_not(None)


def stopped_in(cipher: Cipher, user: str, session_id: str) -> Any:
    """Return the statement that ends a session's messages which wait for an answer: it is deleted."""
    how = outcome_text(cipher, user, DELETED)
    ended = update(chat_command).values(outcome=how, body=None, ended_at=now())
    return ended.where(*_open(user), _of.session_id == session_id)


def _open(user: str) -> tuple[Any, ...]:
    return _of.user_key == user, _of.outcome.is_(None)


def _ending(entry: Entry) -> Ending | None:
    """Return how an entry ends a command, if it does."""
    if isinstance(entry, Addition) and entry.ends:
        command_id, outcome = entry.ends
        return Ending(user=entry.user, command_id=command_id, outcome=outcome, epoch=entry.epoch)
    return entry if isinstance(entry, Ending) else None


def _portions(entries: Sequence[Entry]) -> Iterator[Sequence[Entry]]:
    """Cut in front of a command that comes again behind its end: a portion is accepted first, then ended."""
    begin = 0
    ended: set[Key] = set()
    for n, each in enumerate(entries):
        if end := _ending(each):
            ended.add(end.key)
        elif isinstance(each, Acceptance) and each.key in ended:
            yield entries[begin:n]
            begin, ended = n, set()
    yield entries[begin:]
