"""Logins of other systems: tokens with public keys, a gateway's, a proxy's, an operator's own function."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from starlette.applications import Starlette
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from mcp_chat.app import create_app
from mcp_chat.exceptions import NotAuthenticated, SettingsError
from mcp_chat.identity import Principal
from mcp_chat.login import contextforge
from mcp_chat.login.keys import ASK_AGAIN, FRESH, JWKS, STALE
from mcp_chat.settings import load_settings
from tests.running import running

SECRET = "a secret of more than 32 bytes, for tests"
ENCRYPTION = {"encryption_key": base64.b64encode(bytes(range(32))).decode()}
RSA, OTHER_RSA = (rsa.generate_private_key(65537, 2048) for _ in range(2))
EC = ec.generate_private_key(ec.SECP256R1())


def pem(private: Any) -> bytes:
    """A private key's public one."""
    public: bytes = private.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return public


def jwk(private: Any, kid: str | None, **more: Any) -> dict[str, Any]:
    """A private key's public one, as a JWKS has it."""
    algorithm = jwt.algorithms.RSAAlgorithm if private is not EC else jwt.algorithms.ECAlgorithm
    key = json.loads(algorithm.to_jwk(private.public_key()))
    return {**key, **({"kid": kid} if kid else {}), **more}


def signed(key: Any, algorithm: str, headers: dict[str, Any] | None = None, **claims: Any) -> str:
    """A token that is good but for what is given; None leaves a claim out."""
    claims = {"sub": "ann", "exp": int(time.time()) + 60, **claims}
    given = {name: value for name, value in claims.items() if value is not None}
    return jwt.encode(given, key, algorithm, headers=headers)


Opened = Callable[..., httpx.Client]


@pytest.fixture
def door(tmp_path: Path) -> Iterator[Opened]:
    """Open applications in memory; arguments are settings."""
    common = {"workers": 1, "ollama_url": "off", "log_level": "error", **ENCRYPTION}
    nothing = tmp_path / "nothing"
    with ExitStack() as stack:

        def opened(**values: Any) -> httpx.Client:
            settings = load_settings(**{**common, **values}, models_file=nothing, servers_file=nothing)
            url = stack.enter_context(running(create_app(settings)))
            return stack.enter_context(httpx.Client(base_url=url, trust_env=False, timeout=20))

        yield opened


def who(http: httpx.Client, token: str = "", **headers: str) -> Any:
    """Who is signed in with a token, or None."""
    if token:
        headers["authorization"] = f"Bearer {token}"
    user = http.get("/auth", headers=headers).json()["user"]
    return user and user["id"]


def status(http: httpx.Client, token: str = "", **headers: str) -> int:
    """What comes of asking for something that is not public."""
    if token:
        headers["authorization"] = f"Bearer {token}"
    return http.get("/llmchat/servers", headers=headers).status_code


# Tokens with public keys


@pytest.mark.parametrize(("private", "algorithm"), [(RSA, "RS256"), (EC, "ES256")])
def test_a_token_is_checked_with_the_public_key_in_a_file(
    door: Opened, tmp_path: Path, private: Any, algorithm: str
) -> None:
    path = tmp_path / "key.pem"
    path.write_bytes(pem(private))
    http = door(auth="jwt", jwt_algorithms=algorithm, jwt_public_key_path=path)
    assert who(http, signed(private, algorithm)) == "ann"
    assert status(http, signed(private, algorithm)) == 200
    secret = pem(private)
    by_secret = jwt.api_jws.encode(
        json.dumps({"sub": "ann", "exp": 2**33}).encode(), base64.b64encode(secret).decode(), "HS256"
    )
    attacker = jwk(OTHER_RSA, "mine")
    bad = {
        "another key": signed(OTHER_RSA, "RS256"),
        "a shared secret": by_secret,
        "its own key": signed(OTHER_RSA, "RS256", {"jwk": attacker}),
        "a key elsewhere": signed(OTHER_RSA, "RS256", {"jku": "https://evil.example/keys"}),
        "a critical header": signed(private, algorithm, {"crit": ["b64"], "b64": True}),
        "an odd key id": signed(private, algorithm, {"kid": "../../etc/passwd"})[:-4] + "AAAA",
        "not yet": signed(private, algorithm, nbf=int(time.time()) + 600),
        "over": signed(private, algorithm, exp=int(time.time()) - 60),
        "for ever": signed(private, algorithm, exp=None),
        "nobody": signed(private, algorithm, sub=None),
        "no signature": jwt.encode({"sub": "ann", "exp": 2**33}, "", "none"),
    }
    for case, token in bad.items():
        assert status(http, token) == 401, case


