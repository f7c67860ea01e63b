"""No denied address is ever dialled: asserted on the log of what the sockets connected to."""

from __future__ import annotations

import asyncio
import gzip
import socket
import ssl
import subprocess
import sys
import threading
import urllib.parse
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from ipaddress import IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import Any

import anyio
import httpx
import httpx2
import ollama
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.server.mcpserver import MCPServer
from mcp.shared.exceptions import MCPError

from mcp_chat import netguard
from mcp_chat.answers import AnswerTooLarge
from mcp_chat.exceptions import InvalidRequest, ServerUnavailable
from mcp_chat.netguard import (
    AddressNotAllowed,
    GuardedBackend,
    GuardedBackend2,
    GuardedTransport,
    Policy,
    Resolver,
    check_url,
    guarded_client,
    guarded_client2,
    refusal,
)
from mcp_chat.patient import PatientBackend
from tests.outside import certificate
from tests.running import running
from tests.vectors import Vector, answers_of, vectors

pytestmark = pytest.mark.anyio

LOOPBACK = Policy((ip_network("127.0.0.0/8"),))
PUBLIC = "93.184.216.34"
MakeClient = Callable[..., Any]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def patient_client(policy: Policy | None, **options: Any) -> httpx2.AsyncClient:
    """The client for models that are read line by line."""
    return guarded_client2(policy, network=PatientBackend(), **options)


@pytest.fixture(params=[guarded_client, guarded_client2, patient_client], ids=["httpx", "httpx2", "patient"])
def make_client(request: pytest.FixtureRequest) -> MakeClient:
    """The factory of either family, with a time-out."""
    factory: MakeClient = request.param
    return lambda policy, **options: factory(policy, **{"timeout": 5.0, **options})


class Dials(list[str]):
    """The addresses that sockets were connected to, in order.

    A route sends what is dialled elsewhere; no route, and no packet leaves this machine.
    """

    def __init__(self) -> None:
        self.routes: dict[str, tuple[str, int]] = {}


@pytest.fixture
def dials(monkeypatch: pytest.MonkeyPatch) -> Dials:
    log = Dials()
    connect = asyncio.SelectorEventLoop.sock_connect

    async def logged(loop: asyncio.SelectorEventLoop, sock: socket.socket, address: Any) -> None:
        log.append(address[0])
        target = log.routes.get(address[0], address)
        if not ip_address(target[0].partition("%")[0]).is_loopback:
            raise ConnectionRefusedError
        await connect(loop, sock, target)

    monkeypatch.setattr(asyncio.SelectorEventLoop, "sock_connect", logged)
    return log


def scripted(*lookups: Sequence[str]) -> Resolver:
    """A resolver that gives the next of these answers at every lookup."""
    answers = iter(lookups)

    async def resolver(host: str, port: int) -> Sequence[str]:
        return next(answers)

    return resolver


Answer = Callable[[bytes], bytes]


@asynccontextmanager
async def origin(
    answer: Answer, *, tls: ssl.SSLContext | None = None
) -> AsyncIterator[tuple[int, list[bytes]]]:
    """A web server on loopback that gives one answer per connection; yields its port and what it was sent."""
    seen: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            seen.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(answer(seen[-1]))
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    async with server:
        yield server.sockets[0].getsockname()[1], seen


def http(body: bytes = b"hello", *, status: int = 200, headers: str = "", sized: bool = True) -> Answer:
    """An answer with this body."""
    length = f"Content-Length: {len(body)}\r\n" if sized else ""
    head = f"HTTP/1.1 {status} X\r\nConnection: close\r\n{length}{headers}\r\n"
    return lambda _: head.encode() + body


# The vectors


def resolver_of(*lookups: str) -> Resolver:
    """Play a vector's answers; without any, ask the system, which needs no network for literals."""
    waiting = list(lookups)

    async def play(host: str, port: int) -> Sequence[str]:
        try:
            return [str(ip_address(host))]
        except ValueError:
            lookup = waiting.pop(0) if len(waiting) > 1 else waiting[0]
        if lookup == "!":
            raise socket.gaierror(socket.EAI_NONAME, "no such name")
        return answers_of(lookup)

    return play if lookups else netguard.resolve


