"""The page's words: each language has all of them, and no view has one of its own."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import need

WEB = Path(__file__).parent.parent / "mcp_chat" / "web"
LANGUAGES = sorted(path.stem for path in (WEB / "languages").glob("*.js"))
NAMED = re.compile(r'\s(aria-label|aria-description|alt|title|placeholder|label)="([^"$]*)')
ONE_SIDED = re.compile(
    r"(?<![\w-])(?:(?:margin|padding|border|inset|scroll-\w+)-)?(?:left|right)(?:-\w+)*:"
    r"|: (?:left|right)\b|no-repeat (?:left|right)"
)
FOUR = re.compile(r"(?:margin|padding|inset|border-radius): ([^\s;()]+) ([^\s;()]+) ([^\s;()]+) ([^\s;()]+);")
INNERMOST = re.compile(r"\$\{[^{}`]*\}|\{[^{}`]*\}|(?:html)?`[^`{}]*`")
USED = re.compile(r"(?<!/)\bstrings((?:\.\w+)+)")


@pytest.fixture(scope="module")
def told() -> dict[str, Any]:
    """What each language has."""
    script = Path(__file__).with_name("words.mjs")
    done = subprocess.run(
        [need("node"), script, *LANGUAGES], capture_output=True, text=True, check=True, timeout=60
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_there_are_at_least_three_languages_and_the_page_offers_them() -> None:
    offered = re.search(r"LANGUAGES = \{(.+?)\}", (WEB / "language.js").read_text())
    assert offered
    assert sorted(re.findall(r"(\w+):", offered[1])) == LANGUAGES
    assert len(LANGUAGES) >= 3


@pytest.mark.parametrize("language", LANGUAGES)
def test_each_language_has_the_same_words(told: dict[str, Any], language: str) -> None:
    assert told[language]["words"] == told["en"]["words"]
    assert told[language]["empty"] == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_each_language_has_the_plurals_that_it_needs(told: dict[str, Any], language: str) -> None:
    needed = set(told[language]["categories"])
    assert told[language]["counted"]
    assert [forms for forms in told[language]["counted"] if not needed <= set(forms)] == []


def templates(source: str) -> list[str]:
    """Return what templates have written out, from the innermost to the outermost; `$` is what is put in."""
    found: list[str] = []

    def take(part: re.Match[str]) -> str:
        if part[0].startswith("html`"):
            found.append(part[0][5:-1])
        return "$" if part[0].startswith("${") else ""

    text, count = re.sub(r"(?s:/\*.*?\*/)|(?<!:)//.*", "", source), 1
    while count:
        text, count = INNERMOST.subn(take, text)
    return found


def own_words(source: str) -> list[str]:
    """Return what a view says in words of its own."""
    found = []
    for text in templates(source):
        found += [name for _, name in NAMED.findall(text) if re.search(r"[^\W\d_]", name)]
        between = re.sub(r"<(?:[^>\"]|\"[^\"]*\")*>|&\w+;", "\n", text)
        found += [each.strip() for each in between.split("\n") if re.search(r"[^\W\d_]{2}", each)]
    return found


def test_words_of_a_views_own_are_found() -> None:
    view = 'html`<p title="Hello">${seen && html`<b>Good ${name}</b>`} ${text}<i class="far">!</i></p>`'
    assert own_words(view) == ["Good $", "Hello"]


@pytest.mark.parametrize("view", sorted((WEB / "view").glob("*.js")), ids=lambda path: path.stem)
def test_no_view_has_words_of_its_own(view: Path) -> None:
    assert own_words(view.read_text()) == []


def test_each_word_that_is_used_is_there_and_each_that_is_there_is_used(told: dict[str, Any]) -> None:
    sources = [path for path in WEB.rglob("*.js") if not {"vendor", "languages"} & set(path.parts)]
    used = {name[1:] for path in sources for name in USED.findall(path.read_text())}
    known = set(told["en"]["words"])
    parents = {name.rsplit(".", 1)[0] for name in known if "." in name} | {
        name.split(".")[0] for name in known
    }
    assert {name for name in used if name not in known | parents and not spoken_of(name, known)} == set()
    assert {
        name for name in known if not any(name == each or name.startswith(f"{each}.") for each in used)
    } == set()


def spoken_of(name: str, known: set[str]) -> bool:
    """Tell whether something of a word is asked for, such as its length."""
    return name.rsplit(".", 1)[0] in known


@pytest.mark.parametrize("sheet", sorted((WEB / "style").glob("*.css")), ids=lambda path: path.stem)
def test_a_sheet_has_no_sides_that_do_not_turn_with_the_script(sheet: Path) -> None:
    rules = [rule for rule in re.findall(r"[^{}]+\{[^{}]*\}", sheet.read_text()) if not turns_itself(rule)]
    assert [rule for rule in rules if ONE_SIDED.search(rule)] == []
    assert [four for rule in rules for four in FOUR.findall(rule) if four[1] != four[3]] == []


def turns_itself(rule: str) -> bool:
    """Tell whether a rule says for which script it is, or what the side of a table's column is."""
    return "direction: ltr" in rule or "dir=" in rule or ":dir(" in rule or "[align=" in rule
