"""Which system calls a training process may make: a list of what it needs, nothing else.

Written as a BPF program by hand, because no package on PyPI brings one: `pyseccomp` is a binding to a libseccomp.so.2
that a fresh machine need not have, and pip cannot install it. A filter of this kind is one page and two prctl calls.

A list of what is allowed, and not of what is forbidden, is right about the system calls of next year, too. What is not
allowed fails with EPERM; from 424 on, where libc asks whether a call exists and has an older one to fall back to
(clone3, openat2, ...), with ENOSYS. The numbers come from the kernel's own headers (asm/unistd_64.h,
asm-generic/unistd.h).
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from typing import NamedTuple

from worker.landlock import Unsupported

# fmt: off
CALLS: dict[str, tuple[int | None, int | None]] = {
    # files that are open, or that Landlock lets it open
    "read": (0, 63), "write": (1, 64), "readv": (19, 65), "writev": (20, 66), "pread64": (17, 67),
    "pwrite64": (18, 68), "preadv": (295, 69), "pwritev": (296, 70), "lseek": (8, 62), "close": (3, 57),
    "fstat": (5, 80), "newfstatat": (262, 79), "statx": (332, 291), "stat": (4, None), "lstat": (6, None),
    "access": (21, None), "faccessat": (269, 48), "readlink": (89, None), "readlinkat": (267, 78),
    "getdents64": (217, 61), "getcwd": (79, 17), "dup": (32, 23), "dup2": (33, None), "dup3": (292, 24),
    "poll": (7, None), "ppoll": (271, 73), "select": (23, None), "pselect6": (270, 72), "fsync": (74, 82),
    "fdatasync": (75, 83), "ftruncate": (77, 46), "fadvise64": (221, 223), "statfs": (137, 43), "fstatfs": (138, 44),
    "rename": (82, None), "renameat": (264, 38), "renameat2": (316, 276), "unlink": (87, None), "unlinkat": (263, 35),
    # memory
    "brk": (12, 214), "mmap": (9, 222), "munmap": (11, 215), "mprotect": (10, 226), "mremap": (25, 216),
    "madvise": (28, 233), "msync": (26, 227), "membarrier": (324, 283),
    # its own threads, and signals to itself
    "futex": (202, 98), "set_robust_list": (273, 99), "rseq": (334, 293), "exit": (60, 93), "exit_group": (231, 94),
    "gettid": (186, 178), "getpid": (39, 172), "getppid": (110, 173), "set_tid_address": (218, 96),
    "sched_yield": (24, 124), "sched_getaffinity": (204, 123), "getcpu": (309, 168), "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139), "rt_sigsuspend": (130, 133), "rt_sigtimedwait": (128, 137),
    "rt_sigpending": (127, 136), "sigaltstack": (131, 132), "restart_syscall": (219, 128), "arch_prctl": (158, None),
    # time, and who and where it is
    "clock_gettime": (228, 113), "clock_getres": (229, 114), "clock_nanosleep": (230, 115), "nanosleep": (35, 101),
    "gettimeofday": (96, 169), "time": (201, None), "times": (100, 153), "getuid": (102, 174), "geteuid": (107, 175),
    "getgid": (104, 176), "getegid": (108, 177), "getgroups": (115, 158), "uname": (63, 160), "sysinfo": (99, 179),
    "getrusage": (98, 165), "getrlimit": (97, 163), "getrandom": (318, 278),
    # under the conditions of `_conditions`
    "open": (2, None), "openat": (257, 56), "fcntl": (72, 25), "ioctl": (16, 29), "clone": (56, 220),
    "prctl": (157, 167), "prlimit64": (302, 261), "tgkill": (234, 131),
}
CUDA_CALLS: dict[str, tuple[int | None, int | None]] = {
    # its start fails without memfd_create; the rest is events between its threads, and questions
    "memfd_create": (319, 279), "eventfd2": (290, 19), "pipe2": (293, 59), "get_mempolicy": (239, 236),
    "sched_getparam": (143, 121), "sched_getscheduler": (145, 120), "sched_get_priority_max": (146, 125),
    "sched_get_priority_min": (147, 126),
}
# fmt: on
"""By name: the number on x86_64 and on aarch64; None where there is none. The second, for the CUDA driver on top."""

ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
"""By machine: the column of CALLS, and AUDIT_ARCH_*."""
X32_BIT = 0x40000000
"""x86_64 has a second set of numbers for 32-bit pointers, which would pass beside the list."""
PROBED_FROM = 424

PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
PR_SET_NAME, PR_GET_NAME, PR_SET_VMA = 15, 16, 0x53564D41
CLONE_THREAD = 0x10000
CLONE_NEW_ANYTHING = 0x7E020080
ACCESS_MODE, O_TMPFILE = 0b11, 0o20000000
TCGETS, TIOCGWINSZ, FIONCLEX, FIOCLEX = 0x5401, 0x5413, 0x5450, 0x5451
IOCTLS = (TCGETS, TIOCGWINSZ, FIONCLEX, FIOCLEX)
IOCTL_TYPE, NVIDIA, NVIDIA_UVM, TERMINAL = 0xFF00, ord("F") << 8, 0, ord("T") << 8
"""The second lowest byte of a request says whose it is; the unified memory driver numbers its own from 0."""
F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_DUPFD_CLOEXEC = 0, 1, 2, 3, 4, 1030

LOAD, EQUAL, AT_LEAST, AND, RETURN = 0x20, 0x15, 0x35, 0x54, 0x06
ALLOW, KILL, ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
NUMBER_AT, ARCHITECTURE_AT, ARGUMENTS_AT = 0, 4, 16
EVERY_BIT = 0xFFFFFFFF


class Where(NamedTuple):
    """`words[word] & mask` is one of `values`; words are the six arguments' 32-bit halves, the lower one first."""

    word: int
    mask: int
    values: tuple[int, ...]


