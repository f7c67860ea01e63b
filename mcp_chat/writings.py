"""Messages that are being written, which are written to their end whoever is stopped meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from mcp_chat.message import Message


class Writings:
    """What one turn is writing, each message in a task of its own.

    A turn that is stopped is cancelled in the middle of what it does.
    """

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Message]] = set()

    async def finish(self, writing: Coroutine[Any, Any, Message]) -> Message:
        """Write a message; a cancellation ends the waiting for it and not the writing.

        Args:
            writing: Writes it.

        Returns:
            The message as it was written.

        Raises:
            ChatError: It could not be written.
        """
        task = asyncio.create_task(writing)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return await asyncio.shield(task)

    def _done(self, task: asyncio.Task[Message]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # whoever asked may be gone

    async def wait(self, seconds: float) -> None:
        """Wait, but not for longer than this, until all is written."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=seconds)
