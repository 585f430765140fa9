"""What a caller sends for a comparison. Its recipes stay as they came: `api.comparing` makes whole ones of them, once
seed, budget, controls and axes are in."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator, model_validator
from pydantic_core import PydanticCustomError

from api.schemas import ArtifactKind, MetadataKey, MetadataValue, PoolName, Priority, Reference, Seconds
from pruning.recipe import refused_at
from pruning.recommending import Goal
from pruning.selection import Gate

MAX_JOBS = 200
"""Of one comparison: a project's own quota comes on top."""
MAX_RECIPES = 50
MAX_SEEDS = 20

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._,:=+%()-]{0,79}$")]
"""Shown in tables, pictures and Markdown: nothing that would be markup there."""
Pointer = Annotated[str, StringConstraints(pattern=r"^(/[^/\x00]{1,64}){1,8}$", max_length=200)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Json = dict[str, Any]


class Asked(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class NamedRecipe(Asked):
    name: Name | None = Field(None, description="null: its strategy's")
    recipe: Json = Field(description="a Recipe, without seed")


class Grid(Asked):
    """Every combination of the axes' values, each put into the recipe."""

    recipe: Json = Field(description="a Recipe, without seed: what all have in common")
    axes: dict[Pointer, Annotated[list[Any], Field(min_length=1, max_length=MAX_JOBS)]] = Field(
        min_length=1, max_length=8, description="from a JSON pointer into the recipe to the values it takes"
    )


class Budget(Asked):
    """What every job may spend, the same for all; exactly one of these. A recipe leaves to it what it sets."""

    steps: int | None = Field(
        None,
        ge=1,
        le=10_000_000,
        description="of training in all entries of a job together, controls aside: each entry gets its equal part, "
        "which sets training.steps",
    )
    steps_per_round: int | None = Field(
        None,
        ge=1,
        le=10_000_000,
        description="of each entry: sets training.steps, the same dense network for all recipes that train alike",
    )
    seconds: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="that the rounds of a job take: sets stop.seconds"
    )

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if sum(value is not None for value in (self.steps, self.steps_per_round, self.seconds)) != 1:
            raise PydanticCustomError("budget_of_one_kind", "give exactly one of steps, steps_per_round and seconds")
        return self


class ComparisonRequest(Asked):
    """Several recipes and seeds on one model and dataset, under one budget."""

    model: Reference = Field(description="a ready model")
    dataset: Reference = Field(description="a ready dataset")
    recipes: list[NamedRecipe] | None = Field(None, min_length=1, max_length=MAX_RECIPES)
    grid: Grid | None = Field(None, description="in place of recipes")
    seeds: list[Seed] = Field(
        default=[0],
        min_length=1,
        max_length=MAX_SEEDS,
        description="each recipe runs with each of them. In one seed all have the same held-out examples, first "
        "weights and order of the data",
    )
    budget: Budget | None = Field(None, description="null: the recipes train each round for the same steps themselves")
    controls: list[Literal["random_mask", "random_reinit"]] = Field(
        default_factory=list,
        max_length=2,
        description="trained beside each pruned round of every recipe that begins its rounds anew",
    )
    goal: Goal | None = Field(
        None, description="what the recommendation has to meet; null: the smallest that keeps 99% of dense accuracy"
    )
    gates: list[Gate] = Field(
        default_factory=list, max_length=20, description="of the recommended round, its means over the seeds"
    )
    pool: PoolName | None = Field(None, description="the workers that may take its jobs; null: the default pool")
    priority: Priority = Field(0, description="of its jobs; higher goes first")
    queue_timeout_seconds: Seconds | None = Field(None, description="of each job")
    deadline_seconds: Seconds | None = Field(None, description="of each job, from when it was made")
    max_failures: int = Field(3, ge=1, le=100, description="of each job")
    expires_in_seconds: Seconds | None = Field(None, description="how long after its end a job's artifacts stay")
    artifacts: list[ArtifactKind] | None = Field(None, min_length=1, max_length=20, description="as of a job")
    cache: Literal["on", "off"] = "on"
    metadata: dict[MetadataKey, MetadataValue] = Field(
        default_factory=dict, max_length=16, description="your own labels: its jobs bear them, too"
    )

    @field_validator("seeds")
    @classmethod
    def _seeds_differ(cls, seeds: list[int]) -> list[int]:
        for index, seed in enumerate(seeds):
            if seed in seeds[:index]:
                message = "the seed {seed} came before; a seed runs once for each recipe"
                raise refused_at((index,), PydanticCustomError("seed_repeated", message, {"seed": seed}))
        return seeds

    @model_validator(mode="after")
    def _recipes_or_grid(self) -> Self:
        if (self.recipes is None) == (self.grid is None):
            raise PydanticCustomError("recipes_or_grid", "give either recipes or a grid, not both")
        return self