def test_a_port_that_is_empty_is_the_usual_one() -> None:
    """So does the tab of ContextForge write the address of a server at the usual port."""
    assert (
        check_url("https://gateway.example.org:/servers/1/mcp") == "https://gateway.example.org/servers/1/mcp"
    )


@pytest.mark.parametrize("vector", [pytest.param(each, id=f"line {each.line}") for each in vectors()])
async def test_vector(vector: Vector, make_client: MakeClient, dials: Dials) -> None:
    """Each vector goes to the parser, and as it is to a real client."""
    url = vector.url
    if vector.expected == "invalid":
        with pytest.raises(InvalidRequest, match=r"^Invalid server URL: (write|use) .+\.$"):
            check_url(url)
    else:
        assert check_url(check_url(url)) == check_url(url)
    reached: Sequence[str] = ()
    if vector.expected in ("allow", "rebind"):
        reached = await resolver_of(*vector.lookups)(httpx2.URL(url).raw_host.decode(), 80)
    async with make_client(Policy(), resolver=resolver_of(*vector.lookups)) as client:
        with pytest.raises(Exception) as caught:  # noqa: PT011  # of many libraries; the log is what counts
            await client.get(url)
        assert refusal(caught.value) is None or not reached
        if vector.expected == "rebind":
            with pytest.raises(Exception) as caught:  # noqa: PT011
                await client.get(url)
    assert [ip_address(dial) for dial in dials] == [ip_address(address) for address in reached]
    if vector.expected in ("deny", "rebind"):
        assert isinstance(caught.value, AddressNotAllowed)


def test_there_are_vectors() -> None:
    assert len({vector.url for vector in vectors()}) >= 900


# The parser


@pytest.mark.parametrize(
    ("url", "normal"),
    [
        ("HTTPS://Example.COM:443/a/../b?q=ä", "https://example.com/b?q=%C3%A4"),
        ("http://example.com.:8080", "http://example.com:8080"),
        ("http://bücher.example/", "http://xn--bcher-kva.example/"),
        ("http://[0:0:0:0:0:0:0:1]:3000/mcp", "http://[::1]:3000/mcp"),
        ("http://127。0。0。1/", "http://127.0.0.1/"),
        ("http://host/@x:y", "http://host/@x:y"),
    ],
)
def test_a_url_is_returned_in_one_form(url: str, normal: str) -> None:
    assert check_url(url) == normal


HOSTILE = st.text("aA1.:/\\@#?%[]-_ \t\r\n\0ä。①ſ０\u200b\xad{}|^`'\"&=+,;", max_size=30)


@given(HOSTILE, st.sampled_from(["http://", "https://", "http:", "HTTP://a", "http://[::1]", ""]))
def test_what_is_accepted_means_the_same_to_every_parser(text: str, start: str) -> None:
    try:
        url = check_url(start + text)
    except InvalidRequest:
        return
    one, two, three = httpx.URL(url), httpx2.URL(url), urllib.parse.urlsplit(url)
    assert one.raw_host == two.raw_host == (three.hostname or "").encode()
    assert one.port == two.port == three.port
    assert one.scheme == two.scheme == three.scheme
    assert str(one) == str(two) == url == check_url(url)
    assert (one.userinfo, three.username, one.fragment) == (b"", None, "")


def test_a_url_is_not_endless() -> None:
    with pytest.raises(InvalidRequest):
        check_url("http://example.com/" + "a" * 3000)


# The table


def allows(address: str, *networks: str) -> bool:
    return Policy(tuple(ip_network(network) for network in networks)).allows(ip_address(address))


