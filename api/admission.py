"""What can be known to be wrong with a job before any training, said at once with a remedy.

Whether the dataset fits the model is read from what validation stored of both.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy.orm import Session

from api.heads import PROGRAM
from api.problems import Problem
from api.schemas import JobRequest
from api.validation import pointer
from pruning.recipe import Recipe
from pruning.schedules import PlannedRound, RecipeRefused, check_steps, layer_sizes, plan
from pruning.training_options import LOSSES_OF_TASK, TASK_OF_LOSS, Augmentation, Preprocessing
from store import listing
from store.tables import Dataset, IntakeStatus, Model

Row = TypeVar("Row", Model, Dataset)
Report = dict[str, Any]
_TOKENS = ("int64", "int32")


@dataclass(frozen=True)
class Admitted:
    model: Model
    dataset: Dataset
    planned: list[PlannedRound]


def admit(session: Session, project_id: str, given: JobRequest, lock: listing.Lock | None = None) -> Admitted:
    """The job as it can run; `lock` for the rows that it will refer to. Raises Problem, naming the field."""
    model, model_report = _ready(session, Model, project_id, "model", given.model, lock)
    dataset, dataset_report = _ready(session, Dataset, project_id, "dataset", given.dataset, lock)
    train = dataset_report["splits"]["train"]
    _check_fit(model, model_report, train)
    _check_training(given.recipe, train, has_validation="validation" in dataset_report["splits"])
    return Admitted(model, dataset, _plan(model_report, given.recipe))


def _ready(
    session: Session, entity: type[Row], project_id: str, field: str, row_id: str, lock: listing.Lock | None
) -> tuple[Row, Report]:
    row = listing.one(session, entity, project_id, row_id, lock)
    if row is None:
        raise Problem(
            "not_found", f"there is no {field} {row_id} in this project; upload it first", param=f"/{field}", status=422
        )
    if row.status == IntakeStatus.INVALID:
        reason = (row.error or {}).get("message", "no reason is known")
        raise Problem("invalid_reference", f"the {field} was found invalid: {reason}", param=f"/{field}")
    if row.report is None:
        raise Problem(
            "not_ready",
            f"the {field} is still being validated; try again when its status is ready",
            param=f"/{field}",
            headers={"Retry-After": "1"},
        )
    return row, row.report


def _check_fit(model: Model, model_report: Report, train: Report) -> None:
    input_shape = model_report.get("input_shape") or model.spec.get("input_shape")
    if input_shape is not None and list(input_shape) != list(train["input_shape"]):
        again = (
            "export the model for that shape"
            if model.format == PROGRAM
            else "add the model again with that input_shape"
        )
        raise Problem(
            "dataset_mismatch",
            f"an example has shape {train['input_shape']}, the model takes {input_shape}; "
            f"reshape the examples, or {again}",
            param="/dataset",
        )
    takes_tokens, has_tokens = model_report.get("input_dtype") in _TOKENS, train.get("input_dtype") in _TOKENS
    if takes_tokens != has_tokens:
        raise Problem(
            "dataset_mismatch",
            f"the examples are {train['input_dtype']}, the model takes "
            + ("tokens; convert the inputs to int64" if takes_tokens else "no tokens; convert the inputs to float32"),
            param="/dataset",
        )
    _check_outputs(model, model_report, train)


def _check_outputs(model: Model, model_report: Report, train: Report) -> None:
    task, num_classes, num_outputs = _task(train), train["num_classes"], model_report["num_outputs"]
    output_shape = model_report.get("output_shape") or [num_outputs]
    if (task == "tokens") != (len(output_shape) == 2):
        raise Problem(
            "dataset_mismatch",
            f"the targets are for {task}, but the model has outputs of shape {output_shape} for an example; export it "
            + ("with logits (batch, length, vocabulary)" if task == "tokens" else "with logits (batch, classes)"),
            param="/dataset",
        )
    if task in ("classification", "tokens"):
        fits, wanted, has = num_classes <= num_outputs, num_classes, f"the labels go up to {num_classes - 1}"
    else:
        wanted = (train["target_shape"] or [1])[0]
        fits, has = wanted == num_outputs, f"an example has {wanted} targets"
    if not fits:
        again = "export it with " if model.format == PROGRAM else "add the model again with num_classes="
        raise Problem(
            "dataset_mismatch",
            f"{has}, but the model has {num_outputs} outputs; {again}{wanted}",
            param="/dataset",
        )


def _task(train: Report) -> str:
    """Datasets that came in before there were tasks are of labels."""
    return str(train.get("task", "classification"))


def _check_training(recipe: Recipe, train: Report, has_validation: bool) -> None:
    num_examples: int = train["num_examples"]
    if not has_validation:
        if num_examples < 10:
            raise Problem(
                "dataset_mismatch",
                f"without a validation split 10% of train is held out, but train has only {num_examples} examples; "
                "add validation.inputs and validation.targets",
                param="/dataset",
            )
        num_examples -= _held_out(num_examples)
    training = recipe.training
    if training.batch_size > num_examples:
        # Every step would silently see fewer examples than the recipe, and whoever compares it, says.
        raise _refused(
            ("training", "batch_size"),
            f"a batch of {training.batch_size} is more than the {num_examples} examples that are trained on; "
            f"set it to {num_examples} or less",
        )
    if train.get("input_dtype") in _TOKENS and training.preprocessing != Preprocessing():
        raise _refused(("training", "preprocessing"), "the examples are tokens, which are not scaled; leave it out")
    if train.get("input_dtype") in _TOKENS and recipe.criterion.name == "synflow":
        raise _refused(
            ("criterion", "name"), "synflow sends ones through the model, which takes tokens; use snip or grasp"
        )
    if training.epochs is not None:
        with _refusals():
            check_steps(recipe, training.epochs * math.ceil(num_examples / training.batch_size))
    task = _task(train)
    if training.loss not in LOSSES_OF_TASK[task]:
        raise _refused(
            ("training", "loss"),
            f"{training.loss} is for {TASK_OF_LOSS[training.loss]} targets, those of the dataset are {task}; "
            f"set it to {' or '.join(LOSSES_OF_TASK[task])}",
        )
    if training.augmentation != Augmentation() and len(train["input_shape"]) != 3:
        raise _refused(
            ("training", "augmentation"),
            f"examples of shape {train['input_shape']} are no images (channels, height, width); leave it out",
        )
    for field in ("mean", "std"):
        values = getattr(training.preprocessing, field)
        if isinstance(values, list) and len(values) != train["input_shape"][0]:
            raise _refused(
                ("training", "preprocessing", field),
                f"lists {len(values)} values, but the first axis of an example has {train['input_shape'][0]}; "
                "give one value for each, or a single number",
            )


def _held_out(num_examples: int) -> int:
    """As `pruning.data.with_validation` takes them."""
    return (num_examples + 4) // 10


def num_training_examples(dataset: Dataset) -> int:
    """Of a ready dataset, without what is held out where it has no validation split."""
    splits = (dataset.report or {})["splits"]
    num_examples: int = splits["train"]["num_examples"]
    return num_examples - (0 if "validation" in splits else _held_out(num_examples))


def _plan(model_report: Report, recipe: Recipe) -> list[PlannedRound]:
    sizes = layer_sizes(model_report, recipe.granularity)
    if not sizes:
        reasons = {layer["reason"] for layer in model_report["layers"] if layer["reason"]}
        raise _refused(
            ("granularity",),
            f"no {recipe.granularity} of this model can be pruned ({'; '.join(sorted(reasons)[:3]) or 'no layer can'})"
            + ("; set granularity to weight" if recipe.granularity == "unit" else ""),
        )
    with _refusals():
        return plan(sizes, recipe)


@contextmanager
def _refusals() -> Iterator[None]:
    try:
        yield
    except RecipeRefused as refused:
        raise _refused(refused.field, str(refused)) from refused


def _refused(field: tuple[str, ...], message: str) -> Problem:
    return Problem("recipe_refused", message, param=pointer(("recipe", *field)))
