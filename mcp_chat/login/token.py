"""Bearer tokens: JWTs that somebody else has signed."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import jwt
from starlette.requests import HTTPConnection

from mcp_chat.exceptions import NotAuthenticated
from mcp_chat.identity import Principal
from mcp_chat.login.keys import Keys

MAX_TOKEN = 8192
LEEWAY = 10.0
"""Seconds by which the clocks of issuer and chat may differ."""

INVALID = "Invalid authentication credentials"

_NO_NAME = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")  # control characters, halves of characters


class TokenCheck:
    """What a token must be to hold; nothing in its header chooses how it is checked.

    Follows RFC 8725: fixed algorithms, `iss` and `aud` compared, `exp` required, critical headers that
    nobody knows refused, keys in the header (`jwk`, `jku`, `x5u`) not looked at.

    Args:
        keys: Has the keys.
        algorithms: Those that are believed; never shared secrets and public keys together.
        audience: What `aud` must contain; empty for any.
        issuer: What `iss` must be; empty for any.
        required: Claims that must be there, and their values where they are given.
        user_claim: The claim that names the user.
    """

    def __init__(
        self,
        keys: Keys,
        algorithms: Sequence[str],
        *,
        audience: str = "",
        issuer: str = "",
        required: Mapping[str, str] | None = None,
        user_claim: str = "sub",
    ) -> None:
        self._keys = keys
        self._algorithms = list(algorithms)
        self._audience = audience
        self._issuer = issuer
        self._required = required or {}
        self._user_claim = user_claim

    async def claims(self, token: str) -> dict[str, Any]:
        """Return the claims of a token that holds.

        Raises:
            NotAuthenticated: It does not.
            LoginUnavailable: Nobody can tell now.
        """
        for key in await self._keys.named(_kid_of(token, self._algorithms)):
            try:
                return self._checked(self._decoded(token, key))
            except (jwt.InvalidTokenError, TypeError, ValueError):  # the latter for claims of odd types
                continue
        raise NotAuthenticated(INVALID)

    async def principal(self, token: str) -> Principal:
        """Return whose token it is.

        Raises:
            NotAuthenticated: It does not hold.
            LoginUnavailable: Nobody can tell now.
        """
        claims = await self.claims(token)
        try:
            expires = float(claims["exp"]) + LEEWAY
        except OverflowError:
            raise NotAuthenticated(INVALID) from None
        return Principal(id=name_in(claims, self._user_claim), expires=expires)

    def _decoded(self, token: str, key: Any) -> dict[str, Any]:
        claims: dict[str, Any] = jwt.decode(
            token,
            key,
            algorithms=self._algorithms,
            audience=self._audience or None,
            issuer=self._issuer or None,
            leeway=LEEWAY,
            options={
                "require": ["exp", self._user_claim],
                "verify_aud": bool(self._audience),
                "verify_sub": self._user_claim == "sub",  # else nobody looks at it
            },
        )
        return claims

    def _checked(self, claims: dict[str, Any]) -> dict[str, Any]:
        for name, wanted in self._required.items():
            if name not in claims or (wanted and str(claims[name]) != wanted):
                raise jwt.InvalidTokenError
        return claims


class BearerIdentity:
    """A token in the `Authorization` header, and no cookie.

    Args:
        check: What it must be.
    """

    mode = "jwt"

    def __init__(self, check: TokenCheck) -> None:
        self._check = check

    async def identify(self, connection: HTTPConnection) -> Principal | None:
        """Return whose token was presented."""
        token = bearer_of(connection)
        return replace(await self._check.principal(token), token=token) if token else None


def bearer_of(connection: HTTPConnection) -> str:
    """Return the bearer token of a request, or nothing.

    Raises:
        NotAuthenticated: There are several.
    """
    presented = connection.headers.getlist("authorization")
    if len(presented) > 1:
        raise NotAuthenticated(INVALID)
    scheme, _, token = "".join(presented).partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def name_in(claims: Mapping[str, Any], claim: str) -> str:
    """Return a user's name from a claim.

    Raises:
        NotAuthenticated: There is none that could be one.
    """
    name = claims.get(claim)
    if not isinstance(name, str) or not name.strip() or len(name) > 1024 or _NO_NAME.search(name):
        raise NotAuthenticated(INVALID)
    return name


def _kid_of(token: str, algorithms: Sequence[str]) -> str | None:
    """Return the name of a token's key.

    Raises:
        NotAuthenticated: It is no token, or none that could hold.
    """
    try:
        if len(token) > MAX_TOKEN:
            raise jwt.InvalidTokenError
        header = jwt.get_unverified_header(token)
    except (jwt.InvalidTokenError, TypeError, ValueError):
        raise NotAuthenticated(INVALID) from None
    kid = header.get("kid")
    if header.get("alg") not in algorithms or "crit" in header or not isinstance(kid, str | None):
        raise NotAuthenticated(INVALID)
    return kid
