"""Each secret goes where it belongs and nowhere else: compared on the wire, behind the HTTP door."""

from __future__ import annotations

import base64
import gc
import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
from starlette.applications import Starlette
from starlette.requests import HTTPConnection
from starlette.responses import JSONResponse
from starlette.routing import Route

from mcp_chat.app import create_app
from mcp_chat.identity import Principal
from mcp_chat.settings import Settings, load_settings
from mcp_chat.stores.database import migrate
from tests.person import Person
from tests.running import running, wait_until
from tests.test_logs import as_before
from tests.world import World

__all__ = ["as_before"]  # the fixture

SECRET = "a secret of more than 32 bytes, for tests"
KEYS = {"jwt_secret_key": SECRET, "encryption_key": base64.b64encode(bytes(range(32))).decode()}
DEMO = {"model": "demo:demo"}
TRANSPORTS = ("streamable_http", "sse")


pytestmark = pytest.mark.filterwarnings("ignore:Unclosed <MemoryObject:ResourceWarning")


@pytest.fixture(scope="module", autouse=True)
def collected() -> Iterator[None]:
    """The SDK's SSE server does not close all its streams: they are told of here, not in another module."""
    yield
    gc.collect()


def login(name: str = "ann", **claims: Any) -> str:
    """A token of somebody's login."""
    return jwt.encode({"sub": name, "exp": int(time.time()) + 60, **claims}, SECRET, "HS256")


@pytest.fixture(scope="module")
def far() -> Iterator[tuple[World, str]]:
    """An MCP server and a model, and its origin."""
    world = World()
    with running(world, grace=0) as url:
        yield world, url


@pytest.fixture(scope="module")
def further() -> Iterator[tuple[World, str]]:
    """Another one."""
    world = World()
    with running(world, grace=0) as url:
        yield world, url


@pytest.fixture
def world(far: tuple[World, str], further: tuple[World, str]) -> World:
    """The first of them; both have seen nothing, and do not redirect."""
    for each, url in (far, further):
        each.redirect = (307, "/")  # answered at once, behind what is still on its way
        httpx.post(url, trust_env=False, timeout=60)
        each.seen.clear()
        each.redirect = None
    return far[0]


@pytest.fixture
def origin(far: tuple[World, str]) -> str:
    """Where it is."""
    return far[1]


def made(folder: Path, **values: Any) -> Settings:
    """Settings of an application in memory that may reach loopback; arguments take precedence."""
    nothing = folder / "nothing"
    common = {"workers": 1, "ollama_url": "off", "log_level": "error", "allowed_networks": "127.0.0.0/8,::1"}
    limits = {"connect_timeout": 15, "model_timeout": 15, "models_file": nothing, "servers_file": nothing}
    return load_settings(**{**common, **limits, **KEYS, **values})


Open = Callable[..., str]


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Open]:
    """Open such applications; the same settings give the same one."""
    folder = tmp_path_factory.mktemp("credentials")
    urls: dict[str, str] = {}
    with ExitStack() as stack:

        def make(**values: Any) -> str:
            if repr(values) not in urls:
                urls[repr(values)] = stack.enter_context(running(create_app(made(folder, **values))))
            return urls[repr(values)]

        yield make


def connect(somebody: Person, url: str, transport: str = "streamable_http", **more: Any) -> None:
    """Connect to one's own server, which must succeed."""
    server = {"url": f"{url}/mcp", "transport": transport, **more}
    answer = somebody.post("connect", llm=DEMO, server=server)
    assert answer.status_code == 200, answer.text
    somebody.post("disconnect")


