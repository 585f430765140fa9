"""A comparison before it is made: its recipes, whole and fit to be compared, and the jobs that it asks for.

Whatever is wrong is said of the recipe that it is wrong in: `/recipes/1/recipe/schedule/fraction`, or `/grid/...`.
"""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from sqlalchemy.orm import Session

from api.admission import Admitted, admit
from api.comparison_schemas import MAX_JOBS, MAX_RECIPES, ComparisonRequest
from api.problems import Fault, Problem
from api.schemas import JobRequest
from api.validation import MAX_FAULTS, pointer, within
from pruning.recipe import Recipe
from pruning.recommending import Goal
from pruning.training_options import METRICS_OF_LOSS
from store import listing, step_times

_BEGIN_ANEW = ("reset", "rewind", "reinit")
_ODD = re.compile(r"[^A-Za-z0-9 ._,:=+%()-]+")


@dataclass(frozen=True)
class Given:
    """A recipe as it was asked for, and where."""

    name: str
    raw: Mapping[str, Any]
    where: Callable[[Sequence[str | int]], str]
    """From a path into the recipe to a pointer into the request."""


@dataclass(frozen=True)
class Planned:
    """A recipe that runs: in full, with the first seed."""

    name: str
    recipe: Recipe
    admitted: Admitted
    where: Callable[[Sequence[str | int]], str]

    def requests(self, given: ComparisonRequest) -> list[JobRequest]:
        """One for each seed."""
        return [_request(given, self.recipe.model_copy(update={"seed": seed})) for seed in given.seeds]


@dataclass(frozen=True)
class Comparing:
    recipes: list[Planned]
    goal: Goal


def comparing(
    session: Session, project_id: str, given: ComparisonRequest, lock: listing.Lock | None = None
) -> Comparing:
    """All that can be known to be wrong is refused before a row is written. Raises Problem."""
    asked = _from_grid(given) if given.grid is not None else _from_list(given)
    _check_count(given, len(asked))
    _check_names(asked)
    planned = [_plan(session, project_id, given, recipe, lock) for recipe in asked]
    _check_controls(given, planned)
    _check_comparable(given, planned)
    return Comparing(planned, _goal(given, planned))


def _from_list(given: ComparisonRequest) -> list[Given]:
    asked = []
    for index, named in enumerate(given.recipes or []):
        strategy = named.recipe.get("strategy")
        name = named.name or (strategy if isinstance(strategy, str) and strategy else f"recipe {index + 1}")
        asked.append(Given(name[:80], named.recipe, _into("recipes", index, "recipe")))
    return asked


def _into(*prefix: str | int) -> Callable[[Sequence[str | int]], str]:
    return lambda path: pointer([*prefix, *path])


def _from_grid(given: ComparisonRequest) -> list[Given]:
    assert given.grid is not None
    axes = {key: [_unescaped(step) for step in key[1:].split("/")] for key in given.grid.axes}
    for key, values in given.grid.axes.items():
        for index, value in enumerate(values):
            if any(_same(value, before) for before in values[:index]):
                detail = f"the axis {key} has {json.dumps(value)} twice; give each value once"
                raise Problem("invalid_request", detail, param=pointer(["grid", "axes", key, index]))
        for other, path in axes.items():
            if other != key and axes[key][: len(path)] == path:
                detail = f"the axis {key} lies within the axis {other}; put both into the values of {other}"
                raise Problem("invalid_request", detail, param=pointer(["grid", "axes", key]))
    _check_count(given, math.prod(len(values) for values in given.grid.axes.values()))  # before there are so many
    asked: list[Given] = []
    for combination in itertools.product(*(enumerate(values) for values in given.grid.axes.values())):
        raw: Mapping[str, Any] = given.grid.recipe
        for path, (_, value) in zip(axes.values(), combination, strict=True):
            raw = _put(raw, path, value)
        chosen = dict(zip(axes, combination, strict=True))
        asked.append(Given(_grid_name(axes, chosen, len(asked)), raw, _into_grid(axes, chosen)))
    return asked


def _into_grid(
    axes: Mapping[str, Sequence[str]], chosen: Mapping[str, tuple[int, Any]]
) -> Callable[[Sequence[str | int]], str]:
    """What an axis set is the axis's fault, all else the common recipe's."""

    def where(path: Sequence[str | int]) -> str:
        for key, steps in axes.items():
            if list(path[: len(steps)]) == list(steps):
                return pointer(["grid", "axes", key, chosen[key][0], *path[len(steps) :]])
        return pointer(["grid", "recipe", *path])

    return where


