"""One list of operations; the routes and the OpenAPI document are both made from it."""

from __future__ import annotations

from typing import Any

from mcp_chat.api.approvals import Approvals
from mcp_chat.api.apps import Apps
from mcp_chat.api.auth import Auth
from mcp_chat.api.bodies import (
    AddServerBody,
    AnswerBody,
    AppCallBody,
    AppResourceBody,
    ApprovalBody,
    Body,
    CancelBody,
    ChatBody,
    CompleteBody,
    ConnectBody,
    FinishBody,
    NewSessionBody,
    OwnBody,
    PromptOfBody,
    RetryBody,
    SessionBody,
    SignInBody,
    SwitchBody,
    ToolsBody,
    UriBody,
    UserBody,
)
from mcp_chat.api.branches import Branches
from mcp_chat.api.endpoints import Endpoints
from mcp_chat.api.events import Events
from mcp_chat.api.health import Health
from mcp_chat.api.llmchat import LLMChat
from mcp_chat.api.metrics import Scrape
from mcp_chat.api.oauth import OAuth
from mcp_chat.api.offers import Offers
from mcp_chat.api.operation import EVENTS, JSON, Endpoint, Operation
from mcp_chat.api.questions import Questions
from mcp_chat.api.recordings import Recordings
from mcp_chat.api.servers import Servers
from mcp_chat.api.sessions import FORMS, Sessions
from mcp_chat.api.uploads import Uploads
from mcp_chat.api.usage import Spending
from mcp_chat.kinds import KINDS

PREFIXES = ("/llmchat", "/v1/llmchat")
AGAIN = ("Idempotency-Key",)
PAGED = ("limit", "before", "after")


def operations(endpoints: Endpoints) -> list[Operation]:
    """Return all operations."""
    below = (operation for prefix in PREFIXES for operation in _below(prefix, endpoints))
    return [*_health(endpoints.health, endpoints.scrape), *_auth(endpoints.auth), *below]


def _below(prefix: str, endpoints: Endpoints) -> list[Operation]:
    return [
        *_llmchat(prefix, endpoints.chat, endpoints.events),
        *_questions(prefix, endpoints.questions),
        *_approvals(prefix, endpoints.approvals),
        _recording(prefix, endpoints.recordings),
        *_sessions(prefix, endpoints.sessions, endpoints.branches),
        *_uploads(prefix, endpoints.uploads),
        *_apps(prefix, endpoints.apps),
        *_servers(prefix, endpoints.servers),
        *_oauth(prefix, endpoints.oauth),
        *_offers(prefix, endpoints.offers),
        _usage(prefix, endpoints.spending),
    ]


def _health(health: Health, scrape: Scrape) -> list[Operation]:
    return [
        Operation(method="GET", path="/livez", endpoint=health.live, summary="Alive", public=True),
        Operation(
            method="GET", path="/readyz", endpoint=health.ready, summary="Ready", errors=(503,), public=True
        ),
        Operation(
            method="GET",
            path="/metrics",
            endpoint=scrape.text,
            summary="Metrics for Prometheus",
            answers=("text/plain",),
            public=True,
        ),
    ]


def _auth(auth: Auth) -> list[Operation]:
    def demo(path: str, endpoint: Endpoint, summary: str, body: type[Body]) -> Operation:
        return Operation(
            method="POST",
            path=path,
            endpoint=endpoint,
            summary=f"{summary} (demo mode)",
            body=body,
            errors=(403, 404),
            public=True,
        )

    return [
        Operation(method="GET", path="/auth", endpoint=auth.who, summary="Who is signed in", public=True),
        demo("/auth/demo", auth.sign_in, "Choose a name", SignInBody),
        demo("/auth/logout", auth.sign_out, "Sign out", Body),
    ]