class Instruction(NamedTuple):
    code: int
    if_true: int
    if_false: int
    operand: int


def install(cuda: bool = False) -> None:
    """Filter this thread's system calls, and those of the threads that it starts, for good.

    Args:
        cuda: allow what the CUDA driver needs as well. Sockets are not among it: it tries some, and takes the error.
    """
    program = [instruction for block in _program(platform.machine(), cuda) for instruction in block]
    packed = b"".join(struct.pack("=HBBI", *instruction) for instruction in program)
    buffer = ctypes.create_string_buffer(packed, len(packed))

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p))

    described = Program(len(program), ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(described), 0, 0) != 0:
        reason = os.strerror(ctypes.get_errno())
        raise Unsupported(f"seccomp filters are missing ({reason}): Linux with CONFIG_SECCOMP_FILTER has them")


def forbid_new_privileges() -> None:
    """What both Landlock and seccomp ask of a process without privileges."""
    if ctypes.CDLL(None).prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise Unsupported("no_new_privs is missing: it needs Linux 3.5")


def _conditions(cuda: bool) -> dict[str, list[Where]]:
    # Before ABI 3 Landlock does not see truncation, and access mode 3 passes as neither reading nor writing; a file of
    # O_TMPFILE would have no name to be found by.
    requests = (IOCTL_TYPE, (NVIDIA, NVIDIA_UVM, TERMINAL)) if cuda else (EVERY_BIT, IOCTLS)
    writes = [mode | truncate for mode in (os.O_WRONLY, os.O_RDWR) for truncate in (0, os.O_TRUNC)]
    flags = (ACCESS_MODE | os.O_TRUNC | O_TMPFILE, (os.O_RDONLY, *writes))
    return {
        "open": [Where(2, *flags)],
        "openat": [Where(4, *flags)],
        # Neither F_SETOWN, which sends signals, nor leases and locks, which keep others waiting.
        "fcntl": [Where(2, EVERY_BIT, (F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_DUPFD_CLOEXEC))],
        "ioctl": [Where(2, *requests)],
        "clone": [Where(0, CLONE_THREAD | CLONE_NEW_ANYTHING, (CLONE_THREAD,))],
        # Not PR_SET_PDEATHSIG: it dies with its parent.
        "prctl": [Where(0, EVERY_BIT, (PR_SET_NAME, PR_GET_NAME, PR_SET_VMA))],
        # The pointer to new limits is null: they are read, never set.
        "prlimit64": [Where(4, EVERY_BIT, (0,)), Where(5, EVERY_BIT, (0,))],
        "tgkill": [Where(0, EVERY_BIT, (os.getpid(),))],
    }


def _program(machine: str, cuda: bool = False) -> list[list[Instruction]]:
    if machine not in ARCHITECTURES:
        raise Unsupported(f"no list of system calls for {machine}: {' and '.join(ARCHITECTURES)} have one")
    column, architecture = ARCHITECTURES[machine]
    conditions = _conditions(cuda)
    return [
        [
            Instruction(LOAD, 0, 0, ARCHITECTURE_AT),
            Instruction(EQUAL, 1, 0, architecture),
            Instruction(RETURN, 0, 0, KILL),
            Instruction(LOAD, 0, 0, NUMBER_AT),
            Instruction(AT_LEAST, 0, 1, X32_BIT),
            Instruction(RETURN, 0, 0, KILL),
        ],
        *(
            _allow(number, conditions.get(name, []))
            for name, numbers in (CALLS | (CUDA_CALLS if cuda else {})).items()
            if (number := numbers[column]) is not None
        ),
        [
            Instruction(AT_LEAST, 0, 1, PROBED_FROM),
            Instruction(RETURN, 0, 0, ERRNO | errno.ENOSYS),
            Instruction(RETURN, 0, 0, ERRNO | errno.EPERM),
        ],
    ]


def _allow(number: int, conditions: list[Where]) -> list[Instruction]:
    """If it is this call: allow it where all conditions hold, else refuse it."""
    checks = [instruction for where in conditions for instruction in _check(where)]
    body = [*checks, Instruction(RETURN, 0, 0, ALLOW)]
    return [Instruction(EQUAL, 0, len(body), number), *body]


def _check(where: Where) -> list[Instruction]:
    """Falls through where it holds; an EQUAL jumps over the other values and the refusal."""
    count = len(where.values)
    return [
        Instruction(LOAD, 0, 0, ARGUMENTS_AT + 4 * where.word),
        Instruction(AND, 0, 0, where.mask),
        *(Instruction(EQUAL, count - index, 0, value) for index, value in enumerate(where.values)),
        Instruction(RETURN, 0, 0, ERRNO | errno.EPERM),
    ]