def test_claims_that_are_required_must_be_there(door: Opened) -> None:
    http = door(auth="jwt", jwt_secret_key=SECRET, jwt_claims="tenant=acme, email", jwt_user_claim="email")
    good: dict[str, Any] = {"tenant": "acme", "email": "ann@example.org"}
    assert who(http, signed(SECRET, "HS256", **good)) == "ann@example.org"
    odd: list[dict[str, Any]] = [
        {"tenant": "other"},
        {"tenant": None},
        {"email": None},
        {"email": 7},
        {"email": ""},
    ]
    for each in odd:
        assert status(http, signed(SECRET, "HS256", **{**good, **each})) == 401, each


def test_several_authorization_headers_are_none(door: Opened) -> None:
    http = door(auth="jwt", jwt_secret_key=SECRET)
    bearer = ("authorization", f"Bearer {signed(SECRET, 'HS256')}")
    assert http.get("/llmchat/servers", headers=[bearer]).status_code == 200
    assert http.get("/llmchat/servers", headers=[bearer, bearer]).status_code == 401


# Keys at an address


@dataclass
class KeyServer:
    """An address with keys."""

    keys: list[dict[str, Any]] = field(default_factory=list)
    asked: int = 0
    away: bool = False

    def app(self) -> Starlette:
        """Serve it."""
        return Starlette(routes=[Route("/keys", self.answer)])

    def answer(self, _request: Request) -> Response:
        """Tell the keys."""
        self.asked += 1
        return Response(status_code=500) if self.away else JSONResponse({"keys": self.keys})


@pytest.fixture
def keys() -> KeyServer:
    """An address with an RSA and an EC key, and some that nobody can use."""
    return KeyServer(
        [
            jwk(RSA, "r", use="sig", alg="RS256"),
            jwk(EC, "e"),
            jwk(OTHER_RSA, "encryption", use="enc"),
            {"kty": "oct", "kid": "secret", "k": base64.urlsafe_b64encode(SECRET.encode()).decode()},
            {"kty": "RSA", "kid": "broken"},
        ]
    )


def test_tokens_are_checked_with_the_keys_at_an_address(door: Opened, keys: KeyServer) -> None:
    with running(keys.app()) as url:
        http = door(auth="jwt", jwt_algorithms="RS256,ES256", jwks_url=f"{url}/keys")
        assert who(http, signed(RSA, "RS256", {"kid": "r"})) == "ann"
        assert who(http, signed(EC, "ES256", {"kid": "e"})) == "ann"
        assert who(http, signed(EC, "ES256")) == "ann"
        bad = {
            "another's key": signed(RSA, "RS256", {"kid": "e"}),
            "a key for something else": signed(OTHER_RSA, "RS256", {"kid": "encryption"}),
            "a secret that anybody can read": signed(SECRET, "HS256", {"kid": "secret"}),
            "a key that nobody can read": signed(RSA, "RS256", {"kid": "broken"}),
        }
        for case, token in bad.items():
            assert status(http, token) == 401, case
        for n in range(20):
            assert status(http, signed(RSA, "RS256", {"kid": f"unknown-{n}"})) == 401
        assert keys.asked <= 2, "nobody can make us ask as often as they like"


def test_who_cannot_be_checked_is_asked_to_come_again(door: Opened, keys: KeyServer) -> None:
    keys.away = True
    with running(keys.app()) as url:
        http = door(auth="jwt", jwt_algorithms="RS256", jwks_url=f"{url}/keys")
        answer = http.get(
            "/llmchat/servers", headers={"authorization": f"Bearer {signed(RSA, 'RS256', {'kid': 'r'})}"}
        )
    assert (answer.status_code, answer.json()["code"]) == (503, "login_unavailable")
    assert answer.headers["retry-after"] == "2"


