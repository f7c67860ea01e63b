"""ContextForge's own chat tab against our API: a real gateway, our nginx configuration, a real login."""

from __future__ import annotations

import base64
import re
import secrets
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import httpx
import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from benchmarks.contextforge import ADMIN, PASSWORD, Gateway, environment, gateway
from tests.installation import Installation
from tests.model_server import ModelServer, Reply
from tests.nginx import free_port, nginx
from tests.running import running, wait_until
from tests.tab import PICTURES, Tab, chromium

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # the gateway is installed once, and takes its time

ROOT: Final = Path(__file__).parents[1]
PAGE: Final = (ROOT / "docs/contextforge.md").read_text()
PLAIN_HTTP: Final = {"SECURE_COOKIES": "false", "CSRF_COOKIE_SECURE": "false"}
OF_GATEWAY: Final = (
    "MCPGATEWAY_UI_ENABLED",
    "MCPGATEWAY_ADMIN_API_ENABLED",
    "LLMCHAT_ENABLED",
    "JWT_SECRET_KEY",
)


@dataclass(frozen=True, slots=True)
class Site:
    """All of it behind one address.

    Attributes:
        url: nginx's.
        server: The id of the gateway's virtual server.
    """

    url: str
    gateway: Gateway
    chat: Installation
    model: ModelServer
    server: str


def installed() -> Path:
    """A Python with the gateway, or skip the test."""
    try:
        return environment(ROOT / ".cache" / "contextforge")
    except subprocess.CalledProcessError as error:
        pytest.skip(f"ContextForge cannot be installed here: {error}")


def documented(place: int, **instead: str) -> dict[str, str]:
    """The settings that our page shows in one of its blocks.

    Args:
        instead: What stands here for an address or a secret of the page.
    """
    block = re.findall(r"^```sh\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)[place]
    lines = "\n".join(line.partition("#")[0] for line in block.splitlines() if line.startswith("export"))
    found = dict(each.split("=", 1) for each in lines.split() if "=" in each)
    for name, value in found.items():
        for usual, here in instead.items():
            if usual == name or usual in value:
                found[name] = here if usual == name else value.replace(usual, here)
    assert "..." not in found.values()
    return found


def configuration(port: int, chat: str, gateway: str) -> str:
    """Our nginx configuration as it is, with other ports."""
    config = (ROOT / "config/nginx.conf").read_text()
    for usual, here in {
        "server 127.0.0.1:8000;": f"server {urlsplit(chat).netloc};",
        "server 127.0.0.1:4444;": f"server {urlsplit(gateway).netloc};",
        "listen 8080;": f"listen 127.0.0.1:{port};",
    }.items():
        assert config.count(usual) == 1, usual
        config = config.replace(usual, here)
    return config


def virtual_server(gateway: Gateway, mcp_url: str) -> str:
    """Have the gateway offer the tools of an MCP server; give the id under which it does."""
    gateway.post("/gateways", name="toys", url=mcp_url, transport="STREAMABLEHTTP", visibility="public")

    def tools() -> list[dict[str, Any]]:
        headers = {"authorization": f"Bearer {gateway.token}"}
        found = gateway.http.get(f"{gateway.url}/tools", headers=headers).json()
        return found if isinstance(found, list) else list(found["data"])

    listed = wait_until(tools, "the gateway knows the tools")
    server = {
        "name": "Toys",
        "description": "What one can play with",
        "associated_tools": [tool["id"] for tool in listed],
    }
    return str(gateway.post("/servers", server=server, visibility="public")["id"])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, valkey_url: str, demo_url: str) -> Iterator[Site]:
    python, folder, port = installed(), tmp_path_factory.mktemp("contextforge"), free_port()
    url, model = f"http://127.0.0.1:{port}", ModelServer()
    (folder / "gateway").mkdir()
    (folder / "chat").mkdir()
    with ExitStack() as stack:
        model_url = f"{stack.enter_context(running(model.app))}/v1"
        secret = secrets.token_urlsafe(48)
        values = documented(0, JWT_SECRET_KEY=secret) | PLAIN_HTTP
        assert set(OF_GATEWAY) <= set(values)
        gate = stack.enter_context(
            gateway(python, folder / "gateway", valkey_url, model_url, workers=1, **values)
        )
        server = virtual_server(gate, demo_url)
        addresses = {"https://gateway.example.org": url, "http://127.0.0.1:4444": gate.url}
        key = base64.b64encode(secrets.token_bytes(32)).decode()
        settings: dict[str, Any] = documented(
            1, JWT_SECRET_KEY=secret, MCP_CHAT_ENCRYPTION_KEY=key, **addresses
        )
        settings |= {"MCP_CHAT_ALLOWED_NETWORKS": "127.0.0.0/8", "MCP_CHAT_FRAME_ORIGINS": url}
        chat = stack.enter_context(Installation(folder / "chat", model_url, **settings))
        stack.enter_context(nginx(folder / "nginx", configuration(port, chat.url, gate.url), port))
        yield Site(url, gate, chat, model, server)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    yield context
    context.close()


def logged_in(context: BrowserContext, site: Site) -> Page:
    """A page of somebody who has logged in by the gateway's own form."""
    page = context.new_page()
    page.goto(f"{site.url}/admin/")
    page.fill("input[name=email]", ADMIN)
    page.fill("input[name=password]", PASSWORD)
    page.click("button[type=submit]")
    page.wait_for_url(re.compile(r"/admin/?(#.*)?$"), timeout=120_000)
    return page


