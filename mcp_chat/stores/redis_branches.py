"""Branches of a window in Redis: both are read, made anew and written back if nobody was faster."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import structlog
from pydantic import ValidationError
from redis.exceptions import RedisError

from mcp_chat.branch import MOST_SIDES, SIDES, Branch, Side, Tree, in_order
from mcp_chat.exceptions import Fenced, KeyMissing, StoreUnavailable, Unreadable
from mcp_chat.message import Message
from mcp_chat.stores.cipher import Cipher
from mcp_chat.stores.client import Client, failed
from mcp_chat.stores.scripts import Scripts

log = structlog.get_logger()

IN_WINDOW = "window"
"""The field that messages are sealed for."""

ATTEMPTS = 5


def window_key(user: str, session_id: str | None) -> str:
    """The list with a session's recent messages."""
    return f"chat:history:{{{user}}}" + (f":{session_id}" if session_id else "")


def sides_key(user: str, session_id: str | None) -> str:
    """The string with what is not shown of a session."""
    return f"chat:sides:{{{user}}}" + (f":{session_id}" if session_id else "")


def owner_key(user: str) -> str:
    """The hash with a user's owner and epoch; each fenced script reads it."""
    return f"active:session:{{{user}}}"


class RedisBranches(ABC):
    """What `RedisWindow` does with branches, by the reading and writing of messages that it has."""

    _redis: Client
    _scripts: Scripts
    _cipher: Cipher
    _ttl: int

    @abstractmethod
    async def read(self, user: str, session_id: str | None) -> list[Message] | None: ...

    @abstractmethod
    def _text(self, user: str, message: Message) -> str: ...

    @abstractmethod
    def _message(self, user: str, text: bytes) -> Message | None: ...

    async def cut(
        self, user: str, session_id: str | None, message_id: str, *, side: str, epoch: int | None
    ) -> None:
        """Put a message and all behind it into a new side."""
        await self._regrow(user, session_id, lambda tree: tree.cut(message_id, side), epoch)

    async def switch(self, user: str, session_id: str | None, message_id: str, *, epoch: int | None) -> None:
        """Show the branch that a message is in."""
        await self._regrow(user, session_id, lambda tree: tree.switch(message_id), epoch)

    async def branches(self, user: str, session_id: str | None) -> list[Branch]:
        """Return the branches behind each message that has some."""
        return (await self._tree(user, session_id))[0].branches()

    async def sides(self, user: str, session_id: str | None) -> list[Side]:
        """Return what is not shown."""
        tree, _ = await self._tree(user, session_id)
        return in_order(tree.sides, tree.line)

    async def _regrow(
        self, user: str, session_id: str | None, change: Callable[[Tree], Tree], epoch: int | None
    ) -> None:
        keys = [window_key(user, session_id), owner_key(user), sides_key(user, session_id)]
        for _ in range(ATTEMPTS):
            tree, seen = await self._tree(user, session_id)
            changed = change(tree)
            if changed is tree:
                return
            texts = [self._text(user, message) for message in changed.line]
            sides = self._sealed(user, changed.sides[-MOST_SIDES:])
            args = ["" if epoch is None else epoch, *seen, self._ttl, sides, *texts]
            done = await self._scripts.run("regrow", keys, args)
            if not done:
                raise Fenced
            if done == 1:
                return
        raise StoreUnavailable  # somebody else writes without end

    async def _tree(self, user: str, session_id: str | None) -> tuple[Tree, tuple[str, str]]:
        """Return the tree, and the hashes of what it was read from."""
        await self.read(user, session_id)  # what nobody can read is put aside
        try:
            lines = await self._redis.execute_command(
                "LRANGE", window_key(user, session_id), 0, -1, NEVER_DECODE=True
            )
            hidden = await self._redis.execute_command("GET", sides_key(user, session_id), NEVER_DECODE=True)
        except (RedisError, OSError) as error:
            raise failed(error) from error
        messages = [message for text in lines if (message := self._message(user, text))]
        tree = Tree(line=tuple(once(messages)), sides=self._opened(user, hidden or b""))
        return tree, (_sha1(b"".join(text + b"\n" for text in lines)), _sha1(hidden or b""))

    def _sealed(self, user: str, sides: tuple[Side, ...]) -> str:
        if not sides:
            return ""
        return self._cipher.seal(SIDES.dump_json(sides).decode(), user=user, field=IN_WINDOW)

    def _opened(self, user: str, text: bytes) -> tuple[Side, ...]:
        try:
            return (
                SIDES.validate_json(self._cipher.open(text.decode(), user=user, field=IN_WINDOW))
                if text
                else ()
            )
        except Unreadable:
            raise KeyMissing from None
        except (ValidationError, UnicodeDecodeError):
            log.error("sides.unreadable", user=user)
            return ()


def once(messages: Sequence[Message]) -> list[Message]:
    """Return each message once: sealed, what is sent again looks new to the script that adds it."""
    found: list[Message] = []
    seen: dict[str, list[Message]] = {}
    for message in messages:
        if message not in (same := seen.setdefault(message.id, [])):
            same.append(message)
            found.append(message)
    return found


def _sha1(content: bytes) -> str:
    return hashlib.sha1(content, usedforsecurity=False).hexdigest()
