"""What a criterion may read besides the model and its masks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from pruning.data import Split, preprocessor
from pruning.training_options import Preprocessing
from pruning.units import UnitGroup

Scores = dict[str, Tensor]
"""By parameter, one score a weight, or by unit group, one a unit."""

SAMPLE = 4096
"""Training examples that gradients are taken of, at most: drawn by the seed, without repetition."""
SAMPLE_BATCH = 256


@dataclass(frozen=True)
class Evidence:
    """
    Attributes:
        train: the training split; never another. It says on which device the model is, and scores may be.
        groups: the groups whose units are scored; empty where weights are.
        generator: for criteria that draw.
        loss_fn: (outputs, targets) -> mean loss of a batch.
        count: targets of a batch -> what its mean weighs in the mean over the sample: examples, or tokens to predict.
    """

    train: Split
    preprocessing: Preprocessing
    groups: Sequence[UnitGroup]
    generator: torch.Generator
    loss_fn: Callable[[Tensor, Tensor], Tensor] = cross_entropy
    count: Callable[[Tensor], int] = len

    def sample(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of the sample: (inputs as the model takes them, targets).

        A last batch of one example is left out: batch-norm, where a criterion has it in training mode, cannot take it.
        """
        train = self.train
        prepare = preprocessor(self.preprocessing, train.inputs, train.device)
        drawn = torch.randperm(len(train), generator=self.generator)[:SAMPLE]
        if len(drawn) > 1 and len(drawn) % SAMPLE_BATCH == 1:
            drawn = drawn[:-1]
        for chosen in torch.split(drawn, SAMPLE_BATCH):
            inputs = train.inputs[chosen.to(train.inputs.device)]
            yield prepare(train.on_device(inputs)), train.targets[chosen.to(train.device)]
