"""A module is called as it is, before torch.export sees it: what fails here fails in the user's own words and line.

Called evaluating, without gradients, at two batch sizes; what it draws at random leaves the caller's generator alone.
"""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from espalier.errors import ExportError

if TYPE_CHECKING:
    from torch import Tensor, nn

_OURS = ("exporting.py", "trying.py")


@contextmanager
def in_mode(module: nn.Module, training: bool) -> Iterator[None]:
    """Each part's own mode comes back."""
    modes = [(part, part.training) for part in module.modules()]
    module.train(training)
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode


@contextmanager
def taking_one_tensor(module: nn.Module, name: str | None, constants: Mapping[str, Any]) -> Iterator[None]:
    """Inside, `module(x)` calls it with x as argument `name` (None: the first) beside the constants, and gives logits.

    The module itself and not a wrapper around it, so that parameters keep their names.
    """
    forward = module.forward

    def called(x: Tensor) -> Any:
        output = forward(x, **constants) if name is None else forward(**{name: x}, **constants)
        return logits_of(output)

    had = "forward" in vars(module)
    module.forward = called
    try:
        yield
    finally:
        if had:
            module.forward = forward
        else:
            del module.forward


def logits_of(output: Any) -> Any:
    """The one tensor of an output that names it, as those of transformers and torchvision do; else the output."""
    import torch

    named = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    return named if isinstance(named, torch.Tensor) else output


def check_forward(module: nn.Module, name: str | None, constants: Mapping[str, Any]) -> None:
    """
    Raises:
        ExportError: the forward cannot be called with one tensor.
    """
    try:
        signature = inspect.signature(module.forward)
    except (TypeError, ValueError):  # of a compiled module: torch.export says what it thinks of it
        return
    first = next(iter(signature.parameters.values()), None)
    try:
        signature.bind(*([None] if name is None else []), **{**({name: None} if name else {}), **constants})
    except TypeError:
        first = None
    if first is None or first.kind is first.VAR_POSITIONAL:
        raise ExportError(
            f"{type(module).__name__}.forward takes {signature}; the service calls it with one tensor: wrap it in a "
            "module of forward(self, x), other arguments with defaults, or give their values along: "
            "export_model(module, {'x': x, 'flag': False}, path)"
        )


def try_out(module: nn.Module, inputs: Tensor) -> None:
    """At the batch of the example, and at one more.

    Raises:
        ExportError: it fails, works for one batch size alone, or returns other than one tensor of logits.
    """
    import torch

    with in_mode(module, False), torch.no_grad(), torch.random.fork_rng(devices=[]):
        for batch in (inputs, torch.cat([inputs, inputs[:1]])):
            try:
                output = module(batch.clone())
            except Exception as error:  # whatever the module raises
                raise _failed(module, batch, error, is_example=batch is inputs) from error
            _check_output(output, batch)


def _failed(module: nn.Module, batch: Tensor, error: Exception, is_example: bool) -> ExportError:
    what = f"{place_of(error)}: {type(error).__name__}: {first_line(error)}"
    if is_example:
        return ExportError(
            f"{type(module).__name__} itself fails on example_inputs of shape {tuple(batch.shape)}, {batch.dtype}{what}"
        )
    return ExportError(
        f"the module only works for the batch size of the example: it fails on a batch of {len(batch)}{what}; use "
        "x.shape[0] instead of a number or of len(x), as in x.view(x.shape[0], -1) or x.flatten(1)"
    )


def _check_output(output: Any, batch: Tensor) -> None:
    import torch

    if not isinstance(output, torch.Tensor):
        raise ExportError(
            f"the module returns {_described(output)}; the service trains on one tensor of logits: return that alone, "
            "or name it `logits` in the dict or named tuple"
        )
    tokens = not batch.is_floating_point()
    if not output.is_floating_point():
        raise ExportError(f"the module returns {output.dtype}; return the logits, before argmax, in float32")
    if output.dim() == 1 and len(output) == len(batch):
        raise ExportError(f"the module returns shape {tuple(output.shape)}; leave the last dimension: no squeeze(-1)")
    if output.dim() not in ((2, 3) if tokens else (2,)) or len(output) != len(batch):
        also = ", or (batch, length, vocabulary)" if tokens else ""
        raise ExportError(
            f"the module returns shape {tuple(output.shape)} for a batch of {len(batch)}; the service trains on "
            f"logits of shape (batch, classes){also}"
        )


def _described(output: Any) -> str:
    """Types and sizes, not values."""
    import torch

    if isinstance(output, torch.Tensor):
        return f"a tensor {tuple(output.shape)}"
    if isinstance(output, Mapping):
        return f"a {type(output).__name__} of {', '.join(map(str, list(output)[:5]))}"
    if isinstance(output, (tuple, list)):
        return f"a {type(output).__name__} of {len(output)} ({', '.join(map(_described, output[:3]))})"
    return f"a {type(output).__name__}"


def first_line(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), "")[:300]


def place_of(error: Exception) -> str:
    """The innermost of the user's own lines that an error came through; "" where there is none."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if is_own(frame.filename)]
    return f" (in {own[-1].filename}, line {own[-1].lineno})" if own else ""


def is_own(filename: str) -> bool:
    """Neither torch's nor this package's."""
    parts = PurePath(filename).parts
    return "torch" not in parts and parts[-2:] not in [("espalier", name) for name in _OURS]
