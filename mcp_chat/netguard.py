"""Which addresses may be dialled, decided at the moment a socket is opened.

Checks of a URL's text lose: ``127.1``, ``0x7f000001`` and a name whose DNS answer changes are all
loopback once they are dialled. So the network backend below the HTTP client resolves the name,
judges every answer and dials the literal address. Redirects, retries, refilled pools and OAuth
discovery all pass there. The pool, Host, SNI and the certificate check keep the name.

``mcp`` speaks httpx2 and the model clients speak httpx: each class here that ends in 2 is the twin
for the former.
"""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, partial
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any, Final, Generic, TypeVar
from weakref import WeakValueDictionary

import anyio
import httpcore
import httpcore2
import httpx
import httpx2

from mcp_chat.answers import MAX_BODY_BYTES, AnswerTooLarge, Pace, capped
from mcp_chat.exceptions import InvalidRequest, ServerUnavailable
from mcp_chat.handshakes import ClosingBackend, ClosingBackend2
from mcp_chat.pool import Lender, Spare

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
Resolver = Callable[[str, int], Awaitable[Sequence[str]]]

RESOLVE_SECONDS = 3.0
_MAX_DIALS = 4  # of a name's addresses; all of them are judged
_LOOKUPS_AT_ONCE: Final = 2  # of one user: a slow DNS server keeps its thread longer than anybody waits
_THREADS = ThreadPoolExecutor(64, "lookup")
_POOL: dict[str, Any] = {"max_connections": 100, "max_keepalive_connections": 20, "keepalive_expiry": 5}
LISTENS_PER_SECOND, LISTENS_AT_ONCE = 1.0, 10
"""Streams that a client may ask for, one after the other, on which a server tells what was not asked for."""

_UNREACHABLE = (
    httpcore.ConnectError,
    httpcore.ConnectTimeout,
    httpcore2.ConnectError,
    httpcore2.ConnectTimeout,
)


def _networks(*texts: str) -> tuple[Network, ...]:
    return tuple(ip_network(part) for text in texts for part in text.split())


def _numbers(*texts: str) -> frozenset[int]:
    return frozenset(int(part) for text in texts for part in text.split())


# None of these is opened by an allowed network that is wider than the range itself.
_NARROW = _networks(
    "169.254.0.0/16 fe80::/10",  # link-local, where most clouds keep credentials
    "100.100.100.200 168.63.129.16 192.0.0.192",  # the same of Alibaba, Azure, Oracle
    "fd00:ec2::/32 fd20:ce::254 fd00:42::42",  # of AWS, Google, Scaleway
    "64:ff9b::/96 64:ff9b:1::/48 2002::/16 2001::/32 ::ffff:0:0:0/96",  # NAT64, 6to4, Teredo, translated
    "::8000:0/97 ::4000:0/98 ::2000:0/99 ::1000:0/100 ::800:0/101 ::400:0/102 ::200:0/103 ::100:0/104",
    "fec0::/10",  # site-local; the line above is IPv4-compatible, but not :: and ::1
)
_NOT_PUBLIC = _NARROW + _networks(
    "0.0.0.0/8 10.0.0.0/8 127.0.0.0/8 172.16.0.0/12 192.168.0.0/16",
    "100.64.0.0/10 192.0.0.0/24 198.18.0.0/15",  # carrier NAT, IETF, benchmarks
    "192.0.2.0/24 198.51.100.0/24 203.0.113.0/24 2001:db8::/32 3fff::/20",  # documentation
    "192.88.99.0/24 224.0.0.0/3 2001::/23",  # 6to4 relays; multicast, reserved, broadcast; IETF
)
_UNICAST = ip_network("2000::/3")  # all that IPv6 has of public addresses

# Mail, shells, directories, databases: servers that act on the lines of an HTTP request.
_OTHER_PORTS = _numbers(
    "0 7 9 13 19 20 21 22 23 25 37 53 69 79 110 111 119 123 135 137 139 143 161 179 389 427 445 465 512",
    "513 514 515 548 554 587 636 873 990 993 995 1433 1521 1723 2049 3306 3389 4190 5060 5432 5900 6379",
    "6667 11211 27017",
)
_URL = re.compile(
    r"https?://(\[[0-9a-f:.]+\]|[^\s/?#@%:\\\[\]]+)(:[0-9]{0,5})?([/?][^\s#\\]*)?", re.ASCII | re.IGNORECASE
)
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")


_DEFAULT_PORTS = {"https": 443, "http": 80}


class AddressNotAllowed(InvalidRequest):
    """This address is not allowed. Check the URL, or ask the operator to allow the server's network."""

    code = "address_not_allowed"