@pytest.mark.parametrize(
    "address", ["10.1.2.3", "127.0.0.1", "::1", "::ffff:10.1.2.3", "fd12::1", "100.64.0.1"]
)
def test_the_operator_can_allow_a_network(address: str) -> None:
    assert not allows(address)
    assert allows(address, "0.0.0.0/0", "::/0")
    assert allows(address, "10.0.0.0/8", "127.0.0.0/8", "::1/128", "fd12::/16", "100.64.0.0/10")
    assert not allows(address, "192.168.0.0/16", "fd99::/16")


METADATA = """
    169.254.169.254 169.254.170.2 100.100.100.200 168.63.129.16 192.0.0.192 fd00:ec2::254 fd20:ce::254
    fd00:42::42 fe80::a9fe:a9fe fe80::1%eth0 ::ffff:169.254.169.254 ::169.254.169.254 ::ffff:0:169.254.169.254
    64:ff9b::a9fe:a9fe 64:ff9b:1::a9fe:a9fe 2002:a9fe:a9fe:: 2001:0:a9fe:a9fe::1 fec0::1
"""
WIDE = """
    0.0.0.0/0 128.0.0.0/1 100.64.0.0/10 168.0.0.0/8 169.254.0.0/15 192.0.0.0/24
    ::/0 fc00::/7 fe80::/9 2000::/3
"""


def test_no_wide_network_opens_metadata() -> None:
    policy = Policy(tuple(ip_network(network) for network in WIDE.split()))
    assert [address for address in METADATA.split() if policy.allows(ip_address(address))] == []


def test_a_network_within_link_local_does() -> None:
    assert allows("169.254.169.254", "169.254.169.254/32")
    assert not allows("169.254.169.254", "169.254.1.0/24")
    assert allows("fe80::1%eth0", "fe80::/64")
    assert allows("64:ff9b::808:808", "64:ff9b::/96")


# Ports, schemes, NAT64


WEB = Policy(ports=(range(443, 444), range(6000, 9000), range(3306, 3307)))


@pytest.mark.parametrize(
    ("port", "allowed"),
    [(443, True), (8000, True), (8999, True), (3306, True), (80, False), (9000, False), (6379, False)],
)
def test_the_operator_can_name_the_only_ports(port: int, allowed: bool) -> None:
    """A range does not open another server's port; who wants that names it by itself."""
    assert WEB.allows_port(port) is allowed
    if allowed:
        assert check_url(f"https://e.org:{port}/", WEB)
    else:
        with pytest.raises(InvalidRequest, match=r"use a port of 443, 6000-8999, 3306\."):
            check_url(f"https://e.org:{port}/", WEB)


def test_a_port_that_is_not_written_counts_too() -> None:
    assert check_url("https://e.org/", WEB)
    with pytest.raises(InvalidRequest):
        check_url("http://e.org/", WEB)


def test_the_operator_can_forbid_what_is_not_encrypted() -> None:
    policy = Policy(schemes=("https",))
    assert check_url("https://e.org/", policy)
    with pytest.raises(InvalidRequest, match=r"use https\."):
        check_url("http://e.org/", policy)


@pytest.mark.parametrize("policy", [Policy(schemes=("https",)), Policy(ports=(range(443, 444),))])
async def test_scheme_and_port_are_judged_at_the_socket_too(
    policy: Policy, make_client: MakeClient, dials: Dials
) -> None:
    """A URL that was stored before the setting changed, or one that a redirect names."""
    async with make_client(policy) as client:
        with pytest.raises(AddressNotAllowed):
            await client.get("http://1.1.1.1/")
    assert dials == []


