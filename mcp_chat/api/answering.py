"""The entries that answer a message: those of its turn, or the rest of the turn that it was said into."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator
from dataclasses import replace

from mcp_chat.dispatch import Dispatch, Ticket
from mcp_chat.events import Discarded, Entry, MessageAdded, Steered, TextDelta, TurnStarted, is_final
from mcp_chat.recovery import BREAK, VOID, Told


async def answering(dispatch: Dispatch, user: str, ticket: Ticket) -> AsyncGenerator[Entry | None]:
    """Yield what answers a message, up to the final entry; None each second in which nothing came.

    Raises:
        Draining: This worker stops, and somebody else serves the user.
        StoreUnavailable: The store does not answer, or has lost the command.
    """
    steered: Steered | None = None
    async with contextlib.aclosing(dispatch.follow(user, ticket)) as entries:
        async for entry in entries:
            if entry is not None and isinstance(entry.event, Steered):
                steered = entry.event
            yield entry
    if steered:
        async with contextlib.aclosing(_rest(dispatch, user, ticket, steered)) as rest:
            async for entry in rest:
                yield entry


async def _rest(
    dispatch: Dispatch, user: str, ticket: Ticket, steered: Steered
) -> AsyncGenerator[Entry | None]:
    """Yield what a turn tells behind a message."""
    joined = await dispatch.joined(user, steered.turn_id, ticket.place)
    rest = _Rest(steered.message_id)
    async with contextlib.aclosing(dispatch.follow(user, joined)) as entries:
        async for entry in entries:
            if entry is None or (entry := rest.of(entry)):
                yield entry


class _Rest:
    """What is behind a message in a turn, which may be told anew.

    Args:
        message_id: The message.
    """

    def __init__(self, message_id: str) -> None:
        self._message_id = message_id
        self._behind = False
        self._told = Told()

    def of(self, entry: Entry) -> Entry | None:
        """Return the entry as a reader of the rest has it, None if it is not for them."""
        match entry.event:
            case TurnStarted():
                return entry
            case Discarded(after=after) if after == VOID:  # all that was told is told again
                self._behind, self._told = False, Told()
                return entry
            case MessageAdded(message=message) if message.id == self._message_id:
                self._behind = True
            case TextDelta(text=text) if not self._told.text:
                entry = replace(entry, event=TextDelta(text=text.removeprefix(BREAK)))
        if self._behind:
            self._told.hear(entry)
        return entry if self._behind or is_final(entry.event) else None
