"""Group commit: what many tasks write shares transactions, and each hears when its part is committed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

import anyio
import structlog
from sqlalchemy.exc import DataError, IntegrityError

from mcp_chat.exceptions import ChatError, StoreUnavailable
from mcp_chat.stores.database import translated

log = structlog.get_logger()

E = TypeVar("E")
"""What is written."""
R = TypeVar("R")
"""What whoever writes it is told."""

Write = Callable[[Sequence[E]], Awaitable[Sequence[R | ChatError]]]
Waiting = tuple[E, asyncio.Future[R]]

BATCH = 256
"""Entries of one transaction."""


class Committer(Generic[E, R]):
    """Writes entries in the order in which they came; one transaction is on its way at a time.

    Args:
        write: Writes several in one transaction and returns for each its result, or why it was refused.
        patience: Seconds that one transaction may take.
    """

    def __init__(self, write: Write[E, R], *, patience: float) -> None:
        self._write = write
        self._patience = patience
        self._waiting: list[Waiting[E, R]] = []
        self._work = asyncio.Event()
        self._closed = False

    async def add(self, entry: E) -> R:
        """Return an entry's result when it is committed; whoever is cancelled meanwhile leaves it on its way.

        Raises:
            Fenced: A higher epoch owns the user.
            StoreUnavailable: It is not committed, or nobody can tell.
        """
        if self._closed:
            raise StoreUnavailable
        told: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._waiting.append((entry, told))
        self._work.set()
        with anyio.CancelScope(shield=True):
            await asyncio.shield(told)
        return told.result()

    def close(self) -> None:
        """Take nothing more; `run` ends when what was taken is written."""
        self._closed = True
        self._work.set()

    async def run(self) -> None:
        """Write until closed or cancelled."""
        try:
            while self._waiting or not self._closed:
                await self._work.wait()
                self._work.clear()
                while self._waiting:
                    batch, self._waiting = self._waiting[:BATCH], self._waiting[BATCH:]
                    await self._commit(batch)
        finally:
            self._closed = True
            tell(self._waiting, StoreUnavailable())

    async def _commit(self, batch: list[Waiting[E, R]]) -> None:
        try:
            await self._together(batch)
        except ChatError as error:
            if isinstance(error.__cause__, TimeoutError):  # who waits behind would only wait longer
                batch, self._waiting = [*batch, *self._waiting], []
            tell(batch, error)
        except Exception:  # a bug in one batch must not end the writer that all others wait for
            log.exception("archive.crashed")
            tell(batch, StoreUnavailable())
        finally:  # nobody waits for ever, not even when the whole loop is torn down
            tell(batch, StoreUnavailable())

    async def _together(self, batch: list[Waiting[E, R]]) -> None:
        """Add all in one transaction; if one of them is not fit for the database, only that one fails."""
        try:
            with translated(), anyio.fail_after(self._patience):
                outcomes = await self._write([entry for entry, _ in batch])
        except Exception as error:  # a value that cannot be written raises what it likes
            if len(batch) == 1 or not _unfit(error):
                raise
            for one in batch:
                await self._commit([one])
        else:
            for (_, told), outcome in zip(batch, outcomes, strict=True):
                settle(told, outcome)


def _unfit(error: Exception) -> bool:
    """Tell whether the fault is with what was to be written, and not with the database."""
    return not isinstance(error, ChatError) or isinstance(error.__cause__, DataError | IntegrityError)


def tell(batch: Sequence[Waiting[E, R]], error: ChatError) -> None:
    """Tell all of a batch that it came to nothing."""
    for _, told in batch:
        settle(told, error)


def settle(told: asyncio.Future[R], outcome: R | ChatError) -> None:
    """Tell one who waits, if they still do."""
    if told.done():
        return
    if isinstance(outcome, ChatError):
        told.set_exception(outcome)
        told.exception()  # whoever asked may be gone
    else:
        told.set_result(outcome)
