"""The demo: a name that the user chose, in a signed cookie; for loopback only."""

from __future__ import annotations

import hashlib
import time
from typing import Final

import jwt
from starlette.requests import HTTPConnection
from starlette.responses import Response

from mcp_chat.identity import Principal
from mcp_chat.login.keys import FixedKey
from mcp_chat.login.origin import require_same_origin
from mcp_chat.login.token import TokenCheck

COOKIE: Final = "mcp_chat_demo"
"""On plain http, where most browsers take no `Secure` cookie; demo mode is on loopback then."""

HOST_COOKIE: Final = f"__Host-{COOKIE}"
"""On https: no sibling domain and no plain connection can have set it."""

AUDIENCE: Final = "mcp-chat-demo"
LIFETIME: Final = 30 * 86_400


class DemoIdentity:
    """A name in a signed cookie; of its two names only the one that fits the request's scheme is looked at.

    Args:
        secret: Signs the cookies.
    """

    mode = "demo"

    def __init__(self, secret: str) -> None:
        self._secret = secret
        self._check = TokenCheck(FixedKey(secret), ["HS256"], audience=AUDIENCE)

    async def identify(self, connection: HTTPConnection) -> Principal | None:
        """Return who has the cookie."""
        require_same_origin(connection)
        token = connection.cookies.get(HOST_COOKIE if _is_https(connection) else COOKIE)
        return await self._check.principal(token) if token else None

    def sign_in(self, user: str, connection: HTTPConnection, response: Response) -> None:
        """Put the cookie for a user on a response."""
        claims = {"sub": user, "aud": AUDIENCE, "exp": int(time.time()) + LIFETIME}
        token = jwt.encode(claims, self._secret, algorithm="HS256")
        https = _is_https(connection)
        response.set_cookie(
            HOST_COOKIE if https else COOKIE,
            token,
            max_age=LIFETIME,
            path="/" if https else _base(connection),  # what begins with __Host- has the path /
            secure=https,
            httponly=True,
            samesite="strict",
        )

    def sign_out(self, connection: HTTPConnection, response: Response) -> None:
        """Take both cookies back: a browser may have one of each scheme."""
        for name, path, secure in ((COOKIE, _base(connection), False), (HOST_COOKIE, "/", True)):
            response.delete_cookie(name, path=path, secure=secure, httponly=True, samesite="strict")


def _base(connection: HTTPConnection) -> str:
    """Return the path below which the chat was asked."""
    return connection.scope.get("root_path") or "/"


def _is_https(connection: HTTPConnection) -> bool:
    """Tell whether the client came by https, which a trusted proxy has told the server if it is not ours."""
    return bool(connection.scope["scheme"] == "https")


def cookie_secret(secret: str) -> str:
    """Return what signs the demo's cookies: made from the tokens' secret, so that no cookie is a token."""
    return hashlib.sha256(f"mcp-chat demo cookie {secret}".encode()).hexdigest()