@pytest.mark.anyio
async def test_a_key_that_is_new_is_found_and_one_that_is_gone_is_forgotten(keys: KeyServer) -> None:
    now = 1000.0

    async def fetch(url: str) -> bytes:
        keys.asked += 1
        if keys.away:
            raise OSError
        return json.dumps({"keys": keys.keys}).encode()

    jwks = JWKS("https://login.example/keys", ["RS256"], fetch=fetch, clock=lambda: now)
    assert len(await jwks.named("r")) == 1
    assert await jwks.named("new") == []
    keys.keys.append(jwk(OTHER_RSA, "new"))
    assert await jwks.named("new") == []
    now += ASK_AGAIN + 1
    assert len(await jwks.named("new")) == 1
    assert keys.asked == 2
    del keys.keys[0]
    assert len(await jwks.named("r")) == 1, "believed for a while"
    now += FRESH + 1
    assert await jwks.named("r") == []
    keys.away = True
    now += STALE - 1
    assert len(await jwks.named("new")) == 1, "better an old key than none"
    now += 2
    with pytest.raises(Exception, match="cannot be checked"):
        await jwks.named("new")


# A gateway


@dataclass
class FakeGateway:
    """What ContextForge tells of its users."""

    users: dict[str, dict[str, Any]] = field(default_factory=dict)
    asked: int = 0
    away: bool = False

    def app(self) -> Starlette:
        """Serve it."""
        return Starlette(routes=[Route("/auth/email/me", self.me)])

    def me(self, request: Request) -> Response:
        """Tell who has a token."""
        self.asked += 1
        if self.away:
            return Response("<h1>Bad gateway</h1>", 502)
        user = self.users.get(request.headers.get("authorization", "").removeprefix("Bearer "))
        return JSONResponse(user) if user else JSONResponse({"detail": "Invalid"}, 401)


def session(n: int = 0, **claims: Any) -> str:
    """A token of the gateway's login."""
    claims = {"sub": f"uuid-{n}", "token_use": "session", "jti": str(n), **claims}
    return signed(SECRET, "HS256", **claims)


@pytest.fixture
def gateway() -> FakeGateway:
    """A gateway without users."""
    return FakeGateway()


@pytest.fixture
def forge(door: Opened, gateway: FakeGateway) -> Iterator[httpx.Client]:
    """An application behind the gateway's login."""
    with running(gateway.app()) as url:
        yield door(auth="contextforge", jwt_secret_key=SECRET, gateway_url=url)


def cookie(token: str) -> dict[str, str]:
    """The gateway's cookie."""
    return {"cookie": f"{contextforge.COOKIE}={token}"}


def test_the_gateways_cookie_names_its_user(forge: httpx.Client, gateway: FakeGateway) -> None:
    ann, bob = session(1), session(2)
    gateway.users = {ann: {"email": "ann@example.org", "is_active": True}, bob: {"email": "bob@example.org"}}
    assert who(forge, **cookie(ann)) == "ann@example.org"
    assert who(forge, ann) == "ann@example.org"
    assert who(forge, **cookie(bob)) == "bob@example.org"
    assert who(forge, "a-servers-token", **cookie(ann)) == "ann@example.org", "its tab sends those"
    for _ in range(10):
        assert who(forge, **cookie(ann)) == "ann@example.org"
    assert gateway.asked == 2, "its word is believed for some seconds"


def test_what_is_no_session_is_not_even_asked_about(forge: httpx.Client, gateway: FakeGateway) -> None:
    tokens = [
        session(token_use="api"),
        session(token_use=None),
        session(exp=int(time.time()) - 60),
        signed("another secret of more than 32 bytes, for tests", "HS256", token_use="session"),
        "nonsense",
    ]
    gateway.users = {token: {"email": "ann@example.org"} for token in tokens}
    assert [status(forge, **cookie(token)) for token in tokens] == [401] * 5
    assert gateway.asked == 0


def test_whom_the_gateway_refuses_is_refused(forge: httpx.Client, gateway: FakeGateway) -> None:
    off, odd = session(1), session(2)
    gateway.users = {off: {"email": "ann@example.org", "is_active": False}, odd: {"email": ["ann"]}}
    assert [status(forge, **cookie(token)) for token in (session(3), off, odd)] == [401] * 3


