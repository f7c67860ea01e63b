"""What is kept of sign-ins: flows, grants and registrations, each user's own, sealed."""

from __future__ import annotations

import hashlib
import time
from dataclasses import replace
from typing import TypeVar

from mcp.shared.auth import OAuthClientInformationFull, OAuthToken
from pydantic import TypeAdapter, ValidationError

from mcp_chat.config import ServerConfig
from mcp_chat.oauth.values import FLOW, GRANT, PENDING, Flow, Grant, Pending, place_of
from mcp_chat.papers import Papers
from mcp_chat.stores.documents import Document

T = TypeVar("T")

SIGN_IN, TOKEN, CLIENT = "signin", "token", "client"
"""Kinds of documents."""

FLOW_SECONDS = 900.0
"""In which a sign-in can be ended."""

GRANT_SECONDS = 90 * 86_400.0
"""For which a grant is kept when nobody uses it."""

USED_EVERY = 86_400.0
"""Seconds after which a grant that is used is stored anew."""


class Kept:
    """One user's sign-ins.

    Args:
        papers: Where they are kept.
        user: Whose they are.
    """

    def __init__(self, papers: Papers, user: str) -> None:
        self._papers = papers
        self._user = user

    async def begin(self, state: str, flow: Flow, wanted: str) -> None:
        """Keep a sign-in that begins, until it ends or its time is over."""
        pending = Pending(state=state, url=flow.url, wanted=wanted, began=time.time())
        await self._put(SIGN_IN, state, FLOW.dump_json(flow), FLOW_SECONDS)
        await self._put(SIGN_IN, _pending(flow.place), PENDING.dump_json(pending), FLOW_SECONDS)

    async def pending(self, place: str) -> Pending | None:
        """Return the sign-in that was begun last for a server, if nobody has ended it."""
        found = await self._papers.get(self._user, SIGN_IN, _pending(place))
        pending = _read(PENDING, found)
        flow = _read(FLOW, await self._papers.get(self._user, SIGN_IN, pending.state)) if pending else None
        return pending if flow and flow.url else None

    async def end(self, state: str) -> Flow | None:
        """Return a sign-in, once; from now on nobody is sent there, and until `ended` it can be given up."""
        found = await self._papers.get(self._user, SIGN_IN, state)
        flow = _read(FLOW, found)
        if found is None or flow is None or not flow.url:
            return None
        text = FLOW.dump_json(replace(flow, url=""))
        return flow if await self._put(SIGN_IN, state, text, FLOW_SECONDS, found.version) else None

    async def ended(self, state: str) -> bool:
        """Forget a sign-in that has come to its end; tell whether it was not given up before."""
        return await self._papers.drop(self._user, SIGN_IN, state)

    async def give_up(self, alias: str | None) -> None:
        """End the sign-ins for a server, or all, without having their result."""
        for found in await self._papers.all(self._user, SIGN_IN):
            if not found.name.startswith(_pending("")):
                flow = _read(FLOW, found)
                if flow is None or alias in (None, flow.alias):
                    await self._papers.drop(self._user, SIGN_IN, found.name)

    async def grant(self, place: str) -> tuple[Grant, int] | None:
        """Return the grant for a server, with its version."""
        found = await self._papers.get(self._user, TOKEN, place)
        grant = _read(GRANT, found)
        return (grant, found.version) if grant and found else None

    async def keep(self, place: str, grant: Grant, *, version: int | None = None) -> bool:
        """Store a grant; only in place of that version, if one is given, and tell whether it was."""
        return await self._put(TOKEN, place, GRANT.dump_json(grant), GRANT_SECONDS, version)

    async def use(self, place: str, grant: Grant, version: int) -> None:
        """Keep a grant for longer, as it is used."""
        if time.time() - grant.kept_at > USED_EVERY:
            await self.keep(place, replace(grant, kept_at=time.time()), version=version)

    async def drop(self, place: str, version: int) -> None:
        """Drop a grant that is of no more use."""
        await self._papers.drop(self._user, TOKEN, place, version=version)

    async def take_back(self, place: str, grant: Grant) -> None:
        """Drop a grant that was just stored, unless it is another one by now."""
        found = await self.grant(place)
        if found and found[0].access_token == grant.access_token:
            await self.drop(place, found[1])

    async def take_grants(self, alias: str | None) -> list[Grant]:
        """Return the grants for a server, or all, and keep them no longer: from now on they are not used."""
        found = await self._papers.all(self._user, TOKEN)
        names = [each.name for each in found if alias in (None, each.name.rpartition(".")[0])]
        taken = [_read(GRANT, await self._papers.take(self._user, TOKEN, name)) for name in names]
        return [grant for grant in taken if grant]

    async def client(self, place: str) -> str | None:
        """Return a registration at an authorization server, as JSON."""
        found = await self._papers.get(self._user, CLIENT, place)
        return found.text if found else None

    async def keep_client(self, place: str, text: str) -> None:
        """Store a registration, which has its issuer's name in it."""
        await self._put(CLIENT, place, text.encode(), GRANT_SECONDS)

    async def drop_client(self, place: str) -> None:
        """Drop a registration that the authorization server does not know any more."""
        await self._papers.drop(self._user, CLIENT, place)

    async def _put(
        self, kind: str, name: str, text: bytes, seconds: float, version: int | None = None
    ) -> bool:
        stored = await self._papers.put(
            self._user, kind, name, text.decode(), seconds=seconds, version=version
        )
        return stored is not None


