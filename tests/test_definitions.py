"""A definition of a tool that is not the one a user has accepted is noticed, and shown so that it is seen."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import mcp_types as mcp
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from mcp import Client

from mcp_chat.config import ServerConfig
from mcp_chat.definitions import (
    ALL_DEFINITIONS,
    DIFFERENCES,
    GONE,
    SHOWN,
    Accepted,
    Definition,
    accepted_of,
    compare,
    definition_of,
    difference,
    identity_of,
    nothing_accepted,
    together,
)
from mcp_chat.limits import ServerLimits
from mcp_chat.raw import keep_raw, raw_of
from mcp_chat.tools import listed
from tests.hostile_mcp import EVERYTHING, HostileMCP
from tests.running import running

SERVER = identity_of(ServerConfig(alias="s", url="http://s.example/mcp"))
PLAIN: dict[str, Any] = {"name": "pay", "description": "Pays.", "inputSchema": {"type": "object"}}

texts = st.text(st.characters(codec="utf-8"), max_size=12)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts | st.just("\ud800"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
raws = st.dictionaries(texts, values, max_size=4).map(lambda more: {**PLAIN, **more, "name": "pay"})


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def said(**more: Any) -> Definition:
    """A definition that differs from the plain one."""
    return definition_of({**PLAIN, **more})


def accepted(*definitions: Definition) -> Accepted:
    return nothing_accepted(SERVER).with_(definitions)


def as_read(raw: Mapping[str, Any]) -> Any:
    return json.loads(json.dumps(raw))


# What is the same


@given(raws, raws)
def test_two_definitions_are_the_same_if_all_that_is_said_is(
    one: dict[str, Any], other: dict[str, Any]
) -> None:
    same = json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
    assert (definition_of(one).digest == definition_of(other).digest) == same


@given(raws)
def test_the_order_of_what_is_said_does_not_count(raw: dict[str, Any]) -> None:
    assert definition_of(dict(reversed(raw.items()))) == definition_of(raw)


@pytest.mark.parametrize(
    "more",
    [
        {"title": "Pay"},
        {"description": "Pays\u200b."},
        {"inputSchema": {"type": "object", "properties": {}}},
        {"outputSchema": {"type": "object"}},
        {"annotations": {"readOnlyHint": True}},
        {"annotations": {"unheardOf": True}},
        {"_meta": {"ui": "ui://pay"}},
        {"icons": [{"src": "https://s.example/i.png"}]},
        {"execution": {"taskSupport": "optional"}},
        {"neverHeardOf": None},
        {"description": "x" * 5_000_000},
    ],
)
def test_whatever_is_added_or_changed_is_a_change(more: dict[str, Any]) -> None:
    found = compare(accepted(said()), [said(**more)])
    assert [change.after for change in found.changed] == [said(**more)]
    assert (found.unchanged, found.new, found.gone) == ((), (), ())


@pytest.mark.anyio
@pytest.mark.parametrize("manner", ["everything", "everything-modern"])
async def test_all_that_a_server_says_of_a_tool_counts_also_what_the_sdk_drops(manner: str) -> None:
    with running(HostileMCP().app, grace=0) as url:
        async with Client(f"{url}/{manner}") as client:
            keep_raw(client)
            [tool] = (await client.list_tools()).tools
    assert raw_of(tool) == EVERYTHING
    [found] = listed([tool], ServerLimits())
    assert found.definition == definition_of(EVERYTHING)


def test_what_only_the_sdk_has_is_a_definition_too() -> None:
    tool = mcp.Tool(name="pay", description="Pays.", input_schema={"type": "object"})
    assert definition_of(raw_of(tool)) == said()


def test_what_is_nested_too_deep_to_be_written_down_is_left_out() -> None:
    deep: Any = []
    for _ in range(150):
        deep = [deep]
    tool = mcp.Tool(name="pay", input_schema={"type": "object"}, _meta={"deep": deep})
    [found] = listed([tool], ServerLimits())
    assert (found.definition, found.fault) == (None, "its definition is nested more than 128 levels deep")


# What is accepted


def test_what_was_never_seen_is_new_and_what_is_not_listed_is_gone() -> None:
    known, other = said(), said(name="get")
    found = compare(accepted(known), [other])
    assert (found.new, found.gone, found.changed, found.unchanged) == ((other,), ("pay",), (), ())


def test_a_tool_that_went_and_came_back_changed_is_held_back() -> None:
    before = accepted(said(), said(name="get"))
    assert compare(before, [said(name="get")]).gone == ("pay",)
    later = before.with_([said(name="get"), said(name="put")])
    found = compare(later, [said(description="Takes.")])
    assert [change.before for change in found.changed] == [said()]


def test_a_change_that_is_accepted_is_none_any_more_and_the_old_one_is() -> None:
    new = said(description="Takes.")
    later = accepted(said()).with_([new])
    assert compare(later, [new]).unchanged == (new,)
    assert [change.after for change in compare(later, [said()]).changed] == [said()]


def test_of_a_name_that_is_listed_twice_all_definitions_count() -> None:
    both = [said(), said(description="Takes.")]
    known = accepted(*together(both))
    assert compare(known, both[::-1]).unchanged == tuple(together(both))
    assert len(compare(known, [both[0]]).changed) == 1
    assert len(compare(accepted(both[0]), both).changed) == 1
    assert compare(accepted(both[0]), [both[0], both[0]]).unchanged == (both[0],)


def test_what_was_accepted_of_one_server_holds_for_no_other() -> None:
    one = ServerConfig(alias="s", url="http://s.example/mcp")
    others = [
        ServerConfig(alias="t", url="http://s.example/mcp"),
        ServerConfig(alias="s", url="http://t.example/mcp"),
        ServerConfig(alias="s", transport="sse", url="http://s.example/mcp"),
        ServerConfig(alias="s", transport="stdio", command="http://s.example/mcp", operator=True),
    ]
    assert accepted().knows(identity_of(one))
    assert len({identity_of(each) for each in (one, *others)}) == 5
    assert not any(accepted().knows(identity_of(other)) for other in others)
    secret = ServerConfig(alias="s", url="http://s.example/mcp", auth_token="another")
    assert identity_of(secret) == identity_of(one)


@given(st.lists(raws, max_size=3))
def test_what_is_accepted_is_the_same_after_json(found: list[dict[str, Any]]) -> None:
    known = accepted(*(definition_of({**raw, "name": str(n)}) for n, raw in enumerate(found)))
    assert accepted_of(known.text()) == known


@pytest.mark.parametrize("text", ["", "{", "[]", "5", '{"server": "s"}', '{"server": 1, "tools": [1]}'])
def test_what_cannot_be_read_is_nothing(text: str) -> None:
    assert accepted_of(text) is None


def test_what_is_kept_has_a_limit_and_no_change_goes_unnoticed() -> None:
    large = {str(n): "x" * 1_000 for n in range(60)}
    tools = [said(name=f"{n} {'y' * 5_000}", _meta=large) for n in range(256)]
    known = accepted_of(accepted(*tools).text())
    assert known
    assert len(known.text()) < 1.3 * ALL_DEFINITIONS
    assert len(compare(known, tools).unchanged) == len(tools)
    other = [said(name=f"{n} {'y' * 5_000}", _meta={**large, "59": "z"}) for n in range(256)]
    found = compare(known, other).changed
    assert len(found) == 256
    assert (
        difference(found[-1].before, found[-1].after)[0].before
        == "a definition that is too large to be shown"
    )


def test_of_tools_that_are_gone_the_latest_are_remembered() -> None:
    known = accepted()
    for n in range(0, 2 * GONE, 64):
        known = known.with_([said(name=str(m)) for m in range(n, n + 64)])
    assert len(known.tools) <= GONE + 64
    assert str(2 * GONE - 65) in known.tools


# What a person is shown


@given(raws, raws)
@example({**PLAIN, "a": 1}, {**PLAIN, "a": True})
@example({**PLAIN, "a": 0}, {**PLAIN, "a": False})
@example({**PLAIN, "a": 1}, {**PLAIN, "a": 1.0})
@example({**PLAIN, "a": "\u200b"}, {**PLAIN, "a": ""})
def test_two_definitions_that_differ_are_shown_to(one: dict[str, Any], other: dict[str, Any]) -> None:
    before, after = definition_of(one), definition_of(other)
    found = difference(before, after)
    assert bool(found) == (before.digest != after.digest)
    assert all(each.before != each.after for each in found)
    for each in found:
        assert f"{each.path}{each.before}{each.after}".isprintable()


def test_a_difference_has_its_place_and_both_sides() -> None:
    old = said(inputSchema={"type": "object", "properties": {"a/b": {"enum": [1, 2]}}, "required": ["x"]})
    new = said(inputSchema={"type": "object", "properties": {"a/b": {"enum": [1]}}}, description="Takes.")
    assert [(each.path, each.before, each.after) for each in difference(old, new)] == [
        ("/description", "Pays.", "Takes."),
        ("/inputSchema/properties/a~1b/enum/1", "2", None),
        ("/inputSchema/required", '["x"]', None),
    ]


@pytest.mark.parametrize(
    ("before", "after", "shown"),
    [
        ("Pays.", "Pays\u200b.", ("Pays.", "Pays<U+200B>.")),
        ("Pays.", "Pаys.", ("Pays.", "P<U+0430>ys.")),
        ("Pays.", "Pays.\U000e0041", ("Pays.", "Pays.<U+E0041>")),
        ("a b", "a\u00a0b", ("a b", "a<U+00A0>b")),
        ("a", "a\u202eb\n", ("a", "a<U+202E>b<U+000A>")),
        ("漢字です。", "漢字でした。", ("漢字です。", "漢字でした。")),
    ],
)
def test_what_cannot_be_seen_is_shown(before: str, after: str, shown: tuple[str, str]) -> None:
    [found] = difference(said(description=before), said(description=after))
    assert (found.before, found.after) == shown


def test_a_change_far_back_in_a_long_text_is_shown() -> None:
    [found] = difference(said(description="x" * 1_500 + "good"), said(description="x" * 1_500 + "evil"))
    assert found.before is not None
    assert found.after is not None
    assert "good" in found.before
    assert "evil" in found.after
    assert len(found.after) < 2 * SHOWN


def test_a_change_behind_what_is_kept_of_a_text_is_noticed() -> None:
    old, new = (said(description="x" * 500_000 + end) for end in ("good", "evil"))
    [found] = difference(old, new)
    assert found.before != found.after


def test_of_many_differences_the_first_are_shown() -> None:
    old, new = (said(_meta={str(n): n + more for n in range(500)}) for more in (0, 1))
    assert len(difference(old, new)) == DIFFERENCES