def _grid_name(axes: Mapping[str, Sequence[str]], chosen: Mapping[str, tuple[int, Any]], index: int) -> str:
    """`fraction=0.2, kind=global`; whole paths where last parts are the same, a number where it gets long."""
    last = [path[-1] for path in axes.values()]
    parts = []
    for key, path in axes.items():
        position, value = chosen[key]
        said = value if isinstance(value, str) else json.dumps(value)
        if isinstance(value, dict | list):
            said = f"#{position + 1}"
        parts.append(f"{path[-1] if last.count(path[-1]) == 1 else '.'.join(path)}={said}")
    name = _ODD.sub("-", ", ".join(parts)).lstrip(" ._,:=+%()-")
    return name if 0 < len(name) <= 80 else f"grid {index + 1}"


def _check_count(given: ComparisonRequest, num_recipes: int) -> None:
    num_jobs, where = num_recipes * len(given.seeds), "/grid/axes" if given.grid is not None else "/recipes"
    if num_jobs > MAX_JOBS or num_recipes > MAX_RECIPES:
        raise Problem(
            "invalid_request",
            f"{num_recipes} recipes with {len(given.seeds)} seeds would make {num_jobs} jobs; a comparison may have "
            f"{MAX_RECIPES} recipes and {MAX_JOBS} jobs",
            param=where,
        )


def _check_names(asked: Sequence[Given]) -> None:
    names = [recipe.name for recipe in asked]
    for index, name in enumerate(names):
        if name in names[:index]:
            detail = f"the name {name} came before, at recipe {names.index(name)}; give each recipe a name of its own"
            raise Problem("invalid_request", detail, param=f"/recipes/{index}/name")


