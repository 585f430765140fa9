"""Tan & Motani 2020 (DropNet), Model A: two hidden layers on MNIST, whole nodes dropped, by the engine.

    python -m benchmarks.reproduce.dropnet --data PATH --out FOLDER [--sizes 40 40] [--seeds 3] [--epochs 100]

Curves: minimum (drop the least mean activation, DropNet), maximum (drop the greatest) and random, each over the whole
network and layer by layer. SGD 0.1, batch 32, Glorot uniform, zero biases, a tenth of train for validation, p = 0.2;
each round begins at the first weights and ends after `--epochs`, or `--patience` epochs without less validation loss.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.reproduce import images
from benchmarks.reproduce.curves import draw_units, unit_table
from benchmarks.reproduce.shelf import Shelf, iterate
from pruning.randomness import global_stream
from pruning.recipe import Recipe

CRITERIA = {
    "minimum": {"name": "activation", "keep": "high"},
    "maximum": {"name": "activation", "keep": "low"},
    "random": {"name": "random"},
}
SCOPES = {"global": "global", "per layer": "layerwise"}
CURVES = [f"{criterion}, {scope}" for scope in SCOPES for criterion in CRITERIA]


class FullyConnected(nn.Module):
    """784-a-b-10 with ReLU, Glorot uniform weights and zero biases (the paper's Model A, and Keras's default)."""

    def __init__(self, sizes: tuple[int, int], seed: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(784, sizes[0])
        self.fc2 = nn.Linear(sizes[0], sizes[1])
        self.fc3 = nn.Linear(sizes[1], 10)
        with global_stream(seed, "initialisation"):
            for layer in (self.fc1, self.fc2, self.fc3):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.fc1(x.flatten(1)))
        x = torch.relu(self.fc2(x))
        logits: Tensor = self.fc3(x)
        return logits


def recipe(curve: str, seed: int, num_rounds: int, epochs: int, patience: int) -> Recipe:
    criterion, scope = curve.split(", ")
    return Recipe.model_validate(
        {
            "criterion": CRITERIA[criterion],
            "granularity": "unit",
            "scope": {"kind": SCOPES[scope]},
            "schedule": {"kind": "fraction", "fraction": 0.2, "of": "remaining"},
            "between_rounds": {"weights": "reset"},
            "stop": {"rounds": num_rounds},
            "training": {
                "epochs": epochs,
                "batch_size": 32,
                "optimizer": {"name": "sgd", "lr": 0.1},
                "early_stopping": {"patience": patience},
            },
            "seed": seed,
        }
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="DropNet, Model A on MNIST")
    parser.add_argument("--data", type=Path, required=True, help="npz, or a folder of idx files")
    parser.add_argument("--out", type=Path, required=True, help="finished rounds are stored here, and gone on from")
    parser.add_argument("--sizes", type=int, nargs=2, default=(40, 40), help="nodes of the hidden layers")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=100, help="of each round, at most")
    parser.add_argument("--patience", type=int, default=5, help="epochs")
    parser.add_argument("--rounds", type=int, default=12, help="after round 0, the dense network")
    parser.add_argument("--curves", nargs="+", choices=CURVES, default=CURVES)
    parser.add_argument("--report", action="store_true", help="train nothing: write table and plot of what is stored")
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    first, second = given.sizes
    out = given.out / f"fc{first}-fc{second}-epochs-{given.epochs}"
    dataset = images.load(given.data)

    for seed in () if given.report else range(given.seeds):
        for curve in given.curves:
            shelf = Shelf(out / f"seed-{seed}" / curve)
            steps = recipe(curve, seed, given.rounds, given.epochs, given.patience)
            for line in iterate(shelf, FullyConnected((first, second), seed), dataset, steps):
                metrics, units = line["metrics"], line["units"]
                print(
                    f"seed {seed} {curve} round {line['number']}: {'+'.join(map(str, units.values()))} nodes, "
                    f"test {metrics['test']['accuracy']:.4f}, {line['steps']} steps, {line['cpu_seconds']} CPU seconds",
                    flush=True,
                )
    table = unit_table(out, CURVES)
    (out / "table.md").write_text(table)
    draw_units(out, f"DropNet, {first}-{second} nodes on MNIST, at most {given.epochs} epochs a round", CURVES)
    print(table)


if __name__ == "__main__":
    main()
