"""Several tabs in step, and a line that breaks: reload, a dead worker, a lost network, a hidden tab."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass

import pytest
from playwright.sync_api import Browser, BrowserContext, Locator, Route, expect
from playwright.sync_api import Error as PlaywrightError

from tests.installation import Installation
from tests.model_server import ModelServer, Reply
from tests.running import running, wait_until
from tests.tab import Tab, chromium

pytestmark = pytest.mark.slow


COUNTED = "one two three four five six seven eight nine ten"

HIDE = """(hidden) => {
  Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
  document.dispatchEvent(new Event("visibilitychange"));
}"""

OCCUPY = """() => {
  for (const place of [0, 1, 2, 3]) {
    const keep = (lock) => lock && new Promise(() => {});
    navigator.locks.request(`mcp-chat-line-${place}`, { ifAvailable: true }, keep);
  }
}"""

LATE = """
  const set = setTimeout;
  setTimeout = (act, after) => (after === 500 ? void (globalThis.late = act) : set(act, after));
"""


@pytest.fixture(scope="module")
def scripted() -> ModelServer:
    return ModelServer()


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory, scripted: ModelServer) -> Iterator[Installation]:
    with (
        running(scripted.app) as model_url,
        Installation(
            tmp_path_factory.mktemp("line"), f"{model_url}/v1", MCP_CHAT_MODEL_RETRIES="0"
        ) as installation,
    ):
        yield installation


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@dataclass
class Somebody:
    """Who has signed in and is connected, and their first tab."""

    context: BrowserContext
    tab: Tab

    def second(self) -> Tab:
        """Open another tab of theirs."""
        tab = Tab(self.context, self.tab.url)
        expect(tab.page.get_by_test_id("composer")).to_be_visible()
        return tab


@pytest.fixture
def somebody(browser: Browser, installation: Installation, name: str) -> Iterator[Somebody]:
    context = browser.new_context()
    tab = Tab(context, installation.url)
    tab.sign_in(name)
    tab.connect("openai:scripted")
    yield Somebody(context, tab)
    context.close()


def answers(tab: Tab) -> Locator:
    return tab.page.get_by_test_id("message-assistant")


def questions(tab: Tab) -> Locator:
    return tab.page.get_by_test_id("message-user")


def wait_for(tab: Tab, happened: Callable[[], bool]) -> None:
    """Wait while the browser is heard."""

    def look() -> bool:
        tab.page.wait_for_timeout(10)
        return happened()

    wait_until(look, "it has happened")


def prose(tab: Tab) -> Locator:
    """The words of the last answer, without what stands below."""
    return answers(tab).last.locator(".prose")


@pytest.mark.parametrize("running", [False, True])
def test_a_record_that_is_late_takes_nothing_away(
    somebody: Somebody, scripted: ModelServer, running: bool
) -> None:
    tab, held, hold = somebody.tab, list[Route](), threading.Event()

    def keep(route: Route) -> None:
        return route.continue_() if len(held) == 2 else held.append(route)

    tab.page.goto("about:blank")
    tab.page.route("**/llmchat/history/**", keep)
    tab.page.add_init_script(LATE)
    tab.page.goto(tab.url)
    wait_for(tab, lambda: len(held) == 1)
    tab.page.evaluate("void late()")  # half a second is over, and the line has no record yet
    wait_for(tab, lambda: len(held) == 2)
    early = held[1].fetch()
    held[0].continue_()
    scripted.will(Reply(text="one two three", hold=hold))
    tab.send("count")
    expect(answers(tab)).to_contain_text("one two")
    if not running:
        hold.set()
        tab.answers("one two three")
    with tab.page.expect_response("**/llmchat/history/**"):
        held[1].fulfill(response=early)
    tab.page.evaluate("new Promise((seen) => requestAnimationFrame(() => requestAnimationFrame(seen)))")
    expect(tab.page.get_by_test_id("stop")).to_have_count(int(running))
    expect(questions(tab)).to_have_text(["count"])
    hold.set()
    tab.answers("one two three")
    expect(tab.page.get_by_test_id("stop")).to_have_count(0)


def test_what_is_said_in_one_tab_is_streamed_in_the_other(somebody: Somebody, scripted: ModelServer) -> None:
    hold = threading.Event()
    one, two = somebody.tab, somebody.second()
    scripted.will(Reply(text="one two three", hold=hold))
    one.send("count")
    for tab in (one, two):
        expect(questions(tab)).to_have_text(["count"])
        expect(answers(tab)).to_contain_text("one two")
        expect(tab.page.get_by_test_id("stop")).to_be_visible()
    hold.set()
    for tab in (one, two):
        tab.answers("one two three")
        expect(answers(tab)).to_have_count(1)
        expect(questions(tab).get_by_test_id("edit")).to_be_visible()
    two.send("and now?")
    for tab in (one, two):
        expect(questions(tab)).to_have_text(["count", "and now?"])
        tab.answers("3 messages, the last from user: and now?")
    assert one.complaints == two.complaints == []


def test_both_tabs_stop_steer_edit_and_switch_branches(somebody: Somebody, scripted: ModelServer) -> None:
    hold = threading.Event()
    one, two = somebody.tab, somebody.second()
    scripted.will(Reply(text="one two three", hold=hold), Reply(text="four"))
    one.send("count")
    expect(answers(two)).to_contain_text("one two")
    two.send("and go on")
    hold.set()
    for tab in (one, two):
        expect(questions(tab)).to_have_text(["count", "and go on"])
        tab.answers("four")
        expect(answers(tab)).to_have_count(2)
        expect(answers(tab).first).to_contain_text("one two three")
    scripted.will(Reply(text="word " * 500, pause=0.05))
    one.send("a long story")
    expect(answers(two).last).to_contain_text("word")
    two.page.get_by_test_id("stop").click()
    for tab in (one, two):
        expect(tab.page.get_by_test_id("stopped")).to_be_visible()
        expect(tab.page.get_by_test_id("stop")).to_have_count(0)
    scripted.will(Reply(text="A short one."))
    questions(one).last.get_by_test_id("edit").click()
    one.page.get_by_test_id("editor").fill("a short story")
    one.page.get_by_test_id("edit-send").click()
    for tab in (one, two):
        tab.answers("A short one.")
        expect(questions(tab)).to_have_count(3)
        expect(questions(tab).last.get_by_test_id("switcher")).to_contain_text("2/2")
    questions(two).last.get_by_test_id("branch-before").click()
    for tab in (one, two):
        expect(questions(tab).last).to_contain_text("a long story")
        expect(questions(tab).last.get_by_test_id("switcher")).to_contain_text("1/2")
    assert one.complaints == two.complaints == []


def test_an_answer_that_fails_says_why_in_both_tabs(somebody: Somebody, scripted: ModelServer) -> None:
    one, two = somebody.tab, somebody.second()
    scripted.will(Reply(status=401))
    one.send("hello")
    for tab in (one, two):
        expect(tab.page.get_by_test_id("error")).to_contain_text("refused the API key")
        expect(tab.page.get_by_test_id("stop")).to_have_count(0)


def test_a_reload_in_mid_answer_leaves_no_gap_and_repeats_nothing(
    somebody: Somebody, scripted: ModelServer
) -> None:
    tab = somebody.tab
    scripted.will(Reply(text=COUNTED, pause=0.3))
    tab.send("count")
    for word in ("two", "six"):
        expect(prose(tab)).to_contain_text(word)
        tab.page.reload()
    tab.answers("ten")
    expect(prose(tab)).to_have_text(COUNTED)
    expect(questions(tab)).to_have_count(1)


def test_when_the_worker_dies_in_mid_answer_both_tabs_have_all_of_it_once(
    somebody: Somebody, scripted: ModelServer, installation: Installation
) -> None:
    one, two = somebody.tab, somebody.second()
    scripted.will(Reply(text=COUNTED, hang_after=5), Reply(text=COUNTED, pause=0.1))
    one.send("count")
    for tab in (one, two):
        expect(answers(tab)).to_contain_text("four")
    for worker in installation.talking_to_the_model():
        worker.kill()
    for tab in (one, two):
        tab.answers("ten")
        expect(prose(tab)).to_have_text(COUNTED)
        expect(answers(tab)).to_have_count(1)
        expect(questions(tab)).to_have_text(["count"])
    wait_until(lambda: len(installation.workers()) == 2, "two workers")


def test_a_lost_network_is_made_up_for(
    somebody: Somebody, scripted: ModelServer, browser: Browser, installation: Installation, name: str
) -> None:
    tab, hold = somebody.tab, threading.Event()
    scripted.will(Reply(text="one two three", hold=hold))
    tab.send("count")
    expect(answers(tab)).to_contain_text("one two")
    somebody.context.set_offline(True)
    expect(tab.page.get_by_test_id("error")).to_contain_text("connection was lost")
    with browser.new_context() as context:  # another device
        other = Tab(context, installation.url)
        other.sign_in(name)
        hold.set()
        other.answers("one two three")
        other.send("and from here")
        other.answers("3 messages, the last from user: and from here")
    somebody.context.set_offline(False)
    expect(questions(tab)).to_have_text(["count", "and from here"])
    tab.answers("3 messages")
    expect(answers(tab).first.locator(".prose")).to_have_text("one two three")
    expect(tab.page.get_by_test_id("error")).to_have_count(0)


def test_that_the_server_cannot_be_reached_is_said_only_until_it_can(somebody: Somebody) -> None:
    tab = somebody.tab
    tab.send("hello")
    tab.answers("hello")
    somebody.context.set_offline(True)
    tab.send("hello again")
    expect(tab.page.get_by_test_id("error")).to_contain_text("cannot be reached")
    somebody.context.set_offline(False)
    expect(tab.page.get_by_test_id("error")).to_have_count(0)
    expect(tab.page.get_by_test_id("composer")).to_have_value("hello again")


def test_a_tab_that_nobody_sees_gives_its_line_away_and_catches_up(
    somebody: Somebody, scripted: ModelServer
) -> None:
    one, two = somebody.tab, somebody.second()
    one.send("hello")
    two.answers("hello")
    with two.page.expect_event("requestfailed", lambda request: "/events" in request.url):
        two.page.evaluate(HIDE, True)
    one.send("are you there?")
    one.answers("are you there?")
    expect(questions(two)).to_have_count(1)
    two.page.evaluate(HIDE, False)
    two.answers("are you there?")
    expect(questions(two)).to_have_text(["hello", "are you there?"])


def test_nine_tabs_do_not_block_each_other(somebody: Somebody) -> None:
    tabs = [somebody.tab, *(somebody.second() for _ in range(8))]
    for place, tab in enumerate((tabs[0], tabs[-1])):
        tab.send(f"message {place}")
        tab.answers(f"message {place}")


def test_an_idle_tab_asks_for_nothing(somebody: Somebody) -> None:
    tab = somebody.tab
    tab.send("hello")
    tab.answers("hello")
    for _ in range(6):  # what comes of the end of a turn may come late
        tab.requests.clear()
        tab.page.wait_for_timeout(3000)
        if not tab.requests:
            break
    assert tab.requests == []


def test_a_stop_that_overtakes_its_message_stops_it_nevertheless(
    somebody: Somebody, scripted: ModelServer
) -> None:
    tab = somebody.tab
    sent: list[Route] = []
    scripted.will(Reply(text="word " * 500, pause=0.05))

    def keep(message: Route) -> None:
        sent.append(message)

    tab.page.route("**/llmchat/chat", keep)
    tab.send("a long story")
    with tab.page.expect_response("**/llmchat/cancel") as early:
        tab.page.get_by_test_id("stop").click()
    assert early.value.json()["status"] == "no_running_turn"
    for message in sent:
        message.continue_()
    expect(tab.page.get_by_test_id("stopped")).to_be_visible()
    expect(tab.page.get_by_test_id("stop")).to_have_count(0)
    expect(questions(tab)).to_have_text(["a long story"])


def test_what_is_said_into_an_answer_is_said_once_though_nobody_heard_that_it_was_taken(
    somebody: Somebody, scripted: ModelServer
) -> None:
    tab, hold = somebody.tab, threading.Event()
    ids: list[str] = []

    def lose(message: Route) -> None:
        ids.append(json.loads(message.request.post_data or "")["message_id"])
        if len(ids) == 1:
            message.abort()
            return
        with suppress(PlaywrightError):
            message.fetch(timeout=30_000)  # its answer goes on until the turn is over
        message.abort()

    scripted.will(Reply(text="one two three", hold=hold), Reply(text="four"))
    tab.send("count")
    expect(answers(tab)).to_contain_text("one two")
    tab.page.route("**/llmchat/chat", lose)
    tab.send("and go on")
    expect(tab.page.get_by_test_id("composer")).to_have_value("and go on")  # it is not there
    tab.page.keyboard.press("Enter")
    wait_for(tab, lambda: len(ids) == 2)
    hold.set()
    tab.answers("four")
    expect(questions(tab)).to_have_text(["count", "and go on"])
    expect(tab.page.get_by_test_id("composer")).to_have_value("")
    assert len(set(ids)) == 1


def test_a_tab_without_a_line_shows_what_happens_and_has_one_once_it_is_used(
    somebody: Somebody, scripted: ModelServer
) -> None:
    one = somebody.tab
    one.send("hello")
    one.answers("hello")
    one.page.evaluate(OCCUPY)
    somebody.context.add_init_script(
        "document.hasFocus = () => false"
    )  # it stands beside the one that is used
    two = somebody.second()
    two.answers("hello")
    one.send("are you there?")
    one.answers("are you there?")
    two.answers("are you there?")
    assert not [url for url in two.requests if "/events" in url]
    with two.page.expect_request("**/llmchat/events*"):
        two.page.get_by_test_id("composer").click()
    two.send("yes")
    two.answers("from user: yes")


def test_a_line_that_ends_at_once_is_not_begun_again_without_a_pause(somebody: Somebody) -> None:
    tab = somebody.tab
    body = "event: reconnect\ndata: {}\n\n"
    tab.page.route(
        "**/llmchat/events*", lambda line: line.fulfill(content_type="text/event-stream", body=body)
    )
    tab.requests.clear()
    tab.page.reload()
    expect(tab.page.get_by_test_id("composer")).to_be_visible()

    def lines() -> int:
        return len([url for url in tab.requests if "/llmchat/events" in url])

    tab.page.wait_for_timeout(4000)
    wait_for(tab, lambda: lines() > 1)
    assert lines() < 8
    tab.page.unroute("**/llmchat/events*")
    tab.send("hello")
    tab.answers("hello")


def test_who_signs_out_in_one_tab_is_gone_in_the_other_with_all_that_was_theirs(
    somebody: Somebody, scripted: ModelServer, name: str
) -> None:
    one, two = somebody.tab, somebody.second()
    one.send("a secret of mine")
    for tab in (one, two):
        tab.answers("a secret of mine")
        tab.page.get_by_test_id("composer").fill("not sent yet")
    two.page.get_by_test_id("sign-out").click()
    expect(one.page.get_by_test_id("user-input")).to_be_visible()
    two.sign_in(f"{name}-after")
    expect(one.page.locator(".person .name")).to_have_text(f"{name}-after")
    for tab in (one, two):
        expect(tab.page.locator("body")).not_to_contain_text("a secret of mine")
    two.page.get_by_test_id("sign-out").click()
    expect(one.page.get_by_test_id("user-input")).to_be_visible()
    two.sign_in(name)
    for tab in (one, two):
        tab.answers("a secret of mine")
        expect(tab.page.get_by_test_id("composer")).to_have_value("")


def test_what_is_on_its_way_when_its_user_signs_out_is_not_kept_for_anybody(
    somebody: Somebody, name: str
) -> None:
    tab, sent = somebody.tab, list[Route]()

    def hold(route: Route) -> None:
        sent.append(route)

    tab.page.route("**/llmchat/chat", hold)
    tab.send("a secret of mine")
    wait_for(tab, lambda: bool(sent))
    tab.page.get_by_test_id("sign-out").click()
    expect(tab.page.get_by_test_id("user-input")).to_be_visible()
    sent[0].abort()
    tab.sign_in(f"{name}-after")
    tab.connect("openai:scripted")
    expect(tab.page.get_by_test_id("composer")).to_have_value("")
    assert "secret" not in tab.page.evaluate("JSON.stringify(sessionStorage)")
