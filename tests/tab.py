"""The chat tab in a real browser, as a person uses it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, expect, sync_playwright

from tests.conftest import need
from tests.running import wait_until

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

PICTURES: Final = os.environ.get("SCREENSHOTS", "")
"""The folder for pictures of what tests show; without one none are made."""

SOON: Final = 30_000
"""Milliseconds that a page may take to show something: a busy machine is slow."""

SIZES: Final = {"wide": (1280, 800), "phone": (375, 740)}


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser without a head."""
    expect.set_options(timeout=SOON)
    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=need("chromium"), args=FLAGS)


def closed(window: Page, page: Page) -> None:
    """Wait until a window has closed itself; the browser is heard while one waits for a page."""

    def is_closed() -> bool:
        page.wait_for_timeout(10)
        return window.is_closed()

    wait_until(is_closed, "the window has closed itself")


class Tab:
    """A page, what it asked of the network, and what it complained of."""

    def __init__(self, context: BrowserContext, url: str) -> None:
        self.page: Page = context.new_page()
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("console", self._listen)
        self.url = url
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
        composer = self.page.get_by_test_id("composer")
        composer.fill(text)
        composer.press("Enter")

    def answers(self, text: str) -> None:
        """Wait until the last answer is complete and contains a text."""
        expect(self.page.get_by_test_id("message-assistant").last).to_contain_text(text)
        expect(self.page.get_by_test_id("stop")).to_have_count(0)

    def picture(self, name: str, page: Page | None = None) -> None:
        """Keep how it or another page looks on a desk and on a phone, light and dark, if that is wanted."""
        if not PICTURES:
            return
        page = page or self.page
        before = page.viewport_size
        for size, (width, height) in SIZES.items():
            page.set_viewport_size({"width": width, "height": height})
            for scheme in ("light", "dark"):
                page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
                page.screenshot(path=Path(PICTURES) / f"{name}-{size}-{scheme}.png", animations="disabled")
        page.emulate_media(color_scheme="null")
        if before:
            page.set_viewport_size(before)
