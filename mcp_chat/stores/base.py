"""The seams between the chat and where its state lives.

`user` is always the user's key (`mcp_chat.identity.user_key`), never a raw id. All methods raise
`StoreUnavailable` when the store does not answer; a missing value is never made up.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, Protocol

from mcp_chat.commands import Command
from mcp_chat.deed import Deed
from mcp_chat.events import Entry, Failed, Final
from mcp_chat.message import Message, Part
from mcp_chat.session import Session
from mcp_chat.spent import By, Spent, Sum
from mcp_chat.stores.branching import Branching
from mcp_chat.stores.documents import Documents
from mcp_chat.upload import Upload

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

    async def renew(self, lease: Lease, *, anew: bool = False) -> bool:
        """Let the lease live on if it is still this one, and tell whether it is.

        Args:
            anew: Write a lease that the store has lost again.

        Raises:
            Forgotten: There is none, or only an earlier owner's, and it is not to be written anew.
        """
        ...

    async def release(self, lease: Lease) -> None:
        """Give the lease up if it is still this one."""
        ...

    async def beat(self, worker: str, ttl: float, *, taking: bool = True, full: bool = False) -> None:
        """Say that a worker is alive for another `ttl` seconds, whether it takes users, and further turns."""
        ...

    async def alive(self, worker: str) -> bool:
        """Tell whether a worker's last beat still counts."""
        ...

    async def full(self, worker: str) -> bool:
        """Tell whether a worker that is alive has said that it takes no further turns."""
        ...

    async def workers(self) -> list[str]:
        """Return the workers that are alive and take users."""
        ...

    async def silent(self) -> list[str]:
        """Return the workers whose beat has stopped, until they are forgotten."""
        ...

    async def users(self, worker: str) -> list[str]:
        """Return the users that a worker has claimed and not released; some may be another's by now."""
        ...

    async def expire(self, worker: str) -> bool:
        """Say that a worker is dead: it is silent from now on. Tell whether it was known."""
        ...

    async def forget(self, worker: str) -> None:
        """Say that a worker has stopped, and that nothing of it is left to be done."""
        ...

    async def lock(self, user: str, token: str, ttl: float) -> bool:
        """Close the gate through which one worker at a time claims a user."""
        ...

    async def locked_by(self, user: str) -> str | None:
        """Return the token that has closed the gate."""
        ...

    async def unlock(self, user: str, token: str) -> None:
        """Open the gate if the token is the one that closed it."""
        ...


class Inbox(Protocol):
    """A user's commands that have not ended yet."""

    async def put(self, user: str, command: Command, *, limit: int, again: bool = False) -> str | None:
        """Add a command unless its id was seen before.

        Args:
            again: It was accepted before; if the store does not know, it has lost it.

        Returns:
            The end of the user's log when the id was first seen: what follows is about the command.
            None if `limit` commands are waiting already.
        """
        ...

    async def read(self, user: str, after: str) -> list[Waiting]:
        """Return the commands behind a place, in order; those that are sealed and do not open stay there."""
        ...

    async def seen(self, user: str, command_id: str) -> str | None:
        """Return the end of the user's log when a command's id was first seen, as long as that is known."""
        ...

    async def waits(self, user: str) -> bool:
        """Tell whether there are commands that have not ended."""
        ...

    async def remove(self, user: str, place: str, *, epoch: int) -> None:
        """Forget a command that has ended.

        Raises:
            Fenced: A higher epoch owns the user.
        """
        ...


class EventLog(Protocol):
    """What happened to a user, in order, for readers on any worker."""

    async def append(
        self, user: str, epoch: int, entries: Sequence[Entry], *, ttl: int | None = None
    ) -> None:
        """Add entries. An entry that arrived before is not added twice.

        Args:
            ttl: Seconds until log, inbox and lease expire unless something follows; None for a day.

        Raises:
            Fenced: A higher epoch owns the user.
            Forgotten: The store has lost the user's lease; nothing was added.
        """
        ...

    async def read(self, user: str, after: str, *, limit: int = 1000) -> list[Entry]:
        """Return the entries behind a place."""
        ...

    async def read_many(self, places: Mapping[str, str], *, limit: int = 1000) -> dict[str, list[Entry]]:
        """Return the entries behind a place of each of several users', in one go.

        A user is missing whose part of the store does not answer.
        """
        ...

    async def end(self, user: str) -> str:
        """Return the place of the last entry that there was."""
        ...

    def heard(self, user: str, note: str) -> list[Entry]:
        """Return the entries that a ring of `log_bell(user)` carries; maybe none, the log has them all."""
        ...

    async def erase(
        self, user: str, entries: Sequence[Entry], commands: Collection[str], *, epoch: int
    ) -> None:
        """Take entries out of the log, and forget that these commands were ever seen.

        Raises:
            Fenced: A higher epoch owns the user.
        """
        ...


