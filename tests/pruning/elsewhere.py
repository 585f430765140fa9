"""A second device on a machine that has none: its tensors hold CPU tensors, compute on the CPU, and refuse to mix.

Torch has no device to spare on a CPU build, so theirs is called "meta", which the autograd engine accepts. Unlike meta
tensors they have values: what runs here must give the CPU's own bits, or it moved something wrongly; and where it would
mix devices, which CUDA refuses, this refuses, too.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.optim import adam, optimizer, sgd
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

ELSEWHERE = torch.device("meta")
aten = torch.ops.aten


class MixedDevices(RuntimeError):
    pass


class Elsewhere(Tensor):
    @staticmethod
    def __new__(cls, held: Tensor) -> Elsewhere:
        made = Tensor._make_wrapper_subclass(
            cls, held.size(), strides=held.stride(), dtype=held.dtype, device=ELSEWHERE, requires_grad=False
        )
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class _Mode(TorchDispatchMode):
    """For what makes a tensor there out of none that is there: factories and moves."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    tensors = [value for value in tree_flatten((args, kwargs))[0] if isinstance(value, Tensor)]
    there = [tensor for tensor in tensors if isinstance(tensor, Elsewhere)]
    here = [tensor for tensor in tensors if not isinstance(tensor, Elsewhere) and tensor.dim() > 0]
    moves = func in (aten._to_copy.default, aten.copy_.default)
    if there and here and not moves:
        raise MixedDevices(f"{func} of tensors here {[t.shape for t in here]} and there {[t.shape for t in there]}")
    device = kwargs.get("device")
    goes_there = device == ELSEWHERE if device is not None else bool(there)
    if func is aten.copy_.default:
        goes_there = isinstance(args[0], Elsewhere)
    if device == ELSEWHERE:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    known = {id(tensor.held): tensor for tensor in there}
    made = func(*tree_map(_held, args), **tree_map(_held, kwargs))

    def placed(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        if not goes_there:
            return value
        return known[id(value)] if id(value) in known else Elsewhere(value)

    return tree_map(placed, made)


def _held(value: Any) -> Any:
    return value.held if isinstance(value, Elsewhere) else value


@contextmanager
def another_device() -> Iterator[torch.device]:
    """Tensors can be moved to and made on the device that it yields."""
    asked = optimizer._get_fused_kernels_supported_devices
    modules = [module for module in (optimizer, adam, sgd) if hasattr(module, asked.__name__)]
    try:
        for module in modules:
            setattr(module, asked.__name__, lambda: [*asked(), ELSEWHERE.type])
        with _Mode():
            yield ELSEWHERE
    finally:
        for module in modules:
            setattr(module, asked.__name__, asked)
