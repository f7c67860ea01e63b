"""Sockets are shared by users; nothing else is. Compared on the wire, by the port of the far end."""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from mcp.server import MCPServer
from mcp.server.transport_security import TransportSecuritySettings
from starlette.types import Message, Receive, Scope, Send

from mcp_chat import netguard, pool
from mcp_chat.netguard import AddressNotAllowed, Policy, guarded_client2
from mcp_chat.patient import PatientBackend
from mcp_chat.pool import Spare
from tests.conftest import on_one_stage
from tests.faults import Stage
from tests.model_server import ModelServer, Reply
from tests.outside import certificate
from tests.person import Person
from tests.running import running

pytestmark = pytest.mark.anyio

LOOPBACK = Policy((ip_network("127.0.0.0/8"),))
stage, model, alice = on_one_stage(connect_timeout=30, tool_timeout=30)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sockets stay however slow the machine is."""
    monkeypatch.setattr(pool, "KEEP", 60)


@dataclass(frozen=True, slots=True)
class Seen:
    """A request as its server has it."""

    port: int
    of: str
    head: str


class Careless:
    """An MCP server that wants its cookies back, and keeps connections for whoever comes.

    Attributes:
        seen: What it was asked.
    """

    def __init__(self, **options: Any) -> None:
        server = MCPServer("careless", log_level="ERROR")
        server.add_tool(lambda text: text, name="echo")
        trusting = TransportSecuritySettings(enable_dns_rebinding_protection=False)
        self.seen: list[Seen] = []
        self._app = server.streamable_http_app(transport_security=trusting, **options)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve, with a cookie that names the user."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        of = scope["query_string"].decode().removeprefix("of=")
        head = "\n".join(f"{name.decode()}: {value.decode()}" for name, value in scope["headers"])
        self.seen.append(Seen(scope["client"][1], of, head))

        async def marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                cookies = [(b"set-cookie", f"{name}={of}; Path=/".encode()) for name in ("one", "two")]
                message = {**message, "headers": [*message["headers"], *cookies]}
            await send(message)

        await self._app(scope, receive, marked)

    def users_of_ports(self) -> dict[int, set[str]]:
        """Return who was served on which connection."""
        users: dict[int, set[str]] = {}
        for each in self.seen:
            users.setdefault(each.port, set()).add(each.of)
        return users


@pytest.fixture(params=[True, False], ids=["json", "events"])
def careless(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Careless, str]]:
    """Both ends keep connections for longer than a slow machine needs for a turn."""
    monkeypatch.setattr(pool, "KEEP", 30)
    server = Careless(stateless_http=True, json_response=request.param)
    with running(server, grace=0, timeout_keep_alive=60) as url:
        yield server, url


def connect(person: Person, url: str) -> None:
    """Connect to one's own place at a server, with one's own token."""
    server = {"url": f"{url}/mcp?of={person.name}", "auth_token": f"token-of-{person.name}", "alias": "c"}
    person.connect(server=server)


def test_users_share_sockets_but_no_credential_and_no_cookie(
    stage: Stage, model: ModelServer, careless: tuple[Careless, str]
) -> None:
    server, url = careless
    people = [Person(stage.url, name) for name in ("ann", "bob", "eve")]
    for _ in range(2):
        for person in people:
            connect(person, url)
            model.will(Reply(calls=[("c__echo", {"text": person.name})]), Reply(text="Done."))
            assert person.say("hello")["tool_invocations"][1]["output"] == person.name
    for person in people:
        person.http.close()
    assert any(len(users) > 1 for users in server.users_of_ports().values()), "sockets are shared"
    for each in server.seen:
        assert f"authorization: Bearer token-of-{each.of}" in each.head
        assert set(re.findall(r"token-of-(\w+)", each.head)) == {each.of}
        assert "cookie" not in each.head
    assert {each.of for each in server.seen} == {"ann", "bob", "eve"}


async def initialized(client: httpx2.AsyncClient, url: str, of: str) -> dict[str, str]:
    """Begin a session of the older protocol, and return its header."""
    params = {
        "protocolVersion": "2025-06-18",
        "capabilities": {},
        "clientInfo": {"name": "x", "version": "1"},
    }
    asked = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params}
    answer = await client.post(f"{url}/mcp?of={of}", json=asked, headers=ACCEPT)
    return {**ACCEPT, "mcp-session-id": answer.headers["mcp-session-id"]}


ACCEPT = {"accept": "application/json, text/event-stream"}


async def test_what_carried_a_session_is_lent_to_nobody_else() -> None:
    server, spare = Careless(json_response=True), Spare()
    ping = {"jsonrpc": "2.0", "id": 2, "method": "ping"}
    with running(server, grace=0) as url:
        async with sharing(spare) as ann, sharing(spare) as bob:
            for _ in range(3):
                for client, of in ((ann, "ann"), (bob, "bob")):
                    headers = await initialized(client, url, of)
                    (await client.post(f"{url}/mcp?of={of}", json=ping, headers=headers)).raise_for_status()
    assert all(len(users) == 1 for users in server.users_of_ports().values())
    await spare.aclose()


# At the transport


def sharing(
    spare: Spare | None, policy: Policy | None = LOOPBACK, timeout: float = 60, **options: Any
) -> httpx2.AsyncClient:
    """A user's client with sockets of the worker's."""
    return guarded_client2(policy, timeout=timeout, spare=spare, **options)


Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass(slots=True)
class Counted:
    """A listener: where it is, and how many connections it had and has."""

    url: str = ""
    accepted: int = 0
    live: int = 0


@asynccontextmanager
async def listening(serve: Serve, *, tls: ssl.SSLContext | None = None) -> AsyncIterator[Counted]:
    """Serve connections by hand."""
    counted = Counted()

    async def served(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        counted.accepted += 1
        counted.live += 1
        try:
            await serve(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            counted.live -= 1
            writer.close()

    server = await asyncio.start_server(served, "127.0.0.1", 0, ssl=tls)
    async with server:
        port = server.sockets[0].getsockname()[1]
        counted.url = f"https://app.example:{port}/" if tls else f"http://127.0.0.1:{port}/"
        yield counted


def trusted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    """A listener's side of TLS as app.example, which the clients trust."""
    path = certificate(folder, "app.example")
    trusting = ssl.create_default_context(cafile=str(path))
    monkeypatch.setattr(netguard, "_tls", lambda: trusting)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    return context


