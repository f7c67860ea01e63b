"""Who is asking: one object proves it for every request, and goes on proving it for open streams."""

from __future__ import annotations

import math
import time
from collections.abc import AsyncIterator
from typing import Protocol, TypeVar

import anyio
import structlog
from starlette.requests import HTTPConnection, Request

from mcp_chat.exceptions import ChatError, Forbidden, LoginUnavailable, NotAuthenticated
from mcp_chat.identity import Principal

log = structlog.get_logger()

T = TypeVar("T")

PROVE_EVERY = 10.0
"""Seconds between two looks whether an open stream's login still holds."""

PATIENCE = 10.0
"""Seconds that such a look may take."""

FORGIVEN = 60.0
"""Seconds after the last proof for which a stream goes on while nobody can tell."""

RENEW_EVERY = 3600.0
"""Seconds after which a stream must be asked for anew whose login has no end of its own.

What proves it may be in the request's head, as a proxy's word is: that stays, however often it is read.
"""


class ProofTooOld(Exception):
    """A stream must be asked for anew: only a new request can prove its login again."""


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
    except (NotAuthenticated, Forbidden) as error:
        _log_refusal(request, error, principal)
        raise
    check_name(request, principal, user_id)
    return principal


def check_name(request: Request, principal: Principal, user_id: str | None) -> None:
    """Refuse a request that names another user than the one who asks.

    Raises:
        Forbidden: It does.
    """
    if user_id and user_id != principal.id:
        error = Forbidden("User ID mismatch.")
        _log_refusal(request, error, principal)
        raise error


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
        LoginUnavailable: Nobody could tell for too long.
        ProofTooOld: The stream is to be asked for anew.
    """
    began = looked = proven = time.monotonic()
    async for each in sent:
        if time.time() > principal.expires:
            raise NotAuthenticated("Your login has expired. Sign in again.")
        if principal.expires == math.inf and time.monotonic() - began > RENEW_EVERY:
            raise ProofTooOld
        if time.monotonic() - looked > PROVE_EVERY:
            asked = time.monotonic()
            proven = asked if await _is_proven(request, identity, principal) else proven
            looked = time.monotonic()
            if looked - proven > FORGIVEN:
                raise LoginUnavailable
        yield each


async def _is_proven(request: Request, identity: Identity, principal: Principal) -> bool:
    """Tell whether it is certain that a login still holds.

    Raises:
        NotAuthenticated: It is certain that it does not.
    """
    try:
        with anyio.fail_after(PATIENCE):
            again = await identity.identify(request)
    except (LoginUnavailable, TimeoutError):
        return False  # whoever was let in a moment ago is not turned out at once for the login's fault
    if again is None or again.id != principal.id:
        raise NotAuthenticated("Your login has ended. Sign in again.")
    return True
