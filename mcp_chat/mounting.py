"""What answers requests, made of the settings and of what is behind it."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from mcp_chat.allowance import check_day
from mcp_chat.api.approvals import Approvals
from mcp_chat.api.apps import Apps
from mcp_chat.api.auth import Auth
from mcp_chat.api.branches import Branches
from mcp_chat.api.bulk import Bulk
from mcp_chat.api.choice import Choice
from mcp_chat.api.endpoints import Endpoints
from mcp_chat.api.events import Events
from mcp_chat.api.health import Check, Health
from mcp_chat.api.identity import Identity
from mcp_chat.api.llmchat import CheckDay, LLMChat
from mcp_chat.api.metrics import Scrape
from mcp_chat.api.oauth import OAuth
from mcp_chat.api.offers import Offers
from mcp_chat.api.questions import Questions
from mcp_chat.api.recordings import Recordings
from mcp_chat.api.servers import Servers
from mcp_chat.api.sessions import Sessions
from mcp_chat.api.streams import Streams
from mcp_chat.api.uploads import Uploads
from mcp_chat.api.usage import Spending
from mcp_chat.desk import Desk
from mcp_chat.dispatch import Dispatch
from mcp_chat.drain import Drain
from mcp_chat.feed import Feed
from mcp_chat.login.demo import DemoIdentity
from mcp_chat.login.metered import Metered
from mcp_chat.login.plugged import plugged
from mcp_chat.ownership import Ownership
from mcp_chat.parts import Parts
from mcp_chat.stores.base import Store
from mcp_chat.stores.memory import MemoryRates
from mcp_chat.workshop import Workshop


def endpoints_of(parts: Parts, workshop: Workshop, ownership: Ownership, feed: Feed) -> Endpoints:
    """Return all that answers requests."""
    demo = parts.identity if isinstance(parts.identity, DemoIdentity) else None
    parts = replace(parts, identity=plugged(parts.identity, workshop.plugins))
    parts = replace(parts, identity=metered(parts, workshop.store))
    settings, identity = parts.settings, parts.identity
    streams, bulk = Streams(settings.max_streams), Bulk()
    chat = chat_of(parts, workshop, ownership, feed, streams)
    sessions = sessions_of(parts, chat.dispatch, workshop, bulk)
    questions = questions_of(parts, chat.dispatch, workshop)
    return Endpoints(
        chat=chat,
        events=events_of(parts, chat.dispatch, workshop, streams),
        questions=questions,
        approvals=approvals_of(parts, questions, workshop, ownership.worker),
        recordings=Recordings(identity=identity, papers=workshop.papers),
        sessions=sessions,
        branches=Branches(sessions=sessions, max_body=settings.max_body_bytes),
        uploads=uploads_of(parts, workshop, bulk),
        apps=apps_of(parts, chat.dispatch, workshop),
        servers=servers_of(parts, chat, workshop),
        oauth=sign_ins_at(parts, chat.dispatch, workshop),
        offers=offers_of(parts, chat.dispatch, workshop),
        auth=Auth(identity=identity, demo=demo, max_body=settings.max_body_bytes),
        spending=spending_of(parts, workshop),
        health=health_of(workshop, parts.drain),
        scrape=Scrape(metrics=workshop.metrics),
    )


def uploads_of(parts: Parts, workshop: Workshop, bulk: Bulk) -> Uploads:
    """Return what answers requests about files."""
    return Uploads(
        identity=parts.identity,
        archive=workshop.archive,
        max_upload=parts.settings.max_upload_bytes,
        upload_quota=parts.settings.upload_quota_bytes,
        bulk=bulk,
    )


def events_of(parts: Parts, dispatch: Dispatch, workshop: Workshop, streams: Streams) -> Events:
    """Return what lets users follow what happens."""
    return Events(
        identity=parts.identity,
        streams=streams,
        dispatch=dispatch,
        configs=workshop.configs,
        record=workshop.history.record,
        max_messages=parts.settings.history_max_messages,
    )


def apps_of(parts: Parts, dispatch: Dispatch, workshop: Workshop) -> Apps:
    """Return what answers requests of apps."""
    return Apps(
        identity=parts.identity,
        dispatch=dispatch,
        configs=workshop.configs,
        papers=workshop.papers,
        servers=parts.servers,
        origin=parts.settings.apps_origin,
        max_body=parts.settings.max_body_bytes,
    )


def questions_of(parts: Parts, dispatch: Dispatch, workshop: Workshop) -> Questions:
    """Return what answers requests about what servers ask."""
    return Questions(
        identity=parts.identity,
        desk=Desk(workshop.papers),
        dispatch=dispatch,
        max_body=parts.settings.max_body_bytes,
    )


def approvals_of(parts: Parts, questions: Questions, workshop: Workshop, worker: str) -> Approvals:
    """Return what answers requests about calls that wait for their user; they lie where questions do."""
    return Approvals(
        identity=parts.identity,
        desk=questions.desk,
        grants_kept=workshop.grants,
        dispatch=questions.dispatch,
        archive=workshop.archive,
        worker=worker,
        max_body=parts.settings.max_body_bytes,
    )


def offers_of(parts: Parts, dispatch: Dispatch, workshop: Workshop) -> Offers:
    """Return what answers requests about what servers offer besides tools."""
    return Offers(
        identity=parts.identity,
        dispatch=dispatch,
        configs=workshop.configs,
        max_body=parts.settings.max_body_bytes,
    )


def spending_of(parts: Parts, workshop: Workshop) -> Spending:
    """Return what tells users what they have spent."""
    return Spending(
        identity=parts.identity, usages=workshop.usages, limits=workshop.spending, clock=workshop.clock
    )


def sessions_of(parts: Parts, dispatch: Dispatch, workshop: Workshop, bulk: Bulk) -> Sessions:
    """Return what answers requests about conversations."""
    settings = parts.settings
    return Sessions(
        identity=parts.identity,
        dispatch=dispatch,
        archive=workshop.archive,
        record=workshop.history.record,
        configs=workshop.configs,
        budget=workshop.budget,
        max_body=settings.max_body_bytes,
        max_import=settings.max_import_bytes,
        max_sessions=settings.max_sessions,
        bulk=bulk,
        providers=workshop.providers,
        system_prompt=settings.system_prompt,
        plugins=workshop.plugins,
    )


def servers_of(parts: Parts, chat: LLMChat, workshop: Workshop) -> Servers:
    """Return what answers requests about a user's servers."""
    return Servers(
        identity=parts.identity,
        dispatch=chat.dispatch,
        configs=workshop.configs,
        vault=parts.vault,
        choice=chat.choice,
        max_body=parts.settings.max_body_bytes,
    )


