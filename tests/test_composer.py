"""The text field of the chat tab as a person uses it: prompts, resources, files, and the keyboard for all."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, Final

import pytest
from mcp.server import MCPServer
from playwright.sync_api import Browser, Dialog, FilePayload, Locator, Page, Route, expect

from tests.installation import Installation
from tests.model_server import ModelServer, Reply
from tests.offering_mcp import Offering
from tests.person import Person
from tests.running import running, wait_until
from tests.tab import Tab, chromium

pytestmark = pytest.mark.slow

EVIL: Final = "<img src=x onerror=alert(1)>\u202egnp"
LARGEST: Final = 60_000


def first(tab: Tab, held: list[Route]) -> Route:
    """The first request that is held, when it is there."""

    def there() -> bool:
        tab.page.wait_for_timeout(10)  # the browser is heard while one waits for its page
        return bool(held)

    wait_until(there, "a request is on its way")
    return held[0]


def png(width: int) -> bytes:
    """A square picture."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = (b"\0" + b"\x40\x80\xc0" * width) * width
    head = struct.pack(">IIBBBBB", width, width, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


CAT: Final[FilePayload] = {"name": "cat.png", "mimeType": "image/png", "buffer": png(40)}
CODE: Final[FilePayload] = {"name": "code.py", "mimeType": "text/x-python", "buffer": b"print('a')"}


def evil() -> MCPServer:
    """A server whose words are not nice."""
    server = MCPServer("evil")
    server.prompt(name=f"evil{EVIL}", title=EVIL, description=f"<b>bold</b>{EVIL}")(lambda: "Be <b>evil</b>.")
    server.resource("evil://1", name=EVIL, title=EVIL, description=EVIL, mime_type="text/plain")(lambda: EVIL)
    return server


@pytest.fixture(scope="module")
def scripted() -> ModelServer:
    return ModelServer()


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory, scripted: ModelServer) -> Iterator[Installation]:
    with ExitStack() as stack:
        model_url = stack.enter_context(running(scripted.app))
        shop = stack.enter_context(running(Offering(modern=True).app("streamable_http"), grace=0))
        bad = stack.enter_context(running(evil().streamable_http_app(), grace=0))
        yield stack.enter_context(
            Installation(
                tmp_path_factory.mktemp("composer"),
                f"{model_url}/v1",
                servers={"shop": {"url": f"{shop}/mcp"}, "evil": {"url": f"{bad}/mcp"}},
                MCP_CHAT_MAX_UPLOAD_BYTES=str(LARGEST),
                MCP_CHAT_UPLOAD_QUOTA_BYTES="100000",
            )
        )


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def tab(browser: Browser, installation: Installation, name: str, scripted: ModelServer) -> Iterator[Tab]:
    """Somebody who is connected to the server with prompts and resources."""
    yield from come(browser, installation, name, scripted, "shop")


@pytest.fixture
def demo(browser: Browser, installation: Installation, name: str, scripted: ModelServer) -> Iterator[Tab]:
    """Somebody who is connected to the demo."""
    yield from come(browser, installation, name, scripted, "demo")


@pytest.fixture
def bad(browser: Browser, installation: Installation, name: str, scripted: ModelServer) -> Iterator[Tab]:
    """Somebody who is connected to the server whose words are not nice."""
    yield from come(browser, installation, name, scripted, "evil")


def come(
    browser: Browser, installation: Installation, name: str, scripted: ModelServer, server: str
) -> Iterator[Tab]:
    scripted.will()
    scripted.requests.clear()
    with browser.new_context() as context:
        tab = Tab(context, installation.url)
        tab.sign_in(name)
        tab.page.get_by_test_id("server-select").select_option(server)
        tab.connect("openai:scripted")
        expect(tab.page.get_by_test_id("composer")).to_be_focused()
        yield tab
        assert tab.complaints == []
        assert [url for url in tab.requests if not url.startswith((installation.url, "data:"))] == []


def field(tab: Tab) -> Locator:
    return tab.page.get_by_test_id("composer")


def options(tab: Tab) -> Locator:
    """The list over the field."""
    return tab.page.get_by_role("listbox").get_by_role("option")


def selected(tab: Tab) -> Locator:
    return tab.page.locator("[role=option][aria-selected=true]")


def argument(page: Page, name: str) -> Locator:
    return page.locator(f"[data-testid=argument][data-name={name}]")


