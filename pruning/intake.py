"""What a model is made of and whether it works: looked at once, when it comes in."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.functional import cross_entropy

from pruning.evaluation import evaluating
from pruning.formats.errors import FormatError
from pruning.graph import Layer, UntraceableError, canonical_names, find_layers, output_layers, trace_with_shapes
from pruning.inputs import input_dtype, noise, takes_whole_numbers
from pruning.randomness import generator, global_stream
from pruning.reports import macs
from pruning.unit_blocks import least_units
from pruning.unit_flow import find_units

SMOKE_BATCHES = (2, 3)


def inspect_model(module: nn.Module, input_shape: Sequence[int]) -> dict[str, Any]:
    """A JSON-able report; `pruning.schedules.layer_sizes` makes of it what the loop prunes.

    The module is left as it is.

    Args:
        input_shape: of one example. A module's `input_dtype`, if it has one, is that of its examples.

    Returns:
        num_parameters (prunable weights), num_parameters_total (with biases and all), macs (multiply-adds of one
        example), num_prunable (layers), layers, others, input_shape, input_dtype, output_layer (a path), output_shape
        (of one example's outputs), num_outputs (its last number), smoke_test (what was tried, and its loss). A layer
        has name, type, shape (of its weight),
        num_weights, num_units, least_units (that always stay: more than one at grouped convolutions), prunable (the
        granularities), reason (why not by every one, else None), is_output, and group: the layer under whose name its
        units are pruned and counted, None where they are not prunable. `others` are the parameters that are never
        pruned, biases of layers aside: name, shape, num_weights, reason.

    Raises:
        FormatError: the model cannot be followed as a graph, or fails the smoke test.
    """
    module = copy.deepcopy(module)
    _check_input_dtype(module)
    example = noise(module, 2, input_shape, generator(0, "smoke test"))
    try:
        graph_module = trace_with_shapes(module, example)
        found = find_layers(module, graph_module)
        groups, reasons = find_units(module, example)
    except UntraceableError as error:
        raise FormatError("model", str(error)) from error
    if not found:
        raise FormatError("model", "has no linear or convolution layer whose weights could be pruned")

    group_of = {layer: group.name for group in groups for layer in group.layers}
    least = least_units(groups, dict(module.named_parameters()))
    return {
        "num_parameters": sum(layer.module.weight.numel() for layer in found if not layer.is_tied),
        "num_parameters_total": sum(parameter.numel() for parameter in module.parameters()),
        "num_prunable": sum(not layer.is_tied for layer in found),
        "layers": [_describe(layer, group_of.get(layer.name), reasons.get(layer.name), least) for layer in found],
        "others": _other_parameters(module, graph_module, found),
        "input_shape": list(input_shape),
        "input_dtype": str(input_dtype(module)).removeprefix("torch."),
        "output_layer": next(iter(output_layers(graph_module)), None),
        **smoke_test(module, input_shape),
        "macs": _macs(module, input_shape),
    }


def _macs(module: nn.Module, input_shape: Sequence[int]) -> int:
    """Of one example: every round counts them the same way, and a network that fails here would fail there."""
    try:
        return macs(module, input_shape, {})["dense"]
    except Exception as error:  # whatever the model's own operations raise
        raise FormatError("model", f"fails on a batch of 1: {error}") from error


def _check_input_dtype(module: nn.Module) -> None:
    dtype = input_dtype(module)
    if dtype is not torch.float32 and not takes_whole_numbers(module):
        raise FormatError(
            "model",
            f"takes inputs of {dtype}; training is in float32: model.float(), and export it with a sample batch of "
            "float32 (or of int64, where it begins with an embedding)",
        )


def _describe(layer: Layer, group: str | None, reason: str | None, least: Mapping[str, int]) -> dict[str, Any]:
    if layer.is_tied:
        reason = "its weight is that of another layer, and counted there"
    return {
        "name": layer.name,
        "type": type(layer.module).__name__,
        "shape": list(layer.module.weight.shape),
        "num_weights": layer.module.weight.numel(),
        "num_units": len(layer.module.weight),
        "least_units": 1 if group is None else least[group],
        "prunable": ["weight"] * (not layer.is_tied) + ["unit"] * (group is not None),
        "reason": reason,
        "is_output": layer.is_output,
        "group": group,
    }


_NORMS = (
    *(nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm),
    *([nn.RMSNorm] if hasattr(nn, "RMSNorm") else []),
)
_WHY_NOT: list[tuple[type[nn.Module] | tuple[type[nn.Module], ...], str]] = [
    (_NORMS, "scales or shifts a normalisation; it goes with the units before it, where those are pruned"),
    (nn.Embedding, "is a table that is looked up; only layers that multiply are pruned"),
    (nn.RNNBase, "belongs to a recurrent layer; those are trained and left whole"),
    (nn.modules.conv._ConvTransposeNd, "belongs to a transposed convolution; those are trained and left whole"),
]
_UNUSED = "is not used in the forward pass"
_BARE = "is used by an operation, not by an nn.Linear or nn.Conv layer of its own; it is trained and left whole"


def _other_parameters(module: nn.Module, graph_module: fx.GraphModule, found: list[Layer]) -> list[dict[str, Any]]:
    first_name = canonical_names(module)
    ours = {first_name[f"{layer.name}.{part}"] for layer in found for part, _ in layer.module.named_parameters()}
    modules = dict(graph_module.named_modules(remove_duplicate=False))
    used: set[str] = set()
    for node in graph_module.graph.nodes:
        if node.op == "call_module":
            used |= {f"{node.target}.{name}" for name, _ in modules[str(node.target)].named_parameters()}
        elif node.op == "get_attr":
            used.add(str(node.target))
    used = {first_name[name] for name in used if name in first_name}

    others = []
    for name, parameter in module.named_parameters():
        if name in ours:
            continue
        owner = module.get_submodule(name.rpartition(".")[0])
        reason = next((why for kinds, why in _WHY_NOT if isinstance(owner, kinds)), _BARE)
        if name not in used:
            reason = _UNUSED
        others.append(
            {"name": name, "shape": list(parameter.shape), "num_weights": parameter.numel(), "reason": reason}
        )
    return others


def smoke_test(module: nn.Module, input_shape: Sequence[int]) -> dict[str, Any]:
    """Evaluate at two batch sizes, twice, and train one step on noise. Modifies the module.

    Returns:
        num_outputs, output_shape, and smoke_test: batch_sizes, deterministic (always true: else it is refused),
        train_loss (in nats, of the one step).

    Raises:
        FormatError: saying what failed.
    """
    inputs = noise(module, max(SMOKE_BATCHES), input_shape, generator(0, "smoke test"))
    with evaluating(module), torch.no_grad():
        outputs = {batch: _run(module, inputs[:batch]) for batch in SMOKE_BATCHES}
        again = _run(module, inputs)
    shape = outputs[2].shape[1:]
    # One row of logits an example or, where an example is a line of tokens, one for each of them.
    fits = len(shape) == 1 or (takes_whole_numbers(module) and len(shape) == 2 and shape[:1] == tuple(input_shape))
    for batch, output in outputs.items():
        if not fits or output.shape != (batch, *shape):
            tokens = ", or (batch, length, vocabulary) for tokens," if takes_whole_numbers(module) else ""
            raise FormatError(
                "model",
                f"gives outputs of shape {tuple(output.shape)} for a batch of {batch}; "
                f"it must give (batch, classes) logits{tokens} for any batch size",
            )
    if not bool(torch.isfinite(again).all()):
        raise FormatError("model", "gives NaN or infinity on standard normal noise; check its weights")
    if not torch.equal(outputs[3], again):
        raise FormatError("model", "gives other outputs when evaluated again; it must be deterministic in eval mode")
    loss = _train_one_step(module, inputs)
    tried = {"batch_sizes": list(SMOKE_BATCHES), "deterministic": True, "train_loss": loss}
    return {"num_outputs": shape[-1], "output_shape": list(shape), "smoke_test": tried}


def _run(module: nn.Module, inputs: Tensor) -> Tensor:
    try:
        output = module(inputs)
    except Exception as error:  # whatever the model's own operations raise
        raise FormatError("model", f"fails on a batch of {len(inputs)}: {error}") from error
    if not isinstance(output, Tensor):
        raise FormatError("model", f"returns a {type(output).__name__}; it must return one tensor of logits")
    return output


def _train_one_step(module: nn.Module, inputs: Tensor) -> float:
    module.train()
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    if not trained:
        raise FormatError(
            "model", "has only frozen parameters: for p in model.parameters(): p.requires_grad_(True), and export again"
        )
    optimizer = torch.optim.SGD(trained, lr=1e-3)
    with global_stream(0, "smoke test"):
        logits = _run(module, inputs).flatten(0, -2)
        loss = cross_entropy(logits, torch.zeros(len(logits), dtype=torch.int64))
        try:
            loss.backward()  # type: ignore[no-untyped-call]
        except RuntimeError as error:
            raise FormatError("model", f"cannot be trained: {error}") from error
    optimizer.step()
    if not math.isfinite(loss.item()) or not all(bool(torch.isfinite(p).all()) for p in module.parameters()):
        raise FormatError("model", "is no longer finite after one training step on noise; check its weights")
    return loss.item()
