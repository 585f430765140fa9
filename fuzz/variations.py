"""A variation of a file, made inside its structure. Pure: the same seed makes the same."""

from __future__ import annotations

import copy
import io
import json
import random
import zipfile
from collections.abc import Callable
from typing import Any

from fuzz.zips import Member, pack

Bytewise = Callable[[bytes], bytes]
"""What varies bytes that have no structure we know."""

CODE = "__import__('os').system('true')"
"""Seen by the watch, wherever it runs."""

OPERATORS = """
    view.default permute.default mul.Tensor add.Tensor convolution.default linear.default embedding.default slice.Tensor
    select.int expand.default cat.default lstm.input batch_norm.default max_pool2d.default reshape.default
    flatten.using_ints sym_size.int zeros.default scaled_dot_product_attention.default layer_norm.default
    matmul.default mean.dim
"""
NUMBERS = [0, 1, -1, 2, 3, 7, 63, 64, 255, 1 << 16, 1 << 31, -(1 << 31), 1 << 40, (1 << 63) - 1, 1 << 63, 1 << 64]
TEXTS = [CODE, f"a); {CODE}; (", f"a={CODE}", f"a.{CODE}", "NaN", "Infinity", "", "x", "../x", "a.b", "0", "data"]
VALUES: list[Any] = [
    *(None, True, False, 0.5, -0.0, 1e308, [], {}, [[]], [0], [0] * 9, [1 << 40, 1 << 40]),
    *NUMBERS,
    *TEXTS,
    *({"as_int": number} for number in NUMBERS),
    *({"as_none": True}, {"as_float": 1e308}, {"as_ints": [0, 0]}, {"as_ints": [1 << 31]}, {"as_string": CODE}),
    *(f"torch.ops.aten.{name}" for name in OPERATORS.split()),
    "_operator.mul",
]
DTYPES = [
    "|u1",
    "<i8",
    ">i8",
    "<f8",
    "<f4",
    "<f2",
    "|b1",
    "|O",
    "<U9",
    "|V8",
    "<c8",
    "<M8[s]",
    "U8",
    "F32",
    "BF16",
    "I64",
    "F4",
    "BOOL",
]


def vary(data: bytes, seed: int, bytewise: Bytewise) -> bytes:
    """One file to another: a zip, npz or `.pt2` inside its members, a safetensors file inside its header."""
    chance = random.Random(seed)  # noqa: S311
    if chance.random() < 0.04:
        return bytewise(data)
    try:
        if data.startswith(b"PK"):
            return _vary_zip(data, chance, bytewise)
        return _vary_safetensors(data, chance, bytewise)
    except Exception:  # whatever a zip or a header raises that an earlier variation has broken
        return bytewise(data)


def _vary_zip(data: bytes, chance: random.Random, bytewise: Bytewise) -> bytes:
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        members = [Member(info.filename, file.read(info), info.compress_type) for info in file.infolist()]
    structured = [member for member in members if member.name.endswith(".json")]
    if structured and chance.random() < 0.9:
        (member,) = chance.choices(structured, [len(member.content) for member in structured])
    else:
        member = chance.choice(members)
    draw = chance.random()
    if draw < 0.84:
        member.content = _vary_member(member.name, member.content, chance, bytewise)
    elif draw < 0.86:
        members.remove(member)
    elif draw < 0.88:
        member.name = chance.choice(members).name
    elif draw < 0.90:
        member.name = bytewise(member.name.encode()).decode(errors="replace") or "x"
    elif draw < 0.92:
        member.method = zipfile.ZIP_STORED if member.method else zipfile.ZIP_DEFLATED
    elif draw < 0.94:
        member.content = chance.choice(members).content
    else:
        size = len(member.content)
        lies: list[dict[str, Any]] = [{"local_name": b"other"}, {"offset": 0}, {"offset": (1 << 32) - 1}]
        lies += [{place: told} for place in ("size", "local_size") for told in (0, 1, size + 1, (1 << 32) - 1)]
        member.told = chance.choice(lies)
    return pack(members)


def _vary_member(name: str, content: bytes, chance: random.Random, bytewise: Bytewise) -> bytes:
    if name.endswith(".json"):
        return json.dumps(vary_json(json.loads(content), chance)).encode()
    if content.startswith(b"\x93NUMPY"):
        length = int.from_bytes(content[8:10], "little")
        header = _vary_npy_header(content[10 : 10 + length].decode("latin-1"), chance, bytewise)
        told = len(header) if chance.random() < 0.95 else chance.randrange(1 << 16)
        return content[:8] + min(told, 0xFFFF).to_bytes(2, "little") + header + content[10 + length :]
    return bytewise(content)


def _vary_npy_header(header: str, chance: random.Random, bytewise: Bytewise) -> bytes:
    draw = chance.random()
    if draw < 0.3:
        header = header.replace("'descr': '", f"'descr': '{chance.choice(DTYPES)}", 1)
    elif draw < 0.6:
        number = str(chance.choice(NUMBERS))
        digits = [at for at, letter in enumerate(header) if letter.isdigit()]
        at = chance.choice(digits)
        header = header[:at] + number + header[at + 1 :]
    elif draw < 0.8:
        header = header.replace("False", chance.choice(["True", "None", "1", "[]", "'" * 9]))
    else:
        return bytewise(header.encode("latin-1"))
    return header.encode("latin-1")


def _vary_safetensors(data: bytes, chance: random.Random, bytewise: Bytewise) -> bytes:
    length = int.from_bytes(data[:8], "little")
    header, content = json.loads(data[8 : 8 + length]), data[8 + length :]
    draw = chance.random()
    if draw < 0.8:
        header = vary_json(header, chance)
    elif draw < 0.9:
        content = bytewise(content)
    elif draw < 0.95:
        length += chance.choice([-8, -1, 1, 8, 1 << 20, 1 << 62])
        return (length % (1 << 64)).to_bytes(8, "little") + data[8:]
    else:
        for told in header.values():
            if isinstance(told, dict) and "dtype" in told and chance.random() < 0.5:
                told["dtype"] = chance.choice(DTYPES)
    packed = json.dumps(header).encode()
    packed += b" " * (-len(packed) % 8)
    return len(packed).to_bytes(8, "little") + packed + content


def vary_json(value: Any, chance: random.Random) -> Any:
    """The value with one to three of its places changed: another's content, a strange one, gone, or twice."""
    for _ in range(chance.choice([1, 1, 1, 2, 3])):
        places = list(_places(value))
        if not places:
            return chance.choice(VALUES)
        inside, key = chance.choice(places)
        draw = chance.random()
        if draw < 0.45:
            inside[key] = copy.deepcopy(chance.choice(VALUES))
        elif draw < 0.75:
            other, name = chance.choice(places)
            inside[key] = copy.deepcopy(other[name])
        elif draw < 0.85:
            del inside[key]
        elif draw < 0.95 and isinstance(inside, list):
            inside.insert(key, copy.deepcopy(inside[key]))
        elif isinstance(inside, dict):
            other, name = chance.choice(places)
            inside[str(other[name])[:64]] = copy.deepcopy(inside[key])
    return value


def _places(value: Any) -> list[tuple[Any, Any]]:
    """(container, key) of everything inside, at any depth."""
    found, waiting = [], [value]
    while waiting:
        inside = waiting.pop()
        keys = list(inside) if isinstance(inside, dict) else range(len(inside)) if isinstance(inside, list) else ()
        for key in keys:
            found.append((inside, key))
            waiting.append(inside[key])
    return found
