"""MCP servers that ask: one made by hand, so that it may also misbehave, and the SDK's own."""

from __future__ import annotations

import asyncio
import json
import secrets
import threading
from dataclasses import dataclass, field
from typing import Annotated, Any

from mcp.server.mcpserver import Context, Elicit, MCPServer, Resolve
from mcp.shared.exceptions import UrlElicitationRequiredError
from mcp_types import ElicitRequestURLParams
from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

VERSION = "2026-07-28"
TASKS = "io.modelcontextprotocol/tasks"

TOOLS = (
    *("book", "pay", "two", "then", "patient", "moved"),
    *(
        "bomb",
        "thousand",
        "endless",
        "for-ever",
        "huge-state",
        "samples",
        "script",
        "plain",
        "user-info",
        "wrong",
    ),
    *("nested", "count", "ask-and-count", "lost", "slow-ask"),
)

WHEN = {
    "type": "object",
    "properties": {
        "day": {"type": "string", "format": "date", "title": "Which day"},
        "seats": {"type": "integer", "minimum": 1, "maximum": 8, "default": 2},
        "menu": {"type": "string", "enum": ["fish", "soup"]},
        "extras": {
            "type": "array",
            "items": {"anyOf": [{"const": "w", "title": "Window"}, {"const": "h", "title": "Highchair"}]},
        },
    },
    "required": ["day"],
}


def form(message: str, schema: Any) -> dict[str, Any]:
    """A request for a form."""
    return {
        "method": "elicitation/create",
        "params": {"mode": "form", "message": message, "requestedSchema": schema},
    }


def page(message: str, url: str) -> dict[str, Any]:
    """A request to open an address."""
    return {"method": "elicitation/create", "params": {"mode": "url", "message": message, "url": url}}


def wanted(requests: dict[str, Any] | None, state: str | None = None) -> dict[str, Any]:
    """A result that is none yet."""
    found: dict[str, Any] = {"resultType": "input_required"}
    return (
        found | ({"inputRequests": requests} if requests else {}) | ({"requestState": state} if state else {})
    )


def said(text: str, *, failed: bool = False) -> dict[str, Any]:
    """A result."""
    return {"resultType": "complete", "content": [{"type": "text", "text": text}], "isError": failed}


@dataclass
class Job:
    """A task at its server."""

    tool: str
    status: str = "working"
    given: dict[str, Any] = field(default_factory=dict)
    looks: int = 0


