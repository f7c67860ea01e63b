"""What a model and its tools say is shown as what it is: in a real browser, with real tools behind it."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from anyio import to_thread
from mcp.server import MCPServer
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ToolError
from mcp_types import (
    AudioContent,
    BlobResourceContents,
    CallToolResult,
    EmbeddedResource,
    ImageContent,
    ResourceLink,
    TextContent,
    TextResourceContents,
)
from playwright.sync_api import Browser, Locator, expect

from tests.installation import Installation
from tests.model_server import ModelServer, Reply
from tests.running import running
from tests.tab import Tab, chromium
from tests.test_mcp_tab import png, wav

pytestmark = pytest.mark.slow

PEOPLE = [{"name": "Ada", "born": 1815}, {"name": "Grace\u202e", "born": 1906, "note": 'said "hi"'}]
DEEP = {
    "place": {"city": "Zürich", "at": [47.4, 8.5]},
    "open": True,
    "many": list(range(250)),
    "long": "z" * 500,
}
LONG = "\n".join(f"line {n} of many" for n in range(60_000))


def text(said: str) -> TextContent:
    return TextContent(type="text", text=said)


def encoded(content: bytes) -> str:
    return base64.b64encode(content).decode()


RESULTS: dict[str, list[Any]] = {
    "text": [text("just words")],
    "tree": [text(json.dumps(DEEP))],
    "table": [text(json.dumps(PEOPLE))],
    "blocks": [text(json.dumps(each, indent=2)) for each in PEOPLE],
    "picture": [text("See:"), ImageContent(type="image", data=encoded(png(320, 200)), mime_type="image/png")],
    "sound": [AudioContent(type="audio", data=encoded(wav(1.5)), mime_type="audio/wav")],
    "resources": [
        EmbeddedResource(type="resource", resource=TextResourceContents(uri="file:///n", text="a note")),
        EmbeddedResource(
            type="resource",
            resource=BlobResourceContents(
                uri="file:///a/paper.pdf", blob=encoded(b"%PDF-1.7 x"), mime_type="application/pdf"
            ),
        ),
        ResourceLink(type="resource_link", uri="https://docs.example/a?b=c", name="the docs"),
        ResourceLink(type="resource_link", uri="javascript:alert(1)", name="a trap"),
    ],
    "long": [text(LONG)],
}


def gallery() -> MCPServer:
    """A server whose tool gives what it is asked for."""
    server = MCPServer("gallery", log_level="ERROR")

    @server.tool()
    async def give(what: str) -> CallToolResult:
        return CallToolResult(content=RESULTS[what])

    @server.tool()
    async def both() -> CallToolResult:
        return CallToolResult(content=[text("Two people.")], structured_content={"people": PEOPLE})

    @server.tool()
    async def find_pictures() -> str:
        return "none"

    @server.tool()
    async def fail() -> str:
        raise ToolError("thunder and <b>lightning</b>")

    @server.tool()
    async def work(context: Context[Any, Any]) -> str:
        await context.report_progress(3, 4, "nearly there")
        await to_thread.run_sync(RELEASED.wait, 30)
        return "worked"

    return server


RELEASED = threading.Event()


@pytest.fixture(scope="module")
def scripted() -> ModelServer:
    return ModelServer()


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory, scripted: ModelServer) -> Iterator[Installation]:
    with (
        running(scripted.app) as model_url,
        running(gallery().streamable_http_app(), grace=0) as mcp_url,
        Installation(
            tmp_path_factory.mktemp("reading"),
            f"{model_url}/v1",
            servers={"gallery": {"url": f"{mcp_url}/mcp"}},
            MCP_CHAT_DEMO_SERVER="false",
            MCP_CHAT_MAX_RESULT_BYTES="4000000",
        ) as installation,
    ):
        yield installation


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


LATER = """{
    const later = setTimeout;
    window.setTimeout = (run, ms, ...more) => later(run, ms === 1600 ? 60000 : ms, ...more);
}"""
"""Lets what says that something was copied be read on a busy machine."""


@pytest.fixture
def tab(browser: Browser, installation: Installation, name: str) -> Iterator[Tab]:
    context = browser.new_context()
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    context.add_init_script(LATER)
    tab = Tab(context, installation.url)
    tab.sign_in(name)
    tab.connect("openai:scripted")
    yield tab
    assert tab.complaints == []
    assert [url for url in tab.requests if not url.startswith((installation.url, "data:"))] == []
    context.close()


def says(tab: Tab, scripted: ModelServer, said: str) -> Locator:
    """Have the model say something; return the answer."""
    scripted.will(Reply(text=said))
    tab.send("go")
    answer = tab.page.get_by_test_id("message-assistant").last
    expect(answer).to_have_attribute("data-state", "done")
    return answer


def card(tab: Tab, scripted: ModelServer, what: str = "", name: str = "give") -> Locator:
    """Have the model call a tool; return its card, opened."""
    called = {"what": what} if what else {}
    scripted.will(Reply(calls=[(f"gallery__{name}", called)]), Reply(text="That is it."))
    tab.send("go")
    tab.answers("That is it.")
    card = tab.page.get_by_test_id("tool-card").last
    card.locator("summary").first.click()
    expect(card.get_by_test_id("tool-args")).to_be_visible()
    return card


def copied(tab: Tab) -> str:
    """What the clipboard has."""
    return str(tab.page.evaluate("navigator.clipboard.readText()"))


def test_an_example_asks_of_a_search_what_it_finds(tab: Tab) -> None:
    expect(tab.page.get_by_test_id("example")).to_have_text(
        ["What can you do with your tools?", "What can I find with find_pictures?"]
    )


def test_code_is_coloured_by_its_language_and_copied_as_it_is(tab: Tab, scripted: ModelServer) -> None:
    code = 'def add(a: int) -> str:\n    """One."""\n    return f"<b>{a + 1}</b>" # & more'
    answer = says(tab, scripted, f"See:\n\n```python title=x\n{code}\n```\n\n```nonsense\nplain\n```")
    figure = answer.locator("figure.code").first
    expect(figure.locator("figcaption")).to_have_text("python")
    expect(figure.locator(".hl-keyword").first).to_have_text("def")
    expect(figure.locator(".hl-comment").last).to_have_text("# & more")
    assert figure.locator("code").inner_text() == code
    figure.get_by_test_id("copy-code").click()
    expect(figure.get_by_role("button", name="Copied")).to_be_visible()
    assert copied(tab) == code
    expect(answer.locator("figure.code").last.locator("code span")).to_have_count(0)
    fetched = [url for url in tab.requests if "/highlight/" in url]
    assert sorted(url.rsplit("/", 1)[1] for url in fetched) == ["core.js", "python.js"]
    tab.picture("code")


def test_formulas_are_drawn_and_what_is_none_is_left_alone(tab: Tab, scripted: ModelServer) -> None:
    before = says(tab, scripted, "It costs $5 and then $10.")
    expect(before).to_contain_text("It costs $5 and then $10.")
    assert not [url for url in tab.requests if "katex" in url]
    answer = says(
        tab,
        scripted,
        "Euler: $e^{i\\pi} + 1 = 0$, \\(a_1\\) and $\\vec{v}$.\n\n"
        "$$\n\\int_0^1 \\sqrt{x}\\,dx = \\frac{2}{3}\n$$\n\n"
        "Open $\\frac{1}{$, forbidden $\\href{javascript:alert(1)}{x}$, `$code$`.",
    )
    expect(answer.locator(".formula .katex")).to_have_count(5)
    expect(answer.locator(".formula.alone math")).to_have_count(1)
    expect(answer.locator(".formula math").first).to_contain_text("e")
    expect(answer).to_contain_text("Open \\frac{1}{")
    expect(answer).to_contain_text("$code$")
    expect(answer.locator(".formula a, .formula [href], .formula img")).to_have_count(0)
    tab.page.wait_for_function("document.fonts.check('16px KaTeX_Main')")
    tab.picture("formulas")


def test_a_table_scrolls_and_is_copied_for_a_spreadsheet(tab: Tab, scripted: ModelServer) -> None:
    wide = " | ".join(f"column{n}" for n in range(30))
    answer = says(tab, scripted, f'| a | b |\n|---|---|\n| **1** | say "x" |\n\n| {wide} |\n|{"---|" * 30}\n')
    answer.locator("figure.sheet").first.hover()
    answer.get_by_test_id("copy-table").first.click()
    expect(answer.locator("figure.sheet").first.get_by_role("button", name="Copied")).to_be_visible()
    assert copied(tab) == 'a\tb\n1\t"say ""x"""'
    widths = answer.locator(".table").last.evaluate("box => [box.scrollWidth > box.clientWidth, innerWidth]")
    assert widths == [True, tab.page.evaluate("document.documentElement.scrollWidth")]
    tab.picture("tables")


