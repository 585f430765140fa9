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

from store import audit
from store.database import Database
from store.ids import first_id
from store.keys import add_key, caller_of, digest_of, ensure_first_key, record_use
from store.settings import Settings
from store.tables import ApiKey, AuditEntry, Project

API_KEY = "esp_a-key-for-tests-only"
NewDatabase = Callable[..., AbstractContextManager[str]]


def test_a_key_opens_its_project_until_it_expires(database: Database, project: str) -> None:
    with database.transaction() as session:
        assert ensure_first_key(session, None) is None, "there is one already"
        assert caller_of(session, "esp_wrong") is None
        assert ensure_first_key(session, "esp_another") is None
        caller = caller_of(session, "esp_another")
        assert caller is not None
        assert (caller.project_id, caller.is_operator, caller.may("ops")) == (project, True, True)
        session.execute(update(ApiKey).where(ApiKey.digest == digest_of("esp_another")).values(expires_at=1.0))
        assert caller_of(session, "esp_another") is None


def test_a_key_may_what_its_scopes_say(database: Database, project: str) -> None:
    with database.transaction() as session:
        add_key(session, project_id=project, name="ci", scopes=["write"], key="esp_ci")
        caller = caller_of(session, "esp_ci")
    assert caller is not None
    assert [scope for scope in ("read", "write", "ops", "admin") if caller.may(scope)] == ["write"]
    assert not caller.is_operator


def test_a_use_is_written_once_a_minute(database: Database) -> None:
    def use() -> tuple[bool, float | None]:
        with database.transaction() as session:
            caller = caller_of(session, API_KEY)
            assert caller is not None
            record_use(session, caller.key_id)
            return caller.is_use_due, session.scalar(select(ApiKey.last_used_at))

    is_due, first = use()
    assert is_due
    assert first is not None
    assert use() == (False, first)
    with database.transaction() as session:
        session.execute(update(ApiKey).values(last_used_at=first - 61))
    is_due, third = use()
    assert is_due
    assert third is not None
    assert third > first - 1


def test_a_revoked_key_is_not_made_again_and_a_start_helps_who_has_none(database: Database) -> None:
    """A start with the same ESPALIER_API_KEY does not bring the key back; where no operator is left, one is made."""
    with database.transaction() as session:
        session.execute(update(ApiKey).values(revoked_at=1.0))
        made = ensure_first_key(session, API_KEY)
        assert made is not None
        assert caller_of(session, API_KEY) is None
        caller = caller_of(session, made)
        assert caller is not None
        assert caller.is_operator
        assert ensure_first_key(session, API_KEY) is None


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
            assert caller_of(session, found[0]) is not None
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


def test_the_audit_log_forgets_what_is_old(database: Database, project: str) -> None:
    who = audit.Actor(project, None, "req_1")
    with database.transaction() as session:
        for name in ("old", "new"):
            audit.record(session, name, None, actor=who)
        old = session.scalars(select(AuditEntry).where(AuditEntry.action == "old")).one()
        old.id = first_id("aud", old.at - 8 * 24 * 3600)
    with database.transaction() as session:
        assert (audit.expire(session, 9), audit.expire(session, 7), audit.expire(session, 7)) == (0, 1, 0)
        assert session.scalars(select(AuditEntry.action).where(AuditEntry.project_id == project)).all() == ["new"]
