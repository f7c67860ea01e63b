"""What a model thinks and how its answer ended, in the tab: live and from the history."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests.tab import Tab, chromium
from tests.wires.openai_chat import answer, calls, says
from tests.wires.wire import Wire, wired

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def wire() -> Iterator[Wire]:
    with wired() as wire:
        yield wire


@pytest.fixture
def tab(
    browser: Browser, serve: Callable[..., str], wire: Wire, demo_url: str, tmp_path: Path, name: str
) -> Iterator[Tab]:
    models = tmp_path / "thinks.yaml"
    models.write_text(f"models:\n  - model: openai:thinks\n    base_url: {wire.url}/v1\n")
    servers = tmp_path / "demo.json"
    servers.write_text(json.dumps({"mcpServers": {"demo": {"url": demo_url}}}))
    context = browser.new_context()
    tab = Tab(context, serve(models_file=models, servers_file=servers, model_timeout=60, turn_timeout=90))
    tab.sign_in(name)
    tab.connect("openai:thinks")
    yield tab
    assert tab.complaints == []
    context.close()


def test_thoughts_are_folded_above_what_they_led_to(tab: Tab, wire: Wire) -> None:
    wire.will(
        answer({"reasoning_content": "I <b>look</b> first"}, *calls(("c1", "nothing", {})), end="tool_calls"),
        answer({"reasoning_content": "Not there."}, *says("Once upon a"), end="length"),
    )
    tab.send("tell me a story")
    tab.answers("Once upon a")
    for _ in ("live", "from the history"):
        message = tab.page.get_by_test_id("message-assistant").last
        thoughts = message.get_by_test_id("thought")
        expect(thoughts).to_have_count(2)
        expect(thoughts.first.locator("summary")).to_have_text("Thoughts")
        expect(message.get_by_test_id("tool-card")).to_have_count(1)
        kinds = message.locator("> [data-testid]").evaluate_all("all => all.map((one) => one.dataset.testid)")
        assert [kind for kind in kinds if kind in ("thought", "tool-card")] == [
            "thought",
            "tool-card",
            "thought",
        ]
        expect(thoughts.first.locator("p")).not_to_be_visible()
        thoughts.first.locator("summary").click()
        expect(thoughts.first.locator("p")).to_have_text("I <b>look</b> first")
        expect(thoughts.first.locator("p")).to_be_visible()
        expect(message.get_by_test_id("ended")).to_contain_text("limit of length")
        tab.picture("thoughts")
        tab.page.reload()


def test_a_thought_is_shown_while_it_comes(tab: Tab, wire: Wire) -> None:
    scene = answer({"reasoning_content": "Let me"}, {"reasoning_content": " see"}, *says("Done."))
    wire.will(replace(scene, chunks=scene.chunks[:3], hang=True))
    tab.send("think")
    message = tab.page.get_by_test_id("message-assistant").last
    expect(message.get_by_test_id("thought")).to_have_count(1)
    expect(message.get_by_test_id("thought").locator("summary")).to_have_text("Thinking")
    message.get_by_test_id("thought").locator("summary").click()
    expect(message.get_by_test_id("thought")).to_contain_text("Let me see")
    expect(message.get_by_role("img", name="Working")).to_be_visible()
    tab.page.get_by_test_id("stop").click()
    expect(tab.page.get_by_test_id("stopped")).to_be_visible()
