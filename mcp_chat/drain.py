"""The wish that this worker stops, seen by everything that would otherwise not end."""

from __future__ import annotations

import asyncio


class Drain:
    """Set once, for good; whoever waits for it wakes.

    ``create_app`` makes it in gunicorn's master, where there is no event loop yet, so it belongs to
    none. It takes no lock, so that a signal handler may start it at any moment.
    """

    def __init__(self) -> None:
        self.draining = False
        self._waiting: set[asyncio.Future[None]] = set()

    def start(self) -> None:
        """Begin: from any thread, any signal handler, any number of times."""
        self.draining = True
        for future in list(self._waiting):
            future.get_loop().call_soon_threadsafe(_wake, future)

    async def wait(self) -> None:
        """Return once draining has begun; at once if it has."""
        future = asyncio.get_running_loop().create_future()
        self._waiting.add(future)
        try:
            if not self.draining:  # asked after the future is in the set: no start can be missed
                await future
        finally:
            self._waiting.discard(future)


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