def check_url(url: str, policy: Policy | None = None) -> str:
    """Return a user's URL in the form in which both HTTP libraries read it.

    Args:
        policy: Which schemes and ports it may have; by default those of web servers.

    Raises:
        InvalidRequest: It is not a plain http or https URL; the text says how to write one.
    """
    policy = policy or Policy()
    try:
        if len(url) > 2048 or not url.isprintable() or not _URL.fullmatch(url):
            raise ValueError(url)
        parsed = httpx2.URL(url)
        parsed = parsed.copy_with(host=_plain_host(parsed.raw_host.decode()))
        _ = httpx.URL(str(parsed)).host  # httpx reads Punycode too, and refuses what is none
    except (httpx2.InvalidURL, ValueError):
        advice = "write it as https://host/path, without a user name, spaces, backslashes or #."
        raise InvalidRequest(f"Invalid server URL: {advice}") from None
    if parsed.scheme not in policy.schemes:
        raise InvalidRequest(f"Invalid server URL: use {' or '.join(policy.schemes)}.")
    if not policy.allows_port(_DEFAULT_PORTS[parsed.scheme] if parsed.port is None else parsed.port):
        raise InvalidRequest(f"Invalid server URL: use a port {policy.advice}.")
    return str(parsed)


def _plain_host(host: str) -> str:
    """Return the host in its shortest form; a ValueError if it can be none."""
    if ":" in host:
        return str(IPv6Address(host))
    host = host.removesuffix(".")
    if len(host) > 253 or not all(map(_LABEL.fullmatch, host.split("."))):
        raise ValueError(host)
    return host


@dataclass(frozen=True, slots=True)
class Policy:
    """What users may have dialled: public addresses, and what else the operator allows.

    Attributes:
        allowed_networks: Addresses besides the public ones.
        ports: The only ports; if there are none, all but those of other servers than web servers.
        schemes: What a URL may begin with.
        nat64: The site's own prefixes behind which IPv4 addresses stand.
    """

    allowed_networks: tuple[Network, ...] = ()
    ports: tuple[range, ...] = ()
    schemes: tuple[str, ...] = ("https", "http")
    nat64: tuple[IPv6Network, ...] = ()

    def allows(self, address: Address) -> bool:
        """Whether the address may be dialled; what is not known to be public is not."""
        address = self._meant(address)
        least = max((narrow.prefixlen for narrow in _NARROW if address in narrow), default=0)
        if any(address in network and network.prefixlen >= least for network in self.allowed_networks):
            return True
        if address.version == 6 and address not in _UNICAST:
            return False
        return not any(address in network for network in _NOT_PUBLIC)

    def _meant(self, address: Address) -> Address:
        """Return the IPv4 address that is reached by an IPv6 one, as far as that is known."""
        if isinstance(address, IPv4Address):
            return address
        length = max((prefix.prefixlen for prefix in self.nat64 if address in prefix), default=0)
        return address.ipv4_mapped or (_embedded(address, length) if length else address)

    def allows_port(self, port: int) -> bool:
        """Whether the port may be dialled; another server's port only if it is named by itself."""
        if not self.ports:
            return 0 < port < 65536 and port not in _OTHER_PORTS
        return any(port in ports and (len(ports) == 1 or port not in _OTHER_PORTS) for ports in self.ports)

    @property
    def advice(self) -> str:
        """Which ports there are, in words."""
        named = (f"{ports[0]}-{ports[-1]}" if len(ports) > 1 else str(ports[0]) for ports in self.ports)
        return f"of {', '.join(named)}" if self.ports else "of a web server, such as 443 or 8080"


def _embedded(address: IPv6Address, length: int) -> IPv4Address:
    """Return the IPv4 address behind a NAT64 prefix: around the ninth octet, says RFC 6052."""
    octets = address.packed
    start = length // 8
    return IPv4Address((octets if length == 96 else octets[:8] + octets[9:])[start : start + 4])


def refusal(error: BaseException) -> AddressNotAllowed | AnswerTooLarge | None:
    """Find our own error inside one that an HTTP library, an SDK or a task group made of it."""
    waiting: list[BaseException | None] = [error]
    seen: set[int] = set()
    while waiting:
        found = waiting.pop()
        if isinstance(found, AddressNotAllowed | AnswerTooLarge):
            return found
        if found is not None and id(found) not in seen:
            seen.add(id(found))
            waiting += [found.__context__, found.__cause__, *getattr(found, "exceptions", ())]
    return None


async def resolve(host: str, port: int) -> list[str]:
    """Return the addresses of a host, each once, asked for in a thread."""
    answers = await asyncio.wrap_future(_asked(host, port))
    return _addresses(answers)


