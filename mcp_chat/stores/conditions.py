"""What statements about sessions and messages have in common: whose they are, and which."""

from __future__ import annotations

import re
from typing import Any

from sqlalchemy import (
    Table,
    bindparam,
    select,
)

from mcp_chat.message import ID
from mcp_chat.stores.tables import (
    chat_message,
    chat_session,
)

WHO: Any = bindparam("who")
WHICH: Any = bindparam("which")


def placed(user: str, session_id: str) -> dict[str, str]:
    """Return what `WHO` and `WHICH` stand for."""
    return {"who": user, "which": session_id}


def is_id(text: str) -> bool:
    """Tell whether a text is an id as ours are; no other need be looked for."""
    return re.fullmatch(ID, text) is not None


def of(table: Table, user: str, session_id: str) -> tuple[Any, Any]:
    """Rows of one session of a user."""
    return table.c.user_key == user, table.c.session_id == session_id


def named(user: str, id_: str, table: Table = chat_session) -> tuple[Any, Any]:
    """A user's row of this id."""
    return table.c.user_key == user, table.c.id == id_


def shown() -> Any:
    """Sessions that are no branches of others."""
    return chat_session.c.branch_of.is_(None)


def begun() -> Any:
    """Sessions with a name or a message: connecting alone begins no conversation that is worth listing."""
    message = select(chat_message.c.seq).where(same_session()).correlate(chat_session)
    return (chat_session.c.name != "") | message.exists()


def same_session() -> Any:
    """Messages of the session in the same row."""
    return (chat_session.c.user_key == chat_message.c.user_key) & (
        chat_session.c.id == chat_message.c.session_id
    )