def test_while_an_answer_streams_in_its_finished_blocks_stay_the_same_elements(
    tab: Tab, scripted: ModelServer
) -> None:
    page, held = tab.page, threading.Event()
    blocks = "# Title\n\nFirst $x^2$ paragraph.\n\n```python\nx = 1\n```\n\n"
    blocks += "| a |\n|---|\n| 1 |\n\n- one\n- two\n\n"
    scripted.will(
        Reply(text=blocks + "The **last one [is here](https://a.example/x) end", hold=held, pause=0.01)
    )
    tab.send("go")
    prose = page.get_by_test_id("message-text").last
    try:
        expect(prose).to_contain_text("is here")
        expect(prose.locator(".hl-number")).to_have_text("1")
        expect(prose.locator(".formula")).to_have_count(1)
        page.evaluate("kept = [...document.querySelectorAll('.prose > *')]")
        assert "**" not in prose.inner_text()  # what is open looks as it will when it is closed
        assert page.evaluate("kept.length") == 6
    finally:
        held.set()
    expect(page.get_by_test_id("message-assistant")).to_have_attribute("data-state", "done")
    same = "[...document.querySelectorAll('.prose > *')].map((one, place) => one === kept[place])"
    assert page.evaluate(same) == [True] * 6


def test_what_is_only_half_there_is_not_shown_as_something_else(tab: Tab) -> None:
    half = {
        "**bo": "**bo**",
        "a [link](https://exam": "a link",
        "a ![picture](data:image": "a",
        "| a | b |": "",
        "| a | b |\n|---": "",
        "text\n-": "text",
        "text\n``": "text",
        "sum $x^2 + ": "sum",
        "use `co": "use `co`",
        "```py\n**x": "```py\n**x",
        "costs $5 and ": "costs $5 and",
    }
    mend = "async texts => (({ mended }) => texts.map(mended))(await import('/web/unfinished.js'))"
    assert dict(zip(half, tab.page.evaluate(mend, list(half)), strict=True)) == half


