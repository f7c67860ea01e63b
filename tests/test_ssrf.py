"""Through the HTTP door: no denied address is dialled, whatever a user writes and the world answers."""

from __future__ import annotations

import base64
import gc
import json
import socket
import ssl
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from ipaddress import ip_address
from itertools import count
from pathlib import Path
from typing import Any

import httpx2
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from mcp_chat import netguard
from mcp_chat.app import create_app
from mcp_chat.netguard import check_url
from mcp_chat.settings import Settings, load_settings
from mcp_chat.stores.database import migrate
from tests.outside import Outside, certificate
from tests.person import Person
from tests.running import running, wait_until
from tests.vectors import Vector, answers_of, vectors
from tests.world import World

PUBLIC, OTHER = "93.184.216.34", "93.184.216.35"
NOT_ALLOWED = (
    "Invalid server URL: This address is not allowed. Check the URL, or ask the operator to allow the "
    "server's network."
)
DEMO = {"model": "demo:demo"}
SHARE = 20
"""Vectors that one user tries: nobody is to meet a limit of requests here."""

people = count()


pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:Unclosed <MemoryObject:ResourceWarning")]


@pytest.fixture(scope="module", autouse=True)
def collected() -> Iterator[None]:
    """The SDK's SSE server does not close all its streams: they are told of here, not in another module."""
    yield
    gc.collect()


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


def made(folder: Path, **values: Any) -> Settings:
    """Settings of an application in memory; arguments take precedence."""
    nothing = folder / "nothing"
    common = {"workers": 1, "ollama_url": "off", "log_level": "error", "connect_timeout": 20}
    limits = {"tool_timeout": 30, "model_timeout": 20, "turn_timeout": 60}
    return load_settings(**{**common, **limits, "models_file": nothing, "servers_file": nothing, **values})


@pytest.fixture(scope="module")
def opened(outside: Outside, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Open]:
    """Open applications in memory; arguments are settings."""
    folder = tmp_path_factory.mktemp("ssrf")
    with ExitStack() as stack:

        def make(**values: Any) -> str:
            return stack.enter_context(running(create_app(made(folder, **values)), loop="asyncio"))

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
        steady = vector.expected == "deny" and len(vector.lookups) < 2  # Ollama is asked twice
        provider = ("openai", "ollama")[vector.line % 2 if steady else 0]
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
                assert "The model's address is not allowed." in answer.json()["detail"], vector
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


# What is told


def test_a_refusal_does_not_tell_what_is_there(url: str, outside: Outside, plain: int) -> None:
    """A denied address, a closed port of one, an inner name and one that nobody knows: all the same."""
    outside.name("inner.example", "10.0.0.7")
    outside.name("nobody.example", "!")
    outside.name("nothing.example", "-")
    outside.routes["10.0.0.7"] = plain
    hosts = ["10.0.0.7", "10.0.0.7:8081", "10.0.0.8", "169.254.169.254", "[::1]:8082", "inner.example"]
    hosts += ["nobody.example", "nothing.example", "mixed.example"]
    outside.name("mixed.example", f"{PUBLIC},10.0.0.7")
    with person(url) as somebody:
        told = {
            (answer.status_code, answer.text)
            for host in hosts
            for transport in ("streamable_http", "sse")
            for answer in [connected(somebody, f"http://{host}/mcp", transport)]
        }
        of_models = {
            (answer.status_code, answer.text)
            for host in hosts
            for provider in ("openai", "ollama")
            for answer in [modelled(somebody, f"http://{host}/v1", provider)]
        }
    ((status, text),) = told
    assert (status, json.loads(text)) == (400, {"detail": NOT_ALLOWED, "code": "address_not_allowed"})
    assert len(of_models) == 1
    assert outside.dialled == []


def test_a_public_address_that_does_not_answer_may_be_told_as_such(url: str, outside: Outside) -> None:
    with person(url) as somebody:
        answer = connected(somebody, f"http://{PUBLIC}/mcp")
    assert (answer.status_code, answer.json()["code"]) == (503, "server_unavailable")
    assert PUBLIC not in answer.text
    assert set(outside.dialled) == {PUBLIC}


# Flows


@pytest.fixture
def elsewhere(plain: int, world: World, outside: Outside) -> World:
    """What is at all addresses that are routed there; a public one's server redirects."""
    world.seen.clear()
    outside.routes |= {"10.0.0.1": plain, OTHER: plain}
    return world