def asked(scripted: ModelServer) -> Any:
    """What the model was told last by the user."""
    return [each for each in scripted.requests[-1]["messages"] if each["role"] == "user"][-1]["content"]


def attach(tab: Tab, *files: FilePayload) -> None:
    tab.page.get_by_test_id("file-input").set_input_files(files)


def enclosures(tab: Tab) -> Locator:
    return tab.page.get_by_test_id("attachment")


# Prompts


def test_a_prompt_is_found_filled_in_with_completion_and_begins_the_message(
    tab: Tab, scripted: ModelServer
) -> None:
    page = tab.page
    page.keyboard.type("/")
    expect(selected(tab)).to_contain_text("Greeting")
    expect(field(tab)).to_have_attribute("aria-activedescendant", "offers-0")
    expect(options(tab)).to_have_count(6)
    tab.picture("composer-prompts")
    page.keyboard.press("ArrowDown")
    expect(selected(tab)).to_contain_text("debate")
    page.keyboard.type("gre")
    expect(options(tab)).to_have_count(1)
    page.keyboard.press("Enter")
    expect(argument(page, "name")).to_be_focused()
    expect(field(tab)).to_have_value("")
    page.keyboard.type("Ann")
    page.keyboard.press("Tab")
    page.keyboard.type("wa")
    expect(options(tab)).to_have_text(["warm", "wary"])
    expect(selected(tab)).to_have_count(0)
    tab.picture("composer-arguments")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    expect(argument(page, "tone")).to_have_value("wary")
    page.keyboard.press("Enter")
    expect(field(tab)).to_be_focused()
    page.keyboard.type("And be brief.")
    page.keyboard.press("Enter")
    tab.answers("Greet Ann in a wary tone.")
    assert asked(scripted) == "Greet Ann in a wary tone.\n\nAnd be brief."
    expect(page.get_by_test_id("message-user")).to_contain_text("Greet Ann in a wary tone. And be brief.")
    expect(page.get_by_test_id("went-with")).to_contain_text("greet")
    expect(page.get_by_test_id("enclosed")).to_have_count(0)


def test_a_prompt_says_what_it_needs_before_it_is_sent(tab: Tab, scripted: ModelServer) -> None:
    page = tab.page
    page.keyboard.type("/greet")
    expect(selected(tab)).to_be_visible()
    page.keyboard.press("Tab")
    expect(argument(page, "name")).to_be_focused()
    field(tab).click()
    page.keyboard.press("Enter")
    expect(argument(page, "name")).to_be_focused()
    assert scripted.requests == []
    page.keyboard.press("Escape")
    expect(page.get_by_test_id("prompt")).to_have_count(0)
    expect(field(tab)).to_be_focused()


def test_a_conversation_that_a_prompt_begins_is_shown_whole(tab: Tab) -> None:
    page = tab.page
    page.keyboard.type("/debate")
    expect(selected(tab)).to_be_visible()
    page.keyboard.press("Enter")
    expect(argument(page, "topic")).to_be_focused()
    page.keyboard.type("tea")
    page.keyboard.press("Enter")
    page.keyboard.press("Enter")
    tab.answers("I am for it.")
    expect(page.get_by_test_id("message-user")).to_have_count(2)
    expect(page.get_by_test_id("message-assistant").first).to_contain_text("Gladly. What is your view?")


def test_a_word_that_is_no_prompt_is_just_text(tab: Tab, scripted: ModelServer) -> None:
    page = tab.page
    page.keyboard.type("/")
    expect(options(tab)).not_to_have_count(0)
    page.keyboard.type("nothing")
    expect(options(tab)).to_have_count(0)
    page.keyboard.press("Enter")
    tab.answers("/nothing")
    page.keyboard.type("/gr")
    expect(options(tab)).to_have_count(1)
    page.keyboard.press("Escape")
    expect(options(tab)).to_have_count(0)
    page.keyboard.type("eet")
    page.keyboard.press("Enter")
    tab.answers("/greet")
    assert asked(scripted) == "/greet"


def test_what_is_typed_while_the_list_is_on_its_way_counts(tab: Tab) -> None:
    page = tab.page
    held: list[Route] = []

    def hold(route: Route) -> None:
        held.append(route)

    page.route("**/view/offers.js", hold)
    with page.expect_request("**/view/offers.js"):
        page.keyboard.type("/gr")
    page.keyboard.type("ee")
    expect(field(tab)).to_have_value("/gree")
    first(tab, held).continue_()
    expect(options(tab)).to_have_count(1)
    expect(field(tab)).to_be_focused()
    page.keyboard.press("Enter")
    expect(argument(page, "name")).to_be_focused()


