"""What a new owner makes of what an earlier one has left: the pure parts, and each row of the table."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mcp_chat.commands import Send
from mcp_chat.events import (
    Discarded,
    Entry,
    Event,
    Failed,
    Final,
    HandedOver,
    MessageAdded,
    TakenOver,
    TextDelta,
    ToolStarted,
    TurnFinished,
    TurnStarted,
    is_final,
    order,
)
from mcp_chat.message import Message, ToolCall, Usage
from mcp_chat.outcomes import NOT_JSON
from mcp_chat.recovery import (
    BREAK,
    VOID,
    Told,
    answered,
    begun,
    past_of,
    retold,
    told_of,
    unanswered,
)
from mcp_chat.spent import usage_in
from tests.simulation import Asked, World

# The pure parts

WORD = st.text("ab \n", min_size=1, max_size=4)
Steps = list[tuple[list[str], int]]
STEP = st.tuples(st.lists(WORD, max_size=4), st.integers(0, 2))
"""What the model says in one step, and how many calls it asks for behind it."""


def entries_of(*events: Event, command: str = "m", epoch: int = 1) -> list[Entry]:
    """Return events as they stand in a log."""
    return [Entry(id=f"{epoch}-{n}", command_id=command, event=event) for n, event in enumerate(events)]


def started() -> TurnStarted:
    return TurnStarted(session_id="s", run="r")


def called(call_id: str) -> ToolStarted:
    return ToolStarted(call_id=call_id, name="t__once", args={}, at="")


def played(steps: Steps, *, cut: int | None = None) -> tuple[list[Event], list[Message]]:
    """Return a turn as an owner tells it up to some event, and its messages as far as they were told."""
    told = Told()
    events: list[Event] = [started()]
    messages: list[Message] = []

    def add(message: Message) -> None:
        told.add(message)
        messages.append(message)
        events.append(MessageAdded(message=message, usage=Usage(output_tokens=1)))

    add(Message(role="user", content="q", id="r-q"))
    for n, (words, calls) in enumerate(steps):
        events.extend(TextDelta(text=told.say(word)) for word in words)
        asked = tuple(ToolCall(id=f"c{n}{m}", name="t__once") for m in range(calls))
        if any(words) or asked:
            add(Message(role="assistant", content="".join(words), id=f"r-a{n}", tool_calls=asked))
        for call in asked:
            told.broken = True
            events.append(called(call.id))
        for m, call in enumerate(asked):
            add(Message(role="tool", content="ok", id=f"r-t{n}{m}", tool_call_id=call.id))
    if cut is not None:
        events = events[: max(1, cut)]
        there = {event.message.id for event in events if isinstance(event, MessageAdded)}
        messages = [message for message in messages if message.id in there]
    return events, messages


def shown(entries: list[Entry]) -> str:
    """Return a turn's text as a reader has it who appends deltas and applies discards, and knows no more."""
    pieces: list[tuple[str, str]] = []
    for entry in entries:
        if isinstance(entry.event, TextDelta):
            pieces.append((entry.id, entry.event.text))
        elif isinstance(entry.event, Discarded):
            after = order(entry.event.after)
            pieces = [piece for piece in pieces if order(piece[0]) <= after]
    return "".join(text for _, text in pieces)


def joined(messages: list[Message]) -> str:
    """Return the text of a turn's messages: each step's is a paragraph."""
    return BREAK.join(m.content for m in messages if m.role == "assistant" and m.content)


def steps_with_calls(steps: Steps) -> Steps:
    """All steps but the last ask for something, as a model's do."""
    return [(words, max(1, calls)) for words, calls in steps[:-1]] + steps[-1:]


STEPS = st.lists(STEP, max_size=4).map(steps_with_calls)


@given(STEPS)
def test_what_an_owner_says_reads_like_its_messages(steps: Steps) -> None:
    events, messages = played(steps)
    assert shown(entries_of(*events)) == joined(messages) == told_of(messages).text


@given(STEPS, st.integers(0, 40))
def test_hearing_gives_what_was_said(steps: Steps, cut: int) -> None:
    entries = entries_of(*played(steps, cut=cut)[0])
    heard = Told()
    for entry in entries:
        heard.hear(entry)
        assert heard.text == shown(entries[: entries.index(entry) + 1])


@given(STEPS, st.integers(0, 40), WORD)
def test_a_turn_told_anew_reads_like_its_messages(steps: Steps, cut: int, partial: str) -> None:
    """Whatever readers had heard before, and again after that."""
    events, messages = played(steps, cut=cut)
    before = entries_of(*events)
    again = entries_of(started(), *retold(messages, partial), epoch=2)
    text = joined(messages)
    wanted = text + (BREAK if text and partial and messages[-1].role == "tool" else "") + partial
    if messages and messages[-1].tool_calls and text and partial:
        wanted = text + BREAK + partial
    assert shown(before + again) == wanted
    third = entries_of(started(), *retold(messages), epoch=3)
    assert shown(before + again + third) == text
    assert {e.event.message.id for e in third if isinstance(e.event, MessageAdded)} == {
        m.id for m in messages
    }
    assert past_of(before + again).told.text == shown(before + again)


