"""All users' sign-ins at MCP servers: tokens for connections, ends of flows, and an end of it all."""

from __future__ import annotations

import re
from dataclasses import replace

import anyio
import structlog
from mcp.client.auth.utils import union_scopes

from mcp_chat.config import ServerConfig
from mcp_chat.exceptions import SignInFailed
from mcp_chat.netguard import Lookups, Policy
from mcp_chat.oauth.bearer import Bearer
from mcp_chat.oauth.dial import Dial
from mcp_chat.oauth.kept import Kept
from mcp_chat.oauth.starting import Starting
from mcp_chat.oauth.tokens import Refused, redeem, revoke
from mcp_chat.oauth.values import Authority, Flow, Grant, trusted_of
from mcp_chat.papers import Papers

log = structlog.get_logger()

STATE = re.compile(r"[A-Za-z0-9_-]{43}")

MAX_CODE = 4096
"""Characters of what an authorization server sends along."""

REVOKE_SECONDS = 5.0
"""In which authorization servers hear that grants have ended."""


class SignIns:
    """All users' sign-ins at MCP servers.

    Args:
        papers: Where they are kept.
        policy: Which addresses users may have dialled.
        lookups: Looks names up.
        redirect_uri: Where browsers come back to; empty if nobody knows where that is.
        client_url: The address of the document that says who we are; None if it has none.
        timeout: Seconds for one request to an authorization server.
    """

    def __init__(
        self,
        papers: Papers,
        policy: Policy,
        lookups: Lookups,
        *,
        redirect_uri: str,
        client_url: str | None,
        timeout: float,
    ) -> None:
        self._papers = papers
        self._policy = policy
        self._lookups = lookups
        self._redirect_uri = redirect_uri
        self._client_url = client_url
        self._timeout = timeout

    def auth(self, user: str, server: ServerConfig) -> Bearer | None:
        """Return what adds a user's token to requests to a server; None if it has a token from elsewhere."""
        if not server.signs_in:
            return None
        kept, send = Kept(self._papers, user), self._dial(user, trusted_of(server))
        starting = Starting(server, kept, send, redirect_uri=self._redirect_uri, client_url=self._client_url)
        return Bearer(user, server, self._papers, send, starting)

    async def finish(self, user: str, state: str, code: str, iss: str | None, *, error: str = "") -> str:
        """End a sign-in that this user has begun, and return the alias of its server.

        Args:
            state: Names the sign-in.
            code: What the authorization server sends along if the user has agreed.
            iss: Who it says it is.
            error: What it sends along otherwise; it is shown to nobody.

        Raises:
            SignInFailed: It cannot be ended so; the text says why, in our own words.
            Unreached: The authorization server does not answer.
        """
        kept = Kept(self._papers, user)
        flow = await kept.end(state) if STATE.fullmatch(state) else None
        if flow is None:
            raise SignInFailed(
                "This sign-in has ended already, took too long, or is not yours. Begin it again."
            )
        try:
            _check_issuer(flow.authority, iss)
            grant = await self._granted(user, kept, flow, code, error)
            await kept.keep(flow.place, grant)
        finally:
            wanted = await kept.ended(state)
        if not wanted:
            await self._undo(user, kept, flow, grant)
        log.info("sign_in.done", user=user, alias=flow.alias)
        return flow.alias

    async def forget(self, user: str, alias: str | None = None) -> bool:
        """Forget a user's sign-ins at one server or at all; no request uses them from now on.

        The authorization servers are told, for as long as that takes no more than some seconds.

        Returns:
            Whether there was one.
        """
        kept = Kept(self._papers, user)
        await kept.give_up(alias)
        grants = await kept.take_grants(alias)
        with anyio.move_on_after(REVOKE_SECONDS):
            async with anyio.create_task_group() as telling:
                for grant in grants:
                    telling.start_soon(self._revoke, user, grant)
        if grants:
            log.info("sign_in.forgotten", user=user, alias=alias)
        return bool(grants)

    async def _granted(self, user: str, kept: Kept, flow: Flow, code: str, error: str) -> Grant:
        if error == "access_denied":
            await self._decline(kept, flow)
            raise SignInFailed(f"Access to the server {flow.alias} was declined. Nothing has changed.")
        if error or not 0 < len(code) <= MAX_CODE:
            raise _refused(flow)
        return await self._redeemed(user, kept, flow, code)

    async def _undo(self, user: str, kept: Kept, flow: Flow, grant: Grant) -> None:
        """Take back what was granted while its user has signed out: that came later, and counts.

        Raises:
            SignInFailed: Always.
        """
        await kept.take_back(flow.place, grant)
        with anyio.move_on_after(REVOKE_SECONDS):
            await self._revoke(user, grant)
        raise SignInFailed(f"You have signed out of the server {flow.alias} meanwhile. Begin it again.")

    async def _redeemed(self, user: str, kept: Kept, flow: Flow, code: str) -> Grant:
        try:
            return await redeem(self._dial(user, flow.authority.trusted), flow, code)
        except Refused as error:
            if error.error == "invalid_client":
                await kept.drop_client(flow.place)
            raise _refused(flow) from None

    async def _decline(self, kept: Kept, flow: Flow) -> None:
        """Remember what the user did not want to give on top of what there is: they are not asked again."""
        if flow.raised and (found := await kept.grant(flow.place)):
            grant, version = found
            asked = union_scopes(grant.asked, flow.scope) or ""
            await kept.keep(flow.place, replace(grant, asked=asked), version=version)

    async def _revoke(self, user: str, grant: Grant) -> None:
        await revoke(self._dial(user, grant.authority.trusted), grant)

    def _dial(self, user: str, trusted: tuple[str, ...]) -> Dial:
        return Dial(self._policy, self._lookups.of(user), trusted, timeout=self._timeout)


def _check_issuer(authority: Authority, iss: str | None) -> None:
    """Refuse an answer of another server than the one that was asked: no letter may differ.

    Raises:
        SignInFailed: It is another's, or does not say whose it is, and the server has said that it would.
    """
    if iss != authority.issuer if iss is not None else authority.promises_iss:
        raise SignInFailed(
            "This answer does not come from the server that you were sent to, so it is not used. "
            "If that happens again, tell your operator: somebody may be after your account."
        )


def _refused(flow: Flow) -> SignInFailed:
    return SignInFailed(f"The sign-in to the server {flow.alias} was not accepted. Begin it again.")