def test_the_commands_of_the_demo_are_sent_as_ever(demo: Tab) -> None:
    demo.page.get_by_test_id("model-button").click()
    demo.page.locator("[data-model='demo:demo'] input").check()
    demo.page.get_by_test_id("model-here").click()
    field(demo).click()
    demo.page.keyboard.type("/echo hello")
    demo.page.keyboard.press("Enter")
    demo.answers("hello")


# Resources


def test_resources_and_templates_go_with_a_message(tab: Tab, scripted: ModelServer) -> None:
    page = tab.page
    page.keyboard.type("See @tod")
    expect(selected(tab)).to_contain_text("notes://today")
    tab.picture("composer-resources")
    page.keyboard.press("Enter")
    expect(field(tab)).to_have_value("See ")
    page.keyboard.type("and @cat")
    expect(selected(tab)).to_contain_text("image://cat.png")
    page.keyboard.press("Tab")
    page.keyboard.type("and @notes://day")
    expect(selected(tab)).to_contain_text("notes://day/{day}")
    page.keyboard.press("Enter")
    expect(argument(page, "day")).to_be_focused()
    expect(options(tab)).to_have_text(["-x"])
    page.keyboard.type("first of may")
    page.keyboard.press("Enter")
    expect(page.get_by_test_id("resource")).to_have_count(3)
    page.get_by_test_id("resource").filter(has_text="cat").get_by_test_id("enclosed-remove").click()
    expect(page.get_by_test_id("resource")).to_have_count(2)
    page.keyboard.press("Enter")
    tab.answers("notes of first of may")
    text, *others = [each["text"] for each in asked(scripted)]
    assert text.strip() == "See and and"
    assert [each.partition(" of the server")[0] for each in others] == [
        "The resource notes://today",
        "The resource notes://day/first%20of%20may",
    ]
    expect(page.get_by_test_id("went-with")).to_contain_text("today")


def test_an_address_of_somebody_opens_no_list(tab: Tab) -> None:
    page = tab.page
    page.keyboard.type("ann@")
    expect(options(tab)).to_have_count(0)
    page.keyboard.type(" @")
    expect(options(tab)).not_to_have_count(0)


# Files


def test_files_come_by_the_button_by_dropping_and_by_pasting(tab: Tab, scripted: ModelServer) -> None:
    page = tab.page
    expect(page.get_by_test_id("send")).to_be_disabled()
    attach(tab, CAT)
    expect(enclosures(tab)).to_have_attribute("data-state", "ready")
    expect(enclosures(tab).locator("img")).to_have_js_property("naturalWidth", 40)
    for event, name in (("drop", "dropped.txt"), ("paste", "pasted.md")):
        page.evaluate(GIVE, [event, name, "# Title"])
        expect(enclosures(tab).filter(has_text=name)).to_have_attribute("data-state", "ready")
    attach(tab, CODE)
    expect(enclosures(tab)).to_have_count(4)
    enclosures(tab).filter(has_text="dropped").get_by_test_id("enclosed-remove").click()
    expect(enclosures(tab)).to_have_count(3)
    expect(page.get_by_test_id("enclosed")).to_have_attribute("aria-busy", "false")
    tab.picture("composer-files")
    scripted.will(Reply(text="I see."))
    page.get_by_test_id("send").click()
    tab.answers("I see.")
    picture, pasted, code = asked(scripted)
    assert picture["image_url"]["url"].startswith("data:image/png;base64,")
    assert ("pasted.md" in pasted["text"], "print('a')" in code["text"]) == (True, True)
    sent = page.get_by_test_id("message-user")
    expect(sent.locator("img")).to_have_js_property("naturalWidth", 40)
    page.reload()
    expect(sent.locator("img")).to_have_js_property("naturalWidth", 40)
    expect(sent.get_by_role("link", name="code.py")).to_be_visible()


GIVE = """([event, name, text]) => {
  const data = new DataTransfer();
  data.items.add(new File([text], name, {type: "text/markdown"}));
  const made = event === "drop"
    ? new DragEvent("drop", {dataTransfer: data, bubbles: true, cancelable: true})
    : new ClipboardEvent("paste", {clipboardData: data, bubbles: true, cancelable: true});
  document.querySelector("[data-testid=composer]").dispatchEvent(made);
}"""


