"""Alembic's entry: the URL comes from the settings, or from whoever calls `migrations.upgrade`."""

from __future__ import annotations

from alembic import context

from store.database import Database, one_at_a_time
from store.settings import Settings
from store.tables import Base

# Foreign keys are off meanwhile: SQLite alters a table by copying and dropping it (`render_as_batch`).
database = Database(context.config.get_main_option("sqlalchemy.url") or Settings().database, foreign_keys=False)
with database.engine.connect() as connection:
    # Whole or not at all, on SQLite too: our connections say BEGIN themselves, so its DDL is transactional.
    context.configure(
        connection=connection, target_metadata=Base.metadata, render_as_batch=True, transactional_ddl=True
    )
    with context.begin_transaction():
        one_at_a_time(connection)  # of several machines that start at once, one does it and the others find it done
        context.run_migrations()
database.close()
