"""Documents, sealed whatever the settings say: sign-ins, questions that wait, definitions of tools."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from random import uniform
from typing import Any, Final, TypeVar

import anyio
import anyio.to_thread
import structlog

from mcp_chat.exceptions import Locked, StoreUnavailable, Unreadable
from mcp_chat.message import new_id
from mcp_chat.stores.documents import Document, Documents, field_of
from mcp_chat.vault import Vault

log = structlog.get_logger()

T = TypeVar("T")

LARGE: Final = 100_000
"""Characters that are sealed and opened in a thread: the event loop has others to serve."""
LOCK: Final = "lock"
"""The kind of the documents that are locks."""
LOOK: Final = (0.01, 0.3)
"""Seconds between two looks whether a lock is open: the first one, and the longest."""


@dataclass(frozen=True, slots=True)
class Papers:
    """Reads and writes sealed documents; the arguments are those of `mcp_chat.stores.documents.Documents`.

    Attributes:
        documents: Where they are kept.
        vault: Seals them.
    """

    documents: Documents
    vault: Vault

    async def get(self, user: str, kind: str, name: str) -> Document | None:
        """Return a document; one whose key is lost is none, and only a put without a version replaces it."""
        return await self._opened(user, kind, await self.documents.get_document(user, kind, name))

    async def all(self, user: str, kind: str) -> list[Document]:
        """Return a user's documents of a kind."""
        found = await self.documents.list_documents(user, kind)
        return [opened for each in found if (opened := await self._opened(user, kind, each))]

    async def put(
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
        """Set a document, and return its new version; None if it has not the version that was given."""
        field = field_of(kind, name)
        sealed = await _aside(len(text), lambda: self.vault.seal(text, user=user, field=field))
        return await self.documents.put_document(
            user, kind, name, sealed, seconds=seconds, version=version, epoch=epoch
        )

    async def drop(self, user: str, kind: str, name: str, *, version: int | None = None) -> bool:
        """Delete a document; tell whether there was one."""
        return await self.documents.drop_document(user, kind, name, version=version)

    async def take(self, user: str, kind: str, name: str) -> Document | None:
        """Return a document and delete it: of several who take it one gets it."""
        found = await self.get(user, kind, name)
        taken = found and await self.drop(user, kind, name, version=found.version)
        return found if taken else None

    @asynccontextmanager
    async def locked(self, user: str, name: str, *, seconds: float, patience: float) -> AsyncIterator[None]:
        """Hold one of a user's locks, which all workers share, as long as the context is open.

        Args:
            seconds: When it opens by itself, because its holder may have died. Whoever holds it has to be
                done by then: it does not stop them.
            patience: Seconds to wait for another holder.

        Raises:
            Locked: Another one holds it for longer.
            StoreUnavailable: The record does not answer.
        """
        token = new_id()
        try:
            await self._lock(user, name, token, seconds, patience)
            yield
        finally:
            await _to_its_end(self._unlock(user, name, token))

    async def _lock(self, user: str, name: str, token: str, seconds: float, patience: float) -> None:
        end, (pause, longest) = anyio.current_time() + patience, LOOK
        while not await _to_its_end(self._closed(user, name, token, seconds)):
            if (left := end - anyio.current_time()) <= 0:
                raise Locked
            await anyio.sleep(min(left, uniform(pause / 2, pause)))  # noqa: S311 - so that they do not all look at once
            pause = min(2 * pause, longest)

    async def _closed(self, user: str, name: str, token: str, seconds: float) -> bool:
        """Close a lock that is open. To look is cheaper than to write."""
        if await self.documents.get_document(user, LOCK, name):
            return False
        return await self.put(user, LOCK, name, token, seconds=seconds, version=0) is not None

    async def _unlock(self, user: str, name: str, token: str) -> None:
        """Open a lock if the token is the one that closed it; else it opens by itself."""
        try:
            found = await self.get(user, LOCK, name)
            if found and found.text == token:
                await self.drop(user, LOCK, name, version=found.version)
        except StoreUnavailable:
            log.warning("lock.not_opened", user=user)

    async def _opened(self, user: str, kind: str, found: Document | None) -> Document | None:
        if found is None:
            return None
        sealed, field = found.text, field_of(kind, found.name)
        try:
            text = await _aside(len(sealed), lambda: self.vault.open(sealed, user=user, field=field))
        except Unreadable:
            log.warning("document.unreadable", user=user, kind=kind)
            return None
        return replace(found, text=text)


async def _aside(size: int, work: Callable[[], T]) -> T:
    """Do some work with so many characters, in a thread if they are many."""
    return await anyio.to_thread.run_sync(work) if size > LARGE else work()


async def _to_its_end(work: Coroutine[Any, Any, T]) -> T:
    """Do something that a cancel of whoever waits must not leave half done."""
    task = asyncio.create_task(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        with anyio.CancelScope(shield=True):
            await asyncio.wait([task])
        raise
