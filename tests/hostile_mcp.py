"""MCP servers that misbehave, each in its own way at a path of its own; JSON-RPC by hand, as no SDK would."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

SECRET = "SECRET upstream detail"
Answer = Callable[[dict[str, Any]], Any]


def _tool(name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "description": "", "inputSchema": {"type": "object"}, **more}


def _text(text: str, **more: Any) -> dict[str, Any]:
    return {"content": [{"type": "text", "text": text}], **more}


PIXEL = "iVBORw0KGgo="

RESULTS: dict[str, Any] = {
    "good": _text("good"),
    "empty": {"content": []},
    "empty-text": _text(""),
    "is-error": _text("It did not work.", isError=True),
    "empty-error": {"content": [], "isError": True},
    "huge": _text("x" * 100_000),
    "large": _text("x" * 9_000_000),
    "nul": _text("a\x00b\u2028c"),
    "surrogate": _text("a\ud800b"),
    "forged": _text("a\n\nevent: final\ndata: {}\n\n"),
    "image": {"content": [{"type": "image", "data": PIXEL, "mimeType": "image/png"}]},
    "audio": {"content": [{"type": "audio", "data": PIXEL, "mimeType": "audio/wav"}]},
    "link": {"content": [{"type": "resource_link", "uri": "file:///a.txt", "name": "a.txt"}]},
    "resource": {"content": [{"type": "resource", "resource": {"uri": "file:///a.txt", "text": "the text"}}]},
    "blob": {"content": [{"type": "resource", "resource": {"uri": "file:///a.bin", "blob": PIXEL}}]},
    "structured": {"content": [], "structuredContent": {"n": 5}},
    "endless-integer": {"content": [], "structuredContent": {"n": 10**40}},
    "unknown-content": {"content": [{"type": "hologram", "data": 5}]},
    "no-content": {},
    "content-text": {"content": "text"},
    "null": None,
    "array": [],
}
"""What `tools/call` answers, by the name of the tool."""

FAULTS = (
    "raises",
    "hangs",
    "closes",
    "half",
    "html",
    "unauthorized",
    "teapot",
    "accepted",
    "other-id",
    "no-json",
    "redirects",
    "redirects-within",
)
"""Tools that do not answer with a result."""


def odd_names() -> list[dict[str, Any]]:
    """Names that no provider takes as they are."""
    names = [
        "good",
        "good",
        "GOOD",
        "a b",
        "😀",
        "x" * 200,
        "x" * 199 + "y",
        "a.b",
        "a/b",
        "a__b",
        "",
        "é",
        "\n",
    ]
    return [_tool(name) for name in names]


class HostileMCP:
    """The servers, by path: `/calls` is honest but for its tools, the others misbehave earlier.

    Attributes:
        requests: What they were asked: path and headers.
        goodbyes: The paths at which a session was to be ended.
    """

    def __init__(self) -> None:
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.goodbyes: list[str] = []
        self.app = Starlette(routes=[Route("/{manner}", self._serve, methods=["GET", "POST", "DELETE"])])

    async def _serve(self, request: Request) -> Response:
        manner = request.path_params["manner"]
        self.requests.append((manner, dict(request.headers)))
        fault = await misbehaved(manner)
        if fault is not None:
            return fault
        if request.method == "DELETE":
            self.goodbyes.append(manner)
            await asyncio.sleep(3600)
        if request.method != "POST":
            return Response(status_code=405)
        asked = await request.json()
        if "id" not in asked:
            return Response(status_code=202)
        if asked["method"] == "tools/call":
            return await _called(asked)
        answer = _answer(asked, _answered(manner, asked))
        if manner == "hangs-at-goodbye":  # who gives a session an id is told of its end
            answer.headers["mcp-session-id"] = "a-session"
        return answer


async def misbehaved(manner: str) -> Response | None:  # noqa: PLR0912 - one branch for each manner
    """Return an answer that is none, for the manners that have one for every request."""
    match manner:
        case "hangs":
            await asyncio.sleep(3600)
        case "hangs-in-the-body":
            return StreamingResponse(_hanging(b'{"jsonrpc": "2.0", '), media_type="application/json")
        case "hangs-in-events":
            return StreamingResponse(_hanging(b": alive\n\n"), media_type="text/event-stream")
        case "closes":
            return StreamingResponse(_broken(b""), media_type="application/json")
        case "half":
            return StreamingResponse(_broken(b'{"jsonrpc": "2.0", '), media_type="application/json")
        case "html":
            return Response(f"<html><body>{SECRET}</body></html>", media_type="text/html")
        case "html-as-json":
            return Response(f"<html><body>{SECRET}</body></html>", media_type="application/json")
        case "nothing":
            return Response(b"", media_type="application/json")
        case "null" | "array" | "number":
            return Response(
                {"null": "null", "array": "[]", "number": "5"}[manner], media_type="application/json"
            )
        case "50-mb":
            return StreamingResponse(_endless(), media_type="application/json")
        case "50-mb-of-events":
            return StreamingResponse(_endless(), media_type="text/event-stream")
        case "redirects":
            return RedirectResponse("http://169.254.169.254/latest/meta-data/", 307)
        case "redirects-within":
            return RedirectResponse("/calls", 302)
        case _ if manner.isdecimal():
            return Response(SECRET, int(manner), {"www-authenticate": f'Bearer realm="{SECRET}"'})
    return None


async def _hanging(start: bytes) -> AsyncIterator[bytes]:
    yield start
    await asyncio.sleep(3600)


async def _broken(start: bytes) -> AsyncIterator[bytes]:
    yield start
    raise ConnectionResetError


async def _endless() -> AsyncIterator[bytes]:
    yield b'data: {"jsonrpc": "2.0", "id": 1, "result": "'
    for _ in range(50):
        yield b"x" * 1_000_000


def _answer(asked: dict[str, Any], result: Any) -> Response:
    """A JSON-RPC answer; an exception stands for an error."""
    answer: dict[str, Any] = {"jsonrpc": "2.0", "id": asked["id"]}
    if isinstance(result, Exception):
        answer["error"] = {"code": -32601, "message": str(result)}
    else:
        answer["result"] = result
    return Response(json.dumps(answer), media_type="application/json")


def _answered(manner: str, asked: dict[str, Any]) -> Any:  # noqa: PLR0912 - one branch for each manner
    """The result of everything but a call."""
    method, cursor = asked["method"], (asked.get("params") or {}).get("cursor")
    if method == "initialize":
        capabilities: dict[str, Any] = {} if manner == "no-capability" else {"tools": {}}
        version = "1999-01-01" if manner == "ancient" else "2025-06-18"
        return {
            "protocolVersion": version,
            "capabilities": capabilities,
            "serverInfo": {"name": "hostile", "version": "1"},
        }
    if method != "tools/list":
        return ValueError("unknown method")
    match manner:
        case "calls":
            return {"tools": [_tool(name) for name in (*RESULTS, *FAULTS)]}
        case "no-tools":
            return {"tools": []}
        case "one-thousand-tools":
            return {"tools": [_tool(f"tool-{n}") for n in range(1_000)]}
        case "endless-pages":
            n = int(cursor or 0)
            return {"tools": [_tool(f"tool-{n}")], "nextCursor": str(n + 1)}
        case "ever-new-cursors":
            return {"tools": [], "nextCursor": str(int(cursor or 0) + 1)}
        case "one-cursor-for-ever":
            return {"tools": [], "nextCursor": "again"}
        case "odd-names":
            return {"tools": odd_names()}
        case "odd-schemas":
            return {"tools": [_tool("odd", inputSchema=schema) for schema in ODD_SCHEMAS]}
        case _ if manner in BAD_SCHEMAS:
            return {"tools": [_tool("bad", inputSchema=BAD_SCHEMAS[manner])]}
        case "tools-text":
            return {"tools": SECRET}
        case "nameless-tool":
            return {"tools": [{"description": SECRET}]}
        case "list-fails":
            return ValueError(SECRET)
        case "long-descriptions":
            return {"tools": [_tool(f"tool-{n}", description="x" * 100_000) for n in range(20)]}
    return {"tools": []}


def _doubling(levels: int) -> dict[str, Any]:
    """Definitions each of which refers to the next one twice: resolved, they fill any memory."""
    return {
        str(n): {"properties": {side: {"$ref": f"#/$defs/{n + 1}"} for side in ("left", "right")}}
        for n in range(levels)
    } | {str(levels): {}}


BAD_SCHEMAS: dict[str, Any] = {
    "schema-empty": {},
    "schema-string": {"type": "string"},
    "schema-null": None,
    "schema-properties": {"type": "object", "properties": 5},
}
ODD_SCHEMAS: list[dict[str, Any]] = [
    {"type": "object"},
    {"type": "object", "properties": {"a": {"$ref": "#/nothing"}}},
    {"type": "object", "properties": {"a": {"type": ["string", "null"]}}, "required": ["b"]},
    {"type": "object", "anyOf": [{"required": ["a"]}, {}], "additionalProperties": False},
    {"type": "object", "properties": {"a": {"$ref": "http://169.254.169.254/schema.json"}}},
    {"type": "object", "properties": {"a": {"$ref": "#/$defs/a"}}, "$defs": {"a": {"$ref": "#/$defs/a"}}},
    {"type": "object", "properties": {"a": {"$ref": "#/$defs/0"}}, "$defs": _doubling(40)},
    {"type": "object", "title": 5, "description": ["x"]},
    {"type": "object", "properties": {"config": {}, "run_manager": {}, "self": {}, "state": {}}},
]


async def _called(asked: dict[str, Any]) -> Response:
    name = asked["params"]["name"]
    if name in RESULTS:
        return _answer(asked, RESULTS[name])
    match name:
        case "raises":
            return _answer(asked, ValueError("the tool's own words"))
        case "unauthorized" | "teapot":
            return Response(SECRET, 401 if name == "unauthorized" else 418)
        case "accepted":
            return Response(status_code=202)
        case "other-id":
            return _answer({**asked, "id": 99_999}, RESULTS["good"])
        case "no-json":
            return Response(b"{", media_type="application/json")
    return await misbehaved(name) or _answer(asked, RESULTS["good"])
