"""Alembic's entry: run the migrations over the URL that `mcp_chat.stores.database.migrate` hands over.

All of them are one transaction that begins with a lock, so that of several who migrate at once one does.
"""

from alembic import context
from sqlalchemy import create_engine, func, select

from mcp_chat.stores.database import VERSION_TABLE, begin_write_ahead_log, prepare_sqlite
from mcp_chat.stores.tables import metadata

LOCK = 0x6D63702D63686174  # "mcp-chat"

engine = create_engine(context.config.attributes["url"])
if engine.dialect.name == "sqlite":
    prepare_sqlite(engine)
    begin_write_ahead_log(engine)
with engine.connect() as connection:
    context.configure(
        connection=connection,
        target_metadata=metadata,
        render_as_batch=True,
        version_table=VERSION_TABLE,
        transactional_ddl=True,
    )
    with context.begin_transaction():
        if engine.dialect.name == "postgresql":
            connection.execute(select(func.pg_advisory_xact_lock(LOCK)))
        context.run_migrations()
engine.dispose()
