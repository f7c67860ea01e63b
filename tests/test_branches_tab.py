"""Branches and a conversation's settings in the chat tab, in a real browser."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Locator, expect

from tests.installation import Installation
from tests.model_server import ModelServer, Reply
from tests.running import running
from tests.tab import Tab, chromium

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def scripted() -> ModelServer:
    return ModelServer()


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory, scripted: ModelServer) -> Iterator[Installation]:
    with (
        running(scripted.app) as model_url,
        Installation(
            tmp_path_factory.mktemp("branches"), f"{model_url}/v1", MCP_CHAT_MODEL_RETRIES="0"
        ) as installation,
    ):
        yield installation


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def tab(browser: Browser, installation: Installation, scripted: ModelServer, name: str) -> Iterator[Tab]:
    """Somebody who has asked two things."""
    context = browser.new_context()
    tab = Tab(context, installation.url)
    tab.sign_in(name)
    tab.connect("openai:scripted")
    scripted.requests.clear()
    scripted.will(Reply(text="In Rome it is sunny."), Reply(text="Take the train at nine."))
    tab.send("How is the weather in Rome?")
    tab.answers("sunny")
    tab.send("How do I get there?")
    tab.answers("at nine")
    yield tab
    assert tab.complaints == []
    context.close()


def questions(tab: Tab) -> Locator:
    return tab.page.get_by_test_id("message-user")


def edit(tab: Tab, number: int, text: str) -> None:
    questions(tab).nth(number).get_by_test_id("edit").click()
    tab.page.get_by_test_id("editor").fill(text)
    tab.page.get_by_test_id("edit-send").click()


def test_a_message_is_edited_and_its_branches_are_looked_through(tab: Tab, scripted: ModelServer) -> None:
    scripted.will(Reply(text="There is a flight at ten."))
    edit(tab, 1, "How do I fly there?")
    expect(tab.page.get_by_test_id("composer")).to_be_focused()
    tab.answers("flight at ten")
    expect(questions(tab)).to_have_count(2)
    switcher = questions(tab).nth(1).get_by_test_id("switcher")
    expect(switcher).to_contain_text("2/2")
    tab.picture("branches")
    switcher.get_by_test_id("branch-before").click()
    tab.answers("at nine")
    expect(questions(tab).nth(1)).to_contain_text("How do I get there?")
    expect(switcher).to_contain_text("1/2")
    expect(switcher.get_by_test_id("branch-before")).to_be_disabled()
    expect(switcher.get_by_test_id("branch-after")).to_be_focused()  # the keyboard stays where it was
    switcher.get_by_test_id("branch-after").click()
    tab.answers("flight at ten")
    tab.page.reload()
    tab.answers("flight at ten")
    expect(questions(tab).nth(1).get_by_test_id("switcher")).to_contain_text("2/2")


def test_an_answer_is_asked_for_again(tab: Tab, scripted: ModelServer) -> None:
    scripted.will(Reply(text="Take the bus at eight."))
    tab.page.get_by_test_id("retry").last.click()
    tab.answers("bus at eight")
    expect(tab.page.get_by_test_id("message-assistant")).to_have_count(2)
    switcher = questions(tab).nth(1).get_by_test_id("switcher")
    expect(switcher).to_contain_text("2/2")
    switcher.get_by_test_id("branch-before").click()
    tab.answers("at nine")


def test_an_edit_is_given_up_with_escape(tab: Tab) -> None:
    questions(tab).first.get_by_test_id("edit").click()
    editor = tab.page.get_by_test_id("editor")
    expect(editor).to_have_value("How is the weather in Rome?")
    editor.fill("Never mind")
    tab.picture("branches-editor")
    tab.page.keyboard.press("Escape")
    expect(questions(tab).first).to_contain_text("How is the weather in Rome?")
    expect(questions(tab).first.get_by_test_id("edit")).to_be_focused()
    expect(questions(tab)).to_have_count(2)


def test_a_failed_answer_is_tried_again_in_its_place(tab: Tab, scripted: ModelServer) -> None:
    scripted.will(Reply(status=500), Reply(text="Now it works."))
    tab.send("And back?")
    failure = tab.page.get_by_test_id("error")
    expect(failure).to_be_visible()
    expect(questions(tab).nth(2).get_by_test_id("edit")).to_be_visible()  # it is known how it is recorded
    failure.get_by_role("button", name="Try again").click()
    tab.answers("Now it works.")
    expect(questions(tab)).to_have_count(3)


def test_a_question_stays_as_it_is_when_it_can_be_edited(tab: Tab, scripted: ModelServer) -> None:
    hold = threading.Event()
    scripted.will(Reply(text="one two three", hold=hold))
    tab.send("And then?")
    asked = questions(tab).last
    expect(tab.page.get_by_test_id("message-assistant").last).to_contain_text("one two")
    before = asked.bounding_box()
    hold.set()
    expect(asked.get_by_test_id("edit")).to_be_visible()
    after = asked.bounding_box()
    assert before
    assert after
    assert (before["height"], before["width"]) == (after["height"], after["width"])


def test_settings_that_are_not_saved_say_so_in_their_dialog(tab: Tab) -> None:
    page = tab.page
    page.get_by_test_id("manner").click()
    page.get_by_test_id("manner-temperature").fill("0.3")
    page.route("**/llmchat/sessions/**", lambda route: route.abort())
    page.get_by_test_id("manner-save").click()
    expect(page.get_by_role("dialog").get_by_role("alert")).to_contain_text("cannot be reached")
    page.unroute_all()
    tab.complaints.clear()  # the browser itself reports the lost connection
    page.get_by_test_id("manner-save").click()
    expect(page.get_by_role("dialog")).to_have_count(0)


def test_a_conversation_is_told_how_it_is_to_be_answered(tab: Tab, scripted: ModelServer) -> None:
    page = tab.page
    page.get_by_test_id("manner").click()
    page.get_by_test_id("manner-prompt").fill("Answer in one sentence.")
    page.get_by_test_id("manner-temperature").fill("0.3")
    tab.picture("branches-settings")
    page.get_by_test_id("manner-save").click()
    expect(page.get_by_role("dialog")).to_have_count(0)
    scripted.will(Reply(text="Yes."))
    tab.send("Is it far?")
    tab.answers("Yes.")
    sent = scripted.requests[-1]
    assert sent["messages"][0] == {"role": "system", "content": "Answer in one sentence."}
    assert sent["temperature"] == 0.3
    page.get_by_test_id("manner").click()
    expect(page.get_by_test_id("manner-prompt")).to_have_value("Answer in one sentence.")
    expect(page.get_by_test_id("manner-temperature")).to_have_value("0.3")
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
