"""Marks that say whose they are: ``zq7-017-msg-000123`` is the text of user 17's turn 123."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final, NamedTuple

OPERATOR: Final = 0
"""The number of who is no user: the operator's own key and tokens."""
SHARING: Final = 5
"""Each so manieth user has the operator's model and servers, the others have their own."""
SECRETS: Final = frozenset({"key", "tok"})
"""Kinds that only the vault, and the far side they are for, may have."""
TURNS: Final = frozenset({"msg", "ans", "res"})
"""Kinds whose number is that of a turn: what is said, answered, and returned by a tool."""

_CANARY = re.compile(rb"zq7-(\d{3})(?:-([a-z]{3}))?(?:-(\d{6}))?")
_LOGIN = re.compile(rb"eyJ[\w-]{8,}\.eyJ[\w-]{8,}\.")


class Canary(NamedTuple):
    """A mark; kind and number are empty in one that was cut off."""

    user: int
    kind: str
    number: int

    def __str__(self) -> str:
        return f"zq7-{self.user:03}-{self.kind}-{self.number:06}"


def found(data: bytes) -> set[Canary]:
    """Return the marks in some bytes."""
    return {
        Canary(int(user), kind.decode(), int(number or -1)) for user, kind, number in _CANARY.findall(data)
    }


def foreign(data: bytes, user: int) -> Iterator[str]:
    """Say what a user must never be shown: the marks of others, and secrets, also their own."""
    for canary in sorted(found(data)):
        if canary.user != user:
            yield f"user {user} is shown {canary}"
        elif canary.kind in SECRETS:
            yield f"user {user} is shown the secret {canary}"
    if _LOGIN.search(data):
        yield f"user {user} is shown a login"


def of_another_turn(data: bytes, turn: int) -> Iterator[str]:
    """Say which marks in the answer to a turn are of another one."""
    for canary in sorted(found(data)):
        if canary.kind in TURNS and canary.number not in (turn, -1):
            yield f"turn {turn} is answered with {canary}"


def secrets(data: bytes) -> Iterator[str]:
    """Say which secrets there are."""
    for canary in sorted(found(data)):
        if canary.kind in SECRETS:
            yield f"the secret {canary}"
    if _LOGIN.search(data):
        yield "a login"


def creditor(user: int) -> int:
    """Return whose credentials go out for a user: their own, or the operator's."""
    return user if user % SHARING else OPERATOR
