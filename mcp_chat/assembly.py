"""What the actors work with, put together from the settings."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from anyio import CapacityLimiter

from mcp_chat.allowance import Limits, nanos
from mcp_chat.api.oauth import CALLBACK, CLIENT
from mcp_chat.breaker import Breaker, Breakers, Endurance
from mcp_chat.command import Commands
from mcp_chat.config import ServerConfig
from mcp_chat.configs import UserConfigs
from mcp_chat.connections import Connection
from mcp_chat.context import Budget
from mcp_chat.dialer import Dialer, Generations
from mcp_chat.feed import Feed
from mcp_chat.grants import Grants
from mcp_chat.heart import Heartbeat
from mcp_chat.history import ChatHistoryManager
from mcp_chat.limits import ModelLimits, ServerLimits
from mcp_chat.metrics import Metrics
from mcp_chat.models.persistent import Persistence
from mcp_chat.netguard import Lookups, Policy, Resolver
from mcp_chat.oauth.sign_ins import SignIns
from mcp_chat.papers import Papers
from mcp_chat.parts import Parts
from mcp_chat.plugins.base import Plugins
from mcp_chat.plugins.hooks import AGENT_PRE
from mcp_chat.plugins.visits import watched
from mcp_chat.pool import Spare
from mcp_chat.prices import PriceList
from mcp_chat.providers import Providers
from mcp_chat.servers import current
from mcp_chat.settings import Settings
from mcp_chat.stores.base import Archive, Store
from mcp_chat.stores.redis import RedisStore
from mcp_chat.talk import Hours
from mcp_chat.workshop import Workshop

HELD = 3.0
"""Seconds after the last beat in which this worker may believe that the others know it to be alive."""


def workshop_of(
    parts: Parts,
    store: Store,
    archive: Archive | None,
    heart: Heartbeat,
    feed: Feed,
    metrics: Metrics,
    spare: Spare,
    plugins: Plugins,
) -> Workshop:
    """Return what the actors work with."""
    settings = parts.settings
    server_opened = partial(metrics.breaker_opened, "server")
    connection, lookups = connection_of(settings, parts.policy, spare, server_opened), Lookups()
    papers = Papers(archive or store.documents, parts.vault)
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
        deliver=watched(plugins, feed.deliver),
        metrics=metrics,
        turn_timeout=settings.turn_timeout,
        model_timeout=settings.model_timeout,
        tool_rounds=settings.tool_rounds,
        server_limits=server_limits(settings),
        model_limits=ModelLimits(calls=settings.max_calls, message_bytes=settings.max_model_bytes),
        parallel_calls=settings.parallel_calls,
        server_calls=settings.server_calls,
        upload_quota=settings.upload_quota_bytes,
        user_turns=settings.max_user_turns,
        places=CapacityLimiter(settings.max_turns),
        idle_timeout=settings.idle_timeout,
        session_ttl=settings.session_ttl,
        budget=budget_of(settings),
        keep_history=settings.keep_history,
        summary=settings.summary,
        system_prompt=settings.system_prompt,
        papers=papers,
        sign_ins=sign_ins_of(settings, papers, parts.policy, lookups),
        lookups=lookups,
        grants=Grants(papers=papers, seconds=settings.grant_ttl),
        approvals=settings.approvals,
        max_upload=settings.max_upload_bytes,
        record_turns=settings.record_turns,
        max_app=settings.max_app_bytes,
        hours=Hours(question=settings.question_timeout, task=settings.task_timeout),
        spending=spending_of(settings, plugins),
        prices=PriceList(parts.entries),
        breakers=Breakers(endurance_of(settings), opened=partial(metrics.breaker_opened, "model")),
        persistence=Persistence(retries=settings.model_retries, patience=settings.model_retry_wait),
        plugins=plugins,
        plugin_hold=settings.plugin_hold,
    )


def spending_of(settings: Settings, plugins: Plugins) -> Limits:
    """Return what a user may use in a turn and in a day."""
    return Limits(
        turn_tokens=settings.turn_tokens,
        turn_nanos=nanos(settings.turn_cost),
        turn_calls=settings.turn_calls,
        day_tokens=settings.day_tokens,
        day_nanos=nanos(settings.day_cost),
        day_calls=settings.day_calls,
        unpriced=settings.allow_unpriced,
        watched=AGENT_PRE in plugins.hooks,
    )


def connection_of(
    settings: Settings, policy: Policy, spare: Spare, opened: Callable[[], None] = lambda: None
) -> Callable[[ServerConfig, Resolver], Connection]:
    """Return what connects to an MCP server, with names looked up for its user."""
    limits, usual = server_limits(settings), settings.tool_timeout
    asked = settings.question_timeout  # an older server may be silent in the middle of a call that waits
    dialer = partial(
        Dialer,
        policy,
        timeout=settings.connect_timeout,
        limits=limits,
        spare=spare,
        generations=Generations(),
        commands=Commands(settings.max_commands),
    )
    return lambda server, resolver: Connection(
        server,
        dialer(resolver=resolver, silence=(server.timeout or usual) + asked + 5),
        connect_timeout=settings.connect_timeout,
        tool_timeout=server.timeout or usual,
        tool_limit=max(settings.tool_limit, server.timeout or 0),
        limits=limits,
        breaker=Breaker(endurance_of(settings), opened=opened),
    )


def endurance_of(settings: Settings) -> Endurance:
    """Return when a model or a server is left alone."""
    return Endurance(failures=settings.breaker_failures, rest=settings.breaker_rest)


def sign_ins_of(settings: Settings, papers: Papers, policy: Policy, lookups: Lookups) -> SignIns:
    """Return the users' sign-ins at MCP servers."""
    url = settings.public_url
    return SignIns(
        papers,
        policy,
        lookups,
        redirect_uri=f"{url}{CALLBACK}" if url else "",
        client_url=f"{url}{CLIENT}" if url.startswith("https:") else None,
        timeout=settings.connect_timeout,
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
        raw=settings.fast_openai,
        default=settings.default_model,
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
        usages=store.usages,
    )


def budget_of(settings: Settings) -> Budget:
    """Return how much of a conversation a model is shown."""
    return Budget(
        messages=settings.history_max_messages,
        tokens=settings.context_tokens,
        result=settings.tool_result_characters,
    )
