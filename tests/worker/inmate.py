"""A hostile child: tries every way out that we know, and tells in JSON how each ended.

`python inmate.py FOLDER free|landlock|locked|cuda|x32 UID VICTIM ABI`: in the folder `in/upload` is a hard link to
a blob, beside the folder lies `secret`; VICTIM is a process of the same user; ABI is the Landlock version to make do
with (0: this kernel's). A way out is "blocked" where the lock's own errors stop it; any other end counts as open.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import mmap
import os
import platform
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from worker import landlock, sandbox, seccomp

BLOCKED = (errno.EPERM, errno.EACCES, errno.ENOSYS, errno.EXDEV)
"""The last is what Landlock answers to a link between folders; all of this lies on one file system."""
MEMORY_BYTES, FILE_BYTES = 2 << 30, 1 << 20
MAP_NORESERVE = 0x4000
X86 = platform.machine() == "x86_64"
libc = ctypes.CDLL(None, use_errno=True)


def call(x86: int, arm: int, *arguments: object) -> int:
    """A system call by its number. Raises OSError."""
    result: int = libc.syscall(ctypes.c_long(x86 if X86 else arm), *arguments)
    return checked(result)


def checked(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def in_a_fork(work: Callable[[], object]) -> None:
    """What would replace or harm this process; blocked where the fork is."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        finally:
            os._exit(0)
    os.waitpid(pid, 0)


def system() -> None:
    code = os.system("true")
    if code != 0:
        raise PermissionError(errno.EPERM, "no shell")


def read_memory(victim: int) -> None:
    Path(f"/proc/{victim}/mem").open("rb").close()


def peek(victim: int) -> None:
    buffer = ctypes.create_string_buffer(8)
    vector = (ctypes.c_uint64 * 2)(ctypes.addressof(buffer), 8)
    call(310, 270, victim, vector, 1, vector, 1, 0)


def attach(victim: int) -> None:
    checked(libc.ptrace(16, victim, None, None))
    os.waitpid(victim, 0)
    libc.ptrace(17, victim, None, None)


def be_signalled_for(victim: int) -> None:
    fcntl.fcntl(0, fcntl.F_SETOWN, victim)


def create(path: Path, flags: int) -> None:
    os.close(os.open(path, flags, 0o600))