# A login's token


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("more", [{}, {"auth_token": None}, {"auth_token": ""}], ids=str)
def test_a_login_token_is_not_sent_to_a_server_that_a_user_names(
    opened: Open, world: World, origin: str, transport: str, more: dict[str, Any]
) -> None:
    """R32: finding 7 in ContextForge's chat."""
    token = login()
    with Person(opened(auth="jwt"), "ann", token=token) as ann:
        connect(ann, origin, transport, **more)
    assert world.authorizations == {""}
    assert token not in "".join(world.seen)


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("more", [{}, {"auth_token": None}, {"auth_token": ""}], ids=str)
def test_a_gateway_that_the_operator_lists_gets_the_login_of_whoever_connects(
    opened: Open, world: World, origin: str, transport: str, more: dict[str, Any]
) -> None:
    url = opened(auth="jwt", gateway_origins=f"https://gateway.example,{origin}")
    before = ""  # a goodbye of hers may arrive when his first request has
    for name in ("ann", "bob"):
        world.seen.clear()
        token = login(name)
        with Person(url, name, token=token) as somebody:
            connect(somebody, origin, transport, **more)
        assert world.authorizations - {before} == {f"Bearer {token}"}
        before = f"Bearer {token}"


def test_a_token_of_ones_own_is_sent_instead_of_the_logins(opened: Open, world: World, origin: str) -> None:
    token = login()
    with Person(opened(auth="jwt", gateway_origins=origin), "ann", token=token) as ann:
        connect(ann, origin, auth_token="own")
    assert world.authorizations == {"Bearer own"}
    assert token not in "".join(world.seen)


def test_a_login_token_goes_to_the_very_origin_only(
    opened: Open, world: World, origin: str, further: tuple[World, str]
) -> None:
    """Not to another port, not to another name of the same host, and to no model."""
    token, port = login(), origin.rpartition(":")[2]
    other, other_url = further
    with Person(opened(auth="jwt", gateway_origins=origin), "ann", token=token) as ann:
        connect(ann, other_url)
        connect(ann, f"http://localhost:{port}")
        connect(ann, f"http://127.1:{port}")
        llm = {"provider": "openai", "config": {"model": "m", "base_url": f"{origin}/v1"}}
        assert ann.post("connect", llm=llm, servers=[]).status_code == 200
        assert ann.post("chat", message="hello").status_code == 200
        both = [{"url": f"{origin}/mcp", "auth_token": "own"}, {"url": f"{other_url}/mcp", "alias": "b"}]
        assert ann.post("connect", llm=DEMO, servers=both).status_code == 200
        ann.post("disconnect")
    assert other.authorizations == {""}
    assert world.authorizations == {"", "Bearer own"}
    assert token not in "".join([*world.seen, *other.seen])


def test_a_gateway_that_is_no_longer_listed_gets_no_login_that_was_stored(
    world: World, origin: str, opened: Open, tmp_path: Path
) -> None:
    database = f"sqlite:///{tmp_path}/chat.db"
    migrate(database)
    server = {"url": f"{origin}/mcp"}
    before = create_app(made(tmp_path, auth="jwt", database_url=database, gateway_origins=origin))
    with running(before) as url, Person(url, "ann", token=login()) as ann:
        assert ann.post("connect", llm=DEMO, server=server).status_code == 200
        wait_until(lambda: any("subscriptions/listen" in each for each in world.seen), "it is listened to")
    world.seen.clear()
    with Person(opened(auth="jwt", database_url=database), "ann", token=login()) as ann:
        answer = ann.post("chat", message="hello")
        assert "no longer gets your login. Please connect again." in answer.text
        assert world.seen == []
        assert ann.post("connect", llm=DEMO, server=server).status_code == 200
        ann.post("disconnect")
    assert world.authorizations == {""}


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_redirect_away_from_the_gateway_does_not_take_the_login_along(
    opened: Open, world: World, origin: str, further: tuple[World, str], status: int, transport: str
) -> None:
    other, other_url = further
    world.redirect = (status, f"{other_url}/mcp")
    token = login()
    with Person(opened(auth="jwt", gateway_origins=origin), "ann", token=token) as ann:
        answer = ann.post("connect", llm=DEMO, server={"url": f"{origin}/mcp", "transport": transport})
    assert answer.status_code in (400, 503)
    assert world.authorizations == {f"Bearer {token}"}
    assert other.seen == []


