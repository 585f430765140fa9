# ruff: noqa: ARG001 (criteria share one signature)
"""Criteria that score units by what they put out, over the whole training split, in one pass of the graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, fx, nn

from pruning.data import preprocessor
from pruning.evidence import Evidence, Scores
from pruning.graph import trace
from pruning.training import evaluating
from pruning.units import Slice, UnitGroup

BATCH = 512
CHUNK = 1 << 18
"""Entries measured together: what a measure makes of more would be pages that the allocator fetches for every batch."""


def activation(model: nn.Module, masks: Mapping[str, Tensor], evidence: Evidence) -> Scores:
    """s(node) = 1/N sum over all N training samples of |a|; of a filter, a is averaged over its positions as well.

    Tan & Motani 2020, section 3.2. a is the value after the activation function and before pooling. Where several
    layers have a unit in common, s is the mean over all of the unit's activations.
    """
    return _mean_over_training(model, evidence, lambda a, dims: a.abs().sum(dims))


def apoz(model: nn.Module, masks: Mapping[str, Tensor], evidence: Evidence) -> Scores:
    """s(node) = 1 - APoZ, the fraction of samples (and positions) where a is not zero.

    Hu et al. 2016 (Network Trimming), equation 1, turned so that low scores are pruned.
    """
    return _mean_over_training(model, evidence, lambda a, dims: (a != 0).to(a.dtype).sum(dims))


Measure = Callable[[Tensor, list[int]], Tensor]
"""(a, dimensions) -> what is measured, summed over those dimensions."""


def _mean_over_training(model: nn.Module, evidence: Evidence, measure: Measure) -> Scores:
    train = evidence.train
    prepare = preprocessor(evidence.preprocessing, train.inputs, train.device)
    with evaluating(model), torch.no_grad():
        metered, sums = _with_meters(trace(model), evidence.groups, measure)
        for inputs in torch.split(train.inputs, BATCH):
            metered(prepare(train.on_device(inputs)))
    return {
        group.name: torch.stack([sums[a] for a in group.activations]).mean(0) / len(train) for group in evidence.groups
    }


def _with_meters(
    graph_module: fx.GraphModule, groups: Sequence[UnitGroup], measure: Measure
) -> tuple[fx.GraphModule, dict[Slice, Tensor]]:
    """The graph with a meter behind each node where units are active, and the sums that grow while it runs.

    A running sum needs no memory that grows with the data, and sees a value before a later operation overwrites it.
    """
    sums: dict[Slice, Tensor] = {}
    # A node behind a concatenation holds the units of several groups, each in a part of its own.
    watched: dict[str, dict[Slice, int]] = {}
    for group in groups:
        for a in group.activations:
            watched.setdefault(a.name, {})[a] = group.size
    graph = graph_module.graph
    for number, node in enumerate([node for node in graph.nodes if node.name in watched]):
        graph_module.add_module(f"meter_{number}", _Meter(watched[node.name], measure, sums))
        with graph.inserting_after(node):
            graph.call_module(f"meter_{number}", (node,))
    graph_module.recompile()
    return graph_module, sums


class _Meter(nn.Module):
    """Sums what is measured over examples, and averages it over positions."""

    def __init__(self, parts: Mapping[Slice, int], measure: Measure, sums: dict[Slice, Tensor]) -> None:
        super().__init__()
        self.parts, self.measure, self.sums = parts, measure, sums

    def forward(self, value: Tensor) -> None:
        for a, num_units in self.parts.items():
            units = a.owned(value, num_units)
            others = [dim for dim in range(units.dim()) if dim != a.dim]
            num_positions = units.numel() // (len(units) * units.shape[a.dim])
            for part in torch.split(units, max(1, CHUNK * len(units) // units.numel())):
                per_unit = self.measure(part, others).double().view(-1, a.span).mean(1) / num_positions
                self.sums[a] = self.sums[a] + per_unit if a in self.sums else per_unit
