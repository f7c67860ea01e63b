"""Logins that are forged, mixed up or sent another way; what went wrong elsewhere has its number."""

from __future__ import annotations

import base64
import json
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import httpx
import jwt
import pytest
import redis
from cryptography.hazmat.primitives import serialization
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from mcp_chat.exceptions import NotAuthenticated
from mcp_chat.login import contextforge
from mcp_chat.login.keys import FixedKey
from mcp_chat.login.token import TokenCheck
from mcp_chat.settings import Settings
from tests.person import Person
from tests.running import running
from tests.test_identity import (
    JWT,
    RSA_KEY,
    RSA_PRIVATE,
    SECRET,
    Door,
    attempt,
    bearer,
    by_hand,
    demo_door,
    door,
    filled,
    is_public,
    routes,
    token,
)
from tests.test_login import door as opener
from tests.test_login import jwk, pem, signed, status, who
from tests.test_logs import as_before

__all__ = ["as_before", "bearer", "demo_door", "door", "opener"]  # the fixtures

CLAIMS = json.dumps({"sub": "ann", "exp": 2**33})
DER = RSA_KEY.public_key().public_bytes(
    serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
)
PEM = pem(RSA_KEY)
AS_SECRET = {
    "PEM": PEM,
    "PEM without its last line end": PEM.strip(),
    "PEM with CRLF": PEM.replace(b"\n", b"\r\n"),
    "the lines between": b"".join(PEM.splitlines()[1:-1]),
    "DER": DER,
    "DER in base64": base64.b64encode(DER),
    "JWK": json.dumps(jwk(RSA_KEY, None)).encode(),
    "nothing": b"",
}


@pytest.mark.parametrize("form", AS_SECRET)
@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512", "RS256"])
def test_a_public_key_is_no_secret_to_sign_with(form: str, algorithm: str, public: httpx.Client) -> None:
    assert status(public, by_hand({"alg": algorithm}, CLAIMS, AS_SECRET[form])) == 401


@pytest.fixture(scope="module")
def public(door: Callable[..., Door], tmp_path_factory: pytest.TempPathFactory) -> httpx.Client:
    """A door where tokens are checked with a public key."""
    path = tmp_path_factory.mktemp("key") / "key.pem"
    path.write_bytes(PEM)
    login = {"auth": "jwt", "jwt_algorithms": "RS256", "jwt_public_key_path": path}
    return door(encryption_key=JWT["encryption_key"], **login).http


HEADERS: dict[str, dict[str, Any]] = {
    "jwk": {"jwk": jwk(RSA_KEY, "mine")},
    "jku": {"jku": "https://evil.example/keys", "kid": "mine"},
    "x5u": {"x5u": "https://evil.example/cert.pem"},
    "x5c": {"x5c": [base64.b64encode(DER).decode()]},
    "a path as kid": {"kid": "../../../../dev/null"},
    "a query as kid": {"kid": "x' UNION SELECT 'secret"},
    "an address as kid": {"kid": "https://evil.example/keys"},
    "a list as kid": {"kid": ["mine"]},
    "1 MiB as kid": {"kid": "k" * 2**20},
}


@pytest.mark.parametrize("case", HEADERS)
@pytest.mark.parametrize("attacker", ["a secret of more than 32 bytes, but another one", ""])
def test_a_header_does_not_choose_the_key(bearer: Door, case: str, attacker: str) -> None:
    forged = by_hand({"alg": "HS256", **HEADERS[case]}, CLAIMS, attacker.encode())
    assert attempt(bearer, forged) in (400, 401)


@pytest.mark.parametrize(
    "crit", [["exp"], ["b64"], ["http://evil.example/x"], [], {}, "exp", None, ["", "a"]]
)
def test_a_critical_header_that_nobody_knows_is_refused(bearer: Door, crit: Any) -> None:
    """PyJWT and others went on as if it were not there."""
    assert (
        attempt(bearer, by_hand({"alg": "HS256", "crit": crit, "b64": True}, CLAIMS, SECRET.encode())) == 401
    )


@pytest.mark.anyio
@pytest.mark.parametrize("algorithm", ["HS256", "RS256", "none"])
async def test_without_a_key_no_token_holds(algorithm: str) -> None:
    """Authlib, CVE-2026-27962: with None as the key the one in the token's own header was taken."""
    check = TokenCheck(FixedKey(None), ["HS256", "RS256"])
    for header in ({}, {"jwk": jwk(RSA_KEY, "mine")}, {"jwk": {"kty": "oct", "k": ""}}):
        for secret in (b"", b"None", b"null"):
            with pytest.raises(NotAuthenticated):
                await check.claims(by_hand({"alg": algorithm, **header}, CLAIMS, secret))
        own = jwt.encode({"sub": "ann", "exp": 2**33}, RSA_PRIVATE, "RS256", headers=header)
        with pytest.raises(NotAuthenticated):
            await check.claims(own)


