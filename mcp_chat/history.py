"""The history of every user, under the name and with the calls that users of a gateway's chat know."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from mcp_chat.context import Budget, may_be_cut, shown
from mcp_chat.exceptions import InvalidRequest, StoreUnavailable
from mcp_chat.identity import user_key
from mcp_chat.message import ID, Message, Role, new_id
from mcp_chat.record import DEFAULT, Record
from mcp_chat.session import Session, fitting
from mcp_chat.stores.base import Archive, Usages, Window
from mcp_chat.stores.client import Client
from mcp_chat.stores.gateway import GatewayHistory
from mcp_chat.stores.memory import MemoryStore
from mcp_chat.stores.redis_window import RedisWindow
from mcp_chat.stores.scripts import Scripts

if TYPE_CHECKING:
    from langchain_core.messages import AnyMessage


REMEMBERED = 10_000
"""Users of whom this process knows that a gateway has nothing of theirs."""


class ChatHistoryManager:
    """Reads and writes the messages of users, each by the id that their login gives them.

    With an archive every message is kept for good, and Redis may be empty or gone: what is read is whole.
    With Redis alone the last `max_messages` of a session are kept until `ttl` seconds after the last one was
    written, and for as long as Redis keeps its data. With neither they live as long as this object.

    When a method that writes returns, the message is there; if it raises `StoreUnavailable` nobody can tell,
    and a message that is written again under its id is there once.

    Args:
        redis_client: A client with `decode_responses=True`; None keeps windows in this process.
        max_messages: Messages of a window.
        ttl: Seconds until an unused window expires.
        archive: The record of everything, or None.
        window: The windows to use instead of those of `redis_client`.
        budget: What a model is shown; by default `max_messages`.
        usages: Counts what is spent, where there is no archive.
    """

    def __init__(
        self,
        redis_client: Client | None = None,
        max_messages: int = 50,
        ttl: int = 3600,
        archive: Archive | None = None,
        *,
        window: Window | None = None,
        budget: Budget | None = None,
        usages: Usages | None = None,
    ) -> None:
        window = window or _window(redis_client, max_messages, ttl)
        self.record = Record(window, archive, max_messages=max_messages, usages=usages)
        self._archive = archive
        self._budget = budget or Budget(messages=max_messages)
        self._gateway = GatewayHistory(redis_client) if redis_client else None
        self._adopted: dict[str, None] = {}

    async def get_history(
        self, user_id: str, *, session_id: str | None = None, limit: int | None = None
    ) -> list[Message]:
        """Return the messages in the order in which they were written.

        Args:
            session_id: Another conversation than the user's default one.
            limit: Only so many, the last ones.

        Raises:
            StoreUnavailable: They cannot be read now; a history is never empty because of that.
        """
        if limit is not None and (type(limit) is not int or limit < 0):
            raise InvalidRequest("The limit of messages is a whole number, 0 or more.")
        user, session_id = await self._at(user_id, session_id, reading=True)
        if limit is None:
            return await self.record.all_messages(user, session_id)
        return await self.record.messages(user, session_id, limit=limit)

    async def append_message(
        self,
        user_id: str,
        role: str,
        content: str,
        *,
        session_id: str | None = None,
        tool_call_id: str | None = None,
        **metadata: Any,
    ) -> Message:
        """Add one message at the end and return it.

        Args:
            tool_call_id: The call that a tool's message answers.
            metadata: JSON values that are kept with it.

        Raises:
            InvalidRequest: There is no such role, or the metadata is not JSON.
        """
        message = _message(
            Message(role=cast(Role, role), content=content, tool_call_id=tool_call_id, metadata=metadata)
        )
        user, session_id = await self._at(user_id, session_id)
        await self.record.add(user, session_id, [message], epoch=None)
        return message

    async def save_history(
        self,
        user_id: str,
        messages: Sequence[Message | Mapping[str, Any]],
        *,
        session_id: str | None = None,
    ) -> None:
        """Make these messages the history.

        If they begin with what is there, only the others are added. Otherwise the conversation that was there
        becomes an earlier one in the archive, and without an archive it is gone.

        Args:
            messages: Messages, or mappings with `role` and `content` as a gateway has them. A mapping without
                an `id` is the message that stands in its place if it says the same.

        Raises:
            InvalidRequest: One of them is no message; nothing has changed.
        """
        for each in messages:
            if not isinstance(each, Message | Mapping):
                raise InvalidRequest("A message is a Message, or a mapping with role and content.")
        wanted = [_message(each) for each in messages]
        user, session_id = await self._at(user_id, session_id)
        there = await self.record.all_messages(user, session_id)
        if not begins_with(wanted, there, messages):
            await self.record.rewrite(user, session_id, wanted)
        elif new := wanted[len(there) :]:
            await self.record.add(user, session_id, new, epoch=None)

    async def clear_history(self, user_id: str, *, session_id: str | None = None) -> None:
        """Begin anew. An archive keeps what was there as an earlier conversation."""
        user, session_id = await self._at(user_id, session_id)
        await self.record.put_away(user, session_id)

    async def get_langchain_messages(
        self, user_id: str, *, session_id: str | None = None
    ) -> list[AnyMessage]:
        """Return what a model is shown of the conversation, as LangChain's messages."""
        from mcp_chat.langchain import to_langchain  # noqa: PLC0415 - LangChain takes a second to import

        user, session_id = await self._at(user_id, session_id, reading=True)
        session = await self.record.session(user, session_id) or Session()
        messages = shown(session, self._budget, cut=may_be_cut(session, self._budget)).messages
        files = await self.record.files(user, messages)
        return [to_langchain(message, files) for message in messages]

    async def _at(
        self, user_id: str, session_id: str | None, *, reading: bool = False
    ) -> tuple[str, str | None]:
        """Return where a conversation is kept, with what a gateway may have had of it.

        Args:
            reading: The archive is read even if nobody can tell now what the gateway has.

        Raises:
            InvalidRequest: No conversation has such an id.
        """
        if session_id is not None and session_id != DEFAULT:
            return user_key(user_id), _id(session_id, "conversation")
        try:
            await self.adopt(user_id)
        except StoreUnavailable:
            if not (reading and self._archive):
                raise
        return user_key(user_id), None

    async def adopt(self, user_id: str, *, session_id: str | None = None, epoch: int | None = None) -> None:
        """Take over, once, what a gateway's own chat has kept of the user in the same Redis.

        Args:
            session_id: The conversation that it becomes the beginning of.

        Raises:
            Fenced: Another worker owns the user.
        """
        if self._gateway is None or user_id in self._adopted:
            return
        if messages := await self._gateway.read(user_id):
            await self.record.add(user_key(user_id), session_id, messages, epoch=epoch)
            await self._gateway.done(user_id)
        self._adopted[user_id] = None
        while len(self._adopted) > REMEMBERED:
            del self._adopted[next(iter(self._adopted))]


