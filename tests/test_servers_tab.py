"""The user's servers and their questions in the chat tab, in a real browser."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from mcp.server import MCPServer
from playwright.sync_api import Browser, Route, expect

from tests.installation import Installation
from tests.model_server import ModelServer, Reply
from tests.running import running
from tests.tab import Tab, chromium

pytestmark = pytest.mark.slow

ASKED: dict[str, Any] = {
    "id": "q1",
    "kind": "form",
    "server": "toys",
    "message": "Who are <b>you</b>?",
    "session_id": "s",
    "turn_id": "t",
    "warning": None,
    "schema": {
        "type": "object",
        "required": ["name"],
        "properties": {
            "name": {"type": "string", "title": "Your name", "minLength": 2},
            "age": {"type": "integer", "minimum": 0, "default": 30},
            "mail": {"type": "string", "format": "email"},
            "when": {"type": "string", "format": "date"},
            "fan": {"type": "boolean", "default": True, "description": "Be honest."},
            "size": {
                "type": "string",
                "oneOf": [{"const": "s", "title": "Small"}, {"const": "l", "title": "Large"}],
            },
            "likes": {
                "type": "array",
                "items": {"type": "string", "enum": ["tea", "milk", "rum"]},
                "default": ["tea"],
            },
        },
    },
}
LINK: dict[str, Any] = {
    "id": "q2",
    "kind": "url",
    "server": "toys",
    "message": "Confirm there.",
    "url": "https://bank.example.org/confirm?id=7",
    "host": "bank.example.org",
    "warning": "Look twice.",
    "session_id": "s",
}


def toys(*names: str) -> MCPServer:
    server = MCPServer("toys")
    for name in names:
        server.add_tool(lambda: "done", name=name, description=name)
    return server


@pytest.fixture(scope="module")
def scripted() -> ModelServer:
    return ModelServer()


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory, scripted: ModelServer) -> Iterator[Installation]:
    with ExitStack() as stack:
        model_url = stack.enter_context(running(scripted.app))
        urls = [
            stack.enter_context(running(toys(*names).streamable_http_app()))
            for names in (("one", "two"), ("three",))
        ]
        yield stack.enter_context(
            Installation(
                tmp_path_factory.mktemp("servers"),
                f"{model_url}/v1",
                servers={"toys": {"url": f"{urls[0]}/mcp"}, "more": {"url": f"{urls[1]}/mcp"}},
                MCP_CHAT_DEMO_SERVER="false",
            )
        )


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def tab(browser: Browser, installation: Installation, name: str) -> Iterator[Tab]:
    context = browser.new_context()
    tab = Tab(context, installation.url)
    tab.sign_in(name)
    tab.page.get_by_test_id("server-select").select_option("toys")
    tab.connect("openai:scripted")
    yield tab
    assert tab.complaints == []
    context.close()


def test_servers_and_tools_are_switched_added_and_removed(tab: Tab, scripted: ModelServer) -> None:
    page = tab.page
    count = page.get_by_test_id("tool-count")
    expect(count).to_have_text("2 tools")
    count.click()
    mine = page.get_by_test_id("server").filter(has_text="toys")
    expect(mine).to_have_attribute("data-state", "open")
    mine.locator("summary").click()
    mine.locator("[data-tool=two] input").uncheck()
    expect(count).to_have_text("1 tool")
    page.get_by_text("Add a server").click()
    page.get_by_test_id("add-name").select_option("more")
    page.get_by_test_id("add-server").click()
    expect(page.get_by_test_id("server")).to_have_count(2)
    expect(count).to_have_text("2 tools")
    scripted.will(Reply(text="hello"))
    page.keyboard.press("Escape")
    tab.send("hi")
    tab.answers("hello")
    offered = [tool["function"]["name"] for tool in scripted.requests[-1]["tools"]]
    assert sorted(offered) == ["more__three", "toys__one"]
    count.click()
    mine.get_by_test_id("server-switch").uncheck()
    expect(mine).to_have_attribute("data-state", "off")
    expect(count).to_have_text("1 tool")
    page.get_by_test_id("server").filter(has_text="more").get_by_test_id("server-remove").click()
    page.get_by_test_id("remove-yes").click()
    expect(page.get_by_test_id("server")).to_have_count(1)
    mine.get_by_test_id("server-switch").check()
    expect(count).to_have_text("1 tool")


def test_nothing_of_the_last_server_stays_in_the_header_once_it_is_removed(tab: Tab) -> None:
    page = tab.page
    page.get_by_test_id("tool-count").click()
    page.get_by_test_id("server-remove").click()
    page.get_by_test_id("remove-yes").click()
    expect(page.get_by_test_id("server")).to_have_count(0)
    expect(page.get_by_test_id("tool-count")).to_have_text("0 tools")
    expect(page.get_by_test_id("connected-badge")).not_to_contain_text("toys")
    expect(page.locator(".empty")).to_contain_text("No server is connected.")
    expect(page.get_by_test_id("composer")).to_have_attribute("placeholder", "Your message")


def test_a_name_hides_nothing_by_which_it_differs_from_another(tab: Tab) -> None:
    used = {"enabled": True, "held": False, "app": False, "app_only": False}
    names = ("send", "se\u00adnd", "send\ufe0f")
    shown_as(tab, tools=[{"name": name, "shown_as": "toys__send", **used} for name in names])
    tab.page.get_by_test_id("tool-count").click()
    tab.page.get_by_test_id("server").locator("summary").click()
    expect(tab.page.locator("[data-tool] code")).to_have_text(["send", "se[U+00AD]nd", "send[U+FE0F]"])


def test_a_server_that_cannot_be_added_is_a_sentence_and_nothing_changes(tab: Tab) -> None:
    page = tab.page
    page.get_by_test_id("tool-count").click()
    page.get_by_text("Add a server").click()
    page.get_by_test_id("add-url").fill("http://127.0.0.1:8999/mcp")
    page.get_by_test_id("add-server").click()
    expect(page.get_by_test_id("error")).to_contain_text("Failed to connect to MCP server")
    expect(page.get_by_test_id("server")).to_have_count(1)
    tab.complaints.clear()  # the browser itself reports the 503


def shown_as(tab: Tab, **changes: Any) -> None:
    """Have the server of the tab be in another state."""

    def rewrite(route: Route) -> None:
        answer = route.fetch().json()
        answer["connected"][0] |= changes
        route.fulfill(json=answer)

    tab.page.route("**/llmchat/servers", rewrite)


def test_a_lost_server_says_why_and_is_tried_again(tab: Tab) -> None:
    page = tab.page
    shown_as(
        tab, state="lost", error="It does not <b>answer</b>.", left_out={"toys__huge": "it is too large"}
    )
    page.get_by_test_id("tool-count").click()
    server = page.get_by_test_id("server")
    expect(server).to_have_attribute("data-state", "lost")
    expect(server).to_contain_text("It does not <b>answer</b>.")
    expect(server.get_by_test_id("left-out")).to_have_text("toys__hugeit is too large")
    page.unroute_all()
    with page.expect_request(lambda request: request.method == "PATCH") as sent:
        server.get_by_test_id("server-again").click()
    assert json.loads(sent.value.post_data or "") == {"enabled": False}
    expect(server).to_have_attribute("data-state", "open")
    expect(page.get_by_test_id("tool-count")).to_have_text("2 tools")


def test_an_old_server_of_ones_own_is_added_by_its_address(tab: Tab) -> None:
    page = tab.page
    page.get_by_test_id("tool-count").click()
    page.get_by_text("Add a server").click()
    page.get_by_test_id("add-url").fill("http://127.0.0.1:8999/sse")
    page.get_by_test_id("add-token").fill("secret")
    page.get_by_test_id("add-transport").select_option("sse")
    with page.expect_request("**/llmchat/servers") as sent:
        page.get_by_test_id("add-server").click()
    asked = json.loads(sent.value.post_data or "")
    assert {key: asked[key] for key in ("url", "transport", "auth_token")} == {
        "url": "http://127.0.0.1:8999/sse",
        "transport": "sse",
        "auth_token": "secret",
    }
    expect(page.get_by_test_id("error")).to_be_visible()
    tab.complaints.clear()


def test_a_sign_in_shows_the_whole_address_and_opens_by_a_click(tab: Tab) -> None:
    page = tab.page
    url = "https://login.example.org/authorize?client_id=a&state=b"
    shown_as(tab, state="sign_in", sign_in_url="https://login.example.org/used-up")
    page.route(
        "**/llmchat/servers/toys/sign-in", lambda route: route.fulfill(json={"alias": "toys", "url": url})
    )
    page.get_by_test_id("tool-count").click()
    page.get_by_test_id("server").get_by_test_id("server-sign-in").click()
    expect(page.get_by_test_id("url")).to_have_text(url)
    link = page.get_by_test_id("address-open")
    assert [link.get_attribute(name) for name in ("href", "target", "rel")] == [
        url,
        "_blank",
        "noopener noreferrer",
    ]
    page.get_by_test_id("address-refuse").click()
    page.unroute_all()
    page.evaluate("new BroadcastChannel('mcp-chat-sign-in').postMessage({type: 'signed-in', server: 'toys'})")
    expect(page.get_by_test_id("server")).to_have_attribute("data-state", "open")


def test_a_changed_tool_shows_its_difference_and_is_accepted_as_it_was_shown(tab: Tab) -> None:
    page = tab.page
    tool = {
        "name": "one",
        "shown_as": "toys__one",
        "enabled": True,
        "held": True,
        "app": False,
        "app_only": False,
    }
    shown_as(tab, tools=[tool])
    change = {
        "hash": "a" * 64,
        "difference": [
            {"place": "description", "before": "a <i>good</i> tool", "after": "a tool evil\u202e"}
        ],
    }
    page.route(
        "**/llmchat/servers/toys/tools",
        lambda route: route.fulfill(json={"alias": "toys", "tools": [{**tool, "change": change}]}),
    )
    page.get_by_test_id("tool-count").click()
    page.get_by_test_id("server").locator("summary").click()
    page.get_by_test_id("tool-changed").click()
    difference = page.get_by_test_id("tool-difference")
    expect(difference.locator("del")).to_have_text("a <i>good</i> tool")
    expect(difference.locator("del mark")).to_have_text("<i>good</i> ")
    expect(difference.locator("ins")).to_have_text("a tool evil[U+202E]")
    expect(difference.locator("ins mark")).to_have_text(" evil[U+202E]")
    expect(difference.locator("p.aside")).to_contain_text(["accepted it", "Before", "Now"])
    with page.expect_request(lambda request: request.method == "PATCH") as sent:
        page.get_by_test_id("tool-accept").click()
    assert json.loads(sent.value.post_data or "") == {"accept": {"one": "a" * 64}}
    tab.complaints.clear()


def asks(tab: Tab, *questions: dict[str, Any], content: bool = False) -> list[dict[str, Any]]:
    """Have servers ask in a turn that goes on, until they are content; return what is answered."""
    answers: list[dict[str, Any]] = []
    open_ = list(questions)

    def take(route: Route) -> None:
        answers.append(
            {"path": route.request.url.rsplit("/", 1)[1], **json.loads(route.request.post_data or "")}
        )
        if content:
            open_.clear()
        route.fulfill(json={"status": "answered"})

    tab.page.route("**/llmchat/questions?*", lambda route: route.fulfill(json={"questions": open_}))
    tab.page.route("**/llmchat/questions/*", take)
    tab.page.route(
        "**/llmchat/history/**", lambda route: route.fulfill(json={"messages": [], "running": "t"})
    )
    tab.page.reload()
    return answers


def test_a_form_is_filled_in_and_sent_with_the_right_types(tab: Tab) -> None:
    page = tab.page
    answers = asks(tab, ASKED, content=True)
    form = page.get_by_test_id("question")
    expect(form.locator("h2")).to_have_text("toys asks")
    expect(form).to_contain_text("Who are <b>you</b>?")
    page.get_by_test_id("question-accept").click()
    expect(form.get_by_test_id("field-fault")).to_have_text("Please fill this in.")
    expect(form.get_by_label("Your name")).to_be_focused()
    assert answers == []  # the name is needed
    form.get_by_label("Your name").fill("Ann")
    form.get_by_label("mail").fill("ann@example.org")
    form.get_by_label("when").fill("2026-07-28")
    form.get_by_label("Large")
    form.locator("select").select_option("l")
    form.get_by_label("rum").check()
    form.get_by_label("fan").uncheck()
    page.wait_for_timeout(1500)  # what is filled in survives the looks for news
    page.get_by_test_id("question-accept").click()
    expect(form).to_have_count(0)
    assert [{key: value for key, value in each.items() if key != "user_id"} for each in answers] == [
        {
            "path": "q1",
            "action": "accept",
            "content": {
                "name": "Ann",
                "age": 30,
                "mail": "ann@example.org",
                "when": "2026-07-28",
                "fan": False,
                "size": "l",
                "likes": ["tea", "rum"],
            },
        }
    ]


WRONG = [
    ("text", "a", "At least 2 characters, please."),
    ("text", "abcdef", "At most 5 characters, please."),
    ("mail", "nobody", "Please enter an e-mail address, such as name@example.org."),
    ("where", "nowhere", "Please enter a full address, such as https://example.org."),
    ("whole", "1.5", "Please enter a whole number."),
    ("whole", "0", "This must be 1 or more."),
    ("part", "9.5", "This must be 9.25 or less."),
]
EVERYTHING: dict[str, Any] = {
    **ASKED,
    "schema": {
        "type": "object",
        "required": ["text", "size"],
        "properties": {
            "text": {"type": "string", "minLength": 2, "maxLength": 5, "description": "Not much."},
            "mail": {"type": "string", "format": "email"},
            "where": {"type": "string", "format": "uri"},
            "day": {"type": "string", "format": "date"},
            "moment": {"type": "string", "format": "date-time", "default": "2026-07-28T12:00:00Z"},
            "whole": {"type": "integer", "minimum": 1},
            "part": {"type": "number", "maximum": 9.25, "default": 0.5},
            "yes": {"type": "boolean"},
            "size": {"type": "string", "enum": ["s", "l"]},
            "some": {
                "type": "array",
                "items": {"anyOf": [{"const": "a", "title": "First"}, {"const": "b", "title": "Second"}]},
                "minItems": 2,
                "default": ["a"],
            },
        },
    },
}


def test_what_is_wrong_is_said_beside_its_field(tab: Tab) -> None:
    answers = asks(tab, EVERYTHING, content=True)
    form = tab.page.get_by_test_id("question")
    send = form.get_by_test_id("question-accept")
    send.click()
    for name in ("text", "size"):
        expect(form.get_by_label(name, exact=False).first).to_have_accessible_description(
            "Not much. Please fill this in." if name == "text" else "Please fill this in."
        )
    expect(form.get_by_label("text")).to_be_focused()
    for name, value, says in WRONG:
        field = form.locator(f"[name={name}]")
        field.fill(value)
        send.click()
        expect(field).to_have_accessible_description(f"Not much. {says}" if name == "text" else says)
        expect(field).to_have_attribute("aria-invalid", "true")
        tab.picture("question-faults") if name == "mail" else None
        field.fill({"text": "abc", "part": "9.25"}.get(name, ""))
    form.locator("[name=size]").select_option("l")
    send.click()
    expect(form.get_by_role("group", name="some")).to_have_accessible_description("Please choose at least 2.")
    expect(form.get_by_role("group", name="some")).to_be_focused()
    form.get_by_label("Second").check()
    assert answers == []
    send.click()
    expect(form).to_have_count(0)
    expect(tab.page.get_by_test_id("composer")).to_be_focused()
    assert answers[0]["content"] == {
        "text": "abc",
        "moment": "2026-07-28T12:00:00Z",
        "part": 9.25,
        "yes": False,
        "size": "l",
        "some": ["a", "b"],
    }


def test_what_the_server_finds_wrong_stands_beside_its_field_too(tab: Tab) -> None:
    asks(tab, ASKED)
    wrong = {"loc": ["body", "content", "age"], "msg": "this must be lower", "type": "question"}
    tab.page.route(
        "**/llmchat/questions/*",
        lambda route: route.fulfill(status=422, json={"detail": "age: no.", "errors": [wrong]}),
    )
    form = tab.page.get_by_test_id("question")
    form.get_by_label("Your name").fill("Ann")
    form.get_by_test_id("question-accept").click()
    expect(form.get_by_label("age")).to_have_accessible_description("this must be lower")
    expect(form.get_by_label("age")).to_be_focused()
    tab.complaints.clear()  # the browser itself reports the 422


@pytest.mark.parametrize("way", ["decline", "cancel"])
def test_a_question_can_be_declined_and_cancelled(tab: Tab, way: str) -> None:
    answers = asks(tab, ASKED)
    tab.page.get_by_test_id(f"question-{way}").click()
    expect(tab.page.get_by_test_id("question")).to_have_count(0)  # whoever still asks
    assert [each["action"] for each in answers] == [way]


def test_an_address_is_shown_in_full_and_opened_only_by_a_click(tab: Tab) -> None:
    page = tab.page
    answers = asks(tab, LINK)
    expect(page.get_by_test_id("url")).to_have_text(LINK["url"])
    expect(page.get_by_test_id("url").locator("b")).to_have_text("bank.example.org")
    expect(page.get_by_test_id("question-warning")).to_have_text("Look twice.")
    assert (answers, len(page.context.pages)) == ([], 1)
    page.context.route("https://bank.example.org/**", lambda route: route.fulfill(body="bank"))
    with page.context.expect_page() as opened:
        page.get_by_test_id("question-open").click()
    assert opened.value.evaluate("window.opener") is None
    assert [each["action"] for each in answers] == ["accept"]