@given(STEPS, st.integers(0, 40))
def test_a_discard_behind_the_place_that_holds_leaves_what_is_recorded(steps: Steps, cut: int) -> None:
    events, messages = played(steps, cut=cut)
    entries = entries_of(*events)
    past = past_of(entries)
    again = entries_of(started(), Discarded(after=past.holds), epoch=2)
    assert shown(entries + again) == joined(messages)
    assert past_of(entries + again).told.text == joined(messages)
    assert past_of(entries + again).told.partial == ""
    assert past.announced == {message.id for message in messages}
    assert past.usage.output_tokens == len(messages)


@given(STEPS, STEPS, st.integers(0, 30), st.integers(0, 30))
@example([(["a"], 1)], [(["b"], 0)], 3, 3)
def test_two_crashes(first: Steps, second: Steps, cut: int, later: int) -> None:
    """The second owner goes on in another way than the first would have, and dies too."""
    events, messages = played(first, cut=cut)
    entries = entries_of(*events)
    past = past_of(entries)
    assert past.crashes == 1
    told, more = told_of(messages), list[Event]()
    more += [started(), Discarded(after=past.holds)]
    for words, calls in second:
        more += [TextDelta(text=told.say(word)) for word in words]
        if calls:
            told.broken = True
            more.append(called("c"))
    entries += entries_of(*more[: 2 + later], epoch=2)
    again = past_of(entries)
    assert again.crashes == 2
    assert again.told.text == shown(entries)
    assert again.told.text.startswith(joined(messages))
    entries += entries_of(started(), *retold(messages), epoch=3)
    assert past_of(entries).told.text == shown(entries) == joined(messages)


def test_handed_over_is_no_crash_and_says_what_is_pending() -> None:
    log = entries_of(started(), HandedOver(pending=("c1", "c2")))
    past = past_of(log)
    assert (past.crashes, past.pending) == (0, ("c1", "c2"))
    log += entries_of(started(), epoch=2)
    past = past_of(log)
    assert (past.crashes, past.pending) == (1, ()), "what the dead one has done with them nobody knows"
    assert past_of([*log, *entries_of(HandedOver(), epoch=3)]).pending == ()


def test_a_discard_of_everything_and_one_of_nothing() -> None:
    log = entries_of(started(), TextDelta(text="a"), TextDelta(text="b"))
    assert past_of([*log, *entries_of(Discarded(after=VOID), epoch=2)]).told.text == ""
    assert past_of([*log, *entries_of(Discarded(after="1-1"), epoch=2)]).told.text == "a"
    assert past_of([*log, *entries_of(Discarded(after="1-2"), epoch=2)]).told.text == "ab"


def test_what_was_discarded_is_not_brought_back_by_a_later_discard() -> None:
    log = entries_of(started(), TextDelta(text="one"), Discarded(after=VOID), TextDelta(text="three four"))
    assert past_of([*log, *entries_of(Discarded(after="1-1"), epoch=2)]).told.text == ""


@given(st.lists(st.tuples(st.integers(0, 2), st.sampled_from(["start", "word", "end"])), max_size=20))
def test_begun_has_what_has_not_ended(steps: list[tuple[int, str]]) -> None:
    kinds: dict[str, Callable[[], Event]] = {
        "start": started,
        "word": lambda: TextDelta(text="x"),
        "end": TurnFinished,
    }
    log = [
        Entry(id=f"1-{n}", command_id=f"m{who}", event=kinds[kind]()) for n, (who, kind) in enumerate(steps)
    ]
    ended = {entry.command_id for entry in log if isinstance(entry.event, TurnFinished)}
    wanted: dict[str, list[Entry]] = {}
    for entry in log:
        new = isinstance(entry.event, TurnStarted)
        if entry.command_id not in ended and (new or entry.command_id in wanted):
            wanted.setdefault(entry.command_id, []).append(entry)
    assert begun([Entry(id="1-0", command_id="", event=TakenOver(worker="w", before="0-0")), *log]) == wanted


@given(STEPS, st.integers(0, 40))
def test_calls_without_results(steps: Steps, cut: int) -> None:
    _, messages = played(steps, cut=cut)
    there = {message.tool_call_id for message in messages}
    open_ = [call.id for message in messages for call in message.tool_calls if call.id not in there]
    assert [call.id for call in unanswered(messages)] == open_


