"""Everything in one process's memory: the twin of Redis for one worker, and for tests."""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Protocol

from mcp_chat.branch import MOST_SIDES, Branch, Side, Tree, in_order
from mcp_chat.commands import Command
from mcp_chat.events import Entry, order
from mcp_chat.exceptions import Fenced, Forgotten
from mcp_chat.message import Message
from mcp_chat.stores.base import START, Lease, Waiting, log_bell
from mcp_chat.stores.bells import LocalBells
from mcp_chat.stores.documents import Document, check_room, life, size_of
from mcp_chat.stores.usages import DAYS, MemoryUsages

Clock = Callable[[], float]

SLACK = 1e-6
"""Seconds by which sums of parts of a minute may miss it."""

RECENT = 64
"""Messages among which one that was sent again is found, as in Redis."""


class MemoryLeases:
    """Leases and heartbeats in dictionaries."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._leases: dict[str, Lease] = {}
        self._epochs: dict[str, int] = {}
        self._beats: dict[str, float] = {}
        self._locks: dict[str, tuple[str, float]] = {}
        self._users: dict[str, set[str]] = defaultdict(set)
        self._away: set[str] = set()
        self._full: set[str] = set()

    async def get(self, user: str) -> Lease | None:
        return self._leases.get(user)

    async def claim(self, user: str, worker: str, *, floor: int, seen: Lease | None) -> Lease | None:
        if self._leases.get(user) != seen:
            return None
        epoch = max(self._epochs.get(user, 0) + 1, floor or int(time.time() * 1000))
        self._epochs[user] = epoch
        self._leases[user] = Lease(user=user, worker=worker, epoch=epoch)
        self._users[worker].add(user)
        return self._leases[user]

    async def renew(self, lease: Lease, *, anew: bool = False) -> bool:
        found = self._leases.get(lease.user)
        if not anew and (found is None or found.epoch < lease.epoch):
            raise Forgotten
        if found and found != lease and found.epoch >= lease.epoch:
            return False
        self._leases[lease.user] = lease
        self._epochs[lease.user] = max(lease.epoch, self._epochs.get(lease.user, 0))
        self._users[lease.worker].add(lease.user)
        return True

    async def release(self, lease: Lease) -> None:
        if self._leases.get(lease.user) == lease:
            self._users[lease.worker].discard(lease.user)
            self._leases[lease.user] = replace(lease, worker="")

    async def beat(self, worker: str, ttl: float, *, taking: bool = True, full: bool = False) -> None:
        self._beats[worker] = self._clock() + ttl
        (self._away.discard if taking else self._away.add)(worker)
        (self._full.add if full else self._full.discard)(worker)

    async def alive(self, worker: str) -> bool:
        return self._beats.get(worker, 0) > self._clock()

    async def full(self, worker: str) -> bool:
        return worker in self._full and await self.alive(worker)

    async def workers(self) -> list[str]:
        alive = (worker for worker, end in self._beats.items() if end > self._clock())
        return [worker for worker in alive if worker not in self._away]

    async def silent(self) -> list[str]:
        return [worker for worker, end in self._beats.items() if end <= self._clock()]

    async def users(self, worker: str) -> list[str]:
        return sorted(self._users[worker])

    async def expire(self, worker: str) -> bool:
        known = worker in self._beats
        if known:
            self._beats[worker] = self._clock()
        return known

    async def forget(self, worker: str) -> None:
        self._beats.pop(worker, None)
        self._away.discard(worker)
        self._full.discard(worker)

    async def lock(self, user: str, token: str, ttl: float) -> bool:
        if self._locks.get(user, ("", 0.0))[1] > self._clock():
            return False
        self._locks[user] = (token, self._clock() + ttl)
        return True

    async def locked_by(self, user: str) -> str | None:
        token, end = self._locks.get(user, ("", 0.0))
        return token if end > self._clock() else None

    async def unlock(self, user: str, token: str) -> None:
        if self._locks.get(user, ("", 0.0))[0] == token:
            del self._locks[user]

    def check(self, user: str, epoch: int | None) -> None:
        """Raise `Fenced` if a higher epoch was drawn; a writer without one is no owner."""
        if epoch is not None and self._epochs.get(user, 0) > epoch:
            raise Fenced


class MemoryLog:
    """One list a user, cut at the front. Nothing expires: it all ends with the process."""

    def __init__(self, leases: MemoryLeases, bells: LocalBells, keep: int) -> None:
        self._leases = leases
        self._bells = bells
        self._keep = keep
        self._entries: dict[str, list[Entry]] = defaultdict(list)
        self._ends: dict[str, str] = {}
        self.seen: dict[tuple[str, str], str] = {}

    async def end(self, user: str) -> str:
        return self.end_now(user)

    def end_now(self, user: str) -> str:
        """Return the place of the last entry that there was."""
        return self._ends.get(user, START)

    async def append(
        self, user: str, epoch: int, entries: Sequence[Entry], *, ttl: int | None = None
    ) -> None:
        lease = await self._leases.get(user)
        if lease is None or lease.epoch < epoch:
            raise Forgotten
        self._leases.check(user, epoch)
        end = order(self.end_now(user))
        self._entries[user] += [entry for entry in entries if order(entry.id) > end]
        del self._entries[user][: -self._keep]
        if self._entries[user]:
            self._ends[user] = max(self.end_now(user), self._entries[user][-1].id, key=order)
        self._bells.ring_local(log_bell(user))

    async def read(self, user: str, after: str, *, limit: int = 1000) -> list[Entry]:
        start = order(after)
        return [entry for entry in self._entries.get(user, []) if order(entry.id) > start][:limit]

    async def read_many(self, places: Mapping[str, str], *, limit: int = 1000) -> dict[str, list[Entry]]:
        return {user: await self.read(user, after, limit=limit) for user, after in places.items()}

    def heard(self, user: str, note: str) -> list[Entry]:
        return []

    async def erase(
        self, user: str, entries: Sequence[Entry], commands: Collection[str], *, epoch: int
    ) -> None:
        self._leases.check(user, epoch)
        gone = {entry.id for entry in entries}
        self._entries[user] = [entry for entry in self._entries[user] if entry.id not in gone]
        for command in commands:
            self.seen.pop((user, command), None)


class MemoryInbox:
    """One list a user; the ids that were seen are kept beside it."""

    def __init__(self, leases: MemoryLeases, log: MemoryLog) -> None:
        self._leases = leases
        self._log = log
        self._n = 0
        self._waiting: dict[str, list[Waiting]] = defaultdict(list)

    async def put(self, user: str, command: Command, *, limit: int, again: bool = False) -> str | None:
        seen = self._log.seen.get((user, command.id))
        if seen is not None:
            return seen
        if len(self._waiting[user]) >= limit:
            return None
        self._n += 1
        self._waiting[user].append(Waiting(place=f"{self._n}-0", command=command))
        return self._log.seen.setdefault((user, command.id), START if again else self._log.end_now(user))

    async def read(self, user: str, after: str) -> list[Waiting]:
        return [waiting for waiting in self._waiting[user] if order(waiting.place) > order(after)]

    async def seen(self, user: str, command_id: str) -> str | None:
        return self._log.seen.get((user, command_id))

    async def waits(self, user: str) -> bool:
        return bool(self._waiting[user])

    async def remove(self, user: str, place: str, *, epoch: int) -> None:
        self._leases.check(user, epoch)
        self._waiting[user] = [waiting for waiting in self._waiting[user] if waiting.place != place]


class MemoryWindow:
    """One list a session."""

    def __init__(self, leases: MemoryLeases, max_messages: int) -> None:
        self._leases = leases
        self._max = max_messages
        self._messages: dict[tuple[str, str | None], deque[Message]] = {}
        self._sides: dict[tuple[str, str | None], tuple[Side, ...]] = {}

    async def read(self, user: str, session_id: str | None) -> list[Message] | None:
        messages = self._messages.get((user, session_id))
        return None if messages is None else list(messages)

    async def append(
        self,
        user: str,
        session_id: str | None,
        messages: Sequence[Message],
        *,
        epoch: int | None,
        create: bool,
    ) -> None:
        self._leases.check(user, epoch)
        window = self._messages.get((user, session_id))
        if window is None and create and messages:
            window = self._messages[user, session_id] = deque(maxlen=self._max)
        if window is not None:
            for message in messages:
                if message not in islice(reversed(window), RECENT + len(messages)):
                    window.append(message)

    async def replace(
        self, user: str, session_id: str | None, messages: Sequence[Message], *, epoch: int | None
    ) -> None:
        self._leases.check(user, epoch)
        self._set(user, session_id, messages)

    async def clear(self, user: str, session_id: str | None, *, epoch: int | None) -> None:
        self._leases.check(user, epoch)
        self._set(user, session_id, ())

    def _set(self, user: str, session_id: str | None, messages: Sequence[Message]) -> None:
        """Keep the newest; without any there is no window."""
        if messages:
            self._messages[user, session_id] = deque(messages, maxlen=self._max)
        else:
            self._messages.pop((user, session_id), None)
        self._sides.pop((user, session_id), None)

    # Branches

    async def cut(
        self, user: str, session_id: str | None, message_id: str, *, side: str, epoch: int | None
    ) -> None:
        self._leases.check(user, epoch)
        self._grow(user, session_id, self._tree(user, session_id).cut(message_id, side))

    async def switch(self, user: str, session_id: str | None, message_id: str, *, epoch: int | None) -> None:
        self._leases.check(user, epoch)
        self._grow(user, session_id, self._tree(user, session_id).switch(message_id))

    async def branches(self, user: str, session_id: str | None) -> list[Branch]:
        return self._tree(user, session_id).branches()

    async def sides(self, user: str, session_id: str | None) -> list[Side]:
        tree = self._tree(user, session_id)
        return in_order(tree.sides, tree.line)

    def _tree(self, user: str, session_id: str | None) -> Tree:
        key = (user, session_id)
        return Tree(line=tuple(self._messages.get(key, ())), sides=self._sides.get(key, ()))

    def _grow(self, user: str, session_id: str | None, tree: Tree) -> None:
        self._set(user, session_id, tree.line)
        self._sides[user, session_id] = tree.sides[-MOST_SIDES:]


class MemoryConfigs:
    """One value a user."""

    def __init__(self, leases: MemoryLeases) -> None:
        self._leases = leases
        self._configs: dict[str, str] = {}

    async def get(self, user: str) -> str | None:
        return self._configs.get(user)

    async def put(self, user: str, sealed: str, *, epoch: int) -> None:
        self._leases.check(user, epoch)
        self._configs[user] = sealed

    async def delete(self, user: str, *, epoch: int) -> None:
        self._leases.check(user, epoch)
        self._configs.pop(user, None)


class Fence(Protocol):
    """Knows the owners' epochs."""

    def check(self, user: str, epoch: int | None) -> None:
        """Raise `Fenced` if a higher epoch owns the user."""
        ...


