"""What a server says of its tools, in full: what of it a user has accepted, and what has changed since.

A tool's definition is what the user and the model decide by, all of it: a server that shows one description
when it is added and another one later must be noticed, wherever in the definition the change is.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import orjson

from mcp_chat.config import ServerConfig
from mcp_chat.unseen import visible

UNCUT = 16_384
"""Characters of a definition that is kept as it is."""

LONGEST_TEXT = 2_000
"""Characters of one text of a longer definition; of a longer text the rest is kept as a hash."""

LONGEST_DEFINITION = 65_536
"""Characters of a definition that is kept with its texts cut; of a longer one the hash alone."""

ALL_DEFINITIONS = 1_048_576
"""Characters of all definitions of a server that are kept."""

LONGEST_NAME = 200
GONE = 512
"""Tools that are remembered although the server lists them no more."""

DIFFERENCES, SHOWN = 100, 500
"""Differences that are shown of two definitions, and characters of each side."""

_ABSENT = object()


@dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    """What a server says of one tool.

    Attributes:
        name: The tool's name at the server; of one that is too long the beginning and a hash.
        digest: SHA-256 of all that is said.
        text: It as JSON, long texts cut; empty of one that is too large to be kept.
    """

    name: str
    digest: str
    text: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """The tools of a connection that a user has accepted.

    Attributes:
        server: Which server that was: nothing holds for another one.
        tools: The definitions by their names, those that are gone as well.
        listed: Names of those that the server has listed last.
    """

    server: str
    tools: Mapping[str, Definition]
    listed: frozenset[str] = frozenset()

    def knows(self, server: str) -> bool:
        """Tell whether this is about the server."""
        return self.server == server

    def with_(self, listed: Iterable[Definition]) -> Accepted:
        """Return what is accepted when these are as well; the rest stays, up to a limit."""
        new = {each.name: each for each in listed}
        old = {name: each for name, each in self.tools.items() if name not in new}
        kept = dict(list(old.items())[-GONE:]) | new
        return replace(self, tools=kept)

    def text(self) -> str:
        """Return this as JSON of a limited size: definitions that do not fit any more are hashes alone."""
        room, tools = ALL_DEFINITIONS, {}
        for name, each in self.tools.items():
            room -= len(each.text)
            tools[name] = [each.digest, each.text if room >= 0 else ""]
        kept = {"server": self.server, "tools": tools, "listed": sorted(self.listed)}
        return json.dumps(kept, separators=(",", ":"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A tool whose definition is not the one that was accepted."""

    before: Definition
    after: Definition


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What a server lists, beside what was accepted of it.

    Attributes:
        unchanged: As accepted.
        new: Never seen at this connection.
        changed: To be held back until they are accepted.
        gone: Names of accepted tools that are not listed.
    """

    unchanged: tuple[Definition, ...] = ()
    new: tuple[Definition, ...] = ()
    changed: tuple[Change, ...] = ()
    gone: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One place in which two definitions differ; None stands for nothing there."""

    path: str
    before: str | None
    after: str | None


def identity_of(server: ServerConfig) -> str:
    """Return which server a configuration means: its alias and where it is, without any credential."""
    place = [server.alias, server.transport, server.url, server.command, list(server.args)]
    return hashlib.sha256(json.dumps(place).encode()).hexdigest()


def definition_of(raw: Mapping[str, Any]) -> Definition:
    """Return the definition of a tool as it came; it must not be nested too deep to be written down."""
    whole = text = canonical(raw)
    if len(whole) > UNCUT:
        text = canonical(_cut(raw))
    return Definition(
        name=key_of(str(raw.get("name", ""))),
        digest=hashlib.sha256(whole.encode()).hexdigest(),
        text=text if len(text) <= LONGEST_DEFINITION else "",
    )


def key_of(name: str) -> str:
    """Return the name by which a tool is accepted: its own, unless that is too long."""
    if len(name) <= LONGEST_NAME:
        return name
    return f"{name[:LONGEST_NAME]} {hashlib.sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()}"


def canonical(value: Any) -> str:
    """Return a value as JSON: the same for the same value, in whatever order it was written."""
    try:
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()
    except TypeError:  # long numbers, and signs that no UTF-8 has
        return json.dumps(value, sort_keys=True, separators=(",", ":"))


def _cut(value: Any) -> Any:
    match value:
        case Mapping():
            return {_cut(str(name)): _cut(each) for name, each in value.items()}
        case list() | tuple():
            return [_cut(each) for each in value]
        case str() if len(value) > LONGEST_TEXT:
            mark = hashlib.sha256(value.encode("utf-8", "surrogatepass")).hexdigest()
            return f"{value[:LONGEST_TEXT]}… (sha256 {mark})"
        case _:
            return value


def nothing_accepted(server: str) -> Accepted:
    """Return what holds before a user has accepted anything."""
    return Accepted(server=server, tools={})


