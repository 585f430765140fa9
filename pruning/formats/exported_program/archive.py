"""The archive: a zip of stored members under one folder, read by a parser that knows nothing else.

Not `zipfile`: that reads a directory of any size into memory, and takes much that torch never writes. One parser with
one reading of the file leaves nothing to be read differently elsewhere.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from io import BufferedReader
from itertools import pairwise
from pathlib import Path

from pruning.formats.errors import FormatError

MAX_MEMBERS = 20_000
MAX_DIRECTORY_BYTES = 8 << 20
MAX_NAME_BYTES = 512

_NAME = re.compile(r"[A-Za-z0-9_.\-]+(/[A-Za-z0-9_.\-]+)+")
_END = struct.Struct("<4sQ2H2I4Q4sIQI4s4H2IH")
"""The three closing records, which torch writes always: 64-bit end, its locator, end."""
_ENTRY = struct.Struct("<4s6H3I5H2I")
_LOCAL = struct.Struct("<4s5H3I2H")
_SIZES_FOLLOW = 1 << 3
"""The flag of a member whose local header leaves its sizes to a record behind it, as torch writes them."""
_ENCRYPTED = 1 << 0
_AGAIN = "save the program again with torch.export.save (torch 2.9 or later) and upload the file unchanged"


@dataclass(frozen=True)
class _Member:
    start: int
    size: int
    checksum: int


class Archive:
    """Members by their names without the top folder."""

    def __init__(self, file: BufferedReader) -> None:
        self._file = file
        self._members: dict[str, _Member] = {}
        top, taken = None, []
        for name, header, member in _directory(file):
            folder, _, rest = name.partition("/")
            top = top or folder
            if folder != top:
                raise FormatError("file", f"has two top folders, {top!r} and {folder!r}; {_AGAIN}")
            if rest in self._members:
                raise FormatError("file", f"has two members {name!r}; {_AGAIN}")
            self._members[rest] = member
            taken.append((header, member.start + member.size))
        self._refuse_overlap(sorted(taken))

    def _refuse_overlap(self, taken: list[tuple[int, int]]) -> None:
        if not taken or taken[0][0] != 0:
            raise FormatError("file", f"does not begin with its first member; {_AGAIN}")
        for (_, end), (start, _) in pairwise(taken):
            if start < end:
                raise FormatError("file", f"has members that overlap; {_AGAIN}")

    def __contains__(self, name: str) -> bool:
        return name in self._members

    def names(self) -> list[str]:
        return list(self._members)

    def size(self, name: str) -> int:
        return self._members[name].size

    def read(self, name: str, max_bytes: int | None = None) -> bytearray:
        """A member whole; a bytearray, so that tensors may use it without a copy."""
        member = self._members.get(name)
        if member is None:
            raise FormatError("file", f"has no member {name[:MAX_NAME_BYTES]!r}; {_AGAIN}")
        if max_bytes is not None and member.size > max_bytes:
            raise FormatError(name, f"has {member.size} bytes, more than {max_bytes}; export a smaller graph")
        content = bytearray(member.size)
        self._file.seek(member.start)
        if self._file.readinto(content) != member.size or zlib.crc32(content) != member.checksum:
            raise FormatError(name, f"is damaged (its checksum differs); {_AGAIN}")
        return content


def _directory(file: BufferedReader) -> Iterator[tuple[str, int, _Member]]:
    """(name, where its local header begins, where its bytes are) of every member."""
    file_size = file.seek(0, 2)
    if file_size < _END.size:
        raise FormatError("file", f"is too short for a .pt2 archive; {_AGAIN}")
    count, size, offset = _closing(file, file_size)
    file.seek(offset)
    directory = file.read(size)

    position = 0
    for _ in range(count):
        if position + _ENTRY.size > size:
            raise FormatError("file", f"has a damaged directory; {_AGAIN}")
        entry = _ENTRY.unpack_from(directory, position)
        signature, _, _, flags, method, _, _, checksum, packed, unpacked, name_bytes, extra, note = entry[:13]
        header = entry[16]
        position += _ENTRY.size
        name = _checked_name(directory[position : position + name_bytes])
        position += name_bytes + extra + note
        if signature != b"PK\x01\x02":
            raise FormatError("file", f"has a damaged directory; {_AGAIN}")
        if method != 0 or packed != unpacked or flags & _ENCRYPTED:
            raise FormatError("file", f"has a compressed or encrypted member {name!r}; {_AGAIN}")
        start = _data_start(file, name, header, unpacked, offset)
        yield name, header, _Member(start, unpacked, checksum)
    if position != size:
        raise FormatError("file", f"has a damaged directory; {_AGAIN}")


def _closing(file: BufferedReader, file_size: int) -> tuple[int, int, int]:
    """(number of members, bytes of the directory, where it begins). What is said twice must be said alike."""
    file.seek(-_END.size, 2)
    large, _, _, _, disk, disk_of, here, count, size, offset, where, disk_at, at, disks, *small = _END.unpack(
        file.read(_END.size)
    )
    agrees = small[3:] == [here, count, size, offset, 0]
    signatures = (large, where, small[0]) == (b"PK\x06\x06", b"PK\x06\x07", b"PK\x05\x06")
    one_disk = not any((disk, disk_of, disk_at, *small[1:3])) and disks == 1
    if not (signatures and agrees and one_disk and at == offset + size == file_size - _END.size):
        raise FormatError("file", f"is not a whole .pt2 archive of less than 4 GiB, as torch writes them; {_AGAIN}")
    if here != count or count > MAX_MEMBERS or size > MAX_DIRECTORY_BYTES:
        raise FormatError("file", f"has {count} members, more than {MAX_MEMBERS}; {_AGAIN}")
    return count, size, offset


def _checked_name(raw: bytes) -> str:
    name = raw.decode("latin-1")
    parts = name.split("/")
    if len(raw) > MAX_NAME_BYTES or not _NAME.fullmatch(name) or "." in parts or ".." in parts:
        raise FormatError("file", f"has a member of the name {name[:80]!r}; {_AGAIN}")
    return name


def _data_start(file: BufferedReader, name: str, header: int, size: int, end: int) -> int:
    """Where a member's bytes begin, once its own header agrees with the directory."""
    file.seek(header)
    raw = file.read(_LOCAL.size)
    if len(raw) < _LOCAL.size:
        raise FormatError("file", f"has a member {name!r} beyond its end; {_AGAIN}")
    signature, _, flags, method, _, _, _, packed, unpacked, name_bytes, extra = _LOCAL.unpack(raw)
    agrees = packed == unpacked == size or (flags & _SIZES_FOLLOW and packed == unpacked == 0)
    if signature != b"PK\x03\x04" or method != 0 or not agrees or file.read(name_bytes) != name.encode():
        raise FormatError("file", f"describes the member {name!r} in two ways; {_AGAIN}")
    start: int = header + _LOCAL.size + name_bytes + extra
    if start + size > end:
        raise FormatError("file", f"has a member {name!r} beyond its end; {_AGAIN}")
    return start


