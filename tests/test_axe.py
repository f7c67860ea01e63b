"""WCAG 2.2 AA on every screen, as far as axe can tell; and focus, keys, and what is said, which it cannot."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from tests.asked import SCHEMA, calls
from tests.installation import Installation
from tests.model_server import ModelServer, Reply
from tests.packages import npm_packages
from tests.running import running
from tests.sized_mcp import SizedMCP, tool
from tests.tab import Tab, chromium
from tests.test_servers_tab import EVERYTHING, LINK

pytestmark = pytest.mark.slow

TAGS: Final = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]
LANGUAGES: Final = {"ltr": "en-US", "rtl": "ar-EG"}
SIZES: Final = {"wide": (1280, 800), "phone": (375, 740), "narrow": (320, 640)}
SMALLEST: Final = 24
"""Pixels of a target, each way."""

TARGETS: Final = """() => [...document.querySelectorAll("button, select, input, summary, textarea, a.button")]
  .filter((each) => each.checkVisibility({visibilityProperty: true}) && !each.closest(".skip, .prose"))
  .filter((each) => !each.matches("label input, label input *"))
  .map((each) => [each.outerHTML.slice(0, 120), each.getBoundingClientRect()])
  .filter(([, {width, height}]) => width && (width < 23.9 || height < 23.9)).map(([name]) => name)"""


@dataclass
class Screens:
    """Walks through the page, and keeps what is wrong with each screen, on each kind of screen."""

    tab: Tab
    axe: str
    schemes: tuple[str, ...] = ("light", "dark")
    faults: dict[str, Any] = field(default_factory=dict)

    @property
    def page(self) -> Page:
        return self.tab.page

    def look(self, name: str) -> None:
        """Look at what is shown now."""
        self.tab.picture(f"axe-{name}")
        for size, (width, height) in SIZES.items():
            self.page.set_viewport_size({"width": width, "height": height})
            for scheme in self.schemes if size != "narrow" else self.schemes[:1]:
                self.page.emulate_media(
                    color_scheme="dark" if scheme == "dark" else "light", reduced_motion="reduce"
                )
                if found := self._violations() + self._sideways() + self._targets():
                    self.faults[f"{name} {size} {scheme}"] = found
        self.page.set_viewport_size({"width": 1280, "height": 800})

    def _violations(self) -> list[Any]:
        if not self.page.evaluate("typeof axe === 'object'"):
            self.page.evaluate(f"() => {{ {self.axe} }}")
        run = "async (runOnly) => (await axe.run(document, {runOnly})).violations"
        return [
            (each["id"], [node["html"][:160] for node in each["nodes"]])
            for each in self.page.evaluate(run, TAGS)
        ]

    def _sideways(self) -> list[Any]:
        root = "document.documentElement"
        wide = self.page.evaluate(f"{root}.scrollWidth - {root}.clientWidth")
        return [("scrolls sideways", wide)] if wide > 0 else []

    def _targets(self) -> list[Any]:
        found = self.page.evaluate(TARGETS)
        return [("target too small", found)] if found else []


@pytest.fixture(scope="module")
def axe() -> str:
    return (npm_packages() / "node_modules" / "axe-core" / "axe.min.js").read_text()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def model() -> ModelServer:
    return ModelServer()


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory, model: ModelServer) -> Iterator[Installation]:
    far = SizedMCP()
    form = {
        "type": "object",
        "properties": {"size": {"type": "integer", "maximum": 9}, "to": {"type": "string"}},
    }
    far.tools = [tool("size", inputSchema=SCHEMA), tool("wait"), tool("plain", inputSchema=form)]
    with (
        running(far.app) as far_url,
        running(model.app) as model_url,
        Installation(
            tmp_path_factory.mktemp("axe"),
            f"{model_url}/v1",
            workers=1,
            servers={"far": {"url": f"{far_url}/json"}},
            MCP_CHAT_APPROVALS="on",
        ) as installation,
    ):
        yield installation


@pytest.fixture
def tab(browser: Browser, chat: Installation, model: ModelServer) -> Iterator[Tab]:
    model.will()
    with browser.new_context(locale="en-US") as context:
        yield Tab(context, chat.url)


ANSWER: Final = """# Found