class AskingMCP:
    """A server of the newer generation.

    Attributes:
        calls: Names of the tools that were called, each time.
        done: What was carried out, and with what.
        jobs: Its tasks.
        go: Lets tasks end.
    """

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.done: list[Any] = []
        self.updates: list[Any] = []
        self.jobs: dict[str, Job] = {}
        self.states: dict[str, str] = {}
        self.cancelled: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.capabilities: dict[str, Any] = {}
        self.go = threading.Event()
        self.stale = True
        self.app = Starlette(routes=[Route("/mcp", self._serve, methods=["POST"])])

    def clear(self) -> None:
        """Forget all."""
        for each in (
            self.calls,
            self.done,
            self.updates,
            self.jobs,
            self.states,
            self.cancelled,
            self.headers,
        ):
            each.clear()
        self.go.clear()
        self.stale = True

    async def _serve(self, request: Request) -> Response:
        asked = await request.json()
        if "id" not in asked:
            return Response(status_code=202)
        params = asked.get("params") or {}
        self.headers.append(dict(request.headers))
        result = self._answer(asked["method"], params)
        if params.get("name") == "slow-ask" and params.get("inputResponses"):
            while not self.go.is_set():  # noqa: ASYNC110 - set in another thread
                await asyncio.sleep(0.01)
        body: dict[str, Any] = {"jsonrpc": "2.0", "id": asked["id"]}
        if isinstance(result, tuple):
            body["error"] = {"code": result[0], "message": result[1]}
        else:
            body["result"] = result
        return JSONResponse(body)

    def _answer(self, method: str, params: dict[str, Any]) -> Any:
        match method:
            case "server/discover":
                capabilities: dict[str, Any] = {"tools": {}, "extensions": {TASKS: {}}}
                return {
                    "supportedVersions": [VERSION],
                    "capabilities": capabilities,
                    "resultType": "complete",
                }
            case "tools/list":
                tools = [{"name": name, "inputSchema": {"type": "object"}} for name in TOOLS]
                self.stale = False
                return {"tools": tools, "resultType": "complete", "ttlMs": 0, "cacheScope": "private"}
            case "tools/call":
                self.capabilities = params["_meta"]["io.modelcontextprotocol/clientCapabilities"]
                return self._called(params)
            case "tasks/get":
                return self._looked(params["taskId"])
            case "tasks/update":
                self.updates.append(params["inputResponses"])
                self.jobs[params["taskId"]].given |= params["inputResponses"]
                return {"resultType": "complete"}
            case "tasks/cancel":
                self.cancelled.append(params["taskId"])
                return {"resultType": "complete"}
        return (-32601, "unknown method")

    def _called(self, params: dict[str, Any]) -> Any:  # noqa: PLR0912 - one branch for each tool
        name, given, state = params["name"], params.get("inputResponses"), params.get("requestState")
        self.calls.append(name)
        match name:
            case "book" | "slow-ask":
                return self._finish(name, given, state) or self._first(name, {"when": form("When?", WHEN)})
            case "pay":
                url = "https://pay.example/checkout?order=1"
                return self._finish(name, given, state) or self._first(
                    name, {"pay": page("Please pay.", url)}
                )
            case "two":
                yes = {"type": "object", "properties": {"yes": {"type": "boolean"}}, "required": ["yes"]}
                both = {"a": form("First?", yes), "b": form("Second?", yes)}
                return self._finish(name, given, state) or self._first(name, both)
            case "then":
                if given and "b" in given:
                    return self._finish(name, given, state)
                more = {"type": "object", "properties": {"word": {"type": "string"}}}
                key = "b" if given else "a"
                return self._first(name, {key: form(f"Word {key}?", more)})
            case "patient":
                return self._finish(name, given, state) or self._first(name, None)
            case "moved":
                if self.stale or len(self.calls) == 1:
                    return (-32020, "headers do not match")
                return said("moved")
            case "bomb":
                fields = {f"f{n}": {"type": "string"} for n in range(2_000)}
                return wanted({"x": form("Fill in.", {"type": "object", "properties": fields})})
            case "nested":
                deep: dict[str, Any] = {
                    "type": "object",
                    "properties": {"a": {"type": "object", "properties": {}}},
                }
                return wanted({"x": form("Fill in.", deep)})
            case "thousand":
                return wanted({f"q{n}": form("?", WHEN) for n in range(1_000)})
            case "endless":
                return wanted(
                    {"q": form("More?", {"type": "object", "properties": {}})}, secrets.token_hex(8)
                )
            case "for-ever":
                return wanted(None, secrets.token_hex(8))
            case "huge-state":
                return wanted({"q": form("?", WHEN)}, "s" * 1_500_000)
            case "samples":
                message = {"role": "user", "content": {"type": "text", "text": "x"}}
                return wanted(
                    {
                        "x": {
                            "method": "sampling/createMessage",
                            "params": {"messages": [message], "maxTokens": 9},
                        }
                    }
                )
            case "script" | "plain" | "user-info":
                urls = {
                    "script": "javascript:alert(1)",
                    "plain": "http://pay.example/",
                    "user-info": "https://bank.example@evil.example/",
                }
                return wanted({"x": page("Open this.", urls[name])})
            case "wrong":
                return {"resultType": "input_required", "inputRequests": ["no", "mapping"]}
            case "count" | "ask-and-count" | "lost":
                return self._begun(name)
        return said("?", failed=True)

    def _first(self, name: str, requests: dict[str, Any] | None) -> Any:
        state = f"{name} {secrets.token_hex(64)} \u00e4\u2028"
        self.states[name] = state
        return wanted(requests, state)

    def _finish(self, name: str, given: Any, state: Any) -> Any:
        if state is None:
            return None
        if state != self.states.pop(name, None):
            return (-32602, "the state is not mine, or was used before")
        self.done.append((name, given))
        if any(each["action"] != "accept" for each in (given or {}).values()):
            return said(f"{name}: not done")
        return said(f"{name}: done")

    # Tasks

    def _begun(self, name: str) -> Any:
        task_id = secrets.token_hex(8)
        self.jobs[task_id] = Job(name)
        return self._shown(task_id, "task")

    def _shown(self, task_id: str, kind: str, **more: Any) -> dict[str, Any]:
        now = "2026-07-28T00:00:00Z"
        return {
            "resultType": kind,
            "taskId": task_id,
            "status": self.jobs[task_id].status,
            "statusMessage": f"look {self.jobs[task_id].looks}",
            "createdAt": now,
            "lastUpdatedAt": now,
            "ttlMs": 60_000,
            "pollIntervalMs": 10,
            **more,
        }

    def _looked(self, task_id: str) -> Any:
        job = self.jobs.get(task_id)
        if job is None or job.tool == "lost":
            return (-32602, "unknown task")
        job.looks += 1
        if job.tool == "ask-and-count" and not job.given:
            job.status = "input_required"
            return self._shown(task_id, "complete", inputRequests={"when": form("When?", WHEN)})
        job.status = "working"
        if self.go.is_set():
            if job.status != "completed":
                self.done.append((job.tool, dict(job.given)))
            job.status = "completed"
            result = {"content": [{"type": "text", "text": f"{job.tool}: done"}], "isError": False}
            return self._shown(task_id, "complete", result=result)
        return self._shown(task_id, "complete")


