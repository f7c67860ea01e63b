"""Apps of MCP servers in a real browser: good ones work, and nothing gets out of hostile ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, BrowserContext, Dialog, FrameLocator, Page, Route, expect

from tests.app_server import app_server
from tests.installation import Installation
from tests.model_server import ModelServer, Reply
from tests.running import running, wait_until
from tests.tab import Tab, chromium

pytestmark = pytest.mark.slow

FORGIVEN = (
    "Content Security Policy",
    "evil.example",
    "sandboxed",
    "allow-modals",
    "Permissions policy",
    "ERR_BLOCKED_BY_CSP",
)
"""What a browser itself says of what it has stopped in an app."""


@pytest.fixture(scope="module")
def scripted() -> ModelServer:
    return ModelServer()


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory, scripted: ModelServer) -> Iterator[Installation]:
    with ExitStack() as stack:
        model_url = stack.enter_context(running(scripted.app))
        mcp_url = f"{stack.enter_context(running(app_server().streamable_http_app()))}/mcp"
        yield stack.enter_context(
            Installation(
                tmp_path_factory.mktemp("apps"),
                f"{model_url}/v1",
                servers={"toys": {"url": mcp_url, "apps": True}, "plain": {"url": mcp_url}},
                MCP_CHAT_DEMO_SERVER="false",
            )
        )


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


class Watched(Tab):
    """A tab that tells what was asked of hosts that are neither the chat's nor the apps'."""

    def __init__(self, context: BrowserContext, url: str) -> None:
        self.home = url
        self.apps = f"http://apps.localhost:{urlsplit(url).port}"
        self.foreign: list[str] = []
        context.route(lambda asked: not asked.startswith((url, self.apps, "data:")), self._stop)
        super().__init__(context, url)

    def _stop(self, route: Route) -> None:
        self.foreign.append(route.request.url)
        route.abort()

    def show(self, scripted: ModelServer, *calls: tuple[str, dict[str, int]]) -> FrameLocator:
        """Have the model call tools; return the last one's app."""
        scripted.will(Reply(calls=list(calls)), Reply(text="Here it is."))
        self.send("show it")
        self.answers("Here it is.")
        return self.app()

    def app(self) -> FrameLocator:
        """The last app."""
        return self.page.get_by_test_id("app-frame").last.content_frame.frame_locator("iframe")


@pytest.fixture
def come(browser: Browser, installation: Installation, name: str) -> Iterator[Callable[[str], Watched]]:
    with ExitStack() as stack:

        def come(server: str) -> Watched:
            context = browser.new_context()
            stack.callback(context.close)
            tab = Watched(context, installation.url)
            tab.sign_in(name)
            tab.page.get_by_test_id("server-select").select_option(server)
            tab.connect("openai:scripted")
            return tab

        yield come


def test_an_app_is_shown_calls_a_tool_and_has_the_result(
    come: Callable[[str], Watched], scripted: ModelServer
) -> None:
    tab = come("toys")
    app = tab.show(scripted, ("toys__count", {"start": 5}))
    expect(app.locator("#host")).to_have_text("mcp-chat")
    expect(app.locator("#input")).to_have_text('{"start":5}')
    expect(app.locator("#result")).to_have_text("apps: True, total: 5")
    frame = tab.page.get_by_test_id("app-frame")
    expect(frame).to_have_css("height", "333px")
    expect(frame).to_have_attribute("sandbox", "allow-scripts allow-same-origin allow-forms")
    app.locator("#more").click()
    expect(app.locator("#more-done")).to_contain_text('"text":"7"')
    app.locator("#forbidden").click()
    expect(app.locator("#forbidden-failed")).to_contain_text("may not call")
    app.locator("#read").click()
    expect(app.locator("#read-done")).to_contain_text("a note")
    app.locator("#submit").click()
    expect(app.locator("#submitted")).to_have_text("yes")
    tab.page.get_by_test_id("app-toggle").click()
    expect(tab.page.get_by_test_id("app-frame")).to_have_count(0)
    assert tab.foreign == []


def test_an_app_speaks_the_language_that_was_chosen(
    come: Callable[[str], Watched], scripted: ModelServer
) -> None:
    tab = come("toys")
    tab.page.get_by_test_id("language").select_option("de")
    app = tab.show(scripted, ("toys__count", {"start": 5}))
    expect(app.locator("#locale")).to_have_text("de")
    tab.page.get_by_test_id("language").select_option("ar")
    expect(app.locator("#changed")).to_have_text('{"locale":"ar"}')


def test_only_the_user_opens_links_and_sends_messages_of_an_app(
    come: Callable[[str], Watched], scripted: ModelServer
) -> None:
    tab = come("toys")
    page = tab.page
    app = tab.show(scripted, ("toys__count", {"start": 1}))
    app.locator("#bad-link").click()
    expect(app.locator("#bad-link-failed")).to_be_visible()
    app.locator("#link").click()
    expect(page.get_by_test_id("url")).to_have_text("https://docs.example.org/a?b=c")
    expect(page.get_by_test_id("url").locator("b")).to_have_text("docs.example.org")
    page.get_by_test_id("address-refuse").click()
    expect(app.locator("#link-failed")).to_contain_text("did not open")
    assert (tab.foreign, len(page.context.pages)) == ([], 1)
    app.locator("#link").click()
    with page.context.expect_page() as opened:
        page.get_by_test_id("address-open").click()
    expect(app.locator("#link-done")).to_have_text("{}")
    assert opened.value.evaluate("window.opener") is None
    asked = len(scripted.requests)
    app.locator("#write").click()
    expect(page.get_by_test_id("composer")).to_have_value("from the app")
    expect(page.get_by_test_id("message-user")).to_have_count(1)
    assert len(scripted.requests) == asked