def ways_out(folder: Path, victim: int) -> dict[str, Callable[[], object]]:
    upload, outputs, secret = folder / "in" / "upload", folder / "out", folder.parent / "secret"
    outside = folder.parent / "outside"
    return {
        # files
        "read /etc/passwd": Path("/etc/passwd").read_bytes,
        "read outside": secret.read_bytes,
        "read through /proc/self/root": Path(f"/proc/self/root{secret}").read_bytes,
        "read through ..": (outputs / ".." / ".." / "secret").read_bytes,
        "list outside": lambda: list(folder.parent.iterdir()),
        "write outside": lambda: secret.open("ab").close(),
        "create outside": outside.touch,
        "chmod its input": lambda: upload.chmod(0o666),
        "write its input": lambda: upload.open("r+b").close(),
        "truncate its input": lambda: os.truncate(upload, 0),
        "truncate its input on opening": lambda: create(upload, os.O_RDONLY | os.O_TRUNC),
        "truncate outside by access mode 3": lambda: create(secret, 3 | os.O_TRUNC),
        "touch its input": lambda: os.utime(upload, (0, 0)),
        "mark its input": lambda: os.setxattr(upload, "user.espalier", b"1"),
        "add an input": (folder / "in" / "new").touch,
        "link its input": lambda: os.link(upload, outputs / "linked"),
        "link outside": lambda: os.link(secret, outputs / "linked2"),
        "symlink": lambda: (outputs / "symlink").symlink_to(secret),
        "fifo": lambda: os.mkfifo(outputs / "fifo"),
        "folder": (outputs / "folder").mkdir,
        "nameless file": lambda: create(outputs, os.O_RDWR | getattr(os, "O_TMPFILE", 0)),
        "move its input": lambda: upload.rename(outputs / "moved"),
        "remove its inputs": (folder / "in" / "dataset").unlink,
        # network
        "inet socket": socket.socket,
        "unix socket": lambda: socket.socket(socket.AF_UNIX),
        "netlink socket": lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW),
        "socket pair": socket.socketpair,
        # processes
        "exec": lambda: in_a_fork(lambda: os.execv("/bin/true", ["true"])),
        "exec here": lambda: os.execv("/nonexistent", ["x"]),
        "os.system": system,
        "subprocess": lambda: subprocess.run(["/bin/true"]),
        "posix_spawn": lambda: os.waitpid(os.posix_spawn("/bin/true", ["true"], {}), 0),
        "fork": lambda: in_a_fork(lambda: None),
        "exec from memory": lambda: os.close(os.memfd_create("program")),
        "ptrace": lambda: attach(victim),
        "process_vm_readv": lambda: peek(victim),
        "kill": lambda: os.kill(victim, 0),
        "kill the parent": lambda: os.kill(os.getppid(), 0),
        "kill all": lambda: os.kill(-1, 0),
        "tgkill": lambda: call(234, 131, victim, victim, 0),
        "tkill": lambda: call(200, 130, victim, 0),
        "rt_sigqueueinfo": lambda: call(129, 138, victim, 0, ctypes.create_string_buffer(128)),
        "pidfd": lambda: os.close(os.pidfd_open(victim)),
        "own SIGIO": lambda: be_signalled_for(victim),
        "environment of another": Path(f"/proc/{victim}/environ").read_bytes,
        "environment of the parent": Path(f"/proc/{os.getppid()}/environ").read_bytes,
        "memory of another": lambda: read_memory(victim),
        "limit another": lambda: resource.prlimit(victim, resource.RLIMIT_NOFILE, (1000, 1000)),
        "raise its own limit": lambda: call(
            302, 261, 0, resource.RLIMIT_AS, (ctypes.c_uint64 * 2)(1 << 40, 1 << 40), 0
        ),
        "slow another": lambda: os.setpriority(os.PRIO_PROCESS, victim, 1),
        "move another": lambda: os.sched_setaffinity(victim, os.sched_getaffinity(0)),
        "shared memory": lambda: call(29, 194, 0, 4096, 0o1600),
        "outlive its parent": lambda: checked(libc.prctl(1, 0, 0, 0, 0)),
        "leave its session": os.setsid,
        # the kernel
        "io_uring": lambda: call(425, 425, 1, ctypes.create_string_buffer(120)),
        "bpf": lambda: call(321, 280, 0, ctypes.create_string_buffer(120), 120),
        "userfaultfd": lambda: call(323, 282, 1),
        "perf": lambda: call(298, 241, ctypes.create_string_buffer(b"\1\0\0\0\160", 120), 0, -1, -1, 0),
        "keys": lambda: call(248, 217, b"user", b"espalier", b"x", 1, -3),
        "mount": lambda: checked(libc.mount(b"none", b"/nonexistent", b"tmpfs", 0, None)),
        "unshare": lambda: in_a_fork(lambda: checked(libc.unshare(0x10000000))),
        "chroot": lambda: os.chroot("/nonexistent"),
        "setuid": lambda: os.setuid(os.getuid()),
        "clone3": lambda: call(435, 435, ctypes.create_string_buffer(8), 8),
    }


def attempt(way: Callable[[], object]) -> str:
    try:
        way()
    except OSError as error:
        return "blocked" if error.errno in BLOCKED else f"open: {error}"
    return "open"


