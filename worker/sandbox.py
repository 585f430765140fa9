"""What a training process may touch: it runs a stranger's graph, so it is locked in before it reads any of it.

It locks itself, without privileges, the same as root and as nobody, after it has imported what it needs and before its
first input. Then it reads `in/` of its own folder and what Python and torch consist of, writes `out/`, and nothing
else: no other file, no socket, no other program or process, no signal to others, no way back. Set-up takes
milliseconds, a step costs what it did.

What stays possible: to learn by `stat` whether a path exists, to use up its own memory, time and threads, and to attack
the kernel through the system calls that are left (`seccomp.py`).

With CUDA more is open: the NVIDIA driver's devices and requests (all devices: that a process sees only its own is a
variable of its environment, and each guards its processes' memory from one another by itself), what the driver reads
about the machine, and files without a name in memory, which count as its folder's. This list was put together from what
others report of drivers up to 580; NONE OF IT HAS RUN ON A GPU YET. A worker tries its devices, locked in, before it
takes work (`Supervisor`), and says what failed.
"""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from worker import landlock, seccomp
from worker.landlock import Unsupported

SYSTEM = [
    *("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/etc/ld.so.cache"),
    *("/proc/cpuinfo", "/proc/meminfo", "/proc/stat", "/sys/devices/system/cpu", "/sys/devices/system/node"),
    *("/dev/urandom", "/dev/zero"),
]
"""Libraries, and what they ask about the machine."""
CUDA_SYSTEM = [
    *("/proc/driver/nvidia", "/proc/driver/nvidia-uvm", "/proc/devices", "/proc/modules", "/proc/sys/vm"),
    *("/sys/devices", "/sys/bus", "/sys/class", "/sys/module", "/etc/nvidia", "/usr/share/nvidia"),
]
"""What the CUDA driver asks about the machine and its devices."""
TEMPORARY = "tmp"
"""The folder in `out/` for temporary files."""
PROBE_SECONDS = 60

CAP_DAC_READ_SEARCH = 2
CAPABILITY_VERSION = 0x20080522


class SandboxMissing(Exception):
    """This machine cannot lock a training process in; the message says why and what to do."""


