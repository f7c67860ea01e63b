"""What a user's owner has to do: the commands that have not ended, each once, and their ends."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Sequence

import structlog

from mcp_chat.commands import Command, Send, is_recorded
from mcp_chat.events import Final
from mcp_chat.exceptions import Fenced, StoreUnavailable
from mcp_chat.stores.base import START, Accepted, Archive, Lease, Store
from mcp_chat.writer import EventWriter

log = structlog.get_logger()


REMEMBERED = 4096
"""Commands that have ended and are still known here; of others the record tells."""


class Docket:
    """A user's open commands. They stay in inbox and record until they end.

    Args:
        lease: The user and the epoch.
        store: Has the inbox.
        archive: Has the record of all accepted commands, or None.
        writer: Tells readers of ends.

    Attributes:
        ended: Commands of which only the record knew that they have ended.
    """

    def __init__(self, lease: Lease, store: Store, archive: Archive | None, writer: EventWriter) -> None:
        self._lease = lease
        self._user = lease.user
        self._store = store
        self._archive = archive
        self._writer = writer
        self._place = START
        self._places: dict[str, list[str]] = {}
        self._waiting: list[Command] = []
        self._overtaken: list[Command] = []
        self._begun: frozenset[str] = frozenset()
        self._known: set[str] = set()
        self._over: dict[str, Final] = {}
        self.ended: list[Accepted] = []

    @property
    def waiting(self) -> list[Command]:
        """The commands that nobody has taken up, in order."""
        return list(self._waiting)

    async def open(self) -> None:
        """Read what has not ended, in the order in which it was accepted; the inbox may have lost some.

        Raises:
            StoreUnavailable: One of the two cannot be read.
        """
        await self.look()
        if self._archive is None:
            return
        recorded = await self._archive.open_commands(self._user)
        ids = {command.id for command in recorded}
        for command_id in ids & self._over.keys():  # the record did not hear of the end
            await self._archive.end(self._user, command_id, self._over[command_id], epoch=self._lease.epoch)
        unread = [command for command in recorded if command.id not in self._known]
        self._known |= ids
        self._waiting = self._in_order([*self._waiting, *unread], [command.id for command in recorded])

    def _in_order(self, commands: Sequence[Command], recorded: Sequence[str]) -> list[Command]:
        """Return commands as the record has them; one that it has not stays behind the one before it."""
        places = {command_id: place for place, command_id in enumerate(recorded)}
        keys: dict[str, tuple[bool, int]] = {}
        last = -1
        for command in commands:
            last = places.get(command.id, last)
            keys[command.id] = (command.id not in self._begun, last)
        return sorted(commands, key=lambda command: keys[command.id])

    def resume(self, begun: Collection[str]) -> None:
        """Put the commands that an earlier owner has begun in front of those that it has not, for good."""
        self._begun = frozenset(begun)
        self._waiting.sort(key=lambda command: command.id not in self._begun)

    async def look(self) -> bool:
        """Read new commands; tell whether there were some.

        Raises:
            Fenced: They are for another owner.
        """
        found = await self._store.inbox.read(self._user, self._place)
        if found and await self._store.leases.get(self._user) != self._lease:
            raise Fenced
        for waiting in found:
            command = waiting.command
            new = command.id not in self._known
            known = await self._recorded(command) if new else None
            self._place = waiting.place  # behind it only now: if the record is away, it is read again
            self._places.setdefault(command.id, []).append(waiting.place)
            if command.id in self._over:
                await self.forget(command.id)
            elif new:
                await self._add(command, known)
        return bool(found)

    async def _recorded(self, command: Command) -> Accepted | None:
        if self._archive is None or not is_recorded(command):
            return None
        return await self._archive.accepted(self._user, command.id)

    async def _add(self, command: Command, known: Accepted | None) -> None:
        """Take a command in, unless it has ended: then it was put in late, or again after it was lost."""
        self._known.add(command.id)
        if known and known.outcome:
            self.ended.append(known)
            await self.forget(command.id)
        elif known is None and self._archive and isinstance(command, Send):
            await self.forget(command.id)  # withdrawn: its sender was refused
        else:
            self._waiting.append(command)

    def take(self, *kinds: type[Command]) -> Command | None:
        """Return the next command, of these kinds only if some are given."""
        for number, command in enumerate(self._waiting):
            if not kinds or isinstance(command, kinds):
                self._overtaken = self._waiting[:number]
                return self._waiting.pop(number)
        return None

    @property
    def overtaken(self) -> list[Command]:
        """The commands that were accepted before the one that was taken last, and still wait."""
        return [command for command in self._overtaken if command in self._waiting]

    async def before(self, command: Command) -> list[Command]:
        """Return the commands that were accepted before one that was taken, and still wait.

        Raises:
            StoreUnavailable: The record, which has those that the inbox does not, cannot be read.
        """
        if self._archive is None:
            return self.overtaken
        await self.open()
        recorded = [each.id for each in await self._archive.open_commands(self._user)]
        if command.id not in recorded:  # its sender was refused, and it came all the same
            return self.overtaken
        earlier = set(recorded[: recorded.index(command.id)])
        return [each for each in self._waiting if each.id in earlier]

    def drop(self, command: Command) -> None:
        """Do not take a command up any more."""
        self._waiting.remove(command)

    async def end(self, command_id: str, outcome: Final, *, record: bool = True, tell: bool = True) -> None:
        """Record how a command ended, then tell its readers, then forget it.

        Raises:
            Fenced: Another worker owns the user: the end is theirs to tell.
        """
        if self._archive and record:
            with contextlib.suppress(StoreUnavailable):  # the log has the end: who comes next records it
                await self._archive.end(self._user, command_id, outcome, epoch=self._lease.epoch)
        self._over[command_id] = outcome
        if len(self._over) > REMEMBERED:
            self.release({next(iter(self._over))})
        if tell:
            self._writer.emit(command_id, outcome)
            await self._writer.flush()
        await self.forget(command_id)

    async def forget(self, command_id: str) -> None:
        """Take a command that has ended out of the inbox; if that fails, the log tells that it has."""
        for place in self._places.pop(command_id, ()):
            with contextlib.suppress(StoreUnavailable):
                await self._store.inbox.remove(self._user, place, epoch=self._lease.epoch)

    def release(self, command_ids: set[str]) -> None:
        """Forget that commands were ever known: their ids may be used again."""
        self._known -= command_ids
        for command_id in command_ids:
            self._over.pop(command_id, None)
