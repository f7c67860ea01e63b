"""A conversation as a value: what may be in it, its JSON, its file, and its Markdown."""

from __future__ import annotations

import json
import re
import stat
import string
import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from mcp_chat.events import EVENT, MessageAdded
from mcp_chat.exceptions import InvalidRequest, InvalidSession
from mcp_chat.message import MESSAGE, Message, Part, ToolCall, Usage
from mcp_chat.session import MAX_BITS, MAX_DEPTH, SCHEMA, Session
from mcp_chat.transfer import LONGEST, filename, markdown

any_text = st.text(st.characters(), max_size=12) | st.sampled_from(["\0", "👩‍💻", "\ud800", "\udc00\ud800"])
numbers = st.integers(-(2**MAX_BITS) + 1, 2**MAX_BITS - 1) | st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    st.none() | st.booleans() | numbers | any_text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(any_text, inner, max_size=3),
    max_leaves=6,
)
mappings = st.dictionaries(any_text, values, max_size=3)
times = st.datetimes(min_value=datetime(2, 1, 1), max_value=datetime(9998, 1, 1)) | st.datetimes(
    min_value=datetime(2, 1, 1), max_value=datetime(9998, 1, 1), timezones=st.timezones()
)
counts = st.integers(0, 2**48)
messages = st.builds(
    Message,
    role=st.sampled_from(["system", "user", "assistant", "tool"]),
    content=any_text,
    id=any_text,
    parts=st.lists(
        st.builds(Part, upload_id=any_text, media_type=any_text, name=any_text, size=counts), max_size=2
    ).map(tuple),
    tool_calls=st.lists(st.builds(ToolCall, id=any_text, name=any_text, args=mappings), max_size=2).map(
        tuple
    ),
    tool_call_id=any_text,
    name=st.none() | any_text,
    status=st.sampled_from([None, "success", "error"]),
    created_at=times,
    metadata=mappings,
)
usages = st.builds(Usage, input_tokens=counts, output_tokens=counts)


@st.composite
def sessions(draw: st.DrawFn) -> Session:
    """Sessions as their methods make them."""
    session = Session.new(draw(any_text), name=draw(any_text)).set_context(draw(mappings))
    session = session.append(*draw(st.lists(messages, max_size=4)))
    return session.update_token_usage(draw(usages))


def document(**fields: Any) -> str:
    return json.dumps({"schema": SCHEMA, **fields})


def nested(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels - 1):
        value = [value]
    return value


# JSON


@given(sessions())
def test_a_session_is_the_same_after_json(session: Session) -> None:
    text = session.to_json()
    assert Session.from_json(text) == session
    assert Session.from_json(text.encode()).to_json() == text


def test_the_deepest_values_survive_json_wherever_they_stand() -> None:
    deep = {"v": nested(MAX_DEPTH - 1)}
    call = ToolCall(id="1", name="t", args=deep)
    session = Session.new("m").set_context(deep)
    session = session.append(Message(role="assistant", content="", tool_calls=(call,), metadata=deep))
    assert Session.from_json(session.to_json()) == session
    [message], event = session.messages, MessageAdded(message=session.messages[0])
    assert MESSAGE.validate_json(MESSAGE.dump_json(message)) == message
    assert EVENT.validate_json(EVENT.dump_json(event)) == event
    with pytest.raises(InvalidSession, match="nested too deep"):
        session.set_context({"v": nested(MAX_DEPTH)})
    with pytest.raises(InvalidSession, match="nested too deep"):
        session.add_message("user", "", v=nested(MAX_DEPTH))


def test_what_a_message_does_not_have_is_not_written() -> None:
    session = Session.new("m").add_message("user", "hi").add_message("tool", "5", tool_call_id="", a=1)
    user, tool = json.loads(session.to_json())["messages"]
    assert set(user) == {"role", "content", "id", "created_at"}
    assert set(tool) == {*user, "tool_call_id", "metadata"}
    assert Session.from_json(session.to_json()) == session


def test_the_fields_stand_in_one_order_and_mappings_in_theirs() -> None:
    text = Session.new("m").set_context({"z": 1, "a": 2}).add_message("user", "hi").to_json()
    found = json.loads(text)
    assert list(found)[:4] == ["schema", "id", "llm_backend", "name"]
    assert list(found["context"]) == ["z", "a"]
    assert list(found["messages"][0])[:3] == ["role", "content", "id"]


