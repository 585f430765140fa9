"""Zips as torch writes them, which may lie."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any


@dataclass
class Member:
    """`told`: what the headers say where it is not the truth."""

    name: str
    content: bytes
    method: int = 0
    flags: int = 0
    told: dict[str, Any] | None = None


def pack(members: Iterable[Member], count: int | None = None) -> bytes:
    """A zip as torch writes them, with whatever lies the members tell."""
    body, directory, number = bytearray(), bytearray(), 0
    for member in members:
        told, name = member.told or {}, member.name.encode()
        content = member.content
        size, checksum = len(content), zlib.crc32(content)
        if member.method == 8:
            packer = zlib.compressobj(9, zlib.DEFLATED, -15)
            content = packer.compress(content) + packer.flush()
        local_name = told.get("local_name", name)
        local_size = told.get("local_size", size)
        offset = told.get("offset", len(body))
        header = struct.pack(
            "<4s5H3I2H", b"PK\3\4", 0, member.flags, member.method, 0, 0, checksum, len(content), local_size,
            len(local_name), 0,
        )  # fmt: skip
        body += header + local_name + content
        stated = told.get("size", size)
        packed = stated if member.method == 0 else len(content)
        directory += struct.pack(
            "<4s6H3I5H2I", b"PK\1\2", 0, 0, member.flags, member.method, 0, 0, checksum, packed, stated,
            len(name), 0, 0, 0, 0, 0, offset,
        )  # fmt: skip
        directory += name
        number += 1
    number = number if count is None else count
    large = struct.pack(
        "<4sQ2H2I4Q", b"PK\6\6", 44, 0, 0, 0, 0, number, number, len(directory), len(body)
    ) + struct.pack("<4sIQI", b"PK\6\7", 0, len(body) + len(directory), 1)
    small = min(number, 0xFFFF)
    return (
        bytes(body + directory)
        + large
        + struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, small, small, len(directory), len(body), 0)
    )
