"""How many streams each user has open at this worker."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from mcp_chat.exceptions import TooManyStreams


class Streams:
    """Counts open streams for each user.

    Args:
        most: Streams of one user.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._open: Counter[str] = Counter()

    @contextmanager
    def place(self, user: str) -> Iterator[None]:
        """Hold a place while a stream is open.

        Raises:
            TooManyStreams: They have none left.
        """
        if self._open[user] >= self._most:
            raise TooManyStreams(
                f"You have as many streams open as possible ({self._most}). Close one, and try again."
            )
        self._open[user] += 1
        try:
            yield
        finally:
            self._open[user] -= 1
            if not self._open[user]:
                del self._open[user]
