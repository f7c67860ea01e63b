"""Somebody who has never seen the tab finds everything in it by what is written there."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from playwright.sync_api import Page, expect

from tests.installation import Installation
from tests.tab import Tab, chromium

MODELS: Final = str(Path(__file__).parents[1] / "config" / "models.yaml")

pytestmark = pytest.mark.slow


@pytest.fixture
def visited(tmp_path: Path, model_url: str) -> Iterator[Tab]:
    """The page of `mcp-chat serve` as it comes: with the demo's model and server, and approvals."""
    with (
        Installation(
            tmp_path, model_url, MCP_CHAT_APPROVALS="on", MCP_CHAT_MODELS_FILE=MODELS
        ) as installation,
        chromium() as browser,
        browser.new_context(accept_downloads=True) as context,
    ):
        tab = Tab(context, installation.url)
        yield tab
        assert tab.complaints == []
        assert [url for url in tab.requests if not url.startswith((installation.url, "blob:"))] == []


def say(page: Page, text: str) -> None:
    page.get_by_role("textbox", name="Message").fill(text)
    page.get_by_role("button", name="Send").click()


def test_a_first_visit(visited: Tab) -> None:
    page = visited.page
    page.get_by_role("textbox", name="Your name").fill("newcomer")
    page.get_by_role("button", name="Sign in").click()
    page.get_by_role("combobox", name="MCP server").select_option(label="demo")
    page.get_by_role("button", name="Connect").click()
    expect(page.get_by_text("14 tools of demo are ready to use.")).to_be_visible()
    visited.picture("first-1-connected")
    say(page, "remind me to call the harbour master")
    visited.answers("call the harbour master")
    say(page, "clear my list")
    expect(page.get_by_role("button", name="Allow once")).to_be_visible()
    visited.picture("first-2-approval")
    page.get_by_role("button", name="Allow once").click()
    visited.answers("Removed 1 item.")
    say(page, "book a table")
    form = page.get_by_role("region", name="demo asks")
    expect(form).to_be_visible()
    visited.picture("first-3-question")
    form.get_by_label("Day").fill("2026-05-03")
    form.get_by_label("For how many").fill("4")
    form.get_by_role("button", name="Send").click()
    visited.answers("A table for 4 inside on 2026-05-03")
    say(page, "count slowly to 30")
    expect(page.get_by_text(re.compile(r"Step \d+ of 30")).last).to_be_visible()
    page.reload()
    expect(page.get_by_text(re.compile(r"Step \d+ of 30")).last).to_be_visible()
    visited.picture("first-4-running")
    page.get_by_role("button", name="Stop").click()
    expect(page.get_by_text("Stopped. The answer is not complete.")).to_be_visible()
    page.get_by_role("button", name="New conversation").click()
    say(page, "what time is it in Tokyo?")
    visited.answers("Tokyo")
    page.get_by_role("textbox", name="Search in your conversations").fill("harbour")
    expect(page.get_by_test_id("search-result").first).to_contain_text("harbour")
    visited.picture("first-5-search")
    page.get_by_role("button", name=re.compile("harbour")).first.click()
    expect(page.get_by_text("A table for 4 inside on 2026-05-03").last).to_be_visible()
    page.get_by_role("button", name=re.compile("More for remind me")).first.click()
    with page.expect_download() as download:
        page.get_by_role("menuitem", name="Export as JSON").click()
    kept = json.loads(Path(download.value.path()).read_text())
    assert "call the harbour master" in json.dumps(kept)
