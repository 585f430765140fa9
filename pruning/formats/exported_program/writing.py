"""A module to a `.pt2` file, by an export of our own: nothing of an upload reaches whoever downloads it."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram

from pruning.formats.exported_program.operators import RANDOM
from pruning.inputs import blank_inputs
from pruning.training import evaluating


def write_program(path: Path, module: nn.Module, input_shape: Sequence[int]) -> None:
    """The evaluation of `module`, for any batch size, as `torch.export.load` reads it."""
    _save(export_program(module, input_shape), path)


def export_program(module: nn.Module, input_shape: Sequence[int]) -> ExportedProgram:
    """The evaluation of `module`, for any batch size, without the lines of the source.

    Args:
        input_shape: of one example. A module's `input_dtype`, if it has one, is that of the examples.
    """
    example = blank_inputs(module, 2, input_shape)
    with evaluating(module), warnings.catch_warnings():
        # Recurrent layers renew the list of their own weights when they run, which torch remarks upon.
        warnings.filterwarnings("ignore", message="The tensor attributes .*_flat_weights")
        return _exported(module, example)


def write_trainable(path: Path, module: nn.Module, example: Tensor) -> Literal["training", "evaluation"]:
    """The module for training, with its own parameter names, as `read_program` reads it; it says what was recorded.

    The training mode is the more faithful one. A module that draws at random otherwise than by dropout, such as by
    stochastic depth, would have one draw baked in: of it the evaluation is recorded.

    Args:
        example: two or more of its inputs, (n, ...).
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = _exported(module.train(), example)
        draws = any(_draws_at_random(node) for node in program.graph.nodes)
        if draws:
            program = _exported(module.eval(), example)
    _save(program, path)
    return "evaluation" if draws else "training"


def _draws_at_random(node: fx.Node) -> bool:
    return str(node.target).removeprefix("aten.").split(".")[0] in RANDOM


def _exported(module: nn.Module, example: Tensor) -> ExportedProgram:
    """Without the lines of the source."""
    program = torch.export.export(module, (example,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)
    return program


def _save(program: ExportedProgram, path: Path) -> None:
    """Sample inputs are left out, and with them the only pickle that torch would write."""
    program._example_inputs = None
    torch.export.save(program, path)