def let_it_add(site: Site, tools: list[str]) -> None:
    """Let the model use the tool that adds, and then say so."""
    (add,) = (tool for tool in tools if tool.endswith("toys-add"))
    site.model.will(Reply(calls=[(add, {"a": 2, "b": 3})]), Reply(text="Together that is **five**."))


def connect_in_the_gateways_tab(page: Page) -> list[str]:
    """Choose the virtual server and the model there, connect, and give the tools' names."""
    page.get_by_test_id("llm-chat-tab").click()
    page.locator("#llm-server-dropdown-btn").click()
    page.locator(".server-item", has_text="Toys").click()
    page.locator("#llm-config-toggle").click()
    page.locator("#llm-model-select").select_option("openai:scripted")
    with page.expect_response("**/llmchat/connect") as connected:
        page.locator("#llm-connect-btn").click()
    assert connected.value.status == 200, connected.value.text()
    expect(page.locator("#llm-connection-status")).to_be_visible()
    return list(connected.value.json()["tools"])


def say_in_the_gateways_tab(page: Page, text: str) -> None:
    """Send a message there."""
    page.locator("#chat-input").fill(text)
    page.keyboard.press("Enter")


def keep(page: Page, name: str) -> None:
    """Keep a picture, if that is wanted."""
    if PICTURES:
        page.screenshot(path=Path(PICTURES) / f"{name}.png", animations="disabled")


def test_the_gateways_own_tab_chats_with_us_and_uses_a_tool(context: BrowserContext, site: Site) -> None:
    page = logged_in(context, site)
    answered: list[str] = []
    page.on("response", lambda response: answered.append(f"{response.status} {urlsplit(response.url).path}"))
    tools = connect_in_the_gateways_tab(page)
    expect(page.locator("#llm-tool-count")).to_have_text(f"{len(tools)} tools")
    let_it_add(site, tools)
    say_in_the_gateways_tab(page, "What is two and three?")
    thread = page.locator("#chat-messages-container")
    expect(thread.locator("strong", has_text="five")).to_be_visible()
    expect(thread.locator(".user-message")).to_contain_text("What is two and three?")
    card = thread.locator(".tool-events-card")
    expect(card).to_contain_text('Input: {"a":2,"b":3}')
    expect(card).to_contain_text("Output: 5")
    expect(card).to_contain_text("Tools used")
    expect(page.locator("#chat-input")).to_be_enabled()
    keep(page, "contextforge-tab")
    page.locator("#llm-disconnect-btn").click()
    expect(page.locator("#llm-connect-btn")).to_be_visible()
    asked = [each for each in answered if "/llmchat/" in each]
    paths = ("gateway/models", "connect", "chat", "disconnect")
    assert asked == [f"200 /llmchat/{path}" for path in paths]


def test_our_own_tab_goes_on_with_the_same_conversation_and_login(
    context: BrowserContext, site: Site
) -> None:
    page = logged_in(context, site)
    let_it_add(site, connect_in_the_gateways_tab(page))
    say_in_the_gateways_tab(page, "What is two and three?")
    expect(page.locator("#chat-messages-container strong", has_text="five")).to_be_visible()
    ours = Tab(context, f"{site.url}/chat")
    expect(ours.page).to_have_url(f"{site.url}/chat/")
    ours.answers("Together that is five.")
    expect(ours.page.get_by_test_id("tool-card")).to_have_attribute("data-state", "done")
    expect(ours.page.get_by_text(ADMIN)).to_be_visible()
    keep(ours.page, "contextforge-ours")
    hold = threading.Event()
    site.model.will(Reply(text="one two three", hold=hold))
    ours.send("Say it slowly.")
    last = ours.page.get_by_test_id("message-assistant").last
    expect(last).to_contain_text("one")  # nothing on the way collects it until it is whole
    hold.set()
    ours.answers("one two three")
    ours.page.get_by_test_id("disconnect").click()
    expect(ours.page.get_by_test_id("connect")).to_be_visible()
    assert [url for url in ours.requests if not url.startswith(f"{site.url}/chat")] == []
    assert ours.complaints == []


def test_who_is_not_logged_in_at_the_gateway_is_sent_there(context: BrowserContext, site: Site) -> None:
    ours = Tab(context, f"{site.url}/chat/")
    expect(ours.page.get_by_test_id("look-again")).to_be_visible()
    logged_in(context, site)
    ours.page.get_by_test_id("look-again").click()
    expect(ours.page.get_by_test_id("connect")).to_be_visible()
    answer = httpx.get(f"{site.url}/llmchat/gateway/models", trust_env=False)
    assert answer.status_code == 401


def test_the_gateways_page_shows_our_tab_as_an_element(context: BrowserContext, site: Site) -> None:
    page = logged_in(context, site)
    page.add_script_tag(url="/chat/web/element.js", type="module")
    page.evaluate("""() => {
        const chat = document.createElement("mcp-chat");
        chat.title = "Chat";
        document.body.replaceChildren(chat);
    }""")
    frame = page.frame_locator("mcp-chat iframe")
    expect(frame.get_by_test_id("connect")).to_be_visible()
    expect(frame.get_by_text(ADMIN)).to_be_visible()


def test_what_is_for_the_operator_alone_is_not_reached_from_outside(site: Site) -> None:
    for path in ("metrics", "livez", "readyz"):
        assert httpx.get(f"{site.url}/chat/{path}", trust_env=False).status_code == 404
        assert httpx.get(site.chat.url + path, trust_env=False).status_code == 200
