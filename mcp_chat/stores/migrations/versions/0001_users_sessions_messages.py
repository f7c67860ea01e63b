"""Users, sessions and messages."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


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
        sa.Column(
            "user_key",
            sa.String(128),
            sa.ForeignKey("chat_user.user_key", ondelete="CASCADE"),
            primary_key=True,
        ),
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_table(
        "chat_message",
        sa.Column(
            "seq", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True
        ),
        sa.Column("user_key", sa.String(128), nullable=False),
        sa.Column("session_id", sa.String(64), nullable=False),
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("body", sa.Text, nullable=False),
    )
    op.create_index("chat_message_id", "chat_message", ["user_key", "session_id", "id"], unique=True)
    op.create_index("chat_message_order", "chat_message", ["user_key", "session_id", "seq"])


def downgrade() -> None:
    op.drop_table("chat_message")
    op.drop_table("chat_session")
    op.drop_table("chat_user")
