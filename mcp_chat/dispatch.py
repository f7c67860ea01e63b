"""The way of a command from any worker to its owner, and of the owner's events back."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncGenerator

from mcp_chat.commands import Command, Send
from mcp_chat.events import Entry, Final, is_final
from mcp_chat.exceptions import Draining, StoreUnavailable, TooManyWaiting
from mcp_chat.ownership import Ownership
from mcp_chat.stores.base import Store

MAX_WAITING = 16
"""Messages; of all commands twice as many may wait, so that a full inbox can still be cancelled."""


class Dispatch:
    """Puts commands into inboxes and follows their events.

    Args:
        store: Inboxes, logs and bells.
        ownership: Wakes the owners.
        patience: Seconds in which something must happen to a user who waits: longer than any turn.
    """

    def __init__(self, store: Store, ownership: Ownership, *, patience: float) -> None:
        self._store = store
        self._ownership = ownership
        self._patience = patience

    async def submit(self, user: str, command: Command) -> str:
        """Hand a command over, once for each id.

        Returns:
            The place in the log behind which its events are.

        Raises:
            Draining: This worker stops; another one takes the command.
            TooManyWaiting: The user's inbox is full.
        """
        if self._ownership.leaving:
            raise Draining
        limit = MAX_WAITING if isinstance(command, Send) else 2 * MAX_WAITING
        place = await self._store.inbox.put(user, command, limit=limit)
        if place is None:
            raise TooManyWaiting
        with contextlib.suppress(StoreUnavailable):  # it is in the inbox: who follows it wakes again
            await self._ownership.wake(user)
        return place

    async def follow(self, user: str, command_id: str, after: str) -> AsyncGenerator[Entry | None]:
        """Yield a command's entries up to the final one; None each second in which nothing came.

        Whoever owns the user may die meanwhile: in each silent second somebody is made to serve them.

        Raises:
            Draining: This worker stops, and somebody else serves the user.
            StoreUnavailable: The store does not answer, or has lost the command.
        """
        heard = time.monotonic()
        async with self._store.bells.listen(f"chat:bell:{{{user}}}") as bell:
            while True:
                entries = await self._store.log.read(user, after)
                heard = time.monotonic() if entries else heard
                for entry in entries:
                    after = entry.id
                    if entry.command_id == command_id:
                        yield entry
                        if is_final(entry.event):
                            return
                if not entries and not await bell.wait(1.0):
                    yield None
                    if self._ownership.gone_for(user):
                        raise Draining
                    await self._ownership.wake(user)
                    if time.monotonic() - heard > self._patience:
                        raise StoreUnavailable("The answer was lost. Please send the message again.")

    async def wake(self, user: str) -> None:
        """Make sure that somebody serves the user: whoever did may have died."""
        await self._ownership.wake(user)

    async def outcome(self, user: str, command: Command) -> Final:
        """Hand a command over and wait for how it ends."""
        place = await self.submit(user, command)
        async with contextlib.aclosing(self.follow(user, command.id, place)) as entries:
            async for entry in entries:
                if entry and isinstance(entry.event, Final):
                    return entry.event
        raise StoreUnavailable
