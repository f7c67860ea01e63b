"""How commands and turns end: as the events that say so, and as what is counted."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from mcp_chat.events import Failed, Final, TurnFinished
from mcp_chat.exceptions import ChatError, Interrupted, ModelFailed
from mcp_chat.message import Message
from mcp_chat.metrics import TurnEnd
from mcp_chat.models.ending import ENDED, nothing_said
from mcp_chat.plugins.blocks import BLOCKED, block_of


def failed(error: ChatError) -> Failed:
    """Return an error as the event that ends its command."""
    return Failed(
        code=error.code,
        text=str(error),
        retryable=error.retryable,
        retry_after=getattr(error, "retry_after", None),
        limit=getattr(error, "limit", ""),
    )


def ended_with(message: Message) -> Final:
    """Return how a turn ended whose last message is this one."""
    if blocked := block_of(message.metadata.get(BLOCKED)):
        return failed(blocked)
    if message.metadata.get("interrupted"):
        return failed(Interrupted())
    return TurnFinished(
        stopped=bool(message.metadata.get("stopped")), ended=str(message.metadata.get(ENDED, ""))
    )


def finished_with(last: Message, written: Sequence[Message]) -> TurnFinished:
    """Return how a turn ended for which the model has said what it wanted to.

    Args:
        last: What it said last.
        written: What there is of the turn.

    Raises:
        ModelFailed: It said nothing.
    """
    how = last.metadata.get(ENDED, "")
    said = any(message.role == "assistant" and message.content for message in written)
    if not said or (how and not last.content):
        raise ModelFailed(nothing_said(how))
    return TurnFinished(ended=how)


def unfinished(messages: Iterable[Message]) -> dict[str, str]:
    """Return the last messages of turns without a whole answer, by what the ids of the turn begin with."""
    last = {message.id.rpartition("-")[0]: message for message in messages}
    return {run: message.id for run, message in last.items() if run and not _is_whole(message)}


def _is_whole(message: Message) -> bool:
    broken = message.metadata.get("interrupted") or message.metadata.get(ENDED)
    return message.role == "assistant" and not message.tool_calls and not broken


def ended_how(outcome: Final) -> TurnEnd:
    """Return what kind of end a turn has had, for counting."""
    if isinstance(outcome, TurnFinished):
        return "stopped" if outcome.stopped else "finished"
    return "interrupted" if isinstance(outcome, Failed) and outcome.code == Interrupted.code else "failed"
