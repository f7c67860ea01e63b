"""A small application for test_deaths.py and test_metrics.py: it notes who has ended, and counts."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from mcp_chat.api.metrics import Scrape
from mcp_chat.deaths import heard
from mcp_chat.drain import Drain
from mcp_chat.metrics import Metrics


def note(*words: object) -> None:
    """Write a line: when, who, and what."""
    with Path(os.environ["TOY_JOURNAL"]).open("a") as journal:
        journal.write(" ".join(map(str, (time.monotonic(), os.environ["MCP_CHAT_WORKER"], *words))) + "\n")


async def listen(app: Starlette) -> None:
    assert app.state.deaths is not None
    async for name in heard(app.state.deaths):
        note("heard", name)


async def claim(request: Request) -> Response:
    request.app.state.metrics.user_claimed("death")
    return PlainTextResponse(str(os.getpid()))


async def hold(request: Request) -> Response:
    """Read for ever."""
    with request.app.state.metrics.reading():
        note("reading")
        await asyncio.Event().wait()
    return PlainTextResponse("never")


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    app.state.metrics = metrics = Metrics()
    app.router.routes.append(Route("/metrics", Scrape(metrics=metrics).text))
    listening = asyncio.create_task(listen(app)) if os.environ.get("TOY_LISTENS", "yes") == "yes" else None
    note("up", os.getpid())
    yield
    if listening:
        listening.cancel()
    note("down")


def create_app() -> Starlette:
    app = Starlette(routes=[Route("/claim", claim), Route("/hold", hold)], lifespan=lifespan)
    app.state.drain = Drain()
    return app
