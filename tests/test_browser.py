"""The chat tab in a real browser, from sign-in to sign-out."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Route, expect

from tests.installation import Installation
from tests.model_server import ModelServer, Reply
from tests.running import running, wait_until
from tests.tab import Tab, chromium

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def scripted() -> ModelServer:
    return ModelServer()


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory, scripted: ModelServer) -> Iterator[Installation]:
    with (
        running(scripted.app) as model_url,
        Installation(tmp_path_factory.mktemp("browser"), f"{model_url}/v1") as installation,
    ):
        yield installation


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def tab(browser: Browser, installation: Installation) -> Iterator[Tab]:
    context = browser.new_context()
    tab = Tab(context, installation.url)
    yield tab
    assert tab.complaints == []
    assert [url for url in tab.requests if not url.startswith(installation.url)] == []
    context.close()


def test_text_that_a_dead_worker_has_said_does_not_stay(
    tab: Tab, name: str, installation: Installation, scripted: ModelServer
) -> None:
    tab.sign_in(name)
    tab.connect("openai:scripted")
    scripted.will(Reply(text="one two three", hang_after=3))
    tab.send("count")
    answer = tab.page.get_by_test_id("message-assistant").last
    expect(answer).to_contain_text("one two")
    for worker in installation.talking_to_the_model():
        worker.kill()
    tab.answers("1 messages, the last from user: count")
    expect(answer).not_to_contain_text("one two")
    tab.complaints.clear()  # of the stream, if it was that worker's
    wait_until(lambda: len(installation.workers()) == 2, "two workers")


def test_a_person_chats_with_a_tool_from_sign_in_to_sign_out(tab: Tab, name: str) -> None:
    page = tab.page
    tab.sign_in(name)
    tab.connect("demo:demo")
    expect(page.get_by_test_id("demo-notice").first).to_contain_text(re.compile("no language model", re.I))
    expect(page.get_by_test_id("tool-count")).to_contain_text("14")
    tab.send("add 2 and 3")
    tab.answers("answered: 5")
    card = page.get_by_test_id("tool-card")
    expect(card).to_have_attribute("data-state", "done")
    expect(card.get_by_test_id("tool-duration")).to_contain_text("ms")
    card.locator("summary").click()
    expect(card.get_by_test_id("tool-args")).to_contain_text('"a": 2')
    expect(card.get_by_test_id("tool-result")).to_contain_text("5")
    tab.send("/always_fails reason=thunder")
    tab.answers("failed")
    failed = page.get_by_test_id("tool-card").last
    expect(failed).to_have_attribute("data-state", "error")
    expect(failed).to_contain_text("thunder")
    page.get_by_test_id("disconnect").click()
    expect(page.get_by_test_id("connect")).to_be_visible()
    page.get_by_test_id("sign-out").click()
    expect(page.get_by_test_id("sign-in")).to_be_visible()


def test_a_reload_shows_the_conversation_again(tab: Tab, name: str) -> None:
    tab.sign_in(name)
    tab.connect("demo:demo")
    tab.send("add 20 and 22")
    tab.answers("answered: 42")
    tab.page.reload()
    expect(tab.page.get_by_test_id("message-user")).to_contain_text("add 20 and 22")
    expect(tab.page.get_by_test_id("message-assistant")).to_contain_text("answered: 42")
    expect(tab.page.get_by_test_id("tool-card")).to_have_attribute("data-state", "done")


def test_an_answer_says_what_it_took_and_the_header_what_all_did(
    tab: Tab, name: str, scripted: ModelServer
) -> None:
    counts = {"prompt_tokens": 9000, "completion_tokens": 1000, "total_tokens": 10_000}
    scripted.will(Reply(text="First.", usage=counts), Reply(text="Second.", usage=counts))
    tab.sign_in(name)
    tab.connect("openai:scripted")
    for question, answer in (("one", "First."), ("two", "Second.")):
        tab.send(question)
        tab.answers(answer)
    for _ in range(2):
        last = tab.page.get_by_test_id("message-assistant").last
        expect(last).to_contain_text(re.compile(r"\d ?m?s · 10,000 tokens · \$0\.03"))
        expect(tab.page.get_by_test_id("session-spent")).to_have_text("20,000 tokens · $0.06")
        tab.page.reload()


def test_markdown_is_streamed_and_a_turn_can_be_stopped(tab: Tab, name: str, scripted: ModelServer) -> None:
    scripted.will(Reply(text="**bold** " + "word " * 500, pause=0.05))
    tab.sign_in(name)
    tab.connect("openai:scripted")
    tab.send("tell me a long story")
    answer = tab.page.get_by_test_id("message-assistant").last
    expect(answer.locator("strong")).to_have_text("bold")
    tab.page.get_by_test_id("stop").click()
    expect(tab.page.get_by_test_id("stop")).to_have_count(0)
    expect(tab.page.get_by_test_id("stopped")).to_be_visible()
    tab.send("and now?")
    tab.answers("3 messages")


def test_what_is_said_into_a_running_answer_comes_in_and_the_answer_goes_on(
    tab: Tab, name: str, scripted: ModelServer
) -> None:
    hold = threading.Event()
    scripted.will(Reply(text="one two three", hold=hold), Reply(text="four five"))
    tab.sign_in(name)
    tab.connect("openai:scripted")
    tab.send("count")
    expect(tab.page.get_by_test_id("message-assistant").last).to_contain_text("one two")
    tab.send("and go on")
    said = tab.page.get_by_test_id("message-user").last
    expect(said).to_have_attribute("data-state", "waiting")
    expect(tab.page.get_by_test_id("stop")).to_be_visible()
    tab.picture("steering")
    hold.set()
    tab.answers("four five")
    expect(said).to_have_attribute("data-state", "done")
    answers = tab.page.get_by_test_id("message-assistant")
    expect(answers).to_have_count(2)
    expect(answers.first).to_contain_text("one two three")
    expect(answers.last).not_to_contain_text("three")
    tab.page.reload()
    tab.answers("four five")
    expect(tab.page.get_by_test_id("message-user")).to_have_text(["count", "and go on"])


def test_a_wait_for_the_provider_is_a_quiet_line(tab: Tab, name: str, scripted: ModelServer) -> None:
    scripted.will(Reply(status=429, headers={"retry-after": "12"}), Reply(text="at last"))
    tab.sign_in(name)
    tab.connect("openai:scripted")
    tab.send("hello")
    expect(tab.page.get_by_test_id("notice")).to_have_text(re.compile("limiting requests.*in 12 s"))
    tab.answers("at last")
    expect(tab.page.get_by_test_id("notice")).to_have_count(0)  # it is not so any more


def test_a_reload_shows_the_running_answer_as_it_goes_on(tab: Tab, name: str, scripted: ModelServer) -> None:
    hold = threading.Event()
    scripted.will(
        Reply(text="I look.", calls=[("demo__add", {"a": 20, "b": 22})]),
        Reply(text="one two three", hold=hold),
        Reply(text="four five"),
    )
    tab.sign_in(name)
    tab.connect("openai:scripted")
    tab.send("count")
    answers = tab.page.get_by_test_id("message-assistant")
    expect(answers.last).to_contain_text("one two")
    tab.page.reload()
    expect(answers).to_have_count(1)
    expect(answers).to_contain_text("one two")
    expect(answers).to_contain_text("I look.")
    expect(answers.get_by_test_id("tool-card")).to_have_count(1)
    expect(tab.page.get_by_test_id("stop")).to_be_visible()
    tab.send("and go on")
    said = tab.page.get_by_test_id("message-user").last
    expect(said).to_have_attribute("data-state", "waiting")
    hold.set()
    tab.answers("four five")
    expect(said).to_have_attribute("data-state", "done")
    expect(tab.page.get_by_test_id("message-user")).to_have_text(["count", "and go on"])
    expect(answers).to_have_count(2)
    expect(answers.first).to_contain_text("one two three")
    expect(tab.page.get_by_test_id("message-user").last.get_by_test_id("edit")).to_be_visible()


def test_an_answer_that_broke_off_between_two_steps_says_so_after_a_reload(
    tab: Tab, name: str, scripted: ModelServer
) -> None:
    scripted.will(Reply(text="I look.", calls=[("demo__add", {"a": 1, "b": 1})]), Reply(status=401))
    tab.sign_in(name)
    tab.connect("openai:scripted")
    tab.send("add")
    answer = tab.page.get_by_test_id("message-assistant")
    for _ in ("live", "from the history"):
        expect(answer.get_by_test_id("error")).to_contain_text("refused the API key")
        expect(answer).to_have_attribute("data-state", "failed")
        expect(answer).to_contain_text("tokens")
        expect(answer.get_by_role("button", name="Try again")).to_be_visible()
        tab.page.reload()
    second = Tab(tab.page.context, tab.page.url)
    expect(second.page.get_by_test_id("error")).to_contain_text("refused the API key")


def test_a_failing_model_says_what_to_do_and_the_chat_goes_on(
    tab: Tab, name: str, scripted: ModelServer
) -> None:
    scripted.will(Reply(status=401), Reply(text="better now"))
    tab.sign_in(name)
    tab.connect("openai:scripted")
    tab.send("hello")
    expect(tab.page.get_by_test_id("error").first).to_contain_text("refused the API key")
    tab.send("again")
    tab.answers("better now")
    second = Tab(tab.page.context, tab.page.url)
    expect(second.page.get_by_test_id("error")).to_contain_text("refused the API key")
    expect(second.page.get_by_test_id("message-assistant").last).to_contain_text("better now")


def test_a_message_whose_answer_was_lost_is_looked_up_and_not_sent_again(
    tab: Tab, name: str, scripted: ModelServer
) -> None:
    scripted.will(Reply(text="taken all the same"))
    tab.sign_in(name)
    tab.connect("openai:scripted")
    before = len(scripted.requests)

    def lose(route: Route) -> None:
        route.fetch()
        route.abort()

    tab.page.route("**/llmchat/chat", lose)
    tab.send("hello")
    tab.answers("taken all the same")
    expect(tab.page.get_by_test_id("composer")).to_have_value("")
    expect(tab.page.get_by_test_id("message-user")).to_have_count(1)
    assert len(scripted.requests) == before + 1
    tab.complaints.clear()  # the browser itself reports the lost connection


def test_a_message_that_did_not_arrive_is_back_in_the_composer_and_keeps_its_id(
    tab: Tab, name: str, scripted: ModelServer
) -> None:
    page = tab.page
    scripted.will(Reply(text="first"), Reply(text="second"), Reply(text="third"))
    tab.sign_in(name)
    tab.connect("openai:scripted")
    tab.send("hello")
    tab.answers("first")
    ids: list[str] = []

    def note(route: Route) -> None:
        ids.append(json.loads(route.request.post_data or "")["message_id"])
        if len(ids) == 1:
            route.abort()
        else:
            route.continue_()

    page.route("**/llmchat/chat", note)
    tab.send("hello")
    expect(page.get_by_test_id("composer")).to_have_value("hello")
    expect(page.get_by_test_id("error")).to_contain_text("cannot be reached")
    expect(page.get_by_test_id("message-user")).to_have_count(1)
    tab.complaints.clear()  # the browser itself reports the lost connection
    page.get_by_test_id("send").click()
    tab.answers("second")
    expect(page.get_by_test_id("message-user")).to_have_count(2)
    tab.send("hello")
    tab.answers("third")
    assert ids[0] == ids[1] != ids[2]
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{1,64}", each) for each in ids)


def test_a_message_sent_again_unchanged_is_answered_once(tab: Tab, name: str, scripted: ModelServer) -> None:
    """In doubt the text is back in the composer; its id is what keeps it from being a second message."""
    page = tab.page
    scripted.will(Reply(text="once"))
    tab.sign_in(name)
    before = len(scripted.requests)

    def lose(route: Route) -> None:
        route.fetch()
        route.abort()

    page.route("**/llmchat/chat", lose)
    page.route("**/llmchat/events*", lambda route: route.abort())  # nor does the line tell of it
    page.route("**/llmchat/history/**", lambda route: route.abort())
    tab.connect("openai:scripted")
    tab.send("hello")
    expect(page.get_by_test_id("composer")).to_have_value("")
    expect(page.get_by_test_id("composer")).to_have_value("hello")
    page.unroute_all()
    page.get_by_test_id("send").click()
    tab.answers("once")
    tab.complaints.clear()  # the browser itself reports the lost connection
    assert len(scripted.requests) == before + 1


def test_a_server_that_is_not_there_is_a_sentence(tab: Tab, name: str) -> None:
    page = tab.page
    tab.sign_in(name)
    page.get_by_test_id("server-select").select_option("*")
    page.get_by_test_id("server-url").fill("http://127.0.0.1:8999/mcp")
    page.get_by_test_id("connect").click()
    expect(page.get_by_test_id("error")).to_contain_text("Failed to connect to MCP server")
    tab.complaints.clear()  # the browser itself reports the 503
