"""The list of conversations beside the chat: found, named, carried away, brought along and deleted."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, Page, Route, expect

from tests.installation import Installation
from tests.model_server import ModelServer, Reply
from tests.person import Person
from tests.running import running, wait_until
from tests.tab import PICTURES, SIZES, Tab, chromium

pytestmark = pytest.mark.slow

HOSTILE = "<img src=x onerror=pwned()>\u202etxt.exe"


@pytest.fixture(scope="module")
def scripted() -> ModelServer:
    return ModelServer()


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory, scripted: ModelServer) -> Iterator[Installation]:
    with (
        running(scripted.app) as model_url,
        Installation(tmp_path_factory.mktemp("sidebar"), f"{model_url}/v1") as installation,
    ):
        yield installation


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def come(browser: Browser, installation: Installation) -> Iterator[Callable[..., Tab]]:
    """Open a tab for somebody who is connected, in a browser of their own."""
    with ExitStack() as stack:
        tabs: list[Tab] = []

        def open_tab(name: str, **options: Any) -> Tab:
            context = browser.new_context(**options)
            stack.callback(context.close)
            tabs.append(Tab(context, installation.url))
            tabs[-1].sign_in(name)
            badge = tabs[-1].page.get_by_test_id("connected-badge")
            expect(badge.or_(tabs[-1].page.get_by_test_id("connect"))).to_be_visible()
            if not badge.is_visible():
                tabs[-1].connect("openai:scripted")
            return tabs[-1]

        yield open_tab
        for tab in tabs:
            assert tab.complaints == []
            assert [url for url in tab.requests if not url.startswith((installation.url, "blob:"))] == []


@pytest.fixture
def tab(come: Callable[..., Tab], name: str) -> Tab:
    return come(name)


@pytest.fixture
def person(installation: Installation, tab: Tab, name: str) -> Iterator[Person]:
    """Whoever sits at the tab, at the HTTP door."""
    with installation.person(name) as person:
        yield person


LATER = count()


def rows(tab: Tab) -> Locator:
    return tab.page.get_by_test_id("conversation").locator(".name")


def row(tab: Tab, name: str) -> Locator:
    return tab.page.get_by_test_id("conversation").filter(has=tab.page.get_by_text(name, exact=True))


def bring(person: Person, name: str, *texts: str, moment: str = "") -> str:
    """Import a conversation in which user and assistant take turns; without a moment it is the newest."""
    moment = moment or f"2026-01-02T03:04:05.{next(LATER):06}Z"
    messages = [
        {"role": "assistant" if n % 2 else "user", "content": text, "id": f"m{n}"}
        for n, text in enumerate(texts)
    ]
    body = {"schema": "mcp-chat/session/1", "name": name, "messages": messages, "updated_at": moment}
    answer = person.http.post("/llmchat/sessions/import", json=body)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["session_id"])


def choose(tab: Tab, name: str, action: str) -> None:
    """Open a conversation's menu and do something with it."""
    row(tab, name).hover()
    row(tab, name).get_by_test_id("conversation-menu").click()
    tab.page.get_by_test_id(action).click()


def test_what_one_talks_about_is_listed_and_found_again(tab: Tab, scripted: ModelServer) -> None:
    page = tab.page
    scripted.will(Reply(text="By ferry."), Reply(text="By train."), Reply(text="At noon."))
    expect(page.get_by_test_id("conversation-name")).to_have_text("New conversation")
    tab.send("How do I get to Oslo?")
    tab.answers("By ferry.")
    expect(rows(tab)).to_have_text(["How do I get to Oslo?"])
    page.keyboard.press("Control+Shift+O")
    expect(page.get_by_test_id("message-user")).to_have_count(0)
    expect(page.get_by_test_id("composer")).to_be_focused()
    tab.send("How do I get to Rome?")
    tab.answers("By train.")
    expect(rows(tab)).to_have_text(["How do I get to Rome?", "How do I get to Oslo?"])
    expect(page.get_by_test_id("conversation-name")).to_have_text("How do I get to Rome?")
    expect(page).to_have_title("How do I get to Rome? · MCP Chat")
    tab.picture("sidebar")
    row(tab, "How do I get to Oslo?").locator(".open").click()
    expect(page.get_by_test_id("message-assistant")).to_contain_text("By ferry.")
    expect(page.locator("[aria-current]")).to_have_text("How do I get to Oslo?")
    tab.send("And when?")
    tab.answers("At noon.")
    expect(rows(tab)).to_have_text(["How do I get to Oslo?", "How do I get to Rome?"])
    assert page.get_by_test_id("new-chat").get_attribute("title") == "New conversation (Ctrl+Shift+O)"


