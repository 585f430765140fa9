"""What faults act on: the processes, the broker, the database, the disk and the users of one run."""

from __future__ import annotations

import os
import sqlite3
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from chaos.broker import Broker
from chaos.fleet import Fleet
from chaos.load import Load
from chaos.postgres import PostgresServer

SQLITE = "espalier.db"
DISK_BYTES = 512 << 20


@dataclass
class Stage:
    fleet: Fleet
    broker: Broker
    load: Load
    server: PostgresServer | None
    """None: SQLite."""
    disk: Path | None
    """A file system of the run's own with the data directory on it, to be filled; None where none may be mounted."""
    lease_seconds: float
    held: set[str] = field(default_factory=set)
    """What is stopped, away or full now, and so no target."""

    def database_away(self) -> Callable[[], None]:
        """What it returns brings it back."""
        if self.server is None:
            return _sqlite_away(self.fleet.settings.data_dir / SQLITE)
        self.server.stop()  # at once: every connection is cut, all that was under way is undone
        return self.server.start

    @property
    def servers(self) -> set[int]:
        """Processes that no fault leaves behind."""
        return {each.pid for each in (self.broker, self.server) if each is not None and each.pid is not None}


def _sqlite_away(path: Path) -> Callable[[], None]:
    """Somebody else writes and does not come to an end."""
    connection = sqlite3.connect(path, timeout=10, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")

    def end() -> None:
        connection.execute("ROLLBACK")
        connection.close()

    return end


def mount_disk(folder: Path) -> bool:
    """A small file system at `folder`, in memory; False where this user may not mount one."""
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "espalier-chaos", str(folder)]
    try:
        return subprocess.run(command, check=False, capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


def unmount_disk(folder: Path) -> None:
    subprocess.run(["umount", "--lazy", folder], check=False)


def fill(disk: Path) -> Callable[[], None]:
    """Every byte that is left; what it returns frees them."""
    filler = disk / "filler"
    descriptor = os.open(filler, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    try:
        piece = bytes(1 << 20)
        while True:
            try:
                os.write(descriptor, piece)
            except OSError:
                if len(piece) == 1:
                    break
                piece = piece[: len(piece) // 2]
    finally:
        os.close(descriptor)

    return lambda: filler.unlink()
