from __future__ import annotations

import subprocess
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import inspect

import migrations
from store.database import Database
from store.settings import Settings
from store.tables import Base

NewDatabase = Callable[..., AbstractContextManager[str]]


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


def test_many_may_migrate_at_once(tmp_path: Path, python: str, new_database: NewDatabase) -> None:
    """Machines that start together: one does it, the others find it done."""
    with new_database(tmp_path, migrated=False) as url:
        environment = {"ESPALIER_DATABASE_URL": url, "ESPALIER_DATA_DIR": str(tmp_path), "PATH": "/usr/bin:/bin"}
        starts = [
            subprocess.Popen([python, "-m", "migrations"], env=environment, stdout=subprocess.PIPE, text=True)
            for _ in range(3)
        ]
        said = [start.communicate()[0] for start in starts]
    assert [start.returncode for start in starts] == [0, 0, 0]
    assert "".join(said).count("API key") == 1
