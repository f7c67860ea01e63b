"""The page in the reader's language, in a real browser."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, expect

from tests.installation import Installation
from tests.model_server import ModelServer, Reply
from tests.running import running
from tests.tab import Tab, chromium

pytestmark = pytest.mark.slow


PLACES = """(sign) => {
  const text = document.querySelector(".message .figures").firstChild;
  const first = text.data.indexOf(sign);
  return [...sign].map((_, place) => {
    const range = document.createRange();
    range.setStart(text, first + place);
    range.setEnd(text, first + place + 1);
    return range.getBoundingClientRect().left;
  });
}"""
"""Where the letters of an amount's sign stand."""


@pytest.fixture(scope="module")
def scripted() -> ModelServer:
    return ModelServer()


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory, scripted: ModelServer) -> Iterator[Installation]:
    with (
        running(scripted.app) as model_url,
        Installation(tmp_path_factory.mktemp("languages"), f"{model_url}/v1", workers=1) as installation,
    ):
        yield installation


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


def fetched(tab: Tab) -> list[str]:
    """The languages whose words were fetched."""
    found = [re.search(r"/languages/(\w+)\.js", url) for url in tab.requests]
    return [each[1] for each in found if each]


@pytest.mark.parametrize(
    ("locale", "language", "direction", "button"),
    [
        ("de-CH", "de", "ltr", "Anmelden"),
        ("ar-EG", "ar", "rtl", "تسجيل الدخول"),
        ("en-GB", "en", "ltr", "Sign in"),
        ("fi-FI", "en", "ltr", "Sign in"),
    ],
)
def test_the_page_speaks_what_the_browser_asks_for_and_fetches_nothing_else(
    browser: Browser, chat: Installation, locale: str, language: str, direction: str, button: str
) -> None:
    with browser.new_context(locale=locale) as context:
        tab = Tab(context, chat.url)
        expect(tab.page.get_by_test_id("sign-in")).to_have_text(button)
        root = tab.page.locator("html")
        expect(root).to_have_attribute("lang", language)
        expect(root).to_have_attribute("dir", direction)
        assert fetched(tab) == [language]
        assert tab.complaints == []


def test_a_language_is_chosen_at_once_in_every_tab_and_remembered(
    browser: Browser, chat: Installation, scripted: ModelServer, name: str
) -> None:
    counts = {"prompt_tokens": 9000, "completion_tokens": 1000, "total_tokens": 10_000}
    scripted.will(Reply(text="Hello.", usage=counts))
    with browser.new_context(locale="en-US") as context:
        tab = Tab(context, chat.url)
        tab.sign_in(name)
        tab.connect("openai:scripted")
        second = Tab(context, chat.url)
        expect(second.page.get_by_test_id("connected-badge")).to_be_visible()
        tab.send("hi")
        tab.answers("Hello.")
        tab.page.get_by_test_id("composer").fill("not sent yet")
        tab.page.get_by_test_id("language").select_option("de")
        answer = tab.page.get_by_test_id("message-assistant")
        expect(answer).to_contain_text(re.compile("10\\.000 Token · 0,03\\s\\$"))
        expect(tab.page.get_by_test_id("tool-count")).to_have_text("14 Werkzeuge")
        expect(tab.page.get_by_test_id("composer")).to_have_value("not sent yet")
        expect(second.page.locator("html")).to_have_attribute("lang", "de")
        tab.page.get_by_test_id("language").select_option("ar")
        expect(tab.page.locator("html")).to_have_attribute("dir", "rtl")
        expect(tab.page.get_by_test_id("tool-count")).to_contain_text("أداة")
        expect(tab.page.locator(".message .figures").first).to_contain_text("US$")
        places = tab.page.evaluate(PLACES, "US$")
        assert places == sorted(places)
        tab.picture("right-to-left")
        tab.page.reload()
        expect(tab.page.get_by_test_id("message-user")).to_have_text("hi")
        expect(tab.page.locator("html")).to_have_attribute("lang", "ar")
        assert tab.complaints == []
