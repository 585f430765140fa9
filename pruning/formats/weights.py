"""Weights in: a safetensors file, read as data, into a module that is already there."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from pruning.formats.errors import FormatError

_NUM_LISTED = 10
"""Keys named in a message, of which there may be hundreds."""


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, memory-mapped.

    Raises:
        FormatError: the file is a pickle, or not a safetensors file, or a damaged one.
    """
    try:
        return safetensors.torch.load_file(path)
    except SafetensorError as error:
        _refuse_pickle(path)  # not before: the length that begins a good file may begin as a pickle does
        raise FormatError(
            "file", f"not a readable safetensors file ({error}); write it again and upload it whole"
        ) from error


def _refuse_pickle(path: Path) -> None:
    """A pickle runs code when it is loaded: refused by its first bytes, with the way to convert it."""
    with path.open("rb") as file:
        start = file.read(4)
    if start.startswith(b"PK\x03\x04") or start.startswith(b"\x80"):
        raise FormatError(
            "file",
            "this is a zip or a pickle, as torch.save writes them, which would run code when loaded; convert it where "
            "it comes from: safetensors.torch.save_file(model.state_dict(), path)",
        )


def load_into(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Copy `state` into the module's parameters and buffers; floating-point dtypes are converted.

    Raises:
        FormatError: keys are missing or unexpected, or a tensor has another shape, another kind of dtype, or values
            that are not finite. The module is then unchanged.
    """
    wanted = module.state_dict()
    _refuse("is missing", wanted.keys() - state.keys(), "the state_dict of this very architecture is needed")
    _refuse("is unexpected", state.keys() - wanted.keys(), "the state_dict of this very architecture is needed")
    other_shapes = [
        f"{key} {tuple(state[key].shape)} instead of {tuple(wanted[key].shape)}"
        for key in wanted
        if state[key].shape != wanted[key].shape
    ]
    _refuse("has another shape", other_shapes, "check input_shape and num_classes")
    for key, tensor in state.items():
        if tensor.is_floating_point() != wanted[key].is_floating_point() or tensor.is_complex():
            raise FormatError(key, f"has dtype {tensor.dtype} instead of {wanted[key].dtype}; convert it")
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor.float()).all()):
            raise FormatError(key, "holds NaN or infinity; save the weights of a training that did not diverge")
    module.load_state_dict(dict(state))


def _refuse(problem: str, found: Collection[str], remedy: str) -> None:
    if found:
        names = sorted(found)
        more = f" and {len(names) - _NUM_LISTED} more" if len(names) > _NUM_LISTED else ""
        raise FormatError("state_dict", f"{problem}: {', '.join(names[:_NUM_LISTED])}{more}; {remedy}")
