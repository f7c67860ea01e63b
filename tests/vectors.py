"""The addresses of `ssrf_vectors.tsv`: what users may write, and what is to come of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple, cast

Expected = Literal["deny", "invalid", "allow", "rebind"]

MARKS = {
    "TAB": "\t",
    "CR": "\r",
    "LF": "\n",
    "NUL": "\0",
    "ESC": "\x1b",
    "DEL": "\x7f",
    "VT": "\x0b",
    "NBSP": "\xa0",
    "IDSP": "\u3000",
    "ZWSP": "\u200b",
    "ZWJ": "\u200d",
    "SHY": "\xad",
    "BOM": "\ufeff",
    "RLO": "\u202e",
    "LS": "\u2028",
    "300": "a" * 300,
}
"""Signs that cannot be seen stand in braces in the file."""


class Vector(NamedTuple):
    """A line of the file.

    Attributes:
        expected: Denied at the socket, invalid already as text, allowed, or allowed at the first lookup only.
        lookups: What the resolver says each time, the last for ever; none for the system's resolver.
    """

    line: int
    url: str
    expected: Expected
    note: str
    lookups: tuple[str, ...]


def vectors() -> Iterator[Vector]:
    """Read the file."""
    lines = Path(__file__).with_name("ssrf_vectors.tsv").read_text(encoding="utf-8").splitlines()[1:]
    for number, line in enumerate(lines, 2):
        written, expected, note, answers = (*line.split("\t"), "")[:4]
        lookups = tuple(answers.split("|")) if answers else ()
        yield Vector(number, _url(written), cast(Expected, expected), note, lookups)


def _url(written: str) -> str:
    """Put the signs in, and a URL around what is a host only."""
    for name, text in MARKS.items():
        written = written.replace(f"{{{name}}}", text)
    if written and (written.startswith("[") or not {":", "/"} & set(written)):
        return f"http://{written}/"
    return written


def answers_of(lookup: str) -> list[str]:
    """Return the addresses of one lookup; none if there is no such name."""
    return [] if lookup in ("-", "!") else lookup.split(",")
