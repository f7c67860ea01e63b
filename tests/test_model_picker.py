"""Which model answers, and under which limits: chosen in the chat tab while one is connected."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from tests.installation import Installation
from tests.model_server import ModelServer, Reply
from tests.running import running
from tests.tab import Tab, chromium
from tests.test_composer import CAT, attach

pytestmark = pytest.mark.slow

MODELS: Final = """models:
  - model: openai:scripted
    name: House model
    base_url: {first}
    fallbacks: ["openai:large"]
    capabilities: {{tools: true, vision: false}}
    context_window: 128000
    prices: {{input: 0.25, output: 2}}
  - model: openai:large
    name: Large <b>model</b>
    base_url: {second}
    capabilities: {{tools: true, vision: true, reasoning: true}}
    prices: {{input: 2, output: 10}}
  - model: openai:plain
    base_url: {second}
    capabilities: {{tools: false}}
"""


@pytest.fixture(scope="module")
def first() -> ModelServer:
    return ModelServer()


@pytest.fixture(scope="module")
def second() -> ModelServer:
    return ModelServer()


@pytest.fixture(scope="module")
def installation(
    tmp_path_factory: pytest.TempPathFactory, first: ModelServer, second: ModelServer
) -> Iterator[Installation]:
    with ExitStack() as stack:
        urls = [stack.enter_context(running(each.app)) for each in (first, second)]
        folder: Path = tmp_path_factory.mktemp("models")
        made = Installation(
            folder, f"{urls[0]}/v1", workers=1, MCP_CHAT_DAY_TOKENS="10000", MCP_CHAT_TURN_CALLS="9"
        )
        (folder / "models.yaml").write_text(MODELS.format(first=f"{urls[0]}/v1", second=f"{urls[1]}/v1"))
        yield stack.enter_context(made)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def tab(
    browser: Browser, installation: Installation, name: str, first: ModelServer, second: ModelServer
) -> Iterator[Tab]:
    first.will()
    second.will()
    with browser.new_context() as context:
        tab = Tab(context, installation.url)
        tab.sign_in(name)
        tab.connect("openai:scripted")
        yield tab
        assert tab.complaints == []


def choice(page: Page, model: str) -> Locator:
    return page.locator(f"[data-testid=model-choice][data-model='{model}']")


def button(page: Page) -> Locator:
    return page.get_by_test_id("model-button")


def test_the_models_say_what_they_can_do_and_another_one_answers_from_then_on(
    tab: Tab, first: ModelServer, second: ModelServer
) -> None:
    page = tab.page
    first.will(Reply(text="from the house"))
    tab.send("hello")
    tab.answers("from the house")
    expect(button(page)).to_have_text("House model")
    button(page).click()
    expect(choice(page, "openai:scripted").locator("input")).to_be_checked()
    house = choice(page, "openai:scripted").get_by_test_id("abilities")
    assert house.inner_text().split("\n") == [
        "Tools",
        "128k tokens of context",
        "$0.25 in, $2.00 out per million tokens",
    ]
    large = choice(page, "openai:large")
    expect(large).to_contain_text("Large <b>model</b>")
    for ability in ("Tools", "Pictures", "Reasoning"):
        expect(large.get_by_text(ability, exact=True)).to_be_visible()
    plain = choice(page, "openai:plain").get_by_test_id("abilities")
    assert plain.inner_text().split("\n") == ["No tools"]
    tab.picture("models")
    expect(choice(page, "openai:scripted").locator("input")).to_be_focused()
    page.keyboard.press("ArrowDown")
    expect(large.locator("input")).to_be_checked()
    page.keyboard.press("Enter")
    expect(button(page)).to_have_text("Large <b>model</b>")
    second.will(Reply(text="from the large one"))
    tab.send("again")
    tab.answers("from the large one")
    page.reload()
    expect(button(page)).to_have_text("Large <b>model</b>")
    button(page).click()
    expect(choice(page, "openai:scripted")).to_contain_text("of your connection")
    choice(page, "openai:scripted").locator("input").check()
    page.get_by_test_id("model-here").click()
    expect(button(page)).to_have_text("House model")
    first.will(Reply(text="from the house again"))
    tab.send("and now")
    tab.answers("from the house again")


def test_that_another_model_answered_is_still_said_after_a_reload(
    tab: Tab, first: ModelServer, second: ModelServer
) -> None:
    first.will(Reply(status=401))
    second.will(Reply(text="I stand in."))
    tab.send("hello")
    tab.answers("I stand in.")
    notice = tab.page.get_by_test_id("notice")
    expect(notice).to_contain_text("openai:large answers instead")
    tab.page.reload()
    expect(notice).to_have_text("openai:scripted did not answer, so openai:large answered instead.")


def test_a_new_connection_has_the_model_and_the_same_servers(tab: Tab, second: ModelServer) -> None:
    page = tab.page
    tab.send("hello")
    tab.answers("hello")
    count = page.get_by_test_id("tool-count").inner_text()
    button(page).click()
    choice(page, "openai:large").locator("input").check()
    page.get_by_test_id("model-anew").click()
    expect(page.get_by_role("dialog")).to_have_count(0)
    expect(page.get_by_test_id("message-user")).to_have_count(0)
    expect(button(page)).to_have_text("Large <b>model</b>")
    expect(page.get_by_test_id("tool-count")).to_have_text(count)
    second.will(Reply(text="from the large one"))
    tab.send("hello")
    tab.answers("from the large one")
    page.reload()
    expect(button(page)).to_have_text("Large <b>model</b>")


def test_a_picture_for_a_model_that_sees_none_is_warned_of(tab: Tab) -> None:
    page = tab.page
    attach(tab, CAT)
    expect(page.get_by_test_id("unseen")).to_contain_text("House model does not see pictures.")
    tab.picture("unseen")
    button(page).click()
    choice(page, "openai:large").locator("input").check()
    page.get_by_test_id("model-here").click()
    expect(page.get_by_test_id("unseen")).to_have_count(0)
    expect(page.get_by_test_id("attachment")).to_be_visible()


def test_a_choice_that_is_refused_is_a_sentence_in_the_dialog(tab: Tab) -> None:
    page = tab.page
    refused = {"detail": "This model is <i>not</i> offered any more.", "code": "invalid_request"}
    page.route(
        "**/llmchat/sessions/*",
        lambda route: (
            route.fulfill(status=400, json=refused) if route.request.method == "PATCH" else route.continue_()
        ),
    )
    button(page).click()
    choice(page, "openai:large").locator("input").check()
    page.get_by_test_id("model-here").click()
    expect(page.get_by_test_id("model-fault")).to_have_text(refused["detail"])
    page.keyboard.press("Escape")
    expect(button(page)).to_have_text("House model")
    expect(button(page)).to_be_focused()
    tab.complaints.clear()  # the browser itself reports the 400


def test_without_a_database_the_model_belongs_to_the_connection(tab: Tab, second: ModelServer) -> None:
    page = tab.page
    refused = {"detail": "This needs a database.", "code": "no_archive"}
    page.route("**/llmchat/sessions/*", lambda route: route.fulfill(status=501, json=refused))
    page.reload()
    button(page).click()
    expect(page.get_by_test_id("model-no-database")).to_contain_text("begins a new connection")
    expect(page.get_by_test_id("model-here")).to_have_count(0)
    choice(page, "openai:large").locator("input").check()
    page.get_by_test_id("model-anew").click()
    expect(page.get_by_role("dialog")).to_have_count(0)
    expect(button(page)).to_have_text("Large <b>model</b>")
    second.will(Reply(text="from the large one"))
    tab.send("hello")
    tab.answers("from the large one")
    page.get_by_test_id("manner").click()
    expect(page.get_by_test_id("manner-unkept")).to_be_visible()
    expect(page.get_by_test_id("usage")).to_be_visible()
    tab.complaints.clear()  # the browser itself reports each 501


def test_the_settings_have_the_model_and_say_what_is_left(tab: Tab, second: ModelServer) -> None:
    page = tab.page
    tab.send("hello")
    tab.answers("hello")
    page.get_by_test_id("manner").click()
    usage = page.get_by_test_id("usage")
    expect(usage).to_contain_text("tokens")
    left = page.locator("[data-limit=day_tokens]")
    expect(left).to_contain_text("of 10,000 tokens left today")
    assert float(left.get_by_role("meter").get_attribute("value") or 0) < 10_000
    expect(usage).to_contain_text("9 tool calls for one answer at most")
    tab.picture("settings")
    page.get_by_test_id("manner-model").select_option("openai:large")
    page.get_by_test_id("manner-prompt").fill("Be brief.")
    page.get_by_test_id("manner-save").click()
    expect(button(page)).to_have_text("Large <b>model</b>")
    second.will(Reply(text="briefly"))
    tab.send("again")
    tab.answers("briefly")
    assert second.requests[-1]["messages"][0]["content"] == "Be brief."