def test_an_app_of_an_earlier_conversation_is_shown_on_demand(
    come: Callable[[str], Watched], scripted: ModelServer
) -> None:
    tab = come("toys")
    tab.show(scripted, ("toys__count", {"start": 4}))
    tab.page.reload()
    expect(tab.page.get_by_test_id("app-toggle")).to_be_visible()
    expect(tab.page.get_by_test_id("app-frame")).to_have_count(0)
    tab.page.get_by_test_id("app-toggle").click()
    expect(tab.app().locator("#result")).to_have_text("apps: True, total: 4")


def test_a_server_that_is_not_allowed_has_no_app(
    come: Callable[[str], Watched], scripted: ModelServer
) -> None:
    tab = come("plain")
    scripted.will(Reply(calls=[("plain__count", {"start": 5})]), Reply(text="Here it is."))
    tab.send("show it")
    tab.answers("Here it is.")
    expect(tab.page.get_by_test_id("tool-card")).to_contain_text("apps: False")
    expect(tab.page.locator("iframe")).to_have_count(0)
    assert tab.complaints == []


@pytest.mark.parametrize("way", ["leave", "send"])
def test_nothing_gets_out_of_a_hostile_app(
    come: Callable[[str], Watched], scripted: ModelServer, way: str
) -> None:
    tab = come("toys")
    page = tab.page
    dialogs: list[str] = []

    def hear(dialog: Dialog) -> None:
        dialogs.append(dialog.message)
        dialog.dismiss()

    page.on("dialog", hear)
    page.on("download", lambda download: dialogs.append(download.url))
    calls = [each for each in tab.requests if "apps/calls" in each]
    app = tab.show(scripted, ("toys__attack", {}))
    expect(app.locator("#over")).to_be_visible(timeout=30_000)
    told = app.locator("p").evaluate_all(
        "all => Object.fromEntries(all.map(each => [each.id, each.textContent]))"
    )
    assert [f"{name}: {said}" for name, said in told.items() if said.startswith("GOT")] == []
    assert len(told) == 23
    app.locator(f"#{way}").click()
    expect(app.locator("#over")).to_have_count(0)
    wait_until(lambda: page.evaluate("document.readyState") == "complete", "the chat lives")
    assert (tab.foreign, dialogs, len(page.context.pages)) == ([], [], 1)
    assert page.url == f"{tab.home}/"
    assert [each for each in tab.requests if "apps/calls" in each] == calls
    expect(page.get_by_test_id("composer")).to_have_value("")
    expect(page.get_by_test_id("connected-badge")).to_be_visible()
    height = page.get_by_test_id("app-frame").bounding_box()
    assert height
    assert height["height"] <= 640
    assert [text for text in tab.complaints if not any(each in text for each in FORGIVEN)] == []
    scripted.will(Reply(text="still here"))
    tab.send("are you there?")
    tab.answers("still here")


@pytest.mark.parametrize("way", ["up", "top"])
def test_an_app_that_floods_is_stopped_and_the_chat_lives(
    come: Callable[[str], Watched], scripted: ModelServer, way: str
) -> None:
    tab = come("toys")
    tab.show(scripted, (f"toys__flood_{way}", {}))
    expect(tab.page.get_by_test_id("app-stopped")).to_be_visible()
    expect(tab.page.get_by_test_id("app-frame")).to_have_count(0)
    scripted.will(Reply(text="still here"))
    tab.send("are you there?")
    tab.answers("still here")
    assert tab.foreign == []


def test_a_page_that_is_not_the_chat_shows_no_app(browser: Browser, installation: Installation) -> None:
    """Neither another origin nor a message from another window makes the sandbox show anything."""
    apps = f"http://apps.localhost:{urlsplit(installation.url).port}"
    context = browser.new_context()
    page: Page = context.new_page()
    stranger = "http://stranger.localhost:1/"
    html = f"<iframe src='{apps}/sandbox'></iframe>"
    page.route(stranger, lambda route: route.fulfill(body=html, content_type="text/html"))
    page.goto(stranger)
    expect(page.frame_locator("iframe").locator("meta[name=chat]")).to_have_count(0)
    direct = context.new_page()
    direct.goto(f"{apps}/sandbox")
    method = "ui/notifications/sandbox-resource-ready"
    direct.evaluate(f"postMessage({{jsonrpc: '2.0', method: '{method}', params: {{html: 'x'}}}}, '*')")
    direct.evaluate("new Promise((resume) => setTimeout(resume, 200))")
    assert direct.locator("iframe").count() == 0
    assert context.cookies(apps) == []
    context.close()
