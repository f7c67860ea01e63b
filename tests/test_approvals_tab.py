"""Calls that wait for their user, in the chat tab in a real browser."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from tests.asked import SCHEMA, calls
from tests.installation import Installation
from tests.model_server import ModelServer, Reply
from tests.running import running, wait_until
from tests.sized_mcp import SizedMCP, tool
from tests.tab import Tab, chromium

pytestmark = pytest.mark.slow

HIDDEN = "a\u200bb\u202ec"


NO_LOOKS = "window.setInterval = () => 0"
"""Nothing is looked at again only because time has passed."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def far() -> SizedMCP:
    far = SizedMCP()
    far.tools = [tool("size", inputSchema=SCHEMA), tool("wait")]
    return far


@pytest.fixture(scope="module")
def model() -> ModelServer:
    return ModelServer()


@pytest.fixture(scope="module")
def chat(
    tmp_path_factory: pytest.TempPathFactory, far: SizedMCP, model: ModelServer
) -> Iterator[Installation]:
    with running(far.app) as far_url, running(model.app) as model_url:
        servers = {"far": {"url": f"{far_url}/json"}}
        folder = tmp_path_factory.mktemp("approvals-tab")
        with Installation(
            folder,
            f"{model_url}/v1",
            workers=1,
            servers=servers,
            MCP_CHAT_APPROVALS="on",
            MCP_CHAT_DEMO_SERVER="off",
        ) as installation:
            yield installation


@pytest.fixture
def tab(browser: Browser, chat: Installation, model: ModelServer, far: SizedMCP, name: str) -> Iterator[Tab]:
    """Somebody who is connected."""
    model.will()
    model.requests.clear()
    far.calls.clear()
    with browser.new_context() as context:
        tab = Tab(context, chat.url)
        tab.sign_in(name)
        tab.connect("openai:scripted")
        yield tab
        assert [each for each in tab.complaints if "422" not in each] == []


def ran(far: SizedMCP) -> list[Any]:
    """What the server was called with."""
    return [each.get("arguments") or {} for each in far.calls]


def card(page: Page, number: int = 0) -> Locator:
    """What the user is asked."""
    found = page.get_by_test_id("approval").nth(number)
    expect(found).to_be_visible()
    return found


def test_a_call_is_shown_and_allowed(tab: Tab, model: ModelServer, far: SizedMCP) -> None:
    calls(model, ("far__size", {"size": 3, "to": {"name": HIDDEN}}))
    tab.send("go")
    asked = card(tab.page)
    expect(asked.get_by_role("heading")).to_have_text("The model wants to run size far")
    args = asked.get_by_test_id("approval-args")
    expect(args).to_have_text('{ "size": 3, "to": { "name": "a[U+200B]b[U+202E]c" } }')
    for text in ("Allow once", "Allow for this conversation", "Always", "Deny", "Edit arguments"):
        expect(asked.get_by_role("button", name=text, exact=True)).to_be_visible()
    tab.picture("approval")
    assert far.calls == []
    expect(tab.page.get_by_test_id("message-assistant")).to_contain_text("Waiting for your answer below.")
    asked.get_by_test_id("approval-once").click()
    tab.answers("Fine.")
    expect(tab.page.get_by_test_id("approval")).to_have_count(0)
    expect(tab.page.get_by_test_id("composer")).to_be_focused()
    assert ran(far) == [{"size": 3, "to": {"name": HIDDEN}}]


def test_arguments_are_edited_and_what_is_wrong_with_them_is_said(
    tab: Tab, model: ModelServer, far: SizedMCP
) -> None:
    calls(model, ("far__size", {"size": 3, "to": {"name": HIDDEN}}))
    tab.send("go")
    asked = card(tab.page)
    asked.get_by_test_id("approval-edit").click()
    editor = asked.get_by_test_id("approval-editor")
    expect(editor).to_be_focused()
    assert r"a\u200bb\u202ec" in editor.input_value()
    fault = asked.get_by_test_id("approval-fault")
    for text, says in (
        ("{", "This is no JSON"),
        ("[1]", "must be a JSON object"),
        ('{"size": 10}', "size: the value"),
    ):
        editor.fill(text)
        asked.get_by_test_id("approval-once").click()
        expect(fault).to_contain_text(says)
        expect(editor).to_have_attribute("aria-invalid", "true")
    tab.picture("approval-edited")
    assert far.calls == []
    editor.press("Escape")
    expect(asked.get_by_test_id("approval-edit")).to_be_focused()
    expect(fault).to_have_count(0)
    asked.get_by_test_id("approval-edit").click()
    editor.fill('{"size": 2}')
    editor.press("Control+Enter")
    tab.answers("Fine.")
    assert ran(far) == [{"size": 2}]
    expect(tab.page.get_by_test_id("tool-card")).to_contain_text("size: 2")


