"""Users in SQL: whose epoch is the newest, which all writing for them asks, and their configurations."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from sqlalchemy import Table, bindparam, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from mcp_chat.exceptions import ChatError, Fenced
from mcp_chat.message import now
from mcp_chat.stores.tables import chat_user

_of = chat_user.c
_EPOCHS = (
    select(_of.user_key, _of.epoch)
    .where(_of.user_key.in_(bindparam("users", expanding=True)))
    .order_by(_of.user_key)
    .with_for_update()
)
_EPOCH = select(_of.epoch).where(_of.user_key == bindparam("who"))
_CONFIG = select(_of.config).where(_of.user_key == bindparam("who"))
_RAISE = update(chat_user).where(_of.user_key == bindparam("who")).values(epoch=bindparam("now"))
_CONFIGURE = (
    update(chat_user)
    .where(_of.user_key == bindparam("who"))
    .values(config=bindparam("sealed"), updated_at=bindparam("then"))
)


class Held(Protocol):
    """What is written for a user; without an epoch it is anybody's to write."""

    @property
    def user(self) -> str:
        """Whose row is held."""
        ...

    @property
    def epoch(self) -> int | None:
        """The owner's."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Anybody:
    """A user for whom something is written by an owner of this epoch, or by anybody."""

    user: str
    epoch: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    """A new epoch that is to be drawn.

    Attributes:
        floor: It is this one at least.
    """

    epoch: ClassVar[None] = None
    user: str
    floor: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """A configuration that is to be kept, or deleted with None."""

    user: str
    sealed: str | None
    epoch: int


class SQLUsers(ABC):
    """What `SQLArchive` does with users, by the access to the database that it has."""

    @abstractmethod
    def _insert(self, table: Table) -> Any: ...

    @abstractmethod
    async def _find(self, statement: Any, **values: Any) -> Sequence[Any]: ...

    @abstractmethod
    async def _together(self, entry: Any) -> Any: ...

    async def epoch(self, user: str) -> int:
        """Return the user's newest epoch, 0 if none was drawn."""
        rows = await self._find(_EPOCH, who=user)
        return int(rows[0].epoch) if rows else 0

    async def next_epoch(self, user: str, floor: int) -> int:
        """Draw an epoch that nobody has drawn before."""
        return int(await self._together(Draw(user=user, floor=floor)))

    async def get(self, user: str) -> str | None:
        """Return the user's sealed configuration."""
        rows = await self._find(_CONFIG, who=user)
        return rows[0].config if rows else None

    async def put(self, user: str, sealed: str, *, epoch: int) -> None:
        """Set the user's configuration."""
        await self._together(Setting(user=user, sealed=sealed, epoch=epoch))

    async def delete(self, user: str, *, epoch: int) -> None:
        """Delete the user's configuration."""
        await self._together(Setting(user=user, sealed=None, epoch=epoch))

    # In a transaction, which others may share

    async def _hold(self, connection: AsyncConnection, user: str, epoch: int | None) -> None:
        """Hold the user's row, which from now on knows this epoch, and refuse one that is not the newest."""
        [refused] = await self._hold_all(connection, [Anybody(user=user, epoch=epoch)])
        if isinstance(refused, ChatError):
            raise refused

    async def _hold_all(
        self, connection: AsyncConnection, entries: Sequence[Held]
    ) -> list[ChatError | int | None]:
        """Hold the rows of all users, always in the same order.

        Returns:
            For each entry the epoch that it has drawn, or `Fenced` if its own is not the newest, or None.
        """
        newest = await self._epochs(connection, sorted({entry.user for entry in entries}))
        known, outcomes = dict(newest), [_asked(entry, newest) for entry in entries]
        raised = [{"who": user, "now": epoch} for user, epoch in newest.items() if epoch > known[user]]
        if raised:
            await connection.execute(_RAISE, raised)
        return outcomes

    async def _epochs(self, connection: AsyncConnection, users: list[str]) -> dict[str, int]:
        """Lock the users' rows and return their epochs; a user who is new gets a row."""
        if not users:
            return {}
        epochs = {row.user_key: row.epoch for row in await connection.execute(_EPOCHS, {"users": users})}
        if missing := [user for user in users if user not in epochs]:
            rows = [{"user_key": user, "epoch": 0, "updated_at": now()} for user in missing]
            await connection.execute(self._insert(chat_user).on_conflict_do_nothing(), rows)
            found = await connection.execute(_EPOCHS, {"users": users})
            epochs = {row.user_key: row.epoch for row in found}
        return epochs

    async def _set_all(self, connection: AsyncConnection, settings: Sequence[Setting]) -> None:
        """Keep configurations; holds their users."""
        then = now()
        rows = [{"who": each.user, "sealed": each.sealed, "then": then} for each in settings]
        if rows:
            await connection.execute(_CONFIGURE, rows)


def _asked(entry: Held, newest: dict[str, int]) -> ChatError | int | None:
    """Let one entry raise what is the newest of its user, and return what comes of it."""
    last = newest[entry.user]
    if isinstance(entry, Draw):
        newest[entry.user] = drawn = max(entry.floor, last + 1)
        return drawn
    newest[entry.user] = max(last, entry.epoch or last)
    return Fenced() if entry.epoch is not None and entry.epoch < last else None
