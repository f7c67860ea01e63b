"""The forms of servers: which ones are shown, and which answers fit."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_chat.questions import Answer, QuestionUnfit, address, completed, faults, form

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
WORDS = st.sampled_from(
    ["type", "object", "string", "integer", "array", "enum", "oneOf", "items", "const", "title", "default"]
)
SCHEMAS = st.dictionaries(
    st.sampled_from(["type", "properties", "required"]),
    st.just("object")
    | st.dictionaries(st.text(min_size=1, max_size=4), st.dictionaries(WORDS, JSON | WORDS)),
)


def one(schema: Any, *, required: bool = False) -> Any:
    """A form with one field `a`."""
    return {"type": "object", "properties": {"a": schema}, "required": ["a"] if required else []}


def said(schema: Any, value: Any) -> str:
    """What is wrong with a value in the one field, or nothing."""
    return faults(form("s", "?", one(schema)), Answer(action="accept", content={"a": value})).get("a", "")


MANY = {"type": "array", "items": {"type": "string", "enum": ["x", "y", "z"]}, "minItems": 1, "maxItems": 2}
TITLED = {"type": "string", "oneOf": [{"const": "x", "title": "The X"}, {"const": "y", "title": "The Y"}]}
FIT = [
    ({"type": "string"}, ["", "a", "\u00e4" * 100], [1, None, True, "\ud800", "x" * 20_000, ["a"]]),
    ({"type": "string", "minLength": 2, "maxLength": 3}, ["ab", "abc"], ["a", "abcd"]),
    ({"type": "string", "format": "email"}, ["a@b.example"], ["a", "a@b c", "@b", "a@"]),
    ({"type": "string", "format": "uri"}, ["https://a.example/x", "urn:x"], ["a", "https://", "ht tp://a"]),
    ({"type": "string", "format": "date"}, ["2026-07-28"], ["2026-13-01", "2026-W01-1", "today", "2026-7-2"]),
    ({"type": "string", "format": "date-time"}, ["2026-07-28T10:00:00Z"], ["2026-07-28", "2026-07-28T10:00"]),
    ({"type": "integer", "minimum": 1, "maximum": 3}, [1, 3, 2.0], [0, 4, 1.5, True, "1", 2**60]),
    ({"type": "number", "minimum": 0}, [0, 0.5, 7], [-0.1, float("nan"), float("inf"), "0", False]),
    ({"type": "boolean"}, [True, False], [0, "true"]),
    ({"type": "string", "enum": ["x", "y"]}, ["x"], ["z", "", 1]),
    ({"type": "string", "enum": ["x", "y"], "enumNames": ["The X", "The Y"]}, ["y"], ["The Y"]),
    (TITLED, ["x"], ["The X"]),
    (MANY, [["x"], ["x", "z"]], [[], ["x", "y", "z"], ["x", "x"], ["w"], "x", [1]]),
]


@pytest.mark.parametrize(("schema", "good", "bad"), FIT)
def test_what_fits_is_taken_and_all_else_is_told_apart(schema: Any, good: list[Any], bad: list[Any]) -> None:
    assert [said(schema, value) for value in good] == [""] * len(good)
    for value in bad:
        if value is not None:
            assert said(schema, value).startswith(("this ", "these ", "from ")), value


def test_what_is_left_out_has_its_default() -> None:
    properties = {
        "a": {"type": "string", "default": "x"},
        "b": {"type": "integer", "default": 3},
        "c": {"type": "boolean", "default": False},
        "d": {"type": "number", "default": "none"},
        "e": {"type": "string"},
    }
    question = form("s", "?", {"type": "object", "properties": properties, "required": ["a", "b", "c"]})
    answer = Answer(action="accept", content={"b": 4})
    assert not faults(question, answer)
    assert completed(question, answer) == {"a": "x", "b": 4, "c": False}
    assert completed(question, Answer(action="accept")) == {"a": "x", "b": 3, "c": False}
    assert completed(question, Answer(action="decline")) is None


@pytest.mark.parametrize(
    "schema",
    [
        None,
        {},
        {"type": "string"},
        {"type": "object"},
        {"type": "object", "properties": []},
        one({"type": "object", "properties": {}}),
        one({"type": ["string", "null"]}),
        one({"$ref": "#/$defs/a"}),
        one({"type": "array", "items": {"type": "object"}}),
        one({"type": "string", "enum": []}),
        one({"type": "string", "enum": [1]}),
        one({"type": "string", "enum": [str(n) for n in range(1_000)]}),
        one({"type": "string", "minLength": 5, "maxLength": 4}),
        one({"type": "string", "minLength": -1}),
        one({"type": "string", "minLength": True}),
        one({"type": "integer", "minimum": float("nan")}),
        {"type": "object", "properties": {"": {"type": "string"}}},
        {"type": "object", "properties": {"a\u202eb": {"type": "string"}}},
        {"type": "object", "properties": {f"f{n}": {"type": "string"} for n in range(65)}},
        {
            "type": "object",
            "properties": {f"f{n}": {"type": "string", "description": "x" * 2_000} for n in range(60)},
        },
    ],
)
def test_a_form_that_cannot_be_shown_is_refused_in_one_sentence(schema: Any) -> None:
    with pytest.raises(
        QuestionUnfit, match=r"^The server asked for something in a form that cannot be shown"
    ):
        form("s", "?", schema)


@given(SCHEMAS)
def test_whatever_a_server_sends_is_a_form_or_is_refused(schema: Any) -> None:
    try:
        question = form("s", "?", schema)
    except QuestionUnfit:
        return
    assert len(json.dumps(question.schema)) < 100_000
    assert form("s", "?", question.schema).schema == question.schema


def test_what_nobody_sees_is_not_shown() -> None:
    question = form(
        "s", "Sure\u202e?\U000e0041", one({"type": "string", "title": "A\u200b", "pattern": "^(a+)+$"})
    )
    assert question.message == "Sure?"
    assert question.schema["properties"]["a"] == {"type": "string", "title": "A"}
    assert len(form("s", "x" * 10_000, one({"type": "string"})).message) < 5_000


@pytest.mark.parametrize("name", ["password", "apiKey", "client_secret", "PIN"])
def test_a_form_that_asks_for_a_secret_is_shown_with_a_warning(name: str) -> None:
    asks = {"type": "object", "properties": {name: {"type": "string"}}}
    assert "secret" in form("s", "?", asks).warning
    assert not form("s", "?", one({"type": "string"})).warning


@pytest.mark.parametrize(
    "url",
    [
        *(
            "javascript:alert(1)",
            "data:text/html,x",
            "file:///etc/passwd",
            "ftp://a.example/",
            "//a.example/",
            "",
        ),
        *(
            "https://",
            "https://a.example@b.example/",
            "https://a.example\\@b.example/",
            "https://a b.example/",
        ),
        *("https://a.example/\u202e", "https://\u0430.example/", "http://a.example/", "https://a.example:0/"),
        *(
            "https://a.example:99999/",
            "https://[::1/",
            "https://a.example/" + "x" * 5_000,
            "https://a.example/\n",
        ),
    ],
)
def test_what_is_no_safe_web_address_is_refused(url: str) -> None:
    with pytest.raises(QuestionUnfit, match=r"^The server asked to open .*\.$"):
        address("s", "?", url, own="https://mcp.example/mcp")


@pytest.mark.parametrize(
    ("url", "own"),
    [
        ("https://a.example/x?y=1#z", "https://mcp.example/mcp"),
        ("http://127.0.0.1:8000/x", "https://mcp.example/mcp"),
        ("http://tools.internal:8080/pay", "http://tools.internal:8080/mcp"),
    ],
)
def test_a_safe_address_is_shown_as_it_is(url: str, own: str) -> None:
    question = address("s", "?", url, own=own)
    assert question.url == url
    assert question.host in url
    assert not question.warning


def test_a_host_in_other_letters_is_pointed_out() -> None:
    assert "xn--80ak6aa92e.com" in address("s", "?", "https://xn--80ak6aa92e.com/").warning
