"""Between the values and their rows; what was said goes through the cipher."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import structlog
from pydantic import ValidationError

from mcp_chat.commands import COMMAND, Command, Send
from mcp_chat.events import FINAL, Failed, Final
from mcp_chat.exceptions import Unexpected, Unreadable
from mcp_chat.message import MESSAGE, Message, Usage, now, title
from mcp_chat.session import Session
from mcp_chat.stores.base import Accepted, Addition, Found
from mcp_chat.stores.cipher import Cipher
from mcp_chat.stores.words import excerpt, index

log = structlog.get_logger()

LOST = Failed(
    code=Unexpected.code, text="What you asked for cannot be read any more. Please ask again.", retryable=True
)
"""The outcome of a command that nobody can read."""
USAGE_COLUMNS = tuple(field.name for field in fields(Usage))
WAITS_FOR_KEY = timedelta(days=1)
"""How long a command waits for somebody with its key: as long as it stays in an inbox."""


def session_rows(cipher: Cipher, additions: Sequence[Addition]) -> list[dict[str, Any]]:
    """Return the rows that make the sessions, or add to them."""
    return [
        {
            "user_key": each.user,
            "id": each.session_id,
            "name": cipher.seal(_first_name(each), user=each.user, field="name"),
            "llm_backend": each.backend,
            "context": "{}",
            **usage_columns(sum((step.usage for step in each.spent), Usage())),
            "created_at": now(),
            "updated_at": now(),
        }
        for each in additions
    ]


def usage_columns(usage: Usage) -> dict[str, Any]:
    """Return what was used as the columns that a session and a step have alike."""
    return {name: getattr(usage, name) for name in USAGE_COLUMNS}


def usage_of(row: Any) -> Usage:
    """Return what was used, of a row with those columns."""
    return Usage(**{name: getattr(row, name) for name in USAGE_COLUMNS})


def _first_name(addition: Addition) -> str:
    """The name of a session that begins with these messages."""
    return next((_name(message) for message in addition.messages if message.role == "user"), "")


def _name(message: Message) -> str:
    return title(message.content) or title(" ".join(part.name for part in message.parts)) or "Untitled"


def imported_row(cipher: Cipher, user: str, session: Session) -> dict[str, Any]:
    """Return the row of a session as it comes from elsewhere."""
    return {
        "user_key": user,
        "id": session.id,
        "name": cipher.seal(session.name, user=user, field="name"),
        "llm_backend": session.llm_backend,
        "context": cipher.seal(json_text(session.context), user=user, field="context"),
        **usage_columns(session.token_usage),
        "created_at": session.created_at.astimezone(UTC),
        "updated_at": session.updated_at.astimezone(UTC),
    }


def message_rows(cipher: Cipher, addition: Addition) -> list[dict[str, Any]]:
    """Return the rows of an addition's messages."""
    return [
        {
            "user_key": addition.user,
            "session_id": addition.session_id,
            "id": message.id,
            "body": cipher.seal(MESSAGE.dump_json(message).decode(), user=addition.user, field="message"),
            "text": cipher.index(index(message.content), user=addition.user),
            "standing": message.role == "system" or message.metadata.get("pinned") is True,
        }
        for message in addition.messages
    ]


def attachment_rows(addition: Addition) -> list[dict[str, Any]]:
    """Return the rows that say which files the messages have."""
    ids = dict.fromkeys(part.upload_id for message in addition.messages for part in message.parts)
    return [{"user_key": addition.user, "upload_id": id_, "session_id": addition.session_id} for id_ in ids]


def message_of(cipher: Cipher, user: str, row: Any) -> Message | None:
    """A row that cannot be read stays where it is, is reported, and does not hide the others."""
    try:
        return MESSAGE.validate_json(cipher.open(row.body, user=user, field="message"))
    except (Unreadable, ValidationError):
        log.error("message.unreadable", seq=row.seq)
        return None


def found_of(cipher: Cipher, user: str, row: Any, message: Message, wanted: list[str]) -> Found:
    """Return what a search has found."""
    return Found(
        place=row.seq,
        session_id=row.session_id,
        session_name=_opened_name(cipher, user, row.session_id, row.name),
        message=message,
        excerpt=excerpt(message.content, wanted),
        hidden=bool(row.hidden),
    )


def command_row(cipher: Cipher, user: str, command: Command) -> dict[str, Any]:
    """Return the row of a command that is accepted now."""
    message = command if isinstance(command, Send) else None
    return {
        "user_key": user,
        "id": command.id,
        "type": command.type,
        "session_id": message.session_id if message else "",
        "run": message.run if message else "",
        "body": cipher.seal(COMMAND.dump_json(command).decode(), user=user, field="command"),
        "created_at": now(),
    }


def outcome_text(cipher: Cipher, user: str, outcome: Final) -> str:
    """Return how a command ended, as it is kept."""
    return cipher.seal(FINAL.dump_json(outcome).decode(), user=user, field="outcome")


def accepted_of(cipher: Cipher, row: Any) -> Accepted:
    """Return a command as the record has it; one that nobody can read has come to nothing.

    One that only a key is missing for goes on waiting for it, though not for ever.
    """
    command: Command | None = None
    outcome: Final | None = None
    try:
        if row.outcome is None:
            command = COMMAND.validate_json(cipher.open(row.body or "", user=row.user_key, field="command"))
        else:
            outcome = FINAL.validate_json(cipher.open(row.outcome, user=row.user_key, field="outcome"))
    except (Unreadable, ValidationError) as error:
        log.error("command.unreadable", seq=row.seq)
        waits = isinstance(error, Unreadable) and row.outcome is None
        outcome = None if waits and utc(row.created_at) > now() - WAITS_FOR_KEY else LOST
    return Accepted(id=row.id, session_id=row.session_id, run=row.run, command=command, outcome=outcome)


def session_of(cipher: Cipher, row: Any) -> Session:
    """Return a session without its messages."""
    return Session(
        id=row.id,
        name=_opened_name(cipher, row.user_key, row.id, row.name),
        llm_backend=row.llm_backend,
        context=_context(cipher, row),
        token_usage=usage_of(row),
        created_at=utc(row.created_at),
        updated_at=utc(row.updated_at),
    )


def _opened_name(cipher: Cipher, user: str, session_id: str, kept: str) -> str:
    """A name that cannot be read is none."""
    try:
        return cipher.open(kept, user=user, field="name")
    except Unreadable:
        log.error("name.unreadable", session=session_id)
        return ""


def is_locked(cipher: Cipher, row: Any) -> bool:
    """Tell whether a session's context is sealed and does not open: it must not be written over."""
    try:
        cipher.open(row.context, user=row.user_key, field="context")
    except Unreadable:
        return True
    return False


def _context(cipher: Cipher, row: Any) -> dict[str, Any]:
    try:
        context = json.loads(cipher.open(row.context, user=row.user_key, field="context"))
    except (Unreadable, ValueError, RecursionError):
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
