"""The way to authorization servers: others have told us their URLs, so each is judged when dialled."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, fields

import anyio
import httpx2

from mcp_chat.exceptions import ServerUnavailable, SignInFailed
from mcp_chat.netguard import Address, AddressNotAllowed, Policy, Resolver, guarded_client2, refusal
from mcp_chat.urls import origin_of

MAX_BYTES = 262_144
"""Of a document or a token: what is larger is neither."""


class Unreached(ServerUnavailable):
    """The server's sign-in cannot be reached right now. Please try again in a moment."""


@dataclass(frozen=True, slots=True)
class OnlyAllowed(Policy):
    """The same policy without the public addresses: where plain http is good enough."""

    def allows(self, address: Address) -> bool:
        """Whether the address is one that the operator has allowed."""
        named = any(address in network for network in self.allowed_networks)
        return named and Policy.allows(self, address)


class Dial:
    """Sends requests to authorization servers, each over a connection of its own.

    Args:
        policy: Which addresses users may have dialled.
        resolver: Looks names up.
        trusted: Origins that the operator vouches for.
        timeout: Seconds for a request and its whole answer.
    """

    def __init__(
        self, policy: Policy, resolver: Resolver, trusted: Collection[str], *, timeout: float
    ) -> None:
        self._policy = policy
        self._resolver = resolver
        self._trusted = trusted
        self._timeout = timeout

    async def __call__(self, request: httpx2.Request) -> httpx2.Response:
        """Return the answer, with its body. No redirect is followed.

        Raises:
            SignInFailed: The address is not allowed.
            Unreached: There is no answer, or no end of it.
        """
        try:
            with anyio.fail_after(self._timeout):
                async with guarded_client2(
                    self._policy_for(str(request.url)),
                    timeout=self._timeout,
                    max_bytes=MAX_BYTES,
                    resolver=self._resolver,
                ) as http:
                    return await http.send(request)
        except (httpx2.HTTPError, httpx2.InvalidURL, httpx2.StreamError, OSError, ValueError) as error:
            raise _said(error) from error
        except (ServerUnavailable, AddressNotAllowed) as error:
            raise _said(error) from error

    def _policy_for(self, url: str) -> Policy | None:
        """Return what may be dialled: where anybody may listen on the way, the operator's networks only."""
        if origin_of(url) in self._trusted:
            return None
        if url.startswith("https:"):
            return self._policy
        return OnlyAllowed(**{each.name: getattr(self._policy, each.name) for each in fields(Policy)})


def _said(error: Exception) -> SignInFailed | Unreached:
    if isinstance(refusal(error), AddressNotAllowed):
        return SignInFailed(
            "The server wants you to sign in by way of an address that is not allowed. "
            "Ask the operator to allow its network."
        )
    return Unreached()