def test_only_an_answer_without_calls_ends_a_turn() -> None:
    question = Message(role="user", content="q")
    asking = Message(role="assistant", content="a", tool_calls=(ToolCall(id="c", name="t"),))
    result = Message(role="tool", content="r", tool_call_id="c")
    answer = Message(role="assistant", content="a")
    assert answered([]) is None
    assert answered([question]) is None
    assert answered([question, asking]) is None
    assert answered([question, asking, result]) is None
    assert answered([question, asking, result, answer]) is answer


# The table: an owner dies at some point, and another one goes on

Point = Callable[[str, tuple[Any, ...]], bool]


@pytest.fixture(params=[True, False], ids=["archive", "memory"])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    with World(archive=request.param) as world:
        yield world


def written(role: str, *, calls: bool = False) -> Point:
    """The owner dies when a message is recorded, before it can say so."""

    def point(name: str, args: tuple[Any, ...]) -> bool:
        messages = args[0].messages if name == "add" else args[2] if name == "window.append" else ()
        return any(message.role == role and bool(message.tool_calls) == calls for message in messages)

    return point


def logged(kind: type[Event]) -> Point:
    """The owner dies when an event is in the log."""
    return lambda name, args: name == "log.append" and any(isinstance(e.event, kind) for e in args[2])


def calling(name: str, args: tuple[Any, ...]) -> bool:
    """The owner dies while it calls a tool."""
    return name == "tool.call"


def turn(world: World, plan: str, *points: Point) -> Asked:
    """Let owners die over a turn, each at its point, and return what its sender has seen elsewhere."""
    first = world.start()
    world.run(0.1)
    world.do(first.dispatch.outcome("ann", world.connect("ann")))
    doomed = [first, *(world.start() for _ in points[1:])]
    for owner, point in zip(doomed, points, strict=True):
        owner.trap = point
    world.run(0.1)
    door = first if len(points) > 1 else world.start()
    world.run(0.1)
    asked = world.ask(door, "ann", Send(id="m", run="r", session_id="s", text=plan))
    world.until(lambda: all(owner.dead for owner in doomed), 60)
    assert all(owner.dead for owner in doomed)
    if door.dead:  # whoever asks again sees all of it
        door = world.start()
        world.run(0.1)
        asked = world.ask(door, "ann", asked.command)
    world.until(lambda: asked.final is not None or bool(asked.error), 60)
    world.until(lambda: bool(asked.error or ends(world)), 60)  # the record may have been faster than the log
    assert not world.journal.crashes
    return asked


def messages(world: World) -> list[Message]:
    if world.archive:
        return list(world.archive.messages["ann", "s"].values())
    return list(world.store.window._messages.get(("ann", "s"), ()))


def trail(world: World) -> list[tuple[str, str, str]]:
    """What the trail has of tool calls."""
    deeds = [deed for deed in world.archive.trail.values() if deed.action == "call"] if world.archive else []
    return [(deed.action, deed.decision, deed.outcome) for deed in deeds]


def calls(world: World) -> list[str]:
    return [call.call_id for call in world.journal.called]


def whole_text(world: World) -> str:
    return shown([each.entry for each in world.journal.logged["ann"] if each.entry.command_id == "m"])


def ends(world: World) -> list[Final]:
    """What the log says of how the turn ended."""
    log = [each.entry for each in world.journal.logged["ann"] if each.entry.command_id == "m"]
    return [entry.event for entry in log if is_final(entry.event)]


def check_told(world: World, asked: Asked) -> None:
    """Readers have the history's text, each message was told, and there is one end."""
    log = [each.entry for each in world.journal.logged["ann"] if each.entry.command_id == "m"]
    assert whole_text(world) == shown(asked.seen) == joined(messages(world))
    told = {entry.event.message.id for entry in log if isinstance(entry.event, MessageAdded)}
    assert told == {message.id for message in messages(world)}
    assert [entry.event for entry in log if isinstance(entry.event, (TurnFinished, Failed))] == [asked.final]
    assert len({message.id for message in messages(world)}) == len(messages(world))
    check_counted(world, asked)


def check_counted(world: World, asked: Asked) -> None:
    """Each of the model's messages was counted once, and the end has the sum of all that was."""
    usages = world.archive.usages if world.archive else world.store.usages
    counted = usages._steps.get("ann", {})
    said = {message.id for message in messages(world) if message.role == "assistant"}
    assert said <= counted.keys()
    assert all(usage_in(m) == counted[m.id].usage for m in messages(world) if m.id in said)
    if isinstance(asked.final, TurnFinished):
        assert asked.final.steps == len(counted)
        assert asked.final.usage == sum((each.usage for each in counted.values()), Usage())


