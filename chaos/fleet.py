"""The service's own processes, as a production set-up starts them; whatever ends is started again."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from chaos.processes import children_of, descendants_of, die_with_parent, is_alive, kill
from embedded.serve import COMMANDS
from store.settings import Settings

RESTART_SECONDS = 0.5
STOP_SECONDS = 20.0


class Fleet:
    """One API, some workers and sweepers. Of one thread: what it starts ends with it."""

    def __init__(self, settings: Settings, logs: Path, workers: int, sweepers: int) -> None:
        self.settings, self._logs = settings, logs
        self.workers = [f"worker-{number}" for number in range(1, workers + 1)]
        self.sweepers = [f"sweeper-{number}" for number in range(1, sweepers + 1)]
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.clocks: dict[str, float] = {}
        """Seconds by which the clock of a process is wrong, from its next start on."""
        self._ended_at: dict[str, float] = {}

    @property
    def names(self) -> list[str]:
        return ["api", *self.workers, *self.sweepers]

    def start(self, name: str) -> None:
        places = {"host": "127.0.0.1", "port": self.settings.port, "pool": self.settings.worker_pool}
        command = [part.format(**places) for part in COMMANDS[name.partition("-")[0]]]
        if name in self.workers:
            command += ["--hostname", f"{name}@chaos"]
        if name in self.clocks:
            command = ["-m", "chaos.clock", str(self.clocks[name]), *command]
        with (self._logs / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, *command],
                env=environment(self.settings),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=die_with_parent,
            )

    def start_all(self) -> None:
        for name in self.names:
            self.start(name)

    def keep_alive(self) -> None:
        """Start again what has ended, a moment after it did. Called often."""
        for name, process in list(self.processes.items()):
            if process.poll() is None:
                continue
            ended_at = self._ended_at.setdefault(name, time.monotonic())
            if time.monotonic() - ended_at > RESTART_SECONDS:
                del self._ended_at[name]
                self.start(name)

    def pids(self, kind: str) -> dict[int, str]:
        """Process number to name of what runs now: of `api`, `worker`, `sweeper`, `nursery` or `child`. A nursery and a
        training process bear the name of their worker."""
        above = {p.pid: name for name, p in self.processes.items() if p.poll() is None}
        workers = {pid: name for pid, name in above.items() if name in self.workers}
        if kind == "nursery":
            return _below(workers)
        if kind == "child":
            return _below(_below(workers))
        return {pid: name for pid, name in above.items() if name.partition("-")[0] == kind}

    def stop(self, names: Iterable[str] | None = None) -> None:
        """By SIGTERM, as an operator does, the API first; by SIGKILL what does not end by that."""
        names = list(names if names is not None else self.names)
        for name in names:
            if name in self.processes:
                self.processes[name].terminate()
        deadline = time.monotonic() + STOP_SECONDS
        for name in names:
            if (process := self.processes.pop(name, None)) is not None:
                try:
                    process.wait(max(0.0, deadline - time.monotonic()))
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
            self._ended_at.pop(name, None)

    def kill(self) -> None:
        """At once, with all that they started."""
        for process in self.processes.values():
            for pid in (process.pid, *descendants_of(process.pid)):
                kill(pid)
            process.wait()
        self.processes.clear()


def strays(allowed: set[int], patience_seconds: float = 5.0) -> list[int]:
    """Processes below this one (which adopts orphans) that are none of the allowed, nor below one of those, and do not
    end by themselves."""
    deadline = time.monotonic() + patience_seconds
    while True:
        found = [pid for pid in children_of(os.getpid()) if pid not in allowed and is_alive(pid)]
        found += [one for pid in found for one in descendants_of(pid) if is_alive(one)]
        if not found or time.monotonic() > deadline:
            return found
        time.sleep(0.1)


def environment(settings: Settings) -> dict[str, str]:
    """Ours, with the settings, and no others of the service."""
    chosen = {
        f"ESPALIER_{name.upper()}": value.get_secret_value() if hasattr(value, "get_secret_value") else str(value)
        for name, value in settings
        if value is not None
    }
    return {name: value for name, value in os.environ.items() if not name.startswith("ESPALIER_")} | chosen


def _below(parents: dict[int, str]) -> dict[int, str]:
    return {child: name for pid, name in parents.items() for child in children_of(pid)}
