"""How commands and turns end: as the events that say so, and as what is counted."""

from __future__ import annotations

from mcp_chat.events import Failed, Final, TurnFinished
from mcp_chat.exceptions import ChatError, Interrupted
from mcp_chat.message import Message
from mcp_chat.metrics import TurnEnd


def failed(error: ChatError) -> Failed:
    """Return an error as the event that ends its command."""
    return Failed(
        code=error.code,
        text=str(error),
        retryable=error.retryable,
        retry_after=getattr(error, "retry_after", None),
    )


def ended_with(message: Message) -> Final:
    """Return how a turn ended whose last message is this one."""
    if message.metadata.get("interrupted"):
        return failed(Interrupted())
    return TurnFinished(stopped=bool(message.metadata.get("stopped")))


def ended_how(outcome: Final) -> TurnEnd:
    """Return what kind of end a turn has had, for counting."""
    if isinstance(outcome, TurnFinished):
        return "stopped" if outcome.stopped else "finished"
    return "interrupted" if isinstance(outcome, Failed) and outcome.code == Interrupted.code else "failed"
