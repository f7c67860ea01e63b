"""The judge: reads what a run left behind and says in a sentence what was promised and not kept."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise, takewhile
from math import inf
from typing import Any, Final

from mcp_chat.events import order
from tests.chaos import model
from tests.chaos.journal import Call, Frame, Held, Kept, Left, Logged, Lost, Odd, Record, Sent, Shown, View

FRAMES: Final = {
    "text_delta": "token",
    "tool_started": "tool_start",
    "tool_progressed": "tool_progress",
    "tool_finished": "tool_end",
    "discarded": "discard",
    "noticed": "notice",
    "turn_finished": "final",
    "failed": "error",
}
"""Frames of an answer by the log's events; a tool's end may also be a `tool_error`."""
TAB_FRAMES: Final = {
    **FRAMES,
    "turn_started": "turn",
    "message_added": "message",
    "thought_delta": "thinking",
    "server_changed": "server_changed",
    "resource_updated": "resource_updated",
    "asked": "question",
    "ask_ended": "question_end",
    "branched": "branch",
}
FINALS: Final = frozenset({"turn_finished", "failed"})
RECALLED: Final = f"{2**62}-0"
"""Behind all places: where text is that was told as the record has it."""

HAPPENING: Final = frozenset(
    {"turn_started", "text_delta", "tool_started", "tool_progressed", "tool_finished", "message_added"}
)
"""Events that nobody may cause for a user who has left."""


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """All records of a run, each kind in its order.

    Attributes:
        lives: By user and id of an entry, how often Redis had lost everything before.
    """

    sent: list[Sent] = field(default_factory=list)
    views: list[View] = field(default_factory=list)
    left: list[Left] = field(default_factory=list)
    odd: list[Odd] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    logs: dict[str, list[Logged]] = field(default_factory=lambda: defaultdict(list))
    lives: dict[tuple[str, str], int] = field(default_factory=dict)
    held: list[Held] = field(default_factory=list)
    kept: dict[str, list[Kept]] = field(default_factory=lambda: defaultdict(list))
    shown: list[Shown] = field(default_factory=list)

    @classmethod
    def of(cls, records: Iterable[Record]) -> Evidence:
        """Sort records by what they are."""
        evidence, life = cls(), 0
        for record in records:
            match record:
                case Sent():
                    evidence.sent.append(record)
                case View():
                    evidence.views.append(record)
                case Left():
                    evidence.left.append(record)
                case Odd():
                    evidence.odd.append(record)
                case Call():
                    evidence.calls.append(record)
                case Logged():
                    evidence.logs[record.user].append(record)
                    evidence.lives[record.user, record.id] = life
                case Lost():
                    life += 1
                case Held():
                    evidence.held.append(record)
                case Kept():
                    evidence.kept[record.user].append(record)
                case Shown():
                    evidence.shown.append(record)
        return evidence

    @cached_property
    def commands(self) -> dict[tuple[str, str], list[Logged]]:
        """The log's entries by user and command."""
        found: dict[tuple[str, str], list[Logged]] = defaultdict(list)
        for log in self.logs.values():
            for entry in log:
                found[entry.user, entry.command].append(entry)
        return found

    @cached_property
    def sessions(self) -> dict[tuple[str, str], set[str]]:
        """The turns by user and session."""
        found: dict[tuple[str, str], set[str]] = defaultdict(set)
        for log in self.logs.values():
            for entry in log:
                if entry.event["type"] == "turn_started":
                    found[entry.user, entry.event["session_id"]].add(entry.command)
        return found

    @cached_property
    def questions(self) -> dict[tuple[str, str], list[Kept]]:
        """The messages of users by user and text."""
        found: dict[tuple[str, str], list[Kept]] = defaultdict(list)
        for kept in self.kept.values():
            for each in kept:
                if each.message["role"] == "user":
                    found[each.user, each.message["content"]].append(each)
        return found

    @cached_property
    def answers(self) -> dict[tuple[str, str], list[dict[str, Any]]]:
        """The model's messages by user and turn; the ids of a turn's messages begin alike."""
        found: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
        for kept in self.kept.values():
            for each in kept:
                if each.message["role"] == "assistant":
                    found[each.user, each.message["id"].rpartition("-a")[0]].append(each.message)
        return found


