"""Makes the pictures of the documentation anew: `python -m tests.pictures [FOLDER]`."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from playwright.sync_api import Browser, FilePayload, Page, expect

from tests.few_colours import reduced
from tests.installation import Installation
from tests.model_server import ModelServer, Reply
from tests.pictured import (
    ANSWER,
    ANSWER_AR,
    ARCHIVE,
    CHANGED,
    MODELS,
    QUESTION_AR,
    READING,
    harbour,
    remember,
)
from tests.running import running
from tests.sized_mcp import SizedMCP
from tests.tab import Tab, chromium
from tests.test_composer import png

FOLDER: Final = Path(__file__).parents[1] / "docs" / "pictures"
ENCLOSED: Final[tuple[FilePayload, ...]] = (
    {"name": "ticket.png", "mimeType": "image/png", "buffer": png(48)},
    {"name": "notes.md", "mimeType": "text/markdown", "buffer": b"# Oslo\n"},
)
DESK: Final = (1200, 760)
PHONE: Final = (390, 760)
LOCALE: Final = "en-GB"
USAGE: Final = {"prompt_tokens": 1840, "completion_tokens": 96, "total_tokens": 1936}
COUNTS: Final = {"prompt_tokens": 900, "completion_tokens": 22, "total_tokens": 922}


class Studio:
    """An installation with a harbour, a browser, and the folder for what is seen.

    Args:
        folder: Where the pictures are put.
        installation: What is pictured.
        model: The model's script.
        archive: The server whose tools change.
        browser: The browser.
    """

    def __init__(
        self,
        folder: Path,
        installation: Installation,
        model: ModelServer,
        archive: SizedMCP,
        browser: Browser,
    ) -> None:
        self.folder = folder
        self.installation = installation
        self.model = model
        self.archive = archive
        self.browser = browser

    @contextmanager
    def visitor(self, name: str, size: tuple[int, int] = DESK, locale: str = LOCALE) -> Iterator[Tab]:
        """Somebody at a page, signed in and connected to the harbour, who has talked before."""
        with self.installation.person(name) as person:
            if locale == LOCALE and not person.get("sessions").json()["count"]:
                remember(person)
        width, height = size
        context = self.browser.new_context(
            viewport={"width": width, "height": height}, locale=locale, color_scheme="light"
        )
        tab = Tab(context, self.installation.url)
        tab.sign_in(name)
        page = tab.page
        badge = page.get_by_test_id("connected-badge")
        expect(badge.or_(page.get_by_test_id("connect"))).to_be_attached()
        if not badge.count():
            page.get_by_test_id("server-select").select_option("harbour")
            page.get_by_test_id("model-select").select_option("openai:scripted")
            page.get_by_test_id("connect").click()
            expect(badge).to_be_attached()
        yield tab
        assert tab.complaints == [], tab.complaints
        context.close()

    def keep(self, page: Page, name: str) -> None:
        """Keep how a page looks, without a pointer over it."""
        page.mouse.move(*(each - 1 for each in DESK))
        page.evaluate("document.fonts.ready.then(() => true)")  # of formulas
        path = self.folder / f"{name}.png"
        path.write_bytes(reduced(page.screenshot(animations="disabled", caret="hide", scale="css")))
        sys.stdout.write(f"{path.name:14} {path.stat().st_size / 1000:6.1f} kB\n")

    def ask(self, tab: Tab, question: str, *replies: Reply) -> None:
        """Say something, and have the model do this."""
        self.model.will(*replies)
        tab.send(question)


def conversation(studio: Studio) -> None:
    """The list beside an answer, its tool card, light and dark, and words that are found."""
    with studio.visitor("ann") as tab:
        page = tab.page
        call = ("harbour__ferries", {"to": "Oslo"})
        studio.ask(
            tab,
            "Which ferry is the last one to Oslo?",
            Reply(text="I look at the timetable.", calls=[call], usage=COUNTS),
            Reply(text=ANSWER, usage=USAGE),
        )
        tab.answers("Shall I look")
        page.get_by_test_id("tool-card").locator("summary").first.click()
        expect(page.get_by_test_id("tool-result")).to_contain_text("Color Magic")
        studio.keep(page, "answer")
        page.emulate_media(color_scheme="dark")
        studio.keep(page, "dark")
        page.emulate_media(color_scheme="light")
        page.get_by_test_id("search").fill("ferry")
        expect(page.get_by_test_id("search-status")).to_contain_text("found")
        studio.keep(page, "search")
    with studio.visitor("ann", PHONE) as tab:
        tab.answers("Shall I look")
        expect(tab.page.get_by_test_id("tool-card")).to_be_visible()
        studio.keep(tab.page, "phone")


def asked(studio: Studio) -> None:
    """A call that waits for leave while its arguments are edited, and a server's question."""
    with studio.visitor("bo") as tab:
        page = tab.page
        call = ("harbour__book", {"ship": "Stena Scandica", "passengers": 4, "flexible": False})
        studio.ask(
            tab,
            "Book us on the last ferry, please.",
            Reply(text="I book the Stena Scandica.", calls=[call]),
            Reply(text="It is **booked**."),
        )
        approval = page.get_by_test_id("approval")
        approval.get_by_test_id("approval-edit").click()
        form = page.get_by_test_id("approval-form")
        form.locator("input[name=passengers]").fill("2")
        studio.keep(page, "approval")
        approval.get_by_test_id("approval-once").click()
        tab.answers("booked")
        studio.ask(
            tab,
            "And a cabin, too.",
            Reply(text="The harbour books cabins.", calls=[("harbour__book_cabin", {"ship": "Color Magic"})]),
            Reply(text="Done."),
        )
        question = page.get_by_test_id("question")
        question.locator("input[name=day]").fill("2027-05-14")
        studio.keep(page, "question")
        page.get_by_test_id("question-accept").click()
        tab.answers("Done.")


