"""What a proof costs us and others, how long it is believed, and what an odd one cannot do."""

from __future__ import annotations

import json
import math
import ssl
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import anyio
import anyio.to_thread
import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from mcp_chat.api import identity
from mcp_chat.exceptions import LoginUnavailable, NotAuthenticated
from mcp_chat.identity import Principal
from mcp_chat.login import contextforge, keys
from mcp_chat.login.contextforge import BELIEVED, ME, REFUSED, Gateway
from mcp_chat.login.keys import JWKS, keys_of
from tests.running import running, wait_until
from tests.test_identity import by_hand
from tests.test_login import (
    EC,
    NAMED,
    OTHER_RSA,
    PROXY,
    RSA,
    SECRET,
    KeyServer,
    Opened,
    jwk,
    signed,
    status,
    who,
)
from tests.test_login import door as opener

__all__ = ["opener"]  # the fixture

pytestmark = [pytest.mark.slow, pytest.mark.anyio]
EMAIL = "ann@example.org"


class SlowGateway:
    """A gateway that answers when it is let."""

    def __init__(self) -> None:
        self.asked = 0
        self.status = 200
        self.go = threading.Event()
        self.takes: Callable[[], None] = lambda: None

    def me(self, _request: Request) -> Response:
        """Tell who has a token; in a thread of its own."""
        self.asked += 1
        assert self.go.wait(10)
        self.takes()
        return JSONResponse({"email": EMAIL}, self.status)


@pytest.fixture
def gateway() -> SlowGateway:
    """A gateway that has not answered yet."""
    return SlowGateway()


@pytest.fixture
def url(gateway: SlowGateway) -> Iterator[str]:
    """Where it is."""
    with running(Starlette(routes=[Route(ME, gateway.me)])) as url:
        yield url
        gateway.go.set()


async def until_asked(gateway: SlowGateway) -> None:
    """Wait for a request, which another thread takes."""
    await anyio.to_thread.run_sync(wait_until, lambda: gateway.asked, "the gateway is asked")


async def tried(asking: Awaitable[Any]) -> Any:
    """What comes of it: an answer or the error's type."""
    try:
        return await asking
    except (NotAuthenticated, LoginUnavailable) as error:
        return type(error)


# A gateway


@pytest.mark.parametrize(
    ("answer", "expected"), [(200, EMAIL), (401, NotAuthenticated), (502, LoginUnavailable)]
)
async def test_all_who_come_with_one_token_wait_for_one_answer(
    gateway: SlowGateway, url: str, answer: int, expected: Any
) -> None:
    gateway.status = answer
    asked, said = Gateway(url), []

    async def ask() -> None:
        said.append(await tried(asked.user_of("token")))

    async with anyio.create_task_group() as tasks:
        for _ in range(30):
            tasks.start_soon(ask)
        await until_asked(gateway)
        gateway.go.set()
    assert said == [expected] * 30
    assert gateway.asked == 1


async def test_who_hangs_up_does_not_take_the_others_answer_along(gateway: SlowGateway, url: str) -> None:
    asked, said = Gateway(url), []

    first = anyio.CancelScope()

    async def ask(scope: anyio.CancelScope) -> None:
        with scope:
            said.append(await asked.user_of("token"))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ask, first)
        await until_asked(gateway)
        for _ in range(2):
            tasks.start_soon(ask, anyio.CancelScope())
        await anyio.wait_all_tasks_blocked()
        first.cancel()
        gateway.go.set()
    assert said == [EMAIL] * 2
    assert gateway.asked == 2


async def test_a_refusal_is_remembered_for_some_seconds(gateway: SlowGateway, url: str) -> None:
    """A token that holds here and not there must not make us ask as often as it comes."""
    now = 1000.0
    gateway.status = 401
    gateway.go.set()
    asked = Gateway(url, clock=lambda: now)
    for _ in range(20):
        assert await tried(asked.user_of("token")) is NotAuthenticated
    assert gateway.asked == 1
    gateway.status = 200
    now += REFUSED + 0.1
    assert await asked.user_of("token") == EMAIL


async def test_a_yes_is_believed_from_before_the_question(gateway: SlowGateway, url: str) -> None:
    """The user may have been turned off just after the gateway had looked."""
    now = 1000.0

    def takes() -> None:
        nonlocal now
        now += 20

    gateway.takes = takes
    gateway.go.set()
    asked = Gateway(url, clock=lambda: now)
    assert await asked.user_of("token") == EMAIL
    gateway.status, gateway.takes = 401, lambda: None
    now = 1000.0 + BELIEVED
    assert await asked.user_of("token") == EMAIL
    now += 0.1
    assert await tried(asked.user_of("token")) is NotAuthenticated


