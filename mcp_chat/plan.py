"""What a check by a JSON schema would look at, counted before it is made.

The count assumes that nothing is ever decided early, so the check itself takes no more looks than that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import unquote

SPREAD = 256
"""Schemas that hold for one value, where it matters to others which of them do."""

_ELSEWHERE = ("$id", "$schema")
"""Below the root these change what references mean."""

_ONE = ("not", "if", "then", "else")
_SOME = ("allOf", "anyOf", "oneOf")
_MEMBERS = ("additionalProperties", "unevaluatedProperties")
_ITEMS = ("items", "additionalItems", "contains", "unevaluatedItems")
_UNEVALUATED = ("unevaluatedProperties", "unevaluatedItems")
_PER_STEP = 64
"""Bytes that are looked at as fast as one small value."""


class Uncheckable(Exception):
    """A schema that is not checked here; the argument says why, in our words."""


class TooCostly(Uncheckable):
    """A check that would take too long."""


class Bill:
    """Counts what a check looks at, as if nothing were ever decided early."""

    def __init__(self, steps: int) -> None:
        self._left = steps

    def spend(self, steps: int) -> None:
        """Pay for some looks.

        Raises:
            TooCostly: There were too many.
        """
        self._left -= steps
        if self._left < 0:
            raise TooCostly("the check takes too long")

    def weigh(self, args: dict[str, Any]) -> int:
        """Return what it costs to look at all that there is, and pay for it once."""
        waiting: list[Any] = [args]
        weight = 0
        while waiting:
            value, steps = waiting.pop(), 1
            match value:
                case str():
                    steps += len(value) // _PER_STEP
                case dict():
                    waiting += [*value, *value.values()]
                case list():
                    waiting += value
            weight += steps
            self.spend(steps)
        return weight


class Plan:
    """What a check of values by a schema looks at; the parts of the schema are read when they are met.

    Args:
        root: The schema; nothing in it changes what references mean.
    """

    def __init__(self, root: Mapping[str, Any]) -> None:
        self._root = root
        self._parts: dict[int, _Part] = {}
        self._referred: dict[str, Any] = {}

    def survey(self, bill: Bill) -> int:
        """Look at all that is in the schema before anything is made of it; return how many patterns it has.

        Raises:
            TooCostly: There is too much of it.
            Uncheckable: References in it do not mean what they seem to.
        """
        patterns = 0
        for inner in _mappings(self._root):
            bill.spend(1 + len(inner))
            if inner is not self._root and any(isinstance(inner.get(key), str) for key in _ELSEWHERE):
                raise Uncheckable("the schema has others within")
            named = _dict(inner.get("patternProperties"))
            patterns += isinstance(inner.get("pattern"), str) + len(named)
            if any(key in inner for key in _UNEVALUATED):
                self._spread(inner, bill)
        return patterns

    def pay(self, args: dict[str, Any], bill: Bill) -> None:
        """Pay for the check of arguments.

        Raises:
            TooCostly: It is over the limit.
            Uncheckable: It leads to where nothing can be counted.
        """
        weight = bill.weigh(args)
        waiting: list[tuple[Any, Any]] = [(self._root, args)]
        while waiting:
            schema, value = waiting.pop()
            bill.spend(1)
            if isinstance(schema, Mapping):
                part = self._part(schema)
                bill.spend(part.looks(value, weight))
                waiting += [(inner, value) for inner in part.alike]
                waiting += part.within(value)

    def _spread(self, schema: Mapping[str, Any], bill: Bill) -> None:
        """Follow all that holds for the same value; some of it is looked at once more for each part."""
        waiting: list[Any] = [schema]
        found = 0
        while waiting:
            found += 1
            bill.spend(1)
            if found > SPREAD:
                raise TooCostly("the schema has too many parts for one value")
            inner = waiting.pop()
            waiting += self._part(inner).alike if isinstance(inner, Mapping) else ()

    def _part(self, schema: Mapping[str, Any]) -> _Part:
        part = self._parts.get(id(schema))
        if part is None:
            part = self._parts[id(schema)] = _Part(schema, self._resolved)
        return part

    def _resolved(self, ref: str) -> Any:
        if ref not in self._referred:
            self._referred[ref] = _resolved(self._root, ref)
        return self._referred[ref]


class _Part:
    """What is looked at in one schema.

    Attributes:
        alike: The parts that hold for the same value.
    """

    __slots__ = (
        "_bulky",
        "_first",
        "_items",
        "_members",
        "_names",
        "_naming",
        "_patterns",
        "_properties",
        "_steps",
        "alike",
    )

    def __init__(self, schema: Mapping[str, Any], resolved: Callable[[str], Any]) -> None:
        if "$dynamicRef" in schema or "$recursiveRef" in schema:
            raise Uncheckable("the schema refers to what depends on the place")
        patterns = _dict(schema.get("patternProperties"))
        self._steps = sum(len(each) for each in schema.values() if isinstance(each, list | dict))
        self._steps += sum(len(str(each)) for each in _list(schema.get("required"))) // _PER_STEP
        self._bulky = _compares(schema)
        self._naming = any(key in schema for key in _MEMBERS) + SPREAD * any(
            key in schema for key in _UNEVALUATED
        )
        self._patterns = len(patterns) + ("pattern" in schema)
        self._properties = _dict(schema.get("properties"))
        self._members = [*patterns.values(), *_of(schema, _MEMBERS)]
        self._names = _of(schema, ("propertyNames",))
        self._first = [_list(schema.get(key)) for key in ("prefixItems", "items")]
        self._items = _of(schema, _ITEMS)
        self.alike = [schema[key] for key in _ONE if key in schema]
        for key in _SOME:
            self.alike += _list(schema.get(key))
        for key in ("dependentSchemas", "dependencies"):
            self.alike += _dict(schema.get(key)).values()
        if isinstance(ref := schema.get("$ref"), str):
            self.alike.append(resolved(ref))

    def looks(self, value: Any, weight: int) -> int:
        """Return how often this schema itself, without its parts, has a value looked at.

        Args:
            weight: Looks at all that there is.
        """
        match value:
            case str():
                return self._steps + (self._patterns and self._matched(value))
            case dict():
                named = sum(
                    self._naming * (1 + len(name) // _PER_STEP) + self._matched(name) for name in value
                )
                return self._steps + self._bulky * weight + named
            case list():
                return self._steps + self._bulky * weight + self._naming * len(value)
            case _:
                return self._steps

    def _named(self, name: str) -> int:
        return self._naming * (1 + len(name) // _PER_STEP)

    def _matched(self, text: str) -> int:
        return self._patterns * (1 + len(text) // 16)

    def within(self, value: Any) -> Iterator[tuple[Any, Any]]:
        """Yield the parts that hold for what is in a value, each with what it holds for."""
        match value:
            case dict():
                for name, each in value.items():
                    if name in self._properties:
                        yield self._properties[name], each
                    yield from ((member, each) for member in self._members)
                    yield from ((names, name) for names in self._names)
            case list():
                for first in self._first:
                    yield from zip(first, value, strict=False)
                yield from ((items, each) for items in self._items for each in value)


def _compares(schema: Mapping[str, Any]) -> bool:
    """Tell whether all that is in a value is looked at."""
    known = [schema.get("const"), *_list(schema.get("enum"))]
    return bool(schema.get("uniqueItems")) or any(isinstance(each, list | dict) for each in known)


def _of(schema: Mapping[str, Any], keys: tuple[str, ...]) -> list[Any]:
    return [schema[key] for key in keys if isinstance(schema.get(key), Mapping)]


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _dict(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _resolved(root: Mapping[str, Any], ref: str) -> Any:
    """Return what a reference means in a schema without others within."""
    if ref != "#" and not ref.startswith("#/"):
        raise Uncheckable("the schema refers to another document")
    found: Any = root
    for piece in ref.split("/")[1:]:
        name = unquote(piece).replace("~1", "/").replace("~0", "~")
        try:
            found = found[int(name)] if isinstance(found, list) else found[name]
        except (KeyError, IndexError, ValueError, TypeError):
            raise Uncheckable("the schema refers to nothing") from None
    return found


def _mappings(schema: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    waiting: list[Any] = [schema]
    while waiting:
        match waiting.pop():
            case Mapping() as inner:
                yield inner
                waiting += inner.values()
            case list(inner):
                waiting += inner
