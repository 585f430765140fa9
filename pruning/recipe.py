"""The recipe: the whole answer to "how to prune", as types.

One object is the HTTP body, the JSON in the database and the argument of the loop. A recipe is eight independent
choices (criterion, granularity, scope, schedule, between rounds, finally, stop, training); a strategy is one row of
defaults in `pruning.strategies`. What a user leaves out is filled in by that row and echoed back.

Torch-free: the API reads this module.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    Field,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError
from typing_extensions import TypedDict  # pydantic asks for this one before Python 3.12

from pruning.strategies import STRATEGIES, merge
from pruning.training_options import METRICS_OF_LOSS, Section, Training

UNIT_CRITERIA = frozenset({"activation", "apoz"})
"""Criteria that score only units: a single weight has no activation."""
N_OF_M = {"2:4": (2, 4), "4:8": (4, 8)}
"""Granularities of which n of every m neighbouring weights stay."""

MAX_ROUNDS = 200


def refused_at(field: tuple[str | int, ...], error: PydanticCustomError) -> ValidationError:
    """To be raised in a validator: the error of a field within what it validates, told as that field's own."""
    return ValidationError.from_exception_data("recipe", [InitErrorDetails(type=error, loc=field, input=None)])


class Criterion(Section):
    """The score of a weight or unit. Low scores are pruned, unless `keep` is low."""

    name: Literal["magnitude", "random", "activation", "apoz", "taylor", "snip", "grasp", "synflow", "wanda"]
    keep: Literal["high", "low"] = "high"


class LayerOverride(Section):
    rate: float | None = Field(None, gt=0, le=5, description="multiplies the schedule's fraction (layerwise only)")
    ignore: bool = Field(False, description="the layer is neither pruned nor counted")
    min_units: int = Field(1, ge=1, description="units that always stay (granularity unit)")


class Scope(Section):
    """Where scores compete: within each layer, over the whole network, within each output row, or within each layer
    with the layers' shares by their shapes (erk: Evci et al. 2020, Erdos-Renyi-Kernel).

    Keys of `overrides` are module paths; the key `output` is the layer found by walking back from the graph's output.
    """

    kind: Literal["layerwise", "global", "row", "erk"]
    overrides: dict[str, LayerOverride] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _rates_are_layerwise(self) -> Self:
        if self.kind != "layerwise":
            sharing = "the rows of a layer compete alone" if self.kind == "row" else "all layers share one count"
            for layer, override in self.overrides.items():
                if override.rate is not None:
                    raise refused_at(
                        ("overrides", layer, "rate"),
                        PydanticCustomError(
                            "rate_needs_layerwise",
                            "overrides.{layer}.rate has no meaning where {sharing}; "
                            "set scope.kind to layerwise, or use ignore",
                            {"layer": layer, "sharing": sharing},
                        ),
                    )
        return self


class FractionSchedule(Section):
    """Each round prunes `fraction` of what remains, or of what there was: see `pruning.budgets.count_to_prune`."""

    kind: Literal["fraction"] = "fraction"
    fraction: float = Field(gt=0, lt=1)
    of: Literal["remaining", "original"] = "remaining"


class OneShotSchedule(Section):
    """All of it in round 1."""

    kind: Literal["one_shot"]
    sparsity: float = Field(gt=0, lt=1, description="fraction removed")


class GeometricSchedule(Section):
    """The same fraction of what remains each round, such that `rounds` of them end at `sparsity`."""

    kind: Literal["geometric"]
    sparsity: float = Field(gt=0, lt=1, description="fraction removed after the last round")
    rounds: int = Field(ge=1, le=MAX_ROUNDS)


class PolynomialSchedule(Section):
    """s_r = s (1 - (1 - r / rounds)^power): fast at first, slow at the end (Zhu & Gupta 2017, with power 3)."""

    kind: Literal["polynomial"]
    sparsity: float = Field(gt=0, lt=1, description="fraction removed after the last round")
    rounds: int = Field(ge=1, le=MAX_ROUNDS)
    power: float = Field(3.0, gt=0, le=10)


class _Kind(TypedDict, total=False):
    kind: Literal["fraction", "one_shot", "geometric", "polynomial"]


