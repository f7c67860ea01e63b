"""Usage: what sessions have cost, and each step that was paid for, by user, day and model."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

COUNTS = ("cached_tokens", "reasoning_tokens", "cost_nanos")
MARKS = ("estimated", "unpriced")


def upgrade() -> None:
    for name in COUNTS:
        op.add_column("chat_session", sa.Column(name, sa.BigInteger, nullable=False, server_default="0"))
    for name in MARKS:
        op.add_column("chat_session", sa.Column(name, sa.Boolean, nullable=False, server_default=sa.false()))
    op.create_table(
        "chat_usage",
        sa.Column(
            "seq", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True
        ),
        sa.Column("user_key", sa.String(128), nullable=False),
        sa.Column("id", sa.String(128), nullable=False),
        sa.Column("day", sa.Date, nullable=False),
        sa.Column("session_id", sa.String(64), nullable=False),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("input_tokens", sa.BigInteger, nullable=False),
        sa.Column("output_tokens", sa.BigInteger, nullable=False),
        sa.Column("cached_tokens", sa.BigInteger, nullable=False),
        sa.Column("reasoning_tokens", sa.BigInteger, nullable=False),
        sa.Column("cost_nanos", sa.BigInteger, nullable=False),
        sa.Column("estimated", sa.Boolean, nullable=False),
        sa.Column("unpriced", sa.Boolean, nullable=False),
        sa.Column("calls", sa.Integer, nullable=False),
        sa.Column("own", sa.Boolean, nullable=False),
    )
    op.create_index("chat_usage_id", "chat_usage", ["user_key", "id"], unique=True)
    op.create_index("chat_usage_user_day", "chat_usage", ["user_key", "day"])
    op.create_index("chat_usage_day", "chat_usage", ["day"])


def downgrade() -> None:
    op.drop_table("chat_usage")
    for name in (*COUNTS, *MARKS):
        op.drop_column("chat_session", name)
