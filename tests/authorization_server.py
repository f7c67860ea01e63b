"""An authorization server and an MCP server behind it, both real, on loopback, as bad as a test wants."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import secrets
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import anyio
import httpx
from mcp.server.mcpserver import MCPServer
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from tests.running import running

LIFE = 3600


@dataclass(slots=True, kw_only=True)
class Told:
    """What one token stands for."""

    client: str
    scope: str
    resource: str
    ends: float


@dataclass(kw_only=True)
class AuthorizationServer:
    """An authorization server that agrees with whoever comes.

    Attributes:
        path: Of its issuer.
        form: Where its metadata is: RFC 8414, OpenID's place, or OpenID's place behind the path.
        metadata: What its metadata has besides, or None for a member that is left out.
        iss: What its answers name as the issuer: True for its own, False for nothing.
        life: Seconds for which its access tokens are good.
        grants: Scopes that it gives; None for all that is asked for.
        declines: The error that it sends users back with.
        token_status: With which token requests are refused.
        endless: A path that answers without end.
        renewals: Held up while a test wants it.
        asked: The forms that its endpoints were sent, by path.
    """

    path: str = ""
    form: str = "oauth"
    metadata: dict[str, Any] = field(default_factory=dict)
    iss: bool | str = True
    life: int | None = LIFE
    grants: str | None = None
    declines: str = ""
    token_status: int = 200
    endless: str = ""
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    clients: dict[str, dict[str, Any]] = field(default_factory=dict)
    codes: dict[str, tuple[dict[str, str], Told]] = field(default_factory=dict)
    tokens: dict[str, Told] = field(default_factory=dict)
    refreshers: dict[str, Told] = field(default_factory=dict)
    origin: str = ""
    pause: float = 0

    @property
    def issuer(self) -> str:
        """Its name."""
        return f"{self.origin}{self.path}"

    @property
    def app(self) -> Any:
        """Its application."""
        return Starlette(routes=[Route("/{path:path}", self._serve, methods=["GET", "POST"])])

    def requests(self, path: str) -> list[dict[str, str]]:
        """What was sent to one of its endpoints."""
        return [form for asked, form in self.asked if asked == path]

    def document(self) -> dict[str, Any]:
        """Its metadata."""
        known = {
            "issuer": self.issuer,
            "authorization_endpoint": f"{self.origin}/authorize",
            "token_endpoint": f"{self.origin}/token",
            "registration_endpoint": f"{self.origin}/register",
            "revocation_endpoint": f"{self.origin}/revoke",
            "response_types_supported": ["code"],
            "code_challenge_methods_supported": ["S256"],
            "authorization_response_iss_parameter_supported": True,
            **self.metadata,
        }
        return {name: value for name, value in known.items() if value is not None}

    def revoke_all(self) -> None:
        """End every token."""
        self.tokens.clear()
        self.refreshers.clear()

    async def _serve(self, request: Request) -> Response:
        path = request.url.path
        body = await request.body()
        sent = json.loads(body) if path == "/register" else dict(parse_qsl(body.decode()))
        self.asked.append((path, {**dict(request.query_params), **sent}))
        if self.endless and self.endless in path:
            return StreamingResponse(_endless())
        if path == self._place:
            return JSONResponse(self.document())
        match path:
            case "/authorize":
                return self._authorize(dict(request.query_params))
            case "/register":
                return self._register(sent)
            case "/token":
                return await self._token(sent, request.headers)
            case "/revoke":
                self.tokens.pop(sent["token"], None)
                self.refreshers.pop(sent["token"], None)
                return Response()
        return Response(status_code=404)

    @property
    def _place(self) -> str:
        match self.form:
            case "oauth":
                return f"/.well-known/oauth-authorization-server{self.path}"
            case "openid":
                return f"/.well-known/openid-configuration{self.path}"
        return f"{self.path}/.well-known/openid-configuration"

    def _register(self, sent: dict[str, Any]) -> Response:
        client = {**sent, "client_id": f"client-{secrets.token_hex(4)}"}
        self.clients[client["client_id"]] = client
        return JSONResponse(client, 201)

    def _authorize(self, asked: dict[str, str]) -> Response:
        back = {"state": asked["state"]}
        if self.iss:
            back["iss"] = self.issuer if self.iss is True else self.iss
        if self.declines:
            back |= {"error": self.declines, "error_description": "<b>the AS's own words</b>"}
        else:
            back["code"] = secrets.token_urlsafe(16)
            scope = asked.get("scope", "") if self.grants is None else self.grants
            told = Told(client=asked["client_id"], scope=scope, resource=asked["resource"], ends=0)
            self.codes[back["code"]] = (asked, told)
        return RedirectResponse(f"{asked['redirect_uri']}?{urlencode(back)}")

    async def _token(self, sent: dict[str, str], headers: Headers) -> Response:
        began = time.monotonic()
        while time.monotonic() - began < self.pause:  # noqa: ASYNC110 - a test may end it
            await anyio.sleep(0.01)
        if self.token_status != 200:
            return JSONResponse({"error": "invalid_grant"}, self.token_status)
        if sent["grant_type"] == "refresh_token":
            told = self.refreshers.pop(sent["refresh_token"], None)
        else:
            asked, told = self.codes.pop(sent["code"], ({}, None))
            proof = base64.urlsafe_b64encode(hashlib.sha256(sent["code_verifier"].encode()).digest())
            if asked.get("code_challenge") != proof.rstrip(b"=").decode():
                told = None
        if told is None or sent["resource"] != told.resource:
            return JSONResponse({"error": "invalid_grant"}, 400)
        return JSONResponse(self._given(told))

    def _given(self, told: Told) -> dict[str, Any]:
        access, refresh = f"access-{secrets.token_hex(12)}", f"refresh-{secrets.token_hex(12)}"
        life = LIFE if self.life is None else self.life
        self.tokens[access] = Told(
            client=told.client, scope=told.scope, resource=told.resource, ends=time.time() + life
        )
        self.refreshers[refresh] = told
        ends = {} if self.life is None else {"expires_in": self.life}
        return {
            "access_token": access,
            "token_type": "bearer",
            "refresh_token": refresh,
            "scope": told.scope,
            **ends,
        }


@dataclass(kw_only=True)
class ProtectedMCP:
    """An MCP server of the SDK's, behind a door that wants a token.

    Attributes:
        scope: What its challenge asks for.
        needs: Scopes that its tools need.
        metadata: What its protected resource metadata has besides; None for a member that is left out.
        challenge: Whether it says where its metadata is.
        seen: The tools that were called, and the token of each call.
        headers: All `Authorization` headers that came, with the path.
        redirect: Where requests with a token are sent on to.
        together: So many requests with a token must be there before one of them is answered.
        most: So many were.
        listened: How often it was asked for its news.
        may_listen: Who asks for its news is looked at when this is set.
        may_answer: Tools answer when this is set.
    """

    by: AuthorizationServer
    scope: str = "read"
    needs: dict[str, str] = field(default_factory=lambda: {"write": "write"})
    metadata: dict[str, Any] = field(default_factory=dict)
    challenge: bool = True
    seen: list[tuple[str, str]] = field(default_factory=list)
    headers: list[str] = field(default_factory=list)
    origin: str = ""
    redirect: str = ""
    together: int = 0
    most: int = 0
    listened: int = 0
    may_listen: threading.Event | None = None
    may_answer: threading.Event | None = None

    @property
    def url(self) -> str:
        """Where it is."""
        return f"{self.origin}/mcp"

    @property
    def app(self) -> Any:
        """Its application."""
        server = MCPServer("protected", log_level="ERROR")
        server.add_tool(read)
        server.add_tool(write)
        inner = server.streamable_http_app(host="127.0.0.1")

        async def serve(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http":
                return await inner(scope, receive, send)
            request = Request(scope, receive)
            body = await request.body()
            await self._listens(body)
            refused = self._refusal(request, body)
            if refused:
                return await refused(scope, receive, send)
            if self.may_answer and b"tools/call" in body:
                await asyncio.to_thread(self.may_answer.wait, 30)
            await self._meet(request)
            sent = False

            async def again() -> Message:
                nonlocal sent
                if sent:
                    return await receive()
                sent = True
                return {"type": "http.request", "body": body, "more_body": False}

            return await inner(scope, again, send)

        return serve

    async def _listens(self, body: bytes) -> None:
        if b"subscriptions/listen" in body:
            self.listened += 1
            if self.may_listen:
                await asyncio.to_thread(self.may_listen.wait, 30)

    async def _meet(self, request: Request) -> None:
        if request.url.path == "/mcp" and self.together:
            self.most += 1
            with anyio.fail_after(30):
                while self.most < self.together:  # noqa: ASYNC110 - of few requests, in a test
                    await anyio.sleep(0.01)

    def _refusal(self, request: Request, body: bytes) -> Response | None:
        if request.url.path.startswith("/.well-known/oauth-protected-resource"):
            return self._metadata(request.url.path)
        if request.url.path != "/mcp":
            return Response(status_code=404)
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        self.headers.append(token)
        if token and self.redirect:
            return RedirectResponse(self.redirect, 307)
        told = self.by.tokens.get(token)
        if told is None or told.ends < time.time() or told.resource != self.url:
            return Response(status_code=401, headers={"www-authenticate": self._challenge(self.scope)})
        asked = json.loads(body) if body else {}
        name = asked.get("params", {}).get("name", "") if asked.get("method") == "tools/call" else ""
        need = self.needs.get(name, "")
        if not set(need.split()) <= set(told.scope.split()):
            lacking = f'{self._challenge(need)}, error="insufficient_scope"'
            return Response(status_code=403, headers={"www-authenticate": lacking})
        if name:
            self.seen.append((name, token))
        return None

    def _challenge(self, scope: str) -> str:
        place = f'resource_metadata="{self.origin}/.well-known/oauth-protected-resource/mcp"'
        return ", ".join([f'Bearer scope="{scope}"', *([place] if self.challenge else [])])

    def _metadata(self, path: str) -> Response:
        known = {"resource": self.url, "authorization_servers": [self.by.issuer], **self.metadata}
        if path != "/.well-known/oauth-protected-resource/mcp":
            return Response(status_code=404)
        return JSONResponse({name: value for name, value in known.items() if value is not None})


def read() -> str:
    """Read something."""
    return "what was read"


def write() -> str:
    """Write something."""
    return "it is written"


async def _endless() -> AsyncIterator[bytes]:
    for _ in range(4000):  # an end all the same, if nobody hangs up
        yield b" " * 65_536
        await anyio.sleep(0.001)


@contextmanager
def guarded_server(**more: Any) -> Iterator[tuple[AuthorizationServer, ProtectedMCP]]:
    """Run both; arguments are the authorization server's."""
    by = AuthorizationServer(**more)
    far = ProtectedMCP(by=by)
    with running(by.app, grace=0) as by.origin, running(far.app, grace=0) as far.origin:
        yield by, far


def agreed(url: str) -> dict[str, str]:
    """Go where a user is sent to sign in, agree, and return what the browser is sent back with."""
    answer = httpx.get(url, trust_env=False, timeout=10)
    assert answer.status_code == 307, answer.text
    return dict(parse_qsl(urlsplit(answer.headers["location"]).query))