_KIND: TypeAdapter[_Kind] = TypeAdapter(_Kind)


def _of_its_kind(given: Any) -> Any:
    """What is wrong with a schedule is told of its own kind alone, and not of every kind that there is."""
    if isinstance(given, BaseModel):
        return given
    return _SCHEDULES[_KIND.validate_python(given).get("kind", "fraction")].model_validate(given)


_SCHEDULES: dict[str, type[FractionSchedule | OneShotSchedule | GeometricSchedule | PolynomialSchedule]] = {
    "fraction": FractionSchedule,
    "one_shot": OneShotSchedule,
    "geometric": GeometricSchedule,
    "polynomial": PolynomialSchedule,
}
SCHEDULE_KINDS = tuple(_SCHEDULES)
Schedule = Annotated[
    FractionSchedule | OneShotSchedule | GeometricSchedule | PolynomialSchedule, BeforeValidator(_of_its_kind)
]


class BetweenRounds(Section):
    """What survives from the trained network of one round into the training of the next."""

    weights: Literal["reset", "rewind", "continue", "reinit"] = Field(
        description="the first weights; those of round 0 at `step`; the trained ones; newly drawn ones"
    )
    step: int | None = Field(None, ge=1, le=10_000_000, description="of round 0's training; rewind only")
    learning_rate: Literal["restart", "rewind", "continue", "constant"] = Field(
        "restart",
        description="the whole schedule again; from `step` on; one schedule over all rounds; its last value",
    )
    optimizer_state: Literal["fresh", "keep"] = "fresh"

    @model_validator(mode="after")
    def _step_is_to_rewind(self) -> Self:
        rewinds = "rewind" in (self.weights, self.learning_rate)
        if rewinds and self.step is None:
            raise PydanticCustomError("rewind_needs_step", "rewinding needs a step of round 0's training; set step")
        if not rewinds and self.step is not None:
            raise PydanticCustomError("step_without_rewind", "step is where a rewind goes to; leave it out")
        return self


class Finally(Section):
    """One more, unnumbered entry after the last round, trained or not: other weights, under the masks of the last round
    that passed the accuracy floor, or of the last one where there is none. Gates and `select` come later."""

    weights: Literal["none", "reset", "rewind", "reinit"] = "none"
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
    """The loop ends at the first of these that holds, or where the schedule ends."""

    rounds: int | None = Field(None, ge=0, le=MAX_ROUNDS, description="0: the dense network alone")
    sparsity: float | None = Field(None, gt=0, lt=1, description="fraction removed")
    accuracy_floor: AccuracyFloor | None = None
    seconds: float | None = Field(None, gt=0, description="that the rounds took, evaluations included")
    patience: int | None = Field(
        None, ge=1, description="rounds in a row without a better validation accuracy (loss, where there is none)"
    )

    @property
    def says_nothing(self) -> bool:
        return all(value is None for _, value in self)


class Sensitivity(Section):
    """What the dense network loses where one layer alone is pruned, to each of these sparsities: `pruning.sensitivity`.

    Measured on the validation split behind round 0, by the recipe's own criterion and granularity.
    """

    sparsities: list[Annotated[float, Field(gt=0, lt=1)]] = Field(
        default=[0.2, 0.4, 0.6, 0.8, 0.9, 0.95], min_length=1, max_length=20, description="fractions removed, rising"
    )

    @field_validator("sparsities")
    @classmethod
    def _rise(cls, sparsities: list[float]) -> list[float]:
        if any(later <= earlier for earlier, later in pairwise(sparsities)):
            raise PydanticCustomError("sparsities_rise", "give the sparsities in rising order, each once")
        return sparsities


class Materialize(Section):
    """Units that are masked are cut out of the selected round at the end: `pruning.removal`."""

    round_to: int = Field(1, ge=1, le=1024, description="widths stay multiples of it, which hardware may like")


