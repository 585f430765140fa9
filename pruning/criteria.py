# ruff: noqa: ARG001 (criteria share one signature)
"""Criteria: one pure function each, (model, masks, evidence) -> {name: scores}. Low scores are pruned.

The shape of the scores says the granularity. Scores under a parameter's name have that parameter's shape, one a weight,
and `pruning.units.unit_scores` makes unit scores of them; scores under a unit group's name are one a unit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from pruning.data import Split, preprocessor
from pruning.graph import trace
from pruning.recipe import Preprocessing
from pruning.training import evaluating
from pruning.units import Slice, UnitGroup

Scores = dict[str, Tensor]


@dataclass(frozen=True)
class Evidence:
    """What a criterion may read besides the trained, masked model.

    Attributes:
        train: the training split; never another. It says on which device the model is, and scores may be.
        groups: the groups whose units are scored; empty where weights are.
        generator: for criteria that draw.
    """

    train: Split
    preprocessing: Preprocessing
    groups: Sequence[UnitGroup]
    generator: torch.Generator


Criterion = Callable[[nn.Module, Mapping[str, Tensor], Evidence], Scores]


def magnitude(model: nn.Module, masks: Mapping[str, Tensor], evidence: Evidence) -> Scores:
    """s(w) = |w|; s(unit) = its incoming weights' L2 norm.

    Han et al. 2015, section 3; Frankle & Carbin 2019, section 2. Of units: Li et al. 2017, with L2 for L1.
    """
    parameters = dict(model.named_parameters())
    return {name: parameters[name].detach().abs() for name in masks}


def random(model: nn.Module, masks: Mapping[str, Tensor], evidence: Evidence) -> Scores:
    """s ~ U[0, 1), for each weight or for each unit: the control that every other criterion has to beat."""
    shapes = {group.name: torch.Size([group.size]) for group in evidence.groups}
    if not shapes:
        shapes = {name: mask.shape for name, mask in masks.items()}
    return {name: torch.rand(shape, generator=evidence.generator) for name, shape in shapes.items()}


def activation(model: nn.Module, masks: Mapping[str, Tensor], evidence: Evidence) -> Scores:
    """s(node) = 1/N sum over all N training samples of |a|; of a filter, a is averaged over its positions as well.

    Tan & Motani 2020, section 3.2. a is the value after the activation function and before pooling. Where several
    layers have a unit in common, s is the mean over all of the unit's activations.
    """
    train = evidence.train
    prepare = preprocessor(evidence.preprocessing, train.inputs, train.device)
    with evaluating(model), torch.no_grad():
        meter = _ActivationMeter(trace(model), [a for group in evidence.groups for a in group.activations])
        for inputs in torch.split(train.inputs, 256):
            meter.run(prepare(train.on_device(inputs)))
    return {
        group.name: torch.stack([meter.sums[a.name] for a in group.activations]).mean(0) / len(train)
        for group in evidence.groups
    }


class _ActivationMeter(fx.Interpreter):
    """Runs the graph; sums |a| over examples, and averages it over positions, at the given nodes as they are made.

    A running sum needs no memory that grows with the data, and sees a value before a later operation overwrites it.
    """

    def __init__(self, graph_module: fx.GraphModule, activations: Sequence[Slice]) -> None:
        super().__init__(graph_module)
        self.watched = {a.name: a for a in activations}
        self.sums: dict[str, Tensor] = {}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if n.name in self.watched:
            a = self.watched[n.name]
            positions = [dim for dim in range(1, value.dim()) if dim != a.dim]
            per_example = value.abs().mean(positions) if positions else value.abs()
            per_unit = per_example.double().sum(0).view(-1, a.span).mean(1)
            self.sums[n.name] = self.sums[n.name] + per_unit if n.name in self.sums else per_unit
        return value


CRITERIA: dict[str, Criterion] = {
    "magnitude": magnitude,
    "activation": activation,
    "random": random,
}