def test_a_long_list_is_drawn_in_parts_that_count_on(tab: Tab) -> None:
    read = """async text => (({ blocks }) => blocks(text).map(block => String(block.html())))(
        await import('/web/markdown.js'))"""
    parts = tab.page.evaluate(read, "\n".join(f"{n}. point {n}" for n in range(3, 93)))
    assert [part[: part.index(">")] for part in parts] == [
        '<ol start="3"',
        '<ol start="43"',
        '<ol start="83"',
    ]
    assert [part.count("<li>") for part in parts] == [40, 40, 10]


def test_a_json_value_is_a_tree_that_opens(tab: Tab, scripted: ModelServer) -> None:
    found = card(tab, scripted, "tree")
    expect(found.get_by_test_id("tool-args")).to_contain_text('"what": "tree"')
    tree = found.get_by_test_id("tool-tree")
    expect(tree).to_contain_text('"city": "Zürich"')
    expect(tree).not_to_contain_text("8.5")
    tree.get_by_text('"at"').click()
    expect(tree).to_contain_text("8.5")
    tree.get_by_role("button", name="Show more (150)").click()
    expect(tree).to_contain_text("249")
    found.get_by_test_id("copy-section").last.click()
    expect(found.get_by_role("button", name="Copied")).to_be_visible()
    assert json.loads(copied(tab)) == DEEP
    tab.picture("tree")