def _llmchat(prefix: str, chat: LLMChat, events: Events) -> list[Operation]:
    def get(path: str, endpoint: Endpoint, summary: str, **more: Any) -> Operation:
        return Operation(method="GET", path=f"{prefix}/{path}", endpoint=endpoint, summary=summary, **more)

    def post(path: str, endpoint: Endpoint, summary: str, body: type[Body], **more: Any) -> Operation:
        return Operation(
            method="POST", path=f"{prefix}/{path}", endpoint=endpoint, summary=summary, body=body, **more
        )

    return [
        post("connect", chat.connect, "Connect to servers and a model", ConnectBody, headers=AGAIN),
        post(
            "chat",
            chat.chat,
            "Send a message",
            ChatBody,
            errors=(404, 409, 501, 504),
            headers=AGAIN,
            answers=(JSON, EVENTS),
        ),
        post(
            "retry",
            chat.retry,
            "Run a message again",
            RetryBody,
            errors=(404, 409, 504),
            headers=AGAIN,
            answers=(JSON, EVENTS),
        ),
        get(
            "events",
            events.stream,
            "Follow what happens, from any place",
            errors=(400, 404, 429),
            query=("session_id", "after", "user_id"),
            headers=("Last-Event-ID",),
            answers=(EVENTS,),
        ),
        post("cancel", chat.cancel, "Stop turns", CancelBody, headers=AGAIN),
        post("disconnect", chat.disconnect, "End the session", UserBody, headers=AGAIN),
        get("status/{user_id:path}", chat.status, "Connected or not"),
        get("config/{user_id:path}", chat.config, "The configuration, secrets masked", errors=(404,)),
        get(
            "history/{user_id:path}",
            chat.messages,
            "The messages of a conversation",
            errors=(400, 404),
            query=("session_id", "limit"),
        ),
        get("gateway/models", chat.models, "Models to choose from"),
    ]


def _oauth(prefix: str, oauth: OAuth) -> list[Operation]:
    """Sign-ins at MCP servers. Browsers come back without a login that is in a header."""
    callback = f"{prefix}/oauth/callback"
    return [
        Operation(
            method="GET",
            path=callback,
            endpoint=oauth.callback,
            summary="Where a browser comes back to from a sign-in",
            query=("code", "state", "iss", "error"),
            answers=("text/html",),
            errors=(400, 503),
            public=True,
        ),
        Operation(
            method="POST",
            path=callback,
            endpoint=oauth.finish,
            summary="End a sign-in at a server",
            body=FinishBody,
        ),
        Operation(
            method="GET",
            path=f"{prefix}/oauth/client.json",
            endpoint=oauth.client,
            summary="Who this chat is, for authorization servers",
            errors=(404,),
            public=True,
        ),
        Operation(
            method="DELETE",
            path=f"{prefix}/servers/{{alias}}/sign-in",
            endpoint=oauth.sign_out,
            summary="Take back what a sign-in at a server has allowed",
            errors=(404,),
            query=("user_id",),
        ),
    ]


def _servers(prefix: str, servers: Servers) -> list[Operation]:
    """A user's servers while they are connected."""

    def of(method: str, path: str, endpoint: Endpoint, summary: str, **more: Any) -> Operation:
        query = () if "body" in more else ("user_id",)
        return Operation(
            method=method, path=f"{prefix}/{path}", endpoint=endpoint, summary=summary, query=query, **more
        )

    one = "servers/{alias}"
    return [
        of("GET", "servers", servers.list, "The operator's servers, and one's own"),
        of(
            "POST",
            "servers",
            servers.add,
            "Connect to one more server",
            body=AddServerBody,
            status=201,
            errors=(404,),
        ),
        of("GET", f"{one}/tools", servers.tools, "A server's tools", errors=(404, 429, 503)),
        of(
            "PATCH",
            f"{one}/tools",
            servers.switch_tools,
            "Switch tools on and off, accept changed ones, and change what may be done with them",
            body=ToolsBody,
            errors=(404,),
        ),
        of(
            "POST",
            f"{one}/sign-in",
            servers.sign_in,
            "Where to sign in to a server",
            body=OwnBody,
            errors=(404,),
        ),
        of("PATCH", one, servers.switch, "Switch a server on or off", body=SwitchBody, errors=(404,)),
        of("DELETE", one, servers.remove, "Close a server and forget it", errors=(404, 429)),
    ]


