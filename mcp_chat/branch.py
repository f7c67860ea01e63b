"""The ways that a conversation has gone: the line that is shown, and the sides that it has left.

A side begins where a message of the user's was written anew: it is the old message and all that was said
behind it. It forks behind a message that may stand in the line or in another side, so all of it is a tree.
To take up a side that forks from another one, that one is taken up first. A branch is named by its first
message, which stays the same wherever it stands.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from pydantic import TypeAdapter

from mcp_chat.exceptions import MessageMoved
from mcp_chat.message import Message, new_id, title

MOST_BRANCHES = 200
"""Sides of one conversation."""

MOST_SIDES = 20
"""Sides that are kept where there is no database; the oldest ones go."""

BEGINNING = ""
"""The fork of a side that begins with the conversation's first message."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """What was said another way, and is not shown now.

    Attributes:
        fork: The message behind which it begins.
    """

    fork: str
    messages: tuple[Message, ...]
    id: str = ""


SIDES: TypeAdapter[tuple[Side, ...]] = TypeAdapter(tuple[Side, ...])
"""Sides as JSON."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Branch:
    """One of the ways that a conversation has gone behind a message.

    Attributes:
        id: Its first message.
        fork: The message behind which it begins.
        words: What its first message begins with.
        messages: How many it has, as it was left.
        current: Whether it is in the line that is shown.
    """

    id: str
    fork: str
    words: str
    created_at: datetime
    messages: int
    current: bool


def branch_of(first: Message, fork: str, messages: int, *, current: bool) -> Branch:
    """Return the branch that begins with a message."""
    words = title(first.content) or title(" ".join(part.name for part in first.parts))
    return Branch(
        id=first.id,
        fork=fork,
        words=words,
        created_at=first.created_at,
        messages=messages,
        current=current,
    )


def ordered(branches: Iterable[Branch]) -> list[Branch]:
    """Return branches in the order in which they were begun."""
    return sorted(branches, key=lambda branch: (branch.created_at, branch.id))


@dataclass(frozen=True, slots=True, kw_only=True)
class Siblings:
    """The branches behind one message, as one of them sees them.

    Attributes:
        place: Which one it is, from 1.
        count: How many there are.
        before: The one before it.
        after: The one behind it.
    """

    place: int
    count: int
    before: str | None
    after: str | None


def siblings_in(branches: Sequence[Branch]) -> dict[str, Siblings]:
    """Return what each branch that is not alone sees, by its first message."""
    forks: dict[str, list[str]] = {}
    for branch in branches:
        forks.setdefault(branch.fork, []).append(branch.id)
    return {
        id_: Siblings(
            place=n + 1,
            count=len(ids),
            before=ids[n - 1] if n else None,
            after=ids[n + 1] if n + 1 < len(ids) else None,
        )
        for ids in forks.values()
        if len(ids) > 1
        for n, id_ in enumerate(ids)
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    """A conversation with all its branches."""

    line: tuple[Message, ...] = ()
    sides: tuple[Side, ...] = ()

    def cut(self, message_id: str, side: str) -> Tree:
        """Return the tree with a message and all behind it in a new side; with that side as it is.

        Raises:
            MessageMoved: The message is not in the line.
        """
        if any(each.id == side for each in self.sides):
            return self
        place = _place(self.line, message_id)
        if place is None:
            raise MessageMoved
        return self._forked(place, side)

    def switch(self, message_id: str) -> Tree:
        """Return the tree with the branch in the line that a message is in.

        Raises:
            MessageMoved: There is no such message.
        """
        tree = self
        for side in self._way(message_id):
            tree = tree._swapped(side)
        return tree

    def branches(self) -> list[Branch]:
        """Return the branches behind each message that has some, in the order of their beginnings."""
        found: list[Branch] = []
        for fork in dict.fromkeys(side.fork for side in self.sides):
            found += self._behind(fork)
        return ordered(found)

    def _behind(self, fork: str) -> list[Branch]:
        ways = [(side.messages, False) for side in self.sides if side.fork == fork and side.messages]
        for segment in (self.line, *(side.messages for side in self.sides)):
            place = _behind(segment, fork, first=segment is self.line)
            if place is not None:
                ways += [(segment[place:], segment is self.line)] if segment[place:] else []
                return [branch_of(way[0], fork, len(way), current=current) for way, current in ways]
        return []  # the message that it forked from is gone

    def _forked(self, place: int, side: str) -> Tree:
        tail = self.line[place:]
        if not tail:
            return self
        fork = self.line[place - 1].id if place else BEGINNING
        return Tree(line=self.line[:place], sides=(*self.sides, Side(id=side, fork=fork, messages=tail)))

    def _swapped(self, side: Side) -> Tree:
        place = _behind(self.line, side.fork, first=True)
        if place is None:
            raise MessageMoved
        left = self._forked(place, new_id())
        sides = tuple(each for each in left.sides if each.id != side.id)
        return replace(left, line=left.line + side.messages, sides=sides)

    def _way(self, message_id: str) -> list[Side]:
        """Return the sides to take up, one after the other."""
        way: list[Side] = []
        while _place(self.line, message_id) is None:
            side = next((s for s in self.sides if _place(s.messages, message_id) is not None), None)
            if side is None or side in way:
                raise MessageMoved
            way.insert(0, side)
            if side.fork == BEGINNING:
                break
            message_id = side.fork
        return way


def _place(messages: Sequence[Message], message_id: str) -> int | None:
    return next((n for n, message in enumerate(messages) if message.id == message_id), None)


def _behind(messages: Sequence[Message], fork: str, *, first: bool) -> int | None:
    """Return the place behind a fork; the beginning is that of the line."""
    if fork == BEGINNING:
        return 0 if first else None
    place = _place(messages, fork)
    return None if place is None else place + 1


def in_order(sides: Sequence[Side], line: Iterable[Message]) -> list[Side]:
    """Return sides, each behind the one that it forks from; those that fork from nothing are left out."""
    known = {BEGINNING, *(message.id for message in line)}
    left, found = list(sides), list[Side]()
    while ready := [side for side in left if side.fork in known]:
        found += ready
        known |= {message.id for side in ready for message in side.messages}
        left = [side for side in left if side not in ready]
    return found