def test_a_call_is_denied_with_the_keyboard_and_a_reason(tab: Tab, model: ModelServer, far: SizedMCP) -> None:
    calls(model, ("far__size", {"size": 3}), then="Then not.")
    tab.send("go")
    asked = card(tab.page)
    expect(tab.page.get_by_test_id("composer")).to_be_focused()  # nobody allows anything by typing on
    asked.get_by_test_id("approval-args").focus()
    for expected in ("once", "session", "always", "edit", "reason"):
        tab.page.keyboard.press("Tab")
        expect(asked.get_by_test_id(f"approval-{expected}")).to_be_focused()
    tab.page.keyboard.type("Not now.")
    tab.page.keyboard.press("Enter")
    tab.answers("Then not.")
    assert far.calls == []
    assert "They said: Not now." in str(model.requests[-1]["messages"][-1]["content"])


def test_a_call_that_waits_is_there_after_a_reload_and_in_a_second_tab(
    tab: Tab, chat: Installation, model: ModelServer, far: SizedMCP
) -> None:
    calls(model, ("far__size", {"size": 3}), ("far__wait", {}))
    tab.send("go")
    expect(tab.page.get_by_test_id("approval")).to_have_count(2)
    tab.page.reload()
    expect(tab.page.get_by_test_id("approval")).to_have_count(2)
    second = Tab(tab.page.context, chat.url)
    expect(second.page.get_by_test_id("approval")).to_have_count(2)
    second.page.locator("[data-tool=far__size]").get_by_test_id("approval-once").click()
    expect(second.page.get_by_test_id("approval")).to_have_count(1)
    expect(tab.page.get_by_test_id("approval")).to_have_count(1)
    # its result moves the other card: a press that begins before and ends behind that is none
    expect(tab.page.locator("[data-testid=tool-card][data-state=done]")).to_be_visible()
    card(tab.page).get_by_test_id("approval-deny").click()
    tab.answers("Fine.")
    second.answers("Fine.")
    assert ran(far) == [{"size": 3}]


def test_a_conversation_whose_first_call_waits_is_listed(tab: Tab, model: ModelServer, far: SizedMCP) -> None:
    tab.page.add_init_script(NO_LOOKS)
    tab.page.reload()
    calls(model, ("far__wait", {}))
    tab.send("go")
    card(tab.page)
    expect(tab.page.get_by_test_id("conversation")).to_have_text(["go"])
    card(tab.page).get_by_test_id("approval-deny").click()
    tab.answers("Fine.")


def test_a_conversation_and_all_are_allowed(tab: Tab, model: ModelServer, far: SizedMCP) -> None:
    model.will(
        Reply(calls=[("far__size", {"size": 1})]),
        Reply(calls=[("far__size", {"size": 2})]),
        Reply(calls=[("far__wait", {})]),
        Reply(text="Fine."),
        Reply(calls=[("far__size", {"size": 3}), ("far__wait", {})]),
        Reply(text="Still fine."),
    )
    tab.send("go")
    card(tab.page).get_by_test_id("approval-session").click()
    wait_until(lambda: len(far.calls) == 2, "what is allowed is not asked about again")
    expect(tab.page.locator("[data-testid=approval][data-tool=far__wait]")).to_be_visible()
    card(tab.page).get_by_test_id("approval-always").click()
    tab.answers("Fine.")
    tab.send("again")
    tab.answers("Still fine.")
    assert len(far.calls) == 5


def test_a_stop_takes_the_card_away(tab: Tab, model: ModelServer, far: SizedMCP) -> None:
    calls(model, ("far__size", {"size": 3}))
    tab.send("go")
    card(tab.page)
    tab.page.get_by_test_id("stop").click()
    expect(tab.page.get_by_test_id("approval")).to_have_count(0)
    assert far.calls == []


def test_what_was_allowed_for_longer_is_listed_and_taken_back(
    tab: Tab, model: ModelServer, far: SizedMCP
) -> None:
    page = tab.page
    for tool_name, decision in (("far__size", "always"), ("far__wait", "session")):
        calls(model, (tool_name, {"size": 3, "to": {"name": "x"}} if tool_name == "far__size" else {}))
        tab.send("go")
        card(page).get_by_test_id(f"approval-{decision}").click()
        tab.answers("Fine.")
    page.get_by_test_id("tool-count").click()
    listed = page.get_by_test_id("grant")
    expect(listed).to_have_count(2)
    expect(listed.filter(has_text="size")).to_contain_text("far, always")
    expect(listed.filter(has_text="wait")).to_contain_text("far, in one conversation")
    tab.picture("grants")
    listed.filter(has_text="size").get_by_test_id("revoke").click()
    expect(listed).to_have_count(1)
    page.keyboard.press("Escape")
    calls(model, ("far__size", {"size": 4, "to": {"name": "x"}}))
    tab.send("again")
    card(page).get_by_test_id("approval-once").click()
    tab.answers("Fine.")
