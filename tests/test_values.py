"""The values in the middle, for whatever comes."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import UTC
from itertools import groupby, pairwise
from typing import Any, get_args

import anyio
import mcp_types as mcp
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mcp_chat import config as configs
from mcp_chat.commands import COMMAND, Command, Consult, Send
from mcp_chat.config import CONFIG, ModelConfig, ServerConfig, UserConfig
from mcp_chat.consult import CallForApp, GetPrompt
from mcp_chat.events import (
    EVENT,
    Asked,
    Connected,
    Consulted,
    Event,
    MessageAdded,
    ServersShown,
    TextDelta,
    ToolFinished,
    ToolStarted,
    fold,
    is_final,
    order,
)
from mcp_chat.identity import user_key
from mcp_chat.message import MESSAGE, Message, ToolCall, Usage, complete
from mcp_chat.names import skeleton
from mcp_chat.progress import Progress
from mcp_chat.questions import Question
from mcp_chat.results import MAX_RESULT, shortened
from mcp_chat.session import Session
from mcp_chat.tools import named
from mcp_chat.writer import merged

st.register_type_strategy(float, st.floats(-1e300, 1e300))

any_text = st.text(st.characters())  # lone surrogates too
text = st.text()
ids = st.sampled_from(["", "a", "b", "c"])
finite = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(-1e300, 1e300) | text
values = st.recursive(finite, lambda inner: st.lists(inner) | st.dictionaries(text, inner), max_leaves=8)

calls = st.builds(ToolCall, id=ids, name=text, args=st.dictionaries(text, values, max_size=3))
messages = st.builds(
    Message,
    role=st.sampled_from(["system", "user", "assistant", "tool"]),
    content=text,
    tool_calls=st.lists(calls, max_size=3).map(tuple),
    tool_call_id=st.none() | ids,
    name=st.none() | text,
    status=st.sampled_from([None, "success", "error"]),
    created_at=st.datetimes(timezones=st.just(UTC)),
    metadata=st.dictionaries(text, values, max_size=2),
).map(lambda m: replace(m, tool_call_id=m.tool_call_id or "") if m.role == "tool" else m)

talks = st.lists(
    st.builds(
        Message,
        role=st.sampled_from(["system", "user", "assistant", "tool"]),
        content=st.just("x"),
        id=st.sampled_from("123456789"),
        tool_calls=st.lists(st.builds(ToolCall, id=ids, name=st.just("t"), args=st.just({})), max_size=3).map(
            tuple
        ),
        tool_call_id=st.none() | ids,
    ),
    max_size=12,
).map(tuple)

st.register_type_strategy(Message, messages)

arguments = st.dictionaries(text, values, max_size=3)
mappings: dict[Any, st.SearchStrategy[Any]] = {
    ToolStarted: st.builds(ToolStarted, args=arguments),
    Asked: st.builds(Asked, question=st.builds(Question, schema=arguments)),
    Connected: st.builds(
        Connected,
        left_out=st.dictionaries(text, text, max_size=3),
        sign_in=st.dictionaries(text, text, max_size=3),
    ),
    ServersShown: st.builds(ServersShown, shown=st.lists(arguments, max_size=3).map(tuple)),
    Consulted: st.builds(Consulted, result=arguments),
    ToolFinished: st.builds(ToolFinished, structured=st.none() | arguments),
}
st.register_type_strategy(CallForApp, st.builds(CallForApp, arguments=arguments))
kinds = [mappings.get(kind, st.from_type(kind)) for kind in get_args(Event)]
events: st.SearchStrategy[Event] = st.one_of(kinds)
whole: dict[Any, st.SearchStrategy[Any]] = {
    Consult: st.builds(Consult, ask=st.builds(GetPrompt, arguments=st.dictionaries(text, text, max_size=3))),
    Send: st.builds(Send, metadata=arguments),
}
commands: st.SearchStrategy[Command] = st.one_of(
    [whole.get(kind, st.from_type(kind)) for kind in get_args(Command)]
)


# A user's key


@given(any_text, any_text)
@example("~" + "0" * 64, "")
@example("a:b", "a_b")
@example("Ann", "ann")
@example("é", "e\u0301")
@example("a", "a\u200b")
@example("x" * 128, "x" * 129)
def test_two_ids_never_share_a_key(one: str, other: str) -> None:
    assert (user_key(one) == user_key(other)) == (one == other)


@given(any_text)
def test_an_id_is_not_mistaken_for_the_key_of_another(user_id: str) -> None:
    assert user_key(user_key(user_id)) != user_key(user_id) or user_key(user_id) == user_id


@given(any_text | st.from_regex(r"\A[\w@.+:*{}/\\?\[\]\n -]{0,200}\Z"))
def test_a_key_has_no_character_with_a_meaning_in_keys_patterns_or_paths(user_id: str) -> None:
    assert re.fullmatch(r"~[0-9a-f]{64}|[A-Za-z0-9@._+-]{1,128}", user_key(user_id))


# What the model is shown


@given(talks)
def test_each_call_has_one_result_right_behind_it_and_no_result_is_an_orphan(
    given_messages: tuple[Message, ...],
) -> None:
    shown = complete(given_messages)
    expected: list[str | None] = []
    for message in shown:
        if message.role == "tool":
            assert expected, "a result without its call"
            assert message.tool_call_id == expected.pop(0)
        else:
            assert not expected, "a call without its result"
            expected = [call.id for call in message.tool_calls]
    assert not expected


@given(talks)
def test_nothing_but_orphaned_results_is_left_out_and_order_is_kept(
    given_messages: tuple[Message, ...],
) -> None:
    def talk(of: tuple[Message, ...]) -> list[Message]:
        return [message for message in of if message.role != "tool"]

    assert talk(complete(given_messages)) == talk(given_messages)


@given(talks)
def test_what_is_complete_stays_as_it_is(given_messages: tuple[Message, ...]) -> None:
    once = complete(given_messages)
    ids_differ = all(len({c.id for c in m.tool_calls}) == len(m.tool_calls) for m in once)
    if ids_differ:
        assert complete(once) == once


def test_a_call_whose_turn_was_interrupted_says_that_its_outcome_is_unknown() -> None:
    call = ToolCall(id="1", name="pay")
    asked = Message(role="assistant", content="", tool_calls=(call,))
    [_, result] = complete((asked,))
    assert (result.tool_call_id, result.name, result.status) == ("1", "pay", "error")
    assert "not known" in result.content


# Round trips


@given(messages)
def test_a_message_is_the_same_after_json(message: Message) -> None:
    assert MESSAGE.validate_json(MESSAGE.dump_json(message)) == message


@given(events)
def test_an_event_is_the_same_after_json(event: Event) -> None:
    assert EVENT.validate_json(EVENT.dump_json(event)) == event


@given(commands)
def test_a_command_is_the_same_after_json(command: Command) -> None:
    assert COMMAND.validate_json(COMMAND.dump_json(command)) == command


# Folding


@given(st.lists(events, max_size=8))
def test_a_session_is_what_its_messages_add_up_to(happened: list[Event]) -> None:
    session = Session(id="s")
    for event in happened:
        session = fold(session, event)
    added = [event for event in happened if isinstance(event, MessageAdded)]
    assert session.messages == tuple(event.message for event in added)
    assert session.token_usage == sum((event.usage for event in added), Usage())


@given(events)
def test_only_an_end_is_final(event: Event) -> None:
    ends = {
        "servers_shown",
        "steered",
        "branch_switched",
        "sign_in_shown",
        "turn_finished",
        "connected",
        "cancelled",
        "disconnected",
        "session_deleted",
        "consulted",
        "answered",
        "failed",
    }
    assert is_final(event) == (event.type in ends)


# Batches


batches = st.lists(
    st.tuples(st.sampled_from("ab"), st.builds(TextDelta, text=text) | st.from_type(MessageAdded)),
    max_size=12,
)


def _texts(batch: list[tuple[str, Event]], command_id: str) -> list[str]:
    """A command's texts between its other events."""
    own = [event for each, event in batch if each == command_id]
    runs = groupby(own, key=lambda event: isinstance(event, TextDelta))
    joined = ["".join(e.text for e in run if isinstance(e, TextDelta)) for _, run in runs]
    return [text for text in joined if text]