def test_conversations_stand_under_the_day_they_were_used_on(
    come: Callable[..., Tab], installation: Installation, name: str
) -> None:
    noon = datetime.now(UTC).replace(hour=12, minute=0, second=0, microsecond=0)
    with installation.person(name) as person:
        for title, days in (("last year", 365), ("four days ago", 4), ("yesterday", 1), ("just now", 0)):
            moment = noon - timedelta(days=days) if days else datetime.now(UTC)
            bring(person, title, "hello", moment=moment.isoformat())
    page = come(name, timezone_id="UTC").page
    sections = page.get_by_test_id("conversations").locator("section")
    expect(sections.locator("h2")).to_have_text(["Today", "Yesterday", "Last 7 days", "Older"])
    expect(sections.locator(".name")).to_have_text(["just now", "yesterday", "four days ago", "last year"])


def test_a_long_list_is_read_on_while_it_is_scrolled(
    come: Callable[..., Tab], installation: Installation, name: str
) -> None:
    with installation.person(name) as person:
        for n in range(120):
            bring(person, f"talk {n:03}", "hello", moment=f"2026-01-02T{n // 60:02}:{n % 60:02}:05Z")
    tab = come(name)
    expect(rows(tab)).to_have_count(50)

    def all_read() -> bool:
        tab.page.get_by_test_id("conversation").last.scroll_into_view_if_needed()
        tab.page.mouse.move(100, 400)
        tab.page.mouse.wheel(0, 5000)
        tab.page.wait_for_timeout(50)
        return rows(tab).count() == 120

    wait_until(all_read, "all of them are read")
    expect(rows(tab).last).to_have_text("talk 000")
    row(tab, "talk 000").locator(".open").click()
    expect(tab.page.get_by_test_id("message-user")).to_have_text("hello")
    choose(tab, "talk 050", "rename")
    expect(tab.page.get_by_test_id("rename-field")).to_be_focused()
    tab.page.keyboard.type("renamed\n")
    expect(rows(tab).first).to_have_text("renamed")
    expect(rows(tab)).to_have_count(120)
    tab.page.reload()
    expect(tab.page.get_by_test_id("conversation-name")).to_have_text("talk 000")


def test_a_search_shows_where_words_were_said_and_leads_there(tab: Tab, person: Person) -> None:
    page = tab.page
    said = [f"This is number {n}." for n in range(200)]
    said[31] = "The Ärmelkanal ferry leaves at **seven**."
    bring(person, "Ships", *said)
    bring(person, "Cars", "A ferryman", "has no car.")
    page.keyboard.press("Control+k")
    expect(page.get_by_test_id("search")).to_be_focused()
    page.keyboard.type("FERRY armel")
    found = page.get_by_test_id("search-result")
    expect(found).to_have_count(1)
    expect(found.locator("b")).to_have_text("Ships")
    expect(found.locator("mark")).to_have_text(["Ärmelkanal", "ferry"])
    expect(page.get_by_test_id("search-status")).to_have_text("1 message found")
    page.get_by_test_id("search").fill("ferry")
    expect(found).to_have_count(2)
    tab.picture("search")
    page.get_by_test_id("search").press("ArrowDown")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowUp")
    expect(found.first.locator("button")).to_be_focused()
    found.filter(has_text="Ships").locator("button").click()
    message = page.get_by_test_id("message-assistant").filter(has_text="The Ärmelkanal ferry")
    expect(message).to_be_in_viewport()
    expect(message).to_be_focused()
    expect(page.get_by_test_id("conversation-name")).to_have_text("Ships")
    page.get_by_test_id("search").fill("nowhere")
    expect(page.get_by_test_id("search-status")).to_contain_text("No message has these words")
    page.get_by_test_id("search").press("Escape")
    expect(page.get_by_test_id("search")).to_have_value("")
    expect(rows(tab)).to_have_count(2)


