"""How long a call is waited for: signs of progress prolong it, but not for ever."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import anyio
from mcp.shared.dispatcher import ProgressFnT


class Patience:
    """The time that one call may take.

    Args:
        silence: Seconds without a sign of progress.
        most: Seconds altogether, whatever signs there are; at least those without one.
    """

    def __init__(self, silence: float, most: float) -> None:
        self._silence = silence
        self._most = max(silence, most)
        self._scope: anyio.CancelScope | None = None
        self._end = math.inf
        self._rests = 0
        self._rested = 0.0

    @property
    def sentence(self) -> str:
        """What is said of a call that took longer."""
        if anyio.current_time() >= self._end:
            return f"The tool did not answer within {self._most:g} seconds, and the call was cancelled."
        return f"The tool did not answer within {self._silence:g} seconds."

    @contextmanager
    def limited(self) -> Iterator[None]:
        """Cancel what is done within when it takes too long.

        Raises:
            TimeoutError: It took too long.
        """
        self._end = anyio.current_time() + self._most
        with anyio.move_on_after(self._silence) as self._scope:
            yield
        if self._scope.cancelled_caught:  # also if a sign of progress came when it was too late
            raise TimeoutError

    def prolong(self) -> None:
        """Wait anew: there was a sign of progress."""
        if self._scope and not self._rests:
            self._scope.deadline = min(anyio.current_time() + self._silence, self._end)

    def hearing(self, on_progress: ProgressFnT) -> ProgressFnT:
        """Return what takes a server's reports of progress: each prolongs the wait and is handed on."""

        async def hear(progress: float, total: float | None, message: str | None) -> None:
            self.prolong()
            await on_progress(progress, total, message)

        return hear

    @contextmanager
    def resting(self) -> Iterator[None]:
        """Let no time pass while somebody else is waited for, such as a person who was asked."""
        if not self._rests:
            self._rested = anyio.current_time()
        self._rests += 1
        if self._scope:
            self._scope.deadline = math.inf
        try:
            yield
        finally:
            self._rests -= 1
            if not self._rests:
                self._end += anyio.current_time() - self._rested
                self.prolong()