async def test_only_so_many_tokens_are_remembered(
    gateway: SlowGateway, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contextforge, "REMEMBERED", 2)
    gateway.go.set()
    asked = Gateway(url)
    for token in ("a", "b", "c", "c", "b", "a"):
        await asked.user_of(token)
    assert gateway.asked == 4, "the last one had been forgotten"


async def test_certificates_are_read_once_and_not_on_the_loop(
    gateway: SlowGateway, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each time it held up everybody for 50 ms."""
    where: list[threading.Thread] = []
    make = ssl.create_default_context

    def made(*args: Any, **more: Any) -> ssl.SSLContext:
        where.append(threading.current_thread())
        return make(*args, **more)

    monkeypatch.setattr(ssl, "create_default_context", made)
    keys._tls.cache_clear()
    gateway.go.set()
    for _ in range(3):
        await keys.fetched(url + ME)
    assert len(where) == 1
    assert where[0] is not threading.current_thread()


# Keys at an address


async def test_who_comes_while_the_keys_are_fetched_waits_for_them() -> None:
    go, answers = anyio.Event(), []

    async def fetch(_url: str) -> bytes:
        await go.wait()
        return json.dumps({"keys": [jwk(RSA, "r")]}).encode()

    jwks = JWKS("https://login.example/keys", ["RS256"], fetch=fetch)

    async def ask() -> None:
        answers.append(len(await jwks.named("r")))

    async with anyio.create_task_group() as tasks:
        for _ in range(5):
            tasks.start_soon(ask)
            await anyio.wait_all_tasks_blocked()
        go.set()
    assert answers == [1] * 5


async def test_who_has_a_key_does_not_wait_for_others() -> None:
    asked = 0

    async def fetch(_url: str) -> bytes:
        nonlocal asked
        asked += 1
        if asked > 1:
            await anyio.sleep_forever()
        return json.dumps({"keys": [jwk(RSA, "r")]}).encode()

    now = 1000.0
    jwks = JWKS("https://login.example/keys", ["RS256"], fetch=fetch, clock=lambda: now)
    assert await jwks.named("r")
    now += keys.ASK_AGAIN + 1
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(jwks.named, "unknown")
        await anyio.wait_all_tasks_blocked()
        with anyio.fail_after(2):
            assert await jwks.named("r")
        tasks.cancel_scope.cancel()


async def test_when_who_asks_for_the_keys_hangs_up_the_next_one_asks() -> None:
    asked = 0

    async def fetch(_url: str) -> bytes:
        nonlocal asked
        asked += 1
        if asked == 1:
            await anyio.sleep_forever()
        return json.dumps({"keys": [jwk(RSA, "r")]}).encode()

    jwks = JWKS("https://login.example/keys", ["RS256"], fetch=fetch)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(jwks.named, "r")
        await anyio.wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()
    assert len(await jwks.named("r")) == 1


def test_an_odd_key_costs_no_other_one(opener: Opened) -> None:
    odd: list[Any] = [
        None,
        [],
        {"kty": []},
        {**jwk(OTHER_RSA, None), "kid": []},
        {**jwk(OTHER_RSA, None), "kid": {}},
        {**jwk(OTHER_RSA, "x"), "alg": []},
        {**jwk(OTHER_RSA, "x"), "n": 5},
        {**jwk(OTHER_RSA, "x"), "n": "", "e": ""},
        {**jwk(OTHER_RSA, "x"), "use": []},
        {"kty": "EC", "kid": "x", "crv": [], "x": [], "y": {}},
    ]
    for each in odd:
        found = keys_of(
            json.dumps({"keys": [each, jwk(RSA, "r"), jwk(EC, "e")]}).encode(), ["RS256", "ES256"]
        )
        assert {"r", "e"} <= set(found), each
    server = KeyServer([*odd, jwk(RSA, "r"), *odd])
    with running(server.app()) as url:
        http = opener(auth="jwt", jwt_algorithms="RS256", jwks_url=f"{url}/keys")
        assert who(http, signed(RSA, "RS256", {"kid": "r"})) == "ann"


# Tokens


def test_an_end_that_is_no_number_of_seconds_is_refused(opener: Opened) -> None:
    http = opener(auth="jwt", jwt_secret_key=SECRET)
    for end in ("1" + "0" * 400, "1e400", "NaN", "[]", '"1e9"'):
        assert (
            status(http, by_hand({"alg": "HS256"}, f'{{"sub": "ann", "exp": {end}}}', SECRET.encode())) == 401
        )


@pytest.mark.parametrize("sub", [None, "", 7, ["x"]])
def test_only_the_claim_that_names_the_user_is_required(opener: Opened, sub: Any) -> None:
    http = opener(auth="jwt", jwt_secret_key=SECRET, jwt_user_claim="email")
    assert who(http, signed(SECRET, "HS256", sub=sub, email=EMAIL)) == EMAIL
    assert status(http, signed(SECRET, "HS256")) == 401


# A function of the operator's

ENDS: dict[str, Any] = {
    "text": "2099-01-01",
    "nothing": None,
    "yes": True,
    "a list": [],
    "no number": math.nan,
    "over": 1.0,
    "now": 0,
    "never was": -math.inf,
    "never": math.inf,
    "far off": 10**400,
}
COOKIE = "a-session-cookie-of-hers"
SILENT: set[str] = set()
LOOKS: Counter[str] = Counter()


async def prove(connection: HTTPConnection) -> Any:
    """Believe a header, and do as another says."""
    name, end = connection.headers["x-name"], connection.headers.get("x-end")
    LOOKS[name] += 1
    if end == "crash":
        return LOOKS.copy().pop(COOKIE)
    if name in SILENT:
        raise LoginUnavailable
    return Principal(id=name, expires=ENDS[end] if end else time.time() + 3600)


CUSTOM = {"auth": "tests.test_proof:prove"}


def test_when_a_functions_proof_ends_is_looked_at(opener: Opened) -> None:
    http = opener(**CUSTOM)
    found = {end: status(http, **{"x-name": "ann", "x-end": end}) for end in ENDS}
    assert found == {end: 200 if end in ("never", "far off") else 401 for end in ENDS}
    assert who(http, **{"x-name": "ann", "x-end": "over"}) is None


def test_what_a_crash_says_is_not_logged(opener: Opened, capfd: pytest.CaptureFixture[str]) -> None:
    assert status(opener(**CUSTOM), **{"x-name": "ann", "x-end": "crash"}) == 503
    logged = "".join(capfd.readouterr())
    assert COOKIE not in logged
    [line] = [line for line in logged.splitlines() if "login.crashed" in line]
    assert "KeyError" in line
    assert "test_proof.py:" in line


# Open streams


def test_a_stream_outlives_a_silent_login_for_a_while_only(
    opener: Opened, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(identity, "PROVE_EVERY", 0.0)
    headers = {"x-name": name}
    with opener(**CUSTOM).stream("GET", "/llmchat/events", headers=headers, timeout=12) as response:
        SILENT.add(name)
        before = LOOKS[name]
        wait_until(lambda: LOOKS[name] >= before + 3, "it is looked again")
        monkeypatch.setattr(identity, "FORGIVEN", 0.0)
        said = "".join(response.iter_text())
    assert "The login cannot be checked right now" in said
    assert '"recoverable":true' in said


async def test_a_login_that_hangs_is_one_that_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity, "PATIENCE", 0.01)

    class Hanging:
        mode = "custom"

        async def identify(self, connection: HTTPConnection) -> Principal | None:
            await anyio.sleep_forever()
            return None

    request = Request({"type": "http", "headers": []})
    with anyio.fail_after(5):
        assert not await identity._is_proven(request, Hanging(), Principal(id="ann"))


def test_a_stream_of_a_login_without_end_is_to_be_asked_for_anew(
    opener: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a proxy says is in the request's headers: in an open stream nobody would ever take it back."""
    monkeypatch.setattr(identity, "RENEW_EVERY", 0.5)
    http: httpx.Client = opener(**PROXY, proxy_peers="127.0.0.0/8")
    with http.stream("GET", "/llmchat/events", headers=NAMED, timeout=12) as response:
        *_, frame = "".join(response.iter_text()).strip().split("\n\n")
    event, data = frame.split("\n")
    assert event == "event: reconnect"
    after = json.loads(data.removeprefix("data: "))["after"]
    with http.stream("GET", f"/llmchat/events?after={after}", headers=NAMED) as response:
        assert response.status_code == 200
