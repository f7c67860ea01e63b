"""Names of tools in a conversation: unique, in the signs that all providers take, and none like another."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence

LONGEST = 64

_UNSAFE = re.compile(r"[^A-Za-z0-9_-]")
_ALIKE = str.maketrans("01i-", "oll_")


def unique(alias: str, names: Sequence[str]) -> list[str]:
    """Return `alias__name` for each name of a server's tools.

    A short clean name stays as it is, unless one looks like it and is nearer to plain small letters. What
    was changed gets a piece of a hash of the name alone: a server may list in another order when it is asked
    again. No alias has an underscore, so that the names of two servers never meet.
    """
    first = _first(names)
    taken: set[str] = set()
    return [_name(alias, name, taken, plain=name in first) for name in names]


def skeleton(text: str) -> str:
    """Return what a text looks like at a glance: the same for texts that may be taken for each other.

    Of the signs that names have these are few: case, zero and O, one and I and L, RN and M, VV and W, hyphen
    and underscore.
    """
    return text.lower().translate(_ALIKE).replace("rn", "m").replace("vv", "w")


def _first(names: Iterable[str]) -> set[str]:
    """Return of names that look alike the one that stays as it is, whatever the order."""
    found: dict[str, str] = {}
    for name in names:
        look = skeleton(name)
        found[look] = min(found.get(look, name), name, key=_oddity)
    return set(found.values())


def _oddity(name: str) -> tuple[int, str]:
    """Return how far a name is from small letters and underscores."""
    return sum(not (sign.islower() or sign == "_") for sign in name), name


def _name(alias: str, name: str, taken: set[str], *, plain: bool) -> str:
    wanted = f"{alias}__{name}"
    safe = clean = _UNSAFE.sub("_", wanted)[: LONGEST + 1]
    attempt = 0
    while safe in taken or len(safe) > LONGEST or (not attempt and not (plain and clean == wanted)):
        mark = hashlib.sha256(f"{wanted} {attempt}".encode("utf-8", "surrogatepass")).hexdigest()[:8]
        safe = f"{clean[: LONGEST - 9]}_{mark}"
        attempt += 1
    taken.add(safe)
    return safe
