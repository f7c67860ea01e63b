"""The running summary: what a model is not shown any more, in a few of its own words."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import structlog

from mcp_chat.context import Budget, shorter, shown
from mcp_chat.message import Message, Usage
from mcp_chat.record import pinned_in
from mcp_chat.session import Session
from mcp_chat.stores.base import Addition, Archive, Kept

log = structlog.get_logger()

Say = Callable[[str], Awaitable[tuple[str, Usage]]]

LEAST = 8
"""Messages that are worth a request to the model."""
PAGE = 200
ROUNDS = 10
LONGEST = 2_000
"""Characters of one message that are read; how a long text ends rarely matters."""

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
    limits = first_shown(session, budget)
    summary = _known(session)
    for _ in range(ROUNDS):
        page = await archive.page(user, session.id, limit=PAGE, after=summary.get("place", 0))
        passed = _until(page, limits)
        if len(passed) < LEAST:
            return
        text, usage = await say(request(summary.get("text", ""), [kept.message for kept in passed], budget))
        summary = {"text": text, "upto": passed[-1].message.id, "place": passed[-1].place}
        await archive.change_session(user, session.id, context={"summary": summary})
        await archive.add(Addition(user=user, session_id=session.id, usage=usage, epoch=epoch))
        log.info("session.summed_up", user=user, session=session.id, messages=len(passed))
        if len(passed) < PAGE:
            return


def _known(session: Session) -> dict[str, Any]:
    match session.context.get("summary"):
        case {"text": str(text), "upto": str(upto), "place": int(place)}:
            return {"text": text, "upto": upto, "place": place}
    return {}


def first_shown(session: Session, budget: Budget) -> str | None:
    """Return the id of the message with which the part of the conversation begins that is shown in full."""
    pinned = set(pinned_in(session))
    for message in shown(session, budget).messages:
        if message.role != "system" and message.id not in pinned and not message.metadata.get("pinned"):
            return message.id
    return None


def _until(page: list[Kept], end: str | None) -> list[Kept]:
    for place, kept in enumerate(page):
        if kept.message.id == end:
            return page[:place]
    return page


def request(before: str, messages: list[Message], budget: Budget) -> str:
    """Return what the model is asked: the summary so far and the messages that have passed since."""
    lines = [
        f"{message.role}: {shorter(message.content, LONGEST)}" for message in messages if message.content
    ]
    earlier = f"The summary of what came before:\n{before}\n\n" if before else ""
    return shorter(f"{earlier}The conversation:\n" + "\n".join(lines), 2 * budget.tokens)
