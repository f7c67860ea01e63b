"""What was said, as the owner of a user writes it: the archive first, then the recent window."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import replace
from itertools import takewhile

from mcp_chat.deed import Deed
from mcp_chat.exceptions import KeyMissing, StoreUnavailable
from mcp_chat.message import Message, Usage
from mcp_chat.session import Session
from mcp_chat.stores.base import Addition, Archive, Kept, Window
from mcp_chat.upload import Upload

DEFAULT = "default"
"""The session of a user who names none, as the archive knows it; its window is that of None."""
PAGE = 1000
CARRIED = 20 * 2**20
"""Bytes of files that go to the model with one turn."""
GROUP = 64
"""Messages among which the call of a result is looked for."""


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
        self._behind: set[tuple[str, str | None]] = set()

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
        if self._archive is None:
            return distinct(await self._window.read(user, session_id) or [])
        refill = refill or (user, session_id) in self._behind
        found = None if refill else await self._near(user, session_id)
        if found is None:
            found = await self._archive.read(user, session_id or DEFAULT, limit=self._max)
            self._behind.add((user, session_id))
            with contextlib.suppress(StoreUnavailable):  # the archive has it all
                await self._window.replace(user, session_id, found, epoch=epoch)
                self._behind.discard((user, session_id))
        return distinct(found)

    async def _near(self, user: str, session_id: str | None) -> list[Message] | None:
        try:
            return await self._window.read(user, session_id)
        except StoreUnavailable:
            return None

    async def session(
        self, user: str, session_id: str | None, recent: Sequence[Message] | None = None
    ) -> Session | None:
        """Return a session with the messages that a model may be shown: the recent and the standing ones.

        Args:
            recent: The recent ones, if they are at hand.
        """
        if recent is None:
            recent = await self.messages(user, session_id, limit=self._max)
        id_ = session_id or DEFAULT
        known = await self._archive.session(user, id_) if self._archive else None
        if known is None or self._archive is None:
            return Session(id=id_, messages=tuple(recent)) if recent else None
        standing = await self._archive.standing(user, id_, pinned_in(known))
        there = {message.id for message in recent}
        older = [kept for kept in standing if kept.message.id not in there]
        return replace(known, messages=(*await whole(self._archive, user, id_, older, there), *recent))

    async def add(
        self,
        user: str,
        session_id: str | None,
        messages: Sequence[Message],
        *,
        deeds: Sequence[Deed] = (),
        usage: Usage | None = None,
        backend: str = "",
        epoch: int | None,
    ) -> bool:
        """Add messages, and what was done along with them; when this returns both are committed.

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
            deeds=tuple(deeds),
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

    async def turn(self, user: str, session_id: str, run: str) -> list[Message]:
        """Return the messages that a turn has written, in order."""
        if self._archive:
            return await self._archive.turn(user, session_id, run)
        found = distinct(await self._window.read(user, session_id) or [])
        return [message for message in found if message.id.startswith(f"{run}-")]

    async def files(self, user: str, messages: Sequence[Message]) -> dict[str, Upload]:
        """Return the files of the messages by their ids: the newest ones, as many as one turn may carry."""
        found: dict[str, Upload] = {}
        room = CARRIED
        for part in [part for message in reversed(messages) for part in message.parts]:
            if self._archive is None or part.upload_id in found or part.size > room:
                continue
            if upload := await self._archive.upload(user, part.upload_id):
                found[part.upload_id] = upload
                room -= len(upload.content)
        return found

    async def exists(self, user: str, session_id: str) -> bool:
        """Tell whether the session is one of the user's."""
        if self._archive:
            return await self._archive.session(user, session_id) is not None
        return await self._window.read(user, session_id) is not None

    async def _is_near(self, user: str, session_id: str | None) -> bool:
        """Tell whether there is a window; one that cannot be opened can be deleted all the same."""
        try:
            return await self._window.read(user, session_id) is not None
        except KeyMissing:
            return True

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
        existed = await self._is_near(user, session_id)
        if self._archive:
            existed |= await self._archive.delete_session(user, session_id or DEFAULT, epoch=epoch)
        await self._window.clear(user, session_id, epoch=epoch)
        return existed


async def whole(
    archive: Archive, user: str, session_id: str, picked: Sequence[Kept], there: set[str]
) -> list[Message]:
    """Return messages with the calls and results that belong to them, but for those that are there."""
    found: dict[str, Message] = {}
    for kept in picked:
        group = [kept]
        if kept.message.role == "tool":
            before = await archive.page(user, session_id, limit=GROUP, before=kept.place)
            group = [each for each in before if each.message.role != "tool"][-1:] or group
        if calls := len(group[0].message.tool_calls):
            behind = await archive.page(user, session_id, limit=calls, after=group[0].place)
            group += takewhile(lambda each: each.message.role == "tool", behind)
        found |= {each.message.id: each.message for each in group if each.message.id not in there}
    return list(found.values())


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
