"""What is asked of token endpoints: tokens for a code, newer tokens, and an end of tokens."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import replace

import httpx2
from mcp.client.auth.oauth2 import OAuthContext
from mcp.shared.auth import OAuthClientInformationFull, OAuthClientMetadata, OAuthToken
from pydantic import ValidationError

from mcp_chat.exceptions import ChatError, SignInFailed
from mcp_chat.oauth.dial import Unreached
from mcp_chat.oauth.values import Authority, Flow, Grant
from mcp_chat.servers import is_header_value

Send = Callable[[httpx2.Request], Awaitable[httpx2.Response]]

LONGEST = 366 * 86_400
"""Seconds for which an access token may be said to be good."""

AHEAD = 60.0
"""Seconds before its end at which an access token is renewed; of a short life a fifth."""

MAX_TOKEN = 16_384
"""Characters."""


class Refused(SignInFailed):
    """The server no longer accepts this sign-in."""

    def __init__(self, error: str = "") -> None:
        super().__init__()
        self.error = error


async def redeem(send: Send, flow: Flow, code: str) -> Grant:
    """Return what a user has allowed, for the code that their sign-in ended with.

    Raises:
        Refused: The authorization server does not take it.
        SignInFailed: It answers with something that is no token.
        Unreached: It does not answer.
    """
    form = {
        "grant_type": "authorization_code",
        "code": code,
        "redirect_uri": flow.redirect_uri,
        "code_verifier": flow.verifier,
        "resource": flow.authority.resource,
    }
    token = _token(await send(_request(flow.authority, flow.authority.token_endpoint, form)))
    grant = Grant(authority=flow.authority, access_token="", asked=flow.scope, raised=flow.raised, kept_at=0)
    return _with(grant, token, scope=flow.scope)


async def renew(send: Send, grant: Grant) -> Grant:
    """Return a grant with a newer access token, and the refresh token that is good from now on.

    Raises:
        Refused: The authorization server does not take the refresh token.
        SignInFailed: It answers with something that is no token.
        Unreached: It does not answer.
    """
    form = {
        "grant_type": "refresh_token",
        "refresh_token": grant.refresh_token or "",
        "resource": grant.authority.resource,
    }
    token = _token(await send(_request(grant.authority, grant.authority.token_endpoint, form)))
    return _with(grant, token, scope=grant.scope)


async def revoke(send: Send, grant: Grant) -> None:
    """Ask the authorization server to end a grant. It may be away, or have no way to do so: it is only asked.

    The refresh token comes first: with it the access token ends at most servers.
    """
    tokens = (("refresh_token", grant.refresh_token), ("access_token", grant.access_token))
    for hint, token in tokens:
        if token and grant.authority.revocation_endpoint:
            form = {"token": token, "token_type_hint": hint}
            try:
                await send(_request(grant.authority, grant.authority.revocation_endpoint, form))
            except ChatError:
                return


def _request(authority: Authority, url: str, form: dict[str, str]) -> httpx2.Request:
    """Return a request in which the authorization server is told who we are, as it wants to be told."""
    context = OAuthContext(
        server_url=authority.resource,
        client_metadata=OAuthClientMetadata(redirect_uris=None),
        storage=None,  # type: ignore[arg-type]  # nothing is kept there
        redirect_handler=None,
        callback_handler=None,
        client_info=OAuthClientInformationFull(
            client_id=authority.client_id,
            client_secret=authority.client_secret,
            token_endpoint_auth_method=authority.client_auth,
        ),
    )
    headers = {"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json"}
    data, headers = context.prepare_token_auth({**form, "client_id": authority.client_id}, headers)
    return httpx2.Request("POST", url, data=data, headers=headers)


def _token(response: httpx2.Response) -> OAuthToken:
    if response.status_code not in (200, 201):
        raise _refusal(response)
    try:
        token = OAuthToken.model_validate_json(response.content)
    except ValidationError:
        raise SignInFailed from None
    if not all(_is_sendable(each) for each in (token.access_token, token.refresh_token or "-")):
        raise SignInFailed
    return token


def _refusal(response: httpx2.Response) -> ChatError:
    """Tell a refusal from a server that is out of order: only the former ends a grant."""
    if response.status_code >= 500 or response.status_code in (408, 429):
        return Unreached()
    try:
        error = response.json().get("error", "")
    except (ValueError, AttributeError):
        error = ""
    return Refused(error if isinstance(error, str) else "")


def _is_sendable(token: str) -> bool:
    return 0 < len(token) <= MAX_TOKEN and is_header_value(token)


def _with(grant: Grant, token: OAuthToken, *, scope: str) -> Grant:
    """Return the grant with what was answered; what was left out stays as it was."""
    now, ends, renewed = time.time(), None, None
    if token.expires_in is not None:
        seconds = min(max(token.expires_in, 0), LONGEST)
        ends, renewed = now + seconds, now + seconds - min(AHEAD, seconds / 5)
    return replace(
        grant,
        access_token=token.access_token,
        refresh_token=token.refresh_token or grant.refresh_token,
        scope=scope if token.scope is None else token.scope[:4096],
        expires_at=ends,
        renew_at=renewed,
        kept_at=now,
    )