@pytest.mark.parametrize(
    ("prefix", "private", "public"),  # the examples of RFC 6052 have 192.0.2.33; so have these, and 8.8.4.4
    [
        ("2001:db8::/32", "2001:db8:c000:221::", "2001:db8:808:404::"),
        ("2001:db8:100::/40", "2001:db8:1c0:2:21::", "2001:db8:108:804:4::"),
        ("2001:db8:122::/48", "2001:db8:122:c000:2:2100::", "2001:db8:122:808:4:400::"),
        ("2001:db8:122:300::/56", "2001:db8:122:3c0:0:221::", "2001:db8:122:308:8:404::"),
        ("2001:db8:122:344::/64", "2001:db8:122:344:c0:2:2100::", "2001:db8:122:344:8:804:400:0"),
        ("2001:db8:122:344::/96", "2001:db8:122:344::192.0.2.33", "2001:db8:122:344::8.8.4.4"),
        ("64:ff9b::/96", "64:ff9b::192.0.2.33", "64:ff9b::8.8.4.4"),
        ("2a01:1:2:3::/96", "2a01:1:2:3::192.0.2.33", "2a01:1:2:3::8.8.4.4"),
    ],
)
def test_behind_a_nat64_prefix_of_the_site_the_ipv4_address_counts(
    prefix: str, private: str, public: str
) -> None:
    network = ip_network(prefix)
    assert isinstance(network, IPv6Network)
    site = Policy(nat64=(network,))
    assert not site.allows(ip_address(private))
    assert site.allows(ip_address(public))
    assert Policy((ip_network("192.0.2.0/24"),), nat64=(network,)).allows(ip_address(private))
    assert Policy().allows(ip_address(private)) is prefix.startswith("2a01"), "nobody else can know"


def test_of_nat64_prefixes_that_overlap_the_longest_counts() -> None:
    networks = [ip_network("2a00:1::/32"), ip_network("2a00:1:2:3:4:5::/96")]
    for order in (networks, networks[::-1]):
        site = Policy(nat64=tuple(each for each in order if isinstance(each, IPv6Network)))
        assert not site.allows(ip_address("2a00:1:2:3:4:5:169.254.169.254"))
        assert site.allows(ip_address("2a00:1:2:3:4:5:8.8.4.4"))


# The socket


async def test_an_allowed_server_is_reached_by_its_name(make_client: MakeClient, dials: Dials) -> None:
    answers = scripted(["127.0.0.1"])
    async with origin(http()) as (port, seen), make_client(LOOPBACK, resolver=answers) as client:
        response = await client.get(f"http://app.example:{port}/x")
    assert (response.text, dials) == ("hello", ["127.0.0.1"])
    assert f"host: app.example:{port}\r\n".encode() in seen[0].lower()


async def test_the_name_is_looked_up_once_and_the_answer_dialled(
    make_client: MakeClient, dials: Dials
) -> None:
    """What a second lookup would answer does not matter."""
    async with origin(http()) as (port, _), make_client(LOOPBACK, resolver=scripted(["127.0.0.1"])) as client:
        await client.get(f"http://rebind.example:{port}/")
    assert dials == ["127.0.0.1"]


async def test_an_answer_that_changes_is_judged_again(make_client: MakeClient, dials: Dials) -> None:
    lookups = scripted(["127.0.0.1"], ["169.254.169.254"], ["127.0.0.1", "10.0.0.1"])
    async with origin(http()) as (port, _), make_client(LOOPBACK, resolver=lookups) as client:
        await client.get(f"http://rebind.example:{port}/")
        for _ in range(2):
            with pytest.raises(AddressNotAllowed):
                await client.get(f"http://rebind.example:{port}/")
    assert dials == ["127.0.0.1"]


async def test_addresses_are_tried_in_turn(make_client: MakeClient, dials: Dials) -> None:
    answers = scripted(["127.0.0.2", "127.0.0.3", "127.0.0.1"])
    async with origin(http()) as (port, _), make_client(LOOPBACK, resolver=answers) as client:
        assert (await client.get(f"http://app.example:{port}/")).text == "hello"
    assert dials == ["127.0.0.2", "127.0.0.3", "127.0.0.1"]


async def test_a_name_with_many_addresses_is_not_dialled_for_ever(
    make_client: MakeClient, dials: Dials
) -> None:
    async with make_client(Policy(), resolver=scripted([f"93.184.216.{n}" for n in range(100)])) as client:
        with pytest.raises((httpx.ConnectError, httpx2.ConnectError)):
            await client.get("http://many.example/")
    assert len(dials) == 4


