"""Who is asking: one object proves it for every request."""

from __future__ import annotations

import hashlib
import re
import time
from typing import Any, Protocol
from urllib.parse import urlsplit

import jwt
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response

from mcp_chat.exceptions import Forbidden, NotAuthenticated
from mcp_chat.identity import Principal

COOKIE = "mcp_chat_demo"
DEMO_AUDIENCE = "mcp-chat-demo"
DEMO_LIFETIME = 30 * 86_400
MAX_TOKEN = 8192
SAFE = frozenset({"GET", "HEAD", "OPTIONS"})

_NO_NAME = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")  # control characters, halves of characters


class Identity(Protocol):
    """Proves who asks."""

    mode: str

    def identify(self, connection: HTTPConnection) -> Principal | None:
        """Return who asks, or None if nothing was presented.

        Raises:
            NotAuthenticated: What was presented does not hold.
            Forbidden: It holds, but the request came from another site.
        """
        ...


class JWTIdentity:
    """HS256 tokens in the `Authorization` header.

    Args:
        secret: The shared secret.
        audience: What `aud` must contain; empty for any.
        issuer: What `iss` must be; empty for any.
    """

    mode = "jwt"

    def __init__(self, secret: str, *, audience: str = "", issuer: str = "") -> None:
        self._secret = secret
        self._audience = audience
        self._issuer = issuer

    def identify(self, connection: HTTPConnection) -> Principal | None:
        scheme, _, token = connection.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            return None
        claims = decode(token.strip(), self._secret, audience=self._audience, issuer=self._issuer)
        return Principal(id=claims["sub"])


class DemoIdentity:
    """A name that the user chose, in a signed cookie; for loopback only.

    Args:
        secret: Signs the cookies.
    """

    mode = "demo"

    def __init__(self, secret: str) -> None:
        self._secret = secret

    def identify(self, connection: HTTPConnection) -> Principal | None:
        require_same_origin(connection)
        token = connection.cookies.get(COOKIE)
        if not token:
            return None
        claims = decode(token, self._secret, audience=DEMO_AUDIENCE)
        return Principal(id=claims["sub"])

    def sign_in(self, user: str, response: Response) -> None:
        """Put the cookie for a user on a response."""
        claims = {"sub": user, "aud": DEMO_AUDIENCE, "exp": int(time.time()) + DEMO_LIFETIME}
        token = jwt.encode(claims, self._secret, algorithm="HS256")
        response.set_cookie(COOKIE, token, max_age=DEMO_LIFETIME, httponly=True, samesite="strict")

    def sign_out(self, response: Response) -> None:
        """Take the cookie back."""
        response.delete_cookie(COOKIE, httponly=True, samesite="strict")


def cookie_secret(secret: str) -> str:
    """Return what signs the demo's cookies: made from the tokens' secret, so that no cookie is a token."""
    return hashlib.sha256(f"mcp-chat demo cookie {secret}".encode()).hexdigest()


def decode(token: str, secret: str, *, audience: str = "", issuer: str = "") -> dict[str, Any]:
    """Return the claims of a token that holds; nothing in its header chooses how it is checked.

    Raises:
        NotAuthenticated: It does not hold.
    """
    try:
        if len(token) > MAX_TOKEN:
            raise jwt.InvalidTokenError
        claims: dict[str, Any] = jwt.decode(
            token,
            secret,
            algorithms=["HS256"],
            audience=audience or None,
            issuer=issuer or None,
            leeway=10,
            options={"require": ["exp", "sub"], "verify_aud": bool(audience)},
        )
    except (jwt.InvalidTokenError, TypeError, ValueError):  # the latter two for claims of odd types
        raise NotAuthenticated("Invalid authentication credentials") from None
    sub = claims["sub"]
    if not isinstance(sub, str) or not sub.strip() or len(sub) > 1024 or _NO_NAME.search(sub):
        raise NotAuthenticated("Invalid authentication credentials")
    return claims


def require_same_origin(connection: HTTPConnection) -> None:
    """Refuse a change that another site's page makes the browser send with our cookie.

    Follows Fetch Metadata: `Sec-Fetch-Site` where the browser sends it, else the `Origin`. A client that
    sends neither is no browser.

    Raises:
        Forbidden: The request came from another site.
    """
    if connection.scope["method"] in SAFE:
        return
    site = connection.headers.get("sec-fetch-site")
    origin = connection.headers.get("origin")
    if site not in (None, "same-origin", "none"):
        raise Forbidden("Requests from other sites are not accepted.")
    if site is None and origin is not None and _host(origin) != connection.headers.get("host"):
        raise Forbidden("Requests from other sites are not accepted.")


def _host(origin: str) -> str | None:
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return None


def require_user(request: Request, identity: Identity, user_id: str | None = None) -> Principal:
    """Return who asks; a user id in body or path is an assertion that must match.

    Raises:
        NotAuthenticated: Nobody is proven.
        Forbidden: The assertion names somebody else.
    """
    principal = identity.identify(request)
    if principal is None:
        raise NotAuthenticated
    if user_id and user_id != principal.id:
        raise Forbidden("User ID mismatch.")
    return principal
