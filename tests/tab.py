"""The chat tab in a real browser, as a person uses it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, expect, sync_playwright

from tests.conftest import need

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser without a head."""
    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=need("chromium"), args=FLAGS)


class Tab:
    """A page, what it asked of the network, and what it complained of."""

    def __init__(self, context: BrowserContext, url: str) -> None:
        self.page: Page = context.new_page()
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("console", self._listen)
        self.page.goto(url)

    def _listen(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.complaints.append(message.text)

    def sign_in(self, name: str) -> None:
        self.page.get_by_test_id("user-input").fill(name)
        self.page.get_by_test_id("sign-in").click()

    def connect(self, model: str) -> None:
        self.page.get_by_test_id("model-select").select_option(model)
        self.page.get_by_test_id("connect").click()
        expect(self.page.get_by_test_id("connected-badge")).to_be_visible()

    def send(self, text: str) -> None:
        self.page.get_by_test_id("composer").fill(text)
        self.page.keyboard.press("Enter")

    def answers(self, text: str) -> None:
        """Wait until the last answer is complete and contains a text."""
        expect(self.page.get_by_test_id("message-assistant").last).to_contain_text(text, timeout=20_000)
        expect(self.page.get_by_test_id("stop")).to_have_count(0)