async def test_the_peer_is_looked_at_after_connecting(make_client: MakeClient, dials: Dials) -> None:
    """A route that leads elsewhere than it says: nothing is sent there."""
    async with origin(http()) as (port, seen):
        dials.routes[PUBLIC] = ("127.0.0.1", port)
        async with make_client(Policy(), resolver=scripted([PUBLIC])) as client:
            with pytest.raises(AddressNotAllowed):
                await client.get("http://public.example/")
        await asyncio.sleep(0.05)
    assert (dials, seen) == ([PUBLIC], [])


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects(status: int, make_client: MakeClient, dials: Dials) -> None:
    """Not followed by themselves, and refused when a caller follows them."""
    answer = http(status=status, headers="Location: http://10.0.0.1/\r\n")
    async with origin(answer) as (port, _), make_client(LOOPBACK) as client:
        response = await client.get(f"http://127.0.0.1:{port}/")
        assert response.status_code == status
        with pytest.raises(AddressNotAllowed):
            await client.get(f"http://127.0.0.1:{port}/", follow_redirects=True)
    assert dials == ["127.0.0.1", "127.0.0.1"]


async def test_a_slow_resolver_is_not_waited_for(
    make_client: MakeClient, dials: Dials, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def slow(host: str, port: int) -> Sequence[str]:
        await asyncio.sleep(60)
        return [PUBLIC]

    assert netguard.RESOLVE_SECONDS == 3
    monkeypatch.setattr(netguard, "RESOLVE_SECONDS", 0.1)
    with anyio.fail_after(5):
        async with make_client(Policy(), resolver=slow) as client:
            with pytest.raises(ServerUnavailable):
                await client.get("http://slow.example/")
    assert dials == []


async def test_lookups_do_not_hold_up_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    going = threading.Event()

    def slow(*_: object, **__: object) -> list[Any]:
        assert going.wait(30)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (PUBLIC, 80))] * 2

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    lookup = asyncio.create_task(netguard.resolve("slow.example", 80))
    await asyncio.sleep(0.01)
    assert not lookup.done()
    going.set()
    assert await lookup == [PUBLIC]


async def test_slow_names_of_one_user_hold_up_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, answer = [], threading.Event()

    def scripted(host: str, *_: object, **__: object) -> list[Any]:
        if host.endswith("slow.example"):
            asked.append(host)
            assert answer.wait(30)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (PUBLIC, 80))]

    async def impatient(number: int) -> None:
        with anyio.move_on_after(0.05):
            await lookups.of("greedy")(f"{number}.slow.example", 80)

    monkeypatch.setattr(socket, "getaddrinfo", scripted)
    lookups = netguard.Lookups()
    try:
        for _ in range(2):  # who has stopped waiting has not freed a thread
            async with anyio.create_task_group() as tasks:
                for number in range(100):
                    tasks.start_soon(impatient, number)
            with anyio.fail_after(10):
                while len(asked) < 2:  # noqa: ASYNC110 - the threads tell nobody
                    await anyio.sleep(0.01)
            assert len(asked) == 2
        with anyio.fail_after(20):
            assert await lookups.of("bob")("good.example", 80) == [PUBLIC]
    finally:
        answer.set()
    with anyio.fail_after(10):
        assert await lookups.of("greedy")("3.slow.example", 80) == [PUBLIC], "the threads are free again"


async def test_a_resolver_out_of_order_may_be_asked_again(make_client: MakeClient) -> None:
    async def broken(host: str, port: int) -> Sequence[str]:
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    async with make_client(Policy(), resolver=broken) as client:
        with pytest.raises(ServerUnavailable) as caught:
            await client.get("http://app.example/")
    assert caught.value.retryable