def _questions(prefix: str, questions: Questions) -> list[Operation]:
    return [
        Operation(
            method="GET",
            path=f"{prefix}/questions",
            endpoint=questions.list,
            summary="What servers ask at the moment",
            query=("session_id", "user_id"),
        ),
        Operation(
            method="POST",
            path=f"{prefix}/questions/{{question_id}}",
            endpoint=questions.answer,
            summary="Answer a server's question",
            body=AnswerBody,
            errors=(404, 409, 410),
        ),
    ]


def _approvals(prefix: str, approvals: Approvals) -> list[Operation]:
    def of(method: str, path: str, endpoint: Endpoint, summary: str, **more: Any) -> Operation:
        path = f"{prefix}/approvals{path}"
        return Operation(method=method, path=path, endpoint=endpoint, summary=summary, **more)

    mine = {"query": ("user_id",)}
    return [
        of("GET", "", approvals.list, "Calls that wait for their user", query=("session_id", "user_id")),
        of("GET", "/grants", approvals.grants, "What the user has allowed for longer than one call", **mine),
        of("DELETE", "/grants", approvals.revoke_all, "Take all of that back", **mine),
        of(
            "DELETE",
            "/grants/{grant_id}",
            approvals.revoke,
            "Take one of them back",
            errors=(404,),
            **mine,
        ),
        of(
            "GET",
            "/{approval_id}",
            approvals.look,
            "A call that waits, with its schema",
            errors=(404,),
            **mine,
        ),
        of(
            "POST",
            "/{approval_id}",
            approvals.answer,
            "Decide about a call that waits",
            body=ApprovalBody,
            errors=(404, 409, 410),
        ),
    ]


def _recording(prefix: str, recordings: Recordings) -> Operation:
    return Operation(
        method="GET",
        path=f"{prefix}/turns/{{turn_id}}/recording",
        endpoint=recordings.one,
        summary="A turn as it was, for `mcp-chat replay`",
        query=("user_id",),
        errors=(404,),
    )


def _kept(method: str, path: str, endpoint: Endpoint, summary: str, **more: Any) -> Operation:
    """Return an operation on what only a database keeps."""
    errors = (*more.pop("errors", (400, 404)), 501)
    query = (*more.pop("query", ()), "user_id")
    return Operation(
        method=method, path=path, endpoint=endpoint, summary=summary, errors=errors, query=query, **more
    )


def _sessions(prefix: str, sessions: Sessions, branches: Branches) -> list[Operation]:
    """What stands below another path comes first: a path in the document matches all that is below it."""
    one = f"{prefix}/sessions/{{session_id}}"
    return [
        *_all_sessions(prefix, sessions),
        *_branches(one, branches),
        *_said(one, sessions),
        _kept("GET", one, sessions.get, "A conversation without its messages", errors=(404,)),
        _kept("PATCH", one, sessions.change, "Change name, context or pins", body=SessionBody),
        _kept("DELETE", one, sessions.delete, "Delete a conversation", errors=(404, 429)),
    ]


def _all_sessions(prefix: str, sessions: Sessions) -> list[Operation]:
    at = f"{prefix}/sessions"
    new = {"status": 201, "errors": ()}
    found = ("q", "limit", "before")
    return [
        _kept("GET", f"{prefix}/search", sessions.search, "Search", errors=(400,), query=found),
        _kept("GET", at, sessions.list, "Conversations", errors=(400,), query=PAGED),
        _kept("POST", at, sessions.new, "Begin a conversation", body=NewSessionBody, **new),
        _kept(
            "POST", f"{at}/import", sessions.bring, "Bring an exported conversation along", raw=(JSON,), **new
        ),
    ]


def _branches(one: str, branches: Branches) -> list[Operation]:
    return [
        _kept("GET", f"{one}/branches", branches.list, "The ways that it has gone", errors=(404,)),
        _kept(
            "POST",
            f"{one}/branches/{{branch_id}}",
            branches.switch,
            "Show another branch",
            body=OwnBody,
            errors=(404, 409, 429),
        ),
    ]