@pytest.mark.parametrize("what", ["table", "blocks", ""])
def test_a_list_of_flat_objects_is_a_table(tab: Tab, scripted: ModelServer, what: str) -> None:
    found = card(tab, scripted, what, "give" if what else "both")
    table = found.get_by_test_id("tool-table")
    expect(table.locator("th")).to_have_text(["name", "born", "note"])
    expect(table.locator("tbody tr").last.locator("td")).to_have_text(["Grace[U+202E]", "1906", 'said "hi"'])
    found.get_by_test_id("copy-section").last.click()
    expect(found.get_by_role("button", name="Copied")).to_be_visible()
    assert copied(tab) == 'name\tborn\tnote\nAda\t1815\t\nGrace\u202e\t1906\t"said ""hi"""'
    if not what:
        expect(found.get_by_test_id("tool-result")).to_contain_text("Two people.")
    tab.picture(f"table-{what}")


def test_pictures_sounds_files_and_links_are_shown_as_such(tab: Tab, scripted: ModelServer) -> None:
    page = tab.page
    card(tab, scripted, "picture")
    expect(page.get_by_test_id("files").last.locator("img")).to_have_js_property("naturalWidth", 320)
    card(tab, scripted, "sound")
    expect(page.get_by_test_id("files").last.locator("audio")).to_have_attribute("controls", "")
    found = card(tab, scripted, "resources")
    expect(found.get_by_test_id("tool-result")).to_contain_text("a note")
    expect(page.get_by_test_id("files").last.locator("a")).to_have_attribute("download", "paper.pdf")
    links = found.get_by_test_id("tool-resource")
    expect(links.first.locator("a")).to_have_attribute("href", "https://docs.example/a?b=c")
    expect(links.last).to_contain_text("javascript:alert(1)")
    expect(links.last.locator("a")).to_have_count(0)
    tab.picture("media")


def test_a_long_result_is_clipped_and_all_of_it_is_there_when_asked_for(
    tab: Tab, scripted: ModelServer
) -> None:
    found = card(tab, scripted, "long")
    result = found.get_by_test_id("tool-result")
    assert len(result.inner_text()) < 9000
    result.get_by_test_id("show-all").click()  # what the model was given
    result.get_by_role("button", name="Show the whole result").click()
    expect(result.locator("pre")).to_contain_text("line 59999 of many")
    assert result.locator("pre").evaluate("box => box.textContent") == LONG


def test_an_error_says_why_and_the_raw_messages_are_there(tab: Tab, scripted: ModelServer) -> None:
    found = card(tab, scripted, name="fail")
    expect(found).to_have_attribute("data-state", "error")
    expect(found.get_by_test_id("tool-args")).to_have_text("none")
    expect(found.get_by_test_id("tool-result")).to_contain_text("thunder and <b>lightning</b>")
    expect(found.locator(".name")).to_have_text("fail")
    expect(found.locator(".chip")).to_have_text("gallery")
    expect(found.get_by_test_id("tool-duration")).to_contain_text("ms")
    raw = found.get_by_test_id("tool-raw")
    raw.locator("summary").click()
    expect(raw.get_by_test_id("tool-messages")).to_contain_text("gallery__fail")
    messages = json.loads(raw.get_by_test_id("tool-messages").text_content() or "")
    assert messages["call"]["tool"] == messages["error"]["tool"] == "gallery__fail"
    assert "thunder" in messages["error"]["output"]
    tab.picture("error")


def test_progress_is_a_bar_with_what_the_tool_says(tab: Tab, scripted: ModelServer) -> None:
    RELEASED.clear()
    scripted.will(Reply(calls=[("gallery__work", {})]), Reply(text="That is it."))
    tab.send("go")
    try:
        progress = tab.page.get_by_test_id("tool-progress")
        expect(progress).to_have_text("nearly there · 3 of 4")
        expect(progress.locator("progress")).to_have_js_property("position", 0.75)
        tab.picture("progress")
    finally:
        RELEASED.set()
    tab.answers("That is it.")
    expect(tab.page.get_by_test_id("tool-progress")).to_have_count(0)
