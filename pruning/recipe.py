"""The recipe: the whole answer to "how to prune", as types.

One object is the HTTP body, the JSON in the database and the argument of the loop. A recipe is eight independent
choices (criterion, granularity, scope, schedule, between rounds, finally, stop, training); a strategy is one row of
defaults in `pruning.strategies`. What a user leaves out is filled in by that row and echoed back.

Torch-free: the API reads this module.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

from pruning.strategies import STRATEGIES, merge

UNIT_CRITERIA = frozenset({"activation"})
"""Criteria that score only units: a single weight has no activation."""

MAX_ROUNDS = 200


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, validate_by_name=True, validate_by_alias=True)


class Criterion(Section):
    """The score of a weight or unit. Low scores are pruned, unless `keep` is low."""

    name: Literal["magnitude", "activation", "random"]
    keep: Literal["high", "low"] = "high"


class LayerOverride(Section):
    rate: float | None = Field(None, gt=0, le=5, description="multiplies the schedule's fraction (layerwise only)")
    ignore: bool = Field(False, description="the layer is neither pruned nor counted")
    min_units: int = Field(1, ge=1, description="units that always stay (granularity unit)")


class Scope(Section):
    """Where scores compete: within each layer, or over the whole network.

    Keys of `overrides` are module paths; the key `output` is the layer found by walking back from the graph's output.
    """

    kind: Literal["layerwise", "global"]
    overrides: dict[str, LayerOverride] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _rates_are_layerwise(self) -> Self:
        if self.kind == "global":
            for layer, override in self.overrides.items():
                if override.rate is not None:
                    raise PydanticCustomError(
                        "rate_needs_layerwise",
                        "overrides.{layer}.rate has no meaning where all layers compete; "
                        "set scope.kind to layerwise, or use ignore",
                        {"layer": layer},
                    )
        return self


class Schedule(Section):
    """Each round prunes `fraction` of what remains, exactly: see `pruning.schedules.count_to_prune`."""

    kind: Literal["fraction"] = "fraction"
    fraction: float = Field(gt=0, lt=1)
    of: Literal["remaining"] = "remaining"


class BetweenRounds(Section):
    """What survives from the trained network of one round into the training of the next."""

    weights: Literal["reset", "continue"]
    learning_rate: Literal["restart"] = "restart"
    optimizer_state: Literal["fresh"] = "fresh"


class Finally(Section):
    """One more, unnumbered entry after the last round: the selected masks on other weights, trained or not."""

    weights: Literal["none", "reset"] = "none"
    train: bool = False


class AccuracyFloor(Section):
    """A round passes while its validation accuracy a' > factor * a (a: the dense network's), or a' > value."""

    factor: float | None = Field(None, gt=0, le=1)
    value: float | None = Field(None, gt=0, lt=1)
    on_floor: Literal["last_passing", "literal"] = "last_passing"

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if (self.factor is None) == (self.value is None):
            raise PydanticCustomError(
                "floor_is_relative_or_absolute",
                "give either factor (of the dense network's accuracy) or value (an accuracy), not both",
            )
        return self


class Stop(Section):
    """The loop ends at the first of these that holds."""

    rounds: int | None = Field(None, ge=1, le=MAX_ROUNDS)
    sparsity: float | None = Field(None, gt=0, lt=1, description="fraction removed")
    accuracy_floor: AccuracyFloor | None = None

    @model_validator(mode="after")
    def _something_ends_it(self) -> Self:
        if self.rounds is None and self.sparsity is None and self.accuracy_floor is None:
            raise PydanticCustomError(
                "nothing_stops", "give at least one of rounds, sparsity and accuracy_floor: nothing would end the job"
            )
        return self


class Optimizer(Section):
    name: Literal["sgd", "adam"]
    lr: float = Field(gt=0, le=100)
    momentum: float = Field(0.0, ge=0, lt=1, description="sgd only")
    weight_decay: float = Field(0.0, ge=0, le=1)


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


class Training(Section):
    """How each round trains. Exactly one of `steps` and `epochs`; they and `batch_size` are the budget of a round."""

    steps: int | None = Field(None, ge=1, le=10_000_000)
    epochs: int | None = Field(None, ge=1, le=100_000)
    batch_size: int = Field(ge=1, le=65_536)
    optimizer: Optimizer
    loss: Literal["cross_entropy"] = "cross_entropy"
    evaluate_every_steps: int | None = Field(None, ge=1, description="null: once an epoch")
    early_stopping: EarlyStopping | None = None
    preprocessing: Preprocessing = Field(default_factory=Preprocessing)

    @model_validator(mode="after")
    def _one_budget(self) -> Self:
        if (self.steps is None) == (self.epochs is None):
            raise PydanticCustomError("steps_or_epochs", "give exactly one of steps and epochs")
        return self


class Recipe(Section):
    strategy: str | None = Field(None, description="a row of GET /v1/strategies; null: everything is given here")
    criterion: Criterion
    granularity: Literal["weight", "unit"] = "weight"
    scope: Scope
    schedule: Schedule
    between_rounds: BetweenRounds
    finally_: Finally = Field(default_factory=Finally, alias="finally")
    stop: Stop
    training: Training
    seed: int = Field(0, ge=0, lt=2**63)

    @model_validator(mode="before")
    @classmethod
    def _fill_in_from_strategy(cls, given: Any) -> Any:
        if not isinstance(given, dict) or not isinstance(given.get("strategy"), str):
            return given
        # An unknown name is refused by the field's own check, which can name the field; any row's defaults keep that
        # one error from drowning in a dozen of missing fields.
        name = given["strategy"] if given["strategy"] in STRATEGIES else next(iter(STRATEGIES))
        return merge(STRATEGIES[name].defaults, given)

    @field_validator("strategy")
    @classmethod
    def _strategy_exists(cls, name: str | None) -> str | None:
        if name is not None and name not in STRATEGIES:
            raise PydanticCustomError(
                "unknown_strategy",
                "there is no strategy {name}; use one of {known}",
                {"name": repr(name), "known": ", ".join(STRATEGIES)},
            )
        return name

    @field_validator("granularity")
    @classmethod
    def _criterion_scores_it(cls, granularity: str, info: ValidationInfo) -> str:
        criterion = info.data.get("criterion")
        if granularity == "weight" and criterion is not None and criterion.name in UNIT_CRITERIA:
            raise PydanticCustomError(
                "criterion_scores_units",
                "the criterion {name} scores units, not single weights; set granularity to unit",
                {"name": criterion.name},
            )
        return granularity

    def to_json(self) -> dict[str, Any]:
        """The recipe in full, under its names on the wire."""
        return self.model_dump(mode="json", by_alias=True)
