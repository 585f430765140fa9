"""What is stored of a run, so that one that was interrupted goes on at the round after its last.

A curve of one seed is a folder: `rounds.jsonl`, a line for each finished round, and each round's tensors beside it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from pruning.data import Dataset
from pruning.iterative import Resume, Round, Stored, prune_iteratively
from pruning.recipe import Recipe
from pruning.selection import RoundRecord

Line = dict[str, Any]


@dataclass(frozen=True)
class Shelf:
    folder: Path

    @property
    def lines(self) -> list[Line]:
        file = self.folder / "rounds.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def append(self, line: Mapping[str, Any]) -> None:
        """After its tensors: a line says that its round is whole."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "rounds.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")

    def load(self, position: int) -> Stored:
        tensors = load_file(self._file(position))
        parts: dict[str, dict[str, torch.Tensor]] = {"state": {}, "masks": {}}
        for key, tensor in tensors.items():
            part, _, name = key.partition("/")
            parts[part][name] = tensor
        return Stored(parts["state"], parts["masks"])

    def save(self, round_: Round) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        tensors = {f"state/{name}": tensor.contiguous() for name, tensor in round_.state.items()}
        masks = {f"masks/{name}": tensor.contiguous() for name, tensor in round_.masks.items()}
        temporary = self._file(round_.position).with_suffix(".partial")
        save_file(tensors | masks, temporary)
        temporary.rename(self._file(round_.position))

    def until(self, number: int) -> Resume:
        """The rounds 0 to `number`, to go on from."""
        records = [RoundRecord(**line["record"]) for line in self.lines if line["number"] <= number]
        return Resume(records, self.load)

    def _file(self, position: int) -> Path:
        return self.folder / f"round-{position:02d}.safetensors"


def iterate(shelf: Shelf, model: nn.Module, dataset: Dataset, recipe: Recipe) -> Iterator[Line]:
    """The rounds of the recipe that the shelf lacks; each is stored before it is yielded."""
    stored = shelf.lines
    resume = shelf.until(len(stored) - 1) if stored else None
    started = time.process_time()
    for round_ in prune_iteratively(model, dataset, recipe, resume=resume):
        shelf.save(round_)
        line = summary(round_) | {"cpu_seconds": round(time.process_time() - started, 2)}
        shelf.append(line)
        yield line
        started = time.process_time()


def alone(shelf: Shelf, number: int, model: nn.Module, dataset: Dataset, recipe: Recipe) -> Line:
    """The masks of a stored round on the weights of `model`, trained from there: a job's final entry.

    On the first weights that is the round's ticket, trained in isolation; on others, its random reinitialisation.
    """
    parts = {"stop": {"rounds": max(1, number)}, "finally": {"weights": "reset", "train": True}}
    final = Recipe.model_validate(recipe.to_json() | parts)
    started = time.process_time()
    if number == 0:
        round_ = next(prune_iteratively(model, dataset, final))
    else:
        (round_,) = prune_iteratively(model, dataset, final, resume=shelf.until(number))
    return summary(round_) | {"number": number, "cpu_seconds": round(time.process_time() - started, 2)}


def summary(round_: Round) -> Line:
    record = round_.record
    return {
        "number": round_.number,
        "remaining": 1 - round_.sparsity_actual,
        "steps": round_.steps,
        "early_stopping": round_.early_stopping,
        "metrics": round_.metrics,
        "units": None if round_.units is None else {k: len(v) for k, v in round_.units.kept_units.items()},
        "seconds": round_.seconds,
        "record": {"position": record.position, "number": record.number, "sparsity": record.sparsity}
        | {"validation": record.validation},
    }
