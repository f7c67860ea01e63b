"""What the model is shown: whatever the conversation, it fits, it is whole, and the newest is in it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mcp_chat.context import IMAGE, Budget, Context, estimate, shorter, shown, tokens_of
from mcp_chat.message import Message, Part, ToolCall, complete
from mcp_chat.session import Session

texts = st.builds(
    lambda word, times: word * times,
    st.sampled_from(["word ", "a,b;", "é", "食", "x", ""]),
    st.integers(0, 400),
)
parts = st.builds(
    Part,
    upload_id=st.just("u"),
    media_type=st.sampled_from(["image/png", "text/plain", "application/json", "application/pdf"]),
    name=st.just("n"),
    size=st.integers(0, 2000),
)


def said(role: Any, content: str = "hi", **more: Any) -> Message:
    return Message(role=role, content=content, **more)


def asked(*ids: str, content: str = "", **more: Any) -> Message:
    calls = tuple(ToolCall(id=each, name="demo__t", args={"of": each}) for each in ids)
    return said("assistant", content, tool_calls=calls, **more)


def result(of: str, content: str = "done", **more: Any) -> Message:
    return said("tool", content, tool_call_id=of, name="demo__t", **more)


def talk(*messages: Message, **context: Any) -> Session:
    return Session.new("m").append(*messages).set_context(context)


@st.composite
def steps(draw: st.DrawFn) -> list[Message]:
    """A message, or a group of calls and results, some of them missing and some of other calls."""
    pin = {"pinned": True} if draw(st.integers(0, 5)) == 0 else {}
    match draw(st.sampled_from(["system", "user", "user", "assistant", "calls", "calls", "orphan"])):
        case "calls":
            ids = draw(st.lists(st.sampled_from("abcdef"), min_size=1, max_size=5, unique=True))
            answered = draw(st.lists(st.sampled_from([*ids, "z"]), max_size=6))
            size = draw(st.integers(0, 3000))
            call = ToolCall(id=ids[0], name="t", args={"v": "x" * draw(st.sampled_from([0, 10, 800]))})
            group = asked(*ids, content=draw(texts), metadata=pin)
            group = replace(group, tool_calls=(call, *group.tool_calls[1:]))
            return [group, *(result(each, "r" * size) for each in answered)]
        case "orphan":
            return [result("a", draw(texts))]
        case role:
            attached = tuple(draw(st.lists(parts, max_size=2))) if role == "user" else ()
            return [said(role, draw(texts), metadata=pin, parts=attached)]


@st.composite
def sessions(draw: st.DrawFn) -> Session:
    messages = [m for step in draw(st.lists(steps(), max_size=8)) for m in step]
    context: dict[str, Any] = {}
    if draw(st.booleans()) and messages:
        context["summary"] = {"text": draw(texts), "upto": messages[0].id}
    if draw(st.booleans()) and messages:
        context["pinned"] = [draw(st.sampled_from(messages)).id, "nobody"]
    return talk(*messages, **context)


budgets = st.builds(
    Budget, messages=st.integers(1, 14), tokens=st.integers(64, 2500), result=st.integers(16, 600)
)
ample = Budget(messages=10**6, tokens=10**9, result=10**9)


def others(messages: tuple[Message, ...]) -> list[Message]:
    return [message for message in messages if message.role != "system"]


# For every conversation


@given(sessions(), budgets)
def test_it_never_costs_more_than_the_budget(session: Session, budget: Budget) -> None:
    context = shown(session, budget)
    assert len(context.messages) <= budget.messages
    assert context.tokens == sum(tokens_of(message) for message in context.messages) <= budget.tokens


@given(sessions(), budgets)
def test_no_call_is_parted_from_its_result(session: Session, budget: Budget) -> None:
    messages = shown(session, budget).messages
    assert complete(messages) == messages


@given(sessions(), budgets)
def test_the_newest_message_is_shown(session: Session, budget: Budget) -> None:
    whole = complete(session.messages)
    heads = [message for message in whole if message.role != "tool"]
    newest = (others(tuple(heads)) or heads)[-1:]
    assert [m.id for m in newest] == [m.id for m in shown(session, budget).messages if m.role != "tool"][-1:]


@given(sessions(), budgets)
def test_order_is_kept_with_the_systems_messages_first(session: Session, budget: Budget) -> None:
    context = shown(session, budget)
    known = {message.id: n for n, message in enumerate(session.messages)}
    messages = context.messages[context.summarized :]
    system = [known[m.id] for m in messages if m.role == "system"]
    rest = [known[m.id] for m in others(messages) if m.id in known]
    assert [m.role for m in messages[: len(system)]] == ["system"] * len(system)
    assert (system, [known[m.id] for m in others(messages) if m.role != "tool"]) == (
        sorted(system),
        sorted(place for place in rest if session.messages[place].role != "tool"),
    )


@given(sessions(), budgets)
def test_what_is_shown_is_shown_again_as_it_is(session: Session, budget: Budget) -> None:
    once = shown(session, budget)
    pinned = {"pinned": session.context.get("pinned")}
    again = shown(Session(messages=once.messages, context=pinned), budget)
    assert (again.messages, again.left_out) == (once.messages, 0)
    assert shown(session, budget) == once


@given(sessions())
def test_with_room_for_all_it_is_the_complete_conversation(session: Session) -> None:
    context = shown(session, ample)
    whole = complete(session.messages)
    simple = [(m.role, m.content, m.tool_calls, m.tool_call_id) for m in context.messages]
    system = [m for m in whole if m.role == "system"]
    expected = [(m.role, m.content, m.tool_calls, m.tool_call_id) for m in (*system, *others(whole))]
    assert (simple, context.left_out, context.summarized) == (expected, 0, False)


@given(sessions(), budgets)
def test_what_is_left_out_is_counted(session: Session, budget: Budget) -> None:
    context = shown(session, budget)
    whole = len(complete(session.messages))
    assert len(context.messages) - context.summarized + context.left_out == whole


@given(sessions(), budgets)
def test_no_usual_message_is_shown_beyond_one_that_is_not(session: Session, budget: Budget) -> None:
    ids = {m.id for m in shown(session, budget).messages}
    pinned = session.context.get("pinned", [])
    usual: list[bool] = []
    for n, message in enumerate(session.messages):
        behind = session.messages[n + 1 :]
        group = (message, *behind[: next((i for i, m in enumerate(behind) if m.role != "tool"), len(behind))])
        if message.role not in {"system", "tool"} and not any(
            m.metadata.get("pinned") or m.id in pinned for m in group
        ):
            usual.append(message.id in ids)
    assert usual == sorted(usual)


@given(texts | st.text(), st.integers(1, 200))
@example("x" * 1000, 37)
def test_a_shortened_text_has_its_head_and_tail_and_says_how_much_is_missing(text: str, limit: int) -> None:
    short = shorter(text, limit)
    assert len(short) <= limit or short == text
    assert shorter(short, limit) == short
    if short != text and "\n[... " in short:
        head, _, rest = short.partition("\n[... ")
        number, _, tail = rest.partition(" characters left out ...]\n")
        assert text.startswith(head)
        assert text.endswith(tail)
        assert len(head) + len(tail) + int(number.replace(",", "")) == len(text)


@given(st.text())
def test_an_estimate_is_never_less_than_a_token_for_four_bytes(text: str) -> None:
    assert 4 * estimate(text) >= len(text.encode())


# By hand


def test_the_estimate_counts_words_signs_pictures_and_arguments() -> None:
    assert estimate("") == 0
    assert estimate("one two three four") == 6  # 4 x 1.3, up
    assert estimate("a, b; c_d!") == 6  # 3 x 1.3 + 4 x 0.5, up
    assert estimate("食" * 40) == 30
    assert tokens_of(said("user", "")) == 3
    image = Part(upload_id="u", media_type="image/png", name="n", size=10**6)
    assert tokens_of(said("user", "", parts=(image,))) == 3 + IMAGE
    file = replace(image, media_type="text/csv", size=401)
    assert tokens_of(said("user", "", parts=(file,))) == 3 + 101
    assert (
        tokens_of(replace(asked("1"), tool_calls=(ToolCall(id="1", name="t", args={"v": "x" * 400}),))) > 100
    )


@pytest.mark.parametrize("wrong", [{"messages": 0}, {"tokens": 63}, {"result": 15}])
def test_a_budget_with_no_room_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} are at least"):
        Budget(**wrong)


def test_nothing_is_shown_of_nothing() -> None:
    assert shown(talk(), Budget()) == Context()
    assert shown(talk(result("1")), Budget()) == Context()


def test_the_last_messages_are_shown() -> None:
    session = talk(*(said("user", str(n)) for n in range(9)))
    context = shown(session, Budget(messages=3))
    assert ([m.content for m in context.messages], context.left_out) == (["6", "7", "8"], 6)


def test_tokens_end_it_too() -> None:
    session = talk(*(said("user", "x" * 100) for _ in range(9)))
    context = shown(session, Budget(tokens=64))
    assert (len(context.messages), context.tokens, context.left_out) == (2, 56, 7)


def test_system_and_pinned_messages_stay_in_their_places() -> None:
    two, one = said("user", "pinned by mark", metadata={"pinned": True}), said("assistant", "pinned by id")
    session = talk(
        said("user", "old"), one, said("user", "old"), two, said("system", "rules"), said("user", "new")
    )
    session = session.set_context({"pinned": [one.id]})
    context = shown(session, Budget(messages=4))
    assert [m.content for m in context.messages] == ["rules", "pinned by id", "pinned by mark", "new"]


@pytest.mark.parametrize(
    "context", [{"pinned": "abc"}, {"pinned": [1, None]}, {"summary": "a"}, {"summary": {}}]
)
def test_a_context_of_another_shape_is_not_heeded(context: dict[str, Any]) -> None:
    session = talk(said("user", "1"), said("user", "2"), **context)
    assert [m.content for m in shown(session, Budget(messages=1)).messages] == ["2"]


def test_pinned_messages_that_do_not_fit_are_left_out_the_oldest_first() -> None:
    pinned = [said("user", str(n), metadata={"pinned": True}) for n in range(5)]
    context = shown(talk(*pinned, said("user", "new")), Budget(messages=3))
    assert [m.content for m in context.messages] == ["3", "4", "new"]


def test_a_pinned_result_brings_its_call_along() -> None:
    group = [asked("1", "2"), result("1"), result("2", metadata={"pinned": True})]
    session = talk(*group, *(said("user", str(n)) for n in range(9)))
    assert shown(session, Budget(messages=5)).messages == (*group, *session.messages[-2:])


def test_a_group_that_does_not_fit_is_left_out_whole() -> None:
    group = [asked("1", "2"), result("1"), result("2")]
    context = shown(talk(said("user", "old"), *group, said("user", "new")), Budget(messages=3))
    assert ([m.content for m in context.messages], context.left_out) == (["new"], 4)


def test_a_newest_group_of_few_words_is_shown_as_it_is() -> None:
    group = (asked("1"), result("1", ""))
    assert shown(talk(*group), Budget()).messages == group


def test_a_call_without_a_result_is_answered_and_a_result_without_a_call_is_dropped() -> None:
    session = talk(result("0"), said("user"), asked("1", "2"), result("2"), result("9"))
    one, two = shown(session, Budget()), shown(session, Budget())
    assert [(m.role, m.tool_call_id) for m in one.messages] == [
        ("user", None),
        ("assistant", None),
        ("tool", "1"),
        ("tool", "2"),
    ]
    assert "not known" in one.messages[2].content
    assert one == two


def test_a_large_result_is_shortened_with_a_note() -> None:
    session = talk(said("user"), asked("1"), result("1", "a" * 10_000 + "z" * 10_000), said("user"))
    context = shown(session, Budget(result=1000))
    text = context.messages[2].content
    assert (len(text) <= 1000, context.shortened) == (True, 1)
    assert text[:300] + text[-300:] == "a" * 300 + "z" * 300
    assert "\n[... 19,038 characters left out ...]\n" in text


def test_the_newest_message_is_shortened_rather_than_dropped() -> None:
    context = shown(talk(said("user", "old"), said("user", "a" * 9000 + "z" * 9000)), Budget(tokens=100))
    [message] = context.messages
    assert message.content.startswith("a")
    assert message.content.endswith("z")
    assert " characters left out ...]" in message.content
    assert (context.shortened, context.left_out) == (1, 1)


def test_the_systems_message_is_kept_beside_a_newest_one_that_is_too_long() -> None:
    context = shown(talk(said("system", "rules"), said("user", "x" * 9000)), Budget(tokens=100))
    assert [m.role for m in context.messages] == ["system", "user"]


def test_system_messages_leave_half_of_the_tokens_to_the_newest() -> None:
    context = shown(
        talk(*(said("system", "x" * 100) for _ in range(9)), said("user", "y" * 9000)), Budget(tokens=200)
    )
    *system, newest = context.messages
    assert [m.role for m in context.messages] == ["system"] * len(system) + ["user"]
    assert system
    assert tokens_of(newest) > 90


def test_attachments_that_do_not_fit_are_told_of() -> None:
    image = Part(upload_id="u", media_type="image/png", name="n", size=1)
    [message] = shown(talk(said("user", "look", parts=(image,) * 2)), Budget(tokens=200)).messages
    assert (message.parts, message.content) == ((), "look\n[2 attachments left out: too large]")


def test_the_newest_group_is_shown_with_less_text_if_that_fits() -> None:
    session = talk(asked("1", "2"), result("1", "x" * 5000), result("2", "x" * 5000))
    context = shown(session, Budget(tokens=500))
    assert ([m.role for m in context.messages], context.shortened) == (["assistant", "tool", "tool"], 2)


@pytest.mark.parametrize("budget", [Budget(messages=3), Budget(tokens=64)])
def test_the_newest_group_becomes_words_if_nothing_else_fits(budget: Budget) -> None:
    ids = [f"call_{n}" for n in range(9)]
    context = shown(talk(asked(*ids, content="I look."), *(result(each) for each in ids)), budget)
    [message] = context.messages
    assert (message.role, message.tool_calls) == ("assistant", ())
    assert message.content.startswith("I look.\n[9 tool calls and their results are not shown here")
    assert (context.left_out, context.shortened) == (9, 1)


def test_a_summary_stands_for_what_is_left_out_and_only_then() -> None:
    session = talk(said("system", "rules"), *(said("user", str(n)) for n in range(5)))
    session = session.set_context({"summary": {"text": "They said hello.", "upto": session.messages[1].id}})
    context = shown(session, Budget(messages=4))
    assert [m.content for m in context.messages] == [
        "Summary of the earlier conversation: They said hello.",
        "rules",
        "3",
        "4",
    ]
    assert (context.summarized, context.left_out) == (True, 3)
    assert not shown(session, Budget(messages=6)).summarized


def test_a_summary_stands_for_what_was_not_even_given() -> None:
    summary = {"text": "They said hello.", "upto": "long gone"}
    context = shown(talk(said("user", "hi"), summary=summary), Budget())
    assert ([m.role for m in context.messages], context.left_out) == (["system", "user"], 0)
    assert context.summarized


def test_a_long_summary_gets_a_quarter_of_the_tokens() -> None:
    summary = {"text": "long ago " * 1000, "upto": "1"}
    context = shown(talk(*(said("user", "x" * 100) for _ in range(99)), summary=summary), Budget(tokens=400))
    assert context.summarized
    assert 50 < tokens_of(context.messages[0]) <= 100


def test_what_is_shown_begins_with_the_users_words_when_the_beginning_is_left_out() -> None:
    talked = talk(said("user", "1"), said("assistant", "2"), said("user", "3"), said("assistant", "4"))
    assert [m.content for m in shown(talked, Budget(messages=3)).messages] == ["3", "4"]
    assert [m.content for m in shown(talked, Budget(messages=1)).messages] == ["4"], "but for the newest"
    greeting = talk(said("assistant", "hello"), said("user", "hi"))
    assert len(shown(greeting, Budget()).messages) == 2, "nothing is left out that fits"
    large = replace(said("user", "word " * 400), metadata={"pinned": True})
    pinned = talk(large, said("assistant", "2"), said("user", "3"))
    assert [m.content for m in shown(pinned, Budget(tokens=64)).messages] == ["3"], "also if it was pinned"


@given(sessions(), budgets)
def test_a_conversation_cut_at_its_beginning_begins_with_the_user_or_something_pinned(
    session: Session, budget: Budget
) -> None:
    context = shown(session, budget)
    whole = shown(session, Budget(messages=10**6, tokens=10**9, result=budget.result))
    spoken = [m for m in context.messages if m.role != "system"]
    if len(others(context.messages)) == len(others(whole.messages)) or len(spoken) < 2:
        return
    pinned = {*session.context.get("pinned", ()), *(m.id for m in session.messages if m.metadata)}
    first = spoken[: 1 + len(spoken[0].tool_calls)]
    newest = [m for m in session.messages if m.role not in ("system", "tool")][-1]
    assert first[0].role == "user" or pinned & {m.id for m in first} or first[0].id == newest.id


def test_a_file_that_a_tool_gave_takes_no_room_from_what_the_model_is_shown() -> None:
    part = Part(upload_id="a" * 32, media_type="text/plain", name="result.txt", size=10**6)
    plain = Message(role="tool", content="See the file.", tool_call_id="1")
    assert tokens_of(replace(plain, parts=(part,))) == tokens_of(plain)
    asked = Message(role="user", content="See the file.")
    assert tokens_of(replace(asked, parts=(part,))) > tokens_of(asked)
