"""Redis or Valkey: the latest messages of conversations."""

from __future__ import annotations

from collections.abc import Sequence

import structlog
from redis.exceptions import RedisError, ResponseError

from mcp_chat.exceptions import KeyMissing, StoreUnavailable, Unreadable
from mcp_chat.message import MESSAGE, Message
from mcp_chat.stores.cipher import PLAIN, Cipher
from mcp_chat.stores.client import Client, failed
from mcp_chat.stores.redis_branches import IN_WINDOW, RedisBranches, once, owner_key, sides_key, window_key
from mcp_chat.stores.scripts import Scripts

log = structlog.get_logger()

ASIDE = 30 * 86_400


class RedisWindow(RedisBranches):
    """Recent messages in a list. One with a message that is sealed and does not open stays as it is.

    Args:
        redis: A client with `decode_responses=True`.
        max_messages: Messages that are kept.
        ttl: Seconds until an unused window expires.
        cipher: What messages go through.
    """

    def __init__(
        self, redis: Client, scripts: Scripts, max_messages: int, ttl: int, cipher: Cipher = PLAIN
    ) -> None:
        self._redis = redis
        self._scripts = scripts
        self._cipher = cipher
        self._max = max_messages
        self._ttl = ttl

    async def read(self, user: str, session_id: str | None) -> list[Message] | None:
        key = window_key(user, session_id)
        try:  # as bytes: what is no UTF-8 must not hide the rest either
            found = list(await self._redis.execute_command("LRANGE", key, 0, -1, NEVER_DECODE=True))
        except ResponseError as error:
            if "WRONGTYPE" not in str(error):
                raise failed(error) from error
            await self._set_aside(user, key, [b""])
            return None
        except (RedisError, OSError) as error:
            raise failed(error) from error
        messages = {text: self._message(user, text) for text in found}  # before anything is changed
        if bad := [text for text in found if messages[text] is None]:
            await self._set_aside(user, key, bad)
        return once([message for text in found if (message := messages[text])]) or None

    async def append(
        self,
        user: str,
        session_id: str | None,
        messages: Sequence[Message],
        *,
        epoch: int | None,
        create: bool,
    ) -> None:
        if create:  # there is nothing but the window: what nobody can open must not be pushed out of it
            await self._check_last(user, window_key(user, session_id))
        await self._remember(user, session_id, messages, epoch, "create" if create else "append")

    async def _check_last(self, user: str, key: str) -> None:
        try:
            last = await self._redis.execute_command("LINDEX", key, -1, NEVER_DECODE=True)
        except ResponseError as error:
            if "WRONGTYPE" not in str(error):
                raise failed(error) from error
            return
        except (RedisError, OSError) as error:
            raise failed(error) from error
        if last is not None:
            self._message(user, last)

    async def replace(
        self, user: str, session_id: str | None, messages: Sequence[Message], *, epoch: int | None
    ) -> None:
        await self._remember(user, session_id, messages, epoch, "replace")

    async def clear(self, user: str, session_id: str | None, *, epoch: int | None) -> None:
        keys = [window_key(user, session_id), owner_key(user), sides_key(user, session_id)]
        await self._scripts.run_fenced("forget", keys, [_epoch(epoch)])

    async def _remember(
        self, user: str, session_id: str | None, messages: Sequence[Message], epoch: int | None, how: str
    ) -> None:
        keys = [window_key(user, session_id), owner_key(user), sides_key(user, session_id)]
        texts = [self._text(user, message) for message in messages[-self._max :]]
        args = [_epoch(epoch), self._max, self._ttl, how, *texts]
        try:
            await self._scripts.run_fenced("remember", keys, args)
        except StoreUnavailable as error:
            if "WRONGTYPE" not in str(error.__cause__):
                raise
            await self._set_aside(user, keys[0], [b""])
            await self._scripts.run_fenced("remember", keys, args)

    def _text(self, user: str, message: Message) -> str:
        return self._cipher.seal(MESSAGE.dump_json(message).decode(), user=user, field=IN_WINDOW)

    def _message(self, user: str, text: bytes) -> Message | None:
        try:
            return MESSAGE.validate_json(self._cipher.open(text.decode(), user=user, field=IN_WINDOW))
        except Unreadable:
            log.error("history.locked", user=user)
            raise KeyMissing from None
        except ValueError:
            return None

    async def _set_aside(self, user: str, key: str, bad: list[bytes]) -> None:
        """What nobody can read is kept for somebody to look at, and does not hide the rest."""
        log.error("history.unreadable", key=key, values=len(bad))
        aside = f"chat:aside:{{{user}}}"
        await self._scripts.run("aside", [key, aside, f"{aside}:key"], [ASIDE, *bad])


def _epoch(epoch: int | None) -> int | str:
    """A script takes an empty epoch for a writer who is no owner."""
    return "" if epoch is None else epoch