def test_nobody_is_let_in_while_the_gateway_is_silent(forge: httpx.Client, gateway: FakeGateway) -> None:
    gateway.away = True
    gateway.users = {session(1): {"email": "ann@example.org"}}
    answer = forge.get("/llmchat/servers", headers=cookie(session(1)))
    assert (answer.status_code, answer.json()["code"]) == (503, "login_unavailable")
    assert "Bad gateway" not in answer.text


def test_another_site_cannot_use_the_gateways_cookie(forge: httpx.Client, gateway: FakeGateway) -> None:
    gateway.users = {session(1): {"email": "ann@example.org"}}
    body = {"user_id": "ann@example.org"}
    for site, expected in (("same-origin", 200), ("same-site", 403), ("cross-site", 403)):
        headers = {**cookie(session(1)), "sec-fetch-site": site}
        assert forge.post("/llmchat/disconnect", json=body, headers=headers).status_code == expected


@pytest.mark.anyio
async def test_a_revoked_token_is_refused_within_half_a_minute(
    gateway: FakeGateway,
) -> None:
    now = 0.0
    ann, bob = session(1), session(2)
    gateway.users = {ann: {"email": "ann@example.org"}, bob: {"email": "bob@example.org"}}
    with running(gateway.app()) as url:
        asked = contextforge.Gateway(url, clock=lambda: now)
        assert await asked.user_of(ann) == "ann@example.org"
        assert await asked.user_of(bob) == "bob@example.org", "tokens that begin alike are two"
        gateway.users.clear()
        now = contextforge.BELIEVED
        assert await asked.user_of(ann) == "ann@example.org"
        now += 0.1
        with pytest.raises(NotAuthenticated):
            await asked.user_of(ann)


# A proxy

PROXY = {"auth": "proxy", "proxy_secret": SECRET}
NAMED = [("x-forwarded-user", "ann"), ("x-proxy-secret", SECRET)]


def test_a_proxy_that_knows_the_secret_is_believed(door: Opened) -> None:
    http = door(**PROXY, proxy_peers="127.0.0.0/8")
    assert http.get("/auth", headers=NAMED).json() == {"mode": "proxy", "user": {"id": "ann"}}
    assert http.get("/auth", headers=[]).json()["user"] is None
    assert http.get("/llmchat/servers", headers=NAMED).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        NAMED[:1],
        [NAMED[0], ("x-proxy-secret", "wrong")],
        [NAMED[0], NAMED[1], NAMED[1]],
        [*NAMED, ("x-forwarded-user", "bob")],
        [*NAMED, ("x_forwarded_user", "bob")],
        [*NAMED, ("X_Forwarded-User", "bob")],
        [("x-forwarded-user", "ann, bob"), NAMED[1]],
        [("x-forwarded-user", ""), NAMED[1]],
        [("x-forwarded-user", b"\xff"), NAMED[1]],
        [("x-forwarded-user", "a" * 2000), NAMED[1]],
    ],
)
def test_what_a_proxy_would_not_send_is_refused(door: Opened, headers: list[tuple[str, Any]]) -> None:
    http = door(**PROXY, proxy_peers="127.0.0.0/8")
    assert http.get("/llmchat/servers", headers=headers).status_code == 401


def test_a_stranger_who_knows_the_secret_is_refused(door: Opened) -> None:
    http = door(**PROXY, proxy_peers="10.0.0.0/8")
    assert http.get("/llmchat/servers", headers=NAMED).status_code == 401
    forwarded = [*NAMED, ("x-forwarded-for", "10.0.0.1")]
    assert http.get("/llmchat/servers", headers=forwarded).status_code == 401


# A function of the operator's

REVOKED: set[str] = set()


async def prove(connection: HTTPConnection) -> Any:
    """Believe a header, for so long as it says itself."""
    name = connection.headers.get("x-name", "")
    if name == "crash":
        raise RuntimeError("secret detail")
    if name == "odd":
        return {"id": "ann"}
    if name in REVOKED:
        raise NotAuthenticated
    until = float(connection.headers.get("x-seconds", "3600"))
    return Principal(id=name, expires=time.time() + until) if name else None


def not_async(connection: HTTPConnection) -> None:
    """Not what is wanted."""


CUSTOM = {"auth": "tests.test_login:prove"}


