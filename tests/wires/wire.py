"""A server that answers from a script, whatever the protocol, and remembers what it was sent."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from tests.running import running

SSE = "text/event-stream"


@dataclass(frozen=True, kw_only=True)
class Scene:
    """What the server does with one request.

    Attributes:
        chunks: Bytes that it sends one behind the other; what is asked for next has to wait for its turn.
        pause: Seconds between two of them.
        cut: Closes the socket behind them.
        hang: Says nothing more behind them.
    """

    chunks: tuple[bytes, ...] = ()
    media_type: str = SSE
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    pause: float = 0
    cut: bool = False
    hang: bool = False


class Asked(NamedTuple):
    """A request as it arrived."""

    path: str
    headers: dict[str, str]
    body: Any


class Wire:
    """The far end; every path answers, and a request for which there is no scene is an error of the test.

    Attributes:
        asked: What has arrived, in order.
    """

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.url = ""
        self._script: deque[Scene] = deque()
        self.app = Starlette(routes=[Route("/{path:path}", self._answer, methods=["GET", "POST"])])

    def will(self, *scenes: Scene) -> None:
        """Set the next answers."""
        self._script = deque(scenes)

    async def _answer(self, request: Request) -> Response:
        text = await request.body()
        form = request.headers.get("content-type", "").startswith("application/x-www-form-urlencoded")
        body = text.decode() if form else json.loads(text) if text else None
        self.asked.append(Asked(request.url.path, dict(request.headers), body))
        scene = self._script.popleft() if self._script else Scene(status=599, chunks=(b"no scene",))
        return StreamingResponse(
            _sent(scene), scene.status, headers=dict(scene.headers), media_type=scene.media_type
        )


async def _sent(scene: Scene) -> AsyncIterator[bytes]:
    for chunk in scene.chunks:
        yield chunk
        await asyncio.sleep(scene.pause)
    if scene.hang:
        await asyncio.sleep(3600)
    if scene.cut:
        raise ConnectionResetError


@contextmanager
def wired() -> Iterator[Wire]:
    """Run the server; its `url` is where it is."""
    wire = Wire()
    with running(wire.app, grace=0) as url:
        wire.url = url
        yield wire


def whole(body: Any, *, status: int = 200, **more: Any) -> Scene:
    """Return an answer in one piece of JSON."""
    return Scene(chunks=(json.dumps(body).encode(),), media_type="application/json", status=status, **more)


def events(*data: Any, named: bool = False, **more: Any) -> Scene:
    """Return a stream of server-sent events: JSON values, or text as it is.

    Args:
        named: With a line that has each event's type.
    """
    return Scene(chunks=tuple(event(each, named=named) for each in data), **more)


def event(data: Any, *, named: bool = False) -> bytes:
    """Return one server-sent event."""
    text = data if isinstance(data, str) else json.dumps(data)
    name = f"event: {data['type']}\n" if named and isinstance(data, dict) else ""
    return f"{name}data: {text}\n\n".encode()


def lines(*data: Any, **more: Any) -> Scene:
    """Return a stream of JSON values, one a line, as Ollama sends it."""
    chunks = tuple(json.dumps(each).encode() + b"\n" for each in data)
    return Scene(chunks=chunks, media_type="application/x-ndjson", **more)


def words(text: str) -> Iterable[str]:
    """Return a text in pieces of a word."""
    first, *others = text.split(" ")
    return [first, *(f" {word}" for word in others)]
