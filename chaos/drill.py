"""One run on one database: set up, run each study undisturbed, strike while users post, let it drain, judge."""

from __future__ import annotations

import heapq
import itertools
import secrets
import shutil
import socket
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import SecretStr

import migrations
from chaos.broker import Broker
from chaos.checks import judge
from chaos.evidence import Digests, Evidence, digests_of
from chaos.faults import KINDS, NoTarget
from chaos.figures import Figures, count
from chaos.fleet import Fleet, strays
from chaos.load import Load
from chaos.postgres import PostgresServer
from chaos.processes import adopt_orphans, command_of
from chaos.recipes import MODELS, RECIPES, digits_npz
from chaos.schedule import schedule
from chaos.stage import SQLITE, Stage, mount_disk, unmount_disk
from store import collection
from store.blobs import open_blobs
from store.database import Database
from store.keys import ensure_first_key
from store.settings import Settings

Dialect = Literal["sqlite", "postgresql"]
TICK_SECONDS = 0.05
READY_SECONDS = 120.0
DRAIN_SECONDS = 600.0
POLL_SECONDS = 0.5


class NotReady(Exception):
    """The service did not start, or did not answer again after the last fault."""


@dataclass(frozen=True)
class Options:
    database: Dialect
    seed: int = 1
    faults: int = 200
    workers: int = 3
    sweepers: int = 2
    live: int = 8
    """Jobs that are kept unfinished."""
    pace: float = 1.0
    """Of the faults: gaps are this many times as long."""
    say: Callable[[str], None] = print


def run(options: Options) -> Figures:
    """Of the main thread: the processes that it starts end with it. Raises NotReady."""
    adopt_orphans()
    started = time.monotonic()
    with ExitStack() as stack:
        folder = stack.enter_context(_folder())
        stage, database = stack.enter_context(_stage(options, folder))
        expected = _undisturbed(stage, database)
        options.say(f"{len(expected)} recipes ran undisturbed; {options.faults} faults follow")
        stage.load.start()
        struck, missed = _strike(stage, options)
        drain_began = time.monotonic()
        _drain(stage)
        drain_seconds = time.monotonic() - drain_began
        evidence = _evidence(stage, database, expected)
        figures = count(evidence, stage.load, struck, missed, judge(evidence))
        figures.seed, figures.database = options.seed, options.database
        figures.drain_seconds, figures.seconds = drain_seconds, time.monotonic() - started
        if stage.disk is None:
            figures.skipped.append("disk full: this user may not mount a file system")
        if figures.violations:
            figures.kept = str(_keep(folder))
        return figures


