"""Branches: sessions that nobody sees, and where they begin."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.add_column("chat_session", sa.Column("branch_of", sa.String(64)))
    op.add_column("chat_session", sa.Column("fork", sa.String(64)))
    hidden = sa.text("branch_of IS NOT NULL")
    op.create_index(
        "chat_session_branches",
        "chat_session",
        ["user_key", "branch_of"],
        sqlite_where=hidden,
        postgresql_where=hidden,
    )


def downgrade() -> None:
    side = "chat_session.user_key = chat_message.user_key AND chat_session.id = chat_message.session_id"
    hidden = f"SELECT 1 FROM chat_session WHERE {side} AND branch_of IS NOT NULL"  # noqa: S608 - ours
    op.execute(f"DELETE FROM chat_message WHERE EXISTS ({hidden})")  # noqa: S608 - ours
    op.execute("DELETE FROM chat_session WHERE branch_of IS NOT NULL")
    op.drop_index("chat_session_branches", "chat_session")
    op.drop_column("chat_session", "fork")
    op.drop_column("chat_session", "branch_of")