def limits(outputs: Path) -> dict[str, str]:
    ends = {}
    try:
        mmap.mmap(-1, MEMORY_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        ends["memory"] = "open"
    except OSError as error:
        ends["memory"] = errno.errorcode[error.errno or 0]
    try:
        (outputs / "large").write_bytes(bytes(FILE_BYTES + 1))
        ends["file"] = "open"
    except OSError as error:
        ends["file"] = errno.errorcode[error.errno or 0]
    return ends


def everyday(folder: Path, cuda: bool) -> list[str]:
    """What a training process must be able to do."""
    done = []
    assert (folder / "in" / "upload").read_bytes() == b"content"
    (folder / "out" / "made").write_bytes(b"made")
    (folder / "out" / "made").rename(folder / "out" / "kept")
    with tempfile.TemporaryFile() as file, tempfile.NamedTemporaryFile() as named:
        file.write(b"x")
        assert Path(named.name).parent == folder / "out" / "tmp"
    thread = threading.Thread(target=lambda: done.append("thread"))
    thread.start()
    thread.join()
    caught: list[int] = []
    signal.signal(signal.SIGUSR1, lambda number, _frame: caught.append(number))
    signal.raise_signal(signal.SIGUSR1)
    assert caught
    if os.access(os.__file__, os.R_OK):  # not where the interpreter lies in a home that this user may not enter
        __import__("colorsys")
    assert resource.getrlimit(resource.RLIMIT_DATA if cuda else resource.RLIMIT_AS)[0] == MEMORY_BYTES
    if cuda:
        as_the_cuda_driver()
    try:
        landlock.abi()
    except landlock.Unsupported as error:
        done.append(str(error))
    return done


def ioctl_errno(descriptor: int, request: int, argument: object) -> int | None:
    try:
        fcntl.ioctl(descriptor, request, argument)
    except OSError as error:
        return error.errno
    return None


def as_the_cuda_driver() -> None:
    """What it is known to do when it starts, apart from its devices: fails with error 304 where one of these does."""
    mmap.mmap(-1, 1 << 40, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE, prot=0).close()
    descriptor = os.memfd_create("cuda")
    os.ftruncate(descriptor, 4096)
    mmap.mmap(descriptor, 4096).close()
    for opened in (descriptor, *os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK), os.eventfd(0)):
        os.close(opened)
    named: list[str] = []

    def be_named() -> None:
        Path(f"/proc/self/task/{threading.get_native_id()}/comm").write_text("cuda-EvtHandlr")
        named.append(Path(f"/proc/self/task/{threading.get_native_id()}/comm").read_text())

    thread = threading.Thread(target=be_named)
    thread.start()
    thread.join()
    assert named == ["cuda-EvtHandlr\n"]
    for path in map(Path, ("/proc/devices", "/proc/sys/vm/mmap_min_addr")):
        path.read_text()
    assert list(Path("/sys/devices/system").iterdir())
    unheard = ctypes.create_string_buffer(32)
    answers = [ioctl_errno(0, request, unheard) for request in (0xC0204600 | 0x2A, 0x30000001, 37)]
    # Of a pipe, which does not know them: the list of system calls lets the driver's requests through.
    assert answers == [errno.ENOTTY] * 3
    assert ioctl_errno(0, 0x8901, unheard) == errno.EPERM, "FIOSETOWN, which would send signals"
    os.sched_get_priority_max(os.SCHED_OTHER)


def become(uid: int) -> None:
    if uid != os.getuid():
        os.setgroups([])
        os.setgid(uid)
        os.setuid(uid)
        libc.prctl(4, 1, 0, 0, 0)  # PR_SET_DUMPABLE, which a change of user clears


def main(folder: Path, mode: str, uid: int, victim: int, abi: int) -> None:
    become(uid)
    libc.syscall.restype = ctypes.c_long
    result: dict[str, object] = {}
    if mode != "free":
        if abi:
            landlock.abi = lambda: abi
        if mode == "landlock":
            seccomp.install = lambda _cuda: None
        sandbox.limit(MEMORY_BYTES, FILE_BYTES, mode == "cuda")
        started = time.perf_counter()
        sandbox.lock(folder, mode == "cuda")
        result["lock_ms"] = 1000 * (time.perf_counter() - started)
        status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        result["status"] = {key: status[key].strip() for key in ("NoNewPrivs", "Seccomp", "CapEff", "CapPrm")}
    if mode == "x32":
        libc.syscall(ctypes.c_long(0x40000000 + 39))
    if mode in ("locked", "cuda"):
        landlock.abi = ABI
        result["limits"], result["everyday"] = limits(folder / "out"), everyday(folder, mode == "cuda")
    result["ways"] = {name: attempt(way) for name, way in ways_out(folder, victim).items()}
    print(json.dumps(result))


ABI = landlock.abi

if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], *map(int, sys.argv[3:6]))
