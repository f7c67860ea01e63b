"""The fields of a form that a server asks to be filled in: texts, numbers, yes or no, and choices."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any
from urllib.parse import urlsplit

from mcp_chat.message import wellformed
from mcp_chat.unseen import seen

LONGEST_NAME = 128
LONGEST_LABEL = 256
LONGEST_PROSE = 2000
LONGEST_TEXT = 16_384
"""Characters of a text that is filled in, if the server says nothing or more."""
MAX_CHOICES = 256
LARGEST = 2**53
"""The largest whole number that every reader of JSON takes."""

_DATE = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_EMAIL = re.compile(r"[^@\s]{1,64}@[^@\s]{1,255}")


class FormUnfit(Exception):
    """What is wrong with a form, as the end of a sentence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """A field.

    Attributes:
        schema: What is shown of it, as JSON Schema.
        check: Returns what is wrong with a value, or nothing.
        default: What is meant when nothing is filled in.
    """

    schema: Mapping[str, Any]
    check: Callable[[Any], str]
    required: bool
    default: Any = None

    def fault(self, value: Any) -> str:
        """Return what is wrong with a value, or nothing."""
        return self.check(value)


def field_of(name: str, schema: Any, *, required: bool) -> Field:
    """Return a field as it may be shown; what is not known of it is left out.

    Raises:
        FormUnfit: It is none of those that the protocol has.
    """
    if not 0 < len(name) <= LONGEST_NAME or seen(wellformed(name)) != name:
        raise FormUnfit("a field's name is not possible")
    if not isinstance(schema, Mapping):
        raise FormUnfit(f"the field {name} is no object")
    kind = schema.get("type")
    made = _KINDS.get(kind) if isinstance(kind, str) else None
    if made is None:
        raise FormUnfit(f"the field {name} is of no possible type")
    shown, check = made(name, schema)
    prose = {
        key: seen(wellformed(text))[:most]
        for key, most in (("title", LONGEST_LABEL), ("description", LONGEST_PROSE))
        if isinstance(text := schema.get(key), str)
    }
    default = schema.get("default")
    if default is not None and not check(default):  # one that is wrong is none
        return Field(
            schema={**shown, **prose, "default": default}, check=check, required=required, default=default
        )
    return Field(schema={**shown, **prose}, check=check, required=required)


Made = tuple[dict[str, Any], Callable[[Any], str]]


def _text(name: str, schema: Mapping[str, Any]) -> Made:
    if "enum" in schema or "oneOf" in schema:
        return _choice(name, schema)
    bounds = _bounds(name, schema, ("minLength", "maxLength"), whole=True)
    least, most = bounds.get("minLength", 0), min(bounds.get("maxLength", LONGEST_TEXT), LONGEST_TEXT)
    kind = schema.get("format") if schema.get("format") in _FORMATS else None
    shown = {"type": "string", **bounds, **({"format": kind} if kind else {})}

    def check(value: Any) -> str:
        if not isinstance(value, str) or wellformed(value) != value:
            return "this must be a text"
        if not least <= len(value) <= most:
            return f"this must have from {least} to {most} characters"
        return "" if kind is None or _FORMATS[kind](value) else f"this must be {_NAMES[kind]}"

    return shown, check


def _number(name: str, schema: Mapping[str, Any]) -> Made:
    whole = schema["type"] == "integer"
    bounds = _bounds(name, schema, ("minimum", "maximum"), whole=False)

    def check(value: Any) -> str:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            return "this must be a number"
        if whole and (value != int(value) or abs(value) > LARGEST):
            return "this must be a whole number"
        if value < bounds.get("minimum", -math.inf):
            return f"this must be at least {bounds['minimum']}"
        return f"this must be at most {bounds['maximum']}" if value > bounds.get("maximum", math.inf) else ""

    return {"type": schema["type"], **bounds}, check


def _yes_or_no(_name: str, _schema: Mapping[str, Any]) -> Made:
    return {"type": "boolean"}, lambda value: "" if isinstance(value, bool) else "this must be true or false"


def _choice(name: str, schema: Mapping[str, Any]) -> Made:
    values, shown = _choices(name, schema, "oneOf")
    known = frozenset(values)

    def check(value: Any) -> str:
        return "" if isinstance(value, str) and value in known else f"this must be one of: {_listed(values)}"

    return {"type": "string", **shown}, check


