"""Activation scores of a training set against one forward pass over it."""

from __future__ import annotations

import statistics

import torch
from torch import nn

from benchmarks.measure import Target, cpu_seconds, ratio, take_turns
from benchmarks.ways import pictures
from pruning.activations import BATCH, activation
from pruning.data import Split, preprocessor
from pruning.evidence import Evidence
from pruning.formats.architectures import build
from pruning.training_options import Preprocessing
from pruning.unit_flow import find_units

TARGET = Target(most=1.2)


def report(turns: int) -> list[str]:
    lines = [f"Activation scores over a training set, {turns} turns"]
    for architecture, num in (("lenet_300_100", 55_000), ("lenet5", 10_000)):
        times = measure(build(architecture), Split(*pictures(num)), turns)
        scored, passed = (statistics.median(times[way]) for way in ("scores", "forward pass"))
        found = ratio(times, "scores", "forward pass")
        lines.append(f"  {architecture:<24} {scored:8.3f} s   forward pass {passed:.3f} s   {num:,} examples")
        lines.append(f"    {found:.2f} x one forward pass: {TARGET.verdict(found)}")
    return lines


def measure(model: nn.Module, train: Split, turns: int) -> dict[str, list[float]]:
    prepare = preprocessor(Preprocessing(), train.inputs)
    groups, _ = find_units(model, prepare(train.inputs[:2]))
    evidence = Evidence(train, Preprocessing(), groups, generator=torch.Generator())

    def scores() -> float:
        started = cpu_seconds()
        activation(model, {}, evidence)
        return cpu_seconds() - started

    def forward_pass() -> float:
        started = cpu_seconds()
        with torch.no_grad():
            for inputs in torch.split(train.inputs, BATCH):
                model(prepare(inputs))
        return cpu_seconds() - started

    return take_turns({"scores": scores, "forward pass": forward_pass}, turns)
