"""The tab where it is not alone: below a path, in frames of other pages, and as their element."""

from __future__ import annotations

import base64
import re
import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from string import Template

import httpx
import jwt
import pytest
from playwright.sync_api import Browser, BrowserContext, FrameLocator, Page, expect
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from mcp_chat.app import create_app
from mcp_chat.exceptions import SettingsError
from mcp_chat.safety import check_settings
from mcp_chat.settings import Settings, load_settings
from tests.installation import Installation
from tests.model_server import ModelServer
from tests.nginx import free_port, nginx
from tests.running import running
from tests.tab import Tab, chromium

slow = pytest.mark.slow
DOCUMENT = Path(__file__).parents[1] / "docs/embedding.md"
SECRET = secrets.token_urlsafe(48)

FRAME = """<!doctype html>
<title>A page</title>
<link rel="icon" href="data:,">
<iframe src="$chat/" title="Chat" width="900" height="700"></iframe>"""
ELEMENT = """<!doctype html>
<html lang="en">
<title>Gateway administration</title>
<link rel="icon" href="data:,">
<script type="module" src="$chat/web/element.js"></script>
<mcp-chat title="Ask the tools" theme="dark"></mcp-chat>
</html>"""
STRICT = "; ".join(
    (
        *("default-src 'none'", "img-src data:", "script-src $chat", "frame-src $chat"),
        *("require-trusted-types-for 'script'", "trusted-types"),
    )
)


class Pages:
    """Somebody else's site, whose pages show a chat that stands elsewhere."""

    def __init__(self) -> None:
        self.chat = ""
        self.example = ""
        self.app = Starlette(
            routes=[
                Route("/frame", self._frame),
                Route("/element", self._element),
                Route("/example", lambda _request: HTMLResponse(self.example)),
                Route("/chat-token", lambda _request: PlainTextResponse("a.token")),
            ]
        )

    async def _frame(self, _request: Request) -> Response:
        return HTMLResponse(Template(FRAME).substitute(chat=self.chat))

    async def _element(self, _request: Request) -> Response:
        """A page as strict as can be: what it may load is the chat's script, and its frame."""
        origin = "/".join(self.chat.split("/")[:3])
        policy = Template(STRICT).substitute(chat=origin)
        page = Template(ELEMENT).substitute(chat=self.chat)
        return HTMLResponse(page, headers={"content-security-policy": policy})


@pytest.fixture(scope="module")
def pages() -> Pages:
    return Pages()


@pytest.fixture(scope="module")
def allowed(pages: Pages) -> Iterator[str]:
    """A site that the operator lists."""
    with running(pages.app) as url:
        yield url


@pytest.fixture(scope="module")
def stranger(pages: Pages) -> Iterator[str]:
    """One that nobody lists."""
    with running(pages.app) as url:
        yield url


@pytest.fixture(scope="module")
def model_url() -> Iterator[str]:
    with running(ModelServer().app) as url:
        yield f"{url}/v1"


@pytest.fixture(scope="module")
def chat(
    tmp_path_factory: pytest.TempPathFactory, model_url: str, pages: Pages, allowed: str
) -> Iterator[Installation]:
    """A chat below a path that one site may show: at the same host, and at another, which is another site."""
    origins = f"{allowed},{allowed.replace('127.0.0.1', 'localhost')}"
    with Installation(
        tmp_path_factory.mktemp("embedded"),
        model_url,
        MCP_CHAT_BASE_PATH="/tools/chat",
        MCP_CHAT_FRAME_ORIGINS=origins,
    ) as installation:
        pages.chat = installation.url.rstrip("/")
        yield installation


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    context = browser.new_context()
    yield context
    context.close()


def chats(within: Page | FrameLocator, model: str = "demo:demo") -> None:
    """Connect, send, and get an answer that a tool has given."""
    within.get_by_test_id("model-select").select_option(model)
    within.get_by_test_id("connect").click()
    within.get_by_test_id("composer").fill("add 2 and 3")
    within.get_by_test_id("composer").press("Enter")
    expect(within.get_by_test_id("message-assistant").last).to_contain_text("answered: 5")


def sign_in(within: Page | FrameLocator, name: str) -> None:
    """Choose a name."""
    within.get_by_test_id("user-input").fill(name)
    within.get_by_test_id("sign-in").click()


# Below a path