def _window(redis: Client | None, max_messages: int, ttl: int) -> Window:
    if redis is None:
        return MemoryStore(max_messages=max_messages).window
    return RedisWindow(redis, Scripts(redis), max_messages, ttl)


def begins_with(
    wanted: Sequence[Message], there: Sequence[Message], given: Sequence[Message | Mapping[str, Any]]
) -> bool:
    """Tell whether a list of messages, made of what was given, goes on where the history ends."""
    if len(wanted) < len(there):
        return False
    for new, old, source in zip(wanted, there, given, strict=False):
        named = isinstance(source, Message) or "id" in source
        if (new.id != old.id) if named else ((new.role, new.content) != (old.role, old.content)):
            return False
    return True


def _message(given: Message | Mapping[str, Any]) -> Message:
    """Return what was given as a message that every store takes.

    Raises:
        InvalidRequest: It is none.
    """
    message = given if isinstance(given, Message) else _from_mapping(given)
    _id(message.id, "message")
    for part in message.parts:
        _id(part.upload_id, "file")
    return fitting(message, ())


def _from_mapping(given: Mapping[str, Any]) -> Message:
    content = given.get("content")
    if not isinstance(content, str):
        raise InvalidRequest("A message's content must be a text.")
    call = given.get("tool_call_id")
    id_ = given.get("id")
    return Message(
        id=id_ if isinstance(id_, str) else new_id(),
        role=cast(Role, given.get("role")),
        content=content,
        tool_call_id=call if isinstance(call, str) else None,
    )


def _id(text: str, whose: str) -> str:
    if not re.fullmatch(ID, text):
        raise InvalidRequest(f"The id of a {whose} is up to 64 letters, digits, - and _.")
    return text
