"""Arguments are checked by the schema of their tool, and no schema holds anybody up."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcp_chat.arguments import KEPT, LONGEST, Arguments, check_of, sentence
from mcp_chat.plan import Uncheckable
from mcp_chat.tools import Tool

BUDGET = 2.0
"""Seconds of the processor for what takes some hundredths of one."""


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Fail if the block takes more of the processor's time, in whatever thread."""
    began = time.process_time()
    yield
    assert time.process_time() - began < seconds


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def tool(schema: Any, name: str = "s__t") -> Tool:
    return Tool(name=name, alias="s", remote_name="t", description="", schema=schema)


async def problem(schema: Any, **args: Any) -> str:
    return await Arguments().problem(tool(schema), args)


# What fits


members = st.sampled_from(["a", "b", "c"])
scalars = st.none() | st.booleans() | st.integers(-2, 2) | st.sampled_from(["", "a", "ab", "b1"])
instances = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(members, inner, max_size=3),
    max_leaves=8,
)
leaves = st.one_of(
    st.booleans(),
    st.fixed_dictionaries({"type": st.sampled_from(["object", "array", "string", "integer", "null"])}),
    st.fixed_dictionaries({"type": st.just(["string", "null"])}),
    st.fixed_dictionaries({"enum": st.lists(instances, min_size=1, max_size=3)}),
    st.fixed_dictionaries({"const": instances}),
    st.fixed_dictionaries({"required": st.lists(members, max_size=2, unique=True)}),
    st.fixed_dictionaries({"minimum": st.integers(-1, 1)}),
    st.fixed_dictionaries({"pattern": st.sampled_from(["^a", "b$", "[0-9]"])}),
    st.fixed_dictionaries({"uniqueItems": st.booleans(), "minItems": st.integers(0, 2)}),
    st.fixed_dictionaries({"$ref": st.sampled_from(["#/$defs/a", "#/$defs/b", "#"])}),
)


def composed(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    some = st.lists(inner, min_size=1, max_size=3)
    named = st.dictionaries(members, inner, max_size=3)
    return st.fixed_dictionaries(
        {},
        optional={
            "allOf": some,
            "anyOf": some,
            "oneOf": some,
            "not": inner,
            "if": inner,
            "then": inner,
            "else": inner,
            "properties": named,
            "patternProperties": st.dictionaries(st.sampled_from(["a", "^b"]), inner, max_size=2),
            "additionalProperties": inner,
            "propertyNames": inner,
            "dependentSchemas": named,
            "prefixItems": some,
            "items": inner,
            "contains": inner,
            "unevaluatedProperties": st.booleans(),
            "unevaluatedItems": st.booleans(),
        },
    )


schemas = st.recursive(leaves, composed, max_leaves=10)


@settings(max_examples=150, deadline=None)
@given(schemas, schemas, schemas, st.dictionaries(members, instances, max_size=3))
def test_what_is_checked_is_what_another_library_finds(
    schema: Any, one: Any, other: Any, args: dict[str, Any]
) -> None:
    whole = {"allOf": [schema], "$defs": {"a": one, "b": other}}
    began = time.process_time()
    try:
        found = sentence(check_of(whole).fault(args))
    except Uncheckable:
        return
    finally:
        assert time.process_time() - began < BUDGET
    assert jsonschema.Draft202012Validator(whole).is_valid(args) == (not found)
    assert len(found) < 2 * LONGEST + 200


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("schema", "fits", "fits_not"),
    [
        ({"$schema": "https://json-schema.org/draft/2020-12/schema", "required": ["a"]}, {"a": 1}, {}),
        (
            {
                "$schema": "http://json-schema.org/draft-07/schema#",
                "properties": {"a": {"items": [{"type": "null"}]}},
            },
            {"a": [None, 1]},
            {"a": [1]},
        ),
        (
            {"$defs": {"n": {"properties": {"n": {"$ref": "#/$defs/n"}}, "additionalProperties": False}}}
            | {"$ref": "#/$defs/n"},
            {"n": {"n": {}}},
            {"n": {"m": {}}},
        ),
        (
            {"properties": {"a~/b": True, "b": {"$ref": "#/properties/c%25"}, "c%": {"type": "null"}}},
            {"b": None},
            {"b": 1},
        ),
        ({"properties": {"$id": {"type": "string"}}}, {"$id": "x"}, {"$id": 1}),
        ({"$id": "http://s.example/schema", "properties": {"a": {"type": "null"}}}, {"a": None}, {"a": 1}),
    ],
)
async def test_schemas_of_all_kinds_are_checked_by(schema: Any, fits: Any, fits_not: Any) -> None:
    assert await problem(schema, **fits) == ""
    assert await problem(schema, **fits_not) != ""


@pytest.mark.anyio
async def test_a_schema_that_has_changed_is_the_one_that_counts() -> None:
    arguments = Arguments()
    for kind, found in (("integer", False), ("string", True), ("integer", False)):
        schema = {"properties": {"a": {"type": kind}}}
        assert bool(await arguments.problem(tool(schema), {"a": 1})) == found


