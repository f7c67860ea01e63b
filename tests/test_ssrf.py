"""Through the HTTP door: no denied address is dialled, whatever a user writes and the world answers."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from ipaddress import ip_address
from itertools import count
from typing import Any

import httpx2
import pytest
from mcp.server import MCPServer
from mcp.server.transport_security import TransportSecuritySettings
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mcp_chat import netguard
from mcp_chat.app import create_app
from mcp_chat.netguard import check_url
from mcp_chat.settings import load_settings
from tests.model_server import ModelServer
from tests.outside import Outside, certificate
from tests.person import Person
from tests.running import running
from tests.vectors import Vector, answers_of, vectors

PUBLIC, OTHER = "93.184.216.34", "93.184.216.35"
NOT_ALLOWED = (
    "Invalid server URL: This address is not allowed. Check the URL, or ask the operator to allow the "
    "server's network."
)
DEMO = {"model": "demo:demo"}
SHARE = 20
"""Vectors that one user tries: nobody is to meet a limit of requests here."""

people = count()


class World:
    """An MCP server of either transport and a model, at every path of every host; no connection is kept."""

    def __init__(self) -> None:
        server = MCPServer("world")
        server.add_tool(lambda text: text, name="echo")
        trusting = TransportSecuritySettings(enable_dns_rebinding_protection=False)
        self.model = ModelServer()
        self._http = server.streamable_http_app(
            json_response=True, stateless_http=True, transport_security=trusting
        )
        self._sse = server.sse_app(transport_security=trusting)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve whoever is meant."""
        if scope["type"] == "lifespan":
            return await self._http(scope, receive, send)

        async def closing(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], (b"connection", b"close")]}
            await send(message)

        app, path = self._meant(scope)
        return await app({**scope, "path": path, "raw_path": path.encode()}, receive, closing)

    def _meant(self, scope: Scope) -> tuple[ASGIApp, str]:
        if b"chat/completions" in scope["raw_path"] + scope["query_string"]:
            return self.model.app, "/v1/chat/completions"
        if scope["path"].startswith("/messages"):
            return self._sse, scope["path"]
        return (self._sse, "/sse") if scope["method"] == "GET" else (self._http, "/mcp")


@pytest.fixture(scope="module")
def outside() -> Iterator[Outside]:
    """The outside of all tests here."""
    with Outside().on_stage() as outside:
        yield outside


@pytest.fixture(autouse=True)
def emptied(outside: Outside) -> None:
    """What other tests have dialled and scripted."""
    outside.clear()


Open = Callable[..., str]


@pytest.fixture(scope="module")
def opened(outside: Outside, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Open]:
    """Open applications in memory; arguments are settings."""
    nothing = tmp_path_factory.mktemp("ssrf") / "nothing"
    common = {"workers": 1, "ollama_url": "off", "log_level": "error", "connect_timeout": 3}
    limits = {"tool_timeout": 30, "model_timeout": 3, "turn_timeout": 10}
    with ExitStack() as stack:

        def make(**values: Any) -> str:
            files = {"models_file": nothing, "servers_file": nothing}
            app = create_app(load_settings(**{**common, **limits, **files, **values}))
            return stack.enter_context(running(app, loop="asyncio"))

        yield make


@pytest.fixture(scope="module")
def url(opened: Open) -> str:
    """An application that allows public addresses only."""
    return opened()


@pytest.fixture(scope="module")
def world() -> World:
    """What is at all public addresses."""
    return World()


@pytest.fixture(scope="module")
def plain(world: World) -> Iterator[int]:
    """Its port on loopback."""
    with running(world, grace=0) as there:
        yield int(there.rpartition(":")[2])


@contextmanager
def person(url: str) -> Iterator[Person]:
    """Somebody new."""
    with Person(url, f"user-{next(people)}") as somebody:
        yield somebody


def connected(somebody: Person, address: str, transport: str = "streamable_http", **more: Any) -> Any:
    """Connect to an MCP server of one's own; return the answer."""
    return somebody.post("connect", llm=DEMO, server={"url": address, "transport": transport, **more})


def modelled(somebody: Person, address: str, provider: str = "openai", **more: Any) -> Any:
    """Connect to a model of one's own and say something; return the last answer."""
    llm = {"provider": provider, "config": {"model": "m", "base_url": address, **more}}
    answer = somebody.post("connect", llm=llm, servers=[])
    return somebody.post("chat", message="hello") if answer.status_code == 200 else answer


# The vectors


def try_all(url: str, tried: Sequence[Vector], one: Callable[[Person, Vector], None]) -> None:
    """Have many users try vectors side by side."""

    def share(part: Sequence[Vector]) -> None:
        with person(url) as somebody:
            for vector in part:
                one(somebody, vector)

    users = len(tried) // SHARE + 1
    with ThreadPoolExecutor(12) as pool:  # most of the time each waits for an answer
        list(pool.map(share, [tried[i::users] for i in range(users)]))