def test_an_id_token_is_no_access_token_where_they_are_told_apart(
    opener: Callable[..., httpx.Client],
) -> None:
    http = opener(auth="jwt", jwt_secret_key=SECRET, jwt_claims="token_use=access")
    assert who(http, signed(SECRET, "HS256", token_use="access")) == "ann"
    for claims in (
        {"token_use": "id"},
        {},
        {"token_use": ["access"]},
        {"typ": "access"},
        {"token_use": None},
    ):
        assert status(http, signed(SECRET, "HS256", nonce="n", **claims)) == 401, claims


# Names that are nearly another's

NEARLY = [
    *("Ann", "ANN", "ann ", " ann", "ann\u200b", "\u200bann", "ann\u2060", "ann\ufeff", "a:nn", "ann:"),
    *(
        "*",
        "ann*",
        "a?n",
        "[a]nn",
        "../ann",
        "ann/..",
        "ann%00",
        "%61nn",
        "ａｎｎ",
        "аnn",
        "ann\u0301",
        "ann\u00ad",
    ),
    *("{ann}", "ann}", "~ann", "ann@", "ann'--", "ann\\", '"ann"', "ann#", "a" * 1024),
]


@pytest.mark.parametrize("name", NEARLY)
def test_whose_name_is_nearly_anothers_is_somebody_else(bearer: Door, ann: Person, name: str) -> None:
    assert bearer.who(authorization=f"Bearer {token(sub=name)}") == name
    headers = {"authorization": f"Bearer {token(sub=name)}"}
    assert bearer.http.get("/llmchat/status/", headers=headers).json() == {
        "user_id": name,
        "connected": False,
    }
    assert bearer.http.get("/llmchat/config/", headers=headers).status_code == 404
    assert bearer.http.get("/llmchat/config/ann", headers=headers).status_code == 403


@pytest.fixture(scope="module")
def ann(bearer: Door) -> Iterator[Person]:
    """Somebody who is connected."""
    with Person(bearer.url, "ann", token=token()) as person:
        person.connect(model="demo:demo")
        yield person


@pytest.mark.parametrize(
    "sub",
    [
        "",
        " ",
        "\t",
        7,
        7.5,
        True,
        None,
        [],
        {},
        ["ann"],
        "x" * 10_240,
        "a\nb",
        "a\r",
    ],
)
def test_what_is_no_name_is_nobody(bearer: Door, sub: Any) -> None:
    assert (
        attempt(bearer, by_hand({"alg": "HS256"}, json.dumps({"sub": sub, "exp": 2**33}), SECRET.encode()))
        == 401
    )


# Tokens that begin alike


def alike(name: str) -> str:
    """A token whose first 500 characters are those of every other one."""
    return jwt.encode({"a": "x" * 400, "token_use": "session", "exp": 2**33, "sub": name}, SECRET, "HS256")


def test_tokens_that_begin_alike_are_told_apart_wherever_one_is_remembered(
    opener: Callable[..., httpx.Client],
) -> None:
    """LiteLLM, CVE-2026-35030: who was known by `token[:20]` could be anybody with the same issuer."""
    ann, bob = alike("ann"), alike("bob")
    assert ann[:500] == bob[:500]
    emails = {f"Bearer {ann}": "ann@example.org", f"Bearer {bob}": "bob@example.org"}

    def me(request: Request) -> Response:
        email = emails.get(request.headers["authorization"])
        return JSONResponse({"email": email}, 200 if email else 401)

    with running(Starlette(routes=[Route(contextforge.ME, me)])) as url:
        http = opener(auth="contextforge", jwt_secret_key=SECRET, gateway_url=url)
        for _ in range(2):
            for given, email in ((ann, "ann@example.org"), (bob, "bob@example.org")):
                assert who(http, given) == email
                assert who(http, cookie=f"{contextforge.COOKIE}={given}") == email
        for n in (20, 100, 500):
            for forged in (ann[:n], ann[:n] + bob[n:][::-1], ann[:-4] + "AAAA", ann.rpartition(".")[0] + "."):
                assert status(http, forged) == 401
        both = {"cookie": f"{contextforge.COOKIE}={ann}", "authorization": f"Bearer {bob}"}
        assert http.get("/auth", headers=both).json()["user"]["id"] == "ann@example.org", "never a mixture"


# One way in