@pytest.mark.parametrize("network", [None, PatientBackend()], ids=["usual", "patient"])
async def test_a_socket_with_tls_is_used_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, network: PatientBackend | None
) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer(b"hello"))

    spare = Spare()
    async with listening(serve, tls=trusted(tmp_path, monkeypatch)) as far:
        for _ in range(3):
            async with sharing(spare, resolver=here, network=network) as client:
                assert (await client.get(far.url)).text == "hello"
        assert far.accepted == 1
    await spare.aclose()


def answer(body: bytes, more: bytes = b"") -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s%s" % (len(body), body, more)


async def honest(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer all that comes."""
    while True:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer(b"good"))


async def until(condition: Callable[[], bool]) -> None:
    with anyio.fail_after(30):
        while not condition():  # noqa: ASYNC110 - the far side tells nobody
            await anyio.sleep(0.005)


async def test_a_socket_is_used_again_and_outlives_who_used_it() -> None:
    spare = Spare()
    async with listening(honest) as far:
        for _ in range(3):
            async with sharing(spare) as client:
                for _ in range(3):
                    assert (await client.get(far.url)).text == "good"
        assert (far.accepted, far.live) == (1, 1)
        await spare.aclose()
        await until(lambda: far.live == 0)


async def test_a_client_that_shares_none_leaves_none() -> None:
    async with listening(honest) as far:
        async with sharing(None) as client:
            await client.get(far.url)
            await client.get(far.url)
            assert (far.accepted, far.live) == (1, 1)
        await until(lambda: far.live == 0)


async def test_an_operators_socket_takes_nobody_where_their_own_dial_would_not() -> None:
    spare = Spare()
    async with listening(honest) as far, sharing(spare, None) as operators:
        await operators.get(far.url)
        for policy in (Policy(), Policy(LOOPBACK.allowed_networks, ports=(range(443, 444),))):
            async with sharing(spare, policy) as users:
                with pytest.raises(AddressNotAllowed):
                    await users.get(far.url)
        async with sharing(spare) as others:
            await others.get(far.url)
        assert far.accepted == 2
    await spare.aclose()


async def test_a_server_that_closes_what_should_be_kept_is_dialled_again() -> None:
    async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer(b"good"))

    spare = Spare()
    async with listening(once) as far, sharing(spare) as client:
        for number in range(1, 4):
            assert (await client.get(far.url)).text == "good"
            await until(lambda: far.live == 0)
            await anyio.sleep(0.01)  # until that is known at this end, too
            assert far.accepted == number
    await spare.aclose()


async def here(_host: str, _port: int) -> list[str]:
    """Look a name up."""
    return ["127.0.0.1"]


@pytest.mark.parametrize("kind", ["plain", "tls"])
async def test_what_comes_behind_an_answer_is_not_the_next_ones(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def smuggling(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        if tls:  # each in a record of its own, and all in one packet
            writer.write(answer(b"first"))
            writer.write(answer(b"smuggled"))
        else:
            writer.write(answer(b"first", answer(b"smuggled")))
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer(b"later"))

    tls = trusted(tmp_path, monkeypatch) if kind == "tls" else None
    spare = Spare()
    async with listening(smuggling, tls=tls) as far:
        for _ in range(3):
            async with sharing(spare, resolver=here) as client:
                assert (await client.get(far.url)).text == "first"
        assert far.accepted == 3
    await spare.aclose()


async def test_an_answer_that_was_given_up_is_nobody_elses() -> None:
    """The reply that comes late for one must not be read by the next."""
    asked = asyncio.Event()

    async def late(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            asked.set()
            if b"/slow" in head:
                await anyio.sleep(0.05)
            writer.write(answer(head.split()[1]))

    spare = Spare()
    async with listening(late) as far, sharing(spare) as ann, sharing(spare) as bob:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ann.get, f"{far.url}slow")
            await asked.wait()
            tasks.cancel_scope.cancel()
        for place in ("a", "b"):
            assert (await bob.get(f"{far.url}{place}")).text == f"/{place}"
        assert far.accepted >= 2
    await spare.aclose()


async def test_who_hangs_up_at_the_last_event_leaves_a_socket_that_can_be_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pool, "END_SECONDS", 30)

    async def events(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await reader.readuntil(b"\r\n\r\n")
            head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
            writer.write(head + b"9\r\ndata: x\n\n\r\n")
            await anyio.sleep(0.005)  # so that the end comes by itself
            writer.write(b"0\r\n\r\n")

    spare = Spare()
    async with listening(events) as far, sharing(spare) as client:
        for _ in range(3):
            async with client.stream("GET", far.url) as response:
                async for line in response.aiter_lines():
                    assert line == "data: x"
                    break
        assert far.accepted == 1
    await spare.aclose()


async def test_a_stream_that_never_ends_is_hung_up() -> None:
    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n")
        while True:
            writer.write(b"data: x\n\n")
            await writer.drain()
            await anyio.sleep(0.01)

    async with listening(endless) as far, sharing(Spare()) as client:
        with anyio.fail_after(30):
            async with client.stream("GET", far.url, headers=ACCEPT) as response:
                assert await anext(response.aiter_lines()) == "data: x"
        await until(lambda: far.live == 0)


async def test_a_hundred_at_once_are_served_and_few_sockets_stay() -> None:
    spare = Spare()
    async with listening(honest) as far:
        clients = [sharing(spare) for _ in range(100)]
        async with anyio.create_task_group() as tasks:
            for client in clients:
                tasks.start_soon(client.get, far.url)
        for client in clients:
            await client.aclose()
        await until(lambda: far.live <= pool.EACH)
    await spare.aclose()


async def test_one_user_does_not_take_the_sockets_of_others() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if b"/quick" in await reader.readuntil(b"\r\n\r\n"):
            writer.write(answer(b"good"))
        else:
            await reader.read()

    spare = Spare()
    async with (
        listening(silent) as far,
        sharing(spare, timeout=1) as greedy,
        sharing(spare) as other,
        anyio.create_task_group() as tasks,
    ):
        failures: list[Exception] = []

        async def wait(url: str) -> None:
            try:
                await greedy.get(url)
            except httpx2.TimeoutException as error:
                failures.append(error)

        for _ in range(pool.SHARE + 5):
            tasks.start_soon(wait, far.url)
        await until(lambda: far.accepted >= pool.SHARE)
        assert (await other.get(f"{far.url}quick")).text == "good"
        await until(lambda: len(failures) == pool.SHARE + 5)
        assert far.accepted <= 2 * pool.SHARE
        assert (await greedy.get(f"{far.url}quick", timeout=30)).text == "good", "its places are free again"
    await spare.aclose()


async def test_closing_one_client_ends_its_own_requests_only() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        await reader.read()

    spare = Spare()
    async with listening(silent) as far, listening(honest) as good, sharing(spare) as other:
        await other.get(good.url)
        async with anyio.create_task_group() as tasks:
            client = sharing(spare)
            tasks.start_soon(_failing, client, far.url)
            await until(lambda: far.live == 1)
            await client.aclose()
        await until(lambda: far.live == 0)
        await other.get(good.url)
        assert good.accepted == 1
    await spare.aclose()


async def _failing(client: httpx2.AsyncClient, url: str) -> None:
    with pytest.raises(httpx2.TransportError):
        await client.get(url)


async def test_what_nobody_uses_any_more_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "KEEP", 0.02)
    spare = Spare()
    async with listening(honest) as far, sharing(spare) as client, anyio.create_task_group() as tasks:
        tasks.start_soon(spare.tend)
        await client.get(far.url)
        await until(lambda: far.live == 0)
        tasks.cancel_scope.cancel()


async def test_of_too_many_places_the_one_with_most_gives_one_up() -> None:
    spare = Spare(most=4)
    async with listening(honest) as many, listening(honest) as one:
        async with sharing(spare) as client, anyio.create_task_group() as tasks:
            for _ in range(6):
                tasks.start_soon(client.get, many.url)
        async with sharing(spare) as client:
            await client.get(one.url)
        await until(lambda: many.live + one.live == 4)
        assert one.live == 1
    await spare.aclose()


async def test_what_is_no_web_server_is_not_dialled() -> None:
    async with listening(honest) as far, sharing(Spare(), None) as client:
        with pytest.raises(httpx2.UnsupportedProtocol):
            await client.get(far.url.replace("http", "ftp", 1))
        assert far.accepted == 0


def test_the_transport_is_one_the_library_makes_no_copy_of(tmp_path: Path) -> None:
    client = sharing(Spare())
    assert isinstance(client._transport, httpx2.AsyncHTTPTransport)
    assert isinstance(client._transport._pool, pool.Lender)