def find_model(archive: Archive) -> str:
    """The name of the archive's one model, which the names of its members carry.

    Raises:
        FormatError: it is another kind of archive, holds other than one model, or holds what could only be unpickled.
    """
    names = archive.names()
    if any(name.endswith("data.pkl") for name in names):
        what, besides = "TorchScript", ""
        if not any(name.startswith("code/") for name in names):
            what = "a pickled state dict or module"
            besides = ", or weights of a named architecture: safetensors.torch.save_file(model.state_dict(), path)"
        raise FormatError(
            "file",
            f"is {what}, which would run code when loaded; upload a program exported with torch.export.export and "
            f"saved with torch.export.save{besides}",
        )
    models = [name for name in names if name.startswith("models/") and name.endswith(".json")]
    if any(re.fullmatch(r"data/(weights|constants)/[^/]+\.pt", name) for name in names) or not models:
        raise FormatError("file", f"keeps its weights as pickles, or is no torch.export program; {_AGAIN}")
    if len(models) != 1:
        raise FormatError("file", f"holds {len(models)} programs; save exactly one")
    if any(name.startswith("data/aotinductor/") for name in names):
        raise FormatError("file", f"holds compiled code; {_AGAIN}")
    if "byteorder" in archive and archive.read("byteorder", max_bytes=16) != b"little":
        raise FormatError("file", "was written on a big-endian machine; save it on a little-endian one")
    return models[0].removeprefix("models/").removesuffix(".json")


def open_archive(path: Path) -> BufferedReader:
    """The file, if it begins as a zip does."""
    file = path.open("rb")
    if file.read(4) != b"PK\x03\x04":
        file.close()
        raise FormatError("file", f"is not a .pt2 archive; {_AGAIN}")
    return file