ELSEWHERE: dict[str, dict[str, str]] = {
    "another scheme": {"authorization": "Basic {token}"},
    "no scheme": {"authorization": "{token}"},
    "a key": {"x-api-key": "{token}"},
    "a token": {"x-auth-token": "Bearer {token}"},
    "to a proxy": {"proxy-authorization": "Bearer {token}"},
    "as it was": {
        "x-original-authorization": "Bearer {token}",
        "x-forwarded-authorization": "Bearer {token}",
    },
    "an underscore": {"x_authorization": "Bearer {token}", "authorization_": "Bearer {token}"},
    "a name": {
        "x-forwarded-user": "ann",
        "x-user": "ann",
        "remote-user": "ann",
        "x-auth-request-user": "ann",
    },
    "cookies": {
        "cookie": "jwt_token={token}; mcp_chat_demo={token}; __Host-mcp_chat_demo={token}; token={token}"
    },
    "another method": {
        "x-http-method-override": "GET",
        "x-original-url": "/livez",
        "x-rewrite-url": "/livez",
    },
}


@pytest.mark.parametrize("case", ELSEWHERE)
def test_there_is_one_way_in_and_every_route_has_it(bearer: Door, case: str) -> None:
    """Open WebUI, CVE-2026-45339: the same key in another header went past the checks."""
    headers = {name: value.format(token=token()) for name, value in ELSEWHERE[case].items()}
    for method, path in routes(bearer.app):
        if not is_public(method, path):
            address = f"{filled(path, 'ann')}?token={token()}&access_token={token()}&user_id=ann"
            answer = bearer.http.request(method, address, headers=headers)
            assert answer.status_code == 401, (method, path)


HOSTS = [
    *(
        "127.0.0.1/livez",
        "127.0.0.1/livez?x=",
        "127.0.0.1#",
        "127.0.0.1/auth\\",
        "x/../livez",
        "a b",
        "[",
        "@",
    ),
    *(
        "127.0.0.1:80/livez#",
        "//livez",
        "?",
        "",
        "127.0.0.1\t/livez",
        "x" * 10_000,
        "\xff",
        "127.0.0.1, /livez",
    ),
]


@pytest.mark.parametrize("host", HOSTS)
def test_a_malformed_host_does_not_change_which_route_is_asked(
    bearer: Door, demo_door: Door, host: str
) -> None:
    """Starlette, CVE-2026-48710: the path that was checked was made from the Host header."""
    for place in (bearer, demo_door):
        for path in ("/llmchat/servers", "/llmchat/config/ann", "/v1/llmchat/sessions"):
            assert raw_status(place.url, path, host) in (400, 401), path


def raw_status(url: str, path: str, host: str) -> int:
    """Ask as no client would; return the status."""
    parts = urlsplit(url)
    assert parts.hostname
    with socket.create_connection((parts.hostname, parts.port or 80), timeout=10) as raw:
        head = f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
        raw.sendall(head.encode("latin-1"))
        return int(raw.recv(100).split(b" ")[1])


# What a token leaves behind


@pytest.mark.parametrize(
    "tail",
    [
        "",
        "'; DROP TABLE messages; --",
        "*",
        "{x}",
        "%s%n",
        "\\r\\n",
        "\x1b[31m",
        "\x85",
    ],
)
def test_no_byte_of_a_token_is_logged_or_becomes_a_key(
    valkey_url: str,
    settings: Callable[..., Settings],
    serve: Callable[..., str],
    capfd: pytest.CaptureFixture[str],
    tail: str,
) -> None:
    """LiteLLM, CVE-2026-42208: where the check had failed, the raw token went into a query."""
    marker = f"canary{time.time_ns()}"
    url = serve(**JWT, redis_url=valkey_url, log_level="debug")
    good = token(jti=marker, sub=f"user-{marker[-6:]}")
    with Person(url, f"user-{marker[-6:]}", token=good) as person:
        person.connect()
        person.say("hello")
    for bad in (f"{marker}{tail}", f"{marker}.{marker}.{marker}{tail}", f"{good[:-9]}{marker}{tail}"):
        value = f"Bearer {bad}".encode("latin-1")
        try:
            answer = httpx.get(f"{url}/llmchat/servers", headers={b"authorization": value}, trust_env=False)
        except httpx.HTTPError:
            continue  # no client can send it
        assert answer.status_code in (400, 401)
        assert marker not in answer.text
    logged = "".join(capfd.readouterr())
    assert "request.ended" in logged, "lines were written"
    with redis.Redis.from_url(valkey_url) as found:
        stored = b" ".join(key + (found.dump(key) or b"") for key in found.scan_iter("*"))
    for secret in (marker, good, good.rpartition(".")[2]):
        assert secret not in logged
        assert secret.encode() not in stored
