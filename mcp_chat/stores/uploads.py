"""Users' files in SQL."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import anyio.to_thread
import structlog
from sqlalchemy import Table, delete, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from mcp_chat.exceptions import TooLarge, Unreadable
from mcp_chat.message import ID, Part, now
from mcp_chat.stores.cipher import Cipher
from mcp_chat.stores.tables import chat_attachment, chat_upload
from mcp_chat.upload import Upload

log = structlog.get_logger()

T = TypeVar("T")

UNUSED = timedelta(days=1)
"""How long a file is kept that no message has."""

_of = chat_upload.c


class SQLUploads(ABC):
    """What `SQLArchive` does with files, by the access to the database that it has."""

    _cipher: Cipher

    @abstractmethod
    def _insert(self, table: Table) -> Any: ...

    @abstractmethod
    async def _write(self, access: Callable[[AsyncConnection], Awaitable[T]]) -> T: ...

    @abstractmethod
    async def _read(self, statement: Any) -> Sequence[Any]: ...

    @abstractmethod
    async def _hold(self, connection: AsyncConnection, user: str, epoch: int | None) -> None: ...

    async def put_upload(self, user: str, upload: Upload, *, quota: int) -> Part:
        """Keep a file, once for each content, under the name it was sent with last."""
        content = await anyio.to_thread.run_sync(
            lambda: self._cipher.seal_bytes(upload.content, user=user, field="file")
        )
        name = self._cipher.seal(upload.name, user=user, field="file name")

        async def put(connection: AsyncConnection) -> Part:
            await self._hold(connection, user, None)
            await self._check_quota(connection, user, upload, quota)
            statement = self._insert(chat_upload).values(
                user_key=user,
                id=upload.id,
                media_type=upload.media_type,
                name=name,
                size=len(upload.content),
                content=content,
                created_at=now(),
            )
            again = statement.on_conflict_do_update(
                index_elements=["user_key", "id"],
                set_={"created_at": now(), "name": name, "content": content},
            )
            await connection.execute(again)
            return upload.part()

        return await self._write(put)

    async def _check_quota(self, connection: AsyncConnection, user: str, upload: Upload, quota: int) -> None:
        others = select(func.coalesce(func.sum(_of.size), 0)).where(_of.user_key == user, _of.id != upload.id)
        if int((await connection.execute(others)).scalar_one()) + len(upload.content) > quota:
            raise TooLarge(
                f"Your files may have {quota} bytes together. Delete some, or conversations with files."
            )

    async def delete_upload(self, user: str, upload_id: str) -> bool:
        """Delete a file; messages go on naming it. Tell whether there was one."""
        if re.fullmatch(ID, upload_id) is None:
            return False
        statement = delete(chat_upload).where(_of.user_key == user, _of.id == upload_id)

        async def drop(connection: AsyncConnection) -> bool:
            return bool((await connection.execute(statement)).rowcount)

        return await self._write(drop)

    async def parts(self, user: str, upload_ids: Sequence[str]) -> list[Part]:
        """Return what messages have of these files of the user's, as far as there are any."""
        ids = [id_ for id_ in upload_ids if re.fullmatch(ID, id_)]
        statement = select(_of.id, _of.media_type, _of.name, _of.size)
        rows = await self._read(statement.where(_of.user_key == user, _of.id.in_(ids)))
        return [part for row in rows if (part := self._part(user, row))]

    def _part(self, user: str, row: Any) -> Part | None:
        """A file that cannot be read is reported, and is none."""
        try:
            name = self._cipher.open(row.name, user=user, field="file name")
        except Unreadable:
            log.error("upload.unreadable", upload=row.id)
            return None
        return Part(upload_id=row.id, media_type=row.media_type, name=name, size=row.size)

    async def upload(self, user: str, upload_id: str) -> Upload | None:
        """Return a file of the user's."""
        if re.fullmatch(ID, upload_id) is None:
            return None
        rows = await self._read(select(chat_upload).where(_of.user_key == user, _of.id == upload_id))
        return await anyio.to_thread.run_sync(self._upload, user, rows[0]) if rows else None

    def _upload(self, user: str, row: Any) -> Upload | None:
        part = self._part(user, row)
        try:
            content = self._cipher.open_bytes(row.content, user=user, field="file")
        except Unreadable:
            log.error("upload.unreadable", upload=row.id)
            return None
        return Upload(name=part.name, media_type=row.media_type, content=content) if part else None

    async def _drop_unused(self) -> None:
        old = _of.created_at < now() - UNUSED
        of = chat_attachment.c
        used = select(of.upload_id).where(of.user_key == _of.user_key, of.upload_id == _of.id)

        async def drop(connection: AsyncConnection) -> int:
            return (await connection.execute(delete(chat_upload).where(old, ~used.exists()))).rowcount

        if dropped := await self._write(drop):
            log.info("uploads.dropped", files=dropped)


def unused(user: str) -> tuple[Any, Any]:
    """Return what holds for a user's files that no message has."""
    used = select(chat_attachment.c.upload_id).where(chat_attachment.c.user_key == user)
    return _of.user_key == user, _of.id.not_in(used)
