"""Stopped between any two steps and taken up from a file, a job ends with the bits it would have had."""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from pruning.checkpoints import Checkpoint, Misfit
from pruning.data import Dataset
from pruning.formats.checkpoints import read_checkpoint, size_bytes, write_checkpoint
from pruning.formats.errors import FormatError
from pruning.iterative import Resume, Round, Stored, prune_iteratively
from pruning.pruner import Pruner
from pruning.recipe import Recipe

ADAM = {"name": "adam", "lr": 0.01, "weight_decay": 0.05}
CROPPED = {"flip": True, "crop_padding": 1}
REWIND = {"weights": "rewind", "step": 4, "learning_rate": "rewind", "optimizer_state": "keep"}
CONTROLS = ["random_reinit", "random_mask"]

STUDIES: dict[str, dict[str, Any]] = {
    "dropnet": {
        "strategy": "dropnet",
        "schedule": {"fraction": 0.3},
        "stop": {"rounds": 2},
        "training": {"epochs": 5, "optimizer": ADAM, "early_stopping": {"patience": 2}, "augmentation": CROPPED},
    },
    "lottery ticket, reset": {
        "strategy": "lottery_ticket_reset",
        "schedule": {"fraction": 0.5},
        "stop": {"rounds": 2},
        "controls": CONTROLS,
        "training": {
            "steps": 13,
            "optimizer": ADAM,
            "evaluate_every_steps": 3,
            "early_stopping": {"patience": 2},
            "augmentation": CROPPED,
            "learning_rate": {"kind": "cosine", "warmup_steps": 2},
            "recalibrate_batch_norm": True,
        },
    },
    "lottery ticket, continue": {
        "strategy": "lottery_ticket_continue",
        "schedule": {"fraction": 0.5},
        "stop": {"rounds": 2},
        "between_rounds": {"weights": "continue", "learning_rate": "continue", "optimizer_state": "keep"},
        "training": {"steps": 11, "optimizer": {"name": "sgd", "lr": 0.05, "momentum": 0.9}, "augmentation": CROPPED},
    },
    "ended by patience": {
        "strategy": "lottery_ticket_reset",
        "schedule": {"fraction": 0.5},
        "stop": {"rounds": 2},
        "training": {
            "steps": 30,
            "optimizer": {"name": "sgd", "lr": 4.0},
            "evaluate_every_steps": 2,
            "early_stopping": {"patience": 3},
        },
    },
    "all that is carried": {
        "strategy": "lottery_ticket_reset",
        "schedule": {"fraction": 0.5},
        "stop": {"rounds": 2},
        "between_rounds": REWIND,
        "finally": {"weights": "rewind", "train": True},
        "controls": CONTROLS,
        "training": {
            "steps": 12,
            "optimizer": ADAM,
            "evaluate_every_steps": 4,
            "early_stopping": {"patience": 1},
            "channels_last": True,
            "distillation": {},
        },
    },
}


class Stop(Exception):
    pass


@dataclasses.dataclass
class Shelf:
    """What is stored of a job, and what stops it: as a worker has it, in one process."""

    model: nn.Module
    dataset: Dataset
    recipe: Recipe
    folder: Path
    rounds: list[Round] = dataclasses.field(default_factory=list)
    saved: Checkpoint | None = None
    steps: list[tuple[int, str | None, int]] = dataclasses.field(default_factory=list)

    def run(self, stop_after: int | None = None) -> None:
        """Until so many steps were offered; then the last offer is written, read, and what follows goes on from it."""
        offers = 0

        def offer(make: Callable[[], Checkpoint]) -> None:
            nonlocal offers
            offers += 1
            if offers == stop_after:
                path = self.folder / "checkpoint"
                made = make()
                write_checkpoint(path, made)
                self.saved = read_checkpoint(path)
                self.steps.append((made.position, made.control, made.step))
                assert self.saved.step == made.step
                assert size_bytes(made) <= path.stat().st_size
                raise Stop

        torch.manual_seed(random.randrange(1 << 30))  # what forgets its own seed would show
        resume = Resume([round_.record for round_ in self.rounds], self._load)
        checkpoint, self.saved = self.saved, None
        for round_ in prune_iteratively(
            self.model, self.dataset, self.recipe, resume=resume, checkpoint=checkpoint, offer=offer
        ):
            self.rounds.append(round_)

    def _load(self, position: int) -> Stored:
        found = self.rounds[position]
        return Stored(*({k: t.clone() for k, t in part.items()} for part in (found.state, found.masks, found.ticket)))

    def run_stopped(self, moments: list[int]) -> None:
        for moment in moments:
            try:
                self.run(moment)
            except Stop:
                continue
            return
        self.run()