@slow
def test_the_tab_stands_below_a_path_and_asks_for_nothing_elsewhere(
    context: BrowserContext, chat: Installation, name: str
) -> None:
    assert chat.url.endswith("/tools/chat/")
    tab = Tab(context, chat.url.rstrip("/"))
    expect(tab.page).to_have_url(chat.url)
    tab.sign_in(name)
    chats(tab.page)
    tab.page.reload()
    tab.answers("answered: 5")
    (cookie,) = context.cookies()
    assert (cookie.get("name"), cookie.get("path")) == ("mcp_chat_demo", "/tools/chat")
    tab.page.get_by_test_id("sign-out").click()
    expect(tab.page.get_by_test_id("sign-in")).to_be_visible()
    assert context.cookies() == []
    assert [url for url in tab.requests if not url.startswith(chat.url.rstrip("/"))] == []
    assert tab.complaints == []


@slow
def test_a_proxy_may_take_the_path_off(
    context: BrowserContext, chat: Installation, name: str, tmp_path: Path
) -> None:
    """What it takes off may even be what it could leave in."""
    port = free_port()
    (shown,) = re.findall(r"^```nginx\n(.*?)^```$", DOCUMENT.read_text(), re.MULTILINE | re.DOTALL)
    location = shown.replace("http://127.0.0.1:8000", "/".join(chat.url.split("/")[:3]))
    site = f"server {{ listen 127.0.0.1:{port};\n{location} }}"
    with nginx(tmp_path / "nginx", site, port) as url:
        tab = Tab(context, f"{url}/tools/chat/")
        tab.sign_in(name)
        chats(tab.page)
        assert [asked for asked in tab.requests if not asked.startswith(f"{url}/tools/chat/")] == []
        assert tab.complaints == []


@slow
def test_the_api_stands_below_the_path_and_at_the_root(chat: Installation) -> None:
    root = "/".join(chat.url.split("/")[:3])
    for base in (root, chat.url.rstrip("/")):
        assert httpx.get(f"{base}/readyz", trust_env=False).status_code == 200
        assert httpx.get(f"{base}/llmchat/servers", trust_env=False).status_code == 401
        page = httpx.get(f"{base}/llmchat/oauth/callback?state=x", trust_env=False)
        assert 'src="../../web/' in page.text
    assert httpx.get(f"{root}/tools/chatter/", trust_env=False).status_code == 404


def test_the_path_without_its_slash_keeps_the_query_and_redirects_requests_only(
    settings: Callable[..., Settings],
) -> None:
    client = TestClient(create_app(settings(base_path="/tools/chat")), base_url="http://localhost")
    for asked, wanted in (("?code=a%20b&x=1", "chat/?code=a%20b&x=1"), ("", "chat/")):
        answer = client.get(f"/tools/chat{asked}", follow_redirects=False)
        assert (answer.status_code, answer.headers["location"]) == (308, wanted)
    with pytest.raises(WebSocketDisconnect) as refused, client.websocket_connect("ws://localhost/tools/chat"):
        pass
    assert type(refused.value) is WebSocketDisconnect  # and no answer of HTTP


@pytest.mark.parametrize("path", ["chat", "/llmchat", "/web/chat", "/v1", "/a/../b", "/a b", "/a//b"])
def test_a_path_that_cannot_be_is_refused(path: str) -> None:
    with pytest.raises(SettingsError, match=r"^MCP_CHAT_BASE_PATH: .+\.$"):
        load_settings(base_path=path)


def test_the_public_address_and_the_path_must_agree() -> None:
    address = "https://chat.example.org/elsewhere"
    with pytest.raises(SettingsError, match="must end with MCP_CHAT_BASE_PATH"):
        check_settings(load_settings(base_path="/chat", public_url=address))
    check_settings(load_settings(base_path="/chat", public_url="https://chat.example.org/chat"))


# In a frame


def ancestors(answer: httpx.Response) -> str:
    """What the policy says of frames."""
    (said,) = (
        part.strip()
        for part in answer.headers["content-security-policy"].split(";")
        if part.strip().startswith("frame-ancestors")
    )
    return said


def test_unless_somebody_is_listed_nobody_shows_the_chat_in_a_frame(serve: Callable[..., str]) -> None:
    plain, listed = serve(), serve(frame_origins="https://admin.example.org, https://b.example")
    for path in ("/", "/auth", "/llmchat/oauth/callback?state=x", "/nowhere"):
        assert ancestors(httpx.get(plain + path, trust_env=False)) == "frame-ancestors 'none'"
        said = ancestors(httpx.get(listed + path, trust_env=False))
        assert said == "frame-ancestors https://admin.example.org https://b.example"


