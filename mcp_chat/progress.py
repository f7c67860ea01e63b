"""How far a tool call is, told to readers now and then."""

from __future__ import annotations

import math
import time

from mcp_chat.agent import Emit
from mcp_chat.events import ToolProgressed
from mcp_chat.message import ToolCall, wellformed

PROGRESS_EVERY = 0.1


class Progress:
    """Hands a server's progress on, ten times a second at most.

    Args:
        in_words: With what the server says about it.
    """

    def __init__(self, call: ToolCall, emit: Emit, *, in_words: bool = True) -> None:
        self._in_words = in_words
        self._call = call
        self._emit = emit
        self._last = 0.0

    async def __call__(self, progress: float, total: float | None, message: str | None) -> None:
        if time.monotonic() - self._last < PROGRESS_EVERY or not math.isfinite(progress):
            return
        self._last = time.monotonic()
        self._emit(
            ToolProgressed(
                call_id=self._call.id,
                name=self._call.name,
                progress=progress,
                total=total if total is not None and math.isfinite(total) else None,
                message=(wellformed(message or "")[:500] or None) if self._in_words else None,
            )
        )
