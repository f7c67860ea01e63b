"""Does things side by side."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any, TypeVar

import anyio

T = TypeVar("T")

END_LIMIT = 8.0
"""Seconds that the others get to end when one has failed."""


async def together(work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Do all of it, and return what came of each; the first failure ends the others, and is raised.

    Each piece of work is cancelled once, however often whoever waits for it is: anyio delivers a
    cancellation again and again, which would also end what the work does about it.
    """
    tasks = [asyncio.ensure_future(each) for each in work]
    try:
        done = (await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION))[0] if tasks else set()
        if failed := next((task for task in done if not task.cancelled() and task.exception()), None):
            failed.result()
        return [task.result() for task in tasks]
    finally:
        for task in tasks:
            task.cancel()
        if tasks:
            with anyio.move_on_after(END_LIMIT, shield=True):
                await asyncio.wait(tasks)
