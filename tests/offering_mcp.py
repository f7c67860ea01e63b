"""An MCP server with prompts, resources, templates, completions and subscriptions; a test says when."""

from __future__ import annotations

import base64
import json
from typing import Any

import mcp_types as mcp
from mcp.server.context import ServerRequestContext
from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.prompts.base import AssistantMessage, UserMessage
from mcp.shared.subscriptions import (
    PromptsListChanged,
    ResourcesListChanged,
    ResourceUpdated,
    ServerEvent,
    ToolsListChanged,
)
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from mcp_chat.demo.server import sessions_only

PNG = b"\x89PNG\r\n\x1a\n" + b"pixels"
ODD = "notes://a b/ä?x=<script>&y='\"\\#frag"


class Old:
    """Keeps a server from noticing that its client knows a newer revision, as one of before does."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        body = await Request(scope, receive).body()
        if b'"server/discover"' in body:
            asked = json.loads(body)
            body = json.dumps({**asked, "params": {}}).encode()
        headers = [each for each in scope["headers"] if each[0] != b"content-length"]
        scope = {**scope, "headers": [*headers, (b"content-length", str(len(body)).encode())]}

        async def once() -> Any:
            return {"type": "http.request", "body": body, "more_body": False}

        await self._app(scope, once, send)


class Offering:
    """The server; `/touch` and `/change` beside it make it tell something.

    Args:
        modern: Whether it speaks 2026-07-28 only.

    Attributes:
        subscribed: What its clients of older revisions follow.
        reads: How often each resource was read.
        notes: What is in the notes.
    """

    def __init__(self, *, modern: bool) -> None:
        self.subscribed: dict[str, list[Any]] = {}
        self.reads: dict[str, int] = {}
        self.notes = "first"
        self._sessions: set[Any] = set()
        middleware = [] if modern else [sessions_only]
        self.server = MCPServer("offering", log_level="CRITICAL", middleware=middleware)
        self._add_prompts()
        self._add_resources()
        if not modern:
            self._add_subscriptions()
        self.server.completion()(self._complete)  # type: ignore[no-untyped-call]
        self.server.custom_route("/touch", methods=["POST"])(self._touch)
        self.server.custom_route("/change", methods=["POST"])(self._change)

    def app(self, transport: str) -> Any:
        """Return it as an application at `/mcp`."""
        if transport == "sse":
            return Old(self.server.sse_app(sse_path="/mcp", host="127.0.0.1"))
        return self.server.streamable_http_app(host="127.0.0.1")

    def _add_prompts(self) -> None:
        @self.server.prompt(title="Greeting", description="Says hello.\u200b")
        def greet(name: str, tone: str = "warm") -> str:
            return f"Greet {name} in a {tone} tone."

        @self.server.prompt()
        def debate(topic: str) -> list[Any]:
            return [
                UserMessage(f"Let us talk about {topic}."),
                AssistantMessage("Gladly. What is your view?"),
                UserMessage("I am for it."),
            ]

        @self.server.prompt()
        def endless() -> list[Any]:
            return [UserMessage(f"line {n}") for n in range(10_000)]

        @self.server.prompt()
        def picture() -> list[Any]:
            data = base64.b64encode(PNG).decode()
            return [
                UserMessage(mcp.ImageContent(data=data, mime_type="image/png")),
                UserMessage("What is this?"),
            ]

        @self.server.prompt(name="odd/../name?#ä")
        def odd() -> str:
            return "Odd."

        @self.server.prompt()
        def unanswered() -> list[Any]:
            return [UserMessage("Q"), AssistantMessage("A")]

    def _add_resources(self) -> None:
        def read(uri: str) -> None:
            self.reads[uri] = self.reads.get(uri, 0) + 1

        @self.server.resource("notes://today", description="What is to be done.", mime_type="text/plain")
        def today() -> str:
            read("notes://today")
            return self.notes

        @self.server.resource("image://cat.png", mime_type="image/png")
        def cat() -> bytes:
            return PNG

        @self.server.resource("bytes://odd.bin", mime_type="image/svg+xml")
        def odd() -> bytes:
            return b"\x00\x01\xff"

        @self.server.resource("page://evil.html", mime_type="text/html")
        def page() -> str:
            return "<script>alert(1)</script>" + "x" * 200_000

        @self.server.resource("huge://all", mime_type="text/plain")
        def huge() -> str:
            return "x" * 100_000_000

        @self.server.resource("javascript:alert(1)", mime_type="text/plain")
        def script() -> str:
            return "not run"

        @self.server.resource("notes://day/{day}")
        def day(day: str) -> str:
            return f"notes of {day}"

    def _add_subscriptions(self) -> None:
        async def subscribe(ctx: ServerRequestContext[Any, Any], params: Any) -> mcp.EmptyResult:
            self.subscribed.setdefault(params.uri, []).append(ctx.session)
            return mcp.EmptyResult()

        async def unsubscribe(ctx: ServerRequestContext[Any, Any], params: Any) -> mcp.EmptyResult:
            self.subscribed.pop(params.uri, None)
            return mcp.EmptyResult()

        add = self.server._lowlevel_server.add_request_handler
        add("resources/subscribe", mcp.SubscribeRequestParams, subscribe)
        add("resources/unsubscribe", mcp.UnsubscribeRequestParams, unsubscribe)

    async def _complete(self, ref: Any, argument: Any, context: Any) -> mcp.Completion:
        known = (context and context.arguments) or {}
        words = ["warm", "wary", "wild"] if argument.name == "tone" else [f"{known.get('name', '')}-x"]
        return mcp.Completion(values=[word for word in words if word.startswith(argument.value)])

    async def _touch(self, request: Request) -> Response:
        """Tell, some times, that a resource has changed."""
        asked = await request.json()
        for _ in range(asked.get("times", 1)):
            for session in self.subscribed.get(asked["uri"], ()):
                await session.send_resource_updated(asked.get("as", asked["uri"]))
            await self.server._subscriptions.publish(ResourceUpdated(uri=asked["uri"]))
        return JSONResponse({})

    async def _change(self, request: Request) -> Response:
        """Tell that the lists have changed."""
        events: list[ServerEvent] = [ToolsListChanged(), PromptsListChanged(), ResourcesListChanged()]
        for event in events:
            await self.server._subscriptions.publish(event)
        for session in [each for sessions in self.subscribed.values() for each in sessions]:
            await session.send_tool_list_changed()
            await session.send_prompt_list_changed()
            await session.send_resource_list_changed()
        return JSONResponse({})