def test_what_was_left_for_another_branch_is_found_and_shown(tab: Tab, scripted: ModelServer) -> None:
    page = tab.page
    scripted.will(Reply(text="By train."), Reply(text="By plane."))
    tab.send("How do I get to Rome?")
    tab.answers("By train.")
    page.get_by_test_id("edit").click()
    page.locator(".editor textarea").fill("How do I get to Oslo?")
    page.keyboard.press("Enter")
    tab.answers("By plane.")
    page.get_by_test_id("search").fill("train")
    page.get_by_test_id("search-result").locator("button").click()
    expect(page.get_by_test_id("message-user")).to_contain_text("How do I get to Rome?")
    expect(page.get_by_test_id("message-assistant")).to_contain_text("By train.")


def test_a_conversation_is_renamed_with_the_keyboard_and_in_other_tabs_too(
    tab: Tab, come: Callable[..., Tab], person: Person, name: str
) -> None:
    page = tab.page
    bring(person, "Ships", "hello")
    bring(person, "Cars", "hello")
    second = Tab(page.context, tab.url)
    elsewhere = come(name)
    expect(rows(elsewhere)).to_have_text(["Cars", "Ships"])
    expect(rows(tab)).to_have_text(["Cars", "Ships"])
    page.get_by_test_id("search").press("ArrowDown")
    page.keyboard.press("ArrowDown")
    expect(row(tab, "Ships").locator(".open")).to_be_focused()
    page.keyboard.press("F2")
    expect(page.get_by_test_id("rename-field")).to_have_value("Ships")
    page.keyboard.type("never")
    page.keyboard.press("Escape")
    expect(rows(tab)).to_have_text(["Cars", "Ships"])
    expect(row(tab, "Ships").locator(".open")).to_be_focused()
    page.keyboard.press("F2")
    page.keyboard.type("Boats\n")
    for each in (tab, second):
        expect(rows(each)).to_have_text(["Boats", "Cars"])
    elsewhere.page.evaluate("dispatchEvent(new Event('focus'))")
    expect(rows(elsewhere)).to_have_text(["Boats", "Cars"])
    page.reload()
    expect(rows(tab)).to_have_text(["Boats", "Cars"])


def test_the_conversation_on_the_page_is_renamed_where_its_name_stands(tab: Tab, person: Person) -> None:
    page = tab.page
    bring(person, "Ships", "hello")
    page.reload()
    row(tab, "Ships").locator(".open").click()
    title = page.locator(".title")
    title.get_by_test_id("conversation-menu").click()
    page.get_by_test_id("rename").click()
    page.get_by_test_id("rename-field").fill("Boats")
    page.get_by_test_id("composer").click()
    expect(page.get_by_test_id("conversation-name")).to_have_text("Boats")
    expect(rows(tab)).to_have_text(["Boats"])
    expect(page).to_have_title("Boats · MCP Chat")


def forgive_missing(tab: Tab) -> None:
    """The line may ask once more for what is deleted; the browser itself notes that it is gone."""
    tab.complaints[:] = [each for each in tab.complaints if "404" not in each]


