"""What the model is shown of a conversation: what fits a budget, chosen by one pure function.

The rules, in the order in which a budget is given away:

1. The newest message is always shown. One that does not fit is shortened with a note that says so.
2. System messages come first. They never take more than half of the tokens from the newest message.
   Of these the session's own system prompt is the first of all, in a quarter of the tokens at most.
3. If something is left out, or was not even given, and the session has a summary of it, the summary comes
   before everything else but that, in a quarter of the tokens at most.
4. Pinned messages stand where they were said. The newest are tried first; those that do not fit are left out.
5. The others follow from the newest to the oldest, without a gap, until one does not fit. If one is left out,
   pinned or not, what is shown begins with a message of the user's, as some providers want it.

An assistant's message with tool calls and the results of these calls are one group, which is taken or left
as one, in the form that `mcp_chat.message.complete` gives it; it is pinned if one of its messages is. A group
with more messages than the budget is left out. If it is the newest, it becomes the assistant's text with a
note that so many calls and their results are not shown, because half of it would be refused by providers.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any, Literal

from mcp_chat.manner import SYSTEM_PROMPT, manner_of
from mcp_chat.message import Message, Part, carried, complete
from mcp_chat.session import Session

IMAGE = 425
"""Tokens of an image, and at least of a file whose text is not known."""

DOCUMENT = 100
"""Bytes of such a file for one token."""

ALL = 2**62
PER_MESSAGE = 3
"""Tokens that a message costs before its first word."""

_SIGNS = re.compile(r"[^\w\s]|_")
_TEXTS = re.compile(r"text/|application/(?:[\w.-]+\+|x-)?(?:json|xml|yaml)\b")
_SHORTEST = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """How much the model is shown.

    Attributes:
        messages: Messages, the system's among them; 1 or more.
        tokens: Tokens, as `tokens_of` estimates them; 64 or more.
        result: Characters of a tool's result; 16 or more.
    """

    messages: int = 50
    tokens: int = 64_000
    result: int = 8_000

    def __post_init__(self) -> None:
        for name, least in (("messages", 1), ("tokens", 64), ("result", _SHORTEST)):
            if getattr(self, name) < least:
                raise ValueError(f"The budget's {name} are at least {least}.")

    def within(self, tokens: int) -> Budget:
        """Return the budget with no more than so many tokens, as far as a budget may be that small."""
        return replace(self, tokens=max(64, min(self.tokens, tokens)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What the model is shown.

    Attributes:
        tokens: What the messages cost, as `tokens_of` estimates it.
        left_out: Messages that are not shown; a result that `complete` made up counts, an orphan does not.
        shortened: Messages that are shown in part.
        summarized: Whether the first message is the summary of the earlier conversation.
    """

    messages: tuple[Message, ...] = ()
    tokens: int = 0
    left_out: int = 0
    shortened: int = 0
    summarized: bool = False


def estimate(text: str) -> int:
    """Return about how many tokens a text is.

    This is the estimate of ExLLM, 1.3 for a word and 0.5 for a sign, but never less than a token for four
    bytes: scripts without spaces have few words.
    """
    guess = 1.3 * len(text.split()) + 0.5 * len(_SIGNS.findall(text))
    return math.ceil(max(guess, len(text.encode("utf-8", "surrogatepass")) / 4))


def tokens_of(message: Message) -> int:
    """Return about how many tokens a message is, with its attachments and the arguments of its calls."""
    calls = sum(estimate(call.name) + estimate(_as_json(call.args)) for call in message.tool_calls)
    return PER_MESSAGE + estimate(message.content) + calls + sum(_tokens_of_part(p) for p in carried(message))


def _as_json(args: Mapping[str, Any]) -> str:
    return json.dumps(dict(args), ensure_ascii=False, default=str)


