"""Signing in to MCP servers: where browsers come back to, who we are, and how it all is taken back."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from html import escape

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response

from mcp_chat.api.bodies import FinishBody, read_body
from mcp_chat.api.errors import STATUS
from mcp_chat.api.identity import Identity, require_user
from mcp_chat.commands import Command, SignedIn, SignedOut
from mcp_chat.configs import UserConfigs
from mcp_chat.dispatch import Dispatch
from mcp_chat.exceptions import ChatError, Forbidden, LoginUnavailable, NotAuthenticated, NotFound
from mcp_chat.identity import Principal
from mcp_chat.oauth.inquiry import client_metadata
from mcp_chat.oauth.sign_ins import SignIns

CALLBACK = "/llmchat/oauth/callback"
CLIENT = "/llmchat/oauth/client.json"

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Sign-in</title>
<link rel="icon" href="{root}web/icon.svg" type="image/svg+xml">
<link rel="stylesheet" href="{root}web/style/base.css">
<link rel="stylesheet" href="{root}web/style/page.css">
<script type="module" src="{root}web/callback.js"></script>
</head>
<body>
<main class="middle" data-outcome="{outcome}" data-server="{server}">
<div class="card"><p role="status">{text}</p></div>
</main>
</body>
</html>
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class OAuth:
    """The endpoints and what they work with.

    Attributes:
        public_url: Where browsers reach the chat; empty if nobody knows.
        max_body: Bytes of a body.
    """

    identity: Identity
    sign_ins: SignIns
    dispatch: Dispatch
    configs: UserConfigs
    public_url: str
    max_body: int

    async def callback(self, request: Request) -> Response:
        """End the sign-in that a browser comes back from; if it does not say who it is, its page does."""
        if request.method == "HEAD":  # nobody's answer is used up by a look
            return Response(media_type="text/html")
        given = request.query_params
        try:
            user = await self._known(request)
            if user is None:
                return _page(request, "ask", "The chat takes over...")
            alias = await self._finished(
                user, given.get("state", ""), given.get("code", ""), given.get("iss"), given.get("error", "")
            )
        except ChatError as error:
            return _page(request, "failed", str(error), status=STATUS[error.code])
        return _page(request, "done", f"You are signed in to {alias}. You can close this window.", alias)

    async def finish(self, request: Request) -> Response:
        """End a sign-in for a browser that did not say who it is when it came back."""
        await require_user(request, self.identity)
        body = await read_body(request, FinishBody, limit=self.max_body)
        user = await require_user(request, self.identity, body.user_id)
        alias = await self._finished(user, body.state, body.code, body.iss, body.error)
        return JSONResponse({"alias": alias, "signed_in": True})

    async def client(self, request: Request) -> Response:
        """Say who we are: the client id metadata document."""
        if not self.public_url.startswith("https:"):
            raise NotFound
        document = {
            "client_id": f"{self.public_url}{CLIENT}",
            "client_uri": self.public_url,
            "token_endpoint_auth_method": "none",
            **client_metadata(f"{self.public_url}{CALLBACK}"),
        }
        return JSONResponse(document, headers={"cache-control": "public, max-age=3600"})

    async def sign_out(self, request: Request) -> Response:
        """Forget what a sign-in has allowed, on all workers, and tell the authorization server."""
        user = await require_user(request, self.identity, request.query_params.get("user_id"))
        alias = request.path_params["alias"]
        if not await self.sign_ins.forget(user.key, alias):
            raise NotFound(f"You are not signed in to a server {alias}.")
        await self._tell(user, SignedOut(alias=alias))
        return JSONResponse({"alias": alias, "signed_in": False})

    async def _known(self, request: Request) -> Principal | None:
        try:
            return await self.identity.identify(request)
        except (NotAuthenticated, Forbidden, LoginUnavailable):
            return None

    async def _finished(self, user: Principal, state: str, code: str, iss: str | None, error: str) -> str:
        alias = await self.sign_ins.finish(user.key, state, code, iss, error=error)
        await self._tell(user, SignedIn(alias=alias))
        return alias

    async def _tell(self, user: Principal, command: Command) -> None:
        """Tell the user's owner, if there is one; without that it finds out with the next request."""
        with contextlib.suppress(ChatError):
            if await self.configs.exists(user.key):
                await self.dispatch.submit(user.key, command)


def _page(request: Request, outcome: str, text: str, server: str = "", *, status: int = 200) -> Response:
    root = "../" * (request.scope["path"].removeprefix(request.scope.get("root_path", "")).count("/") - 1)
    filled = PAGE.format(root=root, outcome=outcome, server=escape(server), text=escape(text))
    return HTMLResponse(filled, status)