@pytest.mark.parametrize("answers", ["10.0.0.7", "169.254.169.254", "!", "-"])
async def test_a_refusal_says_nothing_of_what_was_found(answers: str, make_client: MakeClient) -> None:
    async with make_client(Policy(), resolver=resolver_of(answers)) as client:
        with pytest.raises(AddressNotAllowed) as caught:
            await client.get("http://inner.example/")
    assert str(caught.value) == str(AddressNotAllowed())
    assert "not allowed" in str(caught.value)
    assert caught.value.code == "address_not_allowed"
    assert not caught.value.retryable


@pytest.mark.parametrize("host", ["a" * 300 + ".example", "a..example"])
async def test_a_name_that_cannot_be_one_is_refused(host: str, make_client: MakeClient) -> None:
    async with make_client(Policy()) as client:
        with pytest.raises(AddressNotAllowed):
            await client.get(f"http://{host}/")


@pytest.mark.parametrize("backend", [GuardedBackend(LOOPBACK), GuardedBackend2(LOOPBACK)])
async def test_unix_sockets_are_refused(backend: GuardedBackend | GuardedBackend2, tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    async with await asyncio.start_unix_server(lambda _, writer: writer.close(), path):
        with pytest.raises(AddressNotAllowed):
            await backend.connect_unix_socket(path)


async def test_ports_of_other_servers_are_refused_at_the_socket_too(
    make_client: MakeClient, dials: Dials
) -> None:
    async with make_client(LOOPBACK) as client:
        with pytest.raises(AddressNotAllowed):
            await client.get("http://127.0.0.1:6379/")
    assert dials == []


async def test_the_operators_own_servers_are_exempt(make_client: MakeClient, dials: Dials) -> None:
    async with origin(http()) as (port, _), make_client(None) as client:
        assert (await client.get(f"http://127.0.0.1:{port}/")).text == "hello"


@pytest.mark.parametrize("policy", [None, LOOPBACK])
async def test_proxies_and_netrc_of_the_environment_are_not_used(
    policy: Policy | None, make_client: MakeClient, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login a password b\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    async with origin(http()) as (port, seen), make_client(policy) as client:
        assert (await client.get(f"http://127.0.0.1:{port}/")).text == "hello"
    assert b"authorization" not in seen[0].lower()


# TLS


@pytest.fixture
def tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    """A server context for app.example; the clients trust its certificate."""
    path = certificate(tmp_path, "app.example")
    trusting = ssl.create_default_context(cafile=str(path))
    monkeypatch.setattr(netguard, "_tls", lambda: trusting)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    return context


async def test_sni_and_certificate_are_those_of_the_name(
    make_client: MakeClient, tls: ssl.SSLContext, dials: Dials
) -> None:
    names: list[str | None] = []
    tls.sni_callback = lambda _sock, name, _context: names.append(name)
    always = scripted(["127.0.0.1"], ["127.0.0.1"])
    async with origin(http(), tls=tls) as (port, _), make_client(LOOPBACK, resolver=always) as client:
        assert (await client.get(f"https://app.example:{port}/")).text == "hello"
        with pytest.raises((httpx.ConnectError, httpx2.ConnectError), match="mismatch"):
            await client.get(f"https://other.example:{port}/")
    assert names == ["app.example", "other.example"]


@pytest.mark.parametrize("policy", [None, LOOPBACK], ids=["operator", "user"])
async def test_a_socket_is_closed_when_nobody_waits_for_its_handshake_any_more(
    policy: Policy | None, make_client: MakeClient
) -> None:
    greeted, left = anyio.Event(), anyio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        greeted.set()
        await reader.read()  # until the other side closes
        left.set()
        writer.close()

    async with await asyncio.start_server(silent, "127.0.0.1", 0) as server, make_client(policy) as client:
        async with anyio.create_task_group() as waiting:
            waiting.start_soon(client.get, f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/")
            await greeted.wait()
            waiting.cancel_scope.cancel()
        with anyio.fail_after(10):
            await left.wait()


def test_the_certificates_are_read_once_and_not_at_import() -> None:
    code = (
        "from mcp_chat import netguard as n; assert n._tls.cache_info().misses == 0\n"
        "for _ in range(3): n.guarded_client(None, timeout=1), n.guarded_client2(n.Policy(), timeout=1)\n"
        "assert n._tls.cache_info().misses == 1; import ssl; assert n._tls().verify_mode == ssl.CERT_REQUIRED"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# Bodies


async def read(make_client: MakeClient, answer: Answer, **headers: str) -> bytes:
    """Read an answer with at most 1000 bytes allowed."""
    async with origin(answer) as (port, _), make_client(LOOPBACK, max_bytes=1000) as client:
        content: bytes = (await client.get(f"http://127.0.0.1:{port}/", headers=headers)).content
        return content


EVENTS = "Content-Type: text/event-stream; charset=utf-8\r\n"
LINES = "Content-Type: application/x-ndjson\r\n"


@pytest.mark.parametrize("sized", [True, False])
async def test_a_body_is_capped(sized: bool, make_client: MakeClient) -> None:
    assert await read(make_client, http(b"x" * 1000, sized=sized)) == b"x" * 1000
    with pytest.raises(AnswerTooLarge) as caught:
        await read(make_client, http(b"x" * 1001, sized=sized))
    assert (caught.value.code, caught.value.retryable) == ("answer_too_large", False)


async def test_the_default_cap_stops_a_body_that_never_ends(make_client: MakeClient) -> None:
    sent = 0

    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n")
        try:
            while sent < 64 << 20:
                writer.write(b"x" * 65536)
                sent += 65536
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()

    async with await asyncio.start_server(endless, "127.0.0.1", 0) as server, make_client(LOOPBACK) as client:
        with pytest.raises(AnswerTooLarge):
            await client.get(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/")
        await asyncio.sleep(0.05)
    assert 8 << 20 <= sent < 32 << 20  # what the sockets' buffers hold comes on top


async def test_a_stream_of_events_is_capped_event_by_event(make_client: MakeClient) -> None:
    many = b"data: 1234567890\n\n" * 5000
    assert await read(make_client, http(many, headers=EVENTS), accept="text/event-stream") == many
    for endless in (b"data: " + b"x" * 2000, b"data: x\n" * 500, many + b": " + b"x" * 200_000 + b"\n\n"):
        with pytest.raises(AnswerTooLarge):
            await read(make_client, http(endless, headers=EVENTS), accept="text/event-stream")


async def test_events_nobody_asked_for_do_not_lift_the_cap(make_client: MakeClient) -> None:
    with pytest.raises(AnswerTooLarge):
        await read(make_client, http(b"data: 1\n\n" * 5000, headers=EVENTS))
    with pytest.raises(AnswerTooLarge):
        await read(
            make_client, http(b"data: 1\n\n" * 500, headers=EVENTS, status=400), accept="text/event-stream"
        )


async def test_a_compressed_body_is_neither_asked_for_nor_read(make_client: MakeClient) -> None:
    async with origin(http()) as (port, seen), make_client(LOOPBACK) as client:
        await client.get(f"http://127.0.0.1:{port}/")
    assert b"accept-encoding: identity\r\n" in seen[0].lower()
    bomb = gzip.compress(b"x" * 100_000)
    assert len(bomb) < 1000
    with pytest.raises(AnswerTooLarge):
        await read(make_client, http(bomb, headers="Content-Encoding: gzip\r\n"))


async def test_silence_ends_at_the_callers_limit(make_client: MakeClient) -> None:
    async with origin(lambda _: b"") as (port, _), make_client(LOOPBACK) as client:
        with pytest.raises((httpx.RemoteProtocolError, httpx2.RemoteProtocolError)):
            await client.get(f"http://127.0.0.1:{port}/")

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx")
        await reader.read()
        await reader.read()
        writer.close()

    listening = await asyncio.start_server(silent, "127.0.0.1", 0)
    async with listening as server, make_client(LOOPBACK, timeout=2.0) as client:
        with pytest.raises((httpx.ReadTimeout, httpx2.ReadTimeout)):
            await client.get(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/")


async def test_headers_of_the_caller_are_sent() -> None:
    headers = {"authorization": "Bearer x"}
    async with (
        origin(http()) as (port, seen),
        guarded_client2(LOOPBACK, headers=headers, timeout=5) as client,
    ):
        await client.get(f"http://127.0.0.1:{port}/")
    assert b"authorization: Bearer x\r\n" in seen[0]


# What callers see


def chained(cause: BaseException | None, context: BaseException | None) -> Exception:
    error = RuntimeError("outer")
    error.__cause__, error.__context__ = cause, context
    return error


@pytest.mark.parametrize("inner", [AddressNotAllowed(), AnswerTooLarge()])
def test_a_refusal_is_found_wherever_it_hides(inner: Exception) -> None:
    assert refusal(inner) is inner
    assert refusal(chained(chained(inner, None), None)) is inner
    assert refusal(chained(None, chained(None, inner))) is inner
    assert refusal(chained(ValueError(), inner)) is inner
    assert refusal(BaseExceptionGroup("", [KeyError(), ExceptionGroup("", [chained(inner, None)])])) is inner


def test_no_refusal_is_found_where_there_is_none() -> None:
    one, two = chained(None, None), chained(None, None)
    one.__cause__, two.__cause__ = two, one
    assert refusal(one) is None
    assert refusal(ExceptionGroup("", [ServerUnavailable(), InvalidRequest()])) is None


async def connect_mcp(url: str, policy: Policy) -> None:
    http_client = guarded_client2(policy, timeout=5.0)
    transport = streamable_http_client(url, http_client=http_client)
    async with http_client, Client(transport) as client:
        await client.list_tools()


async def test_the_mcp_client_cannot_reach_a_denied_address(dials: Dials) -> None:
    with anyio.fail_after(10):
        with pytest.raises(Exception) as caught:  # noqa: PT011  # the library decides which
            await connect_mcp("http://169.254.169.254/mcp", Policy())
    assert isinstance(refusal(caught.value), AddressNotAllowed)
    assert dials == []


async def test_one_answer_that_is_too_large_does_not_end_an_mcp_connection() -> None:
    server = MCPServer("large")
    server.add_tool(lambda times: "x" * int(times), name="repeat")
    app = server.streamable_http_app(json_response=True, stateless_http=True)
    http_client = guarded_client2(LOOPBACK, timeout=5.0, max_bytes=50_000)
    with running(app) as url, anyio.fail_after(20):
        transport = streamable_http_client(f"{url}/mcp", http_client=http_client)
        async with http_client, Client(transport) as client:
            with pytest.raises(MCPError, match="too large"):
                await client.call_tool("repeat", {"times": 100_000})
            result = await client.call_tool("repeat", {"times": 3})
    assert "xxx" in str(result.content)


async def test_the_openai_client_cannot_reach_a_denied_address(dials: Dials) -> None:
    async with guarded_client2(Policy(), timeout=5.0) as http_client:
        url = "http://0x7f.1:11434/v1"
        client = openai.AsyncOpenAI(api_key="x", base_url=url, http_client=http_client, max_retries=0)
        with pytest.raises(Exception) as caught:  # noqa: PT011  # the library decides which
            await client.chat.completions.create(model="m", messages=[{"role": "user", "content": "hi"}])
    assert isinstance(refusal(caught.value), AddressNotAllowed)
    assert dials == []


async def test_the_ollama_client_cannot_reach_a_denied_address(dials: Dials) -> None:
    async with GuardedTransport(Policy()) as transport:
        client = ollama.AsyncClient("http://0x7f.1:11434", transport=transport, trust_env=False)
        with pytest.raises(Exception) as caught:  # noqa: PT011  # the library decides which
            await client.chat(model="m", messages=[{"role": "user", "content": "hi"}])
    assert isinstance(refusal(caught.value), AddressNotAllowed)
    assert dials == []
