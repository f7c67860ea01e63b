"""Signing in to an MCP server in a real browser, which comes back from another site."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import jwt
import pytest
from playwright.sync_api import Browser, Page, expect

from mcp_chat.app import create_app
from mcp_chat.settings import Settings
from tests.authorization_server import ProtectedMCP, guarded_server
from tests.person import Person
from tests.running import running, wait_until
from tests.tab import Tab, chromium, closed

pytestmark = pytest.mark.slow

SECRET = "a secret of more than 32 bytes, for tests"
KEY = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A browser."""
    with chromium() as browser:
        yield browser


@pytest.fixture
def far() -> Iterator[ProtectedMCP]:
    """A server whose users sign in on another site than the chat's."""
    with guarded_server() as (by, far):
        by.origin = by.origin.replace("127.0.0.1", "localhost")
        yield far


@pytest.fixture
def chat(settings: Callable[..., Settings]) -> Iterator[Callable[..., str]]:
    """Run the chat where it believes to be."""

    with ExitStack() as stack:

        def run(**values: object) -> str:
            with socket.create_server(("127.0.0.1", 0)) as free:
                port = free.getsockname()[1]
            networks = "127.0.0.0/8,::1/128"
            made = settings(public_url=f"http://127.0.0.1:{port}", allowed_networks=networks, **values)
            return stack.enter_context(running(create_app(made), port=port))

        yield run


def sent_to_sign_in(person: Person, far: ProtectedMCP, page: Page) -> Page:
    """Connect, and open the page to sign in at as the chat's own page does; return the window."""
    person.connect(servers=[{"url": far.url, "alias": "far"}])
    url = person.http.post("/llmchat/servers/far/sign-in", json={}).json()["url"]
    with page.context.expect_page() as opened:
        page.evaluate("url => void window.open(url)", url)
    return opened.value


def is_open(person: Person) -> bool:
    """Whether the server is."""
    [found] = person.get("servers").json()["connected"]
    return bool(found["state"] == "open")


def test_the_page_ends_the_sign_in_with_a_cookie_that_did_not_come_along(
    browser: Browser, chat: Callable[..., str], far: ProtectedMCP, name: str
) -> None:
    url = chat()
    tab = Tab(browser.new_context(), url)
    tab.sign_in(name)
    expect(tab.page.get_by_test_id("connect")).to_be_visible()
    with Person(url, name) as person:
        window = sent_to_sign_in(person, far, tab.page)
        wait_until(lambda: is_open(person), "the server is open")
        closed(window, tab.page)
    assert tab.complaints == []
    tab.page.context.close()


def test_a_tab_of_the_chat_ends_it_where_the_login_is_a_header(
    browser: Browser, chat: Callable[..., str], far: ProtectedMCP, name: str
) -> None:
    url = chat(auth="jwt", jwt_secret_key=SECRET, encryption_key=KEY)
    token = jwt.encode({"sub": name, "exp": int(time.time()) + 900}, SECRET, "HS256")
    tabs = [Tab(browser.new_context(), url)]
    tabs[0].page.get_by_test_id("token-input").fill(token)
    tabs[0].page.get_by_test_id("sign-in").click()
    expect(tabs[0].page.get_by_test_id("connect")).to_be_visible()
    tabs.append(Tab(tabs[0].page.context, url))
    expect(tabs[1].page.get_by_test_id("token-input")).to_be_visible()
    with Person(url, name, token=token) as person:
        window = sent_to_sign_in(person, far, tabs[0].page)
        wait_until(lambda: is_open(person), "the server is open")
        closed(window, tabs[0].page)
    assert len(far.by.requests("/token")) == 1
    assert len([url for tab in tabs for url in tab.requests if url.endswith("/oauth/callback")]) == 1
    assert [tab.complaints for tab in tabs] == [[], []]
    tabs[0].page.context.close()