def test_a_conversation_is_deleted_once_that_was_confirmed(tab: Tab, person: Person) -> None:
    page = tab.page
    for title in ("Trains", "Ships", "Cars"):
        bring(person, title, "hello", "goodbye")
    page.reload()
    row(tab, "Ships").locator(".open").click()
    expect(page.get_by_test_id("message-assistant")).to_be_visible()
    choose(tab, "Ships", "delete")
    question = page.get_by_test_id("erase")
    expect(question).to_contain_text("“Ships” is deleted with its messages and files. This cannot be undone.")
    tab.picture("delete")
    page.keyboard.press("Escape")
    expect(question).to_have_count(0)
    expect(rows(tab)).to_have_count(3)
    row(tab, "Cars").locator(".open").press("Delete")
    page.get_by_test_id("erase-yes").click()
    expect(rows(tab)).to_have_text(["Ships", "Trains"])
    expect(page.get_by_test_id("message-assistant")).to_be_visible()  # another one was on the page
    choose(tab, "Ships", "delete")
    page.get_by_test_id("erase-yes").click()
    expect(rows(tab)).to_have_text(["Trains"])
    expect(page.get_by_test_id("message-user")).to_have_count(0)
    expect(page.get_by_test_id("conversation-name")).to_have_text("New conversation")
    page.reload()
    expect(rows(tab)).to_have_text(["Trains"])
    forgive_missing(tab)


def test_the_conversation_one_is_connected_to_is_deleted_and_one_goes_on(
    tab: Tab, scripted: ModelServer
) -> None:
    page = tab.page
    scripted.will(Reply(text="First."), Reply(text="Second."))
    tab.send("one")
    tab.answers("First.")
    choose(tab, "one", "delete")
    page.get_by_test_id("erase-yes").click()
    expect(page.get_by_test_id("message-user")).to_have_count(0)
    expect(rows(tab)).to_have_count(0)
    expect(page.get_by_test_id("erase")).to_have_count(0)
    tab.send("two")
    tab.answers("Second.")
    expect(rows(tab)).to_have_text(["two"])
    forgive_missing(tab)


def test_who_goes_elsewhere_while_a_conversation_is_deleted_stays_there(tab: Tab, person: Person) -> None:
    page = tab.page
    held: list[Route] = []
    for title in ("Trains", "Ships"):
        bring(person, title, f"hello {title}", "goodbye")
    page.reload()
    row(tab, "Ships").locator(".open").click()
    expect(page.get_by_test_id("message-user")).to_have_text("hello Ships")

    def hold(route: Route) -> None:
        if route.request.method == "DELETE":
            held.append(route)
        else:
            route.continue_()

    page.route("**/llmchat/sessions/*", hold)
    choose(tab, "Ships", "delete")
    page.get_by_test_id("erase-yes").click()
    page.get_by_test_id("erase").get_by_role("button").first.click()
    row(tab, "Trains").locator(".open").click()
    expect(page.get_by_test_id("message-user")).to_have_text("hello Trains")
    with page.expect_response(lambda answer: answer.request.method == "DELETE"):
        held[0].continue_()
    expect(rows(tab)).to_have_text(["Trains"])
    page.wait_for_timeout(500)  # for whatever would lead elsewhere
    expect(page.get_by_test_id("message-user")).to_have_text("hello Trains")
    expect(page.get_by_test_id("error")).to_have_count(0)


def test_tab_leaves_the_menu_of_a_conversation_and_closes_it(tab: Tab, person: Person) -> None:
    page = tab.page
    bring(person, "Ships", "hello")
    page.reload()
    row(tab, "Ships").get_by_test_id("conversation-menu").click()
    expect(page.get_by_test_id("rename")).to_be_focused()
    page.keyboard.press("Tab")
    expect(page.get_by_test_id("rename")).to_have_count(0)
    assert page.evaluate("document.activeElement !== document.body")


@pytest.mark.parametrize(
    ("module", "action", "wanted"),
    [
        ("rowitems", lambda one: one.get_by_test_id("conversation-menu").click(), "rename"),
        ("erase", lambda one: one.locator(".open").press("Delete"), "erase"),
    ],
    ids=["menu", "question"],
)
def test_what_was_lost_on_its_way_comes_by_a_retry(
    tab: Tab, person: Person, module: str, action: Callable[[Locator], None], wanted: str
) -> None:
    page = tab.page
    bring(person, "Trains", "hello Trains")
    page.reload()
    page.route(f"**/view/{module}.js", lambda route: route.abort(), times=1)
    row(tab, "Trains").hover()
    action(row(tab, "Trains"))
    expect(page.get_by_test_id("error")).to_be_visible()
    page.get_by_test_id("error").get_by_role("button").first.click()
    expect(page.get_by_test_id(wanted)).to_be_visible()
    tab.complaints.clear()  # of what was lost


