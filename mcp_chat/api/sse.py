"""Server-sent events, with the line ends and headers that the contract's clients read."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import orjson
from starlette.responses import StreamingResponse

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


def event_stream(frames: AsyncIterator[str], headers: dict[str, str]) -> StreamingResponse:
    """Return the response that sends frames as they come."""
    return StreamingResponse(frames, media_type="text/event-stream", headers={**HEADERS, **headers})
