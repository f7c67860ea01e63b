"""ContextForge's login: its session cookie, checked here and resolved there."""

from __future__ import annotations

import hashlib
import json
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final
from weakref import WeakValueDictionary

import anyio
import httpx
import structlog
from starlette.requests import HTTPConnection

from mcp_chat.exceptions import LoginUnavailable, NotAuthenticated
from mcp_chat.identity import Principal
from mcp_chat.login.keys import fetched
from mcp_chat.login.origin import require_same_origin
from mcp_chat.login.token import INVALID, TokenCheck, bearer_of, name_in

log = structlog.get_logger()

COOKIE: Final = "jwt_token"
ME: Final = "/auth/email/me"
BELIEVED: Final = 30.0
"""Seconds for which the gateway's word on a token is believed: so long a user who was turned off goes on."""

REFUSED: Final = 5.0
"""Seconds for which its refusal is: so often, and no more, does one token make us ask."""

SILENT: Final = 1.0
"""Seconds for which nobody asks again about a token when it did not answer: who waited for that knows it."""

REMEMBERED: Final = 10_000
"""Tokens of which the gateway's word is remembered."""

SESSION: Final = MappingProxyType({"token_use": "session"})
"""What a session token has, and a server's or an API token has not."""

REFUSALS: Final = frozenset({401, 403, 404})


@dataclass(frozen=True, slots=True)
class _Known:
    """What the gateway has said of a token: its user, or why there is none."""

    said: str | type[NotAuthenticated | LoginUnavailable]
    until: float

    def user(self) -> str:
        """Return the user, or raise what there is instead."""
        if isinstance(self.said, str):
            return self.said
        raise NotAuthenticated(INVALID) if self.said is NotAuthenticated else LoginUnavailable


class Gateway:
    """Asks the gateway who has a token, and remembers that for a while.

    The gateway refuses tokens that were revoked and users that were deactivated. What it has said is kept
    under a hash of the whole token, so that no two tokens share it. It is asked about a token by one request
    at a time, and the others wait for its word: so a late yes never takes the place of a later no.

    Args:
        url: The gateway's origin.
        clock: Seconds that never go back.
    """

    def __init__(self, url: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._url = url.rstrip("/") + ME
        self._clock = clock
        self._known: OrderedDict[str, _Known] = OrderedDict()
        self._asking: WeakValueDictionary[str, anyio.Lock] = WeakValueDictionary()

    async def user_of(self, token: str) -> str:
        """Return the e-mail address of a token's user.

        Raises:
            NotAuthenticated: The gateway does not take the token.
            LoginUnavailable: It does not answer.
        """
        digest = hashlib.sha256(token.encode()).hexdigest()
        known = self._remembered(digest)
        if known is None:
            lock = self._asking.setdefault(digest, anyio.Lock())  # there as long as somebody waits for it
            async with lock:  # if who asks hangs up, the next one does
                known = self._remembered(digest) or await self._learn(digest, token)
        return known.user()

    def _remembered(self, digest: str) -> _Known | None:
        known = self._known.get(digest)
        return known if known and known.until >= self._clock() else None

    async def _learn(self, digest: str, token: str) -> _Known:
        """Ask, and remember what was said; a yes counts from before the question, as it may be so old."""
        asked = self._clock()
        try:
            known = _Known(await self._ask(token), asked + BELIEVED)
        except NotAuthenticated:
            known = _Known(NotAuthenticated, self._clock() + REFUSED)
        except LoginUnavailable:
            known = _Known(LoginUnavailable, self._clock() + SILENT)
        self._known[digest] = known
        self._known.move_to_end(digest)
        while len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
        return known

    async def _ask(self, token: str) -> str:
        try:
            found = json.loads(await fetched(self._url, authorization=f"Bearer {token}"))
        except httpx.HTTPStatusError as error:
            if error.response.status_code in REFUSALS:
                raise NotAuthenticated(INVALID) from None
            log.warning("gateway.odd", status=error.response.status_code)
            raise LoginUnavailable from None
        except (httpx.HTTPError, TimeoutError, ValueError) as error:
            log.warning("gateway.silent", error=type(error).__name__)
            raise LoginUnavailable from None
        if not isinstance(found, dict) or found.get("is_active", True) is not True:
            raise NotAuthenticated(INVALID)
        return name_in(found, "email")


class ContextForgeIdentity:
    """The gateway's session token, in its cookie or as a bearer token.

    The cookie wins: the gateway's own tab sends an MCP server's token as the bearer one.

    Args:
        check: What the token must be before the gateway is asked.
        gateway: Whose users these are.
    """

    mode = "contextforge"

    def __init__(self, check: TokenCheck, gateway: Gateway) -> None:
        self._check = check
        self._gateway = gateway

    async def identify(self, connection: HTTPConnection) -> Principal | None:
        """Return whose session this is."""
        token = connection.cookies.get(COOKIE)
        if token:
            require_same_origin(connection, proof=True)
        else:
            token = bearer_of(connection)
        if not token:
            return None
        proven = await self._check.principal(token)
        return replace(proven, id=await self._gateway.user_of(token), token=token)
