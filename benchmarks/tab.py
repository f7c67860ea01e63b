"""The chat tab in headless Chromium, by its own timings: the start, a long answer, a long conversation."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from playwright.sync_api import Browser, BrowserContext, Page, expect

from tests.installation import Installation
from tests.model_server import ModelServer, Reply
from tests.person import Person
from tests.running import running
from tests.tab import Tab, chromium

LOADS = 7
TOKENS = 10_000
MESSAGES = 10_000
SECONDS = 120_000

WATCH = """() => {
  window.frames_ = { last: 0, intervals: [], long: [] };
  new PerformanceObserver((list) => frames_.long.push(...list.getEntries().map((entry) => entry.duration)))
    .observe({ type: "long-animation-frame" });
  const step = (now) => {
    if (frames_.last) frames_.intervals.push(now - frames_.last);
    frames_.last = now;
    requestAnimationFrame(step);
  };
  requestAnimationFrame(step);
}"""

READY = """
new MutationObserver((_, watcher) => {
  if (!document.querySelector("[data-testid=composer]")) return;
  performance.mark("ready");
  watcher.disconnect();
}).observe(document, { childList: true, subtree: true });
"""

TIMINGS = """() => ({
  paint: performance.getEntriesByName("first-contentful-paint")[0]?.startTime ?? 0,
  ready: performance.getEntriesByName("ready")[0].startTime,
  bodies: [...performance.getEntriesByType("navigation"), ...performance.getEntriesByType("resource")]
    .filter(({ name, transferSize }) => transferSize && !/llmchat|auth/.test(name))
    .reduce((sum, { encodedBodySize }) => sum + encodedBodySize, 0),
})"""


@dataclass(frozen=True, slots=True)
class Load:
    """One start of the tab.

    Attributes:
        paint: Milliseconds to the first contentful paint.
        ready: Milliseconds until one can write.
        bodies: Compressed bytes of the page's own files.
        received: All bytes that came, headers and the API's answers included.
        requests: How many.
    """

    paint: float
    ready: float
    bodies: int
    received: int
    requests: int


def report() -> list[str]:
    """Measure all, and return the tables."""
    with stage() as (installation, model, browser):
        context = signed_in(browser, installation)
        lines = [*_starts(browser, context, installation), ""]
        lines += [
            "| long | worst frame, ms | frames over 50 ms | frames | seconds |",
            "| --- | --- | --- | --- | --- |",
        ]
        for name, text in (
            ("mixed Markdown", mixed(TOKENS)),
            ("one list", listed(TOKENS)),
            ("one block of code", coded(TOKENS)),
        ):
            lines.append(f"| {TOKENS:,} tokens of {name} | {_streamed(context, installation, model, text)} |")
        return [*lines, f"| {MESSAGES:,} messages, opened | {_opened(context, installation)} |"]


@contextmanager
def stage() -> Iterator[tuple[Installation, ModelServer, Browser]]:
    """Run the product with two workers, a model with a script and a browser."""
    model = ModelServer()
    with (
        tempfile.TemporaryDirectory() as folder,
        running(model.app) as url,
        Installation(
            Path(folder), f"{url}/v1", MCP_CHAT_MAX_IMPORT_BYTES="100000000", MCP_CHAT_TURN_TIMEOUT="300"
        ) as installation,
        chromium() as browser,
    ):
        yield installation, model, browser


def signed_in(browser: Browser, installation: Installation) -> BrowserContext:
    """Return a browser profile whose user is signed in and connected."""
    context = browser.new_context()
    tab = Tab(context, installation.url)
    tab.sign_in("ada")
    tab.connect("openai:scripted")
    tab.page.close()
    return context


def _starts(browser: Browser, context: BrowserContext, installation: Installation) -> list[str]:
    first, second = [], []
    for _ in range(LOADS):
        fresh = browser.new_context(storage_state=context.storage_state())
        first.append(_load(fresh, installation.url))
        second.append(_load(fresh, installation.url))
        fresh.close()
    head = "| start | first paint, ms | ready, ms | own files, kB | all received, kB | requests |"
    return [head, "| --- | --- | --- | --- | --- | --- |", _row("first", first), _row("second", second)]


def _row(name: str, loads: list[Load]) -> str:
    def mid(field: str) -> float:
        return float(median(getattr(load, field) for load in loads))

    sizes = f"{mid('bodies') / 1000:.1f} | {mid('received') / 1000:.1f}"
    return f"| {name} | {mid('paint'):.0f} | {mid('ready'):.0f} | {sizes} | {mid('requests'):.0f} |"


def _load(context: BrowserContext, url: str) -> Load:
    """Open the tab in a new page of a profile."""
    page = context.new_page()
    page.add_init_script(READY)
    sizes: list[int] = []
    wire = context.new_cdp_session(page)
    wire.send("Network.enable")
    wire.on("Network.loadingFinished", lambda event: sizes.append(int(event["encodedDataLength"])))
    page.goto(url)
    expect(page.get_by_test_id("composer")).to_be_visible()
    page.wait_for_timeout(1000)  # for what is fetched after that
    found: dict[str, Any] = page.evaluate(TIMINGS)
    page.close()
    received = [size for size in sizes if size]
    return Load(found["paint"], found["ready"], found["bodies"], sum(received), len(received))


def _streamed(context: BrowserContext, installation: Installation, model: ModelServer, text: str) -> str:
    """Have the model say a text as fast as it can, in a conversation of its own."""
    with Person(installation.url, "ada") as person:
        person.post("clear")
    page = context.new_page()
    page.goto(installation.url)
    expect(page.get_by_test_id("composer")).to_be_visible()
    page.evaluate(WATCH)
    model.will(Reply(text=text))
    page.get_by_test_id("composer").fill("go")
    page.keyboard.press("Enter")
    answer = page.get_by_test_id("message-assistant").last
    expect(answer).to_have_attribute("data-state", "done", timeout=SECONDS)
    return _frames(page)


def _opened(context: BrowserContext, installation: Installation) -> str:
    """Import a long conversation, and open it."""
    messages = [
        {"role": role, "content": said}
        for n in range(MESSAGES // 2)
        for role, said in (("user", f"Question {n}?"), ("assistant", mixed(30, n)))
    ]
    with Person(installation.url, "ada") as person:
        answer = person.http.post(
            "/llmchat/sessions/import",
            json={"schema": "mcp-chat/session/1", "name": "Long", "messages": messages},
            timeout=300,
        )
        answer.raise_for_status()
    page = context.new_page()
    page.goto(installation.url)
    expect(page.get_by_test_id("composer")).to_be_visible()
    page.evaluate(WATCH)
    page.get_by_role("button", name="Long", exact=True).first.click()
    expect(page.get_by_text(f"Question {MESSAGES // 2 - 1}?", exact=True)).to_be_visible(timeout=SECONDS)
    page.wait_for_timeout(500)
    return _frames(page)


def _frames(page: Page) -> str:
    """Return the cells on all frames since the watch began."""
    found = page.evaluate("frames_")
    page.close()
    worst = max([0, *found["long"]]) or max(found["intervals"])
    over = sum(each > 50 for each in found["long"])
    return f"{worst:.0f} | {over} | {len(found['intervals']):,} | {sum(found['intervals']) / 1000:.1f}"


def mixed(tokens: int, seed: int = 0) -> str:
    """Return about so many words of all that Markdown has."""
    pick = random.Random(seed)
    words = ["the", "tool", "of", "a", "server", "gives", "what", "its", "model", "asks", "for", "and", "why"]

    def some(count: int) -> str:
        return " ".join(pick.choice(words) for _ in range(count))

    kinds = (
        lambda: f"## {some(4)}",
        lambda: (
            f"{some(30)} **{some(3)}** {some(9)} `{some(1)}` [{some(2)}](https://docs.example/{pick.random()})."
        ),
        lambda: "\n".join(f"- {some(9)} *{some(2)}*" for _ in range(5)),
        lambda: (
            "```python\n"
            + "\n".join(f"def f{n}(x: int) -> int:\n    return x + {n}" for n in range(6))
            + "\n```"
        ),
        lambda: (
            "| a | b |\n|---|---|\n" + "\n".join(f"| {some(3)} | {pick.random():.3f} |" for _ in range(5))
        ),
        lambda: f"{some(6)} $x_{{{pick.randrange(9)}}}^2 + \\frac{{a}}{{b}}$ {some(6)}",
    )
    text: list[str] = []
    count = 0
    while count < tokens:
        text.append(kinds[len(text) % len(kinds)]())
        count += text[-1].count(" ") + 1
    return "\n\n".join(text)


def listed(tokens: int) -> str:
    """Return about so many words of one list."""
    return "\n".join(f"- point {n} says *something* about `it`" for n in range(tokens // 7))


def coded(tokens: int) -> str:
    """Return about so many words of one block of code."""
    return (
        "```python\n"
        + "\n".join(f"value_{n} = compute({n}, 'text', None)" for n in range(tokens // 5))
        + "\n```"
    )
