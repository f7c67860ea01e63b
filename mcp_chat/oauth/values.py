"""What a sign-in is made of, as it is kept: the authorization server, what has begun, what came of it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from pydantic import TypeAdapter

from mcp_chat.config import ServerConfig
from mcp_chat.urls import origin_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Authority:
    """The authorization server of an MCP server, and who we are there.

    Attributes:
        issuer: Its name; what is known here goes to no other.
        promises_iss: It has said that its answers name it.
        client_auth: How the token endpoint is told who we are.
        resource: The MCP server, as tokens are asked for.
        trusted: Origins of the operator's choice, which are dialled wherever they are.
    """

    issuer: str
    token_endpoint: str
    revocation_endpoint: str = ""
    promises_iss: bool = False
    client_id: str
    client_secret: str | None = field(default=None, repr=False)
    client_auth: str | None = None
    resource: str
    trusted: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """A sign-in that has begun: what whoever ends it has to know.

    Attributes:
        alias: The MCP server, as its user calls it.
        place: Where its grant is kept.
        url: Where the user signs in.
        verifier: Proves that who ends it is who began it.
        scope: What is asked for.
        raised: How often more was asked for than at first.
    """

    alias: str
    place: str
    authority: Authority
    url: str
    redirect_uri: str
    verifier: str = field(repr=False)
    scope: str = ""
    raised: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """What a user has allowed us at one MCP server.

    Attributes:
        scope: What was granted.
        asked: What was asked for: what is not granted of it is not asked for again.
        raised: How often more was asked for than at first.
        renew_at: When it is time for a new access token, in seconds since 1970; None if that is not known.
        expires_at: When the access token ends.
        kept_at: When this was stored.
    """

    authority: Authority
    access_token: str = field(repr=False)
    refresh_token: str | None = field(default=None, repr=False)
    scope: str = ""
    asked: str = ""
    raised: int = 0
    renew_at: float | None = None
    expires_at: float | None = None
    kept_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Pending:
    """The newest flow of a place: who needs the same again is sent there.

    Attributes:
        wanted: The scopes of the server's challenge.
    """

    state: str
    url: str
    wanted: str
    began: float


FLOW: TypeAdapter[Flow] = TypeAdapter(Flow)
GRANT: TypeAdapter[Grant] = TypeAdapter(Grant)
PENDING: TypeAdapter[Pending] = TypeAdapter(Pending)


def place_of(server: ServerConfig) -> str:
    """Return where the grant for a server is kept: another address under the same alias has another place."""
    identity = f"{server.operator} {server.transport} {server.url}"
    return f"{server.alias}.{hashlib.sha256(identity.encode()).hexdigest()[:32]}"


def trusted_of(server: ServerConfig) -> tuple[str, ...]:
    """Return the origins that the operator vouches for."""
    if not (server.operator and server.url):
        return ()
    return tuple(origin_of(url) for url in (server.url, server.oauth.issuer) if url)
