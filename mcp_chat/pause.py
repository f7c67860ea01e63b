"""A time limit that does not run while a person is waited for."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import anyio


class Pause:
    """Stops a scope's deadline for as long as somebody waits.

    Args:
        scope: Whose deadline it is.
    """

    def __init__(self, scope: anyio.CancelScope) -> None:
        self._scope = scope
        self._left = 0.0
        self._waiting = 0

    @property
    def left(self) -> float:
        """The seconds that are left of the limit."""
        return self._left if self._waiting else self._scope.deadline - anyio.current_time()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Let the limit not run meanwhile."""
        if not self._waiting:
            self._left = self._scope.deadline - anyio.current_time()
            self._scope.deadline = math.inf
        self._waiting += 1
        try:
            yield
        finally:
            self._waiting -= 1
            if not self._waiting:
                self._scope.deadline = anyio.current_time() + max(self._left, 0.0)
