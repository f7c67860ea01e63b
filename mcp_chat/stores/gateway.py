"""Histories that a gateway's own chat has kept: one JSON value a user, read once and then put away.

ContextForge wrote `chat_history:<id>`, later `chat:history:<id>`: a JSON list of objects with `role` and
`content`.
"""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from typing import Any

import structlog

from mcp_chat.identity import user_key
from mcp_chat.message import Message, wellformed
from mcp_chat.stores.client import Client, translated
from mcp_chat.stores.redis_window import ASIDE
from mcp_chat.stores.scripts import Scripts

log = structlog.get_logger()

FORMS = ("chat_history:{}", "chat:history:{}")
ROLES = ("user", "assistant", "system")
LONG_AGO = datetime.fromtimestamp(0, UTC)
"""The gateway does not say when; a message that is read twice must be the same."""


class GatewayHistory:
    """The values of a gateway that used the same Redis.

    Args:
        redis: A client with `decode_responses=True`.
    """

    def __init__(self, redis: Client) -> None:
        self._redis = redis
        self._scripts = Scripts(redis)

    async def read(self, user_id: str) -> list[Message]:
        """Return what the gateway has kept of a user; what cannot be read is put aside and reported."""
        if not (keys := keys_of(user_id)):
            return []
        with translated():  # as bytes: they may be no UTF-8
            # one by one: a cluster may have them in different places; MGET passes a key of another type over
            found = [await self._redis.execute_command("MGET", key, NEVER_DECODE=True) for key in keys]
        messages: list[Message] = []
        for key, value in zip(keys, (values[0] for values in found), strict=True):
            if value is not None:
                messages += await self._parsed(key, value, user_id)
        return messages

    async def done(self, user_id: str) -> None:
        """Put away what was read, so that it is not read again."""
        for key in keys_of(user_id):
            await self._put_away(key, "imported")

    async def _parsed(self, key: str, value: bytes, user_id: str) -> list[Message]:
        try:
            found = json.loads(value)
            if not isinstance(found, list):
                raise ValueError
        except (ValueError, RecursionError):
            log.error("history.unreadable", key=key, values=1)
            await self._put_away(key, "unreadable")
            return []
        messages = [message_of(each, f"{user_id} {place}") for place, each in enumerate(found)]
        if bad := messages.count(None):
            log.error("history.unreadable", key=key, values=bad)
        return [message for message in messages if message]

    async def _put_away(self, key: str, how: str) -> None:
        await self._scripts.run("away", [key, f"{{{key}}}:{how}"], [ASIDE])  # in the same slot of a cluster


def keys_of(user_id: str) -> list[str]:
    """Return the keys of a user; an id that is more than letters could name what is another's."""
    return [form.format(user_id) for form in FORMS] if user_key(user_id) == user_id else []


def message_of(value: Any, seed: str) -> Message | None:
    """Return a message of the gateway's, with the same id each time it is read; None if it is none."""
    match value:
        case {"role": str(role), "content": str(content)} if role in ROLES:
            id_ = hashlib.sha256(f"{seed} {role} {content}".encode("utf-8", "surrogatepass")).hexdigest()[:32]
            return Message(id=id_, role=role, content=wellformed(content), created_at=LONG_AGO)  # type: ignore[arg-type]
        case _:
            return None
