"""Training steps of LeNet-300-100 (batch 60, Adam), each way in a process of its own: `python -m benchmarks.ways WAY`.

After `every` steps a way prints the CPU seconds that they took and waits for a line before it goes on, so that
ways can take turns. Pictures are random bytes of MNIST's shapes, masks keep a fifth of every layer at random.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from benchmarks.measure import cpu_seconds

NUM_EXAMPLES, BATCH_SIZE, LR, DENSITY = 55_000, 60, 0.0012, 0.2
FOREVER = 1_000_000


class Baton:
    """`tick(n)` after n steps: at every `every` steps, says what they cost and waits for the next turn."""

    def __init__(self, every: int) -> None:
        self.every, self.steps = every, 0
        self._wait()

    def tick(self, steps: int = 1) -> None:
        self.steps += steps
        if self.steps % self.every == 0:
            print(cpu_seconds() - self.started, flush=True)
            self._wait()

    def _wait(self) -> None:
        if not sys.stdin.readline():
            raise SystemExit
        self.started = cpu_seconds()


def pictures(num: int = NUM_EXAMPLES) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randint(256, (num, 1, 28, 28), dtype=torch.uint8, generator=generator)
    return inputs, torch.randint(10, (num,), generator=generator)


def masks_of(parameters: Iterable[tuple[str, Tensor]], density: float) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {n: torch.rand(p.shape, generator=generator) < density for n, p in parameters if p.dim() > 1}


def engine(baton: Baton, density: float) -> None:
    """A job's final entry: the masks of a stored round on the first weights, trained."""
    from pruning.data import Dataset, Split
    from pruning.formats.architectures import build
    from pruning.iterative import Resume, Stored, prune_iteratively
    from pruning.recipe import Recipe
    from pruning.selection import RoundRecord

    model = build("lenet_300_100")
    inputs, targets = pictures()
    few = Split(inputs[:100], targets[:100])
    training = {"steps": FOREVER, "evaluate_every_steps": FOREVER, "preprocessing": {"mean": 0.1307, "std": 0.3081}}
    recipe = Recipe.model_validate(
        {
            "strategy": "lottery_ticket_reset",
            "stop": {"rounds": 1},
            "finally": {"weights": "reset", "train": True},
            "training": training,
        }
    )
    stored = Stored(model.state_dict(), masks_of(model.named_parameters(), density))
    records = [RoundRecord(i, i, i * (1 - density), {"accuracy": 1.0, "loss": 0.0}) for i in (0, 1)]
    resume = Resume(records, lambda _: stored)
    dataset = Dataset(Split(inputs, targets), few, few, 10)

    def progress(_number: int | None, _step: int, _steps: int) -> None:
        baton.tick(10)  # as often as the engine says how far it is

    list(prune_iteratively(model, dataset, recipe, resume=resume, progress=progress))


def plain(baton: Baton) -> None:
    """What is usually written: TensorDataset, DataLoader, torch.nn.utils.prune, Adam as it comes."""
    from torch.nn.utils import prune
    from torch.utils.data import DataLoader, TensorDataset

    inputs, targets = pictures()
    pixels = (inputs.float() / 255 - 0.1307) / 0.3081
    loader = DataLoader(TensorDataset(pixels, targets), batch_size=BATCH_SIZE, shuffle=True)
    layers = [nn.Linear(784, 300), nn.Linear(300, 100), nn.Linear(100, 10)]
    model = nn.Sequential(nn.Flatten(), layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2])
    masks = masks_of(model.named_parameters(), DENSITY)
    for layer, mask in zip(layers, masks.values(), strict=True):
        prune.custom_from_mask(layer, "weight", mask.float())
    optimizer = torch.optim.Adam(model.parameters(), lr=LR)
    while True:
        for batch, labels in loader:
            optimizer.zero_grad()
            cross_entropy(model(batch), labels).backward()
            optimizer.step()
            baton.tick()


def open_lth(baton: Baton) -> None:
    """facebookresearch/open_lth's own `train`, on its own MNIST dataset class, loader and pruned model."""
    import numpy

    numpy.product = numpy.prod  # type: ignore[attr-defined] # numpy 2 took the old name away
    _import_torchvision()
    # It derives a class, unused here, from both ABC and this one, whose orders no longer agree.
    torch.nn.parallel.DistributedDataParallel = torch.nn.DataParallel  # type: ignore[misc, assignment]
    # Its packages (`pruning` among them) come before ours on this process's path.
    import datasets.mnist as mnist  # type: ignore
    import models.mnist_lenet as lenet  # type: ignore
    import platforms.local as local  # type: ignore
    import platforms.platform as current  # type: ignore
    from foundations.hparams import TrainingHparams  # type: ignore
    from foundations.step import Step  # type: ignore
    from pruning.mask import Mask  # type: ignore
    from pruning.pruned_model import PrunedModel  # type: ignore
    from training.train import train  # type: ignore

    current._PLATFORM = local.Platform()
    inputs, targets = pictures()
    loader = mnist.DataLoader(mnist.Dataset(inputs[:, 0], targets), batch_size=BATCH_SIZE, num_workers=0)
    model = lenet.Model([300, 100], lambda _: None)
    prunable = set(model.prunable_layer_names)
    masks = masks_of(((n, p) for n, p in model.named_parameters() if n in prunable), DENSITY)
    pruned = PrunedModel(model, Mask(masks))
    settings = TrainingHparams(optimizer_name="adam", lr=LR, training_steps="1000ep", data_order_seed=0)

    def callback(_location: str, step: Any, *_: Any) -> None:
        if step.iteration:
            baton.tick()

    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        train(
            settings, pruned, loader, folder, [callback], end_step=Step.from_epoch(1000, 0, loader.iterations_per_epoch)
        )


def _import_torchvision() -> None:
    """torchvision, also where its compiled operators do not fit this torch: two schemas are all that it asks for."""
    try:
        import torchvision
    except RuntimeError:
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        import torchvision  # noqa: F401

        _import_torchvision.library = library  # type: ignore[attr-defined] # lives as long as its schemas are used


WAYS: dict[str, Callable[[Baton], None]] = {
    "ours": lambda baton: engine(baton, DENSITY),
    "ours, dense": lambda baton: engine(baton, 1.0),
    "plain": plain,
    "open_lth": open_lth,
}

if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    torch.manual_seed(0)
    WAYS[sys.argv[1]](Baton(int(sys.argv[2])))