def _asked(host: str, port: int) -> Future[list[Any]]:
    return _THREADS.submit(partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM))


def _addresses(answers: Iterable[Any]) -> list[str]:
    return list(dict.fromkeys(str(answer[4][0]) for answer in answers))


class Lookups:
    """Looks names up for all users of this process, so that no user's names take all threads."""

    def __init__(self) -> None:
        self._places: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    def of(self, user: str) -> Resolver:
        """Return what looks names up for one user: few at a time, until their servers have answered."""
        return partial(self._resolve, user)

    async def _resolve(self, user: str, host: str, port: int) -> list[str]:
        places = self._places.setdefault(user, asyncio.Semaphore(_LOOKUPS_AT_ONCE))
        await places.acquire()
        loop, asked = asyncio.get_running_loop(), _asked(host, port)

        def free(_: object) -> None:
            """Give the place back when the thread is free, which is later than the end of the wait."""
            with suppress(RuntimeError):  # the loop is closed, and nobody waits
                loop.call_soon_threadsafe(places.release)

        asked.add_done_callback(free)
        answers = await asyncio.wrap_future(asked)
        return _addresses(answers)


S = TypeVar("S", httpcore.AsyncNetworkStream, httpcore2.AsyncNetworkStream)


class _Guard(Generic[S]):
    """Opens sockets to allowed addresses only.

    Args:
        policy: What is allowed.
        resolver: Asked once per dial.
        network: Dials, if it is not to be the usual one.
    """

    _network: Any

    def __init__(self, policy: Policy, resolver: Resolver = resolve, network: Any = None) -> None:
        self._policy = policy
        self._resolve = resolver
        self._network = network or self._network

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> S:
        """Dial the host's addresses one after the other, if every one of them is allowed.

        Raises:
            AddressNotAllowed: One of them is not, or there is none.
            ServerUnavailable: The name could not be looked up now.
        """
        *others, last = (await self._judged(host, port))[:_MAX_DIALS]
        share = None if timeout is None else timeout / (len(others) + 1)
        dial = partial(self._dial, port=port, timeout=share, local_address=local_address)
        for address in others:
            with suppress(*_UNREACHABLE):
                return await dial(address, socket_options=socket_options)
        return await dial(last, socket_options=socket_options)

    async def _judged(self, host: str, port: int) -> Sequence[str]:
        """Return the host's addresses, all of them allowed."""
        try:
            with anyio.fail_after(RESOLVE_SECONDS):
                addresses = await self._resolve(host, port)
        except TimeoutError as error:
            raise ServerUnavailable from error
        except (socket.gaierror, UnicodeError) as error:
            if error.args[0] == socket.EAI_AGAIN:
                raise ServerUnavailable from error
            addresses = ()  # no such name: said in the same words, so that it tells nothing of inner names
        allowed = [self._policy.allows(ip_address(address)) for address in addresses]
        if not self._policy.allows_port(port) or not allowed or not all(allowed):
            raise AddressNotAllowed
        return addresses

    async def _dial(self, address: str, **options: Any) -> S:
        """Connect, and make sure of who is at the other end."""
        stream: S = await self._network.connect_tcp(address, **options)
        with suppress(OSError, TypeError):  # gone again already
            if self._policy.allows(ip_address(stream.get_extra_info("server_addr")[0])):
                return stream
        await stream.aclose()
        raise AddressNotAllowed

    async def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Iterable[Any] | None = None
    ) -> S:
        """Refuse."""
        raise AddressNotAllowed

    async def sleep(self, seconds: float) -> None:
        """Wait between two attempts."""
        await anyio.sleep(seconds)


class GuardedBackend(_Guard[httpcore.AsyncNetworkStream], httpcore.AsyncNetworkBackend):
    """The guard below httpx."""

    _network = ClosingBackend()


class GuardedBackend2(_Guard[httpcore2.AsyncNetworkStream], httpcore2.AsyncNetworkBackend):
    """The guard below httpx2."""

    _network = ClosingBackend2()


def _prepare(request: Any, policy: Policy | None) -> None:
    """Refuse a scheme that is not allowed, also that of a stored URL or of a redirect."""
    if policy is not None and request.url.scheme not in policy.schemes:
        raise AddressNotAllowed
    request.headers["accept-encoding"] = "identity"


def _listens(request: httpx2.Request) -> bool:
    """Tell whether a server is asked for what it tells of its own accord, in either generation."""
    if request.method == "GET":
        return "text/event-stream" in request.headers.get("accept", "")
    return request.headers.get("mcp-method") == "subscriptions/listen"


_tls = cache(httpx2.create_ssl_context)  # takes 20 ms: once per process, and not at import


