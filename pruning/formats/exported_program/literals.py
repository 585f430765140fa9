"""Sizes that an export has written into a program, after layers have become smaller.

`x.view(n, 400)` of 16 * 5 * 5 is exported with the number 400. Where fewer channels arrive, the number is wrong, and
what it should be can be told from the shapes before and after: 200 of 8 * 5 * 5. Sizes that the program computes
itself, and -1, come right on their own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import torch
from torch import Size

from pruning.formats.errors import FormatError
from pruning.formats.exported_program.program import Program, Step
from pruning.inputs import blank_inputs
from pruning.training import evaluating

_BATCH = 3
_RESHAPES = {torch.ops.aten.view.default, torch.ops.aten.reshape.default}
_EXPANDS = {torch.ops.aten.expand.default, torch.ops.aten.broadcast_to.default}


def fit_literals(program: Program, original: Program) -> None:
    """Make the sizes in `program`, whose layers are narrower than the `original`'s, fit. In place.

    Both are run once, in evaluation, on a batch of 3.

    Raises:
        FormatError: a step does not fit and cannot be made to; it names the line of the user's source.
    """
    shapes: list[tuple[Size, Size] | None] = []
    fitted: list[Step] = []

    def watch(_step: Step, call: Callable[..., Any], args: list[Any], kwargs: dict[str, Any]) -> Any:
        returned = call(*args, **kwargs)
        is_sized = call in _RESHAPES | _EXPANDS
        shapes.append((args[0].shape, returned.shape) if is_sized else None)
        return returned

    def fit(step: Step, call: Callable[..., Any], args: list[Any], kwargs: dict[str, Any]) -> Any:
        before = shapes[len(fitted)]
        if before is not None and args[0].shape != before[0]:
            written = _written(step, _wanted(step, call, *before, args[0].shape), before[1])
            step = dataclasses.replace(step, args=(step.args[0], written, *step.args[2:]))
            args[1] = [new if isinstance(new, int) else old for new, old in zip(written, args[1], strict=True)]
        fitted.append(step)
        try:
            return call(*args, **kwargs)
        except (RuntimeError, IndexError, ValueError) as error:
            raise _refusal(step, f"no longer fits ({str(error)[:200]})") from error

    x = blank_inputs(program, _BATCH, program.input_shape)
    with torch.no_grad(), evaluating(original), evaluating(program):
        original.run(x, watch)
        program.run(x, fit)
    program.replace_steps(fitted)


def _wanted(
    step: Step, call: Callable[..., Any], old_input: Sequence[int], old: Sequence[int], new_input: Sequence[int]
) -> list[int]:
    """What the step should give of the new input: as the old one did."""
    if call in _EXPANDS:
        kept = len(old) - len(old_input)
        pairs = zip(old_input, old[kept:], new_input, strict=True)
        return [*old[:kept], *(new if was == size else size for was, size, new in pairs)]
    wanted: list[int] = []
    for sizes, old_sizes, new_sizes in _matched(old_input, old, new_input):
        wide = [index for index, size in enumerate(sizes) if size != 1]
        if prod(old_sizes) != prod(new_sizes):
            if len(wide) > 1:
                raise _refusal(step, f"writes the sizes {tuple(sizes)}, where units were removed")
            sizes[wide[0] if wide else 0] = prod(new_sizes)
        wanted += sizes
    return wanted


def _matched(
    old_input: Sequence[int], old: Sequence[int], new_input: Sequence[int]
) -> list[tuple[list[int], list[int], list[int]]]:
    """(sizes given, of the old input, of the new) of each run of dimensions that a reshape makes of another run."""
    runs: list[tuple[list[int], list[int], list[int]]] = []
    source = 0
    for size in old:
        if runs and (prod(runs[-1][0]) != prod(runs[-1][1]) or (size == 1 and source == len(old_input))):
            runs[-1][0].append(size)
        else:
            runs.append(([size], [], []))
        while source < len(old_input) and prod(runs[-1][1]) < prod(runs[-1][0]):
            runs[-1][1].append(old_input[source])
            runs[-1][2].append(new_input[source])
            source += 1
    if runs:
        runs[-1][1].extend(old_input[source:])
        runs[-1][2].extend(new_input[source:])
    return runs


def _written(step: Step, wanted: list[int], old: Sequence[int]) -> list[Any]:
    """The step's sizes, those that are plain numbers and changed replaced."""
    sizes = step.args[1]
    return [
        new if isinstance(size, int) and size != -1 and new != was else size
        for size, new, was in zip(sizes, wanted, old, strict=True)
    ]


def _refusal(step: Step, what: str) -> FormatError:
    return FormatError(
        "program",
        f"{what} (in {step.place}); write sizes as x.size(d) or -1, or flatten with x.flatten(1), and export again",
    )