def test_a_session_written_by_hand_needs_little() -> None:
    text = document(messages=[{"role": "user", "content": "hi"}], mood="good")
    one, other = Session.from_json(text), Session.from_json("\ufeff".encode() + text.encode())
    assert [m.content for m in one.messages] == ["hi"]
    assert one.id != other.id


def test_half_a_surrogate_pair_in_json_becomes_a_character_that_can_be_stored() -> None:
    assert Session.from_json(document(name="a\ud800b")).name == "a\ufffdb"


user = {"role": "user", "content": "", "id": "u"}
broken: dict[str, tuple[str | bytes, str]] = {
    "syntax": ('{"schema":\n  1,,', "line 2, column 5"),
    "empty": ("", "line 1, column 1"),
    "bytes": (b'{"a": "\xff"}', "byte 7"),
    "list": ("[]", "not a JSON object"),
    "no schema": ("{}", "schema: missing"),
    "other schema": ('{"schema": "mcp-chat/session/2"}', 'schema: "mcp-chat/session/2" is not known'),
    "role": (document(messages=[user, {**user, "role": "boss"}]), r"^messages\.1\.role: .*'assistant'"),
    "no content": (document(messages=[{"role": "user"}]), r"^messages\.0\.content: "),
    "content": (document(messages=[{**user, "content": 5}]), r"^messages\.0\.content: "),
    "messages": (document(messages={"a": 1}), "^messages: "),
    "message": (document(messages=["hi"]), r"^messages\.0: "),
    "call": (
        document(messages=[{**user, "tool_calls": [{"id": "1"}]}]),
        r"^messages\.0\.tool_calls\.0\.name: ",
    ),
    "duplicate": (document(messages=[user, {**user, "id": "v"}, user]), r"^messages\.2\.id: .*messages\.0"),
    "orphan": (
        document(messages=[{**user, "role": "tool"}]),
        r"^messages\.0\.tool_call_id: .*names the call",
    ),
    "time": (document(created_at="yesterday"), "^created_at: "),
    "early": (document(updated_at="0001-01-01T00:00:00+05:00"), "^updated_at: .*calendar"),
    "context": (document(context=[]), "^context: "),
    "nan": (f'{{"schema": "{SCHEMA}", "context": {{"a": [1, NaN]}}}}', r"^context\.a\.1: .*finite"),
    "infinite": (f'{{"schema": "{SCHEMA}", "context": {{"a": 1e999}}}}', r"^context\.a: .*finite"),
    "long number": (f'{{"schema": "{SCHEMA}", "context": {{"a": {"9" * 5000}}}}}', r"^context\.a: .*bits"),
    "number": (document(context={"a": 2**MAX_BITS}), r"^context\.a: .*bits"),
    "deep": (document(context={"a": nested(250)}), "nested too deep"),
    "bomb": ("[" * 1_000_000, "nested too deep"),
    "long names": (
        document(context={"\ud800" * 50_000: {"x" * 50_000: 2**MAX_BITS}}),
        r"^context\.\ufffd+\.x+: ",
    ),
}


@pytest.mark.parametrize(("text", "place"), broken.values(), ids=broken.keys())
def test_what_is_wrong_with_json_is_told_with_its_place(text: str | bytes, place: str) -> None:
    with pytest.raises(InvalidSession, match=place) as caught:
        Session.from_json(text)
    assert len(str(caught.value).encode()) < 500
    assert (caught.value.code, isinstance(caught.value, InvalidRequest)) == ("invalid_session", True)


@given(
    st.binary(max_size=30)
    | st.text(max_size=30)
    | values.map(lambda v: json.dumps({"schema": SCHEMA, "id": v}))
)
def test_whatever_else_comes_is_read_or_refused_and_nothing_breaks(text: str | bytes) -> None:
    try:
        session = Session.from_json(text)
    except InvalidSession:
        return
    assert Session.from_json(session.to_json()) == session


