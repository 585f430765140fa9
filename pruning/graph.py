"""The model's graph: its prunable layers, its output layer, and the shapes that flow between its nodes.

Traced by `torch.fx.symbolic_trace`; torch's own layers stay whole, under the user's own paths.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp, TensorMetadata

from pruning.evaluation import evaluating

LAYER_TYPES = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
"""Layers whose weights are prunable, with units along dimension 0 of the weight."""

PrunableModule = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d


class UntraceableError(ValueError):
    """The model's forward cannot be followed as a graph."""


@dataclass(frozen=True)
class Layer:
    """A layer with prunable weights.

    Attributes:
        name: the module's path.
        weight: the weight's name in the state dict; for tied weights, the first of its names.
        is_tied: another layer listed before has the same weight, under which it is pruned and counted.
        is_output: the last layer before an output of the graph.
    """

    name: str
    module: PrunableModule
    weight: str
    is_tied: bool
    is_output: bool


def trace(model: nn.Module) -> fx.GraphModule:
    """The model as a graph that shares its modules. Trace in the mode (train, eval) in which the graph is to run.

    Raises:
        UntraceableError: the forward depends on values, or takes other than one input.
    """
    for path, module in model.named_modules():
        if isinstance(module, LAYER_TYPES) and not isinstance(module._parameters.get("weight"), nn.Parameter):
            raise UntraceableError(f"{path}.weight is not a plain parameter; remove its parametrisation")
    try:
        graph_module = fx.symbolic_trace(model)
    except Exception as error:  # whatever the model's own forward raises when it is given proxies
        raise UntraceableError(f"torch.fx cannot trace the model: {error}") from error
    num_inputs = len(graph_module.graph.find_nodes(op="placeholder"))
    if num_inputs != 1:
        raise UntraceableError(f"the model takes {num_inputs} inputs; it must take one tensor")
    return graph_module


def trace_with_shapes(model: nn.Module, example: Tensor) -> fx.GraphModule:
    """`trace`, run once on `example` (n, ...) in evaluation mode, so that `shape_of` knows every node."""
    with evaluating(model), torch.no_grad():
        graph_module = trace(model)
        try:
            ShapeProp(graph_module).propagate(example)
        except Exception as error:  # whatever the model's own operations raise
            raise UntraceableError(f"the model does not run on inputs {tuple(example.shape)}: {error}") from error
    return graph_module


def shape_of(node: fx.Node) -> torch.Size | None:
    """The shape of the node's tensor, None where its value is not one tensor (a size, a tuple)."""
    metadata = node.meta.get("tensor_meta")
    return metadata.shape if isinstance(metadata, TensorMetadata) else None


def operation(node: fx.Node, modules: dict[str, nn.Module]) -> str:
    """One word for an operation however it is written: nn.MaxPool2d, F.max_pool2d, x.relu_() -> maxpool2d, relu."""
    if node.op == "call_module":
        name = type(modules[str(node.target)]).__name__
    else:
        name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
    return name.split(".")[0].replace("_", "").lower()


def canonical_names(model: nn.Module) -> dict[str, str]:
    """Every name of every parameter -> the first name of that parameter, which differs where weights are tied."""
    first = {id(parameter): name for name, parameter in model.named_parameters()}
    return {name: first[id(p)] for name, p in model.named_parameters(remove_duplicate=False)}


def under_every_name(masks: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """The masks, under all names that the state dict has for tied weights."""
    return {name: masks[first] for name, first in canonical_names(model).items() if first in masks}


def find_layers(model: nn.Module, graph_module: fx.GraphModule) -> list[Layer]:
    """The layers with prunable weights that the graph uses, in the order of the graph."""
    modules = dict(graph_module.named_modules(remove_duplicate=False))
    first_name = canonical_names(model)
    outputs = {first_name[f"{path}.weight"] for path in output_layers(graph_module)}
    layers: dict[str, Layer] = {}
    for node in graph_module.graph.find_nodes(op="call_module"):
        path, module = str(node.target), modules[str(node.target)]
        if isinstance(module, LAYER_TYPES) and path not in layers:
            weight = first_name[f"{path}.weight"]
            is_tied = any(layer.weight == weight for layer in layers.values())
            layers[path] = Layer(path, module, weight, is_tied, weight in outputs)
    return list(layers.values())


def output_layers(graph_module: fx.GraphModule) -> list[str]:
    """Paths of the first layers met walking back from the graph's output: one, unless the output joins branches."""
    modules = dict(graph_module.named_modules(remove_duplicate=False))
    found, seen = [], set()
    front = list(graph_module.graph.output_node().all_input_nodes)
    while front:
        node = front.pop()
        if node in seen:
            continue
        seen.add(node)
        if node.op == "call_module" and isinstance(modules[str(node.target)], LAYER_TYPES):
            found.append(str(node.target))
        else:
            front.extend(node.all_input_nodes)
    return found
