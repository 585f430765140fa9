"""Does the network without its masked units compute what the masked one does?"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pruning.inputs import noise
from pruning.randomness import generator, global_stream
from pruning.training import evaluating


class RemovalError(ValueError):
    """Units that cannot be cut out of this network; the message says where it stops working."""


_BATCHES = (4, 6)
_EVALUATING, _TRAINING = 1e-5, 1e-2
"""Differences allowed, relative to the largest output, however small that is.

In training, batch-norm divides by the deviation of few examples, and magnifies rounding layer by layer.
"""
_LEAST_SCALE = 1e-30
"""Of outputs that are all zero nothing can be relative."""


def check_same(masked: nn.Module, reduced: nn.Module, input_shape: Sequence[int]) -> None:
    """
    Raises:
        RemovalError: the outputs differ by more than rounding.
    """
    for batch in _BATCHES:
        inputs = noise(masked, batch, input_shape, generator(0, "removal", batch))
        with evaluating(masked), evaluating(reduced), torch.no_grad():
            _compare(masked(inputs), _run(reduced, inputs), _EVALUATING, "evaluation")
        one, again, other = (copy.deepcopy(model).train() for model in (masked, masked, reduced))
        with torch.no_grad():
            outputs = []
            for number, model in enumerate((one, again)):
                with global_stream(number, "removal"):
                    outputs.append(model(inputs))
            with global_stream(0, "removal"):
                smaller = _run(other, inputs)
        draws = not torch.equal(*outputs)
        _compare(outputs[0], smaller, float("inf") if draws else _TRAINING, "training")


def _run(reduced: nn.Module, inputs: Tensor) -> Tensor:
    try:
        output: Tensor = reduced(inputs)
    except Exception as error:  # whatever the model's own operations raise
        raise RemovalError(
            f"without its masked units the model does not run ({error}); its forward pass must not write widths as "
            "numbers: use x.flatten(1), x.size(d) or -1"
        ) from error
    return output


def _compare(expected: Tensor, output: Tensor, tolerance: float, mode: str) -> None:
    if output.shape != expected.shape:
        shapes = f"{tuple(output.shape)} instead of {tuple(expected.shape)}"
        raise RemovalError(f"without its masked units the model gives outputs of the shape {shapes}, in {mode} mode")
    difference, scale = float((output - expected).abs().max()), max(_LEAST_SCALE, float(expected.abs().max()))
    if not difference <= tolerance * scale:  # not a number is no agreement
        raise RemovalError(f"without its masked units the model's outputs differ by {difference:.3g}, in {mode} mode")