@pytest.mark.parametrize("context", ['{"a": "' + "x" * 10_000_000 + '"}', '{"a": [' + "1," * 999_999 + "1]}"])
def test_a_large_session_is_read_in_a_moment(context: str) -> None:
    began = time.process_time()
    Session.from_json(f'{{"schema": "{SCHEMA}", "context": {context}}}')
    assert time.process_time() - began < 5


def test_names_that_are_deep_and_long_do_not_multiply() -> None:
    text = "[1" + ",1" * 100_000 + "]"
    for _ in range(120):
        text = f'{{"{"k" * 10_000}": {text}}}'
    began = time.process_time()
    Session.from_json(f'{{"schema": "{SCHEMA}", "context": {text}}}')
    assert time.process_time() - began < 5


@pytest.mark.parametrize("value", [float("nan"), {1, 2}, nested(400), nested(2000)])
def test_what_was_put_together_by_hand_and_is_not_json_is_not_written(value: object) -> None:
    with pytest.raises(InvalidSession, match="context"):
        Session(context={"v": value}).to_json()


def test_what_could_not_be_read_again_is_not_written() -> None:
    twice = Message(role="user", content="hi")
    for session in (Session(messages=(twice, twice)), Session(name="\ud800")):
        with pytest.raises(InvalidSession):
            session.to_json()


# Operations against a list


class Conversation(RuleBasedStateMachine):
    """A session does what a list does, and its earlier values stay as they were."""

    def __init__(self) -> None:
        super().__init__()
        self.session = Session.new("m")
        self.said: list[tuple[str, str]] = []
        self.ids: set[str] = set()
        self.used = 0
        self.past: list[tuple[Session, str]] = []

    def becomes(self, session: Session) -> None:
        assert session.updated_at >= self.session.updated_at
        self.past.append((self.session, self.session.to_json()))
        self.session = session

    @rule(
        role=st.sampled_from(["system", "user", "assistant"]), content=st.text(max_size=5), metadata=mappings
    )
    def add(self, role: str, content: str, metadata: Mapping[str, Any]) -> None:
        kept = {f"m{n}": value for n, value in enumerate(metadata.values())}
        self.becomes(self.session.add_message(role, content, **kept))
        self.said.append((role, content))
        self.ids.add(self.session.messages[-1].id)

    @rule(ids=st.lists(st.sampled_from("abc"), max_size=3))
    def append(self, ids: list[str]) -> None:
        self.becomes(self.session.append(*(Message(role="user", content=each, id=each) for each in ids)))
        for each in ids:
            if each not in self.ids:
                self.ids.add(each)
                self.said.append(("user", each))

    @rule(usage=usages)
    def use(self, usage: Usage) -> None:
        self.becomes(self.session.update_token_usage(usage))
        self.used += usage.input_tokens + usage.output_tokens

    @rule(name=st.text(max_size=3), context=mappings)
    def call(self, name: str, context: Mapping[str, Any]) -> None:
        self.becomes(self.session.set_name(name).set_context(context))
        assert self.session.name == name

    @rule()
    def clear(self) -> None:
        self.becomes(self.session.clear_messages())
        self.said, self.ids, self.used = [], set(), 0

    @rule(limit=st.integers(0, 8))
    def look(self, limit: int) -> None:
        found = [(m.role, m.content) for m in self.session.get_messages(limit)]
        assert found == (self.said[-limit:] if limit else [])

    @invariant()
    def is_what_was_said(self) -> None:
        assert [(m.role, m.content) for m in self.session.get_messages()] == self.said
        assert self.session.total_tokens() == self.used

    @invariant()
    def has_left_the_past_alone(self) -> None:
        assert all(session.to_json() == text for session, text in self.past[-3:])


TestConversation = Conversation.TestCase
TestConversation.settings = settings(max_examples=30, stateful_step_count=20)


def test_sessions_have_ids_of_their_own() -> None:
    assert len({Session.new("m").id for _ in range(100)}) == 100


def test_a_message_keeps_its_time_and_what_it_was_given() -> None:
    session = Session.new("m").add_message("user", "a\ud800", pinned=True)
    [message] = session.messages
    assert (message.content, message.metadata) == ("a\ufffd", {"pinned": True})
    assert message.created_at == session.updated_at >= session.created_at