@dataclass(frozen=True, slots=True)
class Shelved:
    """A document, its size and its end."""

    document: Document
    size: int
    end: float


class MemoryDocuments:
    """A shelf for each kind of a user's.

    Args:
        fence: Refuses earlier owners.
        clock: Seconds that never go back.
    """

    def __init__(self, fence: Fence, clock: Clock) -> None:
        self._leases = fence
        self._clock = clock
        self._shelves: dict[tuple[str, str], dict[str, Shelved]] = {}
        self._last = 0

    async def get_document(self, user: str, kind: str, name: str) -> Document | None:
        found = self._shelves.get((user, kind), {}).get(name)
        return found.document if found and found.end > self._clock() else None

    async def list_documents(self, user: str, kind: str) -> list[Document]:
        shelf = self._shelves.get((user, kind), {})
        return [found for name in sorted(shelf) if (found := await self.get_document(user, kind, name))]

    async def put_document(
        self,
        user: str,
        kind: str,
        name: str,
        text: str,
        *,
        seconds: float,
        version: int | None = None,
        epoch: int | None = None,
    ) -> int | None:
        size = size_of(kind, name, text)
        self._leases.check(user, epoch)
        self._tidy((user, kind))
        found = await self.get_document(user, kind, name)
        if version is not None and version != (found.version if found else 0):
            return None
        shelf = self._shelves.setdefault((user, kind), {})
        others = [each.size for other, each in shelf.items() if other != name]
        check_room(len(others), sum(others), size)
        self._last += 1  # of all documents: one that comes back is not taken for the one that was
        document = Document(name=name, text=text, version=self._last)
        shelf[name] = Shelved(document, size, self._clock() + life(seconds))
        return self._last

    async def drop_document(self, user: str, kind: str, name: str, *, version: int | None = None) -> bool:
        found = await self.get_document(user, kind, name)
        if found is None or version not in (None, found.version):
            return False
        del self._shelves[user, kind][name]
        return True

    def clear(self) -> None:
        """Forget all documents; their versions do not come again."""
        self._shelves.clear()

    def _tidy(self, place: tuple[str, str]) -> None:
        """Take what has had its time off a shelf, and off the two that were not looked at for the longest."""
        for each in {place: None, **dict.fromkeys(islice(self._shelves, 2))}:
            shelf = self._shelves.pop(each, {})
            if left := {name: kept for name, kept in shelf.items() if kept.end > self._clock()}:
                self._shelves[each] = left


