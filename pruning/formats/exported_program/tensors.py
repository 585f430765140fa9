"""Stored tensors: raw bytes, a shape and strides over them. What does not lie within its bytes is refused."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from pruning.formats.errors import FormatError
from pruning.formats.exported_program.archive import Archive
from pruning.formats.exported_program.schema import Payload, Payloads, Size, parse

DTYPES = {
    1: torch.uint8,
    2: torch.int8,
    3: torch.int16,
    4: torch.int32,
    5: torch.int64,
    6: torch.float16,
    7: torch.float32,
    8: torch.float64,
    12: torch.bool,
    13: torch.bfloat16,
}
STRIDED = 7

_Layout = tuple[str, tuple[int, ...], tuple[int, ...], int, int]


@dataclass(frozen=True)
class StoredTensor:
    """`keys`: all names under which this very tensor is stored; several where weights are tied."""

    tensor: Tensor
    requires_grad: bool
    is_parameter: bool
    keys: tuple[str, ...]


def read_tensors(archive: Archive, model: str, kind: str) -> dict[str, StoredTensor]:
    """`kind`: weights (what the state dict holds) or constants (non-persistent buffers, and tensors in the code)."""
    payloads = parse(archive, f"data/{kind}/{model}_{kind}_config.json", Payloads).config
    layouts = {key: _layout(key, payload) for key, payload in payloads.items()}
    keys: dict[_Layout, list[str]] = {}
    for key, layout in layouts.items():
        keys.setdefault(layout, []).append(key)

    stored = {}
    for layout, names in keys.items():
        tensor = _read(archive, f"data/{kind}/{layout[0]}", names[0], layout)
        for name in names:
            payload = payloads[name]
            assert payload.tensor_meta is not None
            requires_grad = payload.tensor_meta.requires_grad and tensor.is_floating_point()
            stored[name] = StoredTensor(tensor, requires_grad, payload.is_param, tuple(names))
    return {key: stored[key] for key in payloads}


def _layout(key: str, payload: Payload) -> _Layout:
    meta = payload.tensor_meta
    if payload.use_pickle or meta is None:
        raise FormatError(key, "is stored as a pickle; store plain tensors (no tensor subclasses, no script objects)")
    if meta.dtype not in DTYPES or meta.layout != STRIDED:
        raise FormatError(key, "has a dtype or layout that is not supported; convert it to a dense real tensor")
    sizes, strides = (tuple(_plain(key, size) for size in part) for part in (meta.sizes, meta.strides))
    if len(sizes) != len(strides):
        raise FormatError(key, "has not as many strides as sizes; export the program again")
    return payload.path_name, sizes, strides, _plain(key, meta.storage_offset), meta.dtype


def _plain(key: str, size: Size) -> int:
    if size.as_int is None:
        raise FormatError(key, "has a shape that is not fixed; store tensors of fixed shapes")
    return size.as_int


def _read(archive: Archive, member: str, key: str, layout: _Layout) -> Tensor:
    _, sizes, strides, offset, number = layout
    dtype, num_elements = DTYPES[number], prod(sizes)
    if num_elements == 0:
        return torch.empty(sizes, dtype=dtype) if max(sizes) < 1 << 31 else _refuse_shape(key, sizes)
    num_stored = archive.size(member) // dtype.itemsize if member in archive else 0
    last = offset + sum((size - 1) * stride for size, stride in zip(sizes, strides, strict=True))
    # More elements than are stored is an expanded tensor: four bytes could ask for any amount of memory.
    if last >= num_stored or num_elements > num_stored:
        return _refuse_shape(key, sizes)
    content = archive.read(member)
    flat = torch.frombuffer(content, dtype=dtype, count=num_stored)
    if dtype is torch.bool and int(flat.view(torch.uint8).max()) > 1:
        raise FormatError(key, "holds bytes that are no booleans; export the program again")
    return torch.as_strided(flat, sizes, strides, offset).clone()


def _refuse_shape(key: str, sizes: tuple[int, ...]) -> Tensor:
    raise FormatError(
        key, f"has the shape {str(sizes)[:100]}, which is not what its bytes hold; call .contiguous() on it and export"
    )
