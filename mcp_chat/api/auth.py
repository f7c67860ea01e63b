"""Signing in: who am I, and in demo mode, who do I want to be."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from mcp_chat.api.bodies import Body, SignInBody, read_body
from mcp_chat.api.identity import Identity
from mcp_chat.exceptions import NotAuthenticated, NotFound
from mcp_chat.login.demo import DemoIdentity
from mcp_chat.login.origin import require_same_origin


@dataclass(frozen=True, slots=True, kw_only=True)
class Auth:
    """The endpoints of signing in.

    Attributes:
        demo: What gives cookies away in demo mode, and only there.
    """

    identity: Identity
    demo: DemoIdentity | None
    max_body: int

    async def who(self, request: Request) -> Response:
        """Tell how one signs in here, and who is signed in."""
        try:
            principal = await self.identity.identify(request)
        except NotAuthenticated:
            principal = None
        user = {"id": principal.id} if principal else None
        return JSONResponse({"mode": self.identity.mode, "user": user})

    async def sign_in(self, request: Request) -> Response:
        """Take a name."""
        identity = self._demo()
        require_same_origin(request)
        body = await read_body(request, SignInBody, limit=self.max_body)
        response = JSONResponse({"user": {"id": body.user}})
        identity.sign_in(body.user, request, response)
        return response

    async def sign_out(self, request: Request) -> Response:
        """Give the name back."""
        identity = self._demo()
        require_same_origin(request)
        await read_body(request, Body, limit=self.max_body)
        response = JSONResponse({})
        identity.sign_out(request, response)
        return response

    def _demo(self) -> DemoIdentity:
        if self.demo is None:
            raise NotFound
        return self.demo