class MemoryRates:
    """One moment a user, as `lua/rate.lua` has it.

    Args:
        clock: Seconds that never go back.
    """

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._moments: dict[str, float] = {}

    async def take(self, user: str, *, per_minute: int) -> float:
        now = self._clock()
        moment = max(self._moments.pop(user, 0), now) + 60 / per_minute
        if moment - now > 60 + SLACK:
            self._moments[user] = moment - 60 / per_minute
            return moment - now - 60
        self._moments[user] = moment
        self._drop_past(now)
        return 0

    def _drop_past(self, now: float) -> None:
        """Drop two of those who came longest ago, if they have their minute's worth again."""
        for user in list(islice(self._moments, 2)):
            if self._moments[user] <= now:
                del self._moments[user]


class MemoryStore:
    """The in-memory backend.

    Args:
        max_messages: Messages kept in a window.
        keep_events: Entries kept in a user's log.
        usage_days: Days for which it is known what was spent; 0 for ever.
        clock: Seconds that never go back; tests pass their own.
    """

    def __init__(
        self,
        *,
        max_messages: int = 50,
        keep_events: int = 20_000,
        usage_days: int = DAYS,
        clock: Clock = time.monotonic,
    ) -> None:
        self.leases = MemoryLeases(clock)
        self.bells = LocalBells()
        self.log = MemoryLog(self.leases, self.bells, keep_events)
        self.inbox = MemoryInbox(self.leases, self.log)
        self.window = MemoryWindow(self.leases, max_messages)
        self.configs = MemoryConfigs(self.leases)
        self.rates = MemoryRates(clock)
        self.documents = MemoryDocuments(self.leases, clock)
        self.usages = MemoryUsages(self.leases, usage_days)

    async def ping(self) -> None:
        """Memory always answers."""