def test_the_gateways_own_login_goes_back_to_the_gateway(
    opened: Open, world: World, origin: str, further: tuple[World, str]
) -> None:
    """In mode contextforge the cookie's token does, and not a server's that the tab sends as a bearer."""
    me = Starlette(routes=[Route("/auth/email/me", lambda _: JSONResponse({"email": "ann@example.org"}))])
    token = login("uuid", token_use="session")
    cookie = {"cookie": f"jwt_token={token}", "sec-fetch-site": "same-origin", "authorization": "Bearer tab"}
    with running(me) as gateway:
        url = opened(auth="contextforge", gateway_url=gateway, gateway_origins=origin)
        with Person(url, "ann@example.org", token="tab") as ann:
            ann.http.headers.update(cookie)
            connect(ann, origin)
            connect(ann, further[1])
    assert world.authorizations == {f"Bearer {token}"}
    assert further[0].authorizations == {""}


async def prove(connection: HTTPConnection) -> Principal | None:
    """A function of an operator's, which names a token although nobody has asked for one."""
    return Principal(id="ann", token="CANARY")


@pytest.mark.parametrize("auth", ["demo", "proxy", "tests.test_credentials:prove"])
def test_no_other_login_has_a_token_to_send(opened: Open, world: World, origin: str, auth: str) -> None:
    proxy = {"proxy_peers": "127.0.0.0/8", "proxy_secret": SECRET} if auth == "proxy" else {}
    headers = {
        "x-forwarded-user": "ann",
        "x-proxy-secret": SECRET,
        "authorization": "Bearer CANARY",
        "cookie": "jwt_token=CANARY",
        "sec-fetch-site": "same-origin",
    }
    url = opened(auth=auth, gateway_origins=origin, **proxy)
    with Person(url, "ann", token=None if auth == "demo" else "CANARY") as ann:
        if auth != "demo":
            ann.http.headers.update(headers)
        connect(ann, origin)
    assert world.authorizations == {""}
    assert "CANARY" not in "".join(world.seen)


def test_a_login_token_is_not_written_where_its_user_is() -> None:
    ann = Principal(id="ann", token="CANARY")
    assert "CANARY" not in repr(ann)
    assert ann == Principal(id="ann"), "a fresh token is no other user"


# A login's token, where the operator's file asks for it


def asking(tmp_path: Path, origin: str, **more: Any) -> Path:
    """A file of the operator's whose one server gets who asks, and their login."""
    path = tmp_path / "servers.json"
    headers = {"Authorization": "Bearer ${user.token}", "X-User": "${user.id}"}
    entry = {"url": f"{origin}/mcp", "headers": headers, **more}
    path.write_text(json.dumps({"mcpServers": {"ours": entry}}))
    return path


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_server_of_the_operators_gets_the_login_that_its_entry_asks_for(
    opened: Open, world: World, origin: str, further: tuple[World, str], tmp_path: Path, transport: str
) -> None:
    url = opened(auth="jwt", servers_file=asking(tmp_path, origin, type=transport))
    other, other_url = further
    for name in ("ann", "bob"):
        world.seen.clear()
        token = login(name)
        with Person(url, name, token=token) as somebody:
            both = [{"name": "ours"}, {"url": f"{other_url}/mcp", "alias": "b"}]
            assert somebody.post("connect", llm=DEMO, servers=both).status_code == 200
            assert somebody.post("chat", message="hello").status_code == 200
            shown = somebody.get("config/{me}").text + somebody.get("servers").text
            assert token not in shown
            somebody.post("disconnect")
        assert world.authorizations == {f"Bearer {token}"}
        assert all(f"\nx-user: {name}\n" in f"{head}\n" for head in world.seen)
    assert other.authorizations == {""}
    assert "x-user" not in "".join(other.seen)


def test_a_login_without_a_token_is_told_what_is_missing(
    opened: Open, world: World, origin: str, tmp_path: Path
) -> None:
    with Person(opened(auth="demo", servers_file=asking(tmp_path, origin)), "ann") as ann:
        answer = ann.post("connect", llm=DEMO, server={"name": "ours"})
    assert answer.status_code == 400
    assert "the server ours needs the token of your login, and your login has none" in answer.text
    assert world.seen == []


