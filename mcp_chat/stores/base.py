"""The seams between the chat and where its state lives.

`user` is always the user's key (`mcp_chat.identity.user_key`), never a raw id. All methods raise
`StoreUnavailable` when the store does not answer; a missing value is never made up.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from mcp_chat.commands import Command
from mcp_chat.events import Entry
from mcp_chat.message import Message

START = "0-0"
"""The place before a log's first entry."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """Which worker serves a user, and the epoch that fences all earlier ones.

    A lease that was released names no worker; its epoch goes on counting.
    """

    user: str
    worker: str
    epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """A command in an inbox."""

    place: str
    command: Command


class Leases(Protocol):
    """Who owns whom, and which workers are alive."""

    async def get(self, user: str) -> Lease | None:
        """Return the user's lease, whether its worker is alive or not."""
        ...

    async def claim(self, user: str, worker: str, *, floor: int, seen: Lease | None) -> Lease | None:
        """Take the lease if it is still the one that was seen; None if somebody was faster.

        The new epoch is above the old one and at least `floor`; 0 stands for the store's clock in ms.
        """
        ...

    async def release(self, lease: Lease) -> None:
        """Give the lease up if it is still this one."""
        ...

    async def beat(self, worker: str, ttl: float) -> None:
        """Say that a worker is alive for another `ttl` seconds."""
        ...

    async def alive(self, worker: str) -> bool:
        """Tell whether a worker's last beat still counts."""
        ...

    async def forget(self, worker: str) -> None:
        """Say that a worker has stopped."""
        ...

    async def lock(self, user: str, token: str, ttl: float) -> bool:
        """Close the gate through which one worker at a time claims a user."""
        ...

    async def unlock(self, user: str, token: str) -> None:
        """Open the gate if the token is the one that closed it."""
        ...


class Inbox(Protocol):
    """A user's commands that no owner has taken up yet."""

    async def put(self, user: str, command: Command, *, limit: int) -> str | None:
        """Add a command unless its id was seen before.

        Returns:
            The end of the user's log when the id was first seen: what follows is about the command.
            None if `limit` commands are waiting already.
        """
        ...

    async def read(self, user: str, after: str) -> list[Waiting]:
        """Return the commands behind a place, in order."""
        ...

    async def remove(self, user: str, place: str) -> None:
        """Forget a command that was taken up."""
        ...


class EventLog(Protocol):
    """What happened to a user, in order, for readers on any worker."""

    async def append(self, user: str, epoch: int, entries: Sequence[Entry]) -> None:
        """Add entries. An entry that arrived before is not added twice.

        Raises:
            Fenced: A higher epoch owns the user.
        """
        ...

    async def read(self, user: str, after: str, *, limit: int = 1000) -> list[Entry]:
        """Return the entries behind a place."""
        ...


class Window(Protocol):
    """The recent messages of a session, or nothing: a window may vanish at any time."""

    async def read(self, user: str, session_id: str | None) -> list[Message] | None:
        """Return the messages in order; None if there is no window."""
        ...

    async def append(
        self, user: str, session_id: str | None, messages: Sequence[Message], *, epoch: int, create: bool
    ) -> None:
        """Add messages and drop the oldest over the limit; without a window, only if `create`.

        Raises:
            Fenced: A higher epoch owns the user.
        """
        ...

    async def replace(
        self, user: str, session_id: str | None, messages: Sequence[Message], *, epoch: int
    ) -> None:
        """Set the messages.

        Raises:
            Fenced: A higher epoch owns the user.
        """
        ...

    async def clear(self, user: str, session_id: str | None, *, epoch: int) -> None:
        """Drop the window.

        Raises:
            Fenced: A higher epoch owns the user.
        """
        ...


class Configs(Protocol):
    """The users' sealed configurations."""

    async def get(self, user: str) -> str | None:
        """Return the sealed configuration, or None."""
        ...

    async def put(self, user: str, sealed: str, *, epoch: int) -> None:
        """Set it.

        Raises:
            Fenced: A higher epoch owns the user.
        """
        ...

    async def delete(self, user: str, *, epoch: int) -> None:
        """Forget it.

        Raises:
            Fenced: A higher epoch owns the user.
        """
        ...


class Bell(Protocol):
    """Rings when there may be something new. May miss a ring: whoever waits looks again once a second."""

    async def wait(self, timeout: float) -> bool:
        """Wait for a ring since the last wait; tell whether there was one."""
        ...

    def notes(self) -> set[str]:
        """Return the notes of the rings since the last call."""
        ...


class Bells(Protocol):
    """Doorbells between workers. The truth is in the log and the inbox."""

    async def ring(self, name: str, note: str = "") -> None:
        """Ring all bells of this name; the note is for `notes`."""
        ...

    def listen(self, name: str) -> AbstractAsyncContextManager[Bell]:
        """Hang up a bell for as long as the context is open."""
        ...


class Store(Protocol):
    """One backend: everything that is shared between workers and may be lost."""

    @property
    def leases(self) -> Leases: ...
    @property
    def inbox(self) -> Inbox: ...
    @property
    def log(self) -> EventLog: ...
    @property
    def window(self) -> Window: ...
    @property
    def configs(self) -> Configs: ...
    @property
    def bells(self) -> Bells: ...

    async def ping(self) -> None:
        """Return when the backend answers."""
        ...


class Archive(Configs, Protocol):
    """The record: what must survive everything. Every write is committed when it returns."""

    async def next_epoch(self, user: str, floor: int) -> int:
        """Draw the user's next epoch: above every earlier one and at least `floor`."""
        ...

    async def append(self, user: str, session_id: str, messages: Sequence[Message], *, epoch: int) -> None:
        """Add messages, each once by its id.

        Raises:
            Fenced: A higher epoch owns the user.
        """
        ...

    async def read(self, user: str, session_id: str, *, limit: int) -> list[Message]:
        """Return the last `limit` messages in order."""
        ...

    async def has_session(self, user: str, session_id: str) -> bool:
        """Tell whether the session is the user's."""
        ...

    async def open_session(self, user: str, session_id: str, *, epoch: int) -> None:
        """Note that the user has this session.

        Raises:
            Fenced: A higher epoch owns the user.
        """
        ...

    async def ping(self) -> None:
        """Return when the database answers and its schema is the one this version needs."""
        ...