@pytest.mark.parametrize(
    ("file", "sentence"),
    [
        ({"name": "a.zip", "mimeType": "application/zip", "buffer": b"PK"}, "Only pictures"),
        ({"name": "a.png", "mimeType": "image/png", "buffer": b"no picture"}, "image/png"),
        ({"name": "a.txt", "mimeType": "text/plain", "buffer": b""}, "empty"),
        (
            {"name": "a.txt", "mimeType": "text/plain", "buffer": b"x" * (LARGEST + 1)},
            "larger than 60 kB",
        ),
    ],
    ids=["type", "content", "empty", "size"],
)
def test_a_file_that_cannot_be_attached_says_why(tab: Tab, file: FilePayload, sentence: str) -> None:
    attach(tab, file)
    expect(enclosures(tab)).to_have_attribute("data-state", "failed")
    expect(enclosures(tab).get_by_role("alert")).to_contain_text(sentence)
    expect(tab.page.get_by_test_id("send")).to_be_disabled()
    enclosures(tab).get_by_test_id("enclosed-remove").click()
    expect(enclosures(tab)).to_have_count(0)
    tab.complaints.clear()  # the browser itself reports the refusal


def test_no_more_files_than_there_is_room_for(tab: Tab) -> None:
    halves: list[FilePayload] = [
        {"name": f"{n}.txt", "mimeType": "text/plain", "buffer": bytes([65 + n]) * 50_000} for n in range(3)
    ]
    attach(tab, *halves)
    expect(enclosures(tab).last).to_have_attribute("data-state", "failed")
    expect(enclosures(tab).last.get_by_role("alert")).to_contain_text("100 kB")
    few: list[FilePayload] = [
        {"name": f"{n}.txt", "mimeType": "text/plain", "buffer": bytes([70 + n])} for n in range(7)
    ]
    enclosures(tab).last.get_by_test_id("enclosed-remove").click()
    attach(tab, *few)
    expect(enclosures(tab).last.get_by_role("alert")).to_have_text("A message can have 8 files at most.")
    tab.complaints.clear()


def test_without_storage_the_sentence_says_so(tab: Tab) -> None:
    refused = {"detail": "This needs a database.", "code": "no_archive"}
    tab.page.route("**/llmchat/uploads?*", lambda route: route.fulfill(status=501, json=refused))
    attach(tab, CAT)
    expect(enclosures(tab).get_by_role("alert")).to_have_text("This chat keeps no files: it has no database.")
    tab.complaints.clear()


@pytest.fixture
def held(tab: Tab) -> list[Route]:
    """Uploads on their way: they get there when somebody lets them."""
    held: list[Route] = []

    def hold(route: Route) -> None:
        held.append(route)

    tab.page.route("**/llmchat/uploads?*", hold)
    return held


def test_a_message_waits_for_its_files_and_goes_once_they_are_there(
    tab: Tab, scripted: ModelServer, held: list[Route]
) -> None:
    attach(tab, CAT)
    expect(enclosures(tab).get_by_role("progressbar")).to_be_visible()
    waits = tab.page.get_by_test_id("waits")
    tab.page.keyboard.type("Look")
    tab.page.keyboard.press("Enter")
    expect(waits).to_contain_text("as soon as all of it is here")
    expect(tab.page.get_by_test_id("send")).to_be_disabled()
    tab.page.keyboard.press("Escape")
    expect(waits).to_have_count(0)
    tab.page.keyboard.press("Enter")
    expect(waits).to_be_visible()
    expect(field(tab)).to_have_value("Look")
    scripted.will(Reply(text="Seen."))
    first(tab, held).continue_()
    tab.answers("Seen.")
    expect(tab.page.get_by_test_id("message-user").get_by_role("img", name=CAT["name"])).to_be_visible()


@pytest.mark.usefixtures("held")
def test_a_message_whose_file_is_taken_away_or_whose_words_change_waits_no_more(tab: Tab) -> None:
    attach(tab, CAT)
    waits = tab.page.get_by_test_id("waits")
    tab.send("Look")
    expect(waits).to_be_visible()
    tab.page.keyboard.type(" here")
    expect(waits).to_have_count(0)
    tab.page.keyboard.press("Enter")
    expect(waits).to_be_visible()
    tab.page.get_by_test_id("enclosed-remove").click()
    expect(waits).to_have_count(0)
    expect(field(tab)).to_have_value("Look here")
    expect(tab.page.get_by_test_id("message-user")).to_have_count(0)


