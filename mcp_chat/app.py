"""The application: opens everything once, in order, and closes it in reverse."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from functools import partial
from importlib.metadata import version

import anyio
import structlog
from anyio.abc import TaskGroup
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware

from mcp_chat import logs
from mcp_chat.api import errors, web
from mcp_chat.api.endpoints import Endpoints
from mcp_chat.api.openapi import openapi_route
from mcp_chat.api.operations import operations
from mcp_chat.api.sandbox import AppsOrigin
from mcp_chat.assembly import workshop_of
from mcp_chat.deaths import heard
from mcp_chat.drain import Drain
from mcp_chat.exceptions import ChatError, StoreUnavailable, WrongSchema
from mcp_chat.feed import Feed
from mcp_chat.heart import Heart, Heartbeat, LoopHeart
from mcp_chat.message import new_id
from mcp_chat.metrics import Metrics
from mcp_chat.mounting import endpoints_of
from mcp_chat.ownership import Ownership
from mcp_chat.parts import Parts, parts_of
from mcp_chat.plugins.opening import open_plugins
from mcp_chat.pool import Spare
from mcp_chat.safety import chat_origins
from mcp_chat.settings import Settings, load_settings
from mcp_chat.stores.base import Archive, Store
from mcp_chat.stores.cipher import Sealing
from mcp_chat.stores.memory import MemoryStore
from mcp_chat.stores.redis import open_leases, open_redis
from mcp_chat.stores.sql import open_sql
from mcp_chat.workshop import Workshop

log = structlog.get_logger()

TIDY_EVERY = 3600.0
CONFIG_TTL = 30 * 86_400
"""Seconds for which an unused configuration is kept in Redis when there is no database behind it."""

STOP_GRACE = 8.0
"""Seconds that turns get to end when the worker stops."""


def create_app(settings: Settings | None = None) -> Starlette:
    """Return the application. Nothing is opened before its lifespan begins.

    Args:
        settings: What to use instead of the environment.

    Raises:
        SettingsError: The settings do not allow a safe start.
    """
    parts = parts_of(settings or load_settings())
    app = Starlette(
        middleware=middleware(parts.settings),
        exception_handlers={
            ChatError: errors.on_error,
            HTTPException: errors.on_http_exception,
            Exception: errors.on_crash,
        },
        lifespan=partial(lifespan, parts),
    )
    app.state.drain = parts.drain
    app.state.deaths = None
    app.state.max_header_bytes = parts.settings.max_header_bytes
    return app


@asynccontextmanager
async def lifespan(parts: Parts, app: Starlette) -> AsyncIterator[None]:
    """Open the stores and serve until the worker has let its users go."""
    async with AsyncExitStack() as stack:
        store, archive = await open_stores(parts, stack)
        metrics = Metrics()
        plugins = await stack.enter_async_context(open_plugins(parts.settings, metrics))
        spare = Spare()
        stack.push_async_callback(spare.aclose)
        tasks = await stack.enter_async_context(anyio.create_task_group())
        heart = heart_of(parts.settings, store)
        stack.push_async_callback(heart.stop)  # whatever ends the tasks, the worker is to look dead then
        feed = Feed(store.log, store.bells, tasks, metrics)
        feed.start()
        tasks.start_soon(spare.tend)
        tasks.start_soon(plugins.watch)
        workshop = workshop_of(parts, store, archive, heart, feed, metrics, spare, plugins)
        ownership = ownership_of(parts.settings, workshop, heart, tasks)
        await ownership.start()
        mount(app, endpoints_of(parts, workshop, ownership, feed))
        left = look_after(app, parts.drain, ownership, archive, tasks)
        log.info("worker.ready", worker=ownership.worker)
        with replaced_if_broken(app):
            yield
        parts.drain.start()
        await left.wait()
        tasks.cancel_scope.cancel()


def look_after(
    app: Starlette, drain: Drain, ownership: Ownership, archive: Archive | None, tasks: TaskGroup
) -> anyio.Event:
    """Start what goes on beside the requests; the event comes when the worker has left."""
    left = anyio.Event()
    tasks.start_soon(leave, ownership, drain, left)
    if app.state.deaths:
        tasks.start_soon(ownership.hear_deaths, heard(app.state.deaths))
    if archive:
        tasks.start_soon(tidy_up, archive)
    return left


@contextmanager
def replaced_if_broken(app: Starlette) -> Iterator[None]:
    """Have gunicorn replace a worker whose tasks have failed: it would go on taking requests."""
    try:
        yield
    except BaseException:
        if app.state.deaths:
            signal.raise_signal(signal.SIGTERM)
        raise


async def tidy_up(archive: Archive) -> None:
    """Have the archive drop what nobody needs, once an hour. Each worker does: it is one quick statement."""
    while True:
        await anyio.sleep(TIDY_EVERY)
        try:
            await archive.tidy()
        except ChatError as error:
            log.warning("archive.not_tidied", error=error.code)


async def leave(ownership: Ownership, drain: Drain, left: anyio.Event) -> None:
    """Let turns end as soon as the worker drains: the streams that wait for them end with them."""
    await drain.wait()
    await ownership.stop(STOP_GRACE)
    left.set()


def middleware(settings: Settings) -> list[Middleware]:
    """Return what stands around every request.

    In demo mode only names of this machine are served: a page elsewhere could otherwise point its own
    name at it.
    """
    origin, parents = settings.apps_origin, settings.frame_origins
    headers = Middleware(web.SecurityHeaders, apps_origin=origin, frame_origins=parents)
    around = [Middleware(logs.RequestLog), headers]
    if settings.base_path:
        around.append(Middleware(web.BasePath, path=settings.base_path))
    if origin:
        chat = chat_origins(settings)
        around.append(Middleware(AppsOrigin, origin=origin, embedders=chat, ancestors=parents))
    if settings.auth == "demo":
        hosts = ["localhost", "127.0.0.1", "[::1]", settings.host]
        around.append(Middleware(TrustedHostMiddleware, allowed_hosts=hosts, www_redirect=False))
    return around


async def open_stores(parts: Parts, stack: AsyncExitStack) -> tuple[Store, Archive | None]:
    """Open what is set: Redis or memory, and the archive if there is a database."""
    settings, cipher = parts.settings, Sealing(parts.vault, on=parts.settings.encrypt_history)
    redis_url = settings.redis_url.get_secret_value()
    database_url = settings.database_url.get_secret_value()
    archive: Archive | None = None
    if database_url:
        opened = open_sql(
            database_url, cipher, audit_days=settings.audit_days, usage_days=settings.usage_days
        )
        archive = await stack.enter_async_context(opened)
        await check_schema(archive)
    if not redis_url:
        memory = MemoryStore(max_messages=settings.history_max_messages, usage_days=settings.usage_days)
        return memory, archive
    redis = open_redis(
        redis_url,
        cipher=cipher,
        max_messages=settings.history_max_messages,
        history_ttl=settings.history_ttl,
        session_ttl=settings.session_ttl if archive else CONFIG_TTL,
        usage_days=settings.usage_days,
    )
    return await stack.enter_async_context(redis), archive


def heart_of(settings: Settings, store: Store) -> Heartbeat:
    """Return this worker's heartbeat, under a name that no other process has."""
    worker = os.environ.get("MCP_CHAT_WORKER") or f"{settings.worker_id}:{os.getpid()}:{new_id()[:8]}"
    if url := settings.redis_url.get_secret_value():
        return Heart(worker, lambda: open_leases(url))
    return LoopHeart(worker, store.leases)


async def check_schema(archive: Archive) -> None:
    """Refuse a database that was not brought up to date; one that is away may come back.

    A worker that begins in an outage must not fail: gunicorn's master would end with it.

    Raises:
        WrongSchema: It is not this version's.
    """
    try:
        await archive.ping()
    except WrongSchema:
        raise
    except StoreUnavailable:
        log.warning("database.away")


def ownership_of(settings: Settings, workshop: Workshop, heart: Heartbeat, tasks: TaskGroup) -> Ownership:
    """Return this worker's part in serving all users."""
    return Ownership(
        workshop,
        heart,
        tasks,
        lock_ttl=settings.session_lock_ttl,
        lock_retries=settings.session_lock_retries,
        lock_wait=settings.session_lock_wait,
    )


def mount(app: Starlette, endpoints: Endpoints) -> None:
    """Put the routes in place, now that there is something behind them."""
    listed = operations(endpoints)
    app.router.routes[:] = [
        *(operation.route() for operation in listed),
        openapi_route(listed, version=version("mcp-chat")),
        *web.routes(),
    ]