def accepted_of(text: str) -> Accepted | None:
    """Read what `Accepted.text` wrote; None if it is nothing of the kind."""
    try:
        read = json.loads(text)
        tools = {
            str(name): Definition(name=str(name), digest=str(digest), text=str(kept))
            for name, (digest, kept) in read["tools"].items()
        }
        return Accepted(server=str(read["server"]), tools=tools, listed=frozenset(map(str, read["listed"])))
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


def compare(accepted: Accepted, listed: Sequence[Definition]) -> Comparison:
    """Return how what a server lists stands to what was accepted of it.

    Of a name that is listed twice all definitions count together: which of them a call reaches is the
    server's choice.
    """
    tools = together(listed)
    known = accepted.tools
    return Comparison(
        unchanged=tuple(each for each in tools if _is_as(known, each)),
        new=tuple(each for each in tools if each.name not in known),
        changed=tuple(
            Change(before=known[each.name], after=each)
            for each in tools
            if each.name in known and not _is_as(known, each)
        ),
        gone=tuple(sorted(set(known) - {each.name for each in tools})),
    )


def _is_as(known: Mapping[str, Definition], each: Definition) -> bool:
    return each.name in known and known[each.name].digest == each.digest


def together(listed: Iterable[Definition]) -> list[Definition]:
    """Return one definition for each name."""
    groups: dict[str, list[Definition]] = {}
    for each in listed:
        groups.setdefault(each.name, []).append(each)
    return [_joined(group) for group in groups.values()]


def digests_of(listed: Iterable[Definition | None]) -> dict[str, str]:
    """Return the hashes of what a server says of its tools, by their names there."""
    return {each.name: each.digest for each in together(each for each in listed if each)}


def _joined(group: Sequence[Definition]) -> Definition:
    alike = {each.digest: each for each in group}
    if len(alike) == 1:
        return group[0]
    ordered = [alike[digest] for digest in sorted(alike)]
    text = f"[{','.join(each.text or 'null' for each in ordered)}]"
    return Definition(
        name=group[0].name,
        digest=hashlib.sha256(" ".join(each.digest for each in ordered).encode()).hexdigest(),
        text=text if len(text) <= LONGEST_DEFINITION else "",
    )


def difference(before: Definition, after: Definition) -> list[Difference]:
    """Return where two definitions differ, for a person to read: of many differences the first."""
    if before.digest == after.digest:
        return []
    if not (before.text and after.text):
        return [Difference(path="", before=_size(before), after=_size(after))]
    found = _differing("", json.loads(before.text), json.loads(after.text))
    return [_readable(path, old, new) for path, old, new in islice(found, DIFFERENCES)]


def _size(definition: Definition) -> str:
    return "a definition" if definition.text else "a definition that is too large to be shown"


def _differing(path: str, before: Any, after: Any) -> Iterator[tuple[str, Any, Any]]:
    """Yield the innermost places in which two values differ; the type of a value is part of it."""
    if isinstance(before, dict) and isinstance(after, dict):
        for name in sorted(before.keys() | after.keys()):
            here = f"{path}/{name.replace('~', '~0').replace('/', '~1')}"
            yield from _differing(here, before.get(name, _ABSENT), after.get(name, _ABSENT))
    elif isinstance(before, list) and isinstance(after, list):
        for place in range(max(len(before), len(after))):
            pair = (each[place] if place < len(each) else _ABSENT for each in (before, after))
            yield from _differing(f"{path}/{place}", *pair)
    elif type(before) is not type(after) or before != after:
        yield path, before, after


def _readable(path: str, before: Any, after: Any) -> Difference:
    if isinstance(before, str) and isinstance(after, str):
        old, new = _apart(before, after)
        return Difference(path=_short(path), before=old, after=new)
    return Difference(path=_short(path), before=_told(before), after=_told(after))


def _told(value: Any) -> str | None:
    if value is _ABSENT:
        return None
    return _short(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def _short(text: str, start: int = 0) -> str:
    end = start + SHOWN
    shown = visible(text[start:end])
    shown = shown if len(shown) <= 2 * SHOWN else f"{shown[: 2 * SHOWN]}…"
    return f"{'…' if start else ''}{shown}{'…' if end < len(text) else ''}"


def _apart(before: str, after: str) -> tuple[str, str]:
    """Return two texts from shortly before they differ.

    Signs that look alike are told apart by their code points: a text that is as long as before, and
    differs in few signs, may have been changed so that nobody sees it.
    """
    first = next((n for n, (a, b) in enumerate(zip(before, after, strict=False)) if a != b), None)
    start = 0 if first is None or first < SHOWN // 2 else first - SHOWN // 4
    differ = [n for n, (a, b) in enumerate(zip(before, after, strict=False)) if a != b]
    if len(before) == len(after) and len(differ) <= 8:
        before, after = (_marked(text, differ) for text in (before, after))
    return _short(before, start), _short(after, start)


def _marked(text: str, places: Sequence[int]) -> str:
    signs = list(text)
    for place in places:
        if not text[place].isascii():
            signs[place] = f"<U+{ord(text[place]):04X}>"
    return "".join(signs)
