"""Landlock by hand: which files a process may open, and what it may do to others. Linux 5.13, no privilege needed.

What this kernel can restrict (its ABI) is restricted; what an older one cannot, `seccomp.py` refuses by system call:
ABI 1 lets nothing be moved between folders, 2 knows moves, 3 truncation, 4 TCP ports, 5 ioctl on devices, 6 signals and
abstract sockets. https://docs.kernel.org/userspace-api/landlock.html
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import struct
from collections.abc import Iterable
from enum import IntFlag
from pathlib import Path

CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
"""System calls: newer than the numbers' split, so the same on every architecture."""
RULE_PATH_BENEATH = 1
NETWORK = 0b11
"""Binding and connecting of TCP sockets."""
SCOPES = 0b11
"""Abstract unix sockets and signals to processes outside."""


class Access(IntFlag):
    EXECUTE = 1 << 0
    WRITE_FILE = 1 << 1
    READ_FILE = 1 << 2
    READ_DIR = 1 << 3
    REMOVE_DIR = 1 << 4
    REMOVE_FILE = 1 << 5
    MAKE_CHAR = 1 << 6
    MAKE_DIR = 1 << 7
    MAKE_REG = 1 << 8
    MAKE_SOCK = 1 << 9
    MAKE_FIFO = 1 << 10
    MAKE_BLOCK = 1 << 11
    MAKE_SYM = 1 << 12
    REFER = 1 << 13
    TRUNCATE = 1 << 14
    IOCTL_DEV = 1 << 15


READ = Access.READ_FILE | Access.READ_DIR
WRITE = READ | Access.WRITE_FILE | Access.TRUNCATE | Access.MAKE_REG | Access.REMOVE_FILE
"""Plain files in the folders that are there: no links, no devices, no folders (a deep tree is a weapon), no moves."""
DEVICE = READ | Access.WRITE_FILE | Access.TRUNCATE | Access.IOCTL_DEV
"""What is there already is read, written and spoken to, and nothing is made or removed."""
ON_FILES = Access.READ_FILE | Access.WRITE_FILE | Access.TRUNCATE | Access.IOCTL_DEV


class Unsupported(Exception):
    """This kernel cannot; the message says what it lacks."""


def abi() -> int:
    """1 and up. Raises Unsupported."""
    try:
        return _call(CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint(1))
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP:
            raise Unsupported("Landlock is switched off: add landlock to the kernel's lsm= parameter") from error
        raise Unsupported(
            f"Landlock is missing ({error.strerror}): it needs Linux 5.13 with CONFIG_SECURITY_LANDLOCK, and in a "
            "container a seccomp profile that lets it through"
        ) from error


def handled(abi: int) -> Access:
    """Every right over files that this ABI can take away: what is not granted is denied."""
    return Access((1 << {1: 13, 2: 14, 3: 15, 4: 15}.get(abi, 16)) - 1)


def restrict(readable: Iterable[Path], writable: Iterable[Path], devices: Iterable[Path], abi: int) -> None:
    """From here on this thread, and those that it starts, may open these files and folders alone.

    A path that does not exist is left out. `no_new_privs` must be set.
    """
    attributes = (handled(abi), NETWORK if abi >= 4 else 0, SCOPES if abi >= 6 else 0)
    known = attributes[: 1 if abi < 4 else 2 if abi < 6 else 3]
    packed = struct.pack(f"={len(known)}Q", *known)
    ruleset = _call(CREATE_RULESET, ctypes.c_char_p(packed), ctypes.c_size_t(len(packed)), ctypes.c_uint(0))
    try:
        for paths, access in ((readable, READ), (writable, WRITE), (devices, DEVICE)):
            for path in paths:
                _grant(ruleset, path, access & handled(abi))
        _call(RESTRICT_SELF, ctypes.c_int(ruleset), ctypes.c_uint(0))
    finally:
        os.close(ruleset)


def _grant(ruleset: int, path: Path, access: Access) -> None:
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return
    try:
        if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
            access &= ON_FILES
        rule = struct.pack("=Qi", access, descriptor)
        _call(ADD_RULE, ctypes.c_int(ruleset), ctypes.c_int(RULE_PATH_BENEATH), ctypes.c_char_p(rule), ctypes.c_uint(0))
    finally:
        os.close(descriptor)


def _call(number: int, *arguments: object) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    result: int = libc.syscall(ctypes.c_long(number), *arguments)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result