@pytest.mark.parametrize(
    "origin",
    ["*", "https:", "'self'", "https://*.example.org", "https://a.example/", "http://a.example", "data:"],
)
def test_only_whole_origins_are_listed(origin: str) -> None:
    with pytest.raises(SettingsError, match="MCP_CHAT_FRAME_ORIGINS"):
        check_settings(load_settings(frame_origins=origin))


def test_who_may_show_the_chat_may_still_change_nothing(serve: Callable[..., str]) -> None:
    url = serve(frame_origins="https://admin.example.org")
    for headers in ({"origin": "https://admin.example.org"}, {"sec-fetch-site": "same-site"}):
        answer = httpx.post(f"{url}/auth/demo", json={"user": "ann"}, headers=headers, trust_env=False)
        assert answer.status_code == 403
        assert "access-control-allow-origin" not in answer.headers


def test_the_element_is_the_one_file_that_other_origins_load(serve: Callable[..., str]) -> None:
    url = serve()
    sent = {"origin": "https://admin.example.org"}
    element = httpx.get(f"{url}/web/element.js", headers=sent, trust_env=False)
    assert element.headers["access-control-allow-origin"] == "*"
    assert element.headers["cross-origin-resource-policy"] == "cross-origin"
    assert "import " not in element.text, "what it imports, other origins could not load"
    for path in ("/web/main.js", "/", "/auth"):
        answer = httpx.get(url + path, headers=sent, trust_env=False)
        assert "access-control-allow-origin" not in answer.headers
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"


@slow
def test_a_listed_page_shows_the_chat_in_a_frame(
    context: BrowserContext, chat: Installation, allowed: str, name: str
) -> None:
    page = Tab(context, f"{allowed}/frame")
    frame = page.page.frame_locator("iframe")
    sign_in(frame, name)
    chats(frame)
    page.page.reload()
    expect(frame.get_by_test_id("message-assistant").last).to_contain_text("answered: 5")
    assert page.complaints == []


@slow
def test_no_other_page_does(context: BrowserContext, chat: Installation, stranger: str) -> None:
    page = Tab(context, f"{stranger}/frame")
    expect(page.page.frame_locator("iframe").locator("#app")).to_have_count(0)
    shown = page.page.frames[1]
    expect(page.page.locator("iframe")).to_be_visible()
    assert shown.url == "chrome-error://chromewebdata/"
    (complaint,) = page.complaints
    assert "frame-ancestors" in complaint


@slow
def test_a_frame_of_another_site_says_that_no_cookie_is_kept(
    context: BrowserContext, chat: Installation, allowed: str, name: str
) -> None:
    """The site is another one by its name, and the demo's cookie is for its own alone."""
    page = context.new_page()
    page.goto(f"{allowed.replace('127.0.0.1', 'localhost')}/frame")
    frame = page.frame_locator("iframe")
    sign_in(frame, name)
    expect(frame.get_by_test_id("error")).to_contain_text(
        "keeps no sign-in for the chat inside another site's page"
    )
    expect(frame.get_by_test_id("user-input")).to_be_visible()


# As an element


def examples() -> list[str]:
    """The pages' parts that our own page shows."""
    found = re.findall(r"^```html\n(.*?)^```$", DOCUMENT.read_text(), re.MULTILINE | re.DOTALL)
    assert len(found) == 3
    return found


@slow
@pytest.mark.parametrize("example", examples())
def test_each_example_shows_the_chat(
    context: BrowserContext, chat: Installation, pages: Pages, allowed: str, example: str
) -> None:
    head = '<!doctype html><link rel="icon" href="data:,">'
    pages.example = head + example.replace("https://chat.example.org", pages.chat)
    tab = Tab(context, f"{allowed}/example")
    frame = tab.page.frame_locator("iframe")  # in the element's shadow, too
    expect(frame.get_by_test_id("user-input")).to_be_visible()
    assert tab.complaints == []