@given(batches)
def test_merging_keeps_every_commands_text_and_events_in_order(batch: list[tuple[str, Event]]) -> None:
    out = merged(batch)
    for command_id in "ab":
        assert _texts(out, command_id) == _texts(batch, command_id)
    assert [each for each in out if not isinstance(each[1], TextDelta)] == [
        each for each in batch if not isinstance(each[1], TextDelta)
    ]


@given(batches)
def test_no_two_neighbours_are_texts_of_one_command(batch: list[tuple[str, Event]]) -> None:
    out = merged(batch)
    for (one, before), (other, after) in pairwise(out):
        assert not (one == other and isinstance(before, TextDelta) and isinstance(after, TextDelta))
    assert merged(out) == out


# Places


places = st.tuples(st.integers(0, 2**62), st.integers(0, 2**62))


@given(places, places)
def test_places_compare_as_numbers(one: tuple[int, int], other: tuple[int, int]) -> None:
    assert order(f"{one[0]}-{one[1]}") == one
    assert (order(f"{one[0]}-{one[1]}") < order(f"{other[0]}-{other[1]}")) == (one < other)


def test_a_place_without_a_number_is_before_the_first() -> None:
    assert order("7") == (7, 0) < order("7-1")


# Configurations


secret = st.text("0123456789abcdef", min_size=32, max_size=32).map(lambda digits: f"SECRET{digits}")
headers = st.dictionaries(st.sampled_from(["X-Key", "Authorization", "Cookie"]), secret)
own_servers = st.builds(
    ServerConfig,
    alias=st.just("own"),
    url=st.just("https://example.org/mcp"),
    auth_token=st.none() | secret,
    headers=headers,
)
operators_servers = st.builds(
    ServerConfig,
    alias=st.just("operators"),
    transport=st.sampled_from(["streamable_http", "sse", "stdio"]),
    url=st.none() | secret.map(lambda s: f"https://{s}.internal/mcp"),
    auth_token=st.none() | secret,
    headers=headers,
    command=st.none() | secret,
    args=st.lists(secret, max_size=2).map(tuple),
    env=st.dictionaries(st.just("KEY"), secret),
    operator=st.just(True),
)
models = st.builds(
    ModelConfig,
    provider=st.just("openai"),
    model=st.just("m"),
    api_key=st.none() | secret,
    base_url=st.just("https://example.org/v1"),
) | st.builds(
    ModelConfig,
    provider=st.just("openai"),
    model=st.just("m"),
    api_key=st.none() | secret,
    base_url=st.none() | secret.map(lambda s: f"https://{s}.internal/v1"),
    operator=st.just(True),
)
user_configs = st.builds(
    UserConfig, servers=st.lists(own_servers | operators_servers, max_size=3).map(tuple), model=models
)


