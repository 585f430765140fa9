"""A child that is locked in gets nowhere, by any way that we know, as root and as nobody; and trains as ever."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trainee
from fleet import SMALL, Fleet

from chaos.processes import descendants_of
from worker import landlock, sandbox, seccomp
from worker.children import ENVIRONMENT
from worker.folder import Folder
from worker.limits import OverLimit

NOBODY = 65534
USERS = sorted({os.getuid(), NOBODY}) if os.getuid() == 0 else [os.getuid()]
HERE = Path(__file__).parent
FILES = {
    *("read /etc/passwd", "read outside", "read through /proc/self/root", "read through ..", "list outside"),
    *("write outside", "create outside", "chmod its input", "link its input", "link outside", "symlink", "fifo"),
    *("folder", "touch its input", "truncate its input", "remove its inputs", "move its input"),
}
FREE = FILES | {
    *("inet socket", "unix socket", "socket pair"),
    *("exec", "os.system", "subprocess", "posix_spawn", "fork", "kill", "tgkill", "environment of another"),
    *("outlive its parent", "limit another"),
}
"""What a child can do that is not locked in, on any kernel and as anybody: the tests below try real ways out."""


@pytest.fixture(scope="module", autouse=True)
def _kernel() -> None:
    try:
        sandbox.check(Path("/nonexistent"))
    except sandbox.SandboxMissing as error:
        pytest.skip(str(error))


class Cell:
    """A folder of an attempt as the supervisor makes it, in a place that nobody may enter, and a process to attack."""

    def __init__(self, root: Path, uid: int) -> None:
        self.root, self.uid, self.folder = root, uid, root / "attempt"
        (root / "blob").write_bytes(b"content")
        (root / "blob").chmod(0o444)
        (root / "secret").write_bytes(b"secret")
        (self.folder / "in").mkdir(parents=True)
        (self.folder / "out" / sandbox.TEMPORARY).mkdir(parents=True)
        (self.folder / "in" / "upload").hardlink_to(root / "blob")
        (self.folder / "in" / "dataset").write_bytes(trainee.dataset())
        for path in (root, *root.rglob("*")):
            os.chown(path, uid, -1)
        root.chmod(0o755)
        self.victim = subprocess.Popen(["/bin/sleep", "300"], env={"SECRET": "1"}, user=uid, group=uid, extra_groups=[])

    def run(self, program: str, *arguments: object) -> subprocess.CompletedProcess[str]:
        start = f"import sys; sys.path.append({str(HERE)!r}); sys.argv[0] = {program!r}; import runpy; "
        return subprocess.run(
            [sys.executable, "-I", "-c", start + f"runpy.run_module({program!r}, run_name='__main__')"]
            + [str(argument) for argument in (self.folder, *arguments)],
            stdin=subprocess.PIPE,
            capture_output=True,
            text=True,
            env=ENVIRONMENT,
            cwd="/",
        )

    def ways(self, mode: str, abi: int = 0) -> dict[str, Any]:
        done = self.run("inmate", mode, self.uid, self.victim.pid, abi)
        assert done.returncode == 0, done.stderr
        return dict(json.loads(done.stdout))


@pytest.fixture(params=USERS, ids=[f"uid{uid}" for uid in USERS])
def cell(request: pytest.FixtureRequest) -> Iterator[Cell]:
    root = Path(tempfile.mkdtemp(prefix="espalier-cell-"))
    cell = Cell(root, request.param)
    yield cell
    cell.victim.kill()
    cell.victim.wait()
    shutil.rmtree(root)


def test_the_ways_out_are_real(cell: Cell) -> None:
    ways = cell.ways("free")["ways"]
    assert {name for name in FREE if ways[name] != "open"} == set()


@pytest.mark.parametrize("abi", [0, 1, 2, 3, 4, 5, 6])
def test_every_way_out_is_blocked(cell: Cell, abi: int) -> None:
    """Also where Landlock is older: what it does not see, the list of system calls refuses."""
    if abi > landlock.abi():
        pytest.skip(f"this kernel's Landlock ends at ABI {landlock.abi()}")
    found = cell.ways("locked", abi)
    print(f"uid {cell.uid}, Landlock ABI {abi or landlock.abi()}: locked in {found['lock_ms']:.1f} ms")
    assert {name: end for name, end in found["ways"].items() if end != "blocked"} == {}
    assert found["limits"] == {"memory": "ENOMEM", "file": "EFBIG"}
    assert found["everyday"][0] == "thread"
    assert "Landlock is missing" in found["everyday"][1], "seen from inside, there is none"
    kept = f"{1 << sandbox.CAP_DAC_READ_SEARCH if cell.uid == 0 else 0:016x}"
    assert found["status"] == {"NoNewPrivs": "1", "Seccomp": "2", "CapEff": kept, "CapPrm": kept}

    blob = cell.root / "blob"
    assert (blob.read_bytes(), blob.stat().st_mode & 0o777, blob.stat().st_nlink) == (b"content", 0o444, 2)
    assert blob.stat().st_mtime > 0
    assert (cell.root / "secret").read_bytes() == b"secret"
    assert {path.name for path in cell.root.iterdir()} == {"blob", "secret", "attempt"}
    assert {path.name for path in (cell.folder / "in").iterdir()} == {"upload", "dataset"}
    assert {path.name for path in (cell.folder / "out").iterdir()} == {"kept", "large", "tmp"}
    assert cell.victim.poll() is None


@pytest.mark.parametrize("abi", [0, 1, 4])
def test_with_cuda_what_its_driver_needs_is_open_and_nothing_else(cell: Cell, abi: int) -> None:
    """Without any device: the driver's other needs, and that all other walls stand as they did."""
    if abi > landlock.abi():
        pytest.skip(f"this kernel's Landlock ends at ABI {landlock.abi()}")
    found = cell.ways("cuda", abi)
    assert {name: end for name, end in found["ways"].items() if end != "blocked"} == {"exec from memory": "open"}
    assert found["limits"] == {"memory": "ENOMEM", "file": "EFBIG"}
    assert found["everyday"][0] == "thread"
    assert (cell.root / "blob").read_bytes() == b"content"
    assert {path.name for path in cell.root.iterdir()} == {"blob", "secret", "attempt"}


