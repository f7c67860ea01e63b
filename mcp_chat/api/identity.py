"""Who is asking: one object proves it for every request, and goes on proving it for open streams."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Protocol, TypeVar

import structlog
from starlette.requests import HTTPConnection, Request

from mcp_chat.exceptions import ChatError, Forbidden, LoginUnavailable, NotAuthenticated
from mcp_chat.identity import Principal

log = structlog.get_logger()

T = TypeVar("T")

PROVE_EVERY = 10.0
"""Seconds between two looks whether an open stream's login still holds."""


class Identity(Protocol):
    """Proves who asks."""

    mode: str

    async def identify(self, connection: HTTPConnection) -> Principal | None:
        """Return who asks, or None if nothing was presented.

        Raises:
            NotAuthenticated: What was presented does not hold.
            Forbidden: It holds, but the request came from another site.
            LoginUnavailable: Nobody can tell now.
        """
        ...


async def require_user(request: Request, identity: Identity, user_id: str | None = None) -> Principal:
    """Return who asks; a user id in body or path is an assertion that must match.

    Raises:
        NotAuthenticated: Nobody is proven.
        Forbidden: The assertion names somebody else.
        LoginUnavailable: Nobody can tell now.
    """
    principal: Principal | None = None
    try:
        principal = await identity.identify(request)
        if principal is None:
            raise NotAuthenticated
        if user_id and user_id != principal.id:
            raise Forbidden("User ID mismatch.")
    except (NotAuthenticated, Forbidden) as error:
        _log_refusal(request, error, principal)
        raise
    return principal


def _log_refusal(request: Request, error: ChatError, principal: Principal | None) -> None:
    """Say who was not let in: for the audit trail, where nobody is known to write a row for."""
    log.warning(
        "refused",
        code=error.code,
        user=principal.key if principal else "",
        peer=request.client.host if request.client else "",
        method=request.scope["method"],
        path=request.scope["path"],
    )


async def while_signed_in(
    sent: AsyncIterator[T], request: Request, identity: Identity, principal: Principal
) -> AsyncIterator[T]:
    """Yield what a stream yields until the login that it began with ends or is revoked.

    Args:
        sent: Yields at least each second, if only nothing.

    Raises:
        NotAuthenticated: It has ended; what was asked for goes on.
    """
    proven = time.monotonic()
    async for each in sent:
        if time.time() > principal.expires:
            raise NotAuthenticated("Your login has expired. Sign in again.")
        if time.monotonic() - proven > PROVE_EVERY:
            proven = time.monotonic()
            await _prove_again(request, identity, principal)
        yield each


async def _prove_again(request: Request, identity: Identity, principal: Principal) -> None:
    try:
        again = await identity.identify(request)
    except LoginUnavailable:  # whoever was let in a moment ago is not turned out for the login's fault
        return
    if again is None or again.id != principal.id:
        raise NotAuthenticated("Your login has ended. Sign in again.")
