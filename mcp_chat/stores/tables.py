"""The tables, as this version of the program knows them; `migrations/` says how they came to be."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Date,
    DateTime,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    false,
    text,
)

metadata = MetaData()

chat_user = Table(
    "chat_user",
    metadata,
    Column("user_key", String(128), primary_key=True),
    Column("epoch", BigInteger, nullable=False),
    Column("config", Text),
    Column("updated_at", DateTime(timezone=True), nullable=False),
)

_HIDDEN = text("branch_of IS NOT NULL")

chat_session = Table(
    "chat_session",
    metadata,
    Column("user_key", String(128), primary_key=True),
    Column("id", String(64), primary_key=True),
    Column("name", Text, nullable=False),
    Column("llm_backend", Text, nullable=False),
    Column("context", Text, nullable=False),
    Column("input_tokens", BigInteger, nullable=False),
    Column("output_tokens", BigInteger, nullable=False),
    Column("cached_tokens", BigInteger, nullable=False, server_default="0"),
    Column("reasoning_tokens", BigInteger, nullable=False, server_default="0"),
    Column("cost_nanos", BigInteger, nullable=False, server_default="0"),
    Column("estimated", Boolean, nullable=False, server_default=false()),
    Column("unpriced", Boolean, nullable=False, server_default=false()),
    Column("created_at", DateTime(timezone=True), nullable=False),
    Column("updated_at", DateTime(timezone=True), nullable=False),
    # What nobody sees: a branch of another session, and the message behind which it begins.
    Column("branch_of", String(64)),
    Column("fork", String(64)),
    ForeignKeyConstraint(["user_key"], ["chat_user.user_key"], ondelete="CASCADE"),
    Index("chat_session_recency", "user_key", "updated_at", "id"),
    Index("chat_session_branches", "user_key", "branch_of", sqlite_where=_HIDDEN, postgresql_where=_HIDDEN),
)

chat_message = Table(
    "chat_message",
    metadata,
    Column("seq", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("user_key", String(128), nullable=False),
    Column("session_id", String(64), nullable=False),
    Column("id", String(64), nullable=False),
    Column("body", Text, nullable=False),
    Column("text", Text, nullable=False),
    Column("standing", Boolean, nullable=False),
    Index("chat_message_id", "user_key", "session_id", "id", unique=True),
    Index("chat_message_order", "user_key", "session_id", "seq"),
    Index("chat_message_standing", "user_key", "session_id", "standing", "seq"),
)

chat_upload = Table(
    "chat_upload",
    metadata,
    Column("user_key", String(128), primary_key=True),
    Column("id", String(64), primary_key=True),
    Column("media_type", String(64), nullable=False),
    Column("name", Text, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("content", LargeBinary, nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False),
)

chat_attachment = Table(
    "chat_attachment",
    metadata,
    Column("user_key", String(128), primary_key=True),
    Column("upload_id", String(64), primary_key=True),
    Column("session_id", String(64), primary_key=True),
    Index("chat_attachment_session", "user_key", "session_id"),
)

chat_usage = Table(
    "chat_usage",
    metadata,
    Column("seq", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("user_key", String(128), nullable=False),
    # A message's id, or what else names what was paid for: it counts once.
    Column("id", String(128), nullable=False),
    Column("day", Date, nullable=False),
    Column("session_id", String(64), nullable=False),
    Column("model", Text, nullable=False),
    Column("input_tokens", BigInteger, nullable=False),
    Column("output_tokens", BigInteger, nullable=False),
    Column("cached_tokens", BigInteger, nullable=False),
    Column("reasoning_tokens", BigInteger, nullable=False),
    Column("cost_nanos", BigInteger, nullable=False),
    Column("estimated", Boolean, nullable=False),
    Column("unpriced", Boolean, nullable=False),
    Column("calls", Integer, nullable=False),
    Column("own", Boolean, nullable=False),
    Index("chat_usage_id", "user_key", "id", unique=True),
    Index("chat_usage_user_day", "user_key", "day"),
    Index("chat_usage_day", "day"),
)

_OPEN, _ENDED = text("outcome IS NULL"), text("outcome IS NOT NULL")

chat_command = Table(
    "chat_command",
    metadata,
    Column("seq", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("user_key", String(128), nullable=False),
    Column("id", String(64), nullable=False),
    Column("type", String(32), nullable=False),
    Column("session_id", String(64), nullable=False),
    Column("run", String(64), nullable=False),
    Column("body", Text),
    Column("attempts", Integer, nullable=False, server_default="0"),
    # Somebody else has brought it, too, and may have been told that it is accepted.
    Column("again", Boolean, nullable=False, server_default=false()),
    Column("outcome", Text),
    Column("created_at", DateTime(timezone=True), nullable=False),
    Column("ended_at", DateTime(timezone=True)),
    Index("chat_command_id", "user_key", "id", unique=True),
    # Few are open at a time: however many have ended, these are found at once.
    Index("chat_command_open", "user_key", "created_at", sqlite_where=_OPEN, postgresql_where=_OPEN),
    Index("chat_command_ended", "ended_at", sqlite_where=_ENDED, postgresql_where=_ENDED),
)

chat_deed = Table(
    "chat_deed",
    metadata,
    Column("seq", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("user_key", String(128), nullable=False),
    Column("id", String(64), nullable=False),
    Column("action", String(16), nullable=False),
    Column("decision", String(16), nullable=False),
    Column("by", String(128), nullable=False),
    Column("session_id", String(64), nullable=False),
    Column("turn", String(64), nullable=False),
    Column("server", Text, nullable=False),
    Column("tool", Text, nullable=False),
    Column("arguments", String(64), nullable=False),
    Column("outcome", String(64), nullable=False),
    Column("ms", BigInteger, nullable=False),
    Column("at", DateTime(timezone=True), nullable=False),
    Index("chat_deed_id", "user_key", "id", unique=True),
    Index("chat_deed_at", "at"),
)

chat_document = Table(
    "chat_document",
    metadata,
    # The version: each write is a new row.
    Column("seq", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("user_key", String(128), nullable=False),
    Column("kind", String(32), nullable=False),
    Column("name", String(512), nullable=False),
    Column("text", Text, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("expires_at", DateTime(timezone=True), nullable=False),
    Index("chat_document_name", "user_key", "kind", "name", unique=True),
    Index("chat_document_end", "expires_at"),
    sqlite_autoincrement=True,  # without it a number comes again when its row is gone
)