def _tokens_of_part(part: Part) -> int:
    size = max(0, part.size)
    if _TEXTS.match(part.media_type):
        return math.ceil(size / 4)
    return IMAGE if part.media_type.startswith("image/") else max(IMAGE, size // DOCUMENT)


def may_be_cut(session: Session, budget: Budget) -> bool:
    """Tell whether a session that was read for a budget may have messages before those it has here."""
    return len(session.messages) >= budget.messages


def last_in(session: Session, ids: Collection[str], *more: Message) -> Session:
    """Return a session in which these messages come last, whatever was said since, and more behind them."""
    ordered = sorted(session.messages, key=lambda message: message.id in ids)
    return replace(session, messages=(*ordered, *more))


def shown(session: Session, budget: Budget, *, cut: bool = False) -> Context:
    """Return what the model is shown of a session; the module's text has the rules.

    It never costs more than the budget, and what it shows is shown again as it is.

    Args:
        cut: There may be messages before those that the session is given with.
    """
    groups = [*_prompting(session, budget), *_groups(session)]
    context = _chosen(groups, budget, None, cut)
    summary = _summary(session)
    return (
        _chosen(groups, budget, summary, cut) if summary and (cut or _passed(session, context)) else context
    )


Rank = Literal["prompt", "summary", "system", "pinned", "usual"]
_FIRST: dict[Rank, int] = {"prompt": 0, "summary": 1, "system": 2, "pinned": 3, "usual": 3}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Group:
    """Messages that are taken or left together, and where they stand."""

    place: int
    rank: Rank
    messages: tuple[Message, ...]
    shortened: int = 0

    def tokens(self, most: int) -> int:
        """Its tokens, or just more than `most` if its mere length is: a long text is not looked through."""
        if sum(len(message.content) for message in self.messages) > 4 * most:
            return most + 1
        return sum(tokens_of(message) for message in self.messages)

    def with_texts(self, limit: int, *roles: str) -> _Group:
        """The group with the texts of these roles cut to so many characters."""
        messages = tuple(_cut(m, limit) if m.role in roles else m for m in self.messages)
        cut = sum(one is not other for one, other in zip(messages, self.messages, strict=True))
        return replace(self, messages=messages, shortened=max(self.shortened, cut)) if cut else self


class _Room:
    """What is left of a budget, and the groups that it went to."""

    def __init__(self, budget: Budget) -> None:
        self.messages = budget.messages
        self.tokens = budget.tokens
        self.result = budget.result
        self.taken: list[_Group] = []

    def take(self, group: _Group) -> bool:
        """Take a group if it fits; the count first, since tokens are slow to count."""
        if len(group.messages) > self.messages:
            return False
        group = group.with_texts(self.result, "tool")
        if (tokens := group.tokens(self.tokens)) > self.tokens:
            return False
        self.messages -= len(group.messages)
        self.tokens -= tokens
        self.taken.append(group)
        return True

    def open_with_user(self, newest: int) -> None:
        """Leave out what the assistant said before the first of the user's messages that is shown."""
        said = sorted((g for g in self.taken if g.rank in ("usual", "pinned")), key=lambda g: g.place)
        for group in takewhile(lambda g: g.rank == "usual" and g.place != newest, said):
            if group.messages[0].role == "user":
                return
            self.taken.remove(group)
            self.give_back(len(group.messages), group.tokens(ALL))

    def give_back(self, messages: int, tokens: int) -> None:
        """Widen the room, or with negative numbers keep some of it for later."""
        self.messages += messages
        self.tokens += tokens


def _chosen(groups: list[_Group], budget: Budget, summary: Message | None, cut: bool) -> Context:
    """Give the budget away; see the rules."""
    if not groups:
        return Context()
    newest = next((g for g in reversed(groups) if g.rank not in ("system", "prompt")), groups[-1])
    room = _Room(budget)
    kept = _kept_for(newest, budget)
    room.give_back(-kept[0], -kept[1])
    for group in _of(groups, "prompt", newest):
        room.take(group)
    for group in _of(groups, "system", newest):
        room.take(group)
    summarized = summary is not None and room.take(_summarizing(summary, budget))
    room.give_back(*kept)
    room.take(_fitted_group(newest.with_texts(budget.result, "tool"), room))
    for group in reversed(_of(groups, "pinned", newest)):
        cut |= not room.take(group)
    for group in reversed(_of(groups, "usual", newest)):
        if not room.take(group):
            cut = True
            break
    if cut:
        room.open_with_user(newest.place)
    return _context(groups, room, budget, summarized)


def _of(groups: list[_Group], rank: Rank, newest: _Group) -> list[_Group]:
    return [group for group in groups if group.rank == rank and group is not newest]


def _context(groups: list[_Group], room: _Room, budget: Budget, summarized: bool) -> Context:
    taken = sorted(room.taken, key=lambda group: (_FIRST[group.rank], group.place))
    messages = tuple(message for group in taken for message in group.messages)
    return Context(
        messages=messages,
        tokens=budget.tokens - room.tokens,
        left_out=sum(len(group.messages) for group in groups) - len(messages) + summarized,
        shortened=sum(group.shortened for group in taken),
        summarized=summarized,
    )


# Groups


def _groups(session: Session) -> list[_Group]:
    """The messages in groups; results without a call belong to none."""
    pinned = _pinned(session)
    found: list[_Group] = []
    for place, message in enumerate(session.messages):
        if message.role == "tool":
            continue
        messages = _with_results(session.messages, place) if message.tool_calls else (message,)
        found.append(_Group(place=place, rank=_rank(messages, pinned), messages=messages))
    return found


def _with_results(messages: tuple[Message, ...], place: int) -> tuple[Message, ...]:
    """An assistant's message and the result of each of its calls, made up where there is none."""
    asked = messages[place]
    behind = (messages[n] for n in range(place + 1, len(messages)))
    said = (asked, *takewhile(lambda m: m.role == "tool", behind))
    known = {id(message) for message in said}
    return tuple(m if id(m) in known else _settled(m, asked) for m in complete(said))


def _settled(result: Message, asked: Message) -> Message:
    """A made-up result that is the same each time it is made up."""
    return replace(result, id=f"{asked.id}-{result.tool_call_id}", created_at=asked.created_at)


def _rank(messages: tuple[Message, ...], pinned: frozenset[str]) -> Rank:
    if messages[0].role == "system":
        return "system"
    if any(m.id in pinned or m.metadata.get("pinned") is True for m in messages):
        return "pinned"
    return "usual"


def _pinned(session: Session) -> frozenset[str]:
    ids = session.context.get("pinned")
    return frozenset(each for each in ids if isinstance(each, str)) if isinstance(ids, list) else frozenset()


# The system prompt


def prompted(session: Session, prompt: str) -> Session:
    """Return the session with a system prompt where it has none of its own."""
    if not prompt or manner_of(session.context).system_prompt is not None:
        return session
    return replace(session, context={**session.context, SYSTEM_PROMPT: prompt})


def _prompting(session: Session, budget: Budget) -> list[_Group]:
    prompt = manner_of(session.context).system_prompt
    if not prompt or not prompt.strip():
        return []
    message = Message(role="system", content=prompt, id=f"{session.id}-system", created_at=session.created_at)
    fitted = _fitted(message, budget.tokens // 4)
    return [_Group(place=-2, rank="prompt", messages=(fitted,), shortened=int(fitted is not message))]


# The summary


def _summary(session: Session) -> Message | None:
    """The summary that the context holds as ``{"text": ..., "upto": <message id>}``, as a message."""
    match session.context.get("summary"):
        case {"text": str(text), "upto": str()} if text.strip():
            return Message(
                role="system",
                content=f"Summary of the earlier conversation: {text}",
                id=f"{session.id}-summary",
                created_at=session.created_at,
            )
    return None


def _passed(session: Session, context: Context) -> bool:
    """Whether some of what was summed up is not shown: a session may be given with its last messages only."""
    upto = session.context["summary"]["upto"]
    return context.left_out > 0 or all(message.id != upto for message in session.messages)


def _summarizing(summary: Message, budget: Budget) -> _Group:
    message = _fitted(summary, budget.tokens // 4)
    return _Group(place=-1, rank="summary", messages=(message,), shortened=int(message is not summary))


# Shortening


def shorter(text: str, limit: int) -> str:
    """Return the head and the tail of a text within so many characters, with a note in between.

    Args:
        limit: Characters, the note's among them. With no room for the note, an ellipsis stands for it.
    """
    if len(text) <= limit:
        return text
    left = limit - len(_note(len(text)))
    if left < 0:
        return f"{text[: limit - 1]}…"[:limit]
    tail = left // 2
    return text[: left - tail] + _note(len(text) - left) + text[len(text) - tail :]


def _note(characters: int) -> str:
    return f"\n[... {characters:,} characters left out ...]\n"


def _cut(message: Message, limit: int) -> Message:
    if len(message.content) <= limit:
        return message
    return replace(message, content=shorter(message.content, limit))


def _fitted(message: Message, tokens: int) -> Message:
    """The message within so many tokens: attachments go if they must, then text from its middle."""
    if len(message.content) <= 4 * tokens and tokens_of(message) <= tokens:
        return message
    message = _without_parts(message, tokens)
    limit = min(len(message.content), 4 * tokens)
    while limit > 0:
        cut = _cut(message, limit)
        if (cost := tokens_of(cut)) <= tokens:
            return cut
        limit = min(limit * tokens // cost, limit - 1)
    return replace(message, content="")


def _without_parts(message: Message, tokens: int) -> Message:
    """The message with its attachments, if they leave half of the tokens to the text, or with a note."""
    if sum(_tokens_of_part(part) for part in carried(message)) <= tokens // 2:
        return message
    note = f"[{len(message.parts)} attachments left out: too large]"
    return replace(message, parts=(), content=f"{message.content}\n{note}".strip())


def _kept_for(newest: _Group, budget: Budget) -> tuple[int, int]:
    """Messages and tokens that the newest group is sure of."""
    messages = len(newest.messages) if len(newest.messages) <= budget.messages else 1
    tokens = newest.with_texts(budget.result, "tool").tokens(budget.tokens)
    return messages, min(tokens, budget.tokens // 2)


def _fitted_group(group: _Group, room: _Room) -> _Group:
    """The newest group, in whatever form fits: as it is, with less text, or as text instead of calls."""
    if len(group.messages) == 1:
        return _alone(group, group.messages[0], room)
    limit = max(_SHORTEST, *(len(message.content) for message in group.messages))
    while len(group.messages) <= room.messages and limit >= _SHORTEST:
        cut = group.with_texts(limit, "assistant", "tool")
        if cut.tokens(room.tokens) <= room.tokens:
            return cut
        limit //= 2
    return _alone(group, _told(group.messages[0]), room)


def _alone(group: _Group, message: Message, room: _Room) -> _Group:
    fitted = _fitted(message, room.tokens)
    short = int(fitted is not group.messages[0])
    return replace(group, messages=(fitted,), shortened=short)


def _told(asked: Message) -> Message:
    """An assistant's message that tells of its calls in words."""
    note = f"[{len(asked.tool_calls)} tool calls and their results are not shown here: they are too large]"
    return replace(asked, content=f"{asked.content}\n{note}".strip(), tool_calls=())
