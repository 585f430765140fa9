"""Results out: weights, masks and sparse weights as safetensors. The same tensors give the same bytes.

Keys are the user's own, tied weights under every key. Metadata is one key at most: safetensors writes several in an
order that changes from run to run.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import prod
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
import zstandard
from safetensors import safe_open
from torch import Tensor

from pruning.masks import Masks
from pruning.rewinding import State

ZSTD_LEVEL = 3


def write_state(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Dense tensors, ready for `load_state_dict`."""
    safetensors.torch.save_file(_separate(tensors), path)


def write_masks(path: Path, masks: Mapping[str, Tensor]) -> None:
    """One bit a weight, the first weight in the lowest bit; shapes as JSON in the metadata key `shapes`."""
    shapes = json.dumps({key: list(mask.shape) for key, mask in masks.items()}, sort_keys=True)
    safetensors.torch.save_file({key: pack(mask) for key, mask in masks.items()}, path, metadata={"shapes": shapes})


def read_masks(path: Path) -> Masks:
    with safe_open(path, framework="pt") as file:
        shapes = json.loads(file.metadata()["shapes"])
        return {key: unpack(file.get_tensor(key), shape) for key, shape in shapes.items()}


def write_sparse(path: Path, state: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> None:
    """The kept weights alone, `<key>.compressed`, with `<key>.bitmask` and `<key>.shape`; other tensors whole; zstd."""
    tensors = {}
    for key, tensor in state.items():
        if key in masks:
            tensors[f"{key}.bitmask"] = pack(masks[key])
            tensors[f"{key}.compressed"] = tensor[masks[key]]
            tensors[f"{key}.shape"] = torch.tensor(tensor.shape, dtype=torch.int64)
        else:
            tensors[key] = tensor
    content = safetensors.torch.save(_separate(tensors))
    path.write_bytes(zstandard.ZstdCompressor(level=ZSTD_LEVEL).compress(content))


def read_sparse(path: Path) -> State:
    """The dense state that `write_sparse` was given, its pruned weights zero."""
    tensors = safetensors.torch.load(zstandard.ZstdDecompressor().decompress(path.read_bytes()))
    state = {}
    for key, tensor in tensors.items():
        name, _, part = key.rpartition(".")
        if f"{name}.bitmask" not in tensors or part not in ("bitmask", "compressed", "shape"):
            state[key] = tensor
        elif part == "compressed":
            mask = unpack(tensors[f"{name}.bitmask"], tensors[f"{name}.shape"].tolist())
            state[name] = torch.zeros(mask.shape, dtype=tensor.dtype).masked_scatter_(mask, tensor)
    return state


def pack(mask: Tensor) -> Tensor:
    """(...) bool -> (ceil(n / 8),) uint8."""
    return torch.from_numpy(np.packbits(mask.flatten().numpy(), bitorder="little"))


def unpack(bits: Tensor, shape: list[int]) -> Tensor:
    unpacked = np.unpackbits(bits.numpy(), count=prod(shape), bitorder="little")
    return torch.from_numpy(unpacked.astype(np.bool_)).view(shape)


def _separate(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Safetensors refuses tensors that share memory, as tied weights do."""
    return {key: tensor.detach().clone(memory_format=torch.contiguous_format) for key, tensor in tensors.items()}
