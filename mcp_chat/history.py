"""What was said: the recent window in Redis, and the durable archive behind it."""

from __future__ import annotations

from collections.abc import Sequence

from mcp_chat.exceptions import StoreUnavailable
from mcp_chat.message import Message
from mcp_chat.stores.base import Archive, Window


class ChatHistoryManager:
    """Messages by user and session.

    With an archive the window is a cache: it is only ever filled from the archive and may vanish at any
    time. Without one the window is all there is, and its limit and time to live are the history's.

    Args:
        window: The recent messages.
        archive: All messages, or None.
        max_messages: Messages that the model is shown.
    """

    def __init__(self, window: Window, *, archive: Archive | None = None, max_messages: int = 50) -> None:
        self._window = window
        self._archive = archive
        self._max = max_messages

    async def get_history(self, user: str, session_id: str, *, limit: int = 1000) -> list[Message]:
        """Return the last `limit` messages in chronological order."""
        if self._archive:
            return await self._archive.read(user, session_id, limit=limit)
        return (await self._window.read(user, session_id) or [])[-limit:]

    async def recent(self, user: str, session_id: str, *, epoch: int, refill: bool = False) -> list[Message]:
        """Return what the model is shown; the owner refills a window that has vanished.

        Args:
            refill: Fill it anew although it is there: it may lag behind the archive.

        Raises:
            Fenced: Another worker owns the user.
        """
        found = None if refill and self._archive else await self._window.read(user, session_id)
        if found is None and self._archive:
            found = await self._archive.read(user, session_id, limit=self._max)
            await self._window.replace(user, session_id, found, epoch=epoch)
        return list({message.id: message for message in reversed(found or [])}.values())[::-1]

    async def append_messages(
        self, user: str, session_id: str, messages: Sequence[Message], *, epoch: int
    ) -> bool:
        """Add messages; when this returns they are committed.

        Returns:
            Whether the window has them too; if not, it is to be refilled.

        Raises:
            Fenced: Another worker owns the user.
        """
        if self._archive is None:
            await self._window.append(user, session_id, messages, epoch=epoch, create=True)
            return True
        await self._archive.append(user, session_id, messages, epoch=epoch)
        try:
            await self._window.append(user, session_id, messages, epoch=epoch, create=False)
        except StoreUnavailable:
            return False
        return True

    async def has_session(self, user: str, session_id: str) -> bool:
        """Tell whether the session is one of the user's."""
        if self._archive:
            return await self._archive.has_session(user, session_id)
        return await self._window.read(user, session_id) is not None

    async def clear_history(self, user: str, session_id: str, *, epoch: int) -> None:
        """Drop the window. The archive keeps the session as an earlier conversation.

        Raises:
            Fenced: Another worker owns the user.
        """
        await self._window.clear(user, session_id, epoch=epoch)
