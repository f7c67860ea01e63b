"""Users' documents in Redis, where there is no database: a key for each, and for each kind what there is."""

from __future__ import annotations

from mcp_chat.exceptions import Fenced
from mcp_chat.message import new_id
from mcp_chat.stores.client import Client, translated
from mcp_chat.stores.documents import (
    MOST,
    TOGETHER,
    Document,
    can_be,
    field_of,
    life,
    no_room,
    size_of,
)
from mcp_chat.stores.scripts import Scripts

KEPT = "chat:document:"
"""What the key of a document begins with, before its user."""
COUNTED = 86_400_000
"""Milliseconds for which the last version is known; later ones are above it by the clock."""
DROPPED = 60_000
"""Milliseconds for which it is known who has dropped a document: the client may ask twice."""


class RedisDocuments:
    """Each document is a string with its version in front, and expires by itself."""

    def __init__(self, redis: Client, scripts: Scripts) -> None:
        self._redis = redis
        self._scripts = scripts

    async def get_document(self, user: str, kind: str, name: str) -> Document | None:
        if not can_be(kind, name):
            return None
        with translated():
            kept = await self._redis.get(document_key(user, kind, name))
        return None if kept is None else _document(name, str(kept))

    async def list_documents(self, user: str, kind: str) -> list[Document]:
        with translated():
            names = sorted(map(str, await self._redis.hkeys(_names_key(user, kind))))
            keys = [document_key(user, kind, name) for name in names]
            kept = await self._redis.execute_command("MGET", *keys) if keys else []
        found = zip(names, kept, strict=True)
        return [_document(name, str(text)) for name, text in found if text is not None]

    async def put_document(
        self,
        user: str,
        kind: str,
        name: str,
        text: str,
        *,
        seconds: float,
        version: int | None = None,
        epoch: int | None = None,
    ) -> int | None:
        size_of(kind, name, text)
        keys = [
            document_key(user, kind, name),
            _names_key(user, kind),
            f"chat:version:{{{user}}}",
            f"active:session:{{{user}}}",
        ]
        wanted = "" if version is None else version
        owner = "" if epoch is None else epoch
        ms = int(life(seconds) * 1000)
        args = [owner, name, text, ms, wanted, new_id(), MOST, TOGETHER, COUNTED]
        match done := str(await self._scripts.run("keep", keys, args)):
            case "fenced":
                raise Fenced
            case "full":
                raise no_room()
            case "other":
                return None
        return int(done)

    async def drop_document(self, user: str, kind: str, name: str, *, version: int | None = None) -> bool:
        if not can_be(kind, name):
            return False
        keys = [document_key(user, kind, name), _names_key(user, kind)]
        args = [name, "" if version is None else version, new_id(), DROPPED]
        return bool(await self._scripts.run("drop", keys, args))


def document_key(user: str, kind: str, name: str) -> str:
    """Return the key of a document."""
    return f"{KEPT}{{{user}}}:{kind}:{name}"


def field_of_key(key: str) -> str:
    """Return the field that the document of a key is sealed for."""
    kind, _, name = key.partition("}:")[2].partition(":")
    return field_of(kind, name)


def _names_key(user: str, kind: str) -> str:
    return f"chat:documents:{{{user}}}:{kind}"


def _document(name: str, kept: str) -> Document:
    version, _, text = kept.partition(" ")
    return Document(name=name, text=text, version=int(version))