def test_a_lost_search_comes_by_a_retry_with_all_that_was_typed(tab: Tab, person: Person) -> None:
    page = tab.page
    bring(person, "Trains", "hello Trains")
    page.reload()
    page.route("**/view/results.js", lambda route: route.abort(), times=1)
    page.get_by_test_id("search").press_sequentially("hel")
    expect(page.get_by_test_id("error")).to_be_visible()
    page.get_by_test_id("search").press_sequentially("lo")
    page.get_by_test_id("error").get_by_role("button").first.click()
    expect(page.get_by_test_id("search-result")).to_have_count(1)
    tab.complaints.clear()  # of what was lost


def test_a_conversation_is_carried_away_and_brought_along(tab: Tab, person: Person, tmp_path: Path) -> None:
    page = tab.page
    bring(person, "Trip to Oslo", "Which ferry?", "The one from Kiel.")
    page.reload()
    expect(rows(tab)).to_have_count(1)
    with page.expect_download() as kept:
        choose(tab, "Trip to Oslo", "export-markdown")
    assert kept.value.suggested_filename == "Trip-to-Oslo.md"
    assert "The one from Kiel." in kept.value.path().read_text()
    with page.expect_download() as kept:
        choose(tab, "Trip to Oslo", "export-json")
    file = tmp_path / kept.value.suggested_filename
    kept.value.save_as(file)
    assert file.name == "Trip-to-Oslo.json"
    page.get_by_test_id("import-file").set_input_files(file)
    expect(rows(tab)).to_have_text(["Trip to Oslo", "Trip to Oslo"])
    expect(page.get_by_test_id("message-assistant")).to_contain_text("The one from Kiel.")
    document = json.loads(file.read_text())
    drop(page, json.dumps({**document, "name": "Dropped"}))
    expect(page.get_by_test_id("conversation-name")).to_have_text("Dropped")
    expect(rows(tab)).to_have_count(3)
    drop(page, json.dumps({**document, "messages": [{"role": "nobody", "content": "x"}]}))
    expect(page.get_by_test_id("error")).to_contain_text("messages.0.role")
    drop(page, "no JSON")
    expect(page.get_by_test_id("error")).to_contain_text("not JSON at line 1")
    expect(rows(tab)).to_have_count(3)
    tab.complaints.clear()  # the browser itself reports the 400s


def drop(page: Page, text: str) -> None:
    """Drop a file with this text on the sidebar."""
    page.evaluate(
        """text => {
          const dataTransfer = new DataTransfer();
          dataTransfer.items.add(new File([text], "talk.json", { type: "application/json" }));
          const options = { dataTransfer, bubbles: true, cancelable: true };
          for (const name of ["dragover", "drop"])
            document.getElementById("sidebar").dispatchEvent(new DragEvent(name, options));
        }""",
        text,
    )


def test_nobody_sees_or_finds_what_somebody_else_has_said(
    tab: Tab, person: Person, come: Callable[..., Tab], name: str
) -> None:
    bring(person, "Private", "The treasure is on the island.")
    tab.page.reload()
    expect(rows(tab)).to_have_text(["Private"])
    other = come(f"{name}-2")
    expect(other.page.get_by_test_id("sidebar")).to_contain_text("What you talk about is listed here.")
    other.page.get_by_test_id("search").fill("treasure")
    expect(other.page.get_by_test_id("search-status")).to_contain_text("No message has these words")
    tab.page.get_by_test_id("search").fill("treasure")
    expect(tab.page.get_by_test_id("search-result")).to_have_count(1)


def test_who_signs_in_next_finds_nothing_of_who_was_there(tab: Tab, person: Person, name: str) -> None:
    page = tab.page
    bring(person, "Private", "The treasure is on the island.")
    page.reload()
    page.get_by_test_id("search").fill("treasure")
    expect(page.get_by_test_id("search-result")).to_have_count(1)
    page.get_by_test_id("sign-out").click()
    tab.sign_in(f"{name}-2")
    tab.connect("openai:scripted")
    expect(page.get_by_test_id("sidebar")).to_contain_text("What you talk about is listed here.")
    expect(page.get_by_test_id("search")).to_have_value("")
    expect(page).to_have_title("MCP Chat")