def violations(evidence: Evidence) -> list[str]:
    """Return what was promised and not kept, each in a sentence."""
    return [violation for rule in RULES for violation in rule(evidence)]


def odd(evidence: Evidence) -> Iterator[str]:
    """No answer is one that no fault explains."""
    for each, times in Counter(f"{each.user}: {each.what}" for each in evidence.odd).items():
        yield f"{each} ({times} times)."


# 1. One owner


def rising(evidence: Evidence) -> Iterator[str]:
    """The ids of a user's log strictly rise, whatever happens to Redis."""
    for user, log in evidence.logs.items():
        for before, after in pairwise(log):
            if order(after.id) <= order(before.id):
                yield f"{user}: the log has {after.id} behind {before.id}."


def one_worker(evidence: Evidence) -> Iterator[str]:
    """An epoch is one worker's."""
    workers: dict[tuple[str, int], set[str]] = defaultdict(set)
    for held in evidence.held:
        workers[held.user, held.epoch].add(held.worker)
    for user, log in evidence.logs.items():
        for entry in log:
            if entry.event["type"] == "taken_over":
                workers[user, order(entry.id)[0]].add(entry.event["worker"])
    for (user, epoch), names in workers.items():
        if len(names) > 1:
            yield f"{user}: the epoch {epoch} had {len(names)} workers: {', '.join(sorted(names))}."


# 2. Messages


def recorded(evidence: Evidence) -> Iterator[str]:
    """An acknowledged message is in the history once, a refused one never, any other at most once."""
    for sent in evidence.sent:
        times = len(evidence.questions[sent.user, sent.text])
        least, most = int(sent.acked is not None), int(not sent.refused)
        if not least <= times <= most:
            what = "acknowledged" if sent.acked else "refused" if sent.refused else "sent"
            end = f", ended as {sent.end!r}" if sent.end else ""
            yield f"{sent.user}: {sent.op} was {what}{end} and is in the history {times} times."


def in_order(evidence: Evidence) -> Iterator[str]:
    """What was acknowledged before something else was sent stands before it."""
    by_text = {(sent.user, sent.text): sent for sent in evidence.sent}
    for user, kept in evidence.kept.items():
        latest: dict[str, Sent] = {}
        for each in kept:
            sent = by_text.get((user, each.message["content"])) if each.message["role"] == "user" else None
            if sent is None:
                continue
            last = latest.get(each.session)
            if last and sent.acked is not None and sent.acked < last.sent:
                yield f"{user}: {sent.op} was acknowledged before {last.op} was sent, and stands behind it."
            latest[each.session] = max(sent, last or sent, key=lambda either: either.sent)


def shown(evidence: Evidence) -> Iterator[str]:
    """A worker shows the conversation as the database has it."""
    for each in evidence.shown:
        ids = [kept.message["id"] for kept in evidence.kept[each.user] if kept.session == each.session]
        here = [message["id"] for message in each.messages]
        if here != ids[-len(here) :] or (ids and not here):
            yield f"{each.user}: the history of {each.session} over HTTP is not that of the database."


# 3. What readers saw


def seen(evidence: Evidence) -> Iterator[str]:
    """What a reader saw through all its reconnects is the log: no gap, no repeat, the same text."""
    logs = {user: {entry.id: entry for entry in log} for user, log in evidence.logs.items()}
    for view in evidence.views:
        log = logs.get(view.user, {})
        who = f"{view.user}, {'turn ' + view.turn if view.turn else 'a tab of ' + view.session}"
        for problem in (*_unlike(view, log), *_missed(view, evidence), *_unlike_final(view)):
            yield f"{who}: {problem}."