class Booking(BaseModel):
    """What the SDK's server asks."""

    day: str
    seats: int = 2


async def ask_when() -> Elicit[Booking]:
    """Ask for a day."""
    return Elicit("When?", Booking)


def sdk_server(done: list[Any]) -> MCPServer:
    """Return the SDK's server, which asks clients of either generation in their way."""
    server = MCPServer("bookings", log_level="ERROR")

    @server.tool()
    async def book(where: str, when: Annotated[Booking, Resolve(ask_when)]) -> str:
        """Book."""
        done.append((where, when.model_dump()))
        return f"booked {where}"

    @server.tool()
    async def live(ctx: Context) -> str:
        """Ask in the middle of the call."""
        found = await ctx.elicit("When?", Booking)
        done.append(found.model_dump())
        return f"live: {found.action}"

    @server.tool()
    async def live_page(ctx: Context) -> str:
        """Ask to open an address."""
        found = await ctx.elicit_url("Please pay.", "https://pay.example/checkout", "e1")
        done.append(found.action)
        return f"page: {found.action}"

    paid: list[str] = []

    @server.tool()
    async def gate(ctx: Context) -> str:
        """Want an address to be visited first."""
        if not paid:
            paid.append("now")
            url = "https://pay.example/first"
            raise UrlElicitationRequiredError(
                [ElicitRequestURLParams(message="Please pay first.", url=url, elicitation_id="e2")]
            )
        done.append("gate")
        paid.clear()
        return "gate: open"

    return server


class Older:
    """Makes an application one that knows nothing of the newer generation."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse what only the newer generation asks."""
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        body = await Request(scope, receive).body()
        asked = json.loads(body)
        if asked.get("method") == "server/discover":
            error = {"code": -32601, "message": "Method not found"}
            refusal = JSONResponse({"jsonrpc": "2.0", "id": asked["id"], "error": error})
            await refusal(scope, receive, send)
            return
        sent = False

        async def again() -> Message:
            nonlocal sent
            if sent:
                return await receive()
            sent = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self._app(scope, again, send)