def test_hostile_names_and_words_are_text(tab: Tab, person: Person) -> None:
    page = tab.page
    page.evaluate("void (window.pwned = () => { window.fell = true })")
    session = bring(person, "Hostile", f"{HOSTILE} ferry", "ok")
    document = {"schema": "mcp-chat/session/1", "name": HOSTILE, "messages": []}
    assert person.http.post("/llmchat/sessions/import", json=document).status_code == 201
    named = {"name": "<img src=x onerror=pwned()>\u05d0"}
    person.http.patch(f"/llmchat/sessions/{session}", json=named).raise_for_status()
    page.evaluate("dispatchEvent(new Event('focus'))")
    expect(rows(tab).first).to_have_text("<img src=x onerror=pwned()>\u05d0")
    rows(tab).first.click()
    expect(page.get_by_test_id("conversation-name")).to_have_text("<img src=x onerror=pwned()>\u05d0")
    page.get_by_test_id("search").fill("ferry")
    excerpt = page.get_by_test_id("search-result").locator(".excerpt")
    expect(excerpt).to_contain_text("<img src=x onerror=pwned()>[U+202E]txt.exe ferry")
    choose_title = page.locator(".title").get_by_test_id("conversation-menu")
    choose_title.click()
    page.get_by_test_id("delete").click()
    expect(page.get_by_test_id("erase")).to_contain_text("“<img src=x onerror=pwned()>")
    assert page.locator("img:not(.mark)").count() == 0
    assert page.evaluate("window.fell") is None


def test_an_answer_on_its_way_elsewhere_is_marked_until_it_is_there(tab: Tab, scripted: ModelServer) -> None:
    page = tab.page
    hold = threading.Event()
    scripted.will(Reply(text="one two", hold=hold))
    tab.send("count")
    expect(page.get_by_test_id("message-assistant")).to_contain_text("one")
    page.get_by_test_id("new-chat").click()
    expect(page.get_by_test_id("message-user")).to_have_count(0)
    live = page.get_by_test_id("conversation-running")
    expect(live).to_have_count(1)
    tab.picture("running")
    hold.set()
    expect(live).to_have_count(0)
    row(tab, "count").locator(".open").click()
    tab.answers("one two")


def test_a_new_conversation_is_there_at_once_and_takes_what_is_written(tab: Tab, person: Person) -> None:
    page, begun = tab.page, list[Route]()
    tab.send("hello")
    tab.answers("hello")
    page.route(
        "**/llmchat/sessions",
        lambda route: begun.append(route) if route.request.method == "POST" else route.continue_(),
    )
    with page.expect_request(lambda request: request.method == "POST"):
        page.get_by_test_id("new-chat").first.click()
    expect(page.get_by_test_id("message-user")).to_have_count(0)
    expect(page.get_by_test_id("composer")).to_be_focused()
    page.get_by_test_id("new-chat").first.click()
    page.get_by_test_id("file-input").set_input_files(
        {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"Oslo"}
    )
    expect(page.get_by_test_id("attachment")).to_have_attribute("data-state", "ready")
    tab.send("goes to the old one")
    expect(page.get_by_test_id("waits")).to_be_visible()
    tab.send("goes to the new one")
    page.keyboard.press("Enter")
    expect(page.get_by_test_id("composer")).to_have_value("goes to the new one")
    [route] = begun
    route.continue_()
    tab.answers("goes to the new one")
    expect(page.get_by_test_id("message-user")).to_have_count(1)
    expect(page.get_by_test_id("message-user").get_by_role("link", name="notes.txt")).to_be_visible()
    expect(page.get_by_test_id("composer")).to_have_value("")
    assert len(begun) == 1
    page.go_back()
    tab.answers("hello")
    expect(page.get_by_test_id("message-user")).to_have_count(1)
    page.go_forward()
    tab.answers("goes to the new one")
    assert sorted(each["name"] for each in person.get("sessions").json()["sessions"]) == [
        "goes to the new one",
        "hello",
    ]