def test_a_tools_message_names_its_call() -> None:
    [message] = Session.new("m").add_message("tool", "42", tool_call_id="1").messages
    assert (message.role, message.tool_call_id) == ("tool", "1")
    with pytest.raises(InvalidSession, match=r"^messages\.0\.tool_call_id: "):
        Session.new("m").add_message("tool", "42")


def test_a_role_that_does_not_exist_is_refused_by_name() -> None:
    with pytest.raises(
        InvalidSession, match=r"^messages\.1\.role: a role is one of system, user, assistant, tool"
    ):
        Session.new("m").add_message("user", "hi").add_message("boss", "hi")


@pytest.mark.parametrize("limit", [-1, True, 1.0, "1"])
def test_a_limit_that_is_no_number_of_messages_is_refused(limit: Any) -> None:
    with pytest.raises(InvalidRequest, match="whole number"):
        Session.new("m").get_messages(limit)


@pytest.mark.parametrize(
    "value", [float("nan"), float("-inf"), 2**MAX_BITS, b"", {1: 2}, {3}, datetime.now(UTC)]
)
def test_a_context_is_json_and_nothing_else(value: object) -> None:
    with pytest.raises(InvalidSession, match=r"^context\.a\.0: "):
        Session.new("m").set_context({"a": [value]})


@given(st.integers(0, 6), st.integers(0, 9))
@example(3, 0)
def test_a_limit_gives_the_last_messages(count: int, limit: int) -> None:
    session = Session.new("m").append(*(Message(role="user", content=str(n)) for n in range(count)))
    assert session.get_messages(limit) == session.messages[max(0, count - limit) :]


def test_a_context_is_the_sessions_own() -> None:
    given_list = [1]
    session = Session.new("m").set_context({"a": given_list})
    given_list.append(2)
    assert session.context == {"a": [1]}


def test_clearing_keeps_the_name_and_what_the_context_says_of_other_things() -> None:
    summary = {"text": "long ago", "upto": "1"}
    session = Session.new("m", name="n").add_message("user", "hi").update_token_usage(Usage(input_tokens=3))
    cleared = session.set_context({"lang": "de", "pinned": ["1"], "summary": summary}).clear_messages()
    assert (cleared.messages, cleared.token_usage) == ((), Usage())
    assert (cleared.id, cleared.name, cleared.context) == (session.id, "n", {"lang": "de"})


def test_times_are_in_utc() -> None:
    noon = datetime(2026, 1, 1, 12, tzinfo=timezone(timedelta(hours=2)))
    session = Session.new("m").append(Message(role="user", content="", created_at=noon))
    assert session.messages[0].created_at.isoformat() == "2026-01-01T10:00:00+00:00"


# Files


def test_a_session_in_a_file_is_whole_and_its_owners(tmp_path: Path) -> None:
    path = tmp_path / "s.json"
    path.write_text("old")
    path.chmod(0o644)
    session = Session.new("m", name="line\r\nline").add_message("user", "a\0👩‍💻")
    session.save_to_file(path)
    assert Session.load_from_file(str(path)) == session
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [each.name for each in tmp_path.iterdir()] == ["s.json"]


def test_a_file_that_cannot_be_replaced_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "s.json" / "inner").mkdir(parents=True)
    with pytest.raises(OSError, match=r"s\.json"):
        Session.new("m").save_to_file(tmp_path / "s.json")
    assert [each.name for each in tmp_path.iterdir()] == ["s.json"]


def test_a_file_that_is_no_session_is_refused(tmp_path: Path) -> None:
    (tmp_path / "s.json").write_text("{")
    with pytest.raises(InvalidSession, match="line 1, column 2"):
        Session.load_from_file(tmp_path / "s.json")


# Markdown


@given(sessions())
@example(
    Session.new("m", name="# a\n## User").add_message("user", "## User\u2028## User\r## User\x0b## User")
)
@example(
    Session.new("m").add_message("assistant", "```\n## User\n~~~~").add_message("user", "</blockquote>\n## x")
)
@example(Session.new("m").add_message("tool", "``````\n## User", tool_call_id="1\n## User"))
def test_only_our_own_headings_and_facts_stand_outside_of_quotes(session: Session) -> None:
    lines = [line for line in markdown(session).splitlines() if line and not line.startswith(">")]
    headings = [line for line in lines if line.startswith("#")]
    assert len(headings) == 1 + len(session.messages)
    for heading in headings[1:]:
        assert re.match(r"## (System|User|Assistant|Tool result)", heading)
    for line in lines:
        assert re.match(
            r"#|- (Started|Last change|Messages|Tokens|Model|Attached): |\*\d|Calls the tool ", line
        )


