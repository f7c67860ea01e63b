"""An MCP server whose tools, pages and results are as large as a test wants; JSON-RPC by hand."""

from __future__ import annotations

import asyncio
import gzip
import json
import threading
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route


def tool(name: str, **more: Any) -> dict[str, Any]:
    """A tool as `tools/list` has it."""
    return {"name": name, "description": "", "inputSchema": {"type": "object"}, **more}


def nested(depth: int) -> dict[str, Any]:
    """A schema of so many objects within each other."""
    schema: dict[str, Any] = {"type": "object"}
    for _ in range(depth - 1):
        schema = {"type": "object", "x": schema}
    return schema


class SizedMCP:
    """A server with the paths `/json`, `/events` and `/gzip`: how its answers are sent.

    Its tool `size` answers with as many letters as it is asked for, `wait` after `seconds`.

    Attributes:
        tools: What it lists.
        page: Tools of a page; 0 for pages without tools and without end.
        at_once: Most calls that were on their way at a time.
        calls: The calls of tools that have come.
        pause: Seconds before it says hello.
        hellos: How often it was to say so.
        hold: Calls are answered when this is set.
    """

    def __init__(self) -> None:
        self.tools = [tool("size"), tool("wait")]
        self.page = 1000
        self.at_once = 0
        self.calls: list[dict[str, Any]] = []
        self.pause = 0.0
        self.hellos = 0
        self.hold: threading.Event | None = None
        self._now = 0
        self.app = Starlette(routes=[Route("/{form}", self._serve, methods=["GET", "POST", "DELETE"])])

    async def _serve(self, request: Request) -> Response:
        if request.method != "POST":
            return Response(status_code=405)
        asked = await request.json()
        if "id" not in asked:
            return Response(status_code=202)
        answer = {"jsonrpc": "2.0", "id": asked["id"], "result": await self._result(asked)}
        return _sent(json.dumps(answer).encode(), request.path_params["form"])

    async def _result(self, asked: dict[str, Any]) -> dict[str, Any]:
        params = asked.get("params") or {}
        match asked["method"]:
            case "initialize":
                self.hellos += 1
                await asyncio.sleep(self.pause)
                return {
                    "protocolVersion": "2025-06-18",
                    "capabilities": {"tools": {}},
                    "serverInfo": {"name": "sized", "version": "1"},
                }
            case "tools/list":
                begin = int(params.get("cursor") or 0)
                more = {"nextCursor": str(begin + (self.page or 1))}
                last = self.page and begin + self.page >= len(self.tools)
                return {"tools": self.tools[begin : begin + self.page], **({} if last else more)}
        if asked["method"] == "tools/call":
            self.calls.append(params)
        text = "x" * await self._called(params.get("arguments") or {})
        return {"content": [{"type": "text", "text": text}]}

    async def _called(self, args: dict[str, Any]) -> int:
        self._now += 1
        self.at_once = max(self.at_once, self._now)
        try:
            await asyncio.sleep(args.get("seconds", 0))
            if self.hold:
                await asyncio.to_thread(self.hold.wait, 50)
        finally:
            self._now -= 1
        return int(args.get("size", 1))


def _sent(body: bytes, form: str) -> Response:
    match form:
        case "events":
            return Response(b"event: message\ndata: " + body + b"\n\n", media_type="text/event-stream")
        case "gzip":
            headers = {"content-encoding": "gzip"}
            return Response(gzip.compress(body), media_type="application/json", headers=headers)
    return Response(body, media_type="application/json")