class Window(Branching[str | None], Protocol):
    """The recent messages of a session, or nothing: a window may vanish at any time.

    The session None is the user's default one. A writer that gives no epoch is none of the owners, and is
    never refused.
    """

    async def read(self, user: str, session_id: str | None) -> list[Message] | None:
        """Return the messages in order; None if there is no window.

        Raises:
            KeyMissing: One of them is sealed and does not open.
        """
        ...

    async def append(
        self,
        user: str,
        session_id: str | None,
        messages: Sequence[Message],
        *,
        epoch: int | None,
        create: bool,
    ) -> None:
        """Add messages and drop the oldest over the limit; without a window, only if `create`.

        Raises:
            Fenced: A higher epoch owns the user.
            KeyMissing: With `create`: what is there is sealed and does not open.
        """
        ...

    async def replace(
        self, user: str, session_id: str | None, messages: Sequence[Message], *, epoch: int | None
    ) -> None:
        """Set the messages.

        Raises:
            Fenced: A higher epoch owns the user.
        """
        ...

    async def clear(self, user: str, session_id: str | None, *, epoch: int | None) -> None:
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


class Rates(Protocol):
    """How many requests each user has made in the last minute."""

    async def take(self, user: str, *, per_minute: int) -> float:
        """Count a request if there is room for it: return 0, or the seconds until there is.

        A minute's worth may come at once.
        """
        ...


def log_bell(user: str) -> str:
    """The bell that rings for each append to a user's log."""
    return f"chat:bell:{{{user}}}"


class Bell(Protocol):
    """Rings when there may be something new. May miss a ring: whoever waits looks again once a second."""

    async def wait(self, timeout: float) -> bool:
        """Wait for a ring since the last wait; tell whether there was one."""
        ...

    def notes(self) -> list[str]:
        """Return the notes of the rings since the last call, in order; some may be missing."""
        ...


class Bells(Protocol):
    """Doorbells between workers. The truth is in the log and the inbox."""

    async def ring(self, name: str, note: str = "") -> None:
        """Ring all bells of this name; the note is for `notes`."""
        ...

    def listen(self, name: str) -> AbstractAsyncContextManager[Bell]:
        """Hang up a bell for as long as the context is open."""
        ...


class Usages(Protocol):
    """What users have spent, each step once by its id, for as long as the operator wants to know."""

    async def spend(self, user: str, steps: Sequence[Spent], *, epoch: int) -> None:
        """Count steps.

        Raises:
            Fenced: A higher epoch owns the user.
        """
        ...

    async def steps(self, user: str, run: str, *, since: date) -> list[Spent]:
        """Return the steps of a turn that were counted since a day; their ids begin with its run."""
        ...

    async def sums(self, user: str, *, since: date, until: date, by: By) -> list[Sum]:
        """Return what a user has spent from one day to another, both among them, by their keys."""
        ...


