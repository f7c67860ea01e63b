"""What a cookie vouches for: our own one on http and on https, and no request of another site's page."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from http.cookies import Morsel, SimpleCookie
from typing import Any

import httpx
import jwt
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from mcp_chat.app import create_app
from mcp_chat.login import contextforge
from mcp_chat.login.demo import AUDIENCE, COOKIE, HOST_COOKIE, cookie_secret
from mcp_chat.settings import load_settings
from mcp_chat.stores.database import migrate
from tests.running import running
from tests.test_identity import KEY, SECRET, filled, routes

HTTPS = {"x-forwarded-proto": "https"}
ANN = {"user": "ann"}

Opened = Callable[..., tuple[str, Starlette]]


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Opened]:
    """Open applications in memory, told about https by a proxy that is believed or not; gives the address."""
    folder = tmp_path_factory.mktemp("cookies")
    nothing, url = folder / "nothing", f"sqlite:///{folder}/chat.db"
    migrate(url)
    common = {
        "workers": 1,
        "ollama_url": "off",
        "log_level": "error",
        "encryption_key": KEY,
        "database_url": url,
        "requests_per_minute": 0,  # each route is asked in many ways
    }
    with ExitStack() as stack:

        def opened(*, believed: str = "", **values: Any) -> tuple[str, Starlette]:
            app = create_app(
                load_settings(**common, models_file=nothing, servers_file=nothing, **values),
            )
            served = ProxyHeadersMiddleware(app, trusted_hosts=believed)  # type: ignore[arg-type]
            return stack.enter_context(running(served)), app

        yield opened


@pytest.fixture(scope="module")
def behind_tls(opened: Opened) -> str:
    """An application in demo mode behind a proxy that it believes."""
    return opened(believed="127.0.0.1", jwt_secret_key=SECRET)[0]


def morsels(answer: httpx.Response) -> dict[str, Morsel[str]]:
    """The cookies of an answer, by name."""
    found: dict[str, Morsel[str]] = {}
    for line in answer.headers.get_list("set-cookie"):
        found.update(SimpleCookie(line))
    return found


def who(url: str, cookie: str, **headers: str) -> Any:
    """Who is signed in with a cookie, or None."""
    answer = httpx.get(f"{url}/auth", headers={"cookie": cookie, **headers}, trust_env=False)
    user = answer.json()["user"]
    return user and user["id"]


def test_on_https_the_cookie_is_one_that_only_this_host_can_have_set(behind_tls: str) -> None:
    answer = httpx.post(f"{behind_tls}/auth/demo", json=ANN, headers=HTTPS, trust_env=False)
    [(name, morsel)] = morsels(answer).items()
    assert name == HOST_COOKIE == "__Host-mcp_chat_demo"
    assert (morsel["path"], morsel["domain"], morsel["samesite"]) == ("/", "", "strict")
    assert morsel["secure"] is True
    assert morsel["httponly"] is True
    assert who(behind_tls, f"{HOST_COOKIE}={morsel.value}", **HTTPS) == "ann"


def test_on_plain_http_the_cookie_is_one_that_every_browser_takes(behind_tls: str) -> None:
    answer = httpx.post(f"{behind_tls}/auth/demo", json=ANN, trust_env=False)
    [(name, morsel)] = morsels(answer).items()
    assert name == COOKIE == "mcp_chat_demo"
    assert (morsel["path"], morsel["domain"], morsel["samesite"]) == ("/", "", "strict")
    assert not morsel["secure"]
    assert morsel["httponly"] is True
    assert who(behind_tls, f"{COOKIE}={morsel.value}") == "ann"


def test_only_the_cookie_of_the_requests_scheme_is_looked_at(behind_tls: str) -> None:
    """What a plain connection, or a neighbour on it, has set must not sign anybody in on https."""
    claims = {"aud": AUDIENCE, "exp": int(time.time()) + 60}
    ann, bob = (jwt.encode({"sub": sub, **claims}, cookie_secret(SECRET), "HS256") for sub in ("ann", "bob"))
    assert who(behind_tls, f"{COOKIE}={ann}", **HTTPS) is None
    assert who(behind_tls, f"{HOST_COOKIE}={ann}") is None
    for both in (
        f"{COOKIE}={ann}; {HOST_COOKIE}={bob}",
        f"{HOST_COOKIE}={bob}; {COOKIE}={ann}",
    ):
        assert who(behind_tls, both, **HTTPS) == "bob"
        assert who(behind_tls, both) == "ann"


def test_a_scheme_that_nobody_believed_says_changes_nothing(opened: Opened) -> None:
    url, _ = opened(believed="10.0.0.1", jwt_secret_key=SECRET)
    answer = httpx.post(f"{url}/auth/demo", json=ANN, headers=HTTPS, trust_env=False)
    assert list(morsels(answer)) == [COOKIE]


@pytest.mark.parametrize("headers", [HTTPS, {}])
def test_signing_out_takes_both_cookies_back(behind_tls: str, headers: dict[str, str]) -> None:
    answer = httpx.post(f"{behind_tls}/auth/logout", json={}, headers=headers, trust_env=False)
    taken = morsels(answer)
    assert set(taken) == {COOKIE, HOST_COOKIE}
    for name, morsel in taken.items():
        assert (morsel.value, morsel["max-age"], morsel["path"]) == ("", "0", "/")
        assert morsel["domain"] == ""
        assert morsel["secure"] == (True if name == HOST_COOKIE else ""), "a browser ignores it otherwise"


@pytest.mark.parametrize(
    ("origin", "status"),
    [("https://{host}", 200), ("http://{host}", 403), ("ftp://{host}", 403), ("//{host}", 403)],
)
def test_on_https_a_page_of_plain_http_is_another_site(behind_tls: str, origin: str, status: int) -> None:
    """Anybody on the way can write such a page."""
    sent = {**HTTPS, "origin": origin.format(host=behind_tls.removeprefix("http://"))}
    assert (
        httpx.post(f"{behind_tls}/auth/demo", json=ANN, headers=sent, trust_env=False).status_code == status
    )


# Requests of other sites

FETCHED = ("same-origin", "same-site", "cross-site", "none", None)
ORIGINS = ("{here}", "https://evil.example", "null", None)
KINDS = ("application/json", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "")


def may(site: str | None, origin: str | None, *, proof: bool) -> bool:
    """Whether a page of ours sends such a request, or no browser at all where no proof is asked for."""
    ours = ("{here}",) if proof else ("{here}", None)
    return site in ("same-origin", "none") or (site is None and origin in ours)


def changes(app: Starlette) -> list[tuple[str, str]]:
    """Every route that changes something; a new one is among them by itself."""
    found = [(method, path) for method, path in routes(app) if method not in ("GET", "HEAD", "OPTIONS")]
    assert len(found) >= 22
    return found


def me(request: Request) -> Response:
    """What the gateway tells of its one user."""
    known = request.headers["authorization"] == f"Bearer {GATEWAY_TOKEN}"
    return JSONResponse({"email": "ann"} if known else {}, 200 if known else 401)


GATEWAY_TOKEN = jwt.encode({"sub": "uuid", "exp": 2**33, "token_use": "session"}, SECRET, "HS256")
PROXY = {"proxy_secret": SECRET, "proxy_peers": "127.0.0.0/8"}


@pytest.fixture(scope="module", params=["demo", "contextforge", "proxy", "custom"])
def vouched(request: pytest.FixtureRequest, opened: Opened) -> Iterator[tuple[httpx.Client, Starlette]]:
    """A client whose browser sends along what proves who it is, in each mode that is so."""
    claims = {"sub": "ann", "aud": AUDIENCE, "exp": int(time.time()) + 600}
    demo = jwt.encode(claims, cookie_secret(SECRET), "HS256")
    with running(Starlette(routes=[Route(contextforge.ME, me)])) as gateway, ExitStack() as stack:
        values, headers = {
            "demo": ({"jwt_secret_key": SECRET}, {"cookie": f"{COOKIE}={demo}"}),
            "contextforge": (
                {"auth": "contextforge", "jwt_secret_key": SECRET, "gateway_url": gateway},
                {"cookie": f"{contextforge.COOKIE}={GATEWAY_TOKEN}"},
            ),
            "proxy": ({"auth": "proxy", **PROXY}, {"x-forwarded-user": "ann", "x-proxy-secret": SECRET}),
            "custom": ({"auth": "tests.test_login:prove"}, {"x-name": "ann"}),
        }[request.param]
        url, app = opened(**values)
        yield (
            stack.enter_context(httpx.Client(base_url=url, headers=headers, trust_env=False, timeout=20)),
            app,
        )


def test_only_our_own_pages_change_anything(vouched: tuple[httpx.Client, Starlette]) -> None:
    """Each route that changes something, from each site and origin; what is let in may fail otherwise."""
    http, app = vouched
    here = str(http.base_url).rstrip("/")
    proof = contextforge.COOKIE in http.headers.get("cookie", "")
    for (method, path), site, origin in itertools.product(changes(app), FETCHED, ORIGINS):
        sent = {"content-type": "application/json", "sec-fetch-site": site, "origin": origin}
        headers = {name: value.format(here=here) for name, value in sent.items() if value is not None}
        answer = http.request(method, filled(path, "x"), content=b"{}", headers=headers)
        case = (method, path, site, origin)
        if path.startswith("/auth/") and answer.status_code == 404:
            continue  # not in this mode
        assert (answer.status_code == 403) == (not may(site, origin, proof=proof)), case
        assert answer.status_code != 401, case


def test_only_json_changes_anything(vouched: tuple[httpx.Client, Starlette]) -> None:
    """A form of another site needs no leave for its types; from our own pages they are refused as well."""
    http, app = vouched
    for (method, path), site, kind in itertools.product(changes(app), ("same-origin", "cross-site"), KINDS):
        headers = {"sec-fetch-site": site, **({"content-type": kind} if kind else {})}
        answer = http.request(method, filled(path, "x"), content=b"{}", headers=headers)
        if path.startswith("/auth/") and answer.status_code == 404:
            continue  # not in this mode
        is_json = method != "DELETE" and not path.endswith("/uploads")  # no body, and a file of any type
        if site == "cross-site":
            assert answer.status_code == 403, (method, path, kind)
        elif is_json and kind != "application/json":
            assert answer.status_code == 415, (method, path, kind)
