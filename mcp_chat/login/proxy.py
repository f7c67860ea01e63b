"""A reverse proxy that has proven who asks, and says so in a header."""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address

import structlog
from starlette.requests import HTTPConnection

from mcp_chat.exceptions import NotAuthenticated
from mcp_chat.identity import Principal
from mcp_chat.login.origin import require_same_origin
from mcp_chat.login.token import name_in

log = structlog.get_logger()


class ProxyIdentity:
    """Believes a header of one name, once, from a peer that is listed and knows the secret.

    A browser's request comes through the proxy, so a change needs a same-origin proof as with a cookie.

    Args:
        peers: Where the proxy connects from.
        secret: What it sends along, so that a neighbour on its network is not believed.
        user_header: Names the user.
        secret_header: Has the secret.
    """

    mode = "proxy"

    def __init__(
        self,
        *,
        peers: Sequence[IPv4Network | IPv6Network],
        secret: str,
        user_header: str,
        secret_header: str,
    ) -> None:
        self._peers = peers
        self._secret = secret.encode()
        self._user = user_header.lower()
        self._secret_header = secret_header.lower()

    async def identify(self, connection: HTTPConnection) -> Principal | None:
        """Return whom the proxy names."""
        names = self._values(connection, self._user)
        if not names:
            return None
        require_same_origin(connection)
        secrets = self._values(connection, self._secret_header)
        known = len(secrets) == 1 and hmac.compare_digest(secrets[0], self._secret)
        if len(names) > 1 or not known or not self._is_peer(connection):
            log.warning("proxy.refused", peer=connection.client.host if connection.client else "")
            raise NotAuthenticated
        try:
            name = names[0].decode()
        except UnicodeDecodeError:
            raise NotAuthenticated from None
        if "," in name or name != name.strip():  # two headers that somebody has joined
            raise NotAuthenticated
        return Principal(id=name_in({"name": name}, "name"))

    def _values(self, connection: HTTPConnection, name: str) -> list[bytes]:
        """Return all values of a header, also under the name that a server may take for the same.

        Raises:
            NotAuthenticated: There is such a twin: some proxies let it pass.
        """
        values: list[bytes] = []
        for key, value in connection.scope["headers"]:
            text = key.decode("latin-1").lower()
            if text == name:
                values.append(value)
            elif text.replace("_", "-") == name.replace("_", "-"):
                raise NotAuthenticated
        return values

    def _is_peer(self, connection: HTTPConnection) -> bool:
        try:
            peer = ip_address(connection.client.host if connection.client else "")
        except ValueError:
            return False
        peer = getattr(peer, "ipv4_mapped", None) or peer
        return any(peer in network for network in self._peers)
