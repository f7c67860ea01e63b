"""Users, sessions, messages with their full-text index, and uploads."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

SQLITE_SEARCH = (
    # The index holds no text of its own: it reads the message's. The owner is one of its columns, so that a
    # search meets only the words of one user. Hexadecimal makes any key one word.
    "CREATE VIEW chat_message_words AS SELECT seq, lower(hex(user_key)) AS owner, text FROM chat_message",
    "CREATE VIRTUAL TABLE chat_search USING fts5("
    "owner, text, content='chat_message_words', content_rowid='seq',"
    " tokenize='unicode61')",
    "CREATE TRIGGER chat_message_added AFTER INSERT ON chat_message BEGIN"
    " INSERT INTO chat_search (rowid, owner, text)"
    " VALUES (new.seq, lower(hex(new.user_key)), new.text); END",
    "CREATE TRIGGER chat_message_deleted AFTER DELETE ON chat_message BEGIN"
    " INSERT INTO chat_search (chat_search, rowid, owner, text)"
    " VALUES ('delete', old.seq, lower(hex(old.user_key)), old.text); END",
)

POSTGRESQL_SEARCH = (
    # Not `to_tsvector`: its parser knows the letters of the database's locale, and drops all others.
    "CREATE INDEX chat_message_search ON chat_message"
    " USING gin (array_to_tsvector(string_to_array(text, ' ')))",
)


def upgrade() -> None:
    op.create_table(
        "chat_user",
        sa.Column("user_key", sa.String(128), primary_key=True),
        sa.Column("epoch", sa.BigInteger, nullable=False),
        sa.Column("config", sa.Text),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_table(
        "chat_session",
        sa.Column("user_key", sa.String(128), primary_key=True),
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("llm_backend", sa.Text, nullable=False),
        sa.Column("context", sa.Text, nullable=False),
        sa.Column("input_tokens", sa.BigInteger, nullable=False),
        sa.Column("output_tokens", sa.BigInteger, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["user_key"], ["chat_user.user_key"], ondelete="CASCADE"),
    )
    op.create_index("chat_session_recency", "chat_session", ["user_key", "updated_at", "id"])
    op.create_table(
        "chat_message",
        sa.Column(
            "seq", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True
        ),
        sa.Column("user_key", sa.String(128), nullable=False),
        sa.Column("session_id", sa.String(64), nullable=False),
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("standing", sa.Boolean, nullable=False),
    )
    op.create_index("chat_message_id", "chat_message", ["user_key", "session_id", "id"], unique=True)
    op.create_index("chat_message_order", "chat_message", ["user_key", "session_id", "seq"])
    op.create_index("chat_message_standing", "chat_message", ["user_key", "session_id", "standing", "seq"])
    op.create_table(
        "chat_upload",
        sa.Column("user_key", sa.String(128), primary_key=True),
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("media_type", sa.String(64), nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("content", sa.LargeBinary, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_table(
        "chat_attachment",
        sa.Column("user_key", sa.String(128), primary_key=True),
        sa.Column("upload_id", sa.String(64), primary_key=True),
        sa.Column("session_id", sa.String(64), primary_key=True),
    )
    op.create_index("chat_attachment_session", "chat_attachment", ["user_key", "session_id"])
    sqlite = op.get_bind().dialect.name == "sqlite"
    for statement in SQLITE_SEARCH if sqlite else POSTGRESQL_SEARCH:
        op.execute(statement)


def downgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":
        op.execute("DROP TABLE chat_search")
        op.execute("DROP VIEW chat_message_words")
    for table in ("chat_attachment", "chat_upload", "chat_message", "chat_session", "chat_user"):
        op.drop_table(table)
