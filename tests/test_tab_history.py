"""Conversations of the chat tab: which one is shown, its address, its draft, and a very long one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, FilePayload, expect

from tests.installation import Installation
from tests.model_server import ModelServer
from tests.running import running
from tests.tab import SOON, Tab, chromium

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def scripted() -> ModelServer:
    return ModelServer()


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory, scripted: ModelServer) -> Iterator[Installation]:
    with (
        running(scripted.app) as model_url,
        Installation(tmp_path_factory.mktemp("tab"), f"{model_url}/v1") as installation,
    ):
        yield installation


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def tab(browser: Browser, installation: Installation, name: str) -> Iterator[Tab]:
    """A tab whose user is signed in and connected."""
    context = browser.new_context()
    tab = Tab(context, installation.url)
    tab.sign_in(name)
    tab.connect("openai:scripted")
    yield tab
    assert tab.complaints == []
    context.close()


def said(role: str, content: str, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


def brought(tab: Tab, *messages: dict[str, Any]) -> str:
    """Import a conversation for whoever is signed in, and return its id."""
    body = {"schema": "mcp-chat/session/1", "name": "Brought", "messages": messages}
    answer = tab.page.request.post(f"{tab.url}/llmchat/sessions/import", data=body)
    assert answer.status == 201, answer.text()
    session_id: str = answer.json()["session_id"]
    return session_id


def test_a_conversation_has_an_address_and_a_draft_of_its_own(tab: Tab) -> None:
    page = tab.page
    composer = page.get_by_test_id("composer")
    old = brought(tab, said("user", "Which ferry goes to Oslo?"), said("assistant", "The one from Kiel."))
    composer.fill("of the default one")
    page.goto(f"{tab.url}/#/c/{old}")
    expect(page.get_by_test_id("message-assistant")).to_contain_text("Kiel")
    expect(composer).to_have_value("")
    composer.fill("of the old one")
    page.go_back()
    expect(page.get_by_test_id("message-user")).to_have_count(0)
    expect(composer).to_have_value("of the default one")
    page.go_forward()
    expect(composer).to_have_value("of the old one")
    page.reload()
    expect(page.get_by_test_id("message-assistant")).to_contain_text("Kiel")
    expect(composer).to_have_value("of the old one")
    tab.send("And back?")
    tab.answers("3 messages, the last from user: And back?")
    assert re.search(rf"/#/c/{old}$", page.url)


def test_an_address_of_no_conversation_leads_to_the_default_one(tab: Tab) -> None:
    page = tab.page
    tab.send("hello")
    tab.answers("hello")
    page.goto(f"{tab.url}/#/c/0123456789abcdef0123456789abcdef")
    expect(page.get_by_test_id("error")).to_contain_text("does not exist")
    expect(page.get_by_test_id("message-user")).to_have_text("hello")
    assert "#" not in page.url
    tab.complaints.clear()  # the browser itself reports the 404


def test_ten_thousand_messages_are_read_as_one_scrolls(tab: Tab) -> None:
    page = tab.page
    pairs = [
        (
            said("user", f"Question {n}?"),
            said("assistant", f"Answer {n}.\n\n" + "Some **words**. " * (n % 40)),
        )
        for n in range(5000)
    ]
    long = brought(tab, *(each for pair in pairs for each in pair))
    questions = page.get_by_test_id("message-user")
    page.goto(f"{tab.url}/#/c/{long}")
    expect(questions.last).to_have_text("Question 4999?")
    expect(questions.last).to_be_in_viewport()
    assert questions.count() < 50  # the newest ones alone
    tab.picture("long")
    thread = page.get_by_role("main")
    before = questions.first.text_content()
    thread.evaluate("element => (element.scrollTop = 0)")
    expect(questions.get_by_text(before or "", exact=True)).to_be_in_viewport()  # nothing moves
    for _ in range(5):
        first = questions.first.text_content()
        thread.evaluate("element => (element.scrollTop = 0)")
        expect(questions.first).not_to_have_text(first or "")
    expect(page.get_by_text("Question 4999?", exact=True)).to_have_count(0)  # the page has but a part of them
    # The page may still grow above, and take the button from under a pointer.
    page.get_by_test_id("beginning").press("Enter")
    expect(questions.first).to_have_text("Question 0?", timeout=3 * SOON)
    expect(questions.first).to_be_in_viewport()
    expect(page.get_by_test_id("older")).to_have_count(0)
    for _ in range(5):
        last = questions.last.text_content()
        thread.evaluate("element => (element.scrollTop = element.scrollHeight)")
        expect(questions.last).not_to_have_text(last or "")
    assert questions.count() < 100
    tab.send("And now?")
    expect(questions.last).to_contain_text("And now?")
    expect(questions.last).to_be_in_viewport()


def test_a_message_that_was_found_is_led_to(tab: Tab) -> None:
    page = tab.page
    pairs = [(said("user", f"Question {n}?"), said("assistant", f"Answer {n}.")) for n in range(300)]
    long = brought(tab, *(each for pair in pairs for each in pair))
    answer = page.request.get(f"{tab.url}/llmchat/search?q=answer+7").json()
    found = next(
        each["message"]["id"] for each in answer["results"] if each["message"]["content"] == "Answer 7."
    )
    page.goto(f"{tab.url}/#/c/{long}/m/{found}")
    message = page.get_by_test_id("message-assistant").filter(has_text=re.compile(r"Answer 7\."))
    expect(message).to_be_in_viewport()
    expect(message).to_be_focused()
    expect(message).to_have_attribute("data-found", "true")
    tab.picture("found")
    page.goto(f"{tab.url}/#/c/{long}/m/nowhere")
    expect(page.get_by_test_id("error")).to_contain_text("not in the conversation")


def test_a_new_conversation_is_begun_and_left_again(tab: Tab) -> None:
    page = tab.page
    tab.send("hello")
    tab.answers("hello")
    page.get_by_test_id("new-chat").locator("visible=true").first.click()
    expect(page.get_by_test_id("message-user")).to_have_count(0)
    tab.send("something else")
    tab.answers("1 messages, the last from user: something else")
    assert "#/c/" in page.url
    page.go_back()
    tab.answers("1 messages, the last from user: hello")


def test_what_a_message_brought_along_is_shown(tab: Tab) -> None:
    page = tab.page
    pixel = bytes.fromhex(
        "89504e470d0a1a0a0000000d494844520000000100000001080600000"
        "01f15c4890000000d49444154789c63f8cfc0f01f0005000201a5d6a8"
        "2b0000000049454e44ae426082"
    )
    picture: FilePayload = {"name": "pixel.png", "mimeType": "image/png", "buffer": pixel}
    notes: FilePayload = {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"Rome, May 3 to 7"}
    page.get_by_test_id("file-input").set_input_files([picture, notes])
    tab.send("What is this?")
    tab.answers("What is this?")
    for _ in ("live", "from the history"):
        question = page.get_by_test_id("message-user")
        expect(question.get_by_role("img", name="pixel.png")).to_be_visible()
        expect(question.get_by_role("link", name="notes.txt")).to_be_visible()
        expect(question.get_by_test_id("time")).to_have_attribute("datetime", re.compile(r"^20\d\d-"))
        tab.picture("brought")
        page.reload()
