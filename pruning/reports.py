"""What a report shows of a network: parameters and non-zeros, multiply-adds, latency (after Blalock et al. 2020)."""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from pruning.evaluation import evaluating
from pruning.graph import LAYER_TYPES, canonical_names
from pruning.inputs import blank_inputs
from pruning.pruner import invariants_checked
from pruning.removal import Removed
from pruning.rewinding import restore
from pruning.rounds import Round


def round_report(round_: Round, model: nn.Module) -> dict[str, Any]:
    """All of a round that is shown, JSON-able, with the names that clients are promised; tensors and bytes apart.

    Args:
        model: of the round's architecture, with an `input_shape`; it is left as it is.
    """
    input_shape = cast("Sequence[int]", model.input_shape)
    model = copy.deepcopy(model)
    restore(model, round_.state)
    layers = layer_table(model, round_.masks)
    report: dict[str, Any] = {
        "number": round_.number,
        "sparsity": {"target": round_.sparsity_target, "actual": round_.sparsity_actual},
        "num_parameters": sum(layer["num_weights"] for layer in layers),
        "num_nonzero": sum(layer["num_nonzero"] for layer in layers),
        **parameter_totals(model),
        "compression_ratio": compression_ratio(model, round_.masks),
        "layers": layers,
        "metrics": round_.metrics,
        "early_stopping": round_.early_stopping,
        "macs": macs(model, input_shape, round_.masks),
        "latency_ms": latency_ms(model, input_shape),
        "steps": round_.steps,
        "seconds": round_.seconds,
        "seed": round_.seed,
        "controls": round_.controls,
        "invariants": list(invariants_checked(round_.number)),
    }
    if round_.sensitivity is not None:
        report["sensitivity"] = round_.sensitivity
    if round_.units is not None:
        report |= dataclasses.asdict(round_.units)
    return report


def layer_table(model: nn.Module, masks: Mapping[str, Tensor]) -> list[dict[str, Any]]:
    """[{"name", "num_weights", "num_nonzero", "density"}] of every layer whose weight has a mask, tied weights once.

    Layers that the recipe ignores have no mask and no row. `density` is the fraction that the mask keeps; a kept weight
    that happens to be zero is not counted as non-zero.
    """
    table, seen = [], set()
    first_name = canonical_names(model)
    for path, module in model.named_modules():
        if not isinstance(module, LAYER_TYPES):
            continue
        weight = first_name[f"{path}.weight"]
        if weight in masks and weight not in seen:
            seen.add(weight)
            mask = masks[weight]
            table.append(
                {
                    "name": path,
                    "num_weights": mask.numel(),
                    "num_nonzero": int(((module.weight.detach() != 0) & mask).sum()),
                    "density": int(mask.sum()) / mask.numel(),
                }
            )
    return table


def parameter_totals(model: nn.Module) -> dict[str, int]:
    """{"num_parameters_total", "num_nonzero_total"}: every parameter, biases included, tied ones once."""
    parameters = list(model.parameters())
    return {
        "num_parameters_total": sum(parameter.numel() for parameter in parameters),
        "num_nonzero_total": sum(int(parameter.count_nonzero()) for parameter in parameters),
    }


def compression_ratio(model: nn.Module, masks: Mapping[str, Tensor]) -> float:
    """All parameters over those that no mask takes away (Blalock et al. 2020, section 2); 1 for the dense network."""
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    total, gone = sum(sizes.values()), sum(int((~mask).sum()) for name, mask in masks.items() if name in sizes)
    return total / (total - gone)


def removal_report(
    masked: nn.Module, masks: Mapping[str, Tensor], removed: Removed, input_shape: Sequence[int]
) -> dict[str, Any]:
    """{"before", "after"} masked units were cut out: what the network really holds, counts and takes, JSON-able.

    Each: num_parameters (weights of linear and convolution layers), num_parameters_total (every parameter), both with
    tied ones once, macs ({"dense", "effective"}, of one example) and latency_ms. A mask makes nothing smaller or
    faster, so that `before` is the dense network's; `after` is measured, not derived.

    Args:
        masked: the network under `masks`, whole.
        input_shape: of one example.
    """
    networks = {"before": (masked, masks), "after": (removed.module, removed.masks)}
    return {
        when: {
            "num_parameters": _num_layer_weights(model),
            "num_parameters_total": parameter_totals(model)["num_parameters_total"],
            "macs": macs(model, input_shape, left),
            "latency_ms": latency_ms(model, input_shape),
        }
        for when, (model, left) in networks.items()
    }


def _num_layer_weights(model: nn.Module) -> int:
    layers = [module for module in model.modules() if isinstance(module, LAYER_TYPES)]
    return sum(weight.numel() for weight in {layer.weight for layer in layers})


def macs(model: nn.Module, example_shape: Sequence[int], masks: Mapping[str, Tensor]) -> dict[str, int]:
    """{"dense", "effective"} multiply-adds of one example through the linear and convolution layers.

    1 MAC = 1 multiply-add, batch 1. Each weight is used once at every output position; `effective` leaves the masked
    weights out, which is a count and no claim of speed.
    """
    counts = {"dense": 0, "effective": 0}
    first_name = canonical_names(model)
    paths: dict[nn.Module, str] = {
        module: path for path, module in model.named_modules() if isinstance(module, LAYER_TYPES)
    }

    def count(module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        weight = module.get_parameter("weight")
        positions = output.numel() // len(weight)
        mask = masks.get(first_name[f"{paths[module]}.weight"])
        counts["dense"] += positions * weight.numel()
        counts["effective"] += positions * (weight.numel() if mask is None else int(mask.sum()))

    handles = [module.register_forward_hook(count) for module in paths]
    try:
        with evaluating(model), torch.no_grad():
            model(blank_inputs(model, 1, example_shape))
    finally:
        for handle in handles:
            handle.remove()
    return counts


def latency_ms(model: nn.Module, example_shape: Sequence[int], num_forwards: int = 20) -> dict[str, Any]:
    """{"p50", "p95", "conditions"}: milliseconds of a forward pass of one example, after three to warm up."""
    example = blank_inputs(model, 1, example_shape)
    milliseconds = []
    with evaluating(model), torch.no_grad():
        for _ in range(3 + num_forwards):
            started = time.perf_counter()
            model(example)
            milliseconds.append((time.perf_counter() - started) * 1000)
    p50, p95 = np.percentile(milliseconds[3:], [50, 95])
    conditions = {"batch": 1, "threads": torch.get_num_threads(), "device": "cpu", "num_forwards": num_forwards}
    return {"p50": float(p50), "p95": float(p95), "conditions": conditions}
