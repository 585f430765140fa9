"""Flags as a recipe and gates."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from espalier.shapes import Strategy

_GATE = re.compile(r"\s*(\w+)\s*(>=|<=|>|<)\s*([-+.\deE]+)\s*")
SPARSITY_SLACK = 0.005
"""Weights and units are whole, so a layer's sparsity may lie a little below the one that was asked for."""


def recipe_of(
    strategy: str | None, file: Path | None, settings: Sequence[str], seed: int | None, sparsity: float | None,
    strategies: Sequence[Strategy],
) -> dict[str, Any]:  # fmt: skip
    """The file first, then the flags. `sparsity` is where the strategy's own schedule has it, else where it stops."""
    recipe = _read(file) if file else {}
    if strategy:
        recipe["strategy"] = strategy
    if not recipe:
        raise click.UsageError("what to do? Give --strategy (espalier strategies lists them) or --recipe FILE")
    for setting in settings:
        _set(recipe, setting)
    if seed is not None:
        recipe["seed"] = seed
    if sparsity is not None:
        defaults: Mapping[str, Any] = next(
            (row["defaults"] for row in strategies if row["name"] == recipe.get("strategy")), {}
        )
        schedule = {**defaults.get("schedule", {}), **recipe.get("schedule", {})}
        if "sparsity" in schedule:
            recipe.setdefault("schedule", {})["sparsity"] = sparsity
        else:
            recipe.setdefault("stop", {}).setdefault("rounds", None)
            recipe["stop"]["sparsity"] = sparsity
    return recipe


def gates_of(
    gates: Sequence[str], sparsity: float | None, min_accuracy: float | None, min_accuracy_ratio: float | None
) -> list[dict[str, Any]]:
    made = [_gate(gate) for gate in gates]
    if sparsity is not None:
        made.append({"metric": "sparsity", "op": ">=", "value": round(sparsity - SPARSITY_SLACK, 6)})
    if min_accuracy is not None:
        made.append({"metric": "accuracy", "op": ">=", "value": min_accuracy})
    if min_accuracy_ratio is not None:
        made.append({"metric": "accuracy_ratio", "op": ">=", "value": min_accuracy_ratio})
    return made


def labels_of(given: Sequence[str]) -> dict[str, str]:
    pairs = [label.partition("=") for label in given]
    if wrong := next((key for key, sign, _ in pairs if not sign), None):
        raise click.UsageError(f"--label {wrong}: write it as {wrong}=VALUE")
    return {key: value for key, _, value in pairs}


def _gate(text: str) -> dict[str, Any]:
    match = _GATE.fullmatch(text)
    try:
        if match is None:
            raise ValueError
        return {"metric": match[1], "op": match[2], "value": float(match[3])}
    except ValueError:
        raise click.UsageError(f"--gate {text!r}: write it as 'accuracy >= 0.95'") from None


def _set(recipe: dict[str, Any], setting: str) -> None:
    """training.steps=300; what is no JSON is text."""
    path, sign, text = setting.partition("=")
    if not sign:
        raise click.UsageError(f"--set {setting}: write it as training.steps=300")
    try:
        value = json.loads(text)
    except ValueError:
        value = text
    *sections, field = path.split(".")
    at = recipe
    for section in sections:
        at = at.setdefault(section, {})
        if not isinstance(at, dict):
            raise click.UsageError(f"--set {setting}: {section} is no section of a recipe")
    at[field] = value


def _read(file: Path) -> dict[str, Any]:
    try:
        recipe = json.loads(file.read_text())
    except ValueError as error:
        raise click.UsageError(f"{file} is no JSON: {error}") from error
    if not isinstance(recipe, dict):
        raise click.UsageError(f"{file} holds no recipe; that is a JSON object")
    return recipe
