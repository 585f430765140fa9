"""The pictures of docs/strategies.md: each family of strategies at work, LeNet-300-100 on scikit-learn's digits.

    python -m benchmarks.strategies docs

Validation accuracy against sparsity, one seed, small budgets: how a family behaves, not how good it is. What is claimed
of the papers' strategies is measured by `benchmarks.reproduce`. About one minute on one core.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from sklearn.datasets import load_digits

from pruning.data import Dataset, Split
from pruning.formats.architectures import build
from pruning.iterative import prune_iteratively
from pruning.recipe import Recipe
from pruning.strategies import STRATEGIES

Point = tuple[float, float]
"""Sparsity, validation accuracy."""

FAMILIES = {
    "lottery": ["lottery_ticket_reset", "lottery_ticket_continue", "random_reinit", "random_mask"],
    "rewinding": ["rewind", "learning_rate_rewind", "fine_tune"],
    "gradual": ["gradual"],
    "once": ["one_shot", "wanda", "snip", "grasp", "synflow"],
    "dropnet": ["dropnet", "dropnet_layerwise", "dropnet_maximum", "dropnet_random", "dropnet_apoz"],
}
STYLES = [("#0072B2", "o"), ("#D55E00", "s"), ("#009E73", "^"), ("#CC79A7", "v"), ("#E69F00", "D")]
"""Okabe and Ito's colours, which the colour-blind tell apart; the markers do it in grey."""

STEPS = 200
ONCE = (0.5, 0.8, 0.9, 0.95, 0.98)
"""Where a strategy prunes once, a run for each of these sparsities."""


def digits() -> Dataset:
    """1797 images of 8 x 8; every fifth validates, and none tests."""
    images, labels = load_digits(return_X_y=True)
    inputs, targets = torch.tensor(images, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16, torch.tensor(labels)
    held_out = torch.arange(len(targets)) % 5 == 0
    train, validation = (Split(inputs[chosen], targets[chosen]) for chosen in (~held_out, held_out))
    return Dataset(train=train, validation=validation, test=None, num_classes=10)


def recipe(strategy: str, **given: Any) -> Recipe:
    """The strategy's own, with fewer steps and rounds. Units train alike, and no floor ends their curve."""
    row = STRATEGIES[strategy].defaults
    training: dict[str, Any] = {"steps": STEPS, "evaluate_every_steps": STEPS}
    if row["granularity"] == "unit":
        training |= {"batch_size": 60, "optimizer": {"name": "adam", "lr": 0.0012}, "early_stopping": None}
        given |= {"stop": {"rounds": 14, "accuracy_floor": None}}
    elif row["schedule"]["kind"] == "polynomial":
        training["steps"] = STEPS // 10  # of one stretch
    if row["between_rounds"]["weights"] == "rewind":
        given |= {"between_rounds": {"step": 20}}
    return Recipe.model_validate({"strategy": strategy, "training": training, "seed": 1, **given})


def curve(strategy: str, dataset: Dataset) -> list[Point]:
    """Of a control, the control's own points."""
    network = build("lenet_300_100", seed=1, input_shape=(1, 8, 8))
    row = STRATEGIES[strategy].defaults
    if row["schedule"]["kind"] == "one_shot":
        recipes = [recipe(strategy, schedule={"sparsity": sparsity}) for sparsity in ONCE]
    else:
        recipes = [recipe(strategy)]
    points = {}
    for asked in recipes:
        for round_ in prune_iteratively(network, dataset, asked):
            metrics = round_.controls[strategy]["metrics"] if strategy in round_.controls else round_.metrics
            if round_.number is not None:
                points[round_.sparsity_actual] = metrics["validation"]["accuracy"]
    return sorted(points.items())


def draw(curves: dict[str, list[Point]], path: Path) -> None:
    figure = Figure(figsize=(6, 3.4), layout="constrained")
    axes = figure.subplots()
    for (name, points), (colour, marker) in zip(curves.items(), STYLES, strict=False):
        axes.plot(*zip(*points, strict=True), color=colour, marker=marker, markersize=4, linewidth=1.3, label=name)
    axes.set(xlabel="sparsity: fraction removed", ylabel="validation accuracy")
    axes.grid(alpha=0.25)
    axes.legend(fontsize=8, loc="lower left")
    figure.savefig(path, facecolor="white", metadata={"Date": None})


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args(arguments).folder
    dataset = digits()
    for family, strategies in FAMILIES.items():
        draw({name: curve(name, dataset) for name in strategies}, folder / f"strategies-{family}.svg")
        print(f"strategies-{family}.svg", file=sys.stderr)


if __name__ == "__main__":
    main()