def _said(one: str, sessions: Sessions) -> list[Operation]:
    return [
        _kept("GET", f"{one}/messages", sessions.messages, "A page of a conversation", query=PAGED),
        _kept("GET", f"{one}/context", sessions.context, "What the model would see", errors=(404,)),
        _kept(
            "GET",
            f"{one}/export",
            sessions.export,
            "A conversation as a file",
            errors=(400, 404, 429),
            query=("format",),
            answers=tuple(form.media_type for form in FORMS.values()),
        ),
    ]


def _usage(prefix: str, spending: Spending) -> Operation:
    return Operation(
        method="GET",
        path=f"{prefix}/usage",
        endpoint=spending.usage,
        summary="What you have spent, and what is left",
        query=("since", "until", "by", "user_id"),
        errors=(400,),
    )


def _uploads(prefix: str, uploads: Uploads) -> list[Operation]:
    kinds = tuple(KINDS)
    return [
        Operation(
            method="POST",
            path=f"{prefix}/uploads",
            endpoint=uploads.put,
            summary="Upload a file",
            raw=kinds,
            status=201,
            errors=(501,),
            query=("name", "user_id"),
        ),
        Operation(
            method="GET",
            path=f"{prefix}/uploads/{{upload_id}}",
            endpoint=uploads.get,
            summary="A file of one's own",
            answers=kinds,
            errors=(404, 501),
            query=("user_id",),
        ),
        Operation(
            method="DELETE",
            path=f"{prefix}/uploads/{{upload_id}}",
            endpoint=uploads.delete,
            summary="Delete a file",
            errors=(404, 501),
            query=("user_id",),
        ),
    ]


def _apps(prefix: str, apps: Apps) -> list[Operation]:
    def of(method: str, path: str, endpoint: Endpoint, summary: str, **more: Any) -> Operation:
        errors = (*more.pop("errors", ()), 400)
        return Operation(
            method=method,
            path=f"{prefix}/apps{path}",
            endpoint=endpoint,
            summary=summary,
            errors=errors,
            **more,
        )

    return [
        of(
            "GET",
            "/view",
            apps.view,
            "The app of a tool",
            errors=(404, 409, 413, 422, 429),
            query=("tool", "user_id"),
        ),
        of("POST", "/calls", apps.call, "Call a tool for an app", body=AppCallBody, errors=(404,)),
        of(
            "POST",
            "/resources",
            apps.read,
            "Read a resource for an app",
            body=AppResourceBody,
            errors=(404, 409),
        ),
    ]


def _offers(prefix: str, offers: Offers) -> list[Operation]:
    one = f"{prefix}/servers/{{alias}}"

    def get(path: str, endpoint: Endpoint, summary: str) -> Operation:
        return Operation(
            method="GET",
            path=f"{one}/{path}",
            endpoint=endpoint,
            summary=summary,
            errors=(400, 404, 409, 429),
            query=("user_id",),
        )

    def post(path: str, endpoint: Endpoint, summary: str, body: type[Body], *errors: int) -> Operation:
        return Operation(
            method="POST",
            path=f"{one}/{path}",
            endpoint=endpoint,
            summary=summary,
            body=body,
            errors=(404, 409, *errors),
        )

    return [
        get("prompts", offers.prompts, "A server's prompts"),
        post("prompts/get", offers.prompt, "What a prompt says", PromptOfBody, 501),
        post("complete", offers.complete, "How an argument could go on", CompleteBody),
        get("resources", offers.resources, "A server's resources"),
        get("resource-templates", offers.templates, "A server's templates of resources"),
        post("resources/read", offers.read, "What is in a resource", UriBody, 501),
        post("resources/subscriptions", offers.subscribe, "Tell when a resource changes", UriBody),
        Operation(
            method="DELETE",
            path=f"{one}/resources/subscriptions",
            endpoint=offers.unsubscribe,
            summary="Tell it no more",
            errors=(400, 404, 409, 429),
            query=("uri", "user_id"),
        ),
    ]