@pytest.fixture(scope="module")
def redirecting() -> Iterator[tuple[World, int]]:
    """A server that redirects, and its port on loopback."""
    world = World()
    with running(world, grace=0) as there:
        yield world, int(there.rpartition(":")[2])


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("target", ["http://10.0.0.1/mcp", f"http://{OTHER}/mcp", "http://inner.example/mcp"])
def test_a_redirect_leads_to_no_other_server(
    url: str,
    outside: Outside,
    elsewhere: World,
    redirecting: tuple[World, int],
    status: int,
    target: str,
) -> None:
    """R12: neither address nor token go along."""
    first, port = redirecting
    first.redirect = (status, target)
    outside.routes[PUBLIC] = port
    outside.name("inner.example", "10.0.0.1")
    with person(url) as somebody:
        for transport in ("streamable_http", "sse"):
            answer = connected(somebody, f"http://{PUBLIC}/mcp", transport, auth_token="CANARY")
            assert answer.status_code in (400, 503), answer.text
        for provider in ("openai", "ollama"):
            answer = modelled(somebody, f"http://{PUBLIC}/v1", provider, api_key="CANARY")
            assert answer.status_code == 503, answer.text
    assert set(outside.dialled) == {PUBLIC}
    assert elsewhere.seen == []
    assert len(first.seen) >= 4
    first.seen.clear()


def test_the_second_hop_is_judged_as_the_first(
    url: str, outside: Outside, elsewhere: World, redirecting: tuple[World, int]
) -> None:
    """A redirect within the origin is followed, and its name is looked up again."""
    first, port = redirecting
    first.redirect = (307, "/again")
    outside.routes[PUBLIC] = port
    outside.name("hops.example", PUBLIC, "10.0.0.1")
    with person(url) as somebody:
        answer = connected(somebody, "http://hops.example/mcp")
    assert answer.status_code in (400, 503)
    assert outside.asked[:2] == ["hops.example", "hops.example"]
    assert outside.dialled == [PUBLIC]
    assert elsewhere.seen == []


@pytest.mark.parametrize("transport", ["streamable_http", "sse"])
def test_no_redirect_leads_out_of_tls(
    url: str, outside: Outside, elsewhere: World, secure: int, tls_redirect: int, transport: str
) -> None:
    outside.routes[PUBLIC, 443] = tls_redirect
    outside.routes[PUBLIC] = outside.routes[OTHER]
    with person(url) as somebody:
        answer = connected(somebody, f"https://{PUBLIC}/mcp", transport, auth_token="CANARY")
    assert answer.status_code in (400, 503)
    assert elsewhere.seen == []