def _plan(
    session: Session, project_id: str, given: ComparisonRequest, asked: Given, lock: listing.Lock | None
) -> Planned:
    raw = dict(asked.raw)
    if raw.get("seed") is not None:
        detail = f"{asked.name}: the seeds of a comparison are its own, in /seeds; leave it out"
        raise Problem("recipe_refused", detail, param=asked.where(["seed"]))
    raw["seed"] = given.seeds[0]
    budget = given.budget
    if budget is not None and budget.seconds is not None:
        raw = _set(asked, raw, ("stop", "seconds"), float(budget.seconds), ())
    steps = budget and (budget.steps or budget.steps_per_round)
    if steps:
        raw = _set(asked, raw, ("training", "steps"), steps, ("epochs",))
    recipe = _with_controls(given, _parsed(asked, raw))
    admitted = _admitted(session, project_id, given, asked, recipe, lock)
    if budget is not None and budget.steps is not None:
        num_entries = step_times.num_entries(recipe.to_json(), admitted.planned[-1].number)
        if not recipe.finally_.train and recipe.finally_.weights != "none":
            num_entries -= 1  # the final entry is not trained
        if budget.steps < num_entries:
            detail = f"{asked.name} trains {num_entries} entries, and {budget.steps} steps leave some none; raise it"
            raise Problem("recipe_refused", detail, param="/budget/steps")
        raw = _put(raw, ("training", "steps"), budget.steps // num_entries)
        recipe = _with_controls(given, _parsed(asked, raw))
        admitted = _admitted(session, project_id, given, asked, recipe, lock)
    return Planned(asked.name, recipe, admitted, asked.where)


def _set(
    asked: Given, raw: dict[str, Any], path: tuple[str, str], value: float, instead: Sequence[str]
) -> dict[str, Any]:
    """What the budget sets, where the recipe does not say otherwise."""
    section = raw.get(path[0])
    said = section if isinstance(section, dict) else {}
    for name in (path[1], *instead):
        if said.get(name) is not None and (name != path[1] or said[name] != value):
            raise Problem(
                "recipe_refused",
                f"{asked.name}: the budget sets {'.'.join(path)} to {value:g}, and the recipe says {name} "
                f"{json.dumps(said[name])}; leave it out, or the budget",
                param=asked.where([path[0], name]),
            )
    if section is not None and not isinstance(section, dict):
        return raw  # which the recipe's own check refuses
    return dict(_put(raw, path, value))


def _parsed(asked: Given, raw: Mapping[str, Any]) -> Recipe:
    try:
        return Recipe.model_validate(raw)
    except ValidationError as error:
        found: dict[tuple[str, str], Fault] = {}
        for entry in error.errors():
            param = asked.where(within(entry["loc"], asked.raw))
            found.setdefault(
                (entry["type"], param), Fault(code=entry["type"], param=param, message=f"{asked.name}: {entry['msg']}")
            )
        faults = list(found.values())
        first = faults[0]
        detail = first["message"] if len(faults) == 1 else f"{len(faults)} errors; the first: {first['message']}"
        raise Problem("invalid_request", detail, param=first["param"], faults=faults[:MAX_FAULTS]) from None


def _with_controls(given: ComparisonRequest, recipe: Recipe) -> Recipe:
    if recipe.between_rounds.weights not in _BEGIN_ANEW:
        return recipe
    return recipe.model_copy(update={"controls": list(dict.fromkeys([*recipe.controls, *given.controls]))})


def _check_controls(given: ComparisonRequest, planned: Sequence[Planned]) -> None:
    if given.controls and not any(recipe.recipe.controls for recipe in planned):
        detail = (
            "a control trains one round from its first step, and every recipe here continues from trained weights; add "
            "one with between_rounds.weights reset, rewind or reinit, or leave controls out"
        )
        raise Problem("recipe_refused", detail, param="/controls")


def _admitted(
    session: Session,
    project_id: str,
    given: ComparisonRequest,
    asked: Given,
    recipe: Recipe,
    lock: listing.Lock | None,
) -> Admitted:
    """As a job with this recipe would be; the fault is told of the recipe where it lies."""
    try:
        return admit(session, project_id, _request(given, recipe, asked), lock=lock)
    except Problem as problem:
        if problem.param is None or not problem.param.startswith("/recipe/"):
            raise
        path = [_unescaped(step) for step in problem.param.split("/")[2:]]
        raise Problem(problem.code, f"{asked.name}: {problem.detail}", param=asked.where(path)) from None


def _request(given: ComparisonRequest, recipe: Recipe, asked: Given | None = None) -> JobRequest:
    """Its gates are the comparison's, and its rounds all stay: which one is wanted is known when all have ended."""
    try:
        return JobRequest(
            model=given.model,
            dataset=given.dataset,
            recipe=recipe,
            pool=given.pool,
            priority=given.priority,
            queue_timeout_seconds=given.queue_timeout_seconds,
            deadline_seconds=given.deadline_seconds,
            max_failures=given.max_failures,
            expires_in_seconds=given.expires_in_seconds,
            artifacts=given.artifacts,
            cache=given.cache,
            metadata=given.metadata,
        )
    except ValidationError as error:  # of all that is put together here, artifacts alone depend on the recipe
        first = error.errors()[0]
        name = f"{asked.name}: " if asked else ""
        raise Problem("recipe_refused", f"{name}{first['msg']}", param=pointer(first["loc"])) from None


def _check_comparable(given: ComparisonRequest, planned: Sequence[Planned]) -> None:
    """The split is one: dataset and seed alone decide it. Task, metrics and budget are each recipe's own."""
    first = planned[0]
    loss = first.recipe.training.loss
    for other in planned[1:]:
        if (own := other.recipe.training.loss) != loss:
            raise Problem(
                "recipe_refused",
                f"{other.name} trains with the loss {own}, which measures {', '.join(METRICS_OF_LOSS[own])}, and "
                f"{first.name} with {loss}, which measures {', '.join(METRICS_OF_LOSS[loss])}; give all the same",
                param=other.where(["training", "loss"]),
            )
    if given.budget is None:
        for other in planned[1:]:
            if _length(other.recipe) != _length(first.recipe):
                raise Problem(
                    "recipe_refused",
                    f"{other.name} trains {_length(other.recipe)} a round, and {first.name} {_length(first.recipe)}; "
                    "give a budget for all, or the same in each",
                    param=other.where(["training"]),
                )


def _length(recipe: Recipe) -> str:
    training = recipe.training
    return f"{training.steps} steps" if training.steps is not None else f"{training.epochs} epochs"


def _goal(given: ComparisonRequest, planned: Sequence[Planned]) -> Goal:
    metrics = METRICS_OF_LOSS[planned[0].recipe.training.loss]
    for index, gate in enumerate(given.gates):
        if gate.metric not in metrics:
            detail = f"the recipes do not measure {gate.metric}; use one of {', '.join(metrics)}"
            raise Problem("invalid_request", detail, param=f"/gates/{index}/metric")
    if given.goal is None:
        return Goal(metric="accuracy" if "accuracy" in metrics else "loss", keep_ratio=0.99)
    if given.goal.metric not in metrics:
        detail = f"the recipes do not measure {given.goal.metric}; use one of {', '.join(metrics)}"
        raise Problem("invalid_request", detail, param="/goal/metric")
    if given.goal.min_seeds is not None and given.goal.min_seeds > len(given.seeds):
        detail = f"there are {len(given.seeds)} seeds; set it to {len(given.seeds)} or less"
        raise Problem("invalid_request", detail, param="/goal/min_seeds")
    return given.goal


def _put(document: Mapping[str, Any], path: Sequence[str], value: Any) -> dict[str, Any]:
    """A copy with `value` at `path`; objects on the way are made, and what is none gives way."""
    first, *rest = path
    if not rest:
        return {**document, first: value}
    inner = document.get(first)
    return {**document, first: _put(inner if isinstance(inner, dict) else {}, rest, value)}


def _unescaped(step: str) -> str:
    """RFC 6901."""
    return step.replace("~1", "/").replace("~0", "~")


def _same(value: Any, other: Any) -> bool:
    return json.dumps(value, sort_keys=True) == json.dumps(other, sort_keys=True)