# One's own


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_each_connection_has_its_own_credentials_only(
    opened: Open, world: World, origin: str, further: tuple[World, str], transport: str
) -> None:
    """I4: two servers of one user, and two users at one server, side by side."""
    other, other_url = further
    url = opened(auth="demo")
    with Person(url, "ann") as ann, Person(url, "bob") as bob:
        for somebody in (ann, bob):
            mine, yours = f"{somebody.name}-one", f"{somebody.name}-two"
            servers = [
                {"url": f"{origin}/mcp?of={mine}", "transport": transport, "auth_token": mine},
                {
                    "url": f"{other_url}/mcp?of={yours}",
                    "transport": transport,
                    "auth_token": yours,
                    "alias": "b",
                },
            ]
            assert somebody.post("connect", llm=DEMO, servers=servers).status_code == 200
        for somebody in (ann, bob, ann):
            assert somebody.post("chat", message="hello").status_code == 200
        for somebody in (ann, bob):
            somebody.post("disconnect")
    assert world.authorizations == {"Bearer ann-one", "Bearer bob-one"}
    assert other.authorizations == {"Bearer ann-two", "Bearer bob-two"}
    for head in [*world.seen, *other.seen]:
        named = re.search(r"\?of=([a-z-]+)", head)
        assert named is None or f"authorization: Bearer {named[1]}\n" in f"{head}\n"
        assert "cookie" not in head


# The operator's


ENVIRONMENT = {
    **dict.fromkeys(("OPENAI_API_KEY", "OPENAI_ORG_ID", "OPENAI_ORGANIZATION"), "CANARY"),
    **dict.fromkeys(("OPENAI_PROJECT_ID", "OPENAI_ADMIN_KEY", "OPENAI_WEBHOOK_SECRET"), "CANARY"),
    **dict.fromkeys(("OLLAMA_API_KEY", "AZURE_OPENAI_API_KEY", "LANGSMITH_API_KEY"), "CANARY"),
    "OPENAI_CUSTOM_HEADERS": "X-Canary: CANARY",
}
PLACES = ("OPENAI_BASE_URL", "OPENAI_API_BASE", "OPENAI_PROXY", "OLLAMA_HOST", "HTTP_PROXY", "ALL_PROXY")


@pytest.mark.parametrize("key", [None, "", "own-key"])
@pytest.mark.parametrize("provider", ["openai", "ollama"])
def test_nothing_of_the_operators_goes_to_a_users_model(
    tmp_path: Path,
    world: World,
    origin: str,
    further: tuple[World, str],
    monkeypatch: pytest.MonkeyPatch,
    provider: str,
    key: str | None,
) -> None:
    """R8: no key, no organisation and no header of the environment; and no address there is dialled."""
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    for name in PLACES:
        monkeypatch.setenv(name, further[1])
    models = tmp_path / "models.yaml"
    models.write_text("models:\n  - model: openai:m\n    api_key_env: OPENAI_API_KEY\n")
    world.model.headers.clear()
    world.model.requests.clear()
    settings = load_settings(
        workers=1, ollama_url="off", log_level="error", allowed_networks="127.0.0.0/8", models_file=models
    )
    llm = {"provider": provider, "config": {"model": "m", "base_url": f"{origin}/v1", "api_key": key}}
    with running(create_app(settings)) as url, Person(url, "ann") as ann:
        assert ann.post("connect", llm=llm, servers=[]).status_code == 200
        ann.post("chat", message="hello")
    assert world.seen, "somebody has asked"
    assert world.authorizations == {f"Bearer {key}" if key else ""}
    assert "CANARY" not in "".join(world.seen) + json.dumps(world.model.requests)
    assert further[0].seen == []


# What may stand in a header


BAD = ["a\r\nX-Evil: 1", "a\nb", "a\rb", "a\x00b", "a\tb", "a\x7fb", "tökén", "a\u2028b", "a\u20ac", "\ud7ff"]
BAD += [" a", "a ", " ", "a\r\n", "\na", "a\r\n\r\nGET / HTTP/1.1", "a\x85b", "a\xa0b", "a\u0130b"]