def _unlike(view: View, log: Mapping[str, Logged]) -> Iterator[str]:
    placed = [frame for frame in view.frames if frame.id]
    for before, after in pairwise(placed):
        if order(after.id) <= order(before.id):
            yield f"the frame {after.id} came behind {before.id}"
    for frame in placed:
        entry = log.get(frame.id)
        if entry is None:
            yield f"the frame {frame.id} ({frame.event}) is not in the log"
        elif not _is_of(frame, entry):
            yield f"the frame {frame.id} ({frame.event}) is not what the log has ({entry.event['type']})"


def _is_of(frame: Frame, entry: Logged) -> bool:
    """Whether a frame shows an entry; text behind a tool's end may begin a paragraph of its own."""
    kind, data = entry.event["type"], frame.data
    if kind == "tool_finished":
        return frame.event == ("tool_error" if entry.event["failed"] else "tool_end")
    if kind == "text_delta":
        return frame.event == "token" and data["content"].removeprefix("\n\n") == entry.event[
            "text"
        ].removeprefix("\n\n")
    if kind == "discarded":
        return frame.event == "discard" and data["after"] == entry.event["after"]
    return frame.event == TAB_FRAMES.get(kind)


def _missed(view: View, evidence: Evidence) -> Iterator[str]:
    """Yield what the log has between a view's first and last frame, and the view has not.

    What was lost with Redis may be missing; if text is, then `final` tells whether it was taken back.
    """
    frames = list(takewhile(lambda frame: frame.id, view.frames))  # then all is told, as the record has it
    if not frames or _is_told_afterwards(view):
        return
    have = {frame.id for frame in frames}
    first = order(frames[0].id if not view.turn and not view.after else view.after or "0-0")
    last = order(frames[-1].id)
    for entry in _theirs(view, evidence):
        lost = evidence.lives[view.user, entry.id] < evidence.lives.get((view.user, frames[-1].id), 0)
        if first < order(entry.id) < last and entry.id not in have and not lost:
            yield f"{entry.id} ({entry.event['type']}) was not seen"


def _is_told_afterwards(view: View) -> bool:
    """Whether somebody asked for a turn that had ended, and was only told how."""
    return not view.frames or (len(view.frames) == 1 and view.frames[0].event in ("final", "error"))


def _theirs(view: View, evidence: Evidence) -> list[Logged]:
    """Return the entries that a view is about: those of one turn, or of all turns of a session."""
    if view.turn:
        return [e for e in evidence.commands[view.user, view.turn] if e.event["type"] in FRAMES]
    turns = evidence.sessions[view.user, view.session]
    return [e for turn in turns for e in evidence.commands[view.user, turn] if e.event["type"] in TAB_FRAMES]


def _unlike_final(view: View) -> Iterator[str]:
    """Compare the text that a reader put together with what `final` said."""
    if not view.turn or view.after or _is_told_afterwards(view) or view.frames[-1].event != "final":
        return
    text, said = spoken(view.frames), view.frames[-1].data["content"]
    if text != said:
        yield f"{text!r} was heard and {said!r} was final"


def spoken(frames: Iterable[Frame]) -> str:
    """Put the text of a turn together, as a reader who understands `discard` does."""
    tokens: list[tuple[tuple[int, int], str]] = []
    for frame in frames:
        if frame.event == "token":
            tokens.append((order(frame.id or RECALLED), frame.data["content"]))
        elif frame.event == "discard":
            tokens = [token for token in tokens if token[0] <= order(frame.data["after"])]
    return "".join(text for _, text in tokens)


def final(evidence: Evidence) -> Iterator[str]:
    """What `final` says is what the history has, and what the model said if nobody stopped it."""
    for sent in evidence.sent:
        if sent.end in ("final", "stopped"):
            text = "\n\n".join(filter(None, _answers(evidence, sent)))
            if sent.content != text:
                yield f"{sent.user}: {sent.op} ended with {sent.content!r}, and the history has {text!r}."
        if sent.end == "final" and sent.content != model.answer(sent.text):
            yield f"{sent.user}: {sent.op} ended with {sent.content!r}, which the model did not say."


