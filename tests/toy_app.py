"""A small application and command line for test_serve.py, run by real gunicorn in processes of their own."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

from redis.asyncio import Redis
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from mcp_chat.drain import Drain
from mcp_chat.exceptions import SettingsError
from mcp_chat.serve import serve
from mcp_chat.settings import load_settings
from mcp_chat.worker import Protocol, Worker


class HastyWorker(Worker):
    CONFIG_KWARGS = Worker.CONFIG_KWARGS | {
        "timeout_graceful_shutdown": 1,
        "http": partial(Protocol, head_seconds=0.5),
    }


def note(line: str) -> None:
    with Path(os.environ["TOY_JOURNAL"]).open("a") as journal:
        journal.write(f"{line} {os.getpid()}\n")


async def livez(request: Request) -> Response:
    return PlainTextResponse("ok")


async def about(request: Request) -> Response:
    return JSONResponse({"pid": os.getpid(), "client": request.client, **os.environ})


async def endless(request: Request) -> Response:
    async def events() -> AsyncIterator[str]:
        yield "event: hello\n\n"
        await request.app.state.drain.wait()
        yield "event: reconnect\n\n"

    return StreamingResponse(events(), media_type="text/event-stream")


async def stuck(request: Request) -> Response:
    async def events() -> AsyncIterator[str]:
        yield "event: hello\n\n"
        await asyncio.Event().wait()

    return StreamingResponse(events(), media_type="text/event-stream")


async def blocking(request: Request) -> Response:
    note("blocked")
    time.sleep(600)  # noqa: ASYNC251 - a bug on purpose
    return PlainTextResponse("never")


async def finite(request: Request) -> Response:
    async def numbers() -> AsyncIterator[str]:
        for number in range(20):
            yield f"{number} "
            await asyncio.sleep(0.3)
        yield "end"

    return StreamingResponse(numbers())


async def count(request: Request) -> Response:
    async with Redis.from_url(os.environ["REDIS_URL"]) as redis:
        return PlainTextResponse(str(await redis.incr("count")))


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    note("up")
    yield
    note("down")


def create_app() -> Starlette:
    note("made")
    endpoints = (livez, about, endless, stuck, blocking, finite, count)
    app = Starlette(routes=[Route(f"/{e.__name__}", e) for e in endpoints], lifespan=lifespan)
    app.state.drain = Drain()
    return app


def main() -> int:
    try:
        return serve(
            load_settings(),
            app=os.environ.get("TOY_APP", "toy_app:create_app()"),
            migrate=lambda url: note(f"migrate {url}"),
            demo="toy_demo",
        )
    except SettingsError as error:
        sys.stderr.write(f"{error}\n")
        return 2


if __name__ == "__main__":
    sys.exit(main())
