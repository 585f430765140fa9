"""Frankle & Carbin 2019, figures 3 to 5, on LeNet-300-100 and MNIST (or Conv-2 and CIFAR-10), by the engine.

    python -m benchmarks.reproduce.lottery_ticket --data PATH --out FOLDER [--seeds 3] [--steps 10000 | --full]

Curves, each for every seed:

- `reset`: prune, set the survivors back to their first values, train again (strategy 1).
- `continued`: prune and train on (strategy 2); the network itself.
- `continued_ticket`: its masks on the first weights, trained in isolation, as the paper judges strategy 2.
- `reinit`: the masks of `reset` on newly drawn weights.

Early stopping is read afterwards: the step of least validation loss. The engine records validation at that step and
test at the end. `--stop-test` gives test accuracy at that step, too: the same training again, ended there, and it has
to give the recorded validation metrics to the bit. The continued network has its validation accuracy there alone.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.reproduce import images
from benchmarks.reproduce.curves import draw_lottery, lottery_table
from benchmarks.reproduce.shelf import Line, Shelf, alone, iterate
from pruning.data import Dataset
from pruning.formats.architectures import build
from pruning.recipe import Recipe

CURVES = ("reset", "reinit", "continued", "continued_ticket")


@dataclass(frozen=True)
class Experiment:
    """`full_steps`: the paper's, each round; `rates`: layer -> its rate over 20%."""

    title: str
    architecture: str
    lr: float
    full_steps: int
    rates: dict[str, float]
    mean: float | list[float]
    std: float | list[float]


LENET = Experiment("LeNet-300-100 on MNIST", "lenet_300_100", 0.0012, 50_000, {"output": 0.5}, 0.1307, 0.3081)
CONV2 = Experiment(
    "Conv-2 on CIFAR-10",
    "conv2",
    0.0002,
    20_000,
    {"conv1": 0.5, "conv2": 0.5, "output": 0.5},
    [0.4914, 0.4822, 0.4465],
    [0.2470, 0.2435, 0.2616],
)


@dataclass(frozen=True)
class Run:
    """One seed of the experiment."""

    experiment: Experiment
    data: Path
    out: Path
    seed: int
    steps: int
    num_rounds: int

    def recipe(self, strategy: str, steps: int | None = None) -> Recipe:
        experiment = self.experiment
        training: dict[str, Any] = {
            "steps": steps or self.steps,
            "optimizer": {"name": "adam", "lr": experiment.lr},
            "batch_size": 60,
            "evaluate_every_steps": 100,
            "preprocessing": {"mean": experiment.mean, "std": experiment.std},
        }
        overrides = {layer: {"rate": rate} for layer, rate in experiment.rates.items()}
        return Recipe.model_validate(
            {
                "strategy": strategy,
                "scope": {"kind": "layerwise", "overrides": overrides},
                "finally": {"weights": "none", "train": False},
                "stop": {"rounds": self.num_rounds},
                "training": training,
                "seed": self.seed,
            }
        )

    def shelf(self, curve: str) -> Shelf:
        return Shelf(self.out / f"seed-{self.seed}" / curve)

    def dataset(self) -> Dataset:
        return images.load(self.data, num_validation=5000, seed=self.seed)

    def weights(self, curve: str, number: int) -> nn.Module:
        """The weights that the ticket of a round is trained from."""
        seed = 1_000_000 + 1000 * self.seed + number if curve == "reinit" else self.seed
        return build(self.experiment.architecture, seed=seed)

    def rounds(self, curve: str, dataset: Dataset, numbers: Sequence[int]) -> Iterator[Line]:
        """The curve's rounds that are not stored yet."""
        if curve in ("reset", "continued"):
            strategy = "lottery_ticket_reset" if curve == "reset" else "lottery_ticket_continue"
            yield from iterate(self.shelf(curve), self.weights(curve, 0), dataset, self.recipe(strategy))
            return
        base = "reset" if curve == "reinit" else "continued"
        shelf, done = self.shelf(curve), {line["number"] for line in self.shelf(curve).lines}
        for number in numbers:
            if number in done or number == 0:
                continue
            recipe = self.recipe("lottery_ticket_reset")
            line = alone(self.shelf(base), number, self.weights(curve, number), dataset, recipe)
            shelf.append(line)
            yield line

    def tests_at_stop(self, curve: str, dataset: Dataset, numbers: Sequence[int]) -> Iterator[Line]:
        """The stored trainings again, ended at the early-stopping step."""
        base = {"reset": "reset", "reinit": "reset", "continued_ticket": "continued"}[curve]
        shelf = self.shelf(f"{curve}_at_stop")
        done = {line["number"] for line in shelf.lines}
        for stored in self.shelf(curve).lines:
            number, stop = stored["number"], stored["early_stopping"]
            if number in done or (number not in numbers and curve != "reset"):
                continue
            recipe = self.recipe("lottery_ticket_reset", steps=stop["step"])
            line = alone(self.shelf(base), number, self.weights(curve, number), dataset, recipe)
            if line["metrics"]["validation"] != stop["metrics"]:
                raise SystemExit(f"{curve}, seed {self.seed}, round {number}: trained again, it is not the same")
            shelf.append(line)
            yield line


def main(experiment: Experiment = LENET) -> None:
    parser = argparse.ArgumentParser(description=experiment.title)
    parser.add_argument("--data", type=Path, required=True, help="npz, or a folder of idx or CIFAR-10 .bin files")
    parser.add_argument("--out", type=Path, required=True, help="finished rounds are stored here, and gone on from")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=10_000, help="of each round")
    parser.add_argument("--full", action="store_true", help=f"the paper's {experiment.full_steps} steps")
    parser.add_argument("--rounds", type=int, default=19, help="after round 0, the dense network")
    parser.add_argument("--curves", nargs="+", choices=CURVES, default=CURVES)
    parser.add_argument("--control-rounds", type=int, nargs="+", help="of reinit and continued_ticket; default: all")
    parser.add_argument("--stop-test", action="store_true", help="test accuracy at the early-stopping step")
    parser.add_argument("--report", action="store_true", help="train nothing: write table and plot of what is stored")
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    numbers = given.control_rounds or range(1, given.rounds + 1)
    steps = experiment.full_steps if given.full else given.steps
    out = given.out / f"steps-{steps}"

    for seed in () if given.report else range(given.seeds):
        run = Run(experiment, given.data, out, seed, steps, given.rounds)
        dataset = run.dataset()
        for curve in given.curves:
            for line in run.rounds(curve, dataset, numbers):
                say(seed, curve, line)
        for curve in given.curves if given.stop_test else ():
            if curve != "continued":
                for line in run.tests_at_stop(curve, dataset, numbers):
                    say(seed, f"{curve} again to its stop", line)
    table = lottery_table(out)
    (out / "table.md").write_text(table)
    draw_lottery(out, f"{experiment.title}, {steps:,} steps a round")
    print(table)


def say(seed: int, curve: str, line: Line) -> None:
    validation, test = (line["metrics"][split]["accuracy"] for split in ("validation", "test"))
    print(
        f"seed {seed} {curve} round {line['number']}: {line['remaining']:.1%} remain, validation {validation:.4f}, "
        f"test {test:.4f}, stop at {line['early_stopping']['step']}, {line['cpu_seconds']} CPU seconds",
        flush=True,
    )


if __name__ == "__main__":
    main()