class GuardedTransport(httpx.AsyncHTTPTransport):
    """httpx's transport with guarded sockets and capped bodies.

    Args:
        policy: What may be dialled; None for the operator's own servers, which may be anywhere.
        max_bytes: Largest body, or event of an event stream; more is an AnswerTooLarge.
        resolver: Looks names up.
    """

    def __init__(
        self, policy: Policy | None, *, max_bytes: int = MAX_BODY_BYTES, resolver: Resolver = resolve
    ) -> None:
        super().__init__(verify=_tls(), trust_env=False)
        self._max_bytes = max_bytes
        self._policy = policy
        network = ClosingBackend() if policy is None else GuardedBackend(policy, resolver)
        # The parent has no parameter for it.
        self._pool = type(self._pool)(_tls(), network_backend=network, **_POOL)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request."""
        _prepare(request, self._policy)
        response = await super().handle_async_request(request)
        response.stream = capped(response, request.headers.get("accept", ""), self._max_bytes)
        return response


class GuardedTransport2(httpx2.AsyncHTTPTransport):
    """The same of httpx2.

    Args:
        policy: As above, like all others but one.
        max_event: Largest event of an event stream, if that is not `max_bytes`.
        max_rate: Events of all its streams in a second; the stream of a sender with more is read later.
        spare: The idle sockets that it shares with all others of the same policy; cookies are never kept.
        network: Dials, if it is not to be the usual one.
    """

    def __init__(
        self,
        policy: Policy | None,
        *,
        max_bytes: int = MAX_BODY_BYTES,
        max_event: int | None = None,
        max_rate: float | None = None,
        resolver: Resolver = resolve,
        spare: Spare | None = None,
        network: httpcore2.AsyncNetworkBackend | None = None,
    ) -> None:
        super().__init__(verify=_tls(), trust_env=False)
        self._max_bytes = max_bytes
        self._max_event = max_event
        self._pace = Pace(max_rate) if max_rate else None
        self._policy = policy
        dials = network or ClosingBackend2()
        if policy is not None:
            dials = GuardedBackend2(policy, resolver, network)
        self._pool = Lender(spare, policy, ssl_context=_tls(), network_backend=dials)
        self._listens = Pace(LISTENS_PER_SECOND, at_once=LISTENS_AT_ONCE)

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send a request."""
        _prepare(request, self._policy)
        if _listens(request):
            await self._listen(request)
        response = await super().handle_async_request(request)
        response.headers.pop("set-cookie", None)
        accept = request.headers.get("accept", "")
        response.stream = capped(response, accept, self._max_bytes, self._max_event, self._pace)
        return response

    async def _listen(self, request: httpx2.Request) -> None:
        """Let the server be silent while it has nothing to tell; it may not have us ask all the time.

        The SDK asks again whenever such a stream ends, at once if the server wants that, and without end.
        """
        await self._listens.keep(1)
        timeout = {**request.extensions.get("timeout", {}), "read": None}
        request.extensions = {**request.extensions, "timeout": timeout}


def guarded_client(
    policy: Policy | None,
    *,
    timeout: httpx.Timeout | float | None,
    max_bytes: int = MAX_BODY_BYTES,
    resolver: Resolver = resolve,
) -> httpx.AsyncClient:
    """Return a client for model servers that follows no redirect and reads no proxy from the environment.

    Args:
        policy: As for GuardedTransport, like the last two.
        timeout: Also the limit to silence while a body is read.
    """
    transport = GuardedTransport(policy, max_bytes=max_bytes, resolver=resolver)
    return httpx.AsyncClient(transport=transport, timeout=timeout, trust_env=False)


def guarded_client2(
    policy: Policy | None,
    *,
    headers: Mapping[str, str] | None = None,
    timeout: httpx2.Timeout | float | None,
    max_bytes: int = MAX_BODY_BYTES,
    max_event: int | None = None,
    max_rate: float | None = None,
    resolver: Resolver = resolve,
    spare: Spare | None = None,
    auth: httpx2.Auth | None = None,
    network: httpcore2.AsyncNetworkBackend | None = None,
) -> httpx2.AsyncClient:
    """Return the same for MCP servers and their OAuth discovery, with headers for every request.

    It keeps no cookies. Headers and `auth` are its own, whatever sockets it shares.

    Args:
        network: Dials, if it is not to be the usual one.
    """
    transport = GuardedTransport2(
        policy,
        max_bytes=max_bytes,
        max_event=max_event,
        max_rate=max_rate,
        resolver=resolver,
        spare=spare,
        network=network,
    )
    return httpx2.AsyncClient(
        transport=transport, headers=headers, auth=auth, timeout=timeout, trust_env=False
    )
