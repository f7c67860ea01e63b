"""What transports do between calls: listen, ask again, say goodbye, and know what a server speaks."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import ip_network
from typing import Any

import anyio
import pytest
from mcp import Client, MCPError
from mcp.server import MCPServer
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from mcp_chat import netguard
from mcp_chat.config import ServerConfig
from mcp_chat.dialer import Dialer, Generations
from mcp_chat.limits import ServerLimits
from mcp_chat.netguard import Policy
from tests.running import running

pytestmark = pytest.mark.anyio

LOOPBACK = Policy((ip_network("127.0.0.0/8"),))
EVENTS = "text/event-stream"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def dialer(**options: Any) -> Dialer:
    values: dict[str, Any] = {"timeout": 10, "silence": 10, "limits": ServerLimits(), **options}
    return Dialer(LOOPBACK, **values)


@dataclass
class Old:
    """A server of the older protocol with sessions, by hand.

    Attributes:
        stream: What it says on the stream for what was not asked for, each time.
        call: What it answers a call with.
        asked: Methods of the protocol, or of HTTP.
        modern: Whether it has learned the newer protocol, and forgotten the older one.
    """

    stream: bytes = b": nothing yet\n\n"
    ends: bool = False
    call: bytes = b""
    modern: bool = False
    asked: list[str] = field(default_factory=list)
    heads: list[dict[str, str]] = field(default_factory=list)

    @property
    def app(self) -> Starlette:
        return Starlette(routes=[Route("/{path}", self._serve, methods=["GET", "POST", "DELETE"])])

    def count(self, what: str) -> int:
        return self.asked.count(what)

    async def _serve(self, request: Request) -> Response:
        if request.path_params["path"] == "moved":
            return RedirectResponse("/mcp", 307)
        self.heads.append({"": request.method, **request.headers})
        if request.method != "POST":
            self.asked.append(request.method)
            if request.method == "GET":
                return StreamingResponse(self._stream(), media_type=EVENTS)
            return Response(status_code=200)
        sent = await request.json()
        self.asked.append(sent["method"])
        if "id" not in sent:
            return Response(status_code=202)
        if sent["method"] == "tools/call" and self.call:
            return Response(self.call, media_type=EVENTS)
        return self._answer(sent)

    def _answer(self, sent: dict[str, Any]) -> Response:
        answer = {"jsonrpc": "2.0", "id": sent["id"], **self._said(sent["method"])}
        session = {"mcp-session-id": "the-session"} if sent["method"] == "initialize" else {}
        return Response(json.dumps(answer), media_type="application/json", headers=session)

    def _said(self, method: str) -> dict[str, Any]:
        capabilities: dict[str, Any] = {"tools": {}}
        match method:
            case "server/discover" if self.modern:
                versions = ["2026-07-28"]
                return {
                    "result": {
                        "supportedVersions": versions,
                        "capabilities": capabilities,
                        "resultType": "complete",
                    }
                }
            case "initialize" if not self.modern:
                info = {"name": "old", "version": "1"}
                version = "2025-11-25"
                return {
                    "result": {"protocolVersion": version, "capabilities": capabilities, "serverInfo": info}
                }
            case "tools/list":
                more = {"resultType": "complete", "ttlMs": 0, "cacheScope": "private"} if self.modern else {}
                return {"result": {"tools": [{"name": "a", "inputSchema": {"type": "object"}}], **more}}
            case "tools/call":
                return {"result": {"content": [{"type": "text", "text": "good"}], "resultType": "complete"}}
        return {"error": {"code": -32601, "message": "no such method"}}

    async def _stream(self) -> AsyncIterator[bytes]:
        yield self.stream
        if not self.ends:
            await asyncio.sleep(3600)


@pytest.fixture
def old() -> Old:
    return Old()


@pytest.fixture
def url(old: Old) -> Iterator[str]:
    with running(old.app, grace=0) as url:
        yield url


@asynccontextmanager
async def opened(url: str, path: str = "mcp", **options: Any) -> AsyncIterator[Client]:
    with anyio.fail_after(30):
        async with dialer(**options)(ServerConfig(alias="a", url=f"{url}/{path}")) as client:
            yield client


async def until(condition: Callable[[], bool]) -> None:
    with anyio.fail_after(15):
        while not condition():  # noqa: ASYNC110 - the far side tells nobody
            await anyio.sleep(0.01)


async def heard(client: Client) -> str:
    result = await client.call_tool("a", {})
    return str(result.content[0].text)  # type: ignore[union-attr]


async def test_a_session_is_ended_with_its_connection(old: Old, url: str) -> None:
    async with opened(url) as client:
        assert await heard(client) == "good"
        assert old.count("DELETE") == 0
    assert old.count("DELETE") == 1
    assert old.heads[-1]["mcp-session-id"] == "the-session"


async def test_a_stream_that_ends_is_asked_for_again_where_it_ended(old: Old, url: str) -> None:
    old.stream, old.ends = b"id: the-place\nretry: 10\ndata:\n\n", True
    async with opened(url):
        await until(lambda: old.count("GET") >= 2)
    listened = [head for head in old.heads if head[""] == "GET"]
    assert "last-event-id" not in listened[0]
    assert listened[1]["last-event-id"] == "the-place"


async def test_a_server_does_not_have_us_ask_for_its_stream_all_the_time(old: Old, url: str) -> None:
    old.stream, old.ends = b"retry: 0\n\n", True
    async with opened(url) as client:
        await until(lambda: old.count("GET") >= netguard.LISTENS_AT_ONCE)
        before, began = old.count("GET"), time.monotonic()
        for _ in range(20):
            assert await heard(client) == "good"
            await anyio.sleep(0.05)
        seconds = time.monotonic() - began
        assert old.count("GET") - before <= 4 + netguard.LISTENS_PER_SECOND * seconds


async def test_a_call_that_is_put_off_again_and_again_has_its_limit(old: Old, url: str) -> None:
    """Each stream ends before the answer and says to come again at once."""
    old.call = old.stream = b"id: 1\nretry: 0\ndata:\n\n"
    old.ends = True
    async with opened(url) as client:
        with pytest.raises((MCPError, TimeoutError)), anyio.fail_after(3):
            await client.call_tool("a", {})
        assert old.count("GET") < 2 * netguard.LISTENS_AT_ONCE
        assert old.count("tools/call") == 1, "a call is not made again"
        old.call = b""
        assert await heard(client) == "good"


@pytest.mark.parametrize("transport", ["streamable_http", "sse"])
async def test_a_server_that_has_nothing_to_tell_may_be_silent_between_calls(transport: Any) -> None:
    """Else it would lose what it has in mind of its user."""
    server = MCPServer("silent", log_level="ERROR")
    server.add_tool(lambda: "good", name="a")
    app = server.sse_app() if transport == "sse" else server.streamable_http_app()
    place = "sse" if transport == "sse" else "mcp"
    with running(app, grace=0) as url, anyio.fail_after(30):
        far = ServerConfig(alias="a", url=f"{url}/{place}", transport=transport)
        async with dialer(silence=3)(far) as client:
            await anyio.sleep(4)
            assert await heard(client) == "good"


async def test_a_redirect_within_the_origin_is_followed_and_no_other(old: Old, url: str) -> None:
    async with opened(url, "moved") as client:
        assert await heard(client) == "good"


# Generations


async def test_a_server_of_the_older_protocol_is_asked_for_the_newer_one_once(old: Old, url: str) -> None:
    known = Generations()
    for _ in range(3):
        async with opened(url, generations=known) as client:
            assert await heard(client) == "good"
    assert (old.count("server/discover"), old.count("initialize")) == (1, 3)
    async with opened(url, "mcp?user=another", generations=known):
        pass
    async with opened(url, "elsewhere", generations=known):
        pass
    assert (old.count("server/discover"), old.count("initialize")) == (2, 5)


async def test_a_server_that_has_learned_the_newer_protocol_is_spoken_to_in_it(old: Old, url: str) -> None:
    known = Generations()
    async with opened(url, generations=known) as client:
        assert client.protocol_version == "2025-11-25"
    old.modern = True
    for _ in range(2):
        async with opened(url, generations=known) as client:
            assert client.protocol_version == "2026-07-28"
            assert await heard(client) == "good"
    assert old.count("initialize") == 2


async def test_what_is_known_of_a_server_is_not_known_for_ever(old: Old, url: str) -> None:
    known = Generations(seconds=0)
    for _ in range(2):
        async with opened(url, generations=known):
            pass
    assert old.count("server/discover") == 2


async def test_only_so_many_servers_are_remembered(old: Old, url: str) -> None:
    known = Generations(most=2)
    for path in ("a", "b", "c", "a"):
        async with opened(url, path, generations=known):
            pass
    assert old.count("server/discover") == 4
    async with opened(url, "c", generations=known):
        pass
    assert old.count("server/discover") == 4


async def test_a_server_that_is_away_is_asked_both_ways_and_told_of() -> None:
    known, server = Generations(), ServerConfig(alias="a", url="http://127.0.0.1:1/mcp")
    known.note(server, "2025-11-25")
    with pytest.raises(ExceptionGroup), anyio.fail_after(10):
        async with dialer(generations=known)(server):
            pass
    assert not known.is_old(server)