@slow
def test_a_strict_page_shows_the_chat_as_an_element(
    context: BrowserContext, chat: Installation, allowed: str, name: str
) -> None:
    tab = Tab(context, f"{allowed}/element")
    page, frame = tab.page, tab.page.frame_locator("mcp-chat iframe")
    expect(page.locator("mcp-chat iframe")).to_have_attribute("title", "Ask the tools")
    sign_in(frame, name)
    chats(frame)
    tab.picture("element")
    ground = "getComputedStyle(document.body).backgroundColor"
    inner = page.frames[1]
    assert inner.evaluate(ground) == "rgb(20, 22, 27)"
    page.locator("mcp-chat").evaluate("element => element.setAttribute('theme', 'light')")
    expect(frame.locator("html")).to_have_attribute("data-theme", "light")
    assert inner.evaluate(ground) == "rgb(251, 251, 252)"
    page.locator("mcp-chat").evaluate("element => element.focus()")
    assert page.evaluate("document.activeElement.localName") == "mcp-chat"
    assert tab.complaints == []


@slow
def test_only_the_page_around_it_is_listened_to(
    context: BrowserContext, chat: Installation, allowed: str
) -> None:
    page = context.new_page()
    page.goto(f"{allowed}/frame")
    frame = page.frame_locator("iframe[title=Chat]")
    expect(frame.get_by_test_id("user-input")).to_be_visible()
    look = "window => window.postMessage({type: 'mcp-chat-look', theme: 'dark', lang: 'de'}, '*')"
    page.evaluate(f"""() => {{
        const neighbour = document.body.appendChild(document.createElement('iframe'));
        neighbour.contentWindow.eval("({look})(parent.frames[0])");
    }}""")
    page.evaluate(
        "frames[0].postMessage({type: 'mcp-chat-token', token: 'x'}, '*')"
    )  # in this mode there are none
    page.evaluate("for (const odd of [null, 1, {}, {type: {}}, []]) frames[0].postMessage(odd, '*')")
    page.evaluate("frames[0].postMessage({type: 'mcp-chat-look', theme: 'light'}, '*')")
    expect(frame.locator("html")).to_have_attribute("data-theme", "light")
    page.frames[1].evaluate("new Promise(done => setTimeout(done))")
    expect(frame.locator("html")).to_have_attribute("lang", "en")
    page.evaluate("frames[0].postMessage({type: 'mcp-chat-look', theme: 'light', lang: 'de'}, '*')")
    expect(frame.get_by_test_id("sign-in")).to_have_text("Anmelden")
    expect(frame.get_by_test_id("error")).to_have_count(0)


@pytest.fixture(scope="module")
def token_chat(
    tmp_path_factory: pytest.TempPathFactory, model_url: str, allowed: str
) -> Iterator[Installation]:
    """A chat whose users have tokens, for a page of another site."""
    with Installation(
        tmp_path_factory.mktemp("tokens"),
        model_url,
        MCP_CHAT_AUTH="jwt",
        JWT_SECRET_KEY=SECRET,
        MCP_CHAT_ENCRYPTION_KEY=base64.b64encode(secrets.token_bytes(32)).decode(),
        MCP_CHAT_ALLOWED_NETWORKS="127.0.0.0/8",
        MCP_CHAT_FRAME_ORIGINS=allowed.replace("127.0.0.1", "localhost"),
    ) as installation:
        yield installation


@slow
def test_a_page_of_another_site_signs_its_user_in_by_a_token(
    context: BrowserContext, token_chat: Installation, pages: Pages, allowed: str, name: str
) -> None:
    before, pages.chat = pages.chat, token_chat.url
    token = jwt.encode({"sub": name, "exp": int(time.time()) + 600}, SECRET, "HS256")
    page = context.new_page()
    page.add_init_script("""
        window.asked = 0;
        addEventListener("mcp-chat-sign-in", () => asked++);
    """)
    page.goto(f"{allowed.replace('127.0.0.1', 'localhost')}/element")
    pages.chat = before
    frame = page.frame_locator("mcp-chat iframe")
    expect(frame.get_by_test_id("token-input")).to_be_visible()
    page.wait_for_function("asked === 1")
    give = "(element, token) => { element.token = token; }"
    page.locator("mcp-chat").evaluate(give, "no.such.token")
    expect(frame.get_by_test_id("error")).to_contain_text("not accepted")
    expect(frame.get_by_test_id("token-input")).to_be_visible()
    page.locator("mcp-chat").evaluate(give, token)
    expect(frame.get_by_test_id("connect")).to_be_visible()
    chats(frame)
    assert token not in page.content(), "the page's own elements have nothing of it"
