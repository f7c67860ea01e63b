"""Words as they are searched for: the same in every database, whatever its language and its parser."""

from __future__ import annotations

import re
import unicodedata

LONGEST = 64
FOUND_IN = 200_000
"""Characters of one message whose words can be found: a message may be a whole file."""
INDEXED = 400_000
"""Bytes of them: PostgreSQL's index has room for a mebibyte of a message; it does not say when it is full."""

_SPLIT = re.compile(
    r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"  # scripts without spaces: each sign
    r"|[^\W_\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]+"
)


def words(text: str) -> list[str]:
    """Return a text's words in order, without case and accents; a sign of Chinese or Japanese is a word."""
    plain = text[:FOUND_IN]
    if not plain.isascii():
        plain = "".join(c for c in unicodedata.normalize("NFKD", plain) if not unicodedata.combining(c))
    return [word[:LONGEST] for word in _SPLIT.findall(plain.casefold())]


def index(text: str) -> str:
    """Return a text's words as a database indexes them."""
    found = " ".join(words(text))
    if len(data := found.encode()) <= INDEXED:
        return found
    return data[:INDEXED].decode(errors="ignore").rpartition(" ")[0]


def excerpt(text: str, wanted: list[str], *, around: int = 80) -> str:
    """Return the part of a text in which the first of the words that are wanted begins a word.

    Accents aside: the text is shown as it was written, so it is searched as it was written.
    """
    begins = re.compile(rf"(?<![^\W_])(?:{'|'.join(map(re.escape, wanted))})", re.IGNORECASE)
    found = begins.search(text, 0, FOUND_IN)
    place = found.start() if found else 0
    start, end = max(0, place - around), min(len(text), place + 2 * around)
    part = " ".join(text[start:end].split())
    return ("… " if start else "") + part + (" …" if end < len(text) else "")