A **bold** word, `code`, [a link](https://example.org) and a list:

1. one
2. two

| Name | Size |
|---|--:|
| milk | 1 |

```python
print("hello")
```

> quoted
"""


@pytest.mark.timeout(590)
@pytest.mark.parametrize("direction", list(LANGUAGES))
def test_no_screen_has_a_fault(
    browser: Browser, chat: Installation, model: ModelServer, axe: str, direction: str, name: str
) -> None:
    with browser.new_context(locale=LANGUAGES[direction], bypass_csp=True) as context:
        screens = Screens(Tab(context, chat.url), axe)
        walk(screens, model, name)
        assert screens.faults == {}, json.dumps(screens.faults, indent=1, ensure_ascii=False)


def walk(screens: Screens, model: ModelServer, name: str) -> None:
    """Go through all that the page can show."""
    come_in(screens, name)
    model.will(
        Reply(text="I look.", calls=[("far__size", {"size": 3}), ("far__wait", {})]),
        Reply(text=ANSWER),
        Reply(text="Never."),
    )
    decide(screens)
    open_all(screens)
    fail(screens, model)
    be_asked(screens)


def come_in(screens: Screens, name: str) -> None:
    tab, page = screens.tab, screens.page
    expect(page.get_by_test_id("sign-in")).to_be_visible()
    screens.look("sign-in")
    tab.sign_in(name)
    expect(page.get_by_test_id("connect")).to_be_visible()
    screens.look("setup")
    page.get_by_test_id("server-select").select_option("far")
    tab.connect("openai:scripted")
    screens.look("empty")


def decide(screens: Screens) -> None:
    """Change one call, refuse the other, and look at the answer."""
    tab, page = screens.tab, screens.page
    tab.send("go")
    expect(page.get_by_test_id("approval")).to_have_count(2)
    screens.look("approval")
    card = page.locator("[data-testid=approval][data-tool=far__size]")
    card.get_by_test_id("approval-edit").click()
    expect(page.get_by_test_id("approval-editor")).to_be_visible()
    page.get_by_test_id("approval-editor").fill("{")
    card.get_by_test_id("approval-once").click()
    screens.look("approval-json")
    page.get_by_test_id("approval-editor").fill('{"size": 4}')
    page.get_by_test_id("approval-way").click()
    expect(page.get_by_test_id("approval-form")).to_be_visible()
    screens.look("approval-form")
    card.get_by_test_id("approval-once").click()
    expect(card).to_have_count(0)
    # its result moves the other card: a press that begins before and ends behind that is none
    expect(page.locator("[data-testid=tool-card][data-state=done]")).to_be_visible()
    page.get_by_test_id("approval-deny").click()
    tab.answers("Found")
    page.get_by_test_id("tool-card").first.locator("summary").click()
    screens.look("answer")


def open_all(screens: Screens) -> None:
    """Open what opens: menus, dialogs, and what a search finds."""
    page = screens.page
    page.locator(".title").get_by_test_id("conversation-menu").click()
    expect(page.get_by_test_id("rename")).to_be_visible()
    screens.look("menu")
    page.keyboard.press("Escape")
    page.get_by_test_id("model-button").click()
    expect(page.get_by_test_id("model-here")).to_be_visible()
    screens.look("models")
    page.keyboard.press("Escape")
    page.get_by_test_id("search").fill("go")
    expect(page.get_by_test_id("search-result")).to_have_count(1)
    screens.look("found")
    page.get_by_test_id("search").fill("")
    page.get_by_test_id("tool-count").click()
    page.locator(".server details summary").first.click()
    page.locator(".add summary").click()
    screens.look("servers")
    page.keyboard.press("Escape")
    page.get_by_test_id("manner").click()
    expect(page.get_by_test_id("manner-prompt")).to_be_visible()
    screens.look("settings")
    page.keyboard.press("Escape")
    expect(page.get_by_test_id("manner")).to_be_focused()
    page.get_by_test_id("edit").first.click()
    screens.look("edit")
    page.keyboard.press("Escape")


def fail(screens: Screens, model: ModelServer) -> None:
    """Meet a model that refuses, and a chat that does."""
    tab, page = screens.tab, screens.page
    model.will(Reply(status=400))
    tab.send("fail")
    expect(page.get_by_test_id("message-assistant").last.get_by_test_id("error")).to_be_visible()
    page.route("**/llmchat/chat", lambda route: route.fulfill(status=503, json={"detail": "Not <now>."}))
    tab.send("fail otherwise")
    expect(page.locator(".banner")).to_be_visible()
    screens.look("error")
    page.unroute_all()


def be_asked(screens: Screens) -> None:
    """Be asked by servers, and answer what will not do."""
    page = screens.page
    asked(page, EVERYTHING, {**LINK, "id": "q2"})
    page.reload()
    expect(page.get_by_test_id("question")).to_have_count(2)
    page.get_by_test_id("question-accept").click()
    expect(page.get_by_test_id("field-fault").first).to_be_visible()
    screens.look("question")


def asked(page: Page, *questions: dict[str, Any]) -> None:
    """Have servers ask in a turn that goes on."""

    def stream(route: Route) -> None:
        frames = "".join(f"event: question\ndata: {json.dumps(each)}\n\n" for each in questions)
        route.fulfill(body=frames, content_type="text/event-stream")

    page.route("**/llmchat/chat", stream)
    page.route("**/llmchat/questions?*", lambda route: route.fulfill(json={"questions": list(questions)}))
    page.route("**/llmchat/history/**", lambda route: route.fulfill(json={"messages": [], "running": "t"}))


def test_what_is_heard_is_little_and_what_waits_is_heard_at_once(
    tab: Tab, model: ModelServer, name: str
) -> None:
    page = tab.page
    tab.sign_in(name)
    page.get_by_test_id("server-select").select_option("far")
    tab.connect("openai:scripted")
    page.evaluate("""() => {
        window.heard = [];
        for (const name of ["said", "urgent"]) {
            const region = document.querySelector(`[data-testid=${name}]`);
            const hear = () => region.textContent && heard.push([name, region.textContent]);
            new MutationObserver(hear).observe(region, {childList: true, characterData: true, subtree: true});
        }
    }""")
    model.will(
        Reply(text="word " * 200, calls=[("far__size", {"size": 3})]),
        Reply(text="All **done** by `far__size` \\[x\\], " + "at last " * 100),
    )
    tab.send("go")
    expect(page.get_by_test_id("approval")).to_be_visible()
    expect(page).to_have_title("(1) Waiting for you · go · MCP Chat")
    assert page.get_by_test_id("said").get_attribute("role") == "status"
    assert page.get_by_test_id("urgent").get_attribute("role") == "alert"
    page.get_by_test_id("approval-once").click()
    tab.answers("at last")
    expect(page.get_by_test_id("said")).to_contain_text("Answer:")
    expect(page).to_have_title("go · MCP Chat")
    heard: list[list[str]] = page.evaluate("heard")
    assert heard[:2] == [
        ["said", "The assistant is answering."],
        ["urgent", "far wants to run size. Your decision is needed."],
    ]
    assert heard[-1][1].startswith("Answer: word word")
    assert heard[-1][1].count("All done by far__size [x], at last at last") == 1
    assert [text for _, text in heard[2:-1] if text != "Running size."] == []
    assert len(heard) <= 4
    regions = page.locator("[aria-live], [role=status], [role=alert], [role=log]")
    expect(regions).to_have_count(3)  # with that of the lists over the composer


def test_an_approval_is_reached_and_given_with_the_keyboard_but_not_by_typing(
    tab: Tab, model: ModelServer, name: str
) -> None:
    page = tab.page
    tab.sign_in(name)
    page.get_by_test_id("server-select").select_option("far")
    tab.connect("openai:scripted")
    calls(model, ("far__plain", {"size": 3, "to": "me"}))
    tab.send("go")
    card = page.get_by_test_id("approval")
    expect(card).to_be_visible()
    expect(page.get_by_test_id("composer")).to_be_focused()
    page.keyboard.press("Control+Enter")
    page.keyboard.type("yes once always a ")
    expect(card).to_be_visible()
    page.keyboard.press("Alt+Shift+KeyA")
    expect(card.get_by_test_id("approval-args")).to_be_focused()
    page.keyboard.type("yad ")
    expect(card).to_be_visible()
    card.get_by_test_id("approval-edit").press("Enter")
    form = card.get_by_test_id("approval-form")
    expect(form.get_by_label("size")).to_be_focused()
    form.get_by_label("size").fill("10")
    page.keyboard.press("Control+Enter")
    fault = "the value is greater than the maximum of 9"
    expect(form.get_by_label("size")).to_have_accessible_description(fault)
    expect(form.get_by_label("size")).to_be_focused()
    form.get_by_label("size").fill("2")
    card.get_by_test_id("approval-way").press("Enter")
    expect(card.get_by_test_id("approval-editor")).to_have_value('{\n  "size": 2,\n  "to": "me"\n}')
    expect(card.get_by_test_id("approval-editor")).to_be_focused()
    page.keyboard.press("Control+Enter")
    tab.answers("Fine.")
    expect(page.get_by_test_id("composer")).to_be_focused()
    expect(page.get_by_test_id("tool-card")).to_contain_text("size: 2, to: me")


def test_an_approval_stands_where_its_call_is_and_the_way_to_it_is_shown(
    tab: Tab, model: ModelServer, name: str
) -> None:
    page = tab.page
    tab.sign_in(name)
    page.get_by_test_id("server-select").select_option("far")
    tab.connect("openai:scripted")
    model.will(
        Reply(text="line\n\n" * 60, calls=[("far__size", {"size": 3}), ("far__wait", {})]),
        Reply(text="Fine."),
    )
    tab.send("go")
    expect(page.get_by_test_id("approval")).to_have_count(2)
    page.get_by_test_id("approval-edit").first.click()
    page.get_by_test_id("approval-editor").fill('{"size": 5}')
    page.reload()
    answer = page.locator("main")
    expect(answer.get_by_test_id("approval")).to_have_count(2)
    expect(answer.get_by_test_id("tool-card")).to_have_count(0)
    page.locator("main").evaluate("(main) => main.scrollTo(0, 0)")
    page.get_by_test_id("to-asked").click()
    expect(page.get_by_test_id("approval-args").first).to_be_focused()
    expect(page.get_by_test_id("approval-args").first).to_be_in_viewport()
    answer.get_by_test_id("approval-deny").first.click()
    expect(answer.get_by_test_id("tool-card")).to_have_count(1)
    answer.get_by_test_id("approval-once").first.click()
    tab.answers("Fine.")


SLOW_FRAMES: Final = "() => { window.requestAnimationFrame = (paint) => setTimeout(paint, 300); }"
NEXT_FRAME: Final = "new Promise((done) => requestAnimationFrame(done))"


def test_the_focus_is_not_taken_from_who_has_gone_on(tab: Tab, model: ModelServer, name: str) -> None:
    """What had it is gone, and the page is slow to see that; its user writes already."""
    page, composer = tab.page, tab.page.get_by_test_id("composer")
    tab.sign_in(name)
    page.get_by_test_id("server-select").select_option("far")
    tab.connect("openai:scripted")
    model.will(Reply(calls=[("far__size", {"size": 3}), ("far__wait", {})]), Reply(text="Fine."))
    tab.send("go")
    expect(page.get_by_test_id("approval")).to_have_count(2)
    page.evaluate(SLOW_FRAMES)

    def write() -> None:
        composer.fill("my words")
        page.evaluate(NEXT_FRAME)
        expect(composer).to_be_focused()

    page.get_by_test_id("approval-edit").first.click()
    expect(page.get_by_test_id("approval-editor")).to_be_focused()
    page.keyboard.press("Escape")
    write()
    for left in (1, 0):
        page.get_by_test_id("approval-deny").first.click()
        expect(page.get_by_test_id("approval")).to_have_count(left)
        write()
    tab.answers("Fine.")
    page.get_by_test_id("edit").click()
    page.keyboard.press("Escape")
    write()


def test_the_first_tab_stop_leads_past_the_header(tab: Tab, name: str) -> None:
    page = tab.page
    tab.sign_in(name)
    expect(page.get_by_test_id("connect")).to_be_visible()
    page.get_by_test_id("language").focus()
    page.keyboard.press("Shift+Tab")
    expect(page.get_by_test_id("skip")).to_be_focused()
    expect(page.get_by_test_id("skip")).to_be_in_viewport(ratio=1)
    page.keyboard.press("Enter")
    expect(page.get_by_test_id("server-select")).to_be_focused()
    assert page.url.endswith("/")
    assert page.locator("main").count() == page.locator("header").count() == page.locator("h1").count() == 1
