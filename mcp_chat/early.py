"""What a model says while its question is still being written: nobody hears of it before."""

from __future__ import annotations

import anyio

from mcp_chat.events import Event, Noticed, TextDelta, ThoughtDelta


class Early:
    """Holds back what comes of asking the model, so that readers hear the question first."""

    def __init__(self) -> None:
        self._held: list[Event] | None = None
        self._over = anyio.Event()

    def begin(self) -> None:
        """Hold back what comes from now on."""
        self._held = []

    def holds(self, event: Event) -> bool:
        """Tell whether an event is one to be held back, and then keep it."""
        if self._held is None or not isinstance(event, TextDelta | ThoughtDelta | Noticed):
            return False
        self._held.append(event)
        return True

    def end(self) -> list[Event]:
        """Return what was held back: it may be told now, and whatever comes next."""
        held, self._held = self._held, None
        self._over.set()
        return held or []

    async def over(self) -> None:
        """Return when nothing is held back, or was to be."""
        if self._held is not None:
            await self._over.wait()