def _answers(evidence: Evidence, sent: Sent) -> list[str]:
    """Return what the history has of the answer to a message."""
    questions = evidence.questions[sent.user, sent.text]
    run = questions[0].message["id"].removesuffix("-q") if questions else ""
    return [message["content"] for message in evidence.answers[sent.user, run]]


# 4. Tool calls


def at_most_once(evidence: Evidence) -> Iterator[str]:
    """A call that has an effect reaches its server at most once for each message."""
    charged = Counter(call.op for call in evidence.calls if call.tool == "charge" and call.phase == "start")
    for op, times in charged.items():
        if times > 1:
            yield f"{op} was charged {times} times."


def closed(evidence: Evidence) -> Iterator[str]:
    """Each call that the history has is followed by its result, or by a word that there is none."""
    for user, kept in evidence.kept.items():
        results = Counter(each.message["tool_call_id"] for each in kept if each.message["role"] == "tool")
        for each in kept:
            for call in each.message.get("tool_calls") or ():
                if results[call["id"]] != 1:
                    yield f"{user}: the call {call['id']} has {results[call['id']]} results in the history."


# 5. Ends


def ended(evidence: Evidence) -> Iterator[str]:
    """Every turn that was taken has one end, in time. When the log was lost, a new one may tell it again."""
    for sent in evidence.sent:
        log = evidence.commands[sent.user, sent.message_id]
        ends = [entry for entry in log if entry.event["type"] in FINALS]
        lives = {evidence.lives[end.user, end.id] for end in ends}
        if len(ends) > len(lives) or len({_how(end) for end in ends}) > 1:
            how = ", ".join(f"{end.id} ({_how(end)})" for end in ends)
            yield f"{sent.user}: the turn {sent.message_id} has {len(ends)} ends in the log: {how}."
        if sent.acked is not None and not sent.end:
            yield f"{sent.user}: the turn {sent.message_id} was taken, and its end was not told in time."


def _how(end: Logged) -> str:
    event = end.event
    return f"failed, {event['code']}" if event["type"] == "failed" else f"stopped: {event['stopped']}"


# 6. After a disconnect


def gone(evidence: Evidence) -> Iterator[str]:
    """After an acknowledged disconnect nothing more happens until the next connect."""
    for left in evidence.left:
        yield from (f"{left.user}: after a disconnect {problem}." for problem in left.problems)
    yield from _called_after(evidence)
    sent = {(each.user, each.message_id): each.sent for each in evidence.sent}
    for user, log in evidence.logs.items():
        back, latest = -inf, -inf
        for entry in log:
            kind, asked = entry.event["type"], sent.get((user, entry.command))
            if kind == "disconnected":
                back = _back_after(evidence, user, latest)
            elif kind == "connected" or (asked is not None and asked >= back):
                back = -inf  # the log may have lost that they came back; they say so themselves
            if back > -inf and kind in HAPPENING:
                yield f"{user}: {entry.id} ({kind}) came after a disconnect."
            latest = max(latest, asked or -inf)


def _back_after(evidence: Evidence, user: str, sent: float) -> float:
    """Return when a user came back who left after having sent something last at a moment."""
    return min((left.until for left in evidence.left if left.user == user and left.acked > sent), default=inf)


def _called_after(evidence: Evidence) -> Iterator[str]:
    users = {sent.op: sent.user for sent in evidence.sent}
    left: dict[str, list[Left]] = defaultdict(list)
    for each in evidence.left:
        left[each.user].append(each)
    for call in evidence.calls:
        user = users.get(call.op, "")
        if call.phase == "start" and any(each.acked < call.at < each.until for each in left[user]):
            yield f"{user}: {call.tool} was called for {call.op} after a disconnect."


RULES: Final[tuple[Callable[[Evidence], Iterator[str]], ...]] = (
    *(odd, rising, one_worker, recorded, in_order, shown),
    *(seen, final, at_most_once, closed, ended, gone),
)