def limit(memory_bytes: int, file_bytes: int, cuda: bool = False) -> None:
    """Memory, the largest file, open files, no core dump. Out of memory is then an error of one job.

    Memory is all address space; with CUDA, which reserves far more than there is, only what is private and writable:
    memory that is shared with nobody (anonymous, MAP_SHARED) then passes uncounted.
    """
    for what, most in (
        (resource.RLIMIT_DATA if cuda else resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_FSIZE, file_bytes),
        (resource.RLIMIT_NOFILE, 1024 if cuda else 256),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(what, (most, most))


def lock(folder: Path, cuda: bool = False) -> None:
    """Lock this process in, for good. `folder` holds `in/` and `out/tmp/`.

    Args:
        cuda: leave the NVIDIA devices open to it. CUDA must not have been started: its threads would stay outside.

    Raises:
        Unsupported: the kernel cannot; nothing of a stranger's may be read then.
        RuntimeError: there is a second thread, which would stay outside.
    """
    num_threads = len(list(Path("/proc/self/task").iterdir()))
    if num_threads != 1:
        raise RuntimeError(f"{num_threads} threads run already; only the one that locks itself would be locked in")
    outputs = folder / "out"
    os.environ["TMPDIR"] = tempfile.tempdir = str(outputs / TEMPORARY)
    _drop_capabilities()
    seccomp.forbid_new_privileges()
    process = Path(f"/proc/{os.getpid()}")
    landlock.restrict(
        readable=[*runtime(), folder / "in", process, *(_cuda_readable(folder) if cuda else ())],
        writable=[outputs, Path("/dev/null")],
        # The driver names its threads by writing to task/<thread>/comm, and does not start where it cannot.
        devices=[*cuda_devices(), process / "task"] if cuda else [],
        abi=landlock.abi(),
    )
    seccomp.install(cuda)


def runtime() -> list[Path]:
    """What Python, torch and our own code consist of, for imports that come late.

    Never an entry of sys.path as such: that of a checkout holds the data directory beside the code.
    """
    prefixes = {sys.prefix, sys.exec_prefix, sys.base_prefix, sys.base_exec_prefix}
    libraries = [Path(prefix) / name for prefix in sorted(prefixes) for name in ("lib", "lib64")]
    packages = [Path(entry) for entry in sys.path if Path(entry).name in ("site-packages", "dist-packages")]
    specs = [spec for name in ("pruning", "worker") if (spec := find_spec(name)) and spec.origin]
    ours = [Path(str(spec.origin)).parent for spec in specs]
    return [*map(Path, SYSTEM), *libraries, *packages, *ours]


def cuda_devices() -> list[Path]:
    """Every file of the NVIDIA driver: /dev/nvidia0, nvidiactl, nvidia-uvm, nvidia-uvm-tools, nvidia-caps/, ..."""
    return sorted(Path("/dev").glob("nvidia*"))


def _cuda_readable(folder: Path) -> list[Path]:
    """The operator's LD_LIBRARY_PATH, which names the driver's libraries on some machines, is in `children.py`."""
    named = [Path(entry) for entry in os.environ.get("LD_LIBRARY_PATH", "").split(":")]
    return [
        *map(Path, CUDA_SYSTEM),
        *(path for path in named if path.is_absolute() and not folder.is_relative_to(path.resolve())),
    ]


def check(*private: Path) -> None:
    """Lock a short-lived process in and let it try the walls; no `private` folder may lie where it reads.

    Raises SandboxMissing.
    """
    if sys.platform != "linux":
        raise _missing(f"it needs Linux, this is {platform.system()}")
    with tempfile.TemporaryDirectory(prefix="espalier-") as name:
        probe = subprocess.run(
            [sys.executable, "-I", "-m", "worker.sandbox", name, *(str(folder.resolve()) for folder in private)],
            capture_output=True,
            text=True,
            timeout=PROBE_SECONDS,
        )
    if probe.returncode != 0:
        raise _missing(probe.stderr.strip().rpartition("\n")[2] or f"the probe ended with {probe.returncode}")


def _missing(reason: str) -> SandboxMissing:
    return SandboxMissing(
        f"training processes cannot be locked in on this machine: {reason}. A model from somebody else could then read "
        "and write whatever this user can. ESPALIER_SANDBOX=off runs without, for one's own models only"
    )


def _probe(root: Path, private: list[Path]) -> None:
    for readable in runtime():
        for inside in (folder for folder in private if folder.is_relative_to(readable.resolve())):
            raise Unsupported(f"{inside} lies in {readable}, which they must read: set ESPALIER_DATA_DIR elsewhere")
    folder, outside = root / "folder", root / "outside"
    outside.touch()
    (folder / "in").mkdir(parents=True)
    (folder / "out" / TEMPORARY).mkdir(parents=True)
    lock(folder)
    (folder / "out" / "file").write_text("written")
    attempts: dict[str, Callable[[], object]] = {
        "reading another file": outside.read_bytes,
        "writing another file": lambda: outside.write_bytes(b""),
        "writing its input": (folder / "in" / "file").touch,
        "opening a socket": socket.socket,
    }
    for what, attempt in attempts.items():
        try:
            attempt()
        except PermissionError:
            continue
        raise Unsupported(f"the lock does not hold: {what} succeeded")


def _drop_capabilities() -> None:
    """As root, be as anybody: except that it finds its way through folders of others (a service started by sudo)."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = ctypes.create_string_buffer(struct.pack("=Ii", CAPABILITY_VERSION, 0), 8)
    held = ctypes.create_string_buffer(24)  # (effective, permitted, inheritable), each of the two halves
    if libc.capget(header, held) == 0:
        effective, permitted = struct.unpack_from("=II", held)
        kept = 1 << CAP_DAC_READ_SEARCH
        if libc.capset(header, struct.pack("=6I", effective & kept, permitted & kept, 0, 0, 0, 0)) == 0:
            return
    raise Unsupported(f"capabilities cannot be dropped: {os.strerror(ctypes.get_errno())}")


if __name__ == "__main__":
    try:
        _probe(Path(sys.argv[1]), [Path(folder) for folder in sys.argv[2:]])
    except Unsupported as missing:
        sys.exit(str(missing))