@pytest.mark.parametrize("text", BAD, ids=ascii)
def test_a_token_or_key_that_would_be_more_than_one_header_is_refused(
    opened: Open, world: World, origin: str, text: str
) -> None:
    with Person(opened(auth="demo"), "ann") as ann:
        server = {"url": f"{origin}/mcp", "auth_token": text}
        answers = [
            ann.post("connect", llm=DEMO, server=server),
            ann.post("connect", llm=DEMO, servers=[server]),
        ]
        for provider in ("openai", "ollama"):
            config = {"model": "m", "base_url": f"{origin}/v1", "api_key": text}
            answers.append(ann.post("connect", llm={"provider": provider, "config": config}, servers=[]))
    for answer in answers:
        assert answer.status_code in (400, 422), answer.text
        assert re.fullmatch(
            r"Invalid (LLM )?configuration: the (token|key) has .+\.", answer.json()["detail"]
        )
        assert text.strip() == "" or text not in answer.json()["detail"]
    assert world.seen == []


HEADERS = ["Host", "Content-Length", "Transfer-Encoding", "Authorization", "authorization", "Mcp-Session-Id"]
HEADERS += ["Mcp-Method", "MCP-Protocol-Version", "Cookie", "X-Forwarded-For", "X-Own", "a\r\nb", ""]


@pytest.mark.parametrize("header", HEADERS, ids=ascii)
def test_a_user_gives_no_headers(opened: Open, world: World, origin: str, header: str) -> None:
    """B41-50: so none of these is given twice, or instead of ours."""
    with Person(opened(auth="demo"), "ann") as ann:
        for headers in ({header: "x"}, [[header, "x"]], None):
            server = {"url": f"{origin}/mcp", "auth_token": "t", "headers": headers}
            config = {"model": "m", "base_url": f"{origin}/v1", "headers": headers}
            for body in (
                {"llm": DEMO, "server": server},
                {"llm": DEMO, "servers": [server]},
                {"llm": DEMO, "headers": headers},
                {"llm": {"provider": "openai", "config": config}},
                {"llm": {"provider": "openai", "config": {**config, "default_headers": headers}}},
            ):
                answer = ann.post("connect", **body)
                assert (answer.status_code, answer.json()["code"]) == (422, "invalid_body")
    assert world.seen == []


@pytest.mark.parametrize("userinfo", ["CANARY", "user:CANARY", ":CANARY", "user:CANARY%40"])
def test_a_secret_in_front_of_a_host_is_refused(
    opened: Open, world: World, origin: str, userinfo: str
) -> None:
    url = origin.replace("://", f"://{userinfo}@")
    with Person(opened(auth="demo"), "ann") as ann:
        config = {"model": "m", "base_url": f"{url}/v1"}
        for body in (
            {"llm": DEMO, "server": {"url": f"{url}/mcp"}},
            {"llm": {"provider": "openai", "config": config}},
        ):
            answer = ann.post("connect", **body)
            assert answer.status_code == 400
            assert "without a user name" in answer.json()["detail"]
            assert "CANARY" not in answer.text
    assert world.seen == []


def test_a_secret_in_a_query_is_sent_to_its_server_and_not_logged(
    world: World, origin: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    settings = load_settings(
        workers=1,
        ollama_url="off",
        log_level="debug",
        allowed_networks="127.0.0.0/8",
        models_file=tmp_path / "nothing",
        servers_file=tmp_path / "nothing",
    )
    with running(create_app(settings)) as url, Person(url, "ann") as ann:
        for there, status in ((origin, 200), ("http://127.0.0.1:1", 503), ("http://10.0.0.1", 400)):
            server = {"url": f"{there}/mcp?key=CANARY", "auth_token": "TOKEN-CANARY"}
            answer = ann.post("connect", llm=DEMO, server=server)
            assert answer.status_code == status
            assert "CANARY" not in answer.text
        ann.post("chat", message="hello")
    out, err = capfd.readouterr()
    assert "deed" in out + err, "the log is looked at"
    assert "CANARY" not in out + err
    assert any("key=CANARY" in head for head in world.seen)