@pytest.fixture
def shelf(toy_conv, make_dataset, tmp_path) -> Callable[..., Shelf]:
    def make(study: dict[str, Any], **changes: Any) -> Shelf:
        recipe = Recipe.model_validate({**study, "training": {"batch_size": 16, **study["training"]}} | changes)
        return Shelf(toy_conv, make_dataset((1, 4, 4), 3, 48), recipe, tmp_path)

    return make


def bits(tensors: dict[str, Tensor] | None) -> dict[str, bytes]:
    return {key: tensor.contiguous().numpy().tobytes() for key, tensor in sorted((tensors or {}).items())}


def result(round_: Round) -> dict[str, Any]:
    """All of a round but the time it took."""
    told = {name: getattr(round_, name) for name in ("number", "metrics", "early_stopping", "steps", "controls")}
    tensors = {name: bits(getattr(round_, name)) for name in ("state", "masks", "ticket", "optimizer")}
    return {**told, **tensors, "timed": sorted(round_.seconds)}


@pytest.mark.parametrize("study", STUDIES.values(), ids=STUDIES)
def test_stopped_at_any_moments_ends_with_the_same_bits(study: dict[str, Any], shelf: Callable[..., Shelf]) -> None:
    """Twenty of them, drawn: before the first step of a training, in its midst, after its last, in controls."""
    whole = shelf(study)
    whole.run()
    assert len(whole.rounds) >= 3
    chance = random.Random(5)
    stops = 0
    while stops < 20:
        stopped = shelf(study)
        stopped.run_stopped([chance.randint(2, 12) for _ in range(40)])
        stops += len(stopped.steps)
        assert [result(r) for r in stopped.rounds] == [result(r) for r in whole.rounds]
        assert stopped.steps == sorted(stopped.steps, key=lambda s: (s[0], s[2])), "work only adds up"
    if study is STUDIES["ended by patience"]:
        assert all(6 < round_.steps < 30 for round_ in whole.rounds), [round_.steps for round_ in whole.rounds]
    if study.get("controls"):
        assert {control for _, control, _ in stopped.steps} == {None, *CONTROLS}


@pytest.fixture
def stopped(shelf: Callable[..., Shelf]) -> Shelf:
    """In round 1's first control: 14 offers of round 0, 13 steps of round 1."""
    study = STUDIES["lottery ticket, reset"]
    training = {**study["training"], "batch_size": 16, "early_stopping": None}
    made = shelf(study, training=training)
    with pytest.raises(Stop):
        made.run(14 + 14 + 5)
    assert made.saved is not None
    assert (made.saved.position, made.saved.control, made.saved.midway.step) == (1, "random_reinit", 4)
    return made