@pytest.mark.parametrize(
    ("plan", "point"),
    [
        ("3", lambda name, args: name == "inbox.read"),
        ("3", logged(TurnStarted)),
        ("3", written("user")),
        ("3", logged(TextDelta)),
        ("3", written("assistant")),
        ("2 once 2", written("tool")),
        ("2 safe 2", written("assistant", calls=True)),
        ("2 safe 2", calling),
        ("2 safe 2", written("tool")),
    ],
    ids=[
        "accepted",
        "started",
        "question",
        "mid-text",
        "answer before its end",
        "result before it is told",
        "safe intent",
        "in a safe call",
        "safe result before it is told",
    ],
)
def test_the_next_owner_goes_on(world: World, plan: str, point: Point) -> None:
    asked = turn(world, plan, point)
    assert isinstance(asked.final, TurnFinished)
    assert not asked.final.stopped
    roles = ["user", "assistant"] + (["tool", "assistant"] if " " in plan else [])
    assert [message.role for message in messages(world)] == roles
    check_told(world, asked)
    assert len(calls(world)) == len(set(calls(world))) + (point is calling)
    assert not world.archive or trail(world) == [("call", "allowed", "succeeded")] * (" " in plan)


@pytest.mark.parametrize(
    "point",
    [written("assistant", calls=True), logged(ToolStarted), calling],
    ids=["intent before the call", "call announced", "in the call"],
)
def test_a_call_whose_outcome_is_unknown_is_not_made_again(world: World, point: Point) -> None:
    asked = turn(world, "2 once 2", point)
    assert isinstance(asked.final, Failed)
    assert asked.final.code == "interrupted"
    assert "t__once" in asked.final.text
    assert len(calls(world)) <= 1
    result = messages(world)[-1]
    assert (result.role, result.status, result.metadata["outcome"]) == ("tool", "error", "unknown")
    check_told(world, asked)
    assert not world.archive or trail(world) == [("call", "allowed", "unknown")]
    made = calls(world)
    again = world.ask(world.alive[-1], "ann", Send(id="m2", run="r2", session_id="s", text="0 once 1"))
    world.run(5)
    assert isinstance(again.final, TurnFinished), "the user may go on"
    assert len(calls(world)) == len(made) + 1


@pytest.mark.parametrize("point", [written("assistant", calls=True), logged(ToolStarted), written("tool")])
def test_a_call_that_nobody_could_read_is_made_by_no_owner(world: World, point: Point) -> None:
    asked = turn(world, "2 once? 2", point)
    assert isinstance(asked.final, TurnFinished)
    assert calls(world) == []
    assert (messages(world)[2].status, messages(world)[2].content) == ("error", NOT_JSON)
    check_told(world, asked)
    assert not world.archive or trail(world) == [("call", "refused", "invalid_arguments")]


def test_calls_are_judged_one_by_one(world: World) -> None:
    asked = turn(world, "2 once,safe 2", written("assistant", calls=True))
    assert isinstance(asked.final, Failed)
    assert [call.name for call in world.journal.called] == ["safe"]
    check_told(world, asked)


def test_what_two_owners_have_died_over_is_given_up(world: World) -> None:
    asked = turn(world, "9", logged(TextDelta), logged(TextDelta))
    assert isinstance(asked.final, Failed)
    assert asked.final.code == "interrupted"
    assert asked.seen
    assert [message.role for message in messages(world)] == ["user", "assistant"], "the text is kept"
    assert messages(world)[-1].metadata["interrupted"]
    check_told(world, asked)


def test_what_was_handed_over_goes_on(world: World) -> None:
    """An owner that drains leaves a turn at a tool's result, and no call is made twice."""
    first = world.start()
    world.run(0.1)
    world.do(first.dispatch.outcome("ann", world.connect("ann")))
    second = world.start()
    world.run(0.1)
    asked = world.ask(second, "ann", Send(id="m", run="r", session_id="s", text="80 once 80 once 2"))
    world.run(0.5)
    first.draining.set()
    world.until(lambda: asked.final is not None, 60)
    assert isinstance(asked.final, TurnFinished)
    log = [each.entry.event for each in world.journal.logged["ann"] if each.entry.command_id == "m"]
    assert any(isinstance(event, HandedOver) for event in log)
    assert len(calls(world)) == len(set(calls(world))) == 2
    check_told(world, asked)


def test_what_a_dead_owners_model_had_said_is_counted_as_an_estimate(world: World) -> None:
    asked = turn(world, "3", logged(TextDelta))
    check_counted(world, asked)
    usages = world.archive.usages if world.archive else world.store.usages
    (lost,) = [each for id_, each in usages._steps["ann"].items() if id_.startswith("r-l")]
    assert lost.usage.estimated
    assert lost.usage.output_tokens > 0
    assert lost.usage.input_tokens > 0
