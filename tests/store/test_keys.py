from __future__ import annotations

import re
import stat
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from sqlalchemy import select, update

from store.database import Database
from store.keys import digest_of, ensure_first_key, project_of
from store.settings import Settings
from store.tables import ApiKey


def test_a_key_opens_its_project_until_it_expires(database: Database, project: str) -> None:
    with database.transaction() as session:
        assert ensure_first_key(session, None) is None, "there is one already"
        assert project_of(session, "esp_wrong") is None
        assert ensure_first_key(session, "esp_another") is None
        assert project_of(session, "esp_another") == project
        session.execute(update(ApiKey).where(ApiKey.digest == digest_of("esp_another")).values(expires_at=1.0))
        assert project_of(session, "esp_another") is None


def test_the_first_key_is_printed_once_and_hashed_at_rest(tmp_path: Path, python: str) -> None:
    def start() -> str:
        command = [python, "-m", "migrations"]
        environment = {"ESPALIER_DATA_DIR": str(tmp_path / "data"), "PATH": "/usr/bin:/bin"}
        return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout

    found = re.search(r"esp_[\w-]{40,}", start())
    assert found
    assert start() == ""
    assert found[0].encode() not in (tmp_path / "data" / "espalier.db").read_bytes()
    database = Database(f"sqlite:///{tmp_path / 'data' / 'espalier.db'}")
    with database.reading() as session:
        assert project_of(session, found[0]) is not None
        assert len(session.scalars(select(ApiKey)).all()) == 1
    database.close()


def test_the_secret_is_made_once_and_is_nobody_elses(settings: Settings) -> None:
    settings.data_dir.mkdir()
    secret = settings.secret()
    assert settings.secret() == secret
    assert len(secret) >= 32
    assert stat.S_IMODE((settings.data_dir / "secret_key").stat().st_mode) == 0o600


def test_of_many_that_make_the_secret_at_once_all_read_the_same(settings: Settings) -> None:
    settings.data_dir.mkdir()
    barrier = threading.Barrier(8)

    def read(_: int) -> bytes:
        barrier.wait()
        return settings.secret()

    with ThreadPoolExecutor(8) as threads:
        assert len(set(threads.map(read, range(8)))) == 1
    assert [path.name for path in settings.data_dir.iterdir()] == ["secret_key"]