def test_a_message_stays_if_the_file_it_waits_for_fails(
    tab: Tab, scripted: ModelServer, held: list[Route]
) -> None:
    attach(tab, CAT)
    expect(enclosures(tab).get_by_role("progressbar")).to_be_visible()
    tab.page.keyboard.type("Look")
    tab.page.keyboard.press("Enter")
    expect(tab.page.get_by_test_id("waits")).to_be_visible()
    first(tab, held).fulfill(status=413, json={"detail": "That is too much."})
    expect(enclosures(tab).get_by_role("alert")).to_have_text("That is too much.")
    expect(tab.page.get_by_test_id("waits")).to_have_count(0)
    expect(field(tab)).to_have_value("Look")
    expect(tab.page.get_by_test_id("message-user")).to_have_count(0)
    tab.complaints.clear()


def test_a_long_text_that_is_pasted_can_become_a_file(tab: Tab, scripted: ModelServer) -> None:
    page = tab.page
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.keyboard.type("Read: ")
    for count in (9_000, 12_000):
        page.evaluate("count => navigator.clipboard.writeText('x'.repeat(count))", count)
        page.keyboard.press("Control+V")
        expect(page.get_by_test_id("long-text")).to_have_count(int(count > 10_000))
    expect(page.get_by_test_id("long-text")).to_contain_text("12,000 characters")
    tab.picture("composer-long-text")
    page.get_by_test_id("paste-as-file").click()
    expect(field(tab)).to_have_value("Read: " + "x" * 9_000)
    expect(enclosures(tab)).to_contain_text("pasted.txt")
    expect(enclosures(tab)).to_have_attribute("data-state", "ready")
    expect(field(tab)).to_be_focused()
    page.keyboard.press("Enter")
    tab.answers("pasted.txt")
    assert "x" * 12_000 in asked(scripted)[1]["text"]


# The draft


def test_what_goes_with_a_message_is_kept_with_the_draft(tab: Tab, scripted: ModelServer) -> None:
    page = tab.page
    page.keyboard.type("/greet")
    expect(selected(tab)).to_be_visible()
    page.keyboard.press("Enter")
    expect(argument(page, "name")).to_be_focused()
    page.keyboard.type("Ann")
    field(tab).click()
    page.keyboard.type("Look at @today")
    expect(selected(tab)).to_be_visible()
    page.keyboard.press("Enter")
    attach(tab, CODE)
    expect(enclosures(tab)).to_have_attribute("data-state", "ready")
    page.reload()
    expect(argument(page, "name")).to_have_value("Ann")
    expect(enclosures(tab)).to_contain_text("code.py")
    expect(page.get_by_test_id("resource")).to_contain_text("today")
    field(tab).click()
    page.keyboard.press("Enter")
    tab.answers("Greet Ann in a warm tone.")
    assert len(asked(scripted)) == 3
    page.reload()
    expect(page.get_by_test_id("message-user")).to_be_visible()
    expect(page.get_by_test_id("enclosed")).to_have_count(0)


def test_what_was_not_taken_is_back_with_all_that_went_with_it(tab: Tab, scripted: ModelServer) -> None:
    page = tab.page
    attach(tab, CODE)
    expect(enclosures(tab)).to_have_attribute("data-state", "ready")
    refused = {"detail": "Later, please.", "code": "busy"}
    page.route("**/llmchat/chat", lambda route: route.fulfill(status=503, json=refused))
    page.get_by_test_id("send").click()
    expect(page.get_by_test_id("error")).to_contain_text("Later, please.")
    expect(enclosures(tab)).to_contain_text("code.py")
    page.unroute_all()
    page.get_by_test_id("send").click()
    tab.answers("print('a')")
    tab.complaints.clear()  # of the 503


def test_a_file_of_somebody_else_is_not_taken(
    tab: Tab, installation: Installation, name: str, scripted: ModelServer
) -> None:
    page = tab.page
    with Person(installation.url, f"{name}-other") as other:
        headers = {"content-type": "text/plain"}
        sent = other.http.post("/llmchat/uploads?name=secret.txt", content=b"secret", headers=headers)
    stolen = {"id": sent.json()["upload_id"], "name": "secret.txt", "type": "text/plain", "size": 6}
    kept = json.dumps({"files": [stolen], "resources": [], "prompt": None})
    page.evaluate("([key, kept]) => sessionStorage.setItem(key, kept)", [f"mcp-chat:enclosed:{name}", kept])
    page.reload()
    expect(enclosures(tab)).to_contain_text("secret.txt")
    page.get_by_test_id("send").click()
    expect(page.get_by_test_id("error").first).to_contain_text("does not exist")
    assert scripted.requests == []
    tab.complaints.clear()  # of the refusals


