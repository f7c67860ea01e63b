"""One list of operations; the routes and the OpenAPI document are both made from it."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic.json_schema import models_json_schema
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from mcp_chat.api.auth import Auth
from mcp_chat.api.bodies import (
    Body,
    CancelBody,
    ChatBody,
    ConnectBody,
    NewSessionBody,
    SessionBody,
    SignInBody,
    UserBody,
)
from mcp_chat.api.events import Events
from mcp_chat.api.health import Health
from mcp_chat.api.llmchat import LLMChat
from mcp_chat.api.metrics import Scrape
from mcp_chat.api.sessions import FORMS, Sessions
from mcp_chat.api.uploads import KINDS, Uploads

Endpoint = Callable[[Request], Awaitable[Response]]

PREFIXES = ("/llmchat", "/v1/llmchat")
JSON = "application/json"
EVENTS = "text/event-stream"
AGAIN = ("Idempotency-Key",)
EVENT = {
    "type": "object",
    "description": "One event of the stream.",
    "properties": {
        "id": {"type": "string"},
        "event": {"type": "string"},
        "data": {"type": "string", "contentMediaType": JSON},
    },
    "required": ["event", "data"],
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """What can be asked over HTTP.

    Attributes:
        raw: Media types of a body that is taken as it is, instead of `body`.
        status: Of a good answer.
        answers: Media types of a good answer.
        errors: Status codes of its own, and those that follow from `body`, `raw` and `public`.
        query: Names of its query parameters.
        headers: Names of the headers that it reads.
        public: Needs nobody to be signed in.
    """

    method: str
    path: str
    endpoint: Endpoint
    summary: str
    body: type[Body] | None = None
    raw: Sequence[str] = ()
    status: int = 200
    answers: Sequence[str] = (JSON,)
    errors: Sequence[int] = ()
    query: Sequence[str] = ()
    headers: Sequence[str] = ()
    public: bool = False

    def route(self) -> Route:
        """Return its route."""
        return Route(self.path, self.endpoint, methods=[self.method])


def operations(
    chat: LLMChat,
    events: Events,
    sessions: Sessions,
    uploads: Uploads,
    auth: Auth,
    health: Health,
    scrape: Scrape,
) -> list[Operation]:
    """Return all operations."""
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
        Operation(method="GET", path="/auth", endpoint=auth.who, summary="Who is signed in", public=True),
        Operation(
            method="POST",
            path="/auth/demo",
            endpoint=auth.sign_in,
            summary="Choose a name (demo mode)",
            body=SignInBody,
            errors=(403, 404),
            public=True,
        ),
        Operation(
            method="POST",
            path="/auth/logout",
            endpoint=auth.sign_out,
            summary="Sign out (demo mode)",
            body=Body,
            errors=(403, 404),
            public=True,
        ),
        *(
            operation
            for prefix in PREFIXES
            for operation in (
                *_llmchat(prefix, chat, events),
                *_sessions(prefix, sessions),
                *_uploads(prefix, uploads),
            )
        ),
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
            errors=(501, 504),
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
        get("servers", chat.list_servers, "The operator's servers"),
    ]


def _sessions(prefix: str, sessions: Sessions) -> list[Operation]:
    """What stands below another path comes first: a path in the document matches all that is below it."""

    def of(method: str, path: str, endpoint: Endpoint, summary: str, **more: Any) -> Operation:
        errors = (*more.pop("errors", (400, 404)), 501)
        query = (*more.pop("query", ()), "user_id")
        return Operation(
            method=method,
            path=f"{prefix}/{path}",
            endpoint=endpoint,
            summary=summary,
            errors=errors,
            query=query,
            **more,
        )

    one, paged = "sessions/{session_id}", ("limit", "before", "after")
    files = tuple(form.media_type for form in FORMS.values())
    return [
        of("GET", "search", sessions.search, "Search", errors=(400,), query=("q", "limit", "before")),
        of("GET", "sessions", sessions.list, "Conversations", errors=(400,), query=paged),
        of(
            "POST",
            "sessions",
            sessions.new,
            "Begin a conversation",
            body=NewSessionBody,
            status=201,
            errors=(),
        ),
        of(
            "POST",
            "sessions/import",
            sessions.bring,
            "Bring an exported conversation along",
            raw=(JSON,),
            status=201,
            errors=(),
        ),
        of("GET", f"{one}/messages", sessions.messages, "A page of a conversation", query=paged),
        of("GET", f"{one}/context", sessions.context, "What the model would see", errors=(404,)),
        of(
            "GET",
            f"{one}/export",
            sessions.export,
            "A conversation as a file",
            errors=(400, 404, 429),
            query=("format",),
            answers=files,
        ),
        of("GET", one, sessions.get, "A conversation without its messages", errors=(404,)),
        of("PATCH", one, sessions.change, "Change name, context or pins", body=SessionBody),
        of("DELETE", one, sessions.delete, "Delete a conversation", errors=(404, 429)),
    ]


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


ERRORS = {
    400: "Not possible as it stands; `detail` says what to do",
    401: "Nobody is signed in",
    403: "Not allowed",
    404: "Not found",
    413: "Too large",
    415: "Not of a type that is taken here",
    422: "The body has a wrong form",
    429: "Too many",
    501: "This installation has no database",
    503: "A server, the model or the storage does not answer",
    504: "The model did not answer in time",
}


def document(listed: Sequence[Operation], *, version: str) -> dict[str, Any]:
    """Return the OpenAPI document."""
    bodies = {operation.body for operation in listed if operation.body}
    refs, definitions = models_json_schema(
        [(body, "validation") for body in sorted(bodies, key=lambda body: body.__name__)],
        ref_template="#/components/schemas/{model}",
    )
    paths: dict[str, dict[str, Any]] = {}
    for operation in listed:
        schema = refs[operation.body, "validation"] if operation.body else None
        path = re.sub(r":\w+}", "}", operation.path)
        paths.setdefault(path, {})[operation.method.lower()] = _described(operation, schema)
    error = {
        "type": "object",
        "properties": {"detail": {"type": "string"}, "code": {"type": "string"}},
        "required": ["detail", "code"],
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": "mcp-chat", "version": version, "license": {"name": "Apache-2.0"}},
        "paths": paths,
        "components": {
            "schemas": {**definitions.get("$defs", {}), "Error": error},
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}},
        },
    }


def _described(operation: Operation, schema: Any) -> dict[str, Any]:
    described: dict[str, Any] = {
        "operationId": f"{operation.method.lower()}{re.sub(r'[^a-z0-9]+', '_', operation.path)}".strip("_"),
        "summary": operation.summary,
        "security": [] if operation.public else [{"bearer": []}],
        "parameters": _parameters(operation),
        "responses": {
            str(operation.status): {"description": "Done", "content": _content(operation.answers)},
            **{str(code): _error(code) for code in sorted(_codes(operation))},
        },
    }
    content = {JSON: {"schema": schema}} if schema else _content(operation.raw)
    if content:
        described["requestBody"] = {"required": True, "content": content}
    return described


def _codes(operation: Operation) -> set[int]:
    """Return the status codes of what can go wrong."""
    codes = {*operation.errors, *(() if operation.public else (401, 403, 503))}
    if operation.body or operation.raw:
        codes |= {400, 413, 415, *(() if operation.public else (429,))}
    if operation.body:
        codes |= {422}
    return codes


def _content(kinds: Sequence[str]) -> dict[str, Any]:
    schemas = {JSON: {"type": "object"}, EVENTS: EVENT}
    return {kind: {"schema": schemas.get(kind, {"type": "string"})} for kind in kinds}


def _error(code: int) -> dict[str, Any]:
    schema = {"$ref": "#/components/schemas/Error"}
    return {"description": ERRORS[code], "content": {"application/json": {"schema": schema}}}


def _parameters(operation: Operation) -> list[dict[str, Any]]:
    text = {"type": "string"}
    placed = [
        {"name": name, "in": "path", "required": True, "schema": text}
        for name in re.findall(r"{(\w+)", operation.path)
    ]
    placed += [{"name": name, "in": "query", "schema": text} for name in operation.query]
    return placed + [{"name": name, "in": "header", "schema": text} for name in operation.headers]


def openapi_route(listed: Sequence[Operation], *, version: str) -> Route:
    """Return the route of the document, which is made once."""
    made = document(listed, version=version)

    async def openapi(_request: Request) -> Response:
        return JSONResponse(made)

    return Route("/openapi.json", openapi)
