"""Bells inside one process: all of the in-memory backend's, and the near end of Redis's."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import anyio

MOST_NOTES: Final = 1000
"""Notes that a bell keeps for somebody who does not look; the rings count all the same."""


class LocalBell:
    """A bell inside this process; remembers one ring."""

    def __init__(self) -> None:
        self._rung = anyio.Event()
        self._notes: list[str] = []

    def ring(self, note: str) -> None:
        """Ring it, from within the event loop."""
        if len(self._notes) < MOST_NOTES:
            self._notes.append(note)
        self._rung.set()

    async def wait(self, timeout: float) -> bool:
        with anyio.move_on_after(timeout):
            await self._rung.wait()
        rang = self._rung.is_set()
        self._rung = anyio.Event()
        return rang

    def notes(self) -> list[str]:
        """Return the notes since the last call, in order; those over `MOST_NOTES` are missing."""
        notes, self._notes = self._notes, []
        return notes


class LocalBells:
    """Bells by name inside this process."""

    def __init__(self) -> None:
        self._bells: dict[str, set[LocalBell]] = defaultdict(set)

    def ring_local(self, name: str, note: str = "") -> None:
        """Ring all bells of this name here."""
        for bell in self._bells.get(name, ()):
            bell.ring(note)

    async def ring(self, name: str, note: str = "") -> None:
        self.ring_local(name, note)

    @asynccontextmanager
    async def listen(self, name: str) -> AsyncIterator[LocalBell]:
        bell = LocalBell()
        self._bells[name].add(bell)
        try:
            yield bell
        finally:
            self._bells[name].discard(bell)
            if not self._bells[name]:
                del self._bells[name]
