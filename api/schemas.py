"""What a caller sends as JSON. The recipe is its own type: `pruning.recipe`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from pruning.recipe import Recipe, refused_at
from pruning.selection import Gate, Select
from pruning.training_options import METRICS_OF_LOSS
from store.queue import INTAKE

ArtifactKind = Literal[
    "model", "masks", "ticket", "sparse", "program", "onnx",
    "reduced_program", "reduced_model", "reduced_onnx", "plan", "card",
]  # fmt: skip

REDUCED = ("reduced_program", "reduced_model", "plan")
"""Kinds that `recipe.materialize` makes where nothing else is said."""
NEED_REMOVAL = (*REDUCED, "reduced_onnx")
NEED_ONNX = ("onnx", "reduced_onnx")
"""Kinds that take a worker with the extra `onnx`."""


def _not_intake(name: str) -> str:
    if name == INTAKE:
        raise ValueError(f"{INTAKE} is the queue of uploads; name the pool otherwise")
    return name


_YEAR_SECONDS = 366 * 24 * 3600
_NO_NUL = r"^[^\x00]*$"  # PostgreSQL stores no NUL in a text

Reference = Annotated[str, StringConstraints(pattern=r"^[a-z]{2,4}_[0-9a-z]{1,32}$")]
PoolName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,59}$"), AfterValidator(_not_intake)]
Seconds = Annotated[float, Field(gt=0, le=_YEAR_SECONDS)]
Priority = Annotated[int, Field(ge=-100, le=100)]
MetadataKey = Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=_NO_NUL)]
MetadataValue = Annotated[str, StringConstraints(max_length=512, pattern=_NO_NUL)]


class JobRequest(BaseModel):
    """One recipe on one model and dataset."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    model: Reference = Field(description="a ready model")
    dataset: Reference = Field(description="a ready dataset")
    recipe: Recipe
    gates: list[Gate] = Field(
        default_factory=list, max_length=20, description="all must pass, or the conclusion is gate_failed"
    )
    select: Select = Field("smallest_passing", description="which round the job returns")
    pool: PoolName | None = Field(None, description="the workers that may take it; null: the service's default pool")
    priority: Priority = Field(0, description="higher goes first")
    queue_timeout_seconds: Seconds | None = Field(None, description="fails when it waited this long; null: waits")
    deadline_seconds: Seconds | None = Field(None, description="fails this long after it was made; null: never")
    max_failures: int = Field(3, ge=1, le=100, description="lost workers in a row, with no round stored between")
    keep_rounds: Literal["all", "pareto", "selected"] = Field(
        "all",
        description="whose artifacts stay when the job has ended: all rounds', those of the rounds on the Pareto "
        "front, or the selected round's alone. The final entry's stay, and a job that selected no round keeps those of "
        "all. Rounds and their metrics stay in any case",
    )
    expires_in_seconds: Seconds | None = Field(
        None, description="how long after its end its artifacts stay; null: as the service is set up, or for ever"
    )
    artifacts: list[ArtifactKind] | None = Field(
        None,
        min_length=1,
        max_length=20,
        description="what each round offers. Of the selected round alone: program, which torch.export.load reads; "
        "onnx, checked with ONNX Runtime; card, the result as markdown; and with recipe.materialize the network "
        "without its masked units, as reduced_program, reduced_onnx, and reduced_model, its state dict, and plan, the "
        "indices that were kept and what that saved. null: model, masks, ticket and card, program where the model came "
        "as one, and of what recipe.materialize makes all but reduced_onnx",
    )
    cache: Literal["on", "off"] = Field(
        "on",
        description="on: a round that the project has computed is adopted, not computed again; off: all are computed, "
        "and an event, round.disagrees, tells of one that comes out otherwise",
    )
    metadata: dict[MetadataKey, MetadataValue] = Field(
        default_factory=dict, max_length=16, description="your own labels, echoed"
    )

    @field_validator("artifacts")
    @classmethod
    def _removal_is_asked_for(
        cls, artifacts: list[ArtifactKind] | None, info: ValidationInfo
    ) -> list[ArtifactKind] | None:
        recipe = info.data.get("recipe")
        for index, kind in enumerate(artifacts or []):
            if recipe is not None and recipe.materialize is None and kind in NEED_REMOVAL:
                raise refused_at(
                    (index,),
                    PydanticCustomError(
                        "nothing_is_removed",
                        "{kind} is what is left when masked units are cut out; set recipe.materialize to true",
                        {"kind": kind},
                    ),
                )
        return artifacts

    @field_validator("gates")
    @classmethod
    def _gates_are_measured(cls, gates: list[Gate], info: ValidationInfo) -> list[Gate]:
        recipe = info.data.get("recipe")
        if recipe is None:
            return gates
        loss = recipe.training.loss
        for index, gate in enumerate(gates):
            measured = gate.metric.removesuffix("_ratio")
            if measured != "sparsity" and measured not in METRICS_OF_LOSS[loss]:
                raise refused_at(
                    (index, "metric"),
                    PydanticCustomError(
                        "not_measured",
                        "with the loss {loss} there is no {metric}; use one of {metrics}",
                        {"loss": loss, "metric": gate.metric, "metrics": ", ".join(METRICS_OF_LOSS[loss])},
                    ),
                )
        return gates


class JobChange(BaseModel):
    """What of a job can be changed; what is left out stays."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    metadata: dict[MetadataKey, MetadataValue | None] | None = Field(
        None, max_length=32, description="merged into the job's labels; null takes a key out"
    )
    priority: Priority | None = Field(None, description="higher goes first, while the job is queued")