def test_what_is_written_before_the_new_conversation_has_an_id_stays(tab: Tab) -> None:
    page, begun = tab.page, list[Route]()
    tab.send("hello")
    tab.answers("hello")
    page.route(
        "**/llmchat/sessions",
        lambda route: begun.append(route) if route.request.method == "POST" else route.continue_(),
    )
    page.get_by_test_id("new-chat").first.click()
    page.get_by_test_id("composer").fill("a thought")
    page.get_by_test_id("file-input").set_input_files(
        {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"Oslo"}
    )
    expect(page.get_by_test_id("attachment")).to_have_attribute("data-state", "ready")
    with page.expect_response("**/llmchat/events*"):
        begun[0].continue_()
    for _ in ("now", "after a reload"):
        expect(page.get_by_test_id("composer")).to_have_value("a thought")
        expect(page.get_by_test_id("attachment")).to_have_count(1)
        page.reload()
    page.go_back()
    expect(page.get_by_test_id("message-user")).to_have_count(1)
    expect(page.get_by_test_id("composer")).to_have_value("")
    expect(page.get_by_test_id("attachment")).to_have_count(0)


def test_what_was_written_before_it_was_left_is_in_the_next_new_conversation(tab: Tab) -> None:
    page, begun = tab.page, list[Route]()
    for text in ("one", "two"):
        tab.send(text)
        tab.answers(text)
        if text == "one":
            page.get_by_test_id("new-chat").first.click()
            expect(page.get_by_test_id("message-user")).to_have_count(0)
    page.route(
        "**/llmchat/sessions",
        lambda route: begun.append(route) if route.request.method == "POST" else route.continue_(),
    )
    page.get_by_test_id("new-chat").first.click()
    tab.send("a thought")
    expect(page.get_by_test_id("waits")).to_be_visible()
    page.get_by_test_id("sidebar").get_by_role("button", name="one", exact=True).click()
    tab.answers("one")
    with page.expect_response(lambda response: response.request.method == "POST"):
        begun[0].continue_()
    expect(page.get_by_test_id("composer")).to_have_value("")
    page.get_by_test_id("new-chat").first.click()
    expect(page.get_by_test_id("composer")).to_have_value("a thought")
    expect(page.get_by_test_id("message-user")).to_have_count(0)
    page.keyboard.press("Enter")
    tab.answers("a thought")
    assert len(begun) == 1


def test_who_comes_next_sees_nothing_of_what_was_found(tab: Tab, name: str) -> None:
    page = tab.page
    tab.send("a secret plan")
    tab.answers("a secret plan")
    field = page.get_by_test_id("search")
    field.fill("secret")
    expect(page.get_by_test_id("search-result")).not_to_have_count(0)
    page.get_by_test_id("sidebar-hide").click()
    page.get_by_test_id("sign-out").click()
    tab.sign_in(f"{name}-next")
    tab.connect("openai:scripted")
    page.get_by_test_id("sidebar-show").click()
    page.route("**/llmchat/search?*", lambda route: None)
    field.fill("secret")
    expect(page.get_by_test_id("search-status")).to_be_visible()
    expect(page.get_by_test_id("search-result")).to_have_count(0)
    page.unroute_all(behavior="ignoreErrors")


def test_a_conversation_that_could_not_be_begun_begins_with_its_first_message(tab: Tab) -> None:
    page = tab.page
    tab.send("hello")
    tab.answers("hello")
    page.route(
        "**/llmchat/sessions",
        lambda route: route.abort() if route.request.method == "POST" else route.continue_(),
    )
    page.get_by_test_id("new-chat").first.click()
    expect(page.get_by_test_id("error")).to_be_visible()
    tab.send("here I am")
    tab.answers("here I am")
    expect(page.get_by_test_id("message-user")).to_have_count(1)
    page.reload()
    tab.answers("here I am")
    tab.complaints.clear()