class Recipe(Section):
    strategy: str | None = Field(None, description="a row of GET /v1/strategies; null: everything is given here")
    criterion: Criterion
    granularity: Literal["weight", "unit", "2:4", "4:8"] = Field(
        "weight", description="n:m keeps n of every m weights along the inputs"
    )
    scope: Scope
    schedule: Schedule
    between_rounds: BetweenRounds
    finally_: Finally = Field(default_factory=Finally, alias="finally")
    stop: Stop
    training: Training
    controls: list[Literal["random_reinit", "random_mask"]] = Field(
        default_factory=list,
        max_length=2,
        description="trained beside each pruned round and never fed back: its masks on newly drawn weights; as many "
        "weights of each layer (row, group of m) at random, on the first weights",
    )
    materialize: Materialize | None = Field(
        None, description="cut masked units out at the end; true: as they are (artifacts reduced_*, plan)"
    )
    sensitivity: Sensitivity | None = Field(
        None, description="behind round 0, each layer pruned alone; true: to the sparsities that are usual"
    )
    seed: int = Field(0, ge=0, lt=2**63)

    @field_validator("materialize", "sensitivity", mode="before")
    @classmethod
    def _yes_or_no(cls, given: Any) -> Any:
        return ({} if given else None) if isinstance(given, bool) else given

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
        if criterion is None:
            return granularity
        if granularity != "unit" and criterion.name in UNIT_CRITERIA:
            raise PydanticCustomError(
                "criterion_scores_units",
                "the criterion {name} scores units, not single weights; set granularity to unit",
                {"name": criterion.name},
            )
        return granularity

    @field_validator("scope")
    @classmethod
    def _scope_fits_granularity(cls, scope: Scope, info: ValidationInfo) -> Scope:
        granularity = info.data.get("granularity")
        if granularity == "unit" and scope.kind in ("row", "erk"):
            raise PydanticCustomError(
                "scope_of_weights",
                "scope {kind} compares single weights; set it to layerwise or global for units",
                {"kind": scope.kind},
            )
        if granularity in N_OF_M and scope.kind != "layerwise":
            raise PydanticCustomError(
                "scope_of_n_of_m",
                "with {granularity} every {m} neighbours compete among themselves; set scope.kind to layerwise",
                {"granularity": granularity, "m": N_OF_M[granularity][1]},
            )
        for layer, override in scope.overrides.items():
            if granularity not in (None, "unit") and override.min_units > 1:
                raise refused_at(
                    ("overrides", layer, "min_units"),
                    PydanticCustomError(
                        "min_units_of_units",
                        "overrides.{layer}.min_units has no meaning where single weights are pruned; leave it out, or "
                        "set granularity to unit",
                        {"layer": layer},
                    ),
                )
        return scope

    @field_validator("schedule")
    @classmethod
    def _schedule_fits(cls, schedule: Any, info: ValidationInfo) -> Any:
        granularity = info.data.get("granularity")
        if granularity in N_OF_M:
            n, m = N_OF_M[granularity]
            if schedule.kind != "one_shot" or schedule.sparsity != 1 - n / m:
                raise PydanticCustomError(
                    "schedule_of_n_of_m",
                    "{granularity} is reached at once; set schedule to one_shot with sparsity {sparsity}",
                    {"granularity": granularity, "sparsity": 1 - n / m},
                )
        return schedule

    @field_validator("stop")
    @classmethod
    def _something_ends_it(cls, stop: Stop, info: ValidationInfo) -> Stop:
        schedule = info.data.get("schedule")
        # A schedule that was refused is not there: whether it would have ended the job is not known.
        if stop.says_nothing and schedule is not None and schedule.kind == "fraction":
            raise PydanticCustomError(
                "nothing_stops",
                "nothing would end the job: give at least one of rounds, sparsity, accuracy_floor, seconds, patience",
            )
        goal = getattr(schedule, "sparsity", None)
        if stop.sparsity is not None and goal is not None and stop.sparsity > goal:
            raise refused_at(
                ("sparsity",),
                PydanticCustomError(
                    "stop_behind_schedule",
                    "stop.sparsity {stop} is more than the schedule's {goal}, which ends there; leave it out",
                    {"stop": stop.sparsity, "goal": goal},
                ),
            )
        rounds = getattr(schedule, "rounds", None)
        if stop.rounds is not None and rounds is not None and stop.rounds < rounds:
            raise refused_at(
                ("rounds",),
                PydanticCustomError(
                    "stop_before_schedule",
                    "stop.rounds {stop} ends the job before the schedule's {rounds} rounds reach their sparsity; "
                    "set schedule.rounds to {stop}, or leave stop.rounds out",
                    {"stop": stop.rounds, "rounds": rounds},
                ),
            )
        return stop

    @field_validator("controls")
    @classmethod
    def _controls_have_the_rounds_budget(cls, controls: list[str], info: ValidationInfo) -> list[str]:
        between = info.data.get("between_rounds")
        if controls and between is not None and between.weights == "continue":
            raise PydanticCustomError(
                "controls_begin_anew",
                "a control trains one round from its first step, where between_rounds.weights continue has trained all "
                "rounds before; set that to reset, rewind or reinit, or leave controls out",
            )
        return controls

    @model_validator(mode="after")
    def _one_schedule_has_an_end(self) -> Self:
        if (
            self.between_rounds.learning_rate == "continue"
            and self.stop.rounds is None
            and self.schedule.kind == "fraction"
        ):
            raise refused_at(
                ("between_rounds", "learning_rate"),
                PydanticCustomError(
                    "rounds_unknown",
                    "one learning-rate schedule over all rounds needs to know how many there are: give stop.rounds, or "
                    "a schedule that ends",
                ),
            )
        return self

    @model_validator(mode="after")
    def _rates_multiply_a_fraction(self) -> Self:
        if self.schedule.kind != "fraction":
            for layer, override in self.scope.overrides.items():
                if override.rate is not None:
                    raise refused_at(
                        ("scope", "overrides", layer, "rate"),
                        PydanticCustomError(
                            "rate_of_a_fraction",
                            "scope.overrides.{layer}.rate multiplies a fraction, which the schedule {kind} does not "
                            "have; set it to null",
                            {"layer": layer, "kind": self.schedule.kind},
                        ),
                    )
        return self

    @field_validator("sensitivity")
    @classmethod
    def _layers_lose_any_number(cls, sensitivity: Sensitivity | None, info: ValidationInfo) -> Sensitivity | None:
        if sensitivity is not None and info.data.get("granularity") in N_OF_M:
            raise PydanticCustomError(
                "sensitivity_of_n_of_m",
                "with {granularity} a layer has one sparsity; set granularity to weight or unit, or leave this out",
                {"granularity": info.data["granularity"]},
            )
        return sensitivity

    @model_validator(mode="after")
    def _floor_is_of_an_accuracy(self) -> Self:
        metrics = METRICS_OF_LOSS[self.training.loss]
        if self.stop.accuracy_floor is not None and "accuracy" not in metrics:
            raise refused_at(
                ("stop", "accuracy_floor"),
                PydanticCustomError(
                    "no_accuracy",
                    "with the loss {loss} there is no accuracy (but {metrics}); set stop.accuracy_floor to null, and "
                    "end the job by rounds, sparsity, seconds or patience; gates may ask for the other metrics",
                    {"loss": self.training.loss, "metrics": ", ".join(metrics)},
                ),
            )
        return self

    @model_validator(mode="after")
    def _steps_lie_within(self) -> Self:
        step, steps = self.between_rounds.step, self.training.steps
        if step is not None and steps is not None and step >= steps:
            raise refused_at(
                ("between_rounds", "step"),
                PydanticCustomError(
                    "rewind_behind_the_end",
                    "between_rounds.step {step} lies behind the {steps} steps that a round trains; lower it",
                    {"step": step, "steps": steps},
                ),
            )
        if self.finally_.weights == "rewind" and self.between_rounds.step is None:
            raise refused_at(
                ("finally", "weights"),
                PydanticCustomError(
                    "rewind_needs_step",
                    "finally.weights rewind needs between_rounds.step; use reset, or rewind there too",
                ),
            )
        return self

    @property
    def rewinds_weights(self) -> bool:
        """Whether any entry begins at round 0's weights at a step; the learning rate alone may be rewound, too."""
        return "rewind" in (self.between_rounds.weights, self.finally_.weights)

    @property
    def needs_round_0(self) -> bool:
        """Whether later rounds go back to round 0: to its weights at a step, or to what it has learnt."""
        return self.rewinds_weights or self.training.distillation is not None

    def to_json(self) -> dict[str, Any]:
        """The recipe in full, under its names on the wire."""
        return self.model_dump(mode="json", by_alias=True)