@given(user_configs)
def test_no_secret_and_no_address_of_the_operators_is_ever_shown(config: UserConfig) -> None:
    assert "SECRET" not in json.dumps(configs.shown(config, max_messages=50))


@given(user_configs)
def test_what_is_masked_tells_only_that_there_is_something(config: UserConfig) -> None:
    shown = configs.shown(config, max_messages=50)
    for server, seen in zip(config.servers, shown["mcp_servers"], strict=True):
        own = not server.operator
        assert seen["auth_token"] == ("*****" if own and server.auth_token else None)
        assert set((seen["headers"] or {}).values()) <= {"*****"}
    assert shown["llm"]["config"]["api_key"] == ("*****" if config.model.api_key else None)


@given(user_configs)
def test_a_configuration_is_the_same_after_json(config: UserConfig) -> None:
    assert CONFIG.validate_json(CONFIG.dump_json(config)) == config


# Tools

aliases = st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9-]{0,31}\Z")
tool_names = st.lists(
    st.text(max_size=90) | st.sampled_from(["a b", "a_b", "a.b", "x" * 70, ""]), max_size=12
)


def tools_of(alias: str, names: list[str]) -> list[str]:
    return [tool.name for tool in named(alias, [mcp.Tool(name=name, input_schema={}) for name in names])]


