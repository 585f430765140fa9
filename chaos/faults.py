"""Every kind of fault: what it strikes, for how long, and how that is undone."""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import dataclass

from chaos import stage as stages
from chaos.processes import kill
from chaos.stage import Stage
from store.queue import INTAKE


class NoTarget(Exception):
    """There is nothing to strike now: nobody trains, or it is away already."""


@dataclass(frozen=True)
class Fault:
    kind: str
    pick: float
    """0 to 1: which of several targets."""
    hold: float
    """0 to 1: how long, between the shortest and the longest of its kind."""


Undo = Callable[[], None]
Strike = Callable[[Stage, Fault], Undo | None]
"""Raises NoTarget."""


@dataclass(frozen=True)
class Kind:
    strike: Strike
    shortest: float = 0.0
    longest: float = 0.0
    """Seconds; in leases where `in_leases`."""
    in_leases: bool = False

    def seconds(self, fault: Fault, lease_seconds: float) -> float:
        seconds = self.shortest + fault.hold * (self.longest - self.shortest)
        return seconds * lease_seconds if self.in_leases else seconds


def _choose(found: list[int], fault: Fault) -> int:
    if not found:
        raise NoTarget
    return found[min(int(fault.pick * len(found)), len(found) - 1)]


def _held(stage: Stage, what: str, undo: Undo) -> Undo:
    stage.held.add(what)

    def release() -> None:
        undo()
        stage.held.discard(what)

    return release


def _free(stage: Stage, what: str) -> None:
    if what in stage.held:
        raise NoTarget


# Processes


def _killing(role: str) -> Strike:
    def strike(stage: Stage, fault: Fault) -> None:
        if not kill(_choose(sorted(stage.fleet.pids(role)), fault)):
            raise NoTarget

    return strike


def _stopping(role: str) -> Strike:
    """SIGSTOP, and SIGCONT at the end: as a machine that hangs, or a laptop that is closed."""

    def strike(stage: Stage, fault: Fault) -> Undo:
        pid = _choose([pid for pid in sorted(stage.fleet.pids(role)) if str(pid) not in stage.held], fault)
        if not kill(pid, signal.SIGSTOP):
            raise NoTarget

        def go_on() -> None:
            kill(pid, signal.SIGCONT)

        return _held(stage, str(pid), go_on)

    return strike


def _wrong_clock(stage: Stage, fault: Fault) -> None:
    """A worker is killed and comes back on a machine whose clock is up to an hour wrong, one way or the other."""
    if stage.server is None:  # SQLite's clock is the machine's
        raise NoTarget
    pids = stage.fleet.pids("worker")
    pid = _choose(sorted(pids), fault)
    stage.fleet.clocks[pids[pid]] = round((fault.hold - 0.5) * 7200.0)
    kill(pid)


# The broker and its messages


def _broker_killed(stage: Stage, _fault: Fault) -> Undo:
    _free(stage, "broker")
    stage.broker.kill()
    return _held(stage, "broker", stage.broker.start)


def _flushed(stage: Stage, _fault: Fault) -> None:
    _free(stage, "broker")
    stage.broker.flush()


def _doubled(stage: Stage, fault: Fault) -> None:
    _free(stage, "broker")
    stage.broker.double(INTAKE if fault.pick > 0.8 else stage.fleet.settings.worker_pool, 2 + int(fault.hold * 18))


def _intercepted(put_back: bool) -> Strike:
    def strike(stage: Stage, _fault: Fault) -> Undo:
        _free(stage, "broker")
        _free(stage, "messages")
        intercept = stage.broker.intercept([stage.fleet.settings.worker_pool, INTAKE])
        return _held(stage, "messages", lambda: intercept.end(put_back))

    return strike


# What holds rows and files


def _database_away(stage: Stage, _fault: Fault) -> Undo:
    _free(stage, "database")
    return _held(stage, "database", stage.database_away())


def _disk_full(stage: Stage, _fault: Fault) -> Undo:
    _free(stage, "disk")
    if stage.disk is None:
        raise NoTarget
    return _held(stage, "disk", stages.fill(stage.disk))


def _blobs_away(stage: Stage, _fault: Fault) -> Undo:
    """Nothing can be written to the blob folder, by root neither: where its new files go there is a file instead."""
    _free(stage, "disk")
    incoming = stage.fleet.settings.blob_dir / "incoming"
    aside = incoming.with_name("incoming.aside")
    incoming.rename(aside)
    incoming.touch()

    def back() -> None:
        incoming.unlink(missing_ok=True)
        aside.rename(incoming)

    return _held(stage, "disk", back)


# Users


def _cut_upload(stage: Stage, fault: Fault) -> None:
    if not stage.load.cut_upload(fault.pick):
        raise NoTarget


def _ordering(verb: str) -> Strike:
    def strike(stage: Stage, fault: Fault) -> None:
        if not stage.load.order(verb, fault.pick):
            raise NoTarget

    return strike


ROLES = ("worker", "nursery", "child", "sweeper", "api")

KINDS: dict[str, Kind] = {
    **{f"SIGKILL {role}": Kind(_killing(role)) for role in ROLES},
    **{f"SIGSTOP {role}, briefly": Kind(_stopping(role), 0.1, 0.5, in_leases=True) for role in ROLES},
    **{f"SIGSTOP {role}, past a lease": Kind(_stopping(role), 1.2, 2.0, in_leases=True) for role in ROLES},
    "worker with a wrong clock": Kind(_wrong_clock),
    "broker killed": Kind(_broker_killed, 0.5, 5.0),
    "broker flushed": Kind(_flushed),
    "messages doubled": Kind(_doubled),
    "messages late": Kind(_intercepted(put_back=True), 1.0, 5.0),
    "messages lost": Kind(_intercepted(put_back=False), 1.0, 5.0),
    "database away": Kind(_database_away, 0.5, 6.0),
    "disk full": Kind(_disk_full, 1.0, 5.0),
    "blob store away": Kind(_blobs_away, 1.0, 5.0),
    "upload cut off": Kind(_cut_upload),
    "cancel": Kind(_ordering("cancel")),
    "pause": Kind(_ordering("pause")),
    "resume": Kind(_ordering("resume")),
}
