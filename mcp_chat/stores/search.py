"""Searching the archive: what is looked for, as each database takes it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import text

from mcp_chat.stores.cipher import Cipher
from mcp_chat.stores.words import words


def searched(wanted: Sequence[str]) -> list[str]:
    """Return what is looked for, in the form in which it was kept."""
    return list(dict.fromkeys(words(" ".join(wanted))))[:16]


def matching(dialect: str, cipher: Cipher, user: str, wanted: Sequence[str]) -> Any:
    """Return what holds for the messages that have all words: their beginnings, or the marks of sealed ones.

    Letters and digits are all that words and marks have, so that none of them means anything to a parser.
    """
    forms = [(word, cipher.marks(word, user=user)) for word in wanted]
    if dialect == "postgresql":
        each = (" | ".join([f"'{word}':*", *(f"'{mark}'" for mark in marks)]) for word, marks in forms)
        query = " & ".join(f"({one})" for one in each)
        found = "array_to_tsvector(string_to_array(chat_message.text, ' ')) @@ CAST(:query AS tsquery)"
        return text(found).bindparams(query=query)
    owner = user.encode().hex()
    each = (" OR ".join([f'text:"{word}"*', *(f'text:"{mark}"' for mark in marks)]) for word, marks in forms)
    query = " AND ".join([f'owner:"{owner}"', *(f"({one})" for one in each)])
    found = "chat_message.seq IN (SELECT rowid FROM chat_search WHERE chat_search MATCH :query)"
    return text(found).bindparams(query=query)