class Registration:
    """Who we are at a server's authorization server: the SDK's storage, in which it finds no tokens.

    Args:
        kept: The user's sign-ins.
        server: The server.
        redirect_uri: Where browsers come back to; a registration with another one is of no use.
        client_url: The address of our document, which is no registration and is not kept.
    """

    def __init__(self, kept: Kept, server: ServerConfig, redirect_uri: str, client_url: str | None) -> None:
        self._kept = kept
        self._server = server
        self._place = place_of(server)
        self._redirect_uri = redirect_uri
        self._client_url = client_url

    async def get_tokens(self) -> OAuthToken | None:
        """Return none: a sign-in begins without."""
        return None

    async def set_tokens(self, tokens: OAuthToken) -> None:
        """Never happens: a sign-in ends elsewhere."""
        raise NotImplementedError

    async def get_client_info(self) -> OAuthClientInformationFull | None:
        """Return the operator's registration, or the one that was made for this user."""
        if self._server.oauth.client_id:
            return self._operators()
        text = await self._kept.client(self._place)
        try:
            client = OAuthClientInformationFull.model_validate_json(text) if text else None
        except ValidationError:
            return None
        return client if client and self._is_good(client) else None

    async def set_client_info(self, client_info: OAuthClientInformationFull) -> None:
        """Keep a registration that was just made, bound to its issuer."""
        if client_info.client_id != self._client_url and client_info.issuer:
            await self._kept.keep_client(self._place, client_info.model_dump_json(exclude_none=True))

    def _operators(self) -> OAuthClientInformationFull:
        oauth = self._server.oauth
        return OAuthClientInformationFull(
            client_id=oauth.client_id, client_secret=oauth.client_secret, issuer=oauth.issuer or None
        )

    def _is_good(self, client: OAuthClientInformationFull) -> bool:
        ends = client.client_secret_expires_at
        places = [str(uri) for uri in client.redirect_uris or ()]
        return (not ends or ends > time.time()) and (not places or self._redirect_uri in places)


def _read(form: TypeAdapter[T], found: Document | None) -> T | None:
    """Read a document; one that another version has written is none."""
    try:
        return form.validate_json(found.text) if found else None
    except ValidationError:
        return None


def _pending(place: str) -> str:
    return f"pending.{hashlib.sha256(place.encode()).hexdigest()[:32] if place else ''}"
