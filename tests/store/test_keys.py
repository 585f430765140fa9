from __future__ import annotations

import re
import stat
import subprocess
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing
from pathlib import Path

from sqlalchemy import func, select, update

from store.database import Database
from store.keys import digest_of, ensure_first_key, project_of
from store.settings import Settings
from store.tables import ApiKey, Project

NewDatabase = Callable[..., AbstractContextManager[str]]


def test_a_key_opens_its_project_until_it_expires(database: Database, project: str) -> None:
    with database.transaction() as session:
        assert ensure_first_key(session, None) is None, "there is one already"
        assert project_of(session, "esp_wrong") is None
        assert ensure_first_key(session, "esp_another") is None
        assert project_of(session, "esp_another") == project
        session.execute(update(ApiKey).where(ApiKey.digest == digest_of("esp_another")).values(expires_at=1.0))
        assert project_of(session, "esp_another") is None


def test_the_first_key_is_printed_once_and_hashed_at_rest(
    tmp_path: Path, python: str, new_database: NewDatabase
) -> None:
    with new_database(tmp_path, migrated=False) as url:

        def start() -> str:
            command = [python, "-m", "migrations"]
            environment = {"ESPALIER_DATABASE_URL": url, "ESPALIER_DATA_DIR": str(tmp_path), "PATH": "/usr/bin:/bin"}
            return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout

        found = re.search(r"esp_[\w-]{40,}", start())
        assert found
        assert start() == ""
        with closing(Database(url)) as database, database.reading() as session:
            assert project_of(session, found[0]) is not None
            [key] = session.execute(select(ApiKey.__table__)).all()
    assert found[0] not in str(key)
    assert key.digest == digest_of(found[0])


def test_of_many_first_starts_one_makes_the_key(settings: Settings) -> None:
    """Machines that come up together, on a database that is migrated and holds nothing."""
    barrier = threading.Barrier(8)
    with closing(Database(settings.database)) as database:

        def start(_: int) -> str | None:
            barrier.wait()
            with database.transaction() as session:
                return ensure_first_key(session, None)

        with ThreadPoolExecutor(8) as threads:
            [made] = [key for key in threads.map(start, range(8)) if key is not None]
        with database.reading() as session:
            assert session.scalars(select(ApiKey.digest)).all() == [digest_of(made)]
            assert session.scalar(select(func.count()).select_from(Project)) == 1


def test_the_secret_is_made_once_and_is_nobody_elses(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    secret = settings.secret()
    assert settings.secret() == secret
    assert len(secret) >= 32
    assert stat.S_IMODE((settings.data_dir / "secret_key").stat().st_mode) == 0o600


def test_of_many_that_make_the_secret_at_once_all_read_the_same(tmp_path: Path) -> None:
    settings, barrier = Settings(data_dir=tmp_path), threading.Barrier(8)

    def read(_: int) -> bytes:
        barrier.wait()
        return settings.secret()

    with ThreadPoolExecutor(8) as threads:
        assert len(set(threads.map(read, range(8)))) == 1
    assert [path.name for path in settings.data_dir.iterdir()] == ["secret_key"]