@pytest.fixture(scope="module")
def tls_redirect(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of a server with TLS that redirects to the same host without."""
    world = World()
    world.redirect = (307, f"http://{PUBLIC}/mcp")
    path = certificate(tmp_path_factory.mktemp("tls"), "world.example")
    with running(world, grace=0, ssl_certfile=str(path)) as there:
        yield int(there.rpartition(":")[2])


def test_an_sse_server_names_no_other_place_to_post_to(url: str, outside: Outside, elsewhere: World) -> None:
    async def endpoint(_: Request) -> Response:
        return Response(
            b"event: endpoint\ndata: http://10.0.0.1/messages\n\n", media_type="text/event-stream"
        )

    with running(Starlette(routes=[Route("/sse", endpoint)])) as there, person(url) as somebody:
        outside.routes[PUBLIC] = int(there.rpartition(":")[2])
        answer = connected(somebody, f"http://{PUBLIC}/sse", "sse", auth_token="CANARY")
    assert answer.status_code in (400, 503)
    assert set(outside.dialled) == {PUBLIC}
    assert elsewhere.seen == []


def refused_of(person: Person) -> list[dict[str, Any]]:
    """The person's servers that could not be opened."""
    return [each for each in person.get("servers").json()["connected"] if each["error"]]


def test_what_was_allowed_once_is_judged_again_by_the_next_worker(
    outside: Outside, elsewhere: World, plain: int, tmp_path: Path
) -> None:
    """Finding 8: a configuration is stored, its worker goes, and the name means another address."""
    database = f"sqlite:///{tmp_path}/chat.db"
    migrate(database)
    keys = {"jwt_secret_key": "x" * 32, "encryption_key": base64.b64encode(bytes(range(32))).decode()}
    outside.routes[PUBLIC] = plain
    outside.name("moves.example", PUBLIC)
    settings = made(tmp_path, database_url=database, **keys)
    with running(create_app(settings), loop="asyncio") as first, Person(first, "mover") as somebody:
        assert connected(somebody, "http://moves.example/mcp").status_code == 200
        assert somebody.post("chat", message="hello").status_code == 200
    outside.name("moves.example", "10.0.0.1")
    outside.dialled.clear()
    elsewhere.seen.clear()
    with running(create_app(settings), loop="asyncio") as second, Person(second, "mover") as somebody:
        assert somebody.get("status/{me}").json()["connected"] is True
        assert somebody.post("chat", message="hello again").status_code == 200
        [server] = wait_until(lambda: refused_of(somebody), "the server is refused")
        assert server["error"].startswith("Invalid server URL")
    assert outside.dialled == []
    assert elsewhere.seen == []


# Settings


def test_networks_of_the_operator_are_reached_and_no_others(
    opened: Open, outside: Outside, plain: int
) -> None:
    url = opened(allowed_networks="10.20.0.0/16,0.0.0.0/1")
    outside.routes |= dict.fromkeys(("10.20.0.5", "169.254.169.254", "192.168.0.1"), plain)
    with person(url) as somebody:
        assert connected(somebody, "http://10.20.0.5/mcp").status_code == 200
        for address in ("169.254.169.254", "192.168.0.1", "100.100.100.200"):
            assert connected(somebody, f"http://{address}/mcp").status_code == 400
    assert set(outside.dialled) == {"10.20.0.5"}


def test_ports_and_schemes_of_the_operator_hold_for_users_and_not_for_the_operator(
    opened: Open, outside: Outside, plain: int, tmp_path: Path
) -> None:
    servers = tmp_path / "servers.json"
    servers.write_text('{"mcpServers": {"ours": {"url": "http://10.0.0.1:6379/mcp"}}}')
    url = opened(allowed_ports="443,8000-8999", allowed_schemes="https", servers_file=servers)
    outside.routes |= {"10.0.0.1": plain, PUBLIC: plain}
    with person(url) as somebody:
        for address, advice in (
            (f"http://{PUBLIC}:8080/mcp", "use https."),
            (f"https://{PUBLIC}:9000/mcp", "use a port of 443, 8000-8999."),
            (f"https://{PUBLIC}:6379/mcp", "use a port of 443, 8000-8999."),
        ):
            for answer in (connected(somebody, address), modelled(somebody, address)):
                assert answer.status_code == 400
                assert answer.json()["detail"] == f"Invalid server URL: {advice}"
        assert outside.dialled == []
        connected(somebody, f"https://{PUBLIC}:8443/mcp")
        assert set(outside.dialled) == {PUBLIC}
        assert somebody.post("connect", llm=DEMO, server={"name": "ours"}).status_code == 200


def test_addresses_behind_a_nat64_of_the_site_count_as_what_they_lead_to(
    opened: Open, outside: Outside, plain: int
) -> None:
    url = opened(nat64_prefixes="2a01:1:2:3::/96")
    outside.routes |= dict.fromkeys(("2a01:1:2:3::808:404", "2a01:1:2:3::a00:1"), plain)
    with person(url) as somebody:
        assert connected(somebody, "http://[2a01:1:2:3::8.8.4.4]/mcp").status_code == 200
        assert connected(somebody, "http://[2a01:1:2:3::10.0.0.1]/mcp").status_code == 400
        assert connected(somebody, "http://[2a01:1:2:3::169.254.169.254]/mcp").status_code == 400
    assert set(outside.dialled) == {"2a01:1:2:3::808:404"}


# What is no URL


GOOD = {"url": f"http://{PUBLIC}/mcp"}
COMMANDS: list[dict[str, Any]] = [
    {"server": {**GOOD, "command": "sh"}},
    {"server": {**GOOD, "args": ["-c", "true"]}},
    {"server": {**GOOD, "args": []}},
    {"server": {**GOOD, "env": {"A": "b"}}},
    {"server": {**GOOD, "env": None}},
    {"server": {**GOOD, "cwd": "/"}},
    {"server": {**GOOD, "transport": "stdio"}},
    {"server": {"transport": "stdio", "command": "sh"}},
    {"server": {"name": "x", "command": "sh"}},
    {"server": "sh"},
    {"servers": [GOOD, {**GOOD, "command": "sh"}]},
    {"servers": [{**GOOD, "transport": "stdio"}]},
    {"servers": {"x": {"command": "sh"}}},
    {"mcp_server": {"command": "sh"}},
    {"mcp_servers": [{"command": "sh"}]},
    {"mcpServers": {"x": {"command": "sh"}}},
    {"command": "sh"},
    {"llm": {**DEMO, "command": "sh"}},
    {"llm": {"provider": "openai", "config": {"model": "m", "command": "sh"}}},
]


@pytest.mark.parametrize("body", COMMANDS, ids=json.dumps)
def test_a_command_has_no_place_in_a_connect(url: str, outside: Outside, body: dict[str, Any]) -> None:
    """R10: the schema refuses it, wherever it stands."""
    with person(url) as somebody:
        answer = somebody.post("connect", **{"llm": DEMO, **body})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_body")
    assert outside.dialled == []


def test_no_address_in_a_message_or_an_attachment_is_fetched(url: str, outside: Outside) -> None:
    """R15."""
    outside.name("public.example", PUBLIC)
    links = "see http://public.example/a.png ![x](http://public.example/b.png) file:///etc/passwd"
    with person(url) as somebody:
        somebody.connect(model="demo:demo", servers=[])
        assert somebody.post("chat", message=links).status_code == 200
        for attachment in (
            "http://public.example/a",
            "/etc/passwd",
            "../x",
            {"url": "http://public.example/"},
        ):
            assert somebody.post("chat", message="x", attachments=[attachment]).status_code == 422
    assert (outside.dialled, outside.asked) == ([], [])
