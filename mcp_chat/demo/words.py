"""The words of a message and of tools' names, and what they may mean."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Final

WORD: Final = re.compile(
    r"(?i:(?<![^\W_])to[-_ ]dos?(?![^\W_]))|[A-Z]?[^\W\d_A-Z]+|[A-Z]+(?![^\W\d_A-Z])|\d+"
)


@dataclass(frozen=True)
class Word:
    """A word, where it stands, and what it may mean."""

    text: str
    start: int
    end: int

    @cached_property
    def stem(self) -> str:
        """The word without its ending."""
        return stem(self.text)

    @cached_property
    def meanings(self) -> frozenset[str]:
        """The stems of all words that mean the same."""
        return SYNONYMS.get(self.stem, frozenset()) | {self.stem}


def words(text: str) -> list[Word]:
    """The words of a text, or of a name in snake_case, kebab-case or camelCase."""
    return [Word(match[0], match.start(), match.end()) for match in WORD.finditer(text)]


def stem(word: str) -> str:
    """Enough for "adds", "added" and "adding" to be "add"."""
    word = re.sub(r"[-_ ]", "", word.casefold())
    for ending in ("ing", "ed", "es", "s", "e"):
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            word = word.removesuffix(ending)
            break
    return word[:-1] + "i" if word.endswith("y") else word


def stems(text: str) -> frozenset[str]:
    """The stems of the words between spaces."""
    return frozenset(stem(word) for word in text.split())


ARTICLES: Final = stems("a an the to my me our us for please of that this with in on into by new")
FILLER: Final = ARTICLES | stems("item entry list")
WEAK: Final = ARTICLES | stems(
    "get set do is it be and or you i from at current always run call use make tool what"
)
SYNONYMS: Final[Mapping[str, frozenset[str]]] = {
    stem(word): stems(meanings)
    for word, meanings in {
        "plus": "add",
        "sum": "add",
        "put": "add",
        "minus": "subtract",
        "product": "multiply",
        "clock": "time",
        "date": "time",
        "repeat": "echo",
        "remember": "todo add",
        "remind": "todo add",
        "task": "todo",
        "show": "list",
        "finish": "done",
        "complete": "done",
        "tick": "done",
        "empty": "clear",
        "die": "dice",
        "slowly": "slow",
    }.items()
}


DIGITS: Final = {
    word: str(number)
    for number, word in enumerate(
        ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
    )
}


def spell_out(text: str) -> str:
    """Numbers, signs and turns of phrase in the form that tools know: "two + 3" is "2 plus 3"."""
    number = r"-?\d+(?:\.\d+)?"
    text = re.sub(r"[a-z]+", lambda word: DIGITS.get(word[0].lower(), word[0]), text, flags=re.IGNORECASE)
    for pattern, spelled in (
        (rf"({number})\s*\+\s*(?={number})", r"\1 plus "),
        (rf"({number})\s*(?:[*×]|\bx\b|\btimes\b)\s*(?={number})", r"\1 multiply "),
        (rf"({number})\s*[/÷]\s*(?={number})", r"\1 divide "),
        (rf"({number})\s+[-−]\s+(?={number})", r"\1 minus "),
        (rf"\bsubtract\s+({number})\s+from\s+({number})", r"subtract \2 and \1"),
    ):
        text = re.sub(pattern, spelled, text, flags=re.IGNORECASE)
    return text
