"""Who is asking: every way in, and every way that must not be one."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any
from urllib.parse import quote

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from starlette.applications import Starlette
from starlette.routing import Mount, Route

from mcp_chat.api import operations
from mcp_chat.app import create_app
from mcp_chat.login.demo import AUDIENCE as DEMO_AUDIENCE
from mcp_chat.login.demo import COOKIE, cookie_secret
from mcp_chat.settings import load_settings
from tests.person import Person
from tests.running import running

SECRET = "a secret of more than 32 bytes, for tests"
KEY = base64.b64encode(bytes(range(32))).decode()
JWT = {"auth": "jwt", "jwt_secret_key": SECRET, "encryption_key": KEY}
PUBLIC = {
    *("/livez", "/readyz", "/metrics", "/openapi.json", "/", "/web"),
    *("/auth", "/auth/demo", "/auth/logout"),
    *(f"{prefix}/oauth/client.json" for prefix in operations.PREFIXES),
}


COMING_BACK = {("GET", f"{prefix}/oauth/callback") for prefix in operations.PREFIXES}
"""Where browsers come back to from another site, without a login; the same path is private for a POST."""


def is_public(method: str, path: str) -> bool:
    """Tell whether a route needs nobody to be signed in."""
    return path in PUBLIC or (method, path) in COMING_BACK


class Door:
    """An application, its address and its routes."""

    def __init__(self, url: str, app: Starlette) -> None:
        self.url = url
        self.app = app
        self.http = httpx.Client(base_url=url, trust_env=False, timeout=20)

    def who(self, **headers: str) -> Any:
        """Return the id of who is signed in, or None."""
        answer = self.http.get("/auth", headers=headers)
        assert answer.status_code == 200
        user = answer.json()["user"]
        return user and user["id"]


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Door]]:
    """Open doors of applications in memory; arguments are settings."""
    nothing = tmp_path_factory.mktemp("identity") / "nothing"
    common = {"workers": 1, "ollama_url": "off", "log_level": "error", "requests_per_minute": 10_000}
    with ExitStack() as stack:

        def opened(**values: Any) -> Door:
            app = create_app(load_settings(**common, models_file=nothing, servers_file=nothing, **values))
            door = Door(stack.enter_context(running(app)), app)
            stack.callback(door.http.close)
            return door

        yield opened


@pytest.fixture(scope="module")
def demo_door(door: Callable[..., Door]) -> Door:
    return door(jwt_secret_key=SECRET)


@pytest.fixture
def demo(demo_door: Door) -> Door:
    """A door in demo mode, before which nobody is signed in."""
    demo_door.http.cookies.clear()
    return demo_door


@pytest.fixture(scope="module")
def bearer(door: Callable[..., Door]) -> Door:
    """A door in mode jwt."""
    return door(**JWT)


@pytest.fixture(scope="module")
def strict(door: Callable[..., Door]) -> Door:
    """A door in mode jwt that wants to know for whom a token is, and from whom."""
    return door(**JWT, jwt_audience="chat", jwt_issuer="https://login.example")


def token(secret: str = SECRET, headers: dict[str, Any] | None = None, **claims: Any) -> str:
    """A token that is good but for what is given; None leaves a claim out."""
    claims = {"sub": "ann", "exp": int(time.time()) + 60, **claims}
    return jwt.encode({k: v for k, v in claims.items() if v is not None}, secret, "HS256", headers=headers)


def by_hand(header: dict[str, Any], claims: str, secret: bytes) -> str:
    """A token as no library would make it."""
    parts = [base64.urlsafe_b64encode(part.encode()).rstrip(b"=") for part in (json.dumps(header), claims)]
    signature = hmac.new(secret, b".".join(parts), hashlib.sha256).digest()
    return b".".join([*parts, base64.urlsafe_b64encode(signature).rstrip(b"=")]).decode()


def signed(claims: str) -> str:
    """A token with these claims, as they are."""
    return by_hand({"alg": "HS256"}, claims, SECRET.encode())


def attempt(door: Door, credential: str | None) -> int:
    """Ask for something that is not public; return the status."""
    headers = {} if credential is None else {"authorization": f"Bearer {credential}"}
    return door.http.get("/llmchat/servers", headers=headers).status_code


# Demo mode


def test_a_name_is_taken_shown_and_given_back(demo: Door) -> None:
    assert demo.http.get("/auth").json() == {"mode": "demo", "user": None}
    answer = demo.http.post("/auth/demo", json={"user": "Ann Example"})
    assert answer.json() == {"user": {"id": "Ann Example"}}
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert "domain" not in cookie
    assert demo.http.get("/auth").json() == {"mode": "demo", "user": {"id": "Ann Example"}}
    assert demo.http.get("/llmchat/servers").status_code == 200
    assert demo.http.post("/auth/logout", json={}).status_code == 200
    assert demo.who() is None
    assert demo.http.get("/llmchat/servers").status_code == 401


@pytest.mark.parametrize(
    "user", ["", " ", " ann", "ann ", "a\nb", "a\x00b", "a\x7f", "x" * 129, 7, None, ["a"]]
)
def test_a_name_that_is_none_is_refused(demo: Door, user: Any) -> None:
    assert demo.http.post("/auth/demo", json={"user": user}).status_code == 422
    assert demo.who() is None


def cookie(secret: str = SECRET, **claims: Any) -> str:
    """A cookie that is good but for what is given."""
    return token(cookie_secret(secret), **{"aud": DEMO_AUDIENCE, **claims})


def test_a_cookie_of_the_demo_is_no_token(serve: Callable[..., str]) -> None:
    """One secret may be set for both modes; what anybody can get in the one must not count in the other."""
    with httpx.Client(base_url=serve(**JWT), trust_env=False) as http:
        answer = http.get("/llmchat/servers", headers={"authorization": f"Bearer {cookie()}"})
    assert answer.status_code == 401


def test_a_good_cookie_is_good(demo: Door) -> None:
    assert demo.who(cookie=f"{COOKIE}={cookie()}") == "ann"


@pytest.mark.parametrize(
    "forged",
    [
        "",
        "ann",
        "a.b.c",
        cookie("another secret of more than 32 bytes, for tests"),
        cookie(exp=int(time.time()) - 60),
        cookie(exp=None),
        cookie(aud=None),
        cookie(aud="another"),
        cookie()[:-4] + "AAAA",
        by_hand({"alg": "none"}, json.dumps({"sub": "ann", "exp": 2**33, "aud": DEMO_AUDIENCE}), b""),
        cookie(sub="x" * 9000),
    ],
)
def test_a_cookie_that_is_not_ours_is_nobodys(demo: Door, forged: str) -> None:
    assert demo.who(cookie=f"{COOKIE}={forged}") is None
    answer = demo.http.get("/llmchat/servers", headers={"cookie": f"{COOKIE}={forged}"})
    assert answer.status_code == 401


def test_a_bearer_token_is_nobodys_in_demo_mode(demo: Door) -> None:
    assert attempt(demo, token()) == attempt(demo, cookie()) == 401


SITES: list[tuple[dict[str, str], bool]] = [
    ({}, True),  # curl
    ({"sec-fetch-site": "same-origin"}, True),
    ({"sec-fetch-site": "none"}, True),
    ({"sec-fetch-site": "same-site"}, False),
    ({"sec-fetch-site": "cross-site"}, False),
    ({"sec-fetch-site": "anything"}, False),
    ({"origin": "{here}"}, True),
    ({"origin": "https://evil.example"}, False),
    ({"origin": "null"}, False),
    ({"origin": ""}, False),
    ({"origin": "http://[::1"}, False),
    ({"origin": "{here}.evil.example"}, False),
    ({"origin": "http://evil.example@{host}"}, False),
    ({"origin": "http://127.0.0.1:1"}, False),
    ({"sec-fetch-site": "same-origin", "origin": "{here}"}, True),
    ({"sec-fetch-site": "cross-site", "origin": "{here}"}, False),
]


@pytest.mark.parametrize(("headers", "accepted"), SITES)
def test_a_change_is_accepted_only_from_our_own_pages(
    demo: Door, headers: dict[str, str], accepted: bool
) -> None:
    host = demo.url.removeprefix("http://")
    sent = {name: value.format(here=demo.url, host=host) for name, value in headers.items()}
    assert demo.http.post("/auth/demo", json={"user": "ann"}, headers=sent).status_code == (
        200 if accepted else 403
    )
    demo.http.cookies.set(COOKIE, cookie())
    changes = [
        ("/llmchat/disconnect", {"user_id": "ann"}),
        ("/llmchat/cancel", {"user_id": "ann"}),
        ("/v1/llmchat/disconnect", {"user_id": "ann"}),
        ("/auth/logout", {}),
    ]
    for path, body in changes:
        assert demo.http.post(path, json=body, headers=sent).status_code == (200 if accepted else 403), path
    demo.http.cookies.set(COOKIE, cookie())
    assert demo.http.get("/llmchat/status/ann", headers=sent).status_code == 200, "nothing is changed"


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""]
)
def test_a_form_of_another_site_cannot_be_a_body(demo: Door, kind: str) -> None:
    answer = demo.http.post("/auth/demo", content=b'{"user": "ann"}', headers={"content-type": kind})
    assert answer.status_code == 415


@pytest.mark.parametrize(
    ("host", "served"),
    [
        ("127.0.0.1", True),
        ("127.0.0.1:8000", True),
        ("localhost:8000", True),
        ("LOCALHOST", True),
        ("[::1]:8000", True),
        ("[::1]", True),
        ("evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("localhost.evil.example:8000", False),
        ("evil.example:127.0.0.1", False),
        ("user@localhost", False),
        ("", False),
    ],
)
def test_only_names_of_this_machine_are_served_in_demo_mode(demo: Door, host: str, served: bool) -> None:
    """Another page could point its own name at us and would then be of the same origin."""
    answer = demo.http.get("/auth", headers={"host": host})
    assert answer.status_code == (200 if served else 400)


def test_other_names_are_served_where_nobody_signs_in_by_name(bearer: Door) -> None:
    assert bearer.http.get("/livez", headers={"host": "chat.example.org"}).status_code == 200


# Mode jwt


def test_a_good_token_is_good(bearer: Door) -> None:
    assert attempt(bearer, token()) == 200
    assert bearer.who(authorization=f"Bearer {token(sub='Ünï ✓')}") == "Ünï ✓"


@pytest.mark.parametrize("scheme", ["Bearer ", "bearer ", "BEARER ", "Bearer   "])
def test_the_scheme_is_written_as_one_likes(bearer: Door, scheme: str) -> None:
    assert bearer.who(authorization=f"{scheme}{token()}") == "ann"


@pytest.mark.parametrize("scheme", ["", "Basic ", "Token ", "Bearer", "Bearer\xa0", "Bearer,"])
def test_another_scheme_is_no_proof(bearer: Door, scheme: str) -> None:
    answer = bearer.http.get(
        "/llmchat/servers", headers={b"authorization": f"{scheme}{token()}".encode("latin-1")}
    )
    assert answer.status_code == 401


RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
RSA_PRIVATE = RSA_KEY.private_bytes(
    serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
)
CLAIMS = {"sub": "ann", "exp": 2**33}

BAD_TOKENS: dict[str, str] = {
    "no token": "ann",
    "three dots": "...",
    "expired": token(exp=int(time.time()) - 60),
    "not yet valid": token(nbf=int(time.time()) + 600),
    "issued in the future": token(iat=int(time.time()) + 600),
    "wrong secret": token("another secret of more than 32 bytes, for tests"),
    "empty secret": by_hand({"alg": "HS256"}, json.dumps(CLAIMS), b""),
    "alg none": by_hand({"alg": "none"}, json.dumps(CLAIMS), b"").rpartition(".")[0] + ".",
    "alg None": by_hand({"alg": "None"}, json.dumps(CLAIMS), SECRET.encode()),
    "no alg": by_hand({}, json.dumps(CLAIMS), SECRET.encode()),
    "alg HS512": jwt.encode(CLAIMS, SECRET * 2, "HS512"),
    "alg RS256": jwt.encode(CLAIMS, RSA_PRIVATE, "RS256"),
    "alg RS256, signed with the secret": by_hand({"alg": "RS256"}, json.dumps(CLAIMS), SECRET.encode()),
    "a key of its own": token(
        "another secret of more than 32 bytes, for tests",
        headers={
            "jwk": {"kty": "oct", "k": base64.urlsafe_b64encode(b"x" * 32).decode()},
            "kid": "../../dev/null",
        },
    ),
    "unknown crit": token(headers={"crit": ["exp2"], "exp2": 1}),
    "crit that is no list": token(headers={"crit": "exp"}),
    "no sub": token(sub=None),
    "no exp": token(exp=None),
    "empty sub": token(sub=""),
    "blank sub": token(sub=" \t"),
    "number as sub": signed('{"sub": 7, "exp": 8589934592}'),
    "list as sub": signed('{"sub": ["ann"], "exp": 8589934592}'),
    "huge sub": token(sub="x" * 5000),
    "line end in sub": token(sub="ann\nbob"),
    "NUL in sub": token(sub="ann\x00"),
    "half a character as sub": signed('{"sub": "\\ud800", "exp": 8589934592}'),
    "infinite exp": signed('{"sub": "ann", "exp": 1e999}'),
    "text as exp": signed('{"sub": "ann", "exp": "never"}'),
    "claims that are a list": signed('["ann"]'),
    "claims that are not JSON": signed("{"),
    "9 KiB": token(more="x" * 9 * 1024),
    "cut": token()[:-1],
    "with something behind it": token() + ".x",
    "two tokens": f"{token()} {token()}",
}


@pytest.mark.parametrize("case", BAD_TOKENS)
def test_a_token_that_does_not_hold_is_refused(bearer: Door, case: str) -> None:
    answer = bearer.http.get("/llmchat/servers", headers={"authorization": f"Bearer {BAD_TOKENS[case]}"})
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert set(answer.json()) == {"detail", "code"}
    assert bearer.who(authorization=f"Bearer {BAD_TOKENS[case]}") is None


@pytest.mark.parametrize(
    ("claims", "status"),
    [
        ({"aud": "chat", "iss": "https://login.example"}, 200),
        ({"aud": ["other", "chat"], "iss": "https://login.example"}, 200),
        ({"aud": "other", "iss": "https://login.example"}, 401),
        ({"aud": "chat ", "iss": "https://login.example"}, 401),
        ({"aud": ["other"], "iss": "https://login.example"}, 401),
        ({"iss": "https://login.example"}, 401),
        ({"aud": "chat"}, 401),
        ({"aud": "chat", "iss": "https://login.example/"}, 401),
    ],
)
def test_audience_and_issuer_must_be_ours_where_they_are_set(
    strict: Door, claims: dict[str, Any], status: int
) -> None:
    assert attempt(strict, token(**claims)) == status


def test_an_issuer_that_is_no_text_is_refused(strict: Door) -> None:
    claims = {**CLAIMS, "aud": "chat", "iss": ["https://login.example"]}
    assert attempt(strict, signed(json.dumps(claims))) == 401


def test_any_audience_is_accepted_where_none_is_set(bearer: Door) -> None:
    assert attempt(bearer, token(aud="anything", iss="anyone")) == 200


def test_cookies_prove_nothing_in_mode_jwt(bearer: Door) -> None:
    for value in (cookie(), token()):
        answer = bearer.http.get(
            "/llmchat/servers", headers={"cookie": f"{COOKIE}={value}; jwt_token={value}"}
        )
        assert answer.status_code == 401
    both = {"cookie": f"{COOKIE}={cookie(sub='bob')}", "authorization": f"Bearer {token()}"}
    assert bearer.who(**both) == "ann"


def test_nobody_takes_a_name_where_tokens_are_wanted(bearer: Door) -> None:
    assert bearer.http.post("/auth/demo", json={"user": "ann"}).status_code == 404
    assert bearer.http.post("/auth/logout", json={}).status_code == 404


def test_a_token_in_the_address_proves_nothing(bearer: Door) -> None:
    assert bearer.http.get(f"/llmchat/servers?token={token()}&access_token={token()}").status_code == 401


# Operations

BODIES: dict[str, dict[str, Any]] = {
    "connect": {"llm": {"model": "openai:scripted"}},
    "chat": {"message": "hello"},
    "retry": {},
    "cancel": {},
    "disconnect": {},
    "sessions": {},
    "sessions/{session_id}": {},
    "sessions/{session_id}/branches/{branch_id}": {},
    "oauth/callback": {"state": "x"},
    "questions/{question_id}": {"action": "cancel"},
    "approvals/{approval_id}": {"decision": "deny"},
    "apps/calls": {"tool": "x", "name": "x"},
    "apps/resources": {"tool": "x", "uri": "ui://x"},
    "servers": {"name": "x"},
    "servers/{alias}": {"enabled": True},
    "servers/{alias}/tools": {"enabled": {"x": True}},
    "servers/{alias}/sign-in": {},
    "servers/{alias}/prompts/get": {"name": "x", "arguments": {}},
    "servers/{alias}/complete": {"prompt": "x", "argument": "x", "context": {}},
    "servers/{alias}/resources/read": {"uri": "x://x"},
    "servers/{alias}/resources/subscriptions": {"uri": "x://x"},
}
"""What is sent as JSON; elsewhere a user id can be asserted in the path or in the query."""


IN_QUERY = ("apps", "approvals", "questions", "servers", "turns", "usage")
"""Whose operations are told it in the query where they have no body."""


def routes(app: Starlette) -> list[tuple[str, str]]:
    """Every route that is served: method and path."""
    found: list[tuple[str, str]] = []
    for route in app.router.routes:
        assert isinstance(route, Route | Mount), route
        methods = (route.methods or set()) - {"HEAD"} if isinstance(route, Route) else {"GET"}
        found += [(method, route.path) for method in methods]
    return found


def filled(path: str, user: str) -> str:
    """A path with a user for each id in it."""
    return re.sub(r"{\w+(:\w+)?}", user, path)


def asserting(method: str, path: str, user: str) -> list[tuple[str, dict[str, Any] | None]]:
    """Every way in which an operation can be told whose it is: address and body."""
    name = path.removeprefix("/v1").removeprefix("/llmchat/")
    address = filled(path, user if "{user_id" in path else "x")
    ways: list[tuple[str, dict[str, Any] | None]] = []
    if "{user_id" in path:
        ways.append((address, None))
    if method in ("POST", "PATCH") and name in BODIES:
        ways.append((address, {"user_id": user, **BODIES[name]}))
    family, reads = name.partition("/")[0], method in ("GET", "DELETE")
    if family in ("events", "sessions", "search", "uploads") or (reads and family in IN_QUERY):
        ways.append((f"{address}?user_id={quote(user)}", {"more": "so that it would be refused"}))
    assert ways or method == "GET", f"{path} needs a row"
    return ways


def test_exactly_the_declared_routes_need_nobody_to_be_signed_in(bearer: Door) -> None:
    open_to_all = set()
    for method, path in routes(bearer.app):
        for content in (b"", b"{}", json.dumps({"user_id": "ann"}).encode(), b"\xff"):
            headers = {"content-type": "application/json"}
            answer = bearer.http.request(method, filled(path, "ann"), content=content, headers=headers)
            if answer.status_code != 401:
                open_to_all.add((method, path))
    assert all(is_public(*route) for route in open_to_all)
    assert {path for _, path in set(routes(bearer.app)) - open_to_all} >= {
        f"{prefix}/{name}" for prefix in operations.PREFIXES for name in BODIES
    }


def test_who_is_not_signed_in_cannot_have_a_body_read(bearer: Door) -> None:
    for method, path in routes(bearer.app):
        if not is_public(method, path) and method in ("POST", "PATCH"):
            answer = bearer.http.request(method, path, content=b"x" * 10_000_000)
            assert answer.status_code == 401, path


def test_a_user_id_in_body_or_path_that_is_anothers_is_refused_everywhere(bearer: Door) -> None:
    headers = {"authorization": f"Bearer {token()}"}
    asserted = 0
    for method, path in routes(bearer.app):
        if is_public(method, path):
            continue
        for other in ("bob", "Ann", "ann ", "a/nn", "ann\u200b", "%61nn2"):
            for address, body in asserting(method, path, other):
                answer = bearer.http.request(method, address, json=body, headers=headers)
                assert answer.status_code == 403, (path, other)
                assert answer.json() == {"detail": "User ID mismatch.", "code": "forbidden"}
                asserted += 1
    assert asserted == 2 * (3 + 20 + 34) * 6  # in the path, in a body, in the query


def test_an_empty_user_id_means_who_is_signed_in(bearer: Door) -> None:
    headers = {"authorization": f"Bearer {token()}"}
    for prefix in operations.PREFIXES:
        answer = bearer.http.post(f"{prefix}/disconnect", json={"user_id": ""}, headers=headers)
        assert answer.status_code == 200
        assert answer.json()["user_id"] == "ann"
        answer = bearer.http.get(f"{prefix}/status/", headers=headers)
        assert answer.json() == {"user_id": "ann", "connected": False}


@pytest.mark.parametrize("user", ["ann@example.org", "a/b", "a b", "ä", "a%2Fb", "{x}", "*", "../../livez"])
def test_any_id_that_a_login_gives_works_in_a_path_and_in_a_body(bearer: Door, user: str) -> None:
    headers = {"authorization": f"Bearer {token(sub=user)}"}
    with Person(bearer.url, user, token=token(sub=user)) as person:
        path = httpx.URL(bearer.url).copy_with(raw_path=b"/llmchat/status/" + _quoted(user))
        assert person.http.get(path).json() == {"user_id": user, "connected": False}
    answer = bearer.http.post("/llmchat/disconnect", json={"user_id": user}, headers=headers)
    assert answer.json()["user_id"] == user


def _quoted(text: str) -> bytes:
    return "".join(f"%{byte:02X}" for byte in text.encode()).encode()


def test_two_users_whose_ids_look_alike_are_two(bearer: Door) -> None:
    with Person(bearer.url, "é", token=token(sub="é")) as one:
        one.connect(model="demo:demo")
        with Person(bearer.url, "e\u0301", token=token(sub="e\u0301")) as other:
            assert one.get("status/{me}").json()["connected"] is True
            assert other.get("status/{me}").json()["connected"] is False
            assert other.get("config/{me}").status_code == 404
