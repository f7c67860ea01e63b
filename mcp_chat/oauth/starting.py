"""Begins a sign-in, or leads to the one that was begun a moment ago."""

from __future__ import annotations

import secrets
import time

import anyio
import httpx2
from mcp.client.auth.utils import extract_scope_from_www_auth

from mcp_chat.config import ServerConfig
from mcp_chat.exceptions import SignInNeeded
from mcp_chat.oauth.dial import Unreached
from mcp_chat.oauth.inquiry import Inquiry
from mcp_chat.oauth.kept import Kept, Registration
from mcp_chat.oauth.tokens import Send
from mcp_chat.oauth.values import Grant, place_of

SECONDS = 15.0
"""For all that is found out before a person is needed."""

AGAIN = 300.0
"""Seconds for which who needs the same is led to the same sign-in: the server is not asked each time."""


class Starting:
    """Begins sign-ins of one user at one server.

    Args:
        server: The server.
        kept: The user's sign-ins.
        send: Sends requests to the addresses that the server tells.
        redirect_uri: Where the browser comes back to; empty if nobody knows where that is.
        client_url: The address of the document that says who we are.
    """

    def __init__(
        self, server: ServerConfig, kept: Kept, send: Send, *, redirect_uri: str, client_url: str | None
    ) -> None:
        self._server = server
        self._kept = kept
        self._send = send
        self._redirect_uri = redirect_uri
        self._client_url = client_url

    async def __call__(
        self, request: httpx2.Request, refused: httpx2.Response, grant: Grant | None
    ) -> SignInNeeded:
        """Return where the user signs in.

        Args:
            request: What the server has refused.
            refused: Its answer.
            grant: What the user has allowed so far.

        Raises:
            SignInFailed: There is no way to sign in.
            ServerUnavailable: It wants something else than a sign-in.
            Unreached: Somebody does not answer who has to be asked.
        """
        wanted = f"{refused.status_code} {extract_scope_from_www_auth(refused) or ''}"
        pending = await self._kept.pending(place_of(self._server))
        if pending and pending.wanted == wanted and time.time() - pending.began < AGAIN:
            return SignInNeeded(self._server.alias, pending.url)
        return await self._begin(request, refused, grant, wanted)

    async def _begin(
        self, request: httpx2.Request, refused: httpx2.Response, grant: Grant | None, wanted: str
    ) -> SignInNeeded:
        state = secrets.token_urlsafe(32)
        known = Registration(self._kept, self._server, self._redirect_uri, self._client_url)
        inquiry = Inquiry(
            self._server, known, redirect_uri=self._redirect_uri, client_url=self._client_url, grant=grant
        )
        try:
            with anyio.fail_after(SECONDS):
                flow = await inquiry.flow(request, refused, self._send, state)
        except TimeoutError:
            raise Unreached from None
        await self._kept.begin(state, flow, wanted)
        return SignInNeeded(self._server.alias, flow.url)