@pytest.mark.anyio
async def test_few_schemas_are_kept() -> None:
    arguments = Arguments()
    for n in range(3 * KEPT):
        assert await arguments.problem(tool({"required": ["a"]}, f"s__{n}"), {}) != ""
    assert len(arguments._ready) == KEPT


# What is left to the server


def doubling(levels: int, key: str = "allOf", **more: Any) -> dict[str, Any]:
    """A schema each of whose levels holds twice for what the one above holds for."""
    defs = {str(n): {key: [{"$ref": f"#/$defs/{n + 1}"}] * 2, **more} for n in range(levels)}
    return {"$ref": "#/$defs/0", "$defs": defs | {str(levels): {"type": "object"}}}


def nested(levels: int) -> dict[str, Any]:
    return {"a": nested(levels - 1)} if levels else {}


LONG = "a" * 900_000
TWICE = {"$defs": {"x": {"allOf": [{"properties": {"a": {"$ref": "#/$defs/x"}}}] * 2}}, "$ref": "#/$defs/x"}
COSTLY: dict[str, tuple[Any, Any]] = {
    "doubling": (doubling(40), {}),
    "doubling choices": (doubling(40, "anyOf"), {}),
    "doubling, one of": (doubling(40, "oneOf"), {}),
    "doubling, nothing else": (doubling(40, unevaluatedProperties=False), {"a": 1}),
    "doubling with each level": (TWICE, nested(30)),
    "round and round": ({"$ref": "#"}, {}),
    "round and round in two": ({"allOf": [{"$ref": "#"}, {"$ref": "#"}]}, {}),
    "100,000 parts": ({"properties": {str(n): {"type": "null"} for n in range(100_000)}}, {"1": 1}),
    "many patterns": ({"properties": {str(n): {"pattern": f"(a|b){n}"} for n in range(1_000)}}, {"1": "x"}),
    "a large pattern": ({"properties": {"a": {"pattern": r"((\w{100}){100}){100}"}}}, {"a": "x"}),
    "a pattern that looks back": ({"properties": {"a": {"pattern": r"(a)\1(?=b)"}}}, {"a": "x"}),
    "a long text for a pattern": ({"properties": {"a": {"pattern": "^(a|b|ab)*c"}}}, {"a": LONG}),
    "unlike each other": (
        {"properties": {"a": {"allOf": [{"uniqueItems": True}] * 1_000}}},
        {"a": [[n] for n in range(5_000)]},
    ),
    "long names": ({"allOf": [{"required": ["x" * 50_000]}] * 1_000}, {}),
    "another document": ({"$ref": "http://127.0.0.1:9/schema"}, {}),
    "a file": ({"$ref": "file:///etc/hostname"}, {}),
    "a document elsewhere": ({"$id": "http://127.0.0.1:9/a", "$ref": "b"}, {}),
    "another within": ({"properties": {"a": {"$id": "http://127.0.0.1:9/a", "$ref": "#/b"}}}, {"a": 1}),
    "its own dialect": ({"$schema": "http://127.0.0.1:9/dialect"}, {}),
    "a place that moves": ({"$dynamicRef": "#a", "$dynamicAnchor": "a"}, {}),
    "a reference to nothing": ({"$ref": "#/nothing"}, {}),
    "no schema": ({"type": "strange"}, {}),
    "no list": ({"allOf": 5, "properties": [], "required": "a"}, {}),
    "no text": ({"const": "\ud800", "required": [5, None]}, {}),
}


@pytest.mark.anyio
@pytest.mark.parametrize("kind", COSTLY)
async def test_what_takes_too_long_or_leads_elsewhere_is_left_to_the_server(kind: str) -> None:
    schema, args = COSTLY[kind]
    with within(BUDGET):
        assert await problem(schema, **args) == ""
    with within(BUDGET), pytest.raises(Uncheckable) as raised:
        check_of(schema).fault(args)
    assert "127.0.0.1" not in str(raised.value)  # it goes to the log


@pytest.mark.anyio
@pytest.mark.parametrize("pattern", ["^(a+)+$", "^(a|a)*$", "^(.*a){20}$"])
async def test_a_pattern_that_would_backtrack_is_read_in_no_time(pattern: str) -> None:
    with within(BUDGET):
        assert await problem({"properties": {"a": {"pattern": pattern}}}, a="a" * 10_000 + "!") != ""


@pytest.mark.anyio
async def test_large_arguments_of_an_ordinary_tool_are_checked() -> None:
    row = {"type": "object", "properties": {"x": {"type": "integer"}}, "additionalProperties": False}
    schema = {"properties": {"rows": {"items": row}, "text": {"type": "string", "maxLength": 10**6}}}
    rows = [{"x": n} for n in range(2_000)]
    assert await problem(schema, rows=rows, text=LONG) == ""
    assert "At /rows/1999/x:" in await problem(schema, rows=[*rows[:-1], {"x": "y"}], text=LONG)
