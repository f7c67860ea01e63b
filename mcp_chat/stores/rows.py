"""Between the values and their rows."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import structlog
from pydantic import ValidationError

from mcp_chat.commands import COMMAND, Command, Send
from mcp_chat.events import FINAL, Failed, Final
from mcp_chat.exceptions import Unexpected
from mcp_chat.message import MESSAGE, Message, Usage, now, title
from mcp_chat.session import Session
from mcp_chat.stores.base import Accepted, Addition, Found
from mcp_chat.stores.words import excerpt, index

log = structlog.get_logger()

LOST = Failed(
    code=Unexpected.code, text="What you asked for cannot be read any more. Please ask again.", retryable=True
)
"""The outcome of a command that nobody can read."""


def session_rows(additions: Sequence[Addition]) -> list[dict[str, Any]]:
    """Return the rows that make the sessions, or add to them."""
    return [
        {
            "user_key": each.user,
            "id": each.session_id,
            "name": next((_name(message) for message in each.messages if message.role == "user"), ""),
            "llm_backend": each.backend,
            "context": "{}",
            "input_tokens": each.usage.input_tokens,
            "output_tokens": each.usage.output_tokens,
            "created_at": now(),
            "updated_at": now(),
        }
        for each in additions
    ]


def _name(message: Message) -> str:
    """The name of a session that begins with this message."""
    return title(message.content) or title(" ".join(part.name for part in message.parts)) or "Untitled"


def imported_row(user: str, session: Session) -> dict[str, Any]:
    """Return the row of a session as it comes from elsewhere."""
    return {
        "user_key": user,
        "id": session.id,
        "name": session.name,
        "llm_backend": session.llm_backend,
        "context": json_text(session.context),
        "input_tokens": session.token_usage.input_tokens,
        "output_tokens": session.token_usage.output_tokens,
        "created_at": session.created_at.astimezone(UTC),
        "updated_at": session.updated_at.astimezone(UTC),
    }


def message_rows(addition: Addition) -> list[dict[str, Any]]:
    """Return the rows of an addition's messages."""
    return [
        {
            "user_key": addition.user,
            "session_id": addition.session_id,
            "id": message.id,
            "body": MESSAGE.dump_json(message).decode(),
            "text": index(message.content),
            "standing": message.role == "system" or message.metadata.get("pinned") is True,
        }
        for message in addition.messages
    ]


def attachment_rows(addition: Addition) -> list[dict[str, Any]]:
    """Return the rows that say which files the messages have."""
    ids = dict.fromkeys(part.upload_id for message in addition.messages for part in message.parts)
    return [{"user_key": addition.user, "upload_id": id_, "session_id": addition.session_id} for id_ in ids]


def message_of(row: Any) -> Message | None:
    """A row that cannot be read stays where it is, is reported, and does not hide the others."""
    try:
        return MESSAGE.validate_json(row.body)
    except ValidationError:
        log.error("message.unreadable", seq=row.seq)
        return None


def found_of(row: Any, message: Message, wanted: list[str]) -> Found:
    """Return what a search has found."""
    return Found(
        place=row.seq,
        session_id=row.session_id,
        session_name=row.name,
        message=message,
        excerpt=excerpt(message.content, wanted),
    )


def command_row(user: str, command: Command) -> dict[str, Any]:
    """Return the row of a command that is accepted now."""
    message = command if isinstance(command, Send) else None
    return {
        "user_key": user,
        "id": command.id,
        "type": command.type,
        "session_id": message.session_id if message else "",
        "run": message.run if message else "",
        "body": COMMAND.dump_json(command).decode(),
        "created_at": now(),
    }


def accepted_of(row: Any) -> Accepted:
    """Return a command as the record has it; one that nobody can read has come to nothing."""
    command: Command | None = None
    outcome: Final | None = None
    try:
        if row.outcome is None:
            command = COMMAND.validate_json(row.body or "")
        else:
            outcome = FINAL.validate_json(row.outcome)
    except ValidationError:
        log.error("command.unreadable", seq=row.seq)
        outcome = LOST
    return Accepted(id=row.id, session_id=row.session_id, run=row.run, command=command, outcome=outcome)


def session_of(row: Any) -> Session:
    """Return a session without its messages."""
    return Session(
        id=row.id,
        name=row.name,
        llm_backend=row.llm_backend,
        context=_context(row),
        token_usage=Usage(input_tokens=row.input_tokens, output_tokens=row.output_tokens),
        created_at=utc(row.created_at),
        updated_at=utc(row.updated_at),
    )


def _context(row: Any) -> dict[str, Any]:
    try:
        context = json.loads(row.context)
    except (ValueError, RecursionError):
        context = None
    if isinstance(context, dict):
        return context
    log.error("context.unreadable", session=row.id)
    return {}


def json_text(context: Mapping[str, Any]) -> str:
    """Return a context as it is kept."""
    return json.dumps(dict(context), allow_nan=False)


def changed(session: Session, name: str | None, context: Mapping[str, Any]) -> Session:
    """Return the session with another name, and with these keys of its context set or, with None, removed."""
    kept = {key: value for key, value in {**session.context, **context}.items() if value is not None}
    return replace(session, name=session.name if name is None else name, context=kept)


def utc(moment: datetime) -> datetime:
    """SQLite keeps no time zone."""
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
