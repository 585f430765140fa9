"""How each round trains: the types of the recipe's `training` section. Torch-free: the API reads this module."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

LossName = Literal["cross_entropy", "binary_cross_entropy", "mse", "next_token"]

LOSSES_OF_TASK: dict[str, tuple[LossName, ...]] = {
    "classification": ("cross_entropy",),
    "multi_label": ("binary_cross_entropy", "mse"),
    "regression": ("mse",),
    "tokens": ("next_token",),
}
"""The losses that a dataset's task allows, the first the likeliest. The task is read from the targets: see
`pruning.data.task_of`."""

METRICS_OF_LOSS: dict[LossName, tuple[str, ...]] = {
    "cross_entropy": ("accuracy", "loss"),
    "binary_cross_entropy": ("accuracy", "f1", "loss"),
    "mse": ("loss", "mae", "r2"),
    "next_token": ("accuracy", "loss", "perplexity"),
}
"""What is measured of every split: see `pruning.losses`."""

TASK_OF_LOSS: dict[str, str] = {loss: task for task, losses in LOSSES_OF_TASK.items() for loss in losses}


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, validate_by_name=True, validate_by_alias=True)


class Optimizer(Section):
    name: Literal["sgd", "adam", "adamw"]
    lr: float = Field(gt=0, le=100)
    momentum: float = Field(0.0, ge=0, lt=1, description="sgd only")
    nesterov: bool = Field(False, description="sgd with momentum only")
    weight_decay: float = Field(0.0, ge=0, le=1)

    @model_validator(mode="after")
    def _momentum_is_of_sgd(self) -> Self:
        if self.name != "sgd" and (self.momentum or self.nesterov):
            raise PydanticCustomError(
                "momentum_of_sgd", "{name} has no momentum and no nesterov; leave them out", {"name": self.name}
            )
        if self.nesterov and not self.momentum:
            raise PydanticCustomError("nesterov_needs_momentum", "nesterov needs a momentum above 0; set momentum")
        return self


class LearningRate(Section):
    """A factor on the optimiser's `lr`, by step t of the T steps of a round.

    constant: 1; step: `factor` at each of `milestones` (fractions of T); cosine: (1 + cos(pi t / T)) / 2; one_cycle: up
    from 1/25 over the first 30%, down to 1/250000 by cosines (Smith & Topin 2018). All are multiplied by
    min(1, t / warmup_steps), where warm-up steps are given.
    """

    kind: Literal["constant", "step", "cosine", "one_cycle"] = "constant"
    milestones: list[Annotated[float, Field(gt=0, lt=1)]] = Field(
        default=[0.5, 0.75], min_length=1, max_length=100, description="step only: fractions of the round's steps"
    )
    factor: float = Field(0.1, gt=0, lt=1, description="step only: at each milestone")
    warmup_steps: int = Field(0, ge=0, le=1_000_000)

    @model_validator(mode="after")
    def _one_cycle_warms_up_itself(self) -> Self:
        if self.kind == "one_cycle" and self.warmup_steps:
            raise PydanticCustomError("one_cycle_warms_up", "one_cycle warms up by itself; leave warmup_steps out")
        if self.milestones != sorted(self.milestones):
            raise PydanticCustomError("milestones_in_order", "milestones must rise; sort them")
        return self


class EarlyStopping(Section):
    """Training ends when the validation loss has not improved in `patience` evaluations in a row."""

    patience: int = Field(ge=1)


Channels = Annotated[list[float], Field(min_length=1, max_length=4096)]


class Preprocessing(Section):
    """inputs -> (inputs * scale - mean) / std, per batch, along the first axis of an example where a list is given.

    Left out, uint8 inputs are scaled by 1/255 and floating-point inputs are taken as they are.
    """

    scale: float | None = Field(None, gt=0)
    mean: float | Channels = 0.0
    std: float | Channels = 1.0

    @field_validator("std")
    @classmethod
    def _std_is_positive(cls, std: float | list[float]) -> float | list[float]:
        if min(std if isinstance(std, list) else [std]) <= 0:
            raise PydanticCustomError("std_not_positive", "every std must be greater than 0")
        return std


class Augmentation(Section):
    """Of training batches alone, on the batch tensor (n, channels, height, width), drawn anew each epoch."""

    flip: bool = Field(False, description="left to right, every other example")
    crop_padding: int = Field(0, ge=0, le=64, description="pads with zeros (before scaling) and crops back at random")


class Distillation(Section):
    """loss = (1 - weight) * loss + weight * T^2 * KL(teacher || student), both softened by T (Hinton et al. 2015).

    The teacher is the trained dense network of round 0, in evaluation mode. KL is the mean over examples (next_token:
    over tokens; binary_cross_entropy: over labels, each a coin). mse takes the mean squared difference for
    T^2 * KL, and no temperature.
    """

    weight: float = Field(0.5, gt=0, le=1)
    temperature: float = Field(4.0, gt=0, le=100)


class Training(Section):
    """How each round trains. Exactly one of `steps` and `epochs`; they and `batch_size` are the budget of a round."""

    steps: int | None = Field(None, ge=0, le=10_000_000, description="0: nothing is trained, only measured")
    epochs: int | None = Field(None, ge=1, le=100_000)
    batch_size: int = Field(ge=1, le=65_536)
    optimizer: Optimizer
    learning_rate: LearningRate = Field(default_factory=LearningRate)
    loss: LossName = Field(
        "cross_entropy",
        description="by the dataset's targets: cross_entropy for classes, binary_cross_entropy (or mse) for several "
        "labels, mse for numbers, next_token for tokens",
    )
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="in training only; every evaluation is without")
    evaluate_every_steps: int | None = Field(None, ge=1, description="null: once an epoch")
    early_stopping: EarlyStopping | None = None
    preprocessing: Preprocessing = Field(default_factory=Preprocessing)
    augmentation: Augmentation = Field(default_factory=Augmentation)
    precision: Literal["float32", "bfloat16"] = Field(
        "float32", description="of the forward pass in training (autocast); weights stay float32"
    )
    channels_last: bool = Field(False, description="memory format of image networks: the same numbers, often faster")
    recalibrate_batch_norm: bool = Field(
        False, description="batch-norm statistics measured anew over the training split after each round's training"
    )
    distillation: Distillation | None = None

    @model_validator(mode="after")
    def _one_budget(self) -> Self:
        if (self.steps is None) == (self.epochs is None):
            raise PydanticCustomError("steps_or_epochs", "give exactly one of steps and epochs")
        if self.steps and self.learning_rate.warmup_steps >= self.steps:
            raise PydanticCustomError(
                "warmup_too_long", "learning_rate.warmup_steps leaves no step to train; lower it below steps"
            )
        if self.label_smoothing and self.loss == "mse":
            raise PydanticCustomError("smoothing_of_labels", "mse has no labels to smooth; leave label_smoothing out")
        return self
