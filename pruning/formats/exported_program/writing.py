"""A module to a `.pt2` file, by an export of our own: nothing of an upload reaches whoever downloads it."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn
from torch.export import ExportedProgram

from pruning.inputs import blank_inputs
from pruning.training import evaluating


def write_program(path: Path, module: nn.Module, input_shape: Sequence[int]) -> None:
    """The evaluation of `module`, for any batch size, as `torch.export.load` reads it.

    Sample inputs are left out, and with them the only pickle that torch would write.
    """
    program = export_program(module, input_shape)
    program._example_inputs = None
    torch.export.save(program, path)


def export_program(module: nn.Module, input_shape: Sequence[int]) -> ExportedProgram:
    """The evaluation of `module`, for any batch size, without the lines of the source.

    Args:
        input_shape: of one example. A module's `input_dtype`, if it has one, is that of the examples.
    """
    example = blank_inputs(module, 2, input_shape)
    with evaluating(module), warnings.catch_warnings():
        # Recurrent layers renew the list of their own weights when they run, which torch remarks upon.
        warnings.filterwarnings("ignore", message="The tensor attributes .*_flat_weights")
        program = torch.export.export(module, (example,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)
    return program