def sign_ins_at(parts: Parts, dispatch: Dispatch, workshop: Workshop) -> OAuth:
    """Return what answers requests about sign-ins at servers."""
    return OAuth(
        identity=parts.identity,
        sign_ins=workshop.sign_ins,
        dispatch=dispatch,
        configs=workshop.configs,
        public_url=parts.settings.public_url,
        max_body=parts.settings.max_body_bytes,
    )


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
    patience = settings.turn_timeout + max(settings.question_timeout, settings.task_timeout) + 60
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
        lookups=workshop.lookups,
        choice=choice_of(parts),
        archive=workshop.archive,
        max_messages=settings.history_max_messages,
        max_body=settings.max_body_bytes,
        max_message=settings.max_message_bytes,
        max_sessions=settings.max_sessions,
        check_day=day_of(workshop),
    )


def day_of(workshop: Workshop) -> CheckDay | None:
    """Return what sees that something is left of a user's day, if days are limited."""
    limits = workshop.spending
    return partial(check_day, workshop.usages, limits, clock=workshop.clock) if limits.daily else None


def choice_of(parts: Parts) -> Choice:
    """Return the servers that users can connect to."""
    return Choice(
        servers=parts.servers,
        most=parts.settings.max_servers,
        policy=parts.policy,
        gateway_origins=parts.gateway_origins,
    )


def health_of(workshop: Workshop, drain: Drain) -> Health:
    """Return what tells whether this worker is ready."""
    checks: dict[str, Check] = {"store": workshop.store.ping}
    if workshop.archive:
        checks["database"] = workshop.archive.ping
    return Health(checks=checks, draining=lambda: drain.draining, left_alone=lambda: workshop.breakers.open)
