"""The OpenAPI document, made from the list of operations."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from pydantic.json_schema import models_json_schema
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from mcp_chat.api.operation import EVENTS, JSON, Operation

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

ERRORS = {
    400: "Not possible as it stands; `detail` says what to do",
    401: "Nobody is signed in",
    403: "Not allowed",
    404: "Not found",
    409: "The server has nothing of this kind, or it was decided otherwise before",
    410: "It is over",
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
