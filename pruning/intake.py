"""What a model is made of and whether it works: looked at once, when it comes in."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from pruning.formats.errors import FormatError
from pruning.graph import UntraceableError, find_layers, output_layers, trace_with_shapes
from pruning.randomness import generator, global_stream
from pruning.training import evaluating
from pruning.unit_flow import find_units


def inspect_model(module: nn.Module, input_shape: Sequence[int]) -> dict[str, Any]:
    """A JSON-able report; `pruning.schedules.layer_sizes` makes of it what the loop prunes.

    The module is left as it is.

    Args:
        input_shape: of one example.

    Returns:
        num_parameters (prunable weights), num_parameters_total (with biases and all), num_prunable (layers), layers,
        output_layer (a path), num_outputs. A layer has name, type, shape (of its weight), num_weights, num_units,
        prunable (the granularities), reason (why not by every one, else None), is_output, and group: the layer under
        whose name its units are pruned and counted, None where they are not prunable.

    Raises:
        FormatError: the model cannot be followed as a graph, or fails the smoke test.
    """
    module = copy.deepcopy(module)
    example = torch.randn(2, *input_shape, generator=generator(0, "smoke test"))
    try:
        graph_module = trace_with_shapes(module, example)
        found = find_layers(module, graph_module)
        groups, reasons = find_units(module, example)
    except UntraceableError as error:
        raise FormatError("model", str(error)) from error
    if not found:
        raise FormatError("model", "has no linear or convolution layer whose weights could be pruned")

    group_of = {layer: group.name for group in groups for layer in group.layers}
    layers = []
    for layer in found:
        weight = layer.module.weight
        prunable = [] if layer.is_tied else ["weight"]
        reason = "its weight is that of another layer, and counted there" if layer.is_tied else reasons.get(layer.name)
        layers.append(
            {
                "name": layer.name,
                "type": type(layer.module).__name__,
                "shape": list(weight.shape),
                "num_weights": weight.numel(),
                "num_units": len(weight),
                "prunable": prunable + ["unit"] * (layer.name in group_of),
                "reason": reason,
                "is_output": layer.is_output,
                "group": group_of.get(layer.name),
            }
        )
    return {
        "num_parameters": sum(layer.module.weight.numel() for layer in found if not layer.is_tied),
        "num_parameters_total": sum(parameter.numel() for parameter in module.parameters()),
        "num_prunable": sum(not layer.is_tied for layer in found),
        "layers": layers,
        "output_layer": next(iter(output_layers(graph_module))),
        "num_outputs": smoke_test(module, input_shape),
    }


def smoke_test(module: nn.Module, input_shape: Sequence[int]) -> int:
    """Evaluate at two batch sizes, twice, and train one step on noise. Modifies the module.

    Returns:
        the number of outputs.

    Raises:
        FormatError: saying what failed.
    """
    noise = torch.randn(3, *input_shape, generator=generator(0, "smoke test"))
    with evaluating(module), torch.no_grad():
        outputs = {batch: _run(module, noise[:batch]) for batch in (2, 3)}
        again = _run(module, noise)
    for batch, output in outputs.items():
        if output.dim() != 2 or output.shape != (batch, outputs[2].shape[-1]):
            raise FormatError(
                "model",
                f"gives outputs of shape {tuple(output.shape)} for a batch of {batch}; "
                "it must give (batch, classes) logits for any batch size",
            )
    if not bool(torch.isfinite(again).all()):
        raise FormatError("model", "gives NaN or infinity on standard normal noise; check its weights")
    if not torch.equal(outputs[3], again):
        raise FormatError("model", "gives other outputs when evaluated again; it must be deterministic in eval mode")
    _train_one_step(module, noise)
    return again.shape[1]


def _run(module: nn.Module, inputs: Tensor) -> Tensor:
    try:
        output = module(inputs)
    except Exception as error:  # whatever the model's own operations raise
        raise FormatError("model", f"fails on a batch of {len(inputs)}: {error}") from error
    if not isinstance(output, Tensor):
        raise FormatError("model", f"returns a {type(output).__name__}; it must return one tensor of logits")
    return output


def _train_one_step(module: nn.Module, noise: Tensor) -> None:
    module.train()
    optimizer = torch.optim.SGD(module.parameters(), lr=1e-3)
    with global_stream(0, "smoke test"):
        loss = cross_entropy(_run(module, noise), torch.zeros(len(noise), dtype=torch.int64))
        try:
            loss.backward()  # type: ignore[no-untyped-call]
        except RuntimeError as error:
            raise FormatError("model", f"cannot be trained: {error}") from error
    optimizer.step()
    if not math.isfinite(loss.item()) or not all(bool(torch.isfinite(p).all()) for p in module.parameters()):
        raise FormatError("model", "is no longer finite after one training step on noise; check its weights")