@given(aliases, tool_names)
@example("a", ["same", "same", "same"])
@example("a", ["x" * 70, "x" * 71, "x" * 70])
def test_tools_have_names_of_their_own_that_every_provider_takes(alias: str, names: list[str]) -> None:
    found = tools_of(alias, names)
    assert len(found) == len(set(found)) == len(names)
    for name in found:
        assert re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name)
        assert name.startswith(f"{alias}__")


def test_a_tool_cannot_be_named_so_that_the_next_one_is_hidden() -> None:
    [_, changed] = tools_of("demo", ["first", "a b"])
    assert len(set(tools_of("demo", [changed.removeprefix("demo__"), "a b"]))) == 2


@given(aliases, tool_names)
def test_no_tool_is_named_so_that_it_looks_like_another(alias: str, names: list[str]) -> None:
    found = tools_of(alias, list(dict.fromkeys(names)))
    assert len({skeleton(name) for name in found}) == len(found)


@pytest.mark.parametrize(
    ("names", "plain"),
    [
        (["good", "GOOD", "Good", "g00d"], "good"),
        (["list_files", "list-files", "1ist_files", "Iist_files"], "list_files"),
        (["modern", "modem"], "modem"),
        (["READ", "Read"], "Read"),
        (["pay", "pаy"], "pay"),  # the second one is Cyrillic in its middle
    ],
)
def test_of_names_that_look_alike_one_stays_in_whatever_order_they_are_listed(
    names: list[str], plain: str
) -> None:
    first, second = (dict(zip(each, tools_of("a", each), strict=True)) for each in (names, names[::-1]))
    assert first == second
    assert [name for name, given in first.items() if given == f"a__{name}"] == [plain]


def test_a_boundary_between_server_and_tool_cannot_be_moved() -> None:
    names = ["c", "b__c", "_c", "__c", "b___c", "-c"]
    found = [name for alias in ("a", "a-b", "a-", "a--b") for name in tools_of(alias, names)]
    assert len(set(found)) == len(found)


@given(aliases)
def test_a_clean_short_name_stays_as_it_is(alias: str) -> None:
    assert tools_of(alias, ["list_files", "read-file"]) == [f"{alias}__list_files", f"{alias}__read-file"]


@given(aliases, aliases, tool_names, tool_names)
def test_tools_of_two_servers_never_share_a_name(
    one: str, other: str, ones: list[str], others: list[str]
) -> None:
    if one != other:
        assert not set(tools_of(one, ones)) & set(tools_of(other, others))


def test_a_long_result_is_shortened_with_a_note_that_says_so() -> None:
    assert shortened("x" * MAX_RESULT) == "x" * MAX_RESULT
    assert shortened("x" * (MAX_RESULT + 5)).endswith("[shortened: 5 more characters are not shown]")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_progress_that_is_no_number_reaches_no_log(value: float) -> None:
    """JSON has no such numbers, and a log that cannot be read again would hold its user up for good."""
    events: list[Event] = []
    progress = Progress(ToolCall(id="1", name="t"), events.append)
    anyio.run(progress, value, 1.0, None)
    anyio.run(progress, 0.5, value, "half")
    assert [EVENT.validate_json(EVENT.dump_json(event)) for event in events] == events
    assert len(events) == 1
