"""The demo: a name that the user chose, in a signed cookie; for loopback only."""

from __future__ import annotations

import hashlib
import time

import jwt
from starlette.requests import HTTPConnection
from starlette.responses import Response

from mcp_chat.identity import Principal
from mcp_chat.login.keys import FixedKey
from mcp_chat.login.origin import require_same_origin
from mcp_chat.login.token import TokenCheck

COOKIE = "mcp_chat_demo"
AUDIENCE = "mcp-chat-demo"
LIFETIME = 30 * 86_400


class DemoIdentity:
    """A name in a signed cookie.

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
        token = connection.cookies.get(COOKIE)
        return await self._check.principal(token) if token else None

    def sign_in(self, user: str, response: Response) -> None:
        """Put the cookie for a user on a response."""
        claims = {"sub": user, "aud": AUDIENCE, "exp": int(time.time()) + LIFETIME}
        token = jwt.encode(claims, self._secret, algorithm="HS256")
        response.set_cookie(COOKIE, token, max_age=LIFETIME, httponly=True, samesite="strict")

    def sign_out(self, response: Response) -> None:
        """Take the cookie back."""
        response.delete_cookie(COOKIE, httponly=True, samesite="strict")


def cookie_secret(secret: str) -> str:
    """Return what signs the demo's cookies: made from the tokens' secret, so that no cookie is a token."""
    return hashlib.sha256(f"mcp-chat demo cookie {secret}".encode()).hexdigest()
