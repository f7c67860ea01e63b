"""Cancel an operation at each of its awaits, one after the other."""

from __future__ import annotations

import asyncio
import contextlib
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import Any, Final

from mcp_chat.exceptions import ChatError

MOST: Final = 500
"""Awaits of one operation; more is a loop without end."""

Work = Coroutine[Any, Any, Any]


async def cut(work: Work, at: int, *, late: bool = False) -> bool:
    """Run something and cancel it at its `at`-th await; tell whether it came so far.

    Args:
        late: Cancel when what it waits for has come, and not while it waits.
    """
    reached = False

    def cancel(waited: asyncio.Future[Any] | None) -> None:
        nonlocal reached
        reached = True
        if late and waited is not None:
            waited.add_done_callback(lambda _: task.cancel())
        else:
            asyncio.get_running_loop().call_soon(task.cancel)

    task = asyncio.create_task(_driven(work, at, cancel))
    with contextlib.suppress(asyncio.CancelledError, ChatError):
        await task
    return reached


async def cut_everywhere(begin: Callable[[], Awaitable[Work]], check: Callable[[], Awaitable[None]]) -> int:
    """Cancel at every await there is, while it waits and when it need not wait any more; check each time.

    Args:
        begin: Prepares the operation and returns it, not started.

    Returns:
        How often something was cancelled.
    """
    cuts = 0
    for late in (False, True):
        for at in range(1, MOST):
            reached = await cut(await begin(), at, late=late)
            await check()
            if not reached:
                break
            cuts += 1
        else:
            raise AssertionError(f"an operation has more than {MOST} awaits")
    return cuts


async def _driven(work: Work, at: int, cancel: Callable[[asyncio.Future[Any] | None], None]) -> Any:
    return await _steps(work, at, cancel)


@types.coroutine
def _steps(
    work: Work, at: int, cancel: Callable[[asyncio.Future[Any] | None], None]
) -> Generator[Any, None, Any]:
    """Hand on what a coroutine waits for, and what is thrown into it."""
    thrown: BaseException | None = None
    step = 0
    while True:
        try:
            waited = work.send(None) if thrown is None else work.throw(thrown)
        except StopIteration as end:
            return end.value
        thrown, step = None, step + 1
        if step == at:
            cancel(waited)
        try:
            yield waited
        except BaseException as error:  # noqa: BLE001 - it is thrown on
            thrown = error
