"""What was said, as the owner of a user writes it: the archive first, then the recent window."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from mcp_chat.exceptions import StoreUnavailable
from mcp_chat.message import Message, Usage
from mcp_chat.session import Session
from mcp_chat.stores.base import Addition, Archive, Kept, Window
from mcp_chat.upload import Upload

DEFAULT = "default"
"""The session of a user who names none, as the archive knows it; its window is that of None."""
PAGE = 1000


class Record:
    """Messages by user and session.

    With an archive the window is a cache: it is only ever filled from the archive and may vanish at any
    time. Without one the window is all there is, and its limit and time to live are the history's.

    Args:
        window: The recent messages.
        archive: All messages, or None.
        max_messages: Messages of a window.
    """

    def __init__(self, window: Window, archive: Archive | None, *, max_messages: int = 50) -> None:
        self._window = window
        self._archive = archive
        self._max = max_messages

    async def messages(self, user: str, session_id: str | None, *, limit: int) -> list[Message]:
        """Return the last `limit` messages in order, from whatever holds most of them."""
        if self._archive:
            return await self._archive.read(user, session_id or DEFAULT, limit=limit)
        found = distinct(await self._window.read(user, session_id) or [])
        return found[len(found) - limit :] if limit < len(found) else found

    async def all_messages(self, user: str, session_id: str | None) -> list[Message]:
        """Return all messages in order."""
        if self._archive is None:
            return distinct(await self._window.read(user, session_id) or [])
        found: list[Kept] = []
        while page := await self._archive.page(
            user, session_id or DEFAULT, limit=PAGE, after=found[-1].place if found else 0
        ):
            found += page
        return [kept.message for kept in found]

    async def recent(
        self, user: str, session_id: str | None, *, epoch: int | None, refill: bool = False
    ) -> list[Message]:
        """Return the window's messages; one that has vanished is filled from the archive.

        Args:
            refill: Fill it anew although it is there: it may lag behind the archive.

        Raises:
            Fenced: Another worker owns the user.
        """
        found = None if refill and self._archive else await self._window.read(user, session_id)
        if found is None and self._archive:
            found = await self._archive.read(user, session_id or DEFAULT, limit=self._max)
            await self._window.replace(user, session_id, found, epoch=epoch)
        return distinct(found or [])

    async def session(
        self, user: str, session_id: str, recent: Sequence[Message] | None = None
    ) -> Session | None:
        """Return a session with the messages that a model may be shown: the recent and the pinned ones.

        Args:
            recent: The recent ones, if they are at hand.
        """
        known = await self._archive.session(user, session_id) if self._archive else None
        if recent is None:
            recent = await self.messages(user, session_id, limit=self._max)
        if known is None:
            return Session(id=session_id, messages=tuple(recent)) if recent else None
        there = {message.id for message in recent}
        pinned = [id_ for id_ in pinned_in(known) if id_ not in there]
        older = await self._archive.pick(user, session_id, pinned) if self._archive and pinned else []
        return replace(known, messages=(*older, *recent))

    async def add(
        self,
        user: str,
        session_id: str | None,
        messages: Sequence[Message],
        *,
        usage: Usage | None = None,
        backend: str = "",
        epoch: int | None,
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
        addition = Addition(
            user=user,
            session_id=session_id or DEFAULT,
            messages=tuple(messages),
            usage=usage or Usage(),
            backend=backend,
            epoch=epoch,
        )
        await self._archive.add(addition)
        return await self._follow(user, session_id, messages, epoch)

    async def _follow(
        self, user: str, session_id: str | None, messages: Sequence[Message], epoch: int | None
    ) -> bool:
        """Let the window follow the archive. Only an owner, who writes alone, knows the order in which."""
        try:
            if epoch is None:
                await self._window.clear(user, session_id, epoch=None)
                return False
            await self._window.append(user, session_id, messages, epoch=epoch, create=False)
        except StoreUnavailable:
            return False
        return True

    async def files(self, user: str, messages: Sequence[Message]) -> dict[str, Upload]:
        """Return the files of the messages by their ids, as far as they are kept."""
        wanted = dict.fromkeys(part.upload_id for message in messages for part in message.parts)
        if self._archive is None:
            return {}
        found = [await self._archive.upload(user, upload_id) for upload_id in wanted]
        return {upload.id: upload for upload in found if upload}

    async def exists(self, user: str, session_id: str) -> bool:
        """Tell whether the session is one of the user's."""
        if self._archive:
            return await self._archive.session(user, session_id) is not None
        return await self._window.read(user, session_id) is not None

    async def clear(self, user: str, session_id: str | None, *, epoch: int | None) -> None:
        """Drop the window; the archive keeps the session as an earlier conversation.

        Raises:
            Fenced: Another worker owns the user.
        """
        await self._window.clear(user, session_id, epoch=epoch)

    async def put_away(self, user: str, session_id: str | None) -> None:
        """Begin the session anew; the archive keeps what was there as another, earlier one."""
        await self._window.clear(user, session_id, epoch=None)
        if self._archive:
            await self._archive.put_away(user, session_id or DEFAULT)
            await self._window.clear(user, session_id, epoch=None)  # somebody may have filled it meanwhile

    async def rewrite(self, user: str, session_id: str | None, messages: Sequence[Message]) -> None:
        """Begin the session anew with these messages."""
        if self._archive is None:  # at once: what was there is gone only when these are
            await self._window.replace(user, session_id, messages, epoch=None)
            return
        await self.put_away(user, session_id)
        if messages:
            await self.add(user, session_id, messages, epoch=None)

    async def delete(self, user: str, session_id: str | None, *, epoch: int | None) -> bool:
        """Delete the session, with window and archive; tell whether there was one.

        Raises:
            Fenced: Another worker owns the user.
        """
        existed = await self._window.read(user, session_id) is not None
        if self._archive:
            existed |= await self._archive.delete_session(user, session_id or DEFAULT, epoch=epoch)
        await self._window.clear(user, session_id, epoch=epoch)
        return existed


def distinct(messages: Sequence[Message]) -> list[Message]:
    """Return each message once: the first one of those that have the same id, as an archive keeps it."""
    found: dict[str, Message] = {}
    for message in messages:
        found.setdefault(message.id, message)
    return list(found.values())


def pinned_in(session: Session) -> list[str]:
    """Return the ids of the messages that the user has pinned."""
    pinned = session.context.get("pinned")
    return [id_ for id_ in pinned if isinstance(id_, str)] if isinstance(pinned, list) else []
