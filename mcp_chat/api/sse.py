"""Server-sent events, with the line ends and headers that the contract's clients read."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import ExitStack
from typing import Any

import orjson
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

HEADERS = {"cache-control": "no-cache, no-store", "x-accel-buffering": "no"}
HEARTBEAT = ": alive\n\n"
"""A comment: keeps proxies from closing a stream in which nothing happens."""


def frame(event: str, data: dict[str, Any], id_: str | None = None) -> str:
    """Return one event. JSON escapes line ends, so no text can make a second one.

    Args:
        id_: The place in the log behind which a client goes on that comes back. None leaves its place as it
            is; an empty one takes it away, as the specification of server-sent events has it: there is no
            place from which it could go on.
    """
    head = f"id: {id_}\n" if id_ is not None else ""
    return f"{head}event: {event}\ndata: {orjson.dumps(data).decode()}\n\n"


class EventStream(StreamingResponse):
    """The response that sends frames as they come.

    Args:
        held: Is closed when the stream has ended, in whatever way, also before its first frame.
    """

    media_type = "text/event-stream"

    def __init__(self, frames: AsyncIterator[str], headers: dict[str, str], held: ExitStack) -> None:
        super().__init__(frames, headers={**HEADERS, **headers})
        self._held = held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send them."""
        with self._held:
            await super().__call__(scope, receive, send)
