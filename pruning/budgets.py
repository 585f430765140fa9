"""How many weights or units go in a round: arithmetic on layer sizes alone, the same at submission and in the loop.

Torch-free: the API reads this module.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from pruning.recipe import N_OF_M, LayerOverride, Recipe, Scope


@dataclass(frozen=True)
class LayerSize:
    """A prunable layer: how many weights (or units, where those are pruned) it has, and the shape of its weight.

    `least` units always stay, whatever the recipe says: in each group of a grouped convolution, one.
    """

    name: str
    size: int
    is_output: bool = False
    shape: tuple[int, ...] = ()
    least: int = 1


class RecipeRefused(ValueError):
    """The recipe cannot do on this model what it asks for. `field` is its path within the recipe."""

    def __init__(self, field: tuple[str, ...], message: str) -> None:
        super().__init__(message)
        self.field = field


def count_to_prune(remaining: int, fraction: float | Fraction, granularity: str) -> int:
    """k of one round, for one layer or for the network where all layers compete.

    Weights: floor(f * remaining + 0.5) (Frankle & Carbin 2019, s% of what remains). Units: max(1, floor(f * remaining))
    (Tan & Motani 2020), so that small layers do not stand still. The fraction counts as the decimal that was written:
    in binary, 0.29 * 100 is less than 29.
    """
    exact = exactly(fraction) * remaining
    if granularity == "unit":
        return min(remaining, max(1, math.floor(exact)))
    return math.floor(exact + Fraction(1, 2))


def exactly(number: float | Fraction) -> Fraction:
    return number if isinstance(number, Fraction) else Fraction(str(number))


def sparsity_after(recipe: Recipe, number: int, rate: Fraction = Fraction(1)) -> Fraction:
    """The fraction removed that the schedule aims at after round `number`, before rounding to whole weights."""
    schedule = recipe.schedule
    if number == 0:
        return Fraction(0)
    if schedule.kind == "fraction":
        fraction = min(Fraction(1), exactly(schedule.fraction) * rate)
        if schedule.of == "original":
            return min(Fraction(1), fraction * number)
        return Fraction(1 - float(1 - fraction) ** number)
    last = exactly(schedule.sparsity)
    if schedule.kind == "one_shot" or number >= schedule.rounds:
        return last
    if schedule.kind == "geometric":
        return Fraction(1 - float(1 - last) ** (number / schedule.rounds))
    return last * Fraction(1 - (1 - number / schedule.rounds) ** schedule.power)


def num_scheduled(recipe: Recipe) -> int | None:
    """Rounds after which the schedule prunes no more; None where it goes on for ever."""
    schedule = recipe.schedule
    if schedule.kind == "fraction":
        return None
    return 1 if schedule.kind == "one_shot" else schedule.rounds


@dataclass(frozen=True)
class Budget:
    """What a round may take.

    Attributes:
        layers: those that compete, by name, without the ignored ones.
        overrides: of each of them.
    """

    recipe: Recipe
    layers: Mapping[str, LayerSize]
    overrides: Mapping[str, LayerOverride]

    @staticmethod
    def of(recipe: Recipe, layers: Sequence[LayerSize]) -> Budget:
        """Raises RecipeRefused: an override names no layer, nothing is left, or a layer is too small for the recipe."""
        overrides = resolve_overrides(recipe.scope, layers)
        competing = {layer.name: layer for layer in layers if not overrides[layer.name].ignore}
        if not competing:
            raise RecipeRefused(("scope", "overrides"), f"no {recipe.granularity} of this model is left to prune")
        budget = Budget(recipe, competing, {name: overrides[name] for name in competing})
        budget._refuse_min_units()
        budget._refuse_narrow()
        return budget

    def _refuse_min_units(self) -> None:
        for name, layer in self.layers.items():
            least = self.overrides[name].min_units
            if self.recipe.granularity == "unit" and least > layer.size:
                raise RecipeRefused(
                    ("scope", "overrides", name, "min_units"),
                    f"layer {name} has only {layer.size} units, fewer than min_units {least}",
                )

    def _refuse_narrow(self) -> None:
        """n:m takes whole groups of m inputs."""
        if self.recipe.granularity not in N_OF_M:
            return
        m = N_OF_M[self.recipe.granularity][1]
        inputs = {name: layer.shape[1] if len(layer.shape) > 1 else 0 for name, layer in self.layers.items()}
        narrow = {name: count for name, count in inputs.items() if count == 0 or count % m}
        if narrow:
            told = ", ".join(f"{name} ({count})" for name, count in list(narrow.items())[:5])
            raise RecipeRefused(
                ("granularity",),
                f"the inputs of {len(narrow)} of {len(inputs)} layers are no multiple of {m}: {told}; set ignore for "
                f"each of them, as scope.overrides.{next(iter(narrow))}.ignore, or set granularity to weight",
            )

    @property
    def size(self) -> int:
        return sum(layer.size for layer in self.layers.values())

    def by_layer(self, remaining: Mapping[str, int], number: int) -> dict[str, int]:
        """k of round `number` for each layer, where layers do not compete with each other."""
        recipe = self.recipe
        if recipe.scope.kind == "erk":
            keeps = self._erk(remaining, sum(remaining.values()) - self.in_all(remaining, number))
            return {name: left - keeps[name] for name, left in remaining.items()}
        if recipe.granularity in N_OF_M:
            n, m = N_OF_M[recipe.granularity]
            return {name: left - self.layers[name].size * n // m for name, left in remaining.items()}
        counts = {}
        for name, left in remaining.items():
            rows = self.num_rows(name)
            count = self._count(self.layers[name].size // rows, left // rows, number, self._rate(name))
            counts[name] = rows * min(count, left // rows - self.floor_of(name))
        return counts

    def counts(self, remaining: Mapping[str, int], number: int) -> dict[str, int]:
        """k of round `number` for each layer. Where all layers compete the scores decide which lose: only the sum says
        something then, and the layers' shares are filled from the largest."""
        if self.recipe.scope.kind != "global":
            return self.by_layer(remaining, number)
        count, counts = self.in_all(remaining, number), {}
        for name, left in sorted(remaining.items(), key=lambda item: -item[1]):
            counts[name] = min(count, left - self.floor_of(name))
            count -= counts[name]
        return counts

    def in_steps(
        self, remaining: Mapping[str, int], counts: Mapping[str, int], num_steps: int
    ) -> Iterator[dict[str, int]]:
        """`counts` in parts that leave the same fraction of what remains each (Tanaka et al. 2020, algorithm 1)."""
        if num_steps == 1 or self.recipe.granularity in N_OF_M:
            yield dict(counts)
            return
        shares = {name: (remaining[name], counts[name], self.num_rows(name)) for name in counts}
        if self.recipe.scope.kind == "global":
            shares = {"all": (sum(remaining.values()), sum(counts.values()), 1)}
        gone = dict.fromkeys(shares, 0)
        for step in range(1, num_steps + 1):
            part = {}
            for name, (left, count, rows) in shares.items():
                kept = (left // rows) * (1 - count / left) ** (step / num_steps)
                until = count // rows if step == num_steps else min(count // rows, left // rows - math.ceil(kept))
                part[name] = rows * (until - gone[name])
                gone[name] = until
            yield part

    def in_all(self, remaining: Mapping[str, int], number: int) -> int:
        """k of round `number` for the whole network: never more than can go."""
        total = sum(remaining.values())
        can_go = sum(left - self.floor_of(name) for name, left in remaining.items())
        return min(self._count(self.size, total, number), can_go)

    def _count(self, size: int, remaining: int, number: int, rate: Fraction = Fraction(1)) -> int:
        schedule, granularity = self.recipe.schedule, self.recipe.granularity
        if schedule.kind == "fraction":
            base = remaining if schedule.of == "remaining" else size
            fraction = min(Fraction(1), exactly(schedule.fraction) * rate)
            return min(remaining, count_to_prune(base, fraction, granularity))
        goal = sparsity_after(self.recipe, number) * size
        removed = math.floor(goal) if granularity == "unit" else math.floor(goal + Fraction(1, 2))
        return max(0, removed - (size - remaining))

    def sparsity(self, remaining: Mapping[str, int]) -> float:
        """The fraction removed: of whole numbers, so that 20 of 100 is what the decimal 0.2 is, and not a bit less."""
        return (self.size - sum(remaining.values())) / self.size

    def meets(self, target: float, sparsity: float) -> bool:
        """Whether so many are removed that no whole number comes nearer to `target` in every layer.

        Args:
            sparsity: of `self.sparsity`; it tells the count removed exactly, also where it was stored in between.
        """
        in_all = math.ceil(exactly(target) * self.size)
        by_pool = sum(num * self._least(size, target) for size, num in self._pools())
        return round(sparsity * self.size) >= min(in_all, by_pool)

    def _least(self, size: int, target: float) -> int:
        """The least count that is `target` of `size`: half a weight short at most, as `_count` rounds; units that a
        schedule with a sparsity takes are rounded down."""
        exact = exactly(target) * size
        if self.recipe.granularity == "unit" and self.recipe.schedule.kind != "fraction":
            return math.floor(exact)
        return math.ceil(exact - Fraction(1, 2))

    def _pools(self) -> list[tuple[int, int]]:
        """(size, how many such) of what is rounded to a whole number on its own: the network, a layer, or a row."""
        if self.recipe.scope.kind in ("global", "erk"):
            return [(self.size, 1)]
        rows = {name: self.num_rows(name) for name in self.layers}
        return [(layer.size // rows[name], rows[name]) for name, layer in self.layers.items()]

    def check_goal(self, remaining: Mapping[str, int]) -> None:
        """
        Raises:
            RecipeRefused: `remaining` is what the last round of a schedule left, and what always stays (`floor_of`)
                kept it above the schedule's sparsity, by more than rounding to whole weights does.
        """
        recipe = self.recipe
        if recipe.schedule.kind == "fraction":
            return
        goal = recipe.schedule.sparsity
        for whose, size, left in self._shares(remaining):
            most = size - self._least(size, goal)
            if left <= most:
                continue
            if recipe.granularity == "unit":
                keeps = "min_units or a grouped convolution" if self.needs_more_than_one else "min_units"
                told = f"would leave {most} of {whose} {size} units, of which {keeps} keeps {left}"
                remedy = "lower it, or min_units (scope.overrides)"
            else:
                told = (
                    f"would leave nearly none of {whose} {size} weights, of which {left} always stay{'s' * (left == 1)}"
                )
                remedies = [f"lower it to {math.floor(1000 * (size - left) / size) / 1000:g}"] if left < size else []
                if recipe.scope.kind in ("layerwise", "row"):
                    remedies.append("set ignore for that layer (scope.overrides)")
                remedy = ", or ".join(remedies)
            raise RecipeRefused(("schedule", "sparsity"), f"sparsity {goal:g} {told}; {remedy}")

    def _shares(self, remaining: Mapping[str, int]) -> list[tuple[str, int, int]]:
        """(whose, size, left) of each pool: rows of a layer are alike."""
        if self.recipe.scope.kind in ("global", "erk"):
            return [("the network's", self.size, sum(remaining.values()))]
        shares = []
        for name, layer in self.layers.items():
            rows = self.num_rows(name)
            whose = f"each of layer {name}'s rows'" if self.recipe.scope.kind == "row" else f"layer {name}'s"
            shares.append((whose, layer.size // rows, remaining[name] // rows))
        return shares

    def _rate(self, name: str) -> Fraction:
        rate = self.overrides[name].rate
        return Fraction(1) if rate is None else exactly(rate)

    def num_rows(self, name: str) -> int:
        """Where scores compete within output rows (scope row), how many there are; else one."""
        shape = self.layers[name].shape
        return shape[0] if self.recipe.scope.kind == "row" and shape else 1

    def floor_of(self, name: str) -> int:
        """What always stays in a layer, or in its row: `min_units` units, or more where grouped convolutions need them,
        or one weight (without any, the network is cut)."""
        if self.recipe.granularity != "unit":
            return 1
        return max(self.overrides[name].min_units, self.layers[name].least)

    @property
    def needs_more_than_one(self) -> bool:
        """Whether a grouped convolution keeps units that no recipe can take."""
        return any(layer.least > 1 for layer in self.layers.values())

    def target(self, number: int) -> float:
        """The sparsity that the schedule alone makes of round `number`."""
        left = sum(
            layer.size * (1 - sparsity_after(self.recipe, number, self._rate(n))) for n, layer in self.layers.items()
        )
        return float(1 - left / self.size)

    def _erk(self, remaining: Mapping[str, int], keep: int) -> dict[str, int]:
        """How `keep` is shared: a layer's density goes with sum(shape) / prod(shape), at most 1 (Evci et al. 2020)."""
        whole: set[str] = set()
        while True:
            shared = [layer for layer in self.layers.values() if layer.name not in whole]
            left = keep - sum(self.layers[name].size for name in whole)
            scale = Fraction(left, max(1, sum(sum(layer.shape) for layer in shared)))
            over = {layer.name for layer in shared if scale * sum(layer.shape) > layer.size}
            if not over:
                break
            whole |= over
        ideal = {
            n: Fraction(layer.size) if n in whole else scale * sum(layer.shape) for n, layer in self.layers.items()
        }
        keeps = {name: min(max(1, math.floor(ideal[name])), left) for name, left in remaining.items()}
        # Whole weights: what rounding leaves over goes to the largest remainders, as far as there is room.
        order = sorted(keeps, key=lambda name: (math.floor(ideal[name]) - ideal[name], name))
        while (missing := keep - sum(keeps.values())) != 0:
            step = 1 if missing > 0 else -1
            room = [n for n in order if (keeps[n] < remaining[n] if step > 0 else keeps[n] > 1)]
            for name in room[: abs(missing)]:
                keeps[name] += step
        return keeps


def resolve_overrides(scope: Scope, layers: Sequence[LayerSize]) -> dict[str, LayerOverride]:
    """The override of each layer by its own name; the key `output` means the output layer.

    A key `output` says nothing where the output layer is not prunable (its units never are).
    Raises RecipeRefused for a key that names no layer, with the nearest names.
    """
    by_name = {layer.name: scope.overrides.get(layer.name, LayerOverride()) for layer in layers}
    for key, override in scope.overrides.items():
        if key in by_name:
            continue
        if key != "output":
            near = difflib.get_close_matches(key, by_name, n=3, cutoff=0.3) or sorted(by_name)[:5]
            raise RecipeRefused(
                ("scope", "overrides", key),
                f"no prunable layer is called {key!r}; did you mean {', '.join(near)}?",
            )
        for layer in layers:
            if layer.is_output and layer.name not in scope.overrides:  # a layer's own name says more than `output`
                by_name[layer.name] = override
    return by_name
