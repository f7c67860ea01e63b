"""What was said, as the owner of a user writes it: the archive first, then the recent window."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import date
from itertools import takewhile

from mcp_chat.branch import Branch, Side
from mcp_chat.deed import Deed
from mcp_chat.ends import unfinished
from mcp_chat.events import Failed, Final
from mcp_chat.exceptions import KeyMissing, NoArchive, StoreUnavailable
from mcp_chat.message import Message, Part, carried
from mcp_chat.session import Session
from mcp_chat.spent import Spent
from mcp_chat.stores.base import Addition, Archive, Kept, Usages, Window
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
        usages: Counts what was spent, where there is no archive.
    """

    def __init__(
        self,
        window: Window,
        archive: Archive | None,
        *,
        max_messages: int = 50,
        usages: Usages | None = None,
    ) -> None:
        self._window = window
        self._archive = archive
        self._usages = archive or usages
        self._max = max_messages
        self._behind: set[tuple[str, str | None]] = set()

    async def messages(self, user: str, session_id: str | None, *, limit: int) -> list[Message]:
        """Return the last `limit` messages in order, from whatever holds most of them."""
        if self._archive:
            return await self._archive.read(user, session_id or DEFAULT, limit=limit)
        found = distinct(await self._window.read(user, session_id) or [])
        return found[len(found) - limit :] if limit < len(found) else found

    async def failures(self, user: str, messages: Iterable[Message]) -> dict[str, Failed]:
        """Return why turns failed, by the ids of their last messages here; an archive alone knows it."""
        last = unfinished(messages)
        if self._archive is None or not last:
            return {}
        found = await self._archive.failures(user, list(last))
        return {last[run]: why for run, why in found.items()}

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
        spent: Sequence[Spent] = (),
        backend: str = "",
        epoch: int | None,
        ends: tuple[str, Final] | None = None,
    ) -> bool:
        """Add messages, what was done along with them and what they cost; when this returns all is committed.

        Args:
            ends: A command that ends with them, and how; only an archive takes it down.

        Returns:
            Whether the window has them too; if not, it is to be refilled.

        Raises:
            Fenced: Another worker owns the user.
        """
        if self._archive is None:
            if messages:
                await self._window.append(user, session_id, messages, epoch=epoch, create=True)
            if spent and self._usages and epoch is not None:
                await self._usages.spend(user, spent, epoch=epoch)
            return True
        addition = Addition(
            user=user,
            session_id=session_id or DEFAULT,
            messages=tuple(messages),
            deeds=tuple(deeds),
            spent=tuple(spent),
            backend=backend,
            epoch=epoch,
            ends=ends,
        )
        await self._archive.add(addition)
        if not messages:
            return True
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
        said = [message for message in found if message.id.startswith(f"{run}-")]
        if not said:
            aside = [each for side in await self._window.sides(user, session_id) for each in side.messages]
            said = [message for message in aside if message.id.startswith(f"{run}-")]
        return said

    # Branches

    async def cut(
        self, user: str, session_id: str | None, message_id: str, *, side: str, epoch: int | None
    ) -> None:
        """Put a message and all behind it into a branch, once for each id of a side.

        Raises:
            MessageMoved: The message is not in the line that is shown.
            Fenced: Another worker owns the user.
        """
        if self._archive is None:
            return await self._window.cut(user, session_id, message_id, side=side, epoch=epoch)
        await self._archive.cut(user, session_id or DEFAULT, message_id, side=side, epoch=epoch)
        return await self._empty(user, session_id, epoch)

    async def switch(self, user: str, session_id: str | None, message_id: str, *, epoch: int | None) -> None:
        """Show the branch that a message is in.

        Raises:
            MessageMoved: There is no such message.
            Fenced: Another worker owns the user.
        """
        if self._archive is None:
            return await self._window.switch(user, session_id, message_id, epoch=epoch)
        await self._archive.switch(user, session_id or DEFAULT, message_id, epoch=epoch)
        return await self._empty(user, session_id, epoch)

    async def _empty(self, user: str, session_id: str | None, epoch: int | None) -> None:
        """Let the next turn fill the window anew: it has what is not in the line any more."""
        self._behind.add((user, session_id))
        with contextlib.suppress(StoreUnavailable):  # whoever reads it fills it anew first
            await self._window.clear(user, session_id, epoch=epoch)

    async def branches(self, user: str, session_id: str | None) -> list[Branch]:
        """Return the branches behind each message that has some, in the order of their beginnings."""
        if self._archive is None:
            return await self._window.branches(user, session_id)
        return await self._archive.branches(user, session_id or DEFAULT)

    async def sides(self, user: str, session_id: str | None) -> list[Side]:
        """Return what is not shown, each side behind the one that it forks from."""
        if self._archive is None:
            return await self._window.sides(user, session_id)
        return await self._archive.sides(user, session_id or DEFAULT)

    async def find(self, user: str, session_id: str | None, message_id: str) -> Message | None:
        """Return a message of the line that is shown."""
        if self._archive:
            return next(iter(await self._archive.pick(user, session_id or DEFAULT, [message_id])), None)
        found = await self._window.read(user, session_id) or []
        return next((message for message in found if message.id == message_id), None)

    async def last_asked(self, user: str, session_id: str | None) -> Message | None:
        """Return the last message of the user's in the line that is shown."""
        if self._archive is None:
            found = await self._window.read(user, session_id) or []
            return next((each for each in reversed(found) if each.role == "user"), None)
        before: int | None = None
        while page := await self._archive.page(user, session_id or DEFAULT, limit=GROUP, before=before):
            for kept in reversed(page):
                if kept.message.role == "user":
                    return kept.message
            before = page[0].place
        return None

    async def steps(self, user: str, run: str, *, since: date) -> list[Spent]:
        """Return what a turn has spent since a day, step by step."""
        return await self._usages.steps(user, run, since=since) if self._usages else []

    async def keep(self, user: str, upload: Upload, *, quota: int) -> Part:
        """Keep a file for a message that is to name it.

        Raises:
            NoArchive: There is nowhere to keep it.
            TooLarge: The user's files are full.
        """
        if self._archive is None:
            raise NoArchive
        return await self._archive.put_upload(user, upload, quota=quota)

    async def files(self, user: str, messages: Sequence[Message]) -> dict[str, Upload]:
        """Return the files of a user's messages by their ids: the newest, as many as one turn may carry."""
        found: dict[str, Upload] = {}
        room = CARRIED
        for part in [part for message in reversed(messages) for part in carried(message)]:
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
