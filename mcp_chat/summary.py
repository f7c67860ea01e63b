"""The running summary: what a model is not shown any more, in a few of its own words."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import structlog

from mcp_chat.context import Budget, may_be_cut, shorter, shown
from mcp_chat.message import Message
from mcp_chat.plugins.blocks import let_through
from mcp_chat.record import pinned_in
from mcp_chat.session import Session
from mcp_chat.spent import Spent
from mcp_chat.stores.base import Archive, Kept

log = structlog.get_logger()

Say = Callable[[str, str], Awaitable[tuple[str, Spent]]]
"""Asks a model, under a name, and returns what it said and what that cost."""

LEAST = 4
"""Messages that are worth a request to the model."""
PAGE = 200
ROUNDS = 3
"""Requests after one turn: a long conversation that was imported is caught up with over several."""
LONGEST = 2_000
"""Characters of one message that are read; how a long text goes on rarely matters."""
MOST = 60_000
"""Characters of one request."""
LONGEST_SUMMARY = 8_000

TASK = """Sum up a conversation between a user and an assistant, so that the assistant can go on with it \
without having read it. Keep names, numbers, decisions, open questions and what the user prefers. Write at \
most 300 words, in the language of the conversation, and nothing but the summary."""


async def sum_up(archive: Archive, user: str, session: Session, budget: Budget, say: Say, epoch: int) -> None:
    """Bring a session's summary up to what is no longer shown.

    Args:
        session: The session with the messages of which a model may be shown some.
        say: Asks the user's model.
        epoch: The owner's.

    Raises:
        ModelFailed: The model did not answer.
        StoreUnavailable: The archive did not.
    """
    end = first_shown(session, budget)
    summary = known_in(session)
    for _ in range(ROUNDS):
        page = await archive.page(user, session.id, limit=PAGE, after=summary.get("place", 0))
        read = fitting(until(page, end), min(MOST, 2 * budget.tokens))
        if len(read) < LEAST:
            return
        said = let_through(replace(session, messages=tuple(kept.message for kept in read))).messages
        asked = request(summary.get("text", ""), list(said))
        text, spent = await say(f"summary-{read[-1].message.id}", asked)
        summary = {
            "text": shorter(text, LONGEST_SUMMARY),
            "upto": read[-1].message.id,
            "place": read[-1].place,
        }
        if not await archive.keep_summary(user, session.id, summary, spent, epoch=epoch):
            return
        log.info("session.summed_up", user=user, session=session.id, messages=len(read))


def known_in(session: Session) -> dict[str, Any]:
    """Return the summary that a session has, if it is one of ours."""
    match session.context.get("summary"):
        case {"text": str(text), "upto": str(upto), "place": int(place)} if 0 <= place < 2**63:
            return {"text": text, "upto": upto, "place": place}
    return {}


def first_shown(session: Session, budget: Budget) -> str | None:
    """Return the id of the message with which the part of the conversation begins that is shown in full."""
    pinned = set(pinned_in(session))
    for message in shown(let_through(session), budget, cut=may_be_cut(session, budget)).messages:
        if message.role != "system" and message.id not in pinned and not message.metadata.get("pinned"):
            return message.id
    return None


def until(page: list[Kept], end: str | None) -> list[Kept]:
    """Return what of a page comes before the message with this id."""
    for place, kept in enumerate(page):
        if kept.message.id == end:
            return page[:place]
    return page


def fitting(page: list[Kept], most: int) -> list[Kept]:
    """Return the first messages of a page whose lines have so many characters at most; a few in any case."""
    for place, kept in enumerate(page):
        most -= len(line(kept.message))
        if most < 0:
            return page[: max(LEAST, place)]
    return page


def line(message: Message) -> str:
    """Return a message as it is read for a summary."""
    calls = ", ".join(call.name for call in message.tool_calls)
    said = " ".join(
        part for part in (shorter(message.content, LONGEST), calls and f"[calls {calls}]") if part
    )
    return f"{message.role}: {said}\n"


def request(before: str, messages: list[Message]) -> str:
    """Return what the model is asked: the summary so far and the messages that have passed since."""
    earlier = f"The summary of what came before:\n{before}\n\n" if before else ""
    return f"{earlier}The conversation:\n" + "".join(line(message) for message in messages)