def test_the_sidebar_stays_as_it_was_left(tab: Tab, person: Person) -> None:
    page = tab.page
    bring(person, "Ships", "hello")
    page.get_by_test_id("sidebar-hide").click()
    expect(page.get_by_test_id("sidebar")).to_have_count(0)
    expect(page.get_by_test_id("sidebar-show")).to_be_focused()
    page.reload()
    expect(page.get_by_test_id("connected-badge")).to_be_visible()
    expect(page.get_by_test_id("sidebar")).to_have_count(0)
    page.locator("main").focus()
    page.keyboard.press("/")
    expect(page.get_by_test_id("sidebar")).to_have_count(0)
    page.keyboard.press("Control+k")
    expect(page.get_by_test_id("search")).to_be_focused()
    expect(rows(tab)).to_have_text(["Ships"])
    page.reload()
    expect(page.get_by_test_id("sidebar")).to_be_visible()


def test_on_a_phone_the_sidebar_is_a_drawer(
    come: Callable[..., Tab], installation: Installation, name: str
) -> None:
    with installation.person(name) as person:
        bring(person, "Ships", "hello")
    width, height = SIZES["phone"]
    tab = come(name, viewport={"width": width, "height": height}, has_touch=True)
    page = tab.page
    drawer, button = page.get_by_test_id("sidebar"), page.get_by_test_id("sidebar-show")
    expect(drawer).to_have_count(0)
    button.click()
    expect(rows(tab)).to_have_text(["Ships"])
    if PICTURES:
        page.screenshot(path=Path(PICTURES) / "drawer.png", animations="disabled")
    for _ in range(12):
        page.keyboard.press("Tab")
        assert page.evaluate("!document.activeElement.closest('.page')")
    page.get_by_test_id("search").focus()
    page.keyboard.press("Escape")
    expect(drawer).to_have_count(0)
    expect(button).to_be_focused()
    button.click()
    page.mouse.click(width - 10, height / 2)
    expect(drawer).to_have_count(0)
    button.click()
    row(tab, "Ships").locator(".open").click()
    expect(drawer).to_have_count(0)
    expect(page.get_by_test_id("message-user")).to_have_text("hello")
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_what_has_no_room_in_the_header_is_in_a_menu(come: Callable[..., Tab], name: str) -> None:
    tab = come(name)
    page = tab.page
    page.set_viewport_size({"width": 375, "height": 740})
    where, more = page.locator(".where"), page.get_by_test_id("more")
    expect(where).not_to_be_visible()
    more.click()
    expect(where).to_have_text("demo · scripted")
    if PICTURES:
        page.screenshot(path=Path(PICTURES) / "menu.png")
    page.keyboard.press("Escape")
    expect(where).not_to_be_visible()
    expect(more).to_be_focused()
    more.click()
    page.get_by_test_id("manner").click()
    expect(page.get_by_test_id("manner-prompt")).to_be_visible()
    page.keyboard.press("Escape")
    more.click()
    page.get_by_test_id("disconnect").click()
    expect(page.get_by_test_id("connect")).to_be_visible()


def test_without_a_database_there_is_no_list_and_no_complaint(
    browser: Browser, serve: Callable[..., str], demo_url: str, tmp_path: Path, name: str
) -> None:
    servers = tmp_path / "servers.json"
    servers.write_text(json.dumps({"mcpServers": {"demo": {"url": demo_url}}}))
    tab = Tab(browser.new_context(), serve(database_url="", servers_file=servers))
    page = tab.page
    tab.sign_in(name)
    tab.connect("openai:scripted")
    expect(page.get_by_test_id("new-chat")).to_be_visible()
    expect(page.get_by_test_id("sidebar")).to_have_count(0)
    tab.send("hello")
    tab.answers("1 messages")
    page.keyboard.press("Control+Shift+O")
    expect(page.get_by_test_id("message-user")).to_have_count(0)
    tab.send("hello again")
    tab.answers("1 messages")
    page.keyboard.press("Control+k")
    expect(page.get_by_test_id("sidebar")).to_have_count(0)
    assert page.get_by_test_id("error").all_text_contents() == []
    asked = ("501", "404")  # for what is kept, and for a conversation that was just beginning
    assert [text for text in tab.complaints if not any(each in text for each in asked)] == []
    page.context.close()
