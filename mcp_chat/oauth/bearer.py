"""Puts a user's token on each request to a server, keeps it fresh, and says when the user has to sign in.

No request waits for a person, nor for another request: the one that finds that somebody has to sign in
ends, and says where.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar

import anyio
import httpx2
import structlog
from mcp.client.auth.utils import extract_field_from_www_auth, extract_scope_from_www_auth

from mcp_chat.config import ServerConfig
from mcp_chat.exceptions import SignInNeeded, StoreUnavailable
from mcp_chat.oauth.dial import Unreached
from mcp_chat.oauth.kept import Kept
from mcp_chat.oauth.starting import Starting
from mcp_chat.oauth.tokens import Refused, Send, renew
from mcp_chat.oauth.values import Grant, place_of
from mcp_chat.papers import Papers
from mcp_chat.urls import origin_of

log = structlog.get_logger()

FRESH = 1.0
"""Seconds for which what was read of a grant is believed: so long a forgotten one may still be used."""

MOST_RAISED = 5
"""How often a server may ask for more than at first, before its refusals are left as they are."""

TRIES = 2
"""Newer grants to try: one that somebody else has stored, and if it is refused, too, a renewed one."""

LOCKED, PATIENCE = 40.0, 30.0
"""Seconds that a renewal may take, and for which another one's is awaited."""

ATTEMPTS = 5
"""To store what was renewed: the token before may be good for nothing any more."""


_NOTICED: ContextVar[list[SignInNeeded] | None] = ContextVar("noticed", default=None)


@contextmanager
def sign_ins_told() -> Iterator[None]:
    """Let a request of this block fail with `SignInNeeded` if it has failed for the lack of a sign-in.

    The SDK makes another error of that. It sends each message in the context of who asks for it: so the
    requests of others, at the same time, are not taken for this one.
    """
    noticed: list[SignInNeeded] = []
    token = _NOTICED.set(noticed)
    try:
        yield
    except Exception as error:  # the SDK's own, in whatever form, for what was noticed below it
        if noticed:
            raise noticed[-1] from error
        raise
    finally:
        _NOTICED.reset(token)


