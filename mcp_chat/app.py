"""The application: opens everything once, in order, and closes it in reverse."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import replace
from functools import partial
from importlib.metadata import version

import anyio
import structlog
from anyio import CapacityLimiter
from anyio.abc import TaskGroup
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware

from mcp_chat import logs
from mcp_chat.api import errors, operations, web
from mcp_chat.api.auth import Auth
from mcp_chat.api.bulk import Bulk
from mcp_chat.api.events import Events
from mcp_chat.api.health import Check, Health
from mcp_chat.api.identity import Identity
from mcp_chat.api.llmchat import LLMChat
from mcp_chat.api.metrics import Scrape
from mcp_chat.api.sessions import Sessions
from mcp_chat.api.streams import Streams
from mcp_chat.api.uploads import Uploads
from mcp_chat.config import ServerConfig
from mcp_chat.configs import UserConfigs
from mcp_chat.connections import Connection, Dialer
from mcp_chat.context import Budget
from mcp_chat.deaths import heard
from mcp_chat.dispatch import Dispatch
from mcp_chat.drain import Drain
from mcp_chat.exceptions import ChatError, StoreUnavailable, WrongSchema
from mcp_chat.feed import Feed
from mcp_chat.heart import Heart, Heartbeat, LoopHeart
from mcp_chat.history import ChatHistoryManager
from mcp_chat.limits import ModelLimits, ServerLimits
from mcp_chat.login.demo import DemoIdentity
from mcp_chat.login.metered import Metered
from mcp_chat.message import new_id
from mcp_chat.metrics import Metrics
from mcp_chat.netguard import Policy, Resolver
from mcp_chat.ownership import Ownership
from mcp_chat.parts import Parts, parts_of
from mcp_chat.providers import Providers
from mcp_chat.servers import current
from mcp_chat.settings import Settings, load_settings
from mcp_chat.stores.base import Archive, Store
from mcp_chat.stores.cipher import Sealing
from mcp_chat.stores.memory import MemoryRates, MemoryStore
from mcp_chat.stores.redis import RedisStore, open_leases, open_redis
from mcp_chat.stores.sql import open_sql
from mcp_chat.workshop import Workshop

log = structlog.get_logger()

TIDY_EVERY = 3600.0
HELD = 3.0
"""Seconds after the last beat in which this worker may believe that the others know it to be alive."""

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
        tasks = await stack.enter_async_context(anyio.create_task_group())
        heart = heart_of(parts.settings, store)
        stack.push_async_callback(heart.stop)  # whatever ends the tasks, the worker is to look dead then
        metrics = Metrics()
        feed = Feed(store.log, store.bells, tasks, metrics)
        feed.start()
        workshop = workshop_of(parts, store, archive, heart, feed, metrics)
        ownership = ownership_of(parts.settings, workshop, heart, tasks)
        await ownership.start()
        mount(app, parts, workshop, ownership, feed)
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
    around = [Middleware(logs.RequestLog), Middleware(web.SecurityHeaders)]
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
        opened = open_sql(database_url, cipher, audit_days=settings.audit_days)
        archive = await stack.enter_async_context(opened)
        await check_schema(archive)
    if not redis_url:
        return MemoryStore(max_messages=settings.history_max_messages), archive
    redis = open_redis(
        redis_url,
        cipher=cipher,
        max_messages=settings.history_max_messages,
        history_ttl=settings.history_ttl,
        session_ttl=settings.session_ttl if archive else CONFIG_TTL,
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


def workshop_of(
    parts: Parts, store: Store, archive: Archive | None, heart: Heartbeat, feed: Feed, metrics: Metrics
) -> Workshop:
    """Return what the actors work with."""
    settings = parts.settings
    connection = connection_of(settings, parts.policy)
    now = partial(current, listed=parts.servers, origins=parts.gateway_origins)
    return Workshop(
        store=store,
        archive=archive,
        configs=UserConfigs(store.configs, archive, parts.vault),
        history=history_of(settings, store, archive),
        vault=parts.vault,
        providers=providers_of(parts),
        connection=lambda server, resolver: connection(now(server), resolver),
        held=lambda: heart.beats(HELD),
        deliver=feed.deliver,
        metrics=metrics,
        turn_timeout=settings.turn_timeout,
        model_timeout=settings.model_timeout,
        tool_rounds=settings.tool_rounds,
        model_limits=ModelLimits(calls=settings.max_calls, message_bytes=settings.max_model_bytes),
        parallel_calls=settings.parallel_calls,
        user_turns=settings.max_user_turns,
        places=CapacityLimiter(settings.max_turns),
        idle_timeout=settings.idle_timeout,
        session_ttl=settings.session_ttl,
        budget=budget_of(settings),
        keep_history=settings.keep_history,
        summary=settings.summary,
    )


def connection_of(settings: Settings, policy: Policy) -> Callable[[ServerConfig, Resolver], Connection]:
    """Return what connects to an MCP server, with names looked up for its user."""
    silence, limits = settings.tool_timeout + 5, server_limits(settings)
    dialer = partial(Dialer, policy, timeout=settings.connect_timeout, silence=silence, limits=limits)
    return lambda server, resolver: Connection(
        server,
        dialer(resolver=resolver),
        connect_timeout=settings.connect_timeout,
        tool_timeout=settings.tool_timeout,
        limits=limits,
    )


def server_limits(settings: Settings) -> ServerLimits:
    """Return what an MCP server may send."""
    return ServerLimits(
        tools=settings.max_tools,
        tool_bytes=settings.max_tool_bytes,
        tools_bytes=settings.max_tools_bytes,
        schema_depth=settings.max_schema_depth,
        result_bytes=settings.max_result_bytes,
        event_bytes=settings.max_event_bytes,
        answer_bytes=settings.max_answer_bytes,
    )


def providers_of(parts: Parts) -> Providers:
    """Return what makes models."""
    settings = parts.settings
    return Providers(
        parts.entries,
        policy=parts.policy,
        ollama_url="" if settings.ollama_url == "off" else settings.ollama_url,
        silence=settings.model_timeout,
        max_answer=settings.max_answer_bytes,
    )


def history_of(settings: Settings, store: Store, archive: Archive | None) -> ChatHistoryManager:
    """Return the histories of all users."""
    return ChatHistoryManager(
        store.redis if isinstance(store, RedisStore) else None,
        settings.history_max_messages,
        settings.history_ttl,
        archive,
        window=store.window,
        budget=budget_of(settings),
    )


def budget_of(settings: Settings) -> Budget:
    """Return how much of a conversation a model is shown."""
    return Budget(
        messages=settings.history_max_messages,
        tokens=settings.context_tokens,
        result=settings.tool_result_characters,
    )


def mount(app: Starlette, parts: Parts, workshop: Workshop, ownership: Ownership, feed: Feed) -> None:
    """Put the routes in place, now that there is something behind them."""
    settings, identity = parts.settings, metered(parts, workshop.store)
    demo = parts.identity if isinstance(parts.identity, DemoIdentity) else None
    streams, bulk = Streams(settings.max_streams), Bulk()
    chat = chat_of(replace(parts, identity=identity), workshop, ownership, feed, streams)
    sessions = Sessions(
        identity=identity,
        dispatch=chat.dispatch,
        archive=workshop.archive,
        record=workshop.history.record,
        configs=workshop.configs,
        budget=workshop.budget,
        max_body=settings.max_body_bytes,
        max_import=settings.max_import_bytes,
        max_sessions=settings.max_sessions,
        bulk=bulk,
    )
    uploads = Uploads(
        identity=identity,
        archive=workshop.archive,
        max_upload=settings.max_upload_bytes,
        upload_quota=settings.upload_quota_bytes,
        bulk=bulk,
    )
    events = Events(
        identity=identity,
        streams=streams,
        dispatch=chat.dispatch,
        configs=workshop.configs,
        record=workshop.history.record,
        max_messages=settings.history_max_messages,
    )
    auth = Auth(identity=identity, demo=demo, max_body=settings.max_body_bytes)
    scrape = Scrape(metrics=workshop.metrics)
    health = health_of(workshop, parts.drain)
    listed = operations.operations(chat, events, sessions, uploads, auth, health, scrape)
    app.router.routes[:] = [
        *(operation.route() for operation in listed),
        operations.openapi_route(listed, version=version("mcp-chat")),
        *web.routes(),
    ]


def metered(parts: Parts, store: Store) -> Identity:
    """Return what proves who asks, and counts how often; while the store is away each worker its share."""
    per_minute = parts.settings.requests_per_minute
    if not per_minute:
        return parts.identity
    share = max(1, per_minute // parts.settings.workers)
    return Metered(parts.identity, store.rates, MemoryRates(), per_minute=per_minute, spare_per_minute=share)


def chat_of(parts: Parts, workshop: Workshop, ownership: Ownership, feed: Feed, streams: Streams) -> LLMChat:
    """Return what answers the contract's requests."""
    settings, record = parts.settings, workshop.history.record
    patience = settings.turn_timeout + 60
    return LLMChat(
        identity=parts.identity,
        streams=streams,
        dispatch=Dispatch(
            workshop.store,
            workshop.archive,
            record,
            ownership,
            feed,
            patience=patience,
            queue=settings.queue_length,
        ),
        store=workshop.store,
        configs=workshop.configs,
        history=workshop.history,
        vault=workshop.vault,
        providers=workshop.providers,
        servers=parts.servers,
        archive=workshop.archive,
        max_messages=settings.history_max_messages,
        max_body=settings.max_body_bytes,
        max_message=settings.max_message_bytes,
        max_servers=settings.max_servers,
        max_sessions=settings.max_sessions,
        policy=parts.policy,
        gateway_origins=parts.gateway_origins,
    )


def health_of(workshop: Workshop, drain: Drain) -> Health:
    """Return what tells whether this worker is ready."""
    checks: dict[str, Check] = {"store": workshop.store.ping}
    if workshop.archive:
        checks["database"] = workshop.archive.ping
    return Health(checks=checks, draining=lambda: drain.draining)