def test_an_operators_function_proves_who_asks(door: Opened) -> None:
    http = door(**CUSTOM)
    assert who(http, **{"x-name": "ann"}) == "ann"
    assert status(http, **{"x-name": "ann"}) == 200
    assert status(http) == 401
    assert status(http, **{"x-name": "odd"}) == 401
    crashed = http.get("/llmchat/servers", headers={"x-name": "crash"})
    assert crashed.status_code == 503
    assert "secret" not in crashed.text


# Open streams


def test_an_open_stream_ends_with_the_login_that_it_began_with(door: Opened) -> None:
    headers = {"x-name": "ann", "x-seconds": "1.5"}
    with door(**CUSTOM).stream("GET", "/llmchat/events", headers=headers, timeout=12) as response:
        assert response.status_code == 200
        said = [line for line in response.iter_lines() if line.startswith("data: ")]
    error = {"type": "error", "error": "Your login has expired. Sign in again.", "recoverable": False}
    assert json.loads(said[-1].removeprefix("data: ")) == error


@pytest.mark.slow
def test_an_open_stream_ends_when_the_login_is_revoked(door: Opened, name: str) -> None:
    asked: dict[str, Any] = {"headers": {"x-name": name}, "timeout": 60}
    with door(**CUSTOM).stream("GET", "/llmchat/events", **asked) as response:
        assert response.status_code == 200
        REVOKED.add(name)
        text = "".join(response.iter_text())
    assert "Authorization token required" in text


# What is refused at the start


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"auth": "nonsense"}, "MCP_CHAT_AUTH"),
        ({"auth": "no.such.module:function"}, "cannot be imported"),
        ({"auth": "tests.test_login:not_async"}, "must be an async function"),
        ({"auth": "jwt"}, "JWT_SECRET_KEY must have 32 bytes"),
        (
            {"auth": "jwt", "jwt_secret_key": SECRET, "encryption_key": ""},
            "ENCRYPTION_KEY must be set",
        ),
        ({"auth": "jwt", "jwt_algorithms": "none"}, "JWT_ALGORITHM"),
        ({"auth": "jwt", "jwt_algorithms": "HS256,RS256"}, "choose"),
        ({"auth": "jwt", "jwt_algorithms": "RS256"}, "either JWT_PUBLIC_KEY_PATH or MCP_CHAT_JWKS_URL"),
        ({"auth": "jwt", "jwt_algorithms": "RS256", "jwks_url": "http://login.example/keys"}, "https://"),
        ({"auth": "jwt", "jwt_algorithms": "RS256", "jwt_public_key_path": "/no/such/key"}, "no public key"),
        ({"auth": "jwt", "jwt_secret_key": SECRET, "jwks_url": "https://login.example"}, "Public keys need"),
        ({"auth": "contextforge", "jwt_secret_key": SECRET}, "MCP_CHAT_GATEWAY_URL"),
        (
            {"auth": "contextforge", "jwt_secret_key": SECRET, "gateway_url": "http://gate.example"},
            "https://",
        ),
        ({**PROXY}, "MCP_CHAT_PROXY_PEERS"),
        ({**PROXY, "proxy_peers": "0.0.0.0/0"}, "must not be everybody"),
        ({"auth": "proxy", "proxy_peers": "127.0.0.1"}, "MCP_CHAT_PROXY_SECRET must have"),
        (
            {**PROXY, "proxy_peers": "127.0.0.1", "proxy_user_header": "X-Proxy-Secret"},
            "two names of headers",
        ),
        ({**PROXY, "proxy_peers": "127.0.0.1", "proxy_user_header": "X User"}, "two names of headers"),
        ({"auth": "demo", "host": "0.0.0.0"}, "listens on loopback only"),
    ],
)
def test_a_login_that_would_not_be_safe_is_refused(values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SettingsError, match=sentence) as refused:
        create_app(load_settings(**{"workers": 1, **ENCRYPTION, **values}))
    assert "\n" not in str(refused.value)


def test_a_proxy_is_not_believed_where_the_peer_is_what_a_header_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", "*")
    with pytest.raises(SettingsError, match="unset FORWARDED_ALLOW_IPS"):
        create_app(load_settings(workers=1, **ENCRYPTION, **PROXY, proxy_peers="127.0.0.1"))