def with_first(tensors: dict[str, Tensor], change: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    name = next(iter(tensors))
    return {**tensors, name: change(tensors[name])}


MISFITS: dict[str, tuple[str, Callable[[Checkpoint], Checkpoint]]] = {
    "recipe": ("another recipe", lambda c: dataclasses.replace(c, recipe="0" * 64)),
    "position": ("of position 2, not 1", lambda c: dataclasses.replace(c, position=2)),
    "number": ("of round 2", lambda c: dataclasses.replace(c, number=2)),
    "final": ("of the final entry, which does not follow", lambda c: dataclasses.replace(
        c, number=None, control=None, measured=None)),
    "step": ("at step 14", lambda c: dataclasses.replace(c, midway=dataclasses.replace(c.midway, step=14))),
    "control": ("no control to train now", lambda c: dataclasses.replace(c, control="random_mask")),
    "no control": ("of a control, or of none", lambda c: dataclasses.replace(c, control=None)),
    "unmeasured": ("of a control, or of none", lambda c: dataclasses.replace(c, measured=None)),
    "shape": ("not as the model's", lambda c: dataclasses.replace(
        c, midway=dataclasses.replace(c.midway, state=with_first(c.midway.state, lambda t: t[:1])))),
    "keys": ("other keys", lambda c: dataclasses.replace(c, midway=dataclasses.replace(c.midway, state={}))),
    "alive": ("are not zero", lambda c: dataclasses.replace(
        c, measured=dataclasses.replace(c.measured, state={k: t + 1 for k, t in c.measured.state.items()}))),
    "slots": ("none of this model's", lambda c: dataclasses.replace(
        c, midway=dataclasses.replace(c.midway, optimizer={"other/step": torch.tensor(1.0)}))),
    "half an optimiser": ("its optimiser is not adam", lambda c: dataclasses.replace(
        c, midway=dataclasses.replace(c.midway, optimizer=dict(list(c.midway.optimizer.items())[1:])))),
    "foreign mask": ("its mask other", lambda c: dataclasses.replace(c, masks={"other": torch.ones(2).bool()})),
    "no masks": ("of other layers", lambda c: dataclasses.replace(c, masks={})),
    "another count": ("pruned another number", lambda c: dataclasses.replace(
        c, masks=with_first(c.masks, lambda mask: mask | True))),
}  # fmt: skip


@pytest.mark.parametrize(("reason", "change"), MISFITS.values(), ids=MISFITS)
def test_what_does_not_fit_is_refused_before_any_training(
    reason: str, change: Callable[[Checkpoint], Checkpoint], stopped: Shelf
) -> None:
    stopped.saved = change(stopped.saved)
    with pytest.raises(Misfit, match=reason):
        stopped.run(1)
    assert len(stopped.rounds) == 1
    assert stopped.steps == [(1, "random_reinit", 17)]


def test_a_checkpoint_of_a_round_that_is_stored_is_refused(stopped: Shelf) -> None:
    late, stopped.saved = stopped.saved, None
    stopped.run()
    del stopped.rounds[2:]
    stopped.saved = late
    with pytest.raises(Misfit, match="of position 1, not 2"):
        stopped.run()


def test_pruning_is_not_repeated_but_checked(stopped: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    pruned, checked = [], []
    prune, check = Pruner.prune, Pruner.check
    monkeypatch.setattr(Pruner, "prune", lambda *args: (pruned.append(args[2]), prune(*args))[1])
    monkeypatch.setattr(Pruner, "check", lambda *args: (checked.append(args[3]), check(*args))[1])
    stopped.run()
    assert (pruned, checked) == ([2], [1, 2])


def rewrite(path: Path, change: Callable[[dict[str, Any], dict[str, Tensor]], object]) -> None:
    with safetensors.safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["checkpoint"])
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    change(header, tensors)
    safetensors.torch.save_file(tensors, path, metadata={"checkpoint": json.dumps(header)})


DAMAGES: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "cut off": lambda path: path.write_bytes(path.read_bytes()[:-100]),
    "pickle": lambda path: path.write_bytes(b"\x80\x04" + b"x" * 100),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "missing": lambda path: path.unlink(),
    "weights": lambda path: safetensors.torch.save_file({"a": torch.zeros(1)}, path),
    "no JSON": lambda path: safetensors.torch.save_file({}, path, metadata={"checkpoint": "{"}),
    "deep JSON": lambda path: safetensors.torch.save_file({}, path, metadata={"checkpoint": "[" * 200_000}),
    "another version": lambda path: rewrite(path, lambda h, _: h.update(version=2)),
    "another field": lambda path: rewrite(path, lambda h, _: h.update(code="1")),
    "a step below 0": lambda path: rewrite(path, lambda h, _: h["midway"].update(step=-1)),
    "no number": lambda path: rewrite(path, lambda h, _: h.update(seconds=float("nan"))),
    "a mask missing": lambda path: rewrite(path, lambda _, t: [t.pop(k) for k in list(t) if k.startswith("masks/")]),
    "a mask of all memory": lambda path: rewrite(path, lambda h, _: h["shapes"].update({"fc1.weight": [1 << 40]})),
    "a mask of floats": lambda path: rewrite(path, lambda _, t: t.update({"masks/fc1.weight": torch.ones(12)})),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_file_is_said_to_be_one(damage: Callable[[Path], object], stopped: Shelf) -> None:
    path = stopped.folder / "checkpoint"
    damage(path)
    with pytest.raises(FormatError, match="checkpoint: it cannot be read"):
        read_checkpoint(path)
