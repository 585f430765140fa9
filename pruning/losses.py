"""Losses: what training minimises, and what is measured with it. One row of LOSSES each.

The metrics are one-liners on sums in float64 or int64 that stay on the device until all batches are in, held against
scikit-learn's in the tests. Not torchmetrics: its r2 (1.9) takes deviations below 1e-4 for none, so that targets of the
size of 1e-3 score 1.0 whatever is predicted; and it takes a second of CPU to import.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import (
    binary_cross_entropy_with_logits,
    cross_entropy,
    kl_div,
    log_softmax,
    logsigmoid,
    mse_loss,
    softmax,
)

from pruning.data import Dataset, Split
from pruning.schedules import RecipeRefused
from pruning.training_options import LOSSES_OF_TASK, TASK_OF_LOSS

Metrics = dict[str, float]
Sums = dict[str, Tensor]

IGNORED = -100
"""The target of a token that is not to be predicted."""


@dataclass(frozen=True)
class Loss:
    """
    Attributes:
        training: (outputs, targets, label smoothing) -> the mean that is minimised, a scalar with a gradient.
        distillation: (outputs, the teacher's outputs, targets, temperature T) -> T^2 * KL(teacher || student).
        sums: (outputs, targets) of a batch -> what is added up over batches, in float64 or int64.
        metrics: (the sums over a split, the split) -> its metrics, always with a `loss`, without smoothing.
        count: targets of a batch -> what the batch's mean weighs in a mean over several batches.
    """

    training: Callable[[Tensor, Tensor, float], Tensor]
    distillation: Callable[[Tensor, Tensor, Tensor, float], Tensor]
    sums: Callable[[Tensor, Tensor], Sums]
    metrics: Callable[[Sums, Split], Metrics]
    count: Callable[[Tensor], int] = len


def check_loss(loss: str, dataset: Dataset) -> None:
    """
    Raises:
        RecipeRefused: the loss is not for the task that the dataset's targets state.
    """
    if loss not in LOSSES_OF_TASK[dataset.task]:
        raise RecipeRefused(
            ("training", "loss"),
            f"{loss} is for {TASK_OF_LOSS[loss]} targets, those of the dataset are {dataset.task}; "
            f"set it to {' or '.join(LOSSES_OF_TASK[dataset.task])}",
        )


# cross_entropy: outputs (n, classes) logits, targets (n,) int64.


def _cross_entropy(outputs: Tensor, targets: Tensor, smoothing: float) -> Tensor:
    """Mean of -log softmax(outputs)[target], in nats; smoothed (Szegedy et al. 2016, section 7)."""
    return cross_entropy(outputs, targets, label_smoothing=smoothing)


def _softened(outputs: Tensor, teacher: Tensor, targets: Tensor, temperature: float) -> Tensor:  # noqa: ARG001
    """T^2 times the mean over examples of KL(softmax(teacher / T) || softmax(outputs / T)) (Hinton et al. 2015)."""
    student = log_softmax(outputs / temperature, -1)
    return temperature**2 * kl_div(student, softmax(teacher / temperature, -1), reduction="batchmean")


def _class_sums(outputs: Tensor, targets: Tensor) -> Sums:
    return {
        "loss": cross_entropy(outputs, targets, reduction="sum").double(),
        "correct": (outputs.argmax(1) == targets).sum(),
    }


def _class_metrics(sums: Sums, split: Split) -> Metrics:
    """accuracy: the fraction of examples whose greatest logit is their class's. loss: mean, in nats."""
    return {"accuracy": int(sums["correct"]) / len(split), "loss": float(sums["loss"]) / len(split)}


# binary_cross_entropy: outputs (n, classes) logits, targets (n, classes) of 0 and 1, any dtype.


def _binary_cross_entropy(outputs: Tensor, targets: Tensor, smoothing: float) -> Tensor:
    """Mean over examples and classes, in nats; smoothed: targets y (1 - s) + s / 2."""
    wanted = targets.to(outputs.dtype)
    if smoothing:
        wanted = wanted * (1 - smoothing) + smoothing / 2
    return binary_cross_entropy_with_logits(outputs, wanted)


def _softened_labels(outputs: Tensor, teacher: Tensor, targets: Tensor, temperature: float) -> Tensor:  # noqa: ARG001
    """T^2 times the mean over examples and classes of the KL between two coins, sigmoid(teacher / T) the first's."""
    student, teacher = outputs / temperature, teacher / temperature
    heads = teacher.sigmoid()
    divergence = heads * (logsigmoid(teacher) - logsigmoid(student))
    return temperature**2 * (divergence + (1 - heads) * (logsigmoid(-teacher) - logsigmoid(-student))).mean()


def _label_sums(outputs: Tensor, targets: Tensor) -> Sums:
    said, wanted = outputs > 0, targets > 0.5
    return {
        "loss": binary_cross_entropy_with_logits(outputs, targets.to(outputs.dtype), reduction="sum").double(),
        "both": (said & wanted).sum(0),
        "either": (said | wanted).sum(0),
    }


def _label_metrics(sums: Sums, split: Split) -> Metrics:
    """accuracy: the fraction of all labels that are right (1 - Hamming loss). loss: mean over labels, in nats.

    f1: the mean over classes of 2 tp / (2 tp + fp + fn); classes that neither occur nor are predicted have none.
    """
    both, either = sums["both"].double(), sums["either"].double()
    known = either > 0
    f1 = (2 * both / (both + either))[known]
    count = split.targets.numel()
    return {
        "accuracy": 1 - float((either - both).sum()) / count,
        "f1": float(f1.mean()) if bool(known.any()) else 0.0,
        "loss": float(sums["loss"]) / count,
    }


# mse: outputs (n, outputs), targets (n, outputs), or (n,) for one output.


def _mse(outputs: Tensor, targets: Tensor, smoothing: float) -> Tensor:  # noqa: ARG001
    return mse_loss(outputs, targets.view_as(outputs).to(outputs.dtype))


def _imitation(outputs: Tensor, teacher: Tensor, targets: Tensor, temperature: float) -> Tensor:  # noqa: ARG001
    """Mean squared difference from the teacher; there is nothing that a temperature would soften."""
    return mse_loss(outputs, teacher)


def _number_sums(outputs: Tensor, targets: Tensor) -> Sums:
    errors = outputs.double() - targets.view_as(outputs).double()
    return {"squares": errors.square().sum(0), "absolute": errors.abs().sum()}


def _number_metrics(sums: Sums, split: Split) -> Metrics:
    """loss: mean squared error; mae: mean absolute error; r2: 1 - squared error / squared deviation from the mean.

    All are means over outputs. Of an output whose targets are all the same, r2 is 1 if it is met exactly, else 0.
    """
    targets = split.targets.double().view(len(split), -1)
    deviation = (targets - targets.mean(0)).square().sum(0)
    r2 = torch.where(deviation > 0, 1 - sums["squares"] / deviation, (sums["squares"] == 0).double())
    return {
        "loss": float(sums["squares"].sum()) / targets.numel(),
        "mae": float(sums["absolute"]) / targets.numel(),
        "r2": float(r2.mean()),
    }


# next_token: outputs (n, length, vocabulary) logits, targets (n, length) int64, IGNORED where nothing is predicted.


def _next_token(outputs: Tensor, targets: Tensor, smoothing: float) -> Tensor:
    """Mean over the batch's tokens, in nats; 0 for a batch that has none."""
    total = cross_entropy(
        outputs.flatten(0, 1), targets.flatten(), ignore_index=IGNORED, label_smoothing=smoothing, reduction="sum"
    )
    return total / (targets != IGNORED).sum().clamp(min=1)


def _softened_tokens(outputs: Tensor, teacher: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """As for classes, the mean over the batch's tokens."""
    student = log_softmax(outputs / temperature, -1)
    divergence = kl_div(student, softmax(teacher / temperature, -1), reduction="none").sum(-1)
    told = targets != IGNORED
    return temperature**2 * (divergence * told).sum() / told.sum().clamp(min=1)


def _token_sums(outputs: Tensor, targets: Tensor) -> Sums:
    loss = cross_entropy(outputs.flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="sum")
    return {"loss": loss.double(), "correct": (outputs.argmax(-1) == targets).sum(), "told": (targets != IGNORED).sum()}


def _token_metrics(sums: Sums, split: Split) -> Metrics:  # noqa: ARG001
    """accuracy: the fraction of tokens whose greatest logit is right; loss: mean over tokens, in nats; perplexity: e to
    the loss, at most 1e300."""
    told = int(sums["told"])
    loss = float(sums["loss"]) / told
    # A diverged loss is told as one, not as an overflow; and JSON has no infinity.
    perplexity = min(math.exp(min(loss, 700.0)), 1e300)
    return {"accuracy": int(sums["correct"]) / told, "loss": loss, "perplexity": perplexity}


def _num_told(targets: Tensor) -> int:
    return int((targets != IGNORED).sum())


LOSSES: dict[str, Loss] = {
    "cross_entropy": Loss(_cross_entropy, _softened, _class_sums, _class_metrics),
    "binary_cross_entropy": Loss(_binary_cross_entropy, _softened_labels, _label_sums, _label_metrics),
    "mse": Loss(_mse, _imitation, _number_sums, _number_metrics),
    "next_token": Loss(_next_token, _softened_tokens, _token_sums, _token_metrics, _num_told),
}