# The keyboard


def test_the_keyboard_does_it_all(tab: Tab, scripted: ModelServer) -> None:
    page = tab.page
    page.keyboard.type("one")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("two")
    page.keyboard.press("Enter")
    tab.answers("one")
    assert asked(scripted) == "one\ntwo"
    expect(page.get_by_test_id("edit")).to_be_enabled()
    page.keyboard.press("ArrowUp")
    expect(page.get_by_test_id("editor")).to_be_focused()
    page.keyboard.type(" three")
    page.keyboard.press("Enter")
    tab.answers("three")
    expect(page.get_by_test_id("message-user")).to_have_count(1)
    scripted.will(Reply(text="never ending", hang_after=2))
    page.keyboard.type("go")
    page.keyboard.press("ArrowUp")
    expect(page.get_by_test_id("editor")).to_have_count(0)
    page.keyboard.press("Enter")
    expect(page.get_by_test_id("message-assistant").last).to_contain_text("never")
    page.keyboard.press("Escape")
    expect(page.get_by_test_id("stopped")).to_be_visible()
    page.keyboard.press("Tab")
    expect(page.get_by_test_id("attach")).to_be_focused()
    page.keyboard.press("Tab")
    expect(page.get_by_test_id("model-button")).to_be_focused()


def test_an_edited_message_keeps_its_files(tab: Tab, scripted: ModelServer) -> None:
    page = tab.page
    attach(tab, CODE)
    page.keyboard.type("What is this?")
    expect(enclosures(tab)).to_have_attribute("data-state", "ready")
    page.keyboard.press("Enter")
    tab.answers("print('a')")
    page.get_by_test_id("edit").click()
    expect(page.get_by_test_id("editor")).to_be_focused()
    page.get_by_test_id("editor").fill("And this?")
    page.keyboard.press("Enter")
    tab.answers("And this?")
    assert [each["text"].partition("\n")[0] for each in asked(scripted)] == ["And this?", "The file code.py:"]
    expect(page.get_by_test_id("went-with")).to_contain_text("code.py")


# What servers say is text


def test_names_of_prompts_and_resources_are_text(bad: Tab) -> None:
    page = bad.page
    shown = "<img src=x onerror=alert(1)>"
    dialogs: list[str] = []

    def note(dialog: Dialog) -> None:
        dialogs.append(dialog.message)
        dialog.dismiss()

    page.on("dialog", note)
    page.keyboard.type("/evil")
    expect(options(bad)).to_contain_text(shown)
    page.keyboard.press("Enter")
    expect(page.get_by_test_id("prompt")).to_contain_text(shown)
    page.keyboard.type("@ev")
    expect(options(bad)).to_contain_text("evil://1")
    page.keyboard.press("Enter")
    expect(page.get_by_test_id("resource")).to_contain_text(shown)
    page.keyboard.press("Enter")
    bad.answers("evil")
    expect(page.get_by_test_id("went-with")).to_contain_text(shown)
    for each in page.get_by_test_id("went-with").all_inner_texts():
        assert "\u202e" not in each
    assert (dialogs, page.locator("[onerror]").count()) == ([], 0)


# A phone


def test_on_a_phone_all_of_it_fits(tab: Tab) -> None:
    page = tab.page
    page.set_viewport_size({"width": 320, "height": 640})
    page.keyboard.type("/")
    expect(options(tab)).not_to_have_count(0)
    inside(page, page.get_by_role("listbox"))
    options(tab).first.click()
    attach(tab, CAT, {"name": "x" * 60 + ".zip", "mimeType": "application/zip", "buffer": b"PK"})
    expect(enclosures(tab).first).to_have_attribute("data-state", "ready")
    for testid in ("enclosed", "attach", "model-button", "send", "composer"):
        inside(page, page.get_by_test_id(testid))
    page.get_by_test_id("model-button").click()
    inside(page, page.get_by_test_id("model-here"))


def inside(page: Page, part: Locator) -> None:
    """See that a part is in the window, and the window as wide as the page."""
    box = part.bounding_box()
    assert box
    assert (box["x"] >= 0, box["y"] >= 0) == (True, True)
    assert (box["x"] + box["width"] <= 320, box["y"] + box["height"] <= 640) == (True, True)
    assert page.evaluate("document.documentElement.scrollWidth") == 320