@pytest.fixture
def reachable(outside: Outside, plain: int, secure: int) -> set[str]:
    """Script the names of all vectors, and lead the allowed addresses to the world; return these."""
    allowed: set[str] = set()
    for vector in vectors():
        host = host_of(vector)
        if vector.lookups and host:
            outside.name(host, *vector.lookups)
        if vector.expected in ("allow", "rebind"):
            allowed |= {str(ip_address(address)) for address in found(vector)}
    for address in allowed:
        outside.routes |= {address: plain, (address, 443): secure, (address, 8443): secure}
    return allowed


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of one more with TLS; that names and certificates are compared is tested with the guard."""
    path = certificate(tmp_path_factory.mktemp("tls"), "world.example")
    trusting = ssl.create_default_context()
    trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(netguard, "_tls", lambda: trusting)
        with running(World(), grace=0, ssl_certfile=str(path)) as there:
            yield int(there.rpartition(":")[2])


def host_of(vector: Vector) -> str:
    """Return the name that is looked up."""
    if vector.expected == "invalid":
        return ""
    return httpx2.URL(check_url(vector.url)).raw_host.decode()


def found(vector: Vector) -> set[str]:
    """Return what an allowed vector's first lookup finds."""
    if vector.lookups:
        return set(answers_of(vector.lookups[0]))
    host = host_of(vector).removesuffix(".")
    numbers = socket.getaddrinfo(host, 80, type=socket.SOCK_STREAM)
    return {str(each[4][0]) for each in numbers}


def test_no_denied_address_is_dialled_as_an_mcp_server(
    url: str, outside: Outside, reachable: set[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """R11, R12, R13: every vector, as it is written, by both transports in turn."""
    reached: list[int] = []

    def one(somebody: Person, vector: Vector) -> None:
        transport = ("streamable_http", "sse")[vector.line % 2]
        answer = connected(somebody, vector.url, transport)
        match vector.expected:
            case "allow":
                assert answer.status_code == 200, (vector, answer.text)
                assert answer.json()["tool_count"] == 1
                reached.append(vector.line)
                somebody.post("disconnect")
            case "deny":
                assert (answer.status_code, answer.json()["code"]) == (400, "address_not_allowed"), vector
                assert answer.json()["detail"] == NOT_ALLOWED
            case "rebind":  # in the middle of a connect; some of the SDK's tasks do not tell why they end
                assert answer.json()["code"] in ("address_not_allowed", "server_unavailable"), vector
            case "invalid":
                assert answer.status_code in (400, 422), vector
                assert answer.json()["code"] in ("invalid_request", "invalid_body"), (vector, answer.text)

    tried = list(vectors())
    try_all(url, tried, one)
    counted(tried, reached, outside, reachable, "as an MCP server", capsys)


def test_no_denied_address_is_dialled_as_a_model(
    url: str, outside: Outside, reachable: set[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Every vector as a model's address; what is no URL is refused before, all else in the first turn."""
    reached: list[int] = []

    def one(somebody: Person, vector: Vector) -> None:
        provider = ("openai", "ollama")[vector.line % 2 if vector.expected == "deny" else 0]
        answer = modelled(somebody, vector.url, provider)
        if vector.expected == "rebind":
            assert answer.status_code == 200, (vector, answer.text)
            answer = somebody.post("chat", message="once more")
        match vector.expected:
            case "allow":
                assert answer.status_code == 200, (vector, answer.text)
                assert "hello" in answer.json()["response"]
                reached.append(vector.line)
            case "deny" | "rebind":
                assert (answer.status_code, answer.json()["code"]) == (503, "model_failed"), vector
                assert "The model's address is not allowed." in answer.json()["detail"]
            case "invalid" if vector.url:  # an empty one is none: the operator's model is meant
                assert answer.status_code in (400, 422), vector

    tried = list(vectors())
    try_all(url, tried, one)
    counted(tried, reached, outside, reachable, "as a model", capsys)


def counted(
    tried: Sequence[Vector],
    reached: Sequence[int],
    outside: Outside,
    reachable: set[str],
    what: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Compare, and print the figures."""
    allowed = [vector for vector in tried if vector.expected == "allow"]
    denied = [vector for vector in tried if vector.expected != "allow"]
    wrong = [dialled for dialled in outside.dialled if dialled not in reachable]
    with capsys.disabled():
        print(  # noqa: T201 - the figures
            f"\n{what}: {len(denied)} denied vectors, {len(wrong)} denied addresses dialled in "
            f"{len(outside.dialled)} dials; {len(reached)} of {len(allowed)} allowed vectors reached"
        )
    assert wrong == []
    assert len(denied) >= 500
    assert len(reached) == len(allowed) >= 80
