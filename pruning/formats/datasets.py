"""Data in: one file of named splits, `train.inputs`, `train.targets`, and optionally `validation.*` and `test.*`."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
import safetensors.torch
import torch
from numpy.lib import format as npy
from safetensors import SafetensorError
from torch import Tensor

from pruning.data import Dataset, Split, Task
from pruning.formats.errors import FormatError
from pruning.formats.targets import read_targets

SPLITS = ("train", "validation", "test")
INPUT_DTYPES = (torch.uint8, torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int32, torch.int64)
MAX_NPZ_BYTES = 8 << 30

_DAMAGED = (zipfile.BadZipFile, zlib.error, NotImplementedError, EOFError, OSError, RuntimeError, ValueError)
"""What zipfile and numpy raise on a damaged or encrypted archive."""


def read_dataset(path: Path, format: Literal["npz", "safetensors"], max_npz_bytes: int = MAX_NPZ_BYTES) -> Dataset:
    """Read and check a dataset; a safetensors file stays memory-mapped. float64 inputs become float32, int32 int64.

    What targets may be is `pruning.formats.targets`; what they are decides the dataset's task.

    Args:
        max_npz_bytes: the most that the arrays of an npz file may take, uncompressed.

    Raises:
        FormatError: naming the key at fault and the remedy.
    """
    tensors = _read_npz(path, max_npz_bytes) if format == "npz" else _read_safetensors(path)
    _check_keys(tensors)
    splits = {name: _read_split(name, tensors) for name in SPLITS if f"{name}.inputs" in tensors}
    _check_alike(splits)
    dataset = Dataset(splits["train"], splits.get("validation"), splits.get("test"), None)
    return replace(dataset, num_classes=_num_classes(dataset.task, splits))


def _check_alike(splits: Mapping[str, Split]) -> None:
    train = splits["train"]
    for name, split in splits.items():
        if split.inputs.shape[1:] != train.inputs.shape[1:]:
            raise FormatError(
                f"{name}.inputs",
                f"examples have shape {tuple(split.inputs.shape[1:])}, those of train {tuple(train.inputs.shape[1:])}; "
                "give all splits one shape",
            )
        if split.inputs.dtype != train.inputs.dtype:
            raise FormatError(
                f"{name}.inputs",
                f"has dtype {split.inputs.dtype}, train {train.inputs.dtype}; give all splits one dtype",
            )
        if split.targets.dtype != train.targets.dtype or split.targets.shape[1:] != train.targets.shape[1:]:
            raise FormatError(
                f"{name}.targets",
                f"is {split.targets.dtype} of shape {tuple(split.targets.shape[1:])} an example, train "
                f"{train.targets.dtype} of {tuple(train.targets.shape[1:])}; give all splits one kind of targets",
            )


def _num_classes(task: Task, splits: Mapping[str, Split]) -> int | None:
    train = splits["train"].targets
    if task == "regression":
        return None
    if task == "multi_label":
        return train.shape[1]
    if task == "tokens":
        return max(int(split.targets.max()) for split in splits.values()) + 1
    num_classes = int(train.max()) + 1
    for name, split in splits.items():
        if int(split.targets.max()) >= num_classes:
            raise FormatError(
                f"{name}.targets",
                f"has label {int(split.targets.max())}, but the labels of train end at {num_classes - 1}; "
                "train must have every class",
            )
    return num_classes


def _check_keys(tensors: Mapping[str, Tensor]) -> None:
    allowed = [f"{split}.{part}" for split in SPLITS for part in ("inputs", "targets")]
    for key in tensors:
        if key not in allowed:
            raise FormatError(key, f"is not a key of a dataset; leave it out, the keys are {', '.join(allowed)}")
    for split in SPLITS:
        parts = [key for key in allowed if key.startswith(f"{split}.") and key in tensors]
        if len(parts) == 1 or (split == "train" and not parts):
            missing = next(key for key in allowed if key.startswith(f"{split}.") and key not in parts)
            raise FormatError(missing, "is missing; every split has inputs and targets, and train must be there")


def _read_split(name: str, tensors: Mapping[str, Tensor]) -> Split:
    inputs, targets = tensors[f"{name}.inputs"], tensors[f"{name}.targets"]
    if inputs.dtype == torch.float64:
        inputs = inputs.float()  # before the check: what is too large for it becomes infinity
    if inputs.dtype == torch.int32:
        inputs = inputs.long()
    _check_inputs(f"{name}.inputs", inputs)
    return Split(inputs, read_targets(f"{name}.targets", targets, inputs))


def _check_inputs(key: str, inputs: Tensor) -> None:
    if inputs.dtype not in INPUT_DTYPES:
        raise FormatError(key, f"has dtype {inputs.dtype}; convert it to uint8 or float32, tokens to int64")
    if inputs.dim() < 2 or inputs.numel() == 0:
        raise FormatError(
            key, f"has shape {tuple(inputs.shape)}; give (examples, ...), at least one example, none empty"
        )
    if inputs.is_floating_point():
        for first, part in zip(range(0, len(inputs), 1024), torch.split(inputs, 1024), strict=True):
            finite = torch.isfinite(part).flatten(1).all(1)
            if not bool(finite.all()):
                example = first + int((~finite).nonzero()[0])
                raise FormatError(key, f"example {example} holds NaN or infinity; repair it or leave it out")


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load_file(path)
    except SafetensorError as error:
        raise FormatError(
            "file", f"not a readable safetensors file ({error}); write it again and upload it whole"
        ) from error


def _read_npz(path: Path, max_bytes: int) -> dict[str, Tensor]:
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            total = sum(member.file_size for member in members)
            if total > max_bytes:
                raise FormatError("file", f"takes {total} bytes uncompressed, more than {max_bytes}; use safetensors")
            return {
                member.filename.removesuffix(".npy"): torch.from_numpy(_read_npy(archive, member)) for member in members
            }
    except FormatError:
        raise
    except _DAMAGED as error:
        raise FormatError("file", f"not a readable npz file ({error}); write it again with numpy.savez") from error


def _read_npy(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray[Any, Any]:
    key = member.filename.removesuffix(".npy")
    with archive.open(member) as file:
        dtype, num_bytes = _read_header(key, file)
        if dtype.hasobject:
            raise FormatError(key, "is an array of Python objects; convert it to numbers of one shape and dtype")
        if dtype.kind not in "buif":
            raise FormatError(key, f"has dtype {dtype}; convert it to uint8 or float32, labels to int64")
        # The header alone decides how much memory numpy takes before it reads a byte.
        if file.tell() + num_bytes != member.file_size:
            raise FormatError(key, "is cut off or says a false shape; write it again with numpy.savez")
    with archive.open(member) as file:
        array = npy.read_array(file, allow_pickle=False)
    return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))


def _read_header(key: str, file: IO[bytes]) -> tuple[np.dtype[Any], int]:
    """(dtype, bytes of the data) of an npy stream, whose position is then where the data begin."""
    try:
        read = npy.read_array_header_1_0 if npy.read_magic(file) == (1, 0) else npy.read_array_header_2_0
        shape, _, dtype = read(file)
    except Exception as error:  # numpy parses the header as Python source and lets all of the parser's errors through
        raise FormatError(key, f"is not an array ({error}); write it with numpy.savez") from error
    return dtype, dtype.itemsize * prod(shape)
