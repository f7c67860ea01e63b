"""Finding out where a user signs in, and as whose client: all of a sign-in that needs no person."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Any, Literal
from urllib.parse import urlencode, urlsplit

import httpx2
from mcp.client.auth import OAuthClientProvider, OAuthFlowError, OAuthRegistrationError, OAuthTokenError
from mcp.client.auth.oauth2 import PKCEParameters, TokenStorage
from mcp.client.auth.utils import union_scopes
from mcp.shared.auth import OAuthClientMetadata, OAuthMetadata

from mcp_chat.config import ServerConfig
from mcp_chat.exceptions import ServerUnavailable, SignInFailed
from mcp_chat.oauth.values import Authority, Flow, Grant, place_of, trusted_of
from mcp_chat.urls import is_url, origin_of

Send = Callable[[httpx2.Request], Awaitable[httpx2.Response]]

MAX_REQUESTS = 16
"""For one sign-in: documents at all their places, and a registration."""

NOWHERE = "http://localhost/"
"""What stands for a place to come back to that nobody knows; nobody is sent there."""

_SCOPES = re.compile(r"[\x21\x23-\x5b\x5d-\x7e ]{0,2048}")


class Inquiry(OAuthClientProvider):
    """The SDK's provider up to the moment at which a person is needed: there it ends, and holds nothing up.

    Args:
        server: Where somebody wants to sign in.
        registration: Who we are at its authorization server, as far as that is known.
        redirect_uri: Where the browser comes back to; empty if nobody knows where that is.
        client_url: The address of the document that says who we are, if there is one.
        grant: What there was before.
    """

    def __init__(
        self,
        server: ServerConfig,
        registration: TokenStorage,
        *,
        redirect_uri: str,
        client_url: str | None,
        grant: Grant | None,
    ) -> None:
        form: Any = client_metadata(redirect_uri or NOWHERE)
        earlier = union_scopes(grant.asked, grant.scope) if grant else None
        super().__init__(
            server.url or "",
            OAuthClientMetadata(**form, scope=earlier),
            registration,
            client_metadata_url=client_url,
        )
        self._server = server
        self._grant = grant
        self._redirect_uri = redirect_uri
        self._complete = False

    async def flow(self, request: httpx2.Request, refused: httpx2.Response, send: Send, state: str) -> Flow:
        """Return a sign-in that can begin.

        Args:
            request: What was refused.
            refused: The answer.
            send: Sends requests to the addresses that the answer leads to.
            state: Names the sign-in.

        Raises:
            SignInFailed: The server or its authorization server does not do what the protocol wants.
            ServerUnavailable: The server does not say at all how to sign in: it may want a token.
            Unreached: One of them does not answer.
        """
        copy = httpx2.Request(request.method, self.context.server_url, headers=_told(request))
        try:
            await self._ask(copy, refused, send)
        except (OAuthFlowError, OAuthRegistrationError, OAuthTokenError, ValueError) as error:
            raise SignInFailed(
                "The server asks for a sign-in, and does not say how to do it as the protocol wants."
            ) from error
        return self._flow(state, raised=refused.status_code == httpx2.codes.FORBIDDEN)

    async def _ask(self, request: httpx2.Request, refused: httpx2.Response, send: Send) -> None:
        steps = self.async_auth_flow(request)
        try:
            await anext(steps)  # the request itself, which has had its answer
            answer = refused
            for _ in range(MAX_REQUESTS):
                asked = await steps.asend(answer)
                if self._complete:
                    return
                if asked.method == "POST":
                    self._check_metadata()
                answer = await send(asked)
            raise OAuthFlowError("no end of requests")
        finally:
            await steps.aclose()

    async def _perform_authorization(self) -> httpx2.Request:
        """End here; the request is not sent."""
        self._complete = True
        return httpx2.Request("GET", self.context.server_url)

    def _check_metadata(self) -> OAuthMetadata:
        """Refuse an authorization server that does not say that it knows the proof of S256, or says nothing.

        Its pages are opened in the user's browser: they are at the place that was asked, or come by https.
        """
        metadata = self.context.oauth_metadata
        if metadata is None and self.context.protected_resource_metadata is None:
            raise ServerUnavailable
        if metadata is None or "S256" not in (metadata.code_challenge_methods_supported or ()):
            raise OAuthFlowError("no PKCE with S256")
        page, issuer = str(metadata.authorization_endpoint), str(metadata.issuer)
        at_home = is_url(page) and origin_of(page) == origin_of(issuer)
        if not is_url(page) or not (page.startswith("https:") or at_home) or len(page) > 2048:
            raise OAuthFlowError("a page that is not opened")
        if not self._redirect_uri:
            raise SignInFailed(
                f"The server {self._server.alias} wants you to sign in, and this chat does not know its own "
                "address. The operator has to set MCP_CHAT_PUBLIC_URL."
            )
        return metadata

    def _flow(self, state: str, *, raised: bool) -> Flow:
        metadata, scope = self._check_metadata(), self._scope()
        proof = PKCEParameters.generate()
        authority = self._authority(metadata)
        asked = {
            "response_type": "code",
            "client_id": authority.client_id,
            "redirect_uri": self._redirect_uri,
            "state": state,
            "code_challenge": proof.code_challenge,
            "code_challenge_method": "S256",
            "resource": authority.resource,
            **({"scope": scope} if scope else {}),
            **({"prompt": "consent"} if "offline_access" in scope.split() else {}),
        }
        page = str(metadata.authorization_endpoint)
        return Flow(
            alias=self._server.alias,
            place=place_of(self._server),
            authority=authority,
            url=f"{page}{'&' if urlsplit(page).query else '?'}{urlencode(asked)}",
            redirect_uri=self._redirect_uri,
            verifier=proof.code_verifier,
            scope=scope,
            raised=self._grant.raised + 1 if raised and self._grant else 0,
        )

    def _scope(self) -> str:
        """Return what is asked for; the operator's choice where the server makes none."""
        scope = self.context.client_metadata.scope or " ".join(self._server.oauth.scopes)
        if not _SCOPES.fullmatch(scope):
            raise SignInFailed("The server asks for permissions that have no possible name.")
        return scope

    def _authority(self, metadata: OAuthMetadata) -> Authority:
        client = self.context.client_info
        assert client is not None  # the SDK has made one, or raised
        method = client.token_endpoint_auth_method
        if method is None and client.client_secret:
            known = metadata.token_endpoint_auth_methods_supported or ["client_secret_basic"]
            method = "client_secret_basic" if "client_secret_basic" in known else "client_secret_post"
        return Authority(
            issuer=str(metadata.issuer),
            token_endpoint=str(metadata.token_endpoint),
            revocation_endpoint=str(metadata.revocation_endpoint or ""),
            promises_iss=bool(metadata.authorization_response_iss_parameter_supported),
            client_id=client.client_id,
            client_secret=client.client_secret,
            client_auth=method,
            resource=self.context.get_resource_url(),
            trusted=trusted_of(self._server),
        )


def client_metadata(redirect_uri: str) -> dict[str, Any]:
    """Return how we introduce ourselves to authorization servers."""
    parts = urlsplit(redirect_uri)
    native = parts.scheme == "http"
    kind: Literal["web", "native"] = "native" if native else "web"
    return {
        "client_name": "mcp-chat",
        "redirect_uris": [redirect_uri],
        "grant_types": ["authorization_code", "refresh_token"],
        "response_types": ["code"],
        "application_type": kind,
    }


def _told(request: httpx2.Request) -> dict[str, str]:
    """Return the headers by which the SDK tells which revision is spoken; no other leaves the request."""
    name = "mcp-protocol-version"
    return {name: request.headers[name]} if name in request.headers else {}