@given(st.text("`~\n> a", max_size=40))
def test_what_is_in_a_fence_stays_in_it(content: str) -> None:
    text = markdown(Session.new("m").add_message("tool", content, tool_call_id="1"))
    quoted = [line[2:] for line in text.splitlines() if line.startswith(">")]
    if content:
        assert quoted[0] == quoted[-1]
        assert re.fullmatch("`{3,}", quoted[0])
        assert not any(quoted[0] in line for line in quoted[1:-1])


@pytest.mark.parametrize(
    "content",
    ["<script>", "![x](https://a)", "[x](javascript:a)", "[x]\n\n[x]: javascript:a", "[x]( data:a)"],
)
def test_what_loads_or_runs_is_shown_as_it_was_written(content: str) -> None:
    text = markdown(Session.new("m").add_message("assistant", content))
    assert "> ```\n" in text


def test_an_export_reads_well() -> None:
    at = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    part = Part(upload_id="u", media_type="image/png", name="a_b.png", size=12345)
    call = ToolCall(id="1", name="demo__add", args={"a": 1})
    said = (
        Message(role="user", content="What is **this**?", parts=(part,), created_at=at),
        Message(role="assistant", content="", tool_calls=(call,), created_at=at),
        Message(
            role="tool",
            content="no `idea`",
            tool_call_id="1",
            name="demo__add",
            status="error",
            created_at=at,
        ),
        Message(role="assistant", content="See [this](https://example.org).\n\nBye.", created_at=at),
    )
    session = replace(Session.new("gpt", name="A *talk*"), created_at=at, updated_at=at).append(*said)
    assert markdown(session).replace("*2026-01-02 03:04:05 UTC*\n\n", "") == EXPORT


EXPORT = r"""# A \*talk\*

- Started: 2026-01-02 03:04:05 UTC
- Last change: 2026-01-02 03:04:05 UTC
- Messages: 4
- Tokens: 0 in, 0 out
- Model: gpt

## User

> What is **this**?

- Attached: a\_b.png (image/png, 12,345 bytes)

## Assistant

Calls the tool demo\_\_add with

> ```json
> {
>   "a": 1
> }
> ```

## Tool result: demo\_\_add (failed)

> ```
> no `idea`
> ```

## Assistant

> See [this](https://example.org).
>
> Bye.
"""


@given(any_text | st.text(max_size=300), st.text(max_size=12) | st.sampled_from(["md", ".json"]))
@example("CON", "md")
@example("x" * 300, "markdownmarkdown")
@example("..", "../../etc/passwd")
def test_a_files_name_is_safe_wherever_it_goes(name: str, extension: str) -> None:
    found = filename(Session(name=name, id="\ud800/.."), extension)
    allowed = set(string.ascii_letters + string.digits + "-_.")
    assert 0 < len(found) <= LONGEST
    assert set(found) <= allowed
    assert found.count(".") <= 1
    assert not found.startswith((".", "-"))
    assert not re.fullmatch(r"(?i)con|nul|aux", found.split(".")[0])


def test_a_files_name_tells_what_is_in_it() -> None:
    assert filename(Session(name="Crème brûlée: a recipe!"), "md") == "Creme-brulee-a-recipe.md"
    assert filename(Session(name="食譜", id="0123456789"), ".json") == "session-01234567.json"


@pytest.mark.parametrize(
    "wrongly",
    [
        lambda s: s.set_context([1]),
        lambda s: s.set_name(5),
        lambda s: s.add_message("user", 5),
        lambda s: s.add_message("user", None),
        lambda s: s.from_json(5),
    ],
)
def test_what_is_no_text_and_no_mapping_is_refused_by_its_name(wrongly: Any) -> None:
    with pytest.raises(InvalidSession):
        wrongly(Session.new("m"))
