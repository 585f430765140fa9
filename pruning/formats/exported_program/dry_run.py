"""Run the shapes alone: everything that does not fit is found before any memory is used or any number computed."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from pruning.formats.errors import FormatError
from pruning.formats.exported_program.program import Program, Step

BATCH = 3
MAX_ELEMENTS = 1 << 28
"""Of any one value at a batch of 3."""


def dry_run(program: Program) -> None:
    """
    Raises:
        FormatError: a call does not fit its inputs, is too large, or the output is not (batch, ...).
    """
    x = torch.empty(BATCH, *program.input_shape, dtype=program.input_dtype, device="meta")
    _check_size([x], "its input")
    with torch.no_grad():
        output = _without_memory(program).run(x, _watched)
    if not isinstance(output, Tensor) or output.dim() == 0 or len(output) != BATCH:
        raise FormatError("program", "does not return one row an example; return (batch, classes) logits")


def _without_memory(program: Program) -> Program:
    """A copy whose tensors have shapes and no content. Deep copy takes what is in its memo for copied."""
    memo: dict[int, Any] = {}
    for parameter in program.parameters():
        memo[id(parameter)] = nn.Parameter(parameter.detach().to("meta"), requires_grad=parameter.requires_grad)
    for buffer in program.buffers():
        memo[id(buffer)] = buffer.to("meta")
    return copy.deepcopy(program, memo)


_LIKE: dict[Callable[..., Any], Callable[..., Any]] = {torch.ops.aten.view.default: torch.ops.aten.reshape.default}
"""Whether a view is possible hangs on how attention and recurrent layers lay their outputs out in memory, which they do
otherwise without memory. Shapes alone are looked at here; the smoke test runs the view itself."""


def _watched(step: Step, call: Callable[..., Any], args: list[Any], kwargs: dict[str, Any]) -> Any:
    try:
        shaped = _LIKE.get(call, call)
        returned = _one_step_of(call, *args) if isinstance(call, nn.RNNBase) else shaped(*args, **kwargs)
    except Exception as error:  # whatever torch's operators raise on what does not fit
        raise FormatError(
            "program", f"does not run: {str(error)[:400]} (in {step.place}); export a module that runs"
        ) from error
    _check_size(returned if isinstance(returned, (list, tuple)) else [returned], step.place)
    return returned


def _one_step_of(layer: nn.RNNBase, x: Tensor, state: Any) -> Any:
    """A recurrent layer for one step of its sequence, which checks the same shapes; its outputs stand for all."""
    if x.dim() != 3:
        raise ValueError(f"a recurrent layer takes (batch, steps, features), not {tuple(x.shape)}")
    time = 1 if layer.batch_first else 0
    outputs, state = layer(x.narrow(time, 0, 1), state)
    sizes = list(outputs.shape)
    sizes[time] = x.shape[time]
    return outputs.expand(sizes), state


def _check_size(values: Any, place: str) -> None:
    for value in values:
        if isinstance(value, (list, tuple)):
            _check_size(value, place)
        elif isinstance(value, Tensor) and value.numel() > MAX_ELEMENTS:
            raise FormatError(
                "program",
                f"makes a tensor of the shape {tuple(value.shape)} for {BATCH} examples (in {place}), of more than "
                f"{MAX_ELEMENTS} elements; use a smaller model or smaller examples",
            )
        elif isinstance(value, int) and abs(value) >= 1 << 62:
            raise FormatError("program", f"computes a size beyond 64 bits (in {place}); export it again")
