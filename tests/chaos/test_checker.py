"""Each rule of the judge accepts what is right, and finds what is wrong in a journal made by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

import pytest

from tests.chaos import model
from tests.chaos.checker import Evidence, spoken, violations
from tests.chaos.journal import Call, Frame, Held, Kept, Left, Logged, Lost, Odd, Record, Sent, Shown, View

TEXT: Final = model.wish("op-1", 3, "charge")
ANSWER: Final = model.answer(TEXT)
FIRST, SECOND = ANSWER.split("\n\n")
SENT: Final = Sent(
    op="op-1",
    user="ann",
    text=TEXT,
    message_id="m-1",
    sent=1,
    session="s",
    acked=2,
    end="final",
    content=ANSWER,
)


def logged(place: str, kind: str, command: str = "m-1", **event: Any) -> Logged:
    """An entry of the log."""
    return Logged(user="ann", id=place, command=command, event={"type": kind, **event})


def message(role: str, content: str, message_id: str, **more: Any) -> Kept:
    """A message in the history."""
    return Kept(user="ann", session="s", message={"role": role, "content": content, "id": message_id, **more})


def frame(place: str, event: str, **data: Any) -> Frame:
    """A frame of a stream."""
    return Frame(id=place, event=event, data=data)


LOG: Final = [
    logged("1-0", "taken_over", "", worker="w1", before="0-0"),
    logged("1-1", "turn_started", session_id="s"),
    logged("1-2", "text_delta", text=FIRST[:4]),
    logged("2-0", "taken_over", "", worker="w2", before="1-2"),
    logged("2-1", "turn_started", session_id="s"),
    logged("2-2", "discarded", after="0-0"),
    logged("2-3", "text_delta", text=FIRST),
    logged("2-4", "tool_started"),
    logged("2-5", "tool_finished", failed=False),
    logged("2-6", "text_delta", text=SECOND),
    logged("2-7", "message_added"),
    logged("2-8", "turn_finished", stopped=False),
]
KEPT: Final = [
    message("user", TEXT, "r-q"),
    message("assistant", FIRST, "r-a0", tool_calls=[{"id": "c"}]),
    message("tool", "done", "r-t1", tool_call_id="c"),
    message("assistant", SECOND, "r-a1"),
]
FRAMES: Final = [
    frame("1-2", "token", content=FIRST[:4]),
    frame("2-2", "discard", after="0-0"),
    frame("2-3", "token", content=FIRST),
    frame("2-4", "tool_start"),
    frame("2-5", "tool_end"),
    frame("2-6", "token", content=f"\n\n{SECOND}"),
    frame("2-8", "final", content=ANSWER),
]
VIEW: Final = View(user="ann", turn="m-1", session="s", frames=FRAMES)
TAB: Final = View(
    user="ann",
    session="s",
    after="1-1",
    frames=[
        *(FRAMES[0], frame("2-1", "turn"), *FRAMES[1:-1]),
        *(frame("2-7", "message"), FRAMES[-1]),
    ],
)
LEFT: Final = Left(user="ann", acked=10, until=20)
GOOD: Final[list[Record]] = [
    SENT,
    VIEW,
    TAB,
    LEFT,
    *LOG,
    *KEPT,
    Held(user="ann", epoch=1, worker="w1"),
    Call(tool="charge", op="op-1", phase="start", at=3),
    Call(tool="charge", op="op-1", phase="end", at=4),
    Shown(user="ann", session="s", messages=[each.message for each in KEPT]),
]


def judged(*records: Record) -> list[str]:
    """Judge records."""
    return violations(Evidence.of(records))


def changed(old: Record, *new: Record) -> list[Record]:
    """The good records with one of them replaced."""
    assert old in GOOD
    return [each for one in GOOD for each in (new if one == old else (one,))]


def without(view: View, place: str) -> View:
    """A view that missed a frame."""
    return replace(view, frames=[each for each in view.frames if each.id != place])


def test_a_good_run_has_no_violation() -> None:
    assert judged(*GOOD) == []


def test_discarded_text_is_not_heard() -> None:
    assert spoken(FRAMES) == ANSWER
    later = [*FRAMES[:1], frame("1-3", "token", content="x"), frame("2-2", "discard", after="1-2")]
    assert spoken(later) == FIRST[:4]


LATER: Final = replace(
    SENT, op="op-2", text=model.wish("op-2", 1), message_id="m-2", sent=5, acked=6, end="error"
)


@pytest.mark.parametrize(
    ("records", "said"),
    [
        ([*GOOD, Odd(user="ann", what="500 ouch")], "500 ouch (1 times)"),
        ([*GOOD, logged("1-9", "text_delta", text="")], "the log has 1-9 behind 2-8"),
        ([*GOOD, logged("2-8", "cancelled")], "the log has 2-8 behind 2-8"),
        ([*GOOD, Held(user="ann", epoch=2, worker="w3")], "the epoch 2 had 2 workers: w2, w3"),
        (changed(KEPT[0]), "op-1 was acknowledged, ended as 'final' and is in the history 0 times"),
        (
            [*GOOD, message("user", TEXT, "x-q")],
            "op-1 was acknowledged, ended as 'final' and is in the history 2 times",
        ),
        (
            changed(SENT, replace(SENT, acked=None, refused=True)),
            "op-1 was refused, ended as 'final' and is in the history 1 times",
        ),
        (
            [LATER, message("user", LATER.text, "z-q"), *GOOD],
            "op-1 was acknowledged before op-2 was sent, and stands behind it",
        ),
        ([*GOOD, Shown(user="ann", session="s", messages=[])], "the history of s over HTTP is not that"),
        (changed(VIEW, without(VIEW, "2-3")), "2-3 (text_delta) was not seen"),
        (changed(TAB, without(TAB, "2-7")), "2-7 (message_added) was not seen"),
        (changed(VIEW, without(VIEW, "2-2")), "was heard and"),
        (
            changed(VIEW, replace(VIEW, frames=[FRAMES[0], *FRAMES])),
            "the frame 1-2 came behind 1-2",
        ),
        (
            changed(VIEW, replace(VIEW, frames=[*FRAMES[:-1], frame("2-9", "final", content=ANSWER)])),
            "the frame 2-9 (final) is not in the log",
        ),
        (
            changed(VIEW, replace(VIEW, frames=[frame("1-2", "token", content="!"), *FRAMES[1:]])),
            "is not what the log has (text_delta)",
        ),
        (changed(SENT, replace(SENT, content=SECOND)), f"op-1 ended with '{SECOND}', and the history has"),
        (
            changed(KEPT[3], message("assistant", SECOND * 2, "r-a1")),
            "and the history has",
        ),
        (changed(SENT, replace(SENT, content=ANSWER * 2)), "which the model did not say"),
        ([*GOOD, Call(tool="charge", op="op-1", phase="start", at=5)], "op-1 was charged 2 times"),
        (changed(KEPT[2]), "the call c has 0 results"),
        ([*GOOD, KEPT[2]], "the call c has 2 results"),
        ([*GOOD, logged("2-9", "failed", code="x")], "the turn m-1 has 2 ends in the log"),
        (changed(SENT, replace(SENT, end="")), "its end was not told in time"),
        (changed(LEFT, replace(LEFT, problems=["a worker chats"])), "after a disconnect a worker chats"),
        ([*GOOD, Call(tool="look", op="op-1", phase="start", at=11)], "look was called for op-1 after a"),
        (
            [*GOOD, logged("2-9", "disconnected", "d"), logged("3-0", "text_delta", text="")],
            "3-0 (text_delta) came after a disconnect",
        ),
    ],
)
def test_what_is_wrong_is_found(records: list[Record], said: str) -> None:
    assert any(said in each for each in judged(*records)), judged(*records)


def test_what_happens_after_the_next_connect_is_right() -> None:
    again = [
        logged("2-9", "disconnected", "d"),
        logged("3-0", "connected", "c"),
        logged("3-1", "turn_started", "m-2", session_id="s"),
    ]
    assert judged(*GOOD, *again) == []


def test_a_log_that_was_lost_may_be_told_again_with_the_same_end() -> None:
    again = logged("2-9", "turn_finished", stopped=False)
    assert judged(*GOOD, Lost(), again) == []
    assert any(
        "2 ends" in each
        for each in judged(*GOOD, Lost(), replace(again, event={**again.event, "stopped": True}))
    )


def test_a_call_that_may_be_repeated_may_be() -> None:
    looks = [Call(tool="look", op="op-1", phase="start", at=at) for at in (3, 4)]
    assert judged(*GOOD, *looks) == []


def test_a_turn_that_is_only_asked_for_at_its_end_is_told_the_end() -> None:
    late = replace(VIEW, frames=FRAMES[-1:])
    assert judged(*GOOD, late) == []