def _choices_of_many(name: str, schema: Mapping[str, Any]) -> Made:
    items = schema.get("items")
    if not isinstance(items, Mapping):
        raise FormUnfit(f"the field {name} says nothing of what can be chosen")
    values, shown = _choices(name, items, "anyOf")
    known = frozenset(values)
    bounds = _bounds(name, schema, ("minItems", "maxItems"), whole=True)
    least, most = bounds.get("minItems", 0), bounds.get("maxItems", len(values))

    def check(value: Any) -> str:
        if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
            return "this must be a list of texts"
        if not known.issuperset(value) or len(set(value)) < len(value):
            return f"these must be some of: {_listed(values)}"
        return "" if least <= len(value) <= most else f"from {least} to {most} of these must be chosen"

    given = {"type": "string", **shown} if "enum" in shown else shown
    return {"type": "array", "items": given, **bounds}, check


def _choices(name: str, schema: Mapping[str, Any], titled: str) -> tuple[list[str], dict[str, Any]]:
    """Return what can be chosen, and how that is shown: with titles or without."""
    pairs = schema.get(titled)
    if isinstance(pairs, list) and all(isinstance(each, Mapping) for each in pairs):
        values = _values(name, [each.get("const") for each in pairs])
        titles = [str(each.get("title", value)) for each, value in zip(pairs, values, strict=True)]
    else:
        values = _values(name, schema.get("enum"))
        given = schema.get("enumNames")
        titles = given if isinstance(given, list) and len(given) == len(values) else []
    if not titles:
        return values, {"enum": values}
    labels = [seen(wellformed(str(title)))[:LONGEST_LABEL] for title in titles]
    return values, {titled: [{"const": v, "title": t} for v, t in zip(values, labels, strict=True)]}


def _values(name: str, values: Any) -> list[str]:
    if not isinstance(values, Sequence) or isinstance(values, str) or not 0 < len(values) <= MAX_CHOICES:
        raise FormUnfit(f"the field {name} has none or more than {MAX_CHOICES} choices")
    if not all(
        isinstance(value, str) and len(value) <= LONGEST_LABEL and wellformed(value) == value
        for value in values
    ):
        raise FormUnfit(f"the field {name} has a choice that is no short text")
    return list(values)


def _bounds(name: str, schema: Mapping[str, Any], keys: tuple[str, str], *, whole: bool) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key in keys:
        value = schema.get(key)
        if value is None:
            continue
        number = not isinstance(value, bool) and isinstance(value, int if whole else int | float)
        if not number or not math.isfinite(value) or abs(value) > LARGEST or (whole and value < 0):
            raise FormUnfit(f"the field {name} has a limit that is none")
        found[key] = value
    if len(found) == 2 and found[keys[0]] > found[keys[1]]:
        raise FormUnfit(f"the field {name} has limits that nothing meets")
    return found


def _listed(values: Sequence[str]) -> str:
    more = f" and {len(values) - 10} more" if len(values) > 10 else ""
    return ", ".join(values[:10]) + more


def _is_uri(text: str) -> bool:
    try:
        parts = urlsplit(text)
    except ValueError:
        return False
    return bool(parts.scheme and (parts.netloc or parts.path)) and not any(map(str.isspace, text))


def _is_date(text: str) -> bool:
    try:
        return _DATE.fullmatch(text) is not None and bool(date.fromisoformat(text))
    except ValueError:
        return False


def _is_moment(text: str) -> bool:
    try:
        return len(text) > 10 and datetime.fromisoformat(text).tzinfo is not None
    except ValueError:
        return False


_FORMATS: Mapping[Any, Callable[[str], bool]] = {
    "email": lambda text: _EMAIL.fullmatch(text) is not None,
    "uri": _is_uri,
    "date": _is_date,
    "date-time": _is_moment,
}
_NAMES = {
    "email": "an e-mail address",
    "uri": "an address such as https://example.org",
    "date": "a date such as 2026-07-28",
    "date-time": "a moment such as 2026-07-28T12:00:00Z",
}
_KINDS: Mapping[str, Callable[[str, Mapping[str, Any]], Made]] = {
    "string": _text,
    "number": _number,
    "integer": _number,
    "boolean": _yes_or_no,
    "array": _choices_of_many,
}