class Bearer(httpx2.Auth):
    """One user's sign-in at one server, for the requests of a connection.

    Args:
        user: Whose it is.
        server: The only one that gets the token.
        papers: Where grants are kept, and locked while they are renewed.
        send: Sends requests to the authorization server.
        starting: Begins a sign-in.
    """

    def __init__(
        self, user: str, server: ServerConfig, papers: Papers, send: Send, starting: Starting
    ) -> None:
        self._user = user
        self._server = server
        self._place = place_of(server)
        self._papers = papers
        self._kept = Kept(papers, user)
        self._send = send
        self._starting = starting
        self._alone = anyio.Lock()
        self._held: tuple[Grant, int] | None = None
        self._read_at = -FRESH

    @property
    def signed_in(self) -> bool:
        """Whether the last request had a token, as far as is known."""
        return self._held is not None

    async def async_auth_flow(
        self, request: httpx2.Request
    ) -> AsyncGenerator[httpx2.Request, httpx2.Response]:
        """Send a request with the token, again with a newer one if it is refused, and see what is wanted."""
        if not self._is_theirs(request.url):
            yield request
            return
        grant = await self._grant()
        response = yield _with(request, grant)
        for _ in range(TRIES):
            newer = await self._newer(response, grant) if self._wants_sign_in(response) else None
            if newer is None:
                break
            grant = newer
            response = yield _with(request, grant)
        if self._wants_sign_in(response):
            await self._want(request, response, grant)

    async def _newer(self, response: httpx2.Response, used: Grant | None) -> Grant | None:
        """Return another grant than the refused one: the user has signed in since, or it is renewed."""
        self.doubt()
        found = await self._read()
        if found is None:
            return None
        if used is None or found[0].access_token != used.access_token:
            return found[0]
        return None if _is_forbidden(response) else await self._renewed(used)

    def _is_theirs(self, url: httpx2.URL) -> bool:
        """Tell whether a request goes to the server, or to the same host by https instead of http."""
        mine = httpx2.URL(self._server.url or "")
        upgraded = mine.scheme == "http" and mine.port is None and mine.copy_with(scheme="https")
        return origin_of(str(url)) in {origin_of(str(each)) for each in (mine, upgraded) if each}

    def _wants_sign_in(self, response: httpx2.Response) -> bool:
        """Tell whether the server itself, and none that it has sent us on to, wants a sign-in."""
        more = extract_field_from_www_auth(response, "error") == "insufficient_scope"
        wants = (_is_forbidden(response) and more) or response.status_code == httpx2.codes.UNAUTHORIZED
        return wants and self._is_theirs(response.url)

    async def _want(self, request: httpx2.Request, response: httpx2.Response, grant: Grant | None) -> None:
        """Say where the user signs in. If only one call wants more, it alone fails, not the connection.

        Raises:
            SignInNeeded: The server does not let us in.
            SignInFailed: There is no way to sign in.
        """
        if _is_forbidden(response) and not _may_raise(grant, response):
            return
        async with self._alone:
            needed = await self._starting(request, response, grant)
        noticed = _NOTICED.get()
        if noticed is None:
            raise needed
        noticed.append(needed)  # raised here it would end the connection, and the calls of others with it

    async def _grant(self) -> Grant | None:
        """Return the grant, renewed if it is time; what ended long ago is not worth a request."""
        found = await self._read()
        if found is None:
            return None
        grant, version = found
        now = time.time()
        if grant.refresh_token and grant.renew_at is not None and now > grant.renew_at:
            try:
                return await self._renewed(grant)
            except Unreached:
                if grant.expires_at is None or now > grant.expires_at:
                    raise
        elif grant.expires_at is not None and now > grant.expires_at:
            return None
        await self._kept.use(self._place, grant, version)
        return grant

    async def _read(self) -> tuple[Grant, int] | None:
        """Return the grant as it was stored a moment ago, so that one that is forgotten is not used."""
        if time.monotonic() - self._read_at >= FRESH:
            began = time.monotonic()
            self._held = await self._kept.grant(self._place)
            self._read_at = began
        return self._held

    def doubt(self) -> None:
        """Read the grant anew for the next request."""
        self._read_at = -FRESH

    async def _renewed(self, used: Grant) -> Grant | None:
        """Return a newer grant than the one that was used, or None if the user has to sign in again.

        Of all workers one asks: a refresh token may be good for one time. What it is answered is kept before
        it is used, even if nobody waits for it any more.

        Raises:
            Unreached: The authorization server does not answer.
        """
        async with (
            self._alone,
            self._papers.locked(self._user, f"token {self._place}", seconds=LOCKED, patience=PATIENCE),
        ):
            self.doubt()
            found = await self._read()
            if found is None or found[0].access_token != used.access_token:
                return found and found[0]
            with anyio.CancelScope(shield=True):
                newer = await self._renew(*found)
            self.doubt()
            return newer

    async def _renew(self, grant: Grant, version: int) -> Grant | None:
        try:
            newer = await renew(self._send, grant) if grant.refresh_token else None
        except Refused as error:
            newer = None
            if error.error == "invalid_client":
                await self._kept.drop_client(self._place)
        if newer:
            return newer if await self._store(newer, version) else None
        log.info("sign_in.ended", user=self._user, alias=self._server.alias)
        await self._kept.drop(self._place, version)
        return None

    async def _store(self, grant: Grant, version: int) -> bool:
        """Store a renewed grant; one that was forgotten meanwhile stays so, and its token is not used."""
        for attempt in range(ATTEMPTS):
            with suppress(StoreUnavailable):
                return await self._kept.keep(self._place, grant, version=version)
            await anyio.sleep(0.2 * 2**attempt)
        return await self._kept.keep(self._place, grant, version=version)


def _with(request: httpx2.Request, grant: Grant | None) -> httpx2.Request:
    """Return the request with the token, and with no other that it may have had."""
    request.headers.pop("Authorization", None)
    if grant:
        request.headers["Authorization"] = f"Bearer {grant.access_token}"
    return request


def _is_forbidden(response: httpx2.Response) -> bool:
    return response.status_code == httpx2.codes.FORBIDDEN


def _may_raise(grant: Grant | None, response: httpx2.Response) -> bool:
    """Tell whether to ask for more: not for what was asked for already, and was not given or was no help."""
    if grant is None or grant.raised >= MOST_RAISED:
        return False
    wanted = set((extract_scope_from_www_auth(response) or "").split())
    return bool(wanted - set(grant.asked.split())) if wanted else not grant.raised