@contextmanager
def _folder() -> Iterator[Path]:
    """With `logs` and `data` in it, the latter a file system of its own where one may be mounted. Gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="espalier-chaos-") as name, ExitStack() as stack:
        folder = Path(name).resolve()
        for part in ("logs", "data"):
            (folder / part).mkdir()
        if mount_disk(folder / "data"):
            stack.callback(unmount_disk, folder / "data")
        try:
            yield folder
        except NotReady as error:
            raise NotReady(f"{error}; logs and data are kept in {_keep(folder)}") from error


@contextmanager
def _stage(options: Options, folder: Path) -> Iterator[tuple[Stage, Database]]:
    """All of it started and answering, models and dataset validated."""
    data, logs = folder / "data", folder / "logs"
    with ExitStack() as stack:
        url, server = stack.enter_context(_database(options.database, data))
        broker = Broker(_free_port(), logs / "broker.log")
        broker.start()
        stack.callback(broker.kill)
        settings = Settings(
            data_dir=data,
            database_url=url,
            broker_url=broker.url,
            blob_url=None,
            api_key=SecretStr(f"esp_{secrets.token_urlsafe(24)}"),
            port=_free_port(),
            lease_seconds=3,
            renew_seconds=0.5,
            sweep_seconds=0.5,
            stop_grace_seconds=2,
            checkpoint_seconds=1,
            heartbeat_seconds=2,
            blob_grace_seconds=30,
            min_free_bytes=1 << 20,
        )
        assert settings.api_key is not None
        key = settings.api_key.get_secret_value()
        database = Database(settings.database)
        stack.callback(database.close)
        with database.transaction() as session:
            ensure_first_key(session, key)
        fleet = Fleet(settings, logs, options.workers, options.sweepers)
        stack.callback(fleet.kill)
        fleet.start_all()
        load = Load(f"http://127.0.0.1:{settings.port}", key, options.seed, options.live)
        stack.callback(load.close)
        stage = Stage(fleet, broker, load, server, data if data.is_mount() else None, settings.lease_seconds)
        _wait(stage, lambda: load.read("/readyz") is not None, READY_SECONDS, "the API does not answer")
        load.upload(MODELS, digits_npz())
        _wait(stage, load.is_ready, READY_SECONDS, "models and dataset are not validated")
        yield stage, database


@contextmanager
def _database(dialect: Dialect, data: Path) -> Iterator[tuple[str, PostgresServer | None]]:
    """Its URL, migrated; and where it is one, its server."""
    with ExitStack() as stack:
        url, server = f"sqlite:///{data / SQLITE}", None
        if dialect == "postgresql":
            server = stack.enter_context(PostgresServer())
            server.execute("CREATE DATABASE {}", "chaos")
            url = server.url("chaos")
        migrations.upgrade(url)
        yield url, server


def _undisturbed(stage: Stage, database: Database) -> dict[str, Digests]:
    """By recipe, what all runs of it must come to."""
    posted = {recipe: stage.load.post(recipe, f"undisturbed-{recipe}") for recipe in sorted(RECIPES)}
    _wait(stage, lambda: stage.load.settle() == 0, DRAIN_SECONDS, "undisturbed jobs do not end")
    found = {recipe: digests_of(database, job) for recipe, job in posted.items() if job is not None}
    if len(found) < len(RECIPES) or not all(found.values()):
        raise NotReady(f"undisturbed jobs stored {found}: {stage.load.errors}")
    return found


def _strike(stage: Stage, options: Options) -> tuple[Counter[str], Counter[str]]:
    """Faults that struck, and those that found nothing to strike, by kind. Everything is undone when this returns."""
    struck, missed = Counter[str](), Counter[str]()
    undos: list[tuple[float, int, Callable[[], None]]] = []
    numbers = itertools.count()
    kinds = [kind for kind in KINDS if stage.server is not None or kind != "worker with a wrong clock"]
    if stage.disk is None:
        kinds.remove("disk full")
    coming = schedule(options.seed, kinds, options.pace)
    try:
        while struck.total() < options.faults:
            planned = next(coming)
            _pass(stage, planned.gap_seconds, undos)
            kind = KINDS[planned.fault.kind]
            try:
                undo = kind.strike(stage, planned.fault)
            except NoTarget:
                missed[planned.fault.kind] += 1
                continue
            struck[planned.fault.kind] += 1
            if undo is not None:
                seconds = kind.seconds(planned.fault, stage.lease_seconds)
                heapq.heappush(undos, (time.monotonic() + seconds, next(numbers), undo))
            if struck.total() % 20 == 0:
                options.say(f"{struck.total()} faults, {len(stage.load.posted)} jobs posted")
    finally:
        for _, _, undo in undos:
            undo()
    return struck, missed


def _pass(stage: Stage, seconds: float, undos: list[tuple[float, int, Callable[[], None]]]) -> None:
    """Time goes by: what has ended is started again, what is due is undone."""
    until = time.monotonic() + seconds
    while (now := time.monotonic()) < until:
        while undos and undos[0][0] <= now:
            heapq.heappop(undos)[2]()
        stage.fleet.keep_alive()
        time.sleep(TICK_SECONDS)


def _drain(stage: Stage) -> None:
    """No more posts; what is paused is resumed, and all that there is ends."""
    stage.load.over.set()
    _wait(stage, lambda: not stage.load.is_posting, DRAIN_SECONDS, "the last post is not answered")
    _wait(stage, lambda: stage.load.settle() == 0, DRAIN_SECONDS, "jobs do not end", may_fail=True)


def _evidence(stage: Stage, database: Database, expected: dict[str, Digests]) -> Evidence:
    """Everything is stopped in order first, the workers started once more before: they clear up what others left."""
    fleet, load = stage.fleet, stage.load
    keys_count = load.keys_count
    fleet.stop(fleet.workers)
    fleet.clocks.clear()
    fleet.start(fleet.workers[0])
    _wait(stage, lambda: bool(fleet.pids("nursery")), READY_SECONDS, "no worker starts any more")
    fleet.stop()
    collected = _collect(fleet.settings, database)
    return Evidence(
        database,
        fleet.settings.blob_dir,
        fleet.settings.work_dir,
        posted=dict(load.posted),
        expected=expected,
        canceled=load.canceled,
        keys=dict(load.keys),
        keys_count=keys_count,
        uploaded=dict(load.uploaded),
        collected=collected,
        strays=[f"{pid}: {command_of(pid)}" for pid in strays(stage.servers)],
        refused=load.errors,
    )


def _collect(settings: Settings, database: Database) -> int:
    """As the sweepers do, but of all that is without use now, however young. How many copies."""
    blobs = open_blobs(settings.model_copy(update={"blob_grace_seconds": 0.0}))
    return sum(collection.collect(database, blobs, shard) for _ in range(2) for shard in collection.SHARDS)


def _wait(stage: Stage, is_so: Callable[[], bool], seconds: float, otherwise: str, may_fail: bool = False) -> None:
    """Raises NotReady, or, where checks will say it better, goes on."""
    deadline = time.monotonic() + seconds
    while not is_so():
        if time.monotonic() > deadline:
            if may_fail:
                return
            raise NotReady(f"{otherwise} after {seconds:g} s")
        _pass(stage, POLL_SECONDS, [])


def _keep(folder: Path) -> Path:
    """Logs, rows and files of a run that went wrong, for whoever looks into it."""
    kept = Path(tempfile.mkdtemp(prefix="espalier-chaos-kept-"))
    shutil.copytree(folder, kept, ignore_dangling_symlinks=True, dirs_exist_ok=True)
    return kept


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
