"""Characters that a person who reads a text does not see, and a model does."""

from __future__ import annotations

import re
import unicodedata

_UNSEEN = re.compile(
    r"[\0-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff\U000e0000-\U000e007f]"
)
_BLANK = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0")
"""Letters and marks that look like nothing."""


def seen(text: str) -> str:
    """Return the text as a person sees it."""
    return _UNSEEN.sub("", text)


def visible(text: str) -> str:
    """Return the text with the code points of what cannot be seen in its place."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(f"<U+{ord(sign):04X}>" if _is_unseen(sign) else sign for sign in text)


def _is_unseen(sign: str) -> bool:
    if sign in _BLANK or "\ufe00" <= sign <= "\ufe0f" or "\U000e0100" <= sign <= "\U000e01ef":
        return True
    return sign != " " and unicodedata.category(sign)[0] in "CZ"