def test_landlock_alone_guards_files_and_other_processes(cell: Cell) -> None:
    """Two walls, each proved by itself."""
    ways = cell.ways("landlock")["ways"]
    guarded = FILES - {"chmod its input", "touch its input"}
    if landlock.abi() < 3:
        guarded -= {"truncate its input"}
    processes = {"environment of another"} | ({"kill", "tgkill"} if landlock.abi() >= 6 else set())
    assert {name for name in guarded | processes if ways[name] != "blocked"} == set()


@pytest.mark.skipif(platform.machine() != "x86_64", reason="only x86_64 has a second set of numbers")
def test_the_other_set_of_numbers_is_fatal(cell: Cell) -> None:
    assert cell.run("inmate", "x32", cell.uid, cell.victim.pid, 0).returncode == -31  # SIGSYS


@pytest.mark.parametrize("threads", [1, 2])
def test_training_gives_the_same_numbers_inside(cell: Cell, threads: int) -> None:
    done = cell.run("trainee", "free,locked,cuda", cell.uid, threads)
    assert done.returncode == 0, done.stderr
    ends = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(ends) == 3
    print(f"uid {cell.uid}: with torch imported, locked in {ends[1]['lock_ms']:.1f} ms")
    assert ends[0]["digest"] == ends[1]["digest"] == ends[2]["digest"]


def test_no_second_thread_is_left_outside() -> None:
    program = (
        "import threading, pathlib; from worker import sandbox; "
        "threading.Thread(target=threading.Event().wait, daemon=True).start(); "
        "sandbox.lock(pathlib.Path('/nonexistent'))"
    )
    done = subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, text=True)
    assert "2 threads run already" in done.stderr


def test_what_they_may_read_holds_no_data() -> None:
    with pytest.raises(sandbox.SandboxMissing, match=r"set ESPALIER_DATA_DIR elsewhere.*ESPALIER_SANDBOX=off"):
        sandbox.check(Path(sysconfig.get_paths()["stdlib"]) / "var")
    checkout = Path(sandbox.__file__).parent.parent
    assert not any((checkout / "var").is_relative_to(path) for path in sandbox.runtime())


def test_an_architecture_without_a_list_is_refused() -> None:
    with pytest.raises(landlock.Unsupported, match="riscv64"):
        seccomp._program("riscv64")
    for machine in seccomp.ARCHITECTURES:
        assert sum(map(len, seccomp._program(machine, cuda=True))) < 4096, "the kernel's limit"


def test_a_kernel_without_landlock_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for code, words in ((38, "Linux 5.13"), (95, "lsm=")):

        def refuse(*_arguments: object, code: int = code) -> int:
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr(landlock, "_call", refuse)
        with pytest.raises(landlock.Unsupported, match=words):
            landlock.abi()


def test_a_job_runs_to_its_end_locked_in(fleet: Fleet) -> None:
    assert fleet.settings.sandbox == "on"
    worker = fleet.start("worker")
    model, dataset = fleet.ready(fleet.add_model()), fleet.ready(fleet.add_dataset())
    recipe = {**SMALL, "stop": {"rounds": 1}, "training": {**SMALL["training"], "steps": 1500}}
    job = fleet.submit(model, dataset, recipe)
    fleet.wait(lambda: fleet._fetch(job), lambda now: now.progress is not None)
    statuses = [Path(f"/proc/{child}/status").read_text() for child in descendants_of(worker.pid)]
    assert sum("Seccomp:\t2" in status for status in statuses) == 1, "the one at work; the nursery waits"
    assert fleet.finished(job).conclusion == "passed"


def test_the_operator_may_go_without(fleet: Fleet) -> None:
    fleet.settings = fleet.settings.model_copy(update={"sandbox": "off"})
    fleet.start("worker")
    assert fleet.ready(fleet.add_model()).status == "ready"


def test_a_worker_that_cannot_lock_in_does_not_start(fleet: Fleet) -> None:
    """Its data would lie where training processes may read: among the libraries."""
    inside = Path(sys.prefix) / "lib" / "espalier-test"
    fleet.settings.data_dir.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "ESPALIER_DATA_DIR": str(inside), "ESPALIER_BROKER_URL": fleet.settings.broker_url}
    try:
        inside.mkdir()
        done = subprocess.run(
            [sys.executable, "-m", "celery", "-A", "worker.tasks", "worker", "--pool", "threads"],
            env=environment,
            cwd=fleet.settings.data_dir,
            capture_output=True,
            text=True,
            timeout=60,
        )
    finally:
        shutil.rmtree(inside)
    assert done.returncode == 1
    assert "ESPALIER_SANDBOX=off" in done.stderr


def test_too_many_files_end_an_attempt(tmp_path: Path) -> None:
    with Folder(tmp_path / "attempt", 1 << 20) as folder:
        for number in range(1001):
            (folder.outputs / str(number)).touch()
        with pytest.raises(OverLimit, match="more than 1000 files"):
            folder.size_bytes()