class Store(Protocol):
    """One backend: everything that is shared between workers and may be lost."""

    @property
    def leases(self) -> Leases:
        """Who owns which user, and which workers live."""
        ...

    @property
    def inbox(self) -> Inbox:
        """What waits to be done for a user."""
        ...

    @property
    def log(self) -> EventLog:
        """What each user's streams tell."""
        ...

    @property
    def window(self) -> Window:
        """The latest messages of conversations."""
        ...

    @property
    def configs(self) -> Configs:
        """How each user is connected."""
        ...

    @property
    def rates(self) -> Rates:
        """How often a user has asked."""
        ...

    @property
    def documents(self) -> Documents:
        """Small things of one user, each under its name."""
        ...

    @property
    def usages(self) -> Usages:
        """What users have spent."""
        ...

    @property
    def bells(self) -> Bells:
        """How a worker hears that there is something to do."""
        ...

    async def ping(self) -> None:
        """Return when the backend answers."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A message and its place in the archive; places rise within a session, and not by one."""

    place: int
    message: Message


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A message that a search has found, the name of its session, and the words around what was found.

    Attributes:
        hidden: Whether it is in a branch that is not shown.
    """

    place: int
    session_id: str
    session_name: str
    message: Message
    excerpt: str
    hidden: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Recency:
    """A session's place in the list of a user's sessions, the one used last first."""

    updated_at: datetime
    id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Addition:
    """What is to be added to a session.

    Attributes:
        deeds: What was done along with the messages, for the trail.
        spent: What the messages have cost.
        backend: The model, for a session that is new.
        epoch: The owner's; None for a writer that is no owner.
        ends: A command that ends with it, and how: both are in the record, or neither.
    """

    user: str
    session_id: str
    messages: tuple[Message, ...] = ()
    deeds: tuple[Deed, ...] = ()
    ends: tuple[str, Final] | None = None
    spent: tuple[Spent, ...] = ()
    backend: str = ""
    epoch: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Noted:
    """A deed in the trail.

    Attributes:
        place: Where it stands; later ones have higher places.
    """

    place: int
    user: str
    deed: Deed


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """A command as the record has it.

    Attributes:
        command: As it came first; None when it has ended, because what it said is in the history, or as long
            as nobody has its key.
        session_id: The session of a message.
        run: Begins the ids of a message's turn.
        outcome: How it ended, or None.
        new: Whether it was not known before.
    """

    id: str
    session_id: str = ""
    run: str = ""
    command: Command | None = None
    outcome: Final | None = None
    new: bool = False


class Ledger(Protocol):
    """The commands that were accepted, each once for its id, until a week after they ended."""

    async def accept(self, user: str, command: Command) -> Accepted:
        """Record a command unless its id is known, and return what the record has.

        Raises:
            KeyMissing: It is known, and what the record has is sealed and does not open.
        """
        ...

    async def withdraw(self, user: str, command_id: str) -> None:
        """Forget a command that has not ended, unless somebody has brought it again and relies on it."""
        ...

    async def accepted(self, user: str, command_id: str) -> Accepted | None:
        """Return a command."""
        ...

    async def failures(self, user: str, runs: Sequence[str]) -> dict[str, Failed]:
        """Return why turns failed, as far as they did, by what the ids of their messages begin with."""
        ...

    async def open_commands(self, user: str) -> list[Command]:
        """Return the commands that have not ended, in the order in which they were accepted."""
        ...

    async def retry(self, user: str, command_id: str, *, epoch: int) -> int:
        """Count one more attempt at what a worker left half done, and return the number of them.

        Raises:
            Fenced: A higher epoch owns the user.
        """
        ...

    async def end(self, user: str, command_id: str, outcome: Final, *, epoch: int) -> None:
        """Record how a command ended; the first end counts.

        Raises:
            Fenced: A higher epoch owns the user.
        """
        ...

    async def neglected(self, *, seconds: float, limit: int = 1000) -> list[str]:
        """Return users with commands that were accepted so long ago and have not ended."""
        ...


class Archive(Configs, Ledger, Documents, Usages, Branching[str], Protocol):
    """The record: what must survive everything. Every write is committed when it returns."""

    async def epoch(self, user: str) -> int:
        """Return the user's epoch, 0 if none was drawn."""
        ...

    async def next_epoch(self, user: str, floor: int) -> int:
        """Draw the user's next epoch: above every earlier one and at least `floor`."""
        ...

    async def add(self, addition: Addition) -> None:
        """Add messages, each once by its id; the session is made if there is none.

        Raises:
            Fenced: A higher epoch owns the user.
        """
        ...

    async def note(self, user: str, deeds: Sequence[Deed]) -> None:
        """Put deeds into the trail, each once by its id."""
        ...

    async def deeds(
        self,
        user: str | None,
        *,
        limit: int,
        before: int | None = None,
        action: str = "",
        since: datetime | None = None,
    ) -> list[Noted]:
        """Return the last deeds of a user, or of all, the latest first.

        Args:
            before: Only those before this place.
            action: Only these.
            since: Only those from then on.
        """
        ...

    async def read(self, user: str, session_id: str, *, limit: int) -> list[Message]:
        """Return the last `limit` messages in order."""
        ...

    async def page(
        self, user: str, session_id: str, *, limit: int, before: int | None = None, after: int | None = None
    ) -> list[Kept]:
        """Return up to `limit` messages in order: the first behind `after`, or the last before `before`."""
        ...

    async def turn(self, user: str, session_id: str, run: str) -> list[Message]:
        """Return the messages that a turn has written, in order."""
        ...

    async def count(self, user: str, session_id: str) -> int:
        """Return how many messages a session has."""
        ...

    async def standing(self, user: str, session_id: str, ids: Sequence[str]) -> list[Kept]:
        """Return what a model is always shown: the system's messages, the pinned, and those with these ids.

        The first ones of them, if there are more than a model could be shown.
        """
        ...

    async def holds(self, user: str, session_id: str, message_id: str) -> bool:
        """Tell whether a message is in a session, in the line that is shown or in another branch."""
        ...

    async def pick(self, user: str, session_id: str, ids: Sequence[str]) -> list[Message]:
        """Return the messages with these ids, in order."""
        ...

    async def search(self, user: str, words: Sequence[str], *, limit: int, before: int | None) -> list[Found]:
        """Return messages in which each of the words begins a word, the newest first."""
        ...

    async def session(self, user: str, session_id: str) -> Session | None:
        """Return a session without its messages."""
        ...

    async def sessions(
        self, user: str, *, limit: int, before: Recency | None = None, after: Recency | None = None
    ) -> list[Session]:
        """Return sessions without their messages, the one used last first.

        Those right behind `before` in this list, or those right in front of `after`.
        """
        ...

    async def change_session(
        self, user: str, session_id: str, *, name: str | None = None, context: Mapping[str, Any] | None = None
    ) -> Session | None:
        """Set what is given; keys of a context are set one by one, and removed with None.

        Raises:
            KeyMissing: There are keys to set, and the context is sealed and does not open.
        """
        ...

    async def keep_summary(
        self, user: str, session_id: str, summary: Mapping[str, Any], spent: Spent, *, epoch: int
    ) -> bool:
        """Set a session's summary and add what it cost, which counts in any case.

        Returns:
            False if there is no such session any more, or its context is sealed and does not open.

        Raises:
            Fenced: A higher epoch owns the user.
        """
        ...

    async def has_sessions(self, user: str, number: int) -> bool:
        """Tell whether a user has as many sessions, or more."""
        ...

    async def import_session(self, user: str, session: Session, *, most: int | None = None) -> None:
        """Add a session that nobody has yet, with all its messages.

        Args:
            most: Sessions that the user may have then.

        Raises:
            TooManySessions: They would have more.
        """
        ...

    async def put_away(self, user: str, session_id: str) -> None:
        """Give a session another id, so that its own can begin anew."""
        ...

    async def delete_session(self, user: str, session_id: str, *, epoch: int | None) -> bool:
        """Delete a session, its messages, the uploads that only it has, and its commands that have ended.

        Returns:
            Whether there was one.

        Raises:
            Fenced: A higher epoch owns the user.
        """
        ...

    async def put_upload(self, user: str, upload: Upload, *, quota: int) -> Part:
        """Keep a file, once for each content, under the name it was sent with last.

        Raises:
            TooLarge: The user's files would be larger than `quota` bytes.
        """
        ...

    async def parts(self, user: str, upload_ids: Sequence[str]) -> list[Part]:
        """Return what messages have of these files of the user's, as far as there are any."""
        ...

    async def upload(self, user: str, upload_id: str) -> Upload | None:
        """Return a file of the user's."""
        ...

    async def delete_upload(self, user: str, upload_id: str) -> bool:
        """Delete a file; messages go on naming it. Tell whether there was one."""
        ...

    async def tidy(self) -> None:
        """Drop the files that no message has, a day after they were sent, and what else has had its time."""
        ...

    async def ping(self) -> None:
        """Return when the database answers and its schema is the one this version needs."""
        ...