def servers(studio: Studio) -> None:
    """A tool that has changed since it was accepted."""
    with studio.visitor("cleo") as tab:
        page = tab.page
        page.get_by_test_id("tool-count").click()
        page.get_by_text("Add a server").click()
        page.get_by_test_id("add-name").select_option("archive")
        page.get_by_test_id("add-server").click()
        archive = page.locator("[data-testid=server][data-alias=archive]")
        expect(archive).to_have_attribute("data-state", "open")
        studio.archive.tools[1] = CHANGED
        switch = archive.get_by_test_id("server-switch")
        switch.uncheck()
        expect(archive).to_have_attribute("data-state", "off")
        switch.check()
        expect(archive).to_have_attribute("data-state", "open")
        archive.locator("summary").first.click()
        archive.get_by_test_id("tool-changed").click()
        expect(page.get_by_test_id("tool-difference")).to_be_visible()
        page.get_by_test_id("tool-accept").scroll_into_view_if_needed()
        studio.keep(page, "servers")


def composer(studio: Studio) -> None:
    """What can go with a message, and who answers it."""
    with studio.visitor("dora") as tab:
        page = tab.page
        field = page.get_by_test_id("composer")
        offered = page.get_by_role("listbox").get_by_role("option")
        page.get_by_test_id("model-button").click()
        expect(page.get_by_test_id("model-choice")).to_have_count(4)
        studio.keep(page, "models")
        page.keyboard.press("Escape")
        page.get_by_test_id("file-input").set_input_files(ENCLOSED)
        expect(page.get_by_test_id("enclosed")).to_have_attribute("aria-busy", "false")
        field.press_sequentially("@summer")
        expect(offered).to_have_count(1)
        field.press("Enter")
        expect(page.get_by_test_id("resource")).to_have_count(1)
        field.press_sequentially("/")
        expect(offered).to_have_count(3)
        studio.keep(page, "composer")
        for _ in range(2):
            page.keyboard.press("Escape")


def reading(studio: Studio) -> None:
    """Formulas, a table and code; and the page from right to left."""
    with studio.visitor("eli") as tab:
        page = tab.page
        studio.ask(tab, "How do I steer across a current?", Reply(text=READING, usage=USAGE))
        tab.answers("in degrees")
        expect(page.locator(".katex").first).to_be_visible()
        expect(page.locator("pre .hljs-keyword, pre [class*=keyword]").first).to_be_visible()
        studio.keep(page, "reading")
    with studio.visitor("فاطمة", locale="ar-EG") as tab:
        call = ("harbour__ferries", {"to": "Oslo"})
        studio.ask(tab, QUESTION_AR, Reply(calls=[call]), Reply(text=ANSWER_AR, usage=USAGE))
        tab.answers("Stena")
        studio.keep(tab.page, "arabic")


SCREENS: Final = (conversation, asked, servers, composer, reading)


def main(folder: Path) -> None:
    """Make all pictures.

    Args:
        folder: Where they are put; those of the same name are replaced.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model, archive = ModelServer(), SizedMCP()
    archive.tools = list(ARCHIVE)
    with ExitStack() as stack:
        model_url = stack.enter_context(running(model.app))
        harbour_url = stack.enter_context(running(harbour().streamable_http_app(), grace=0))
        archive_url = stack.enter_context(running(archive.app, grace=0))
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        installation = Installation(
            directory,
            f"{model_url}/v1",
            servers={
                "harbour": {"url": f"{harbour_url}/mcp", "tools": {"*": "allow", "book": "ask"}},
                "archive": {"url": f"{archive_url}/json"},
            },
            MCP_CHAT_APPROVALS="on",
            MCP_CHAT_DEMO_SERVER="off",
        )
        (directory / "models.yaml").write_text(MODELS.format(url=f"{model_url}/v1"))
        stack.enter_context(installation)
        studio = Studio(folder, installation, model, archive, stack.enter_context(chromium()))
        for screen in SCREENS:
            screen(studio)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
