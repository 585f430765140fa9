from __future__ import annotations

from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import inspect

import migrations
from store.database import Database
from store.settings import Settings
from store.tables import Base


def test_the_head_equals_the_metadata(database: Database) -> None:
    with database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []


def test_up_is_repeatable_and_down_leaves_nothing(database: Database, settings: Settings) -> None:
    migrations.upgrade(settings.database)
    migrations.downgrade(settings.database)
    assert inspect(database.engine).get_table_names() == ["alembic_version"]
    migrations.upgrade(settings.database)
    assert set(Base.metadata.tables) < set(inspect(database.engine).get_table_names())
