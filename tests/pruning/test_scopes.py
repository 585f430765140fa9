"""Every scope and granularity loses exactly the k that the budget says, the least of what competes, ties included."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pruning.budgets import Budget, LayerSize
from pruning.granularity import what_competes
from pruning.recipe import Recipe
from pruning.schedules import plan
from pruning.scopes import count_kept, scope_of

SHAPES = {"conv": (6, 8, 3, 3), "a": (10, 16), "b": (3, 8)}
LAYERS = [LayerSize(name, torch.Size(shape).numel(), shape=shape) for name, shape in SHAPES.items()]
SCHEDULES = {
    "of what remains": {"kind": "fraction", "fraction": 0.37},
    "of the original": {"kind": "fraction", "fraction": 0.3, "of": "original"},
    "geometric": {"kind": "geometric", "sparsity": 0.9, "rounds": 3},
    "polynomial": {"kind": "polynomial", "sparsity": 0.85, "rounds": 3},
    "one shot": {"kind": "one_shot", "sparsity": 0.77},
}


def recipe_of(scope: str, schedule: dict, granularity: str = "weight") -> Recipe:
    return Recipe.model_validate(
        {
            "criterion": {"name": "magnitude"},
            "granularity": granularity,
            "scope": {"kind": scope},
            "schedule": schedule,
            "between_rounds": {"weights": "reset"},
            "stop": {"rounds": 3},
            "training": {"steps": 1, "batch_size": 1, "optimizer": {"name": "sgd", "lr": 0.1}},
        }
    )


def scores_of(seed: int, few: int) -> dict[str, torch.Tensor]:
    """Of only a few values, zero among them: most tie."""
    draws = torch.Generator().manual_seed(seed)
    return {name: torch.randint(0, few, shape, generator=draws).float() for name, shape in SHAPES.items()}


def pools(scope: str, granularity: str, tensor: torch.Tensor) -> torch.Tensor:
    """(pool, weights): what competes with each other within a layer."""
    if granularity != "weight":
        return tensor.movedim(1, -1).reshape(-1, int(granularity[-1]))
    return tensor.reshape(len(tensor), -1) if scope == "row" else tensor.reshape(1, -1)


@settings(max_examples=60, derandomize=True, deadline=None)
@given(
    st.sampled_from(["layerwise", "global", "row", "erk"]),
    st.sampled_from(list(SCHEDULES)),
    st.integers(0, 99),
    st.sampled_from([1, 2, 9, 10_000]),
)
def test_exactly_k_of_the_least_go_in_every_round(scope, schedule, seed, few) -> None:
    recipe = recipe_of(scope, SCHEDULES[schedule])
    budget = Budget.of(recipe, LAYERS)
    kept = {name: torch.ones(shape, dtype=torch.bool) for name, shape in SHAPES.items()}
    for planned in plan(LAYERS, recipe)[1:]:
        scores, before = scores_of(seed + planned.number, few), count_kept(kept)
        counts = budget.counts(before, planned.number)
        after = scope_of(budget)(scores, kept, counts, budget, torch.Generator().manual_seed(seed), torch.clone)
        left = count_kept(after)
        assert sum(left.values()) == sum(before.values()) - sum(counts.values()) == sum(planned.remaining.values())
        if scope != "global":
            assert left == {name: before[name] - counts[name] for name in before}
        assert min(left.values()) >= 1
        for name, mask in after.items():
            assert not (mask & ~kept[name]).any()
            for score, was, now in zip(*(pools(scope, "weight", t[name]) for t in (scores, kept, after)), strict=True):
                fallen = was & ~now
                if fallen.any() and now.any() and scope != "global":
                    assert score[fallen].max() <= score[now].min()
            if scope == "row":
                assert len(set(mask.flatten(1).sum(1).tolist())) == 1
        if scope == "global" and min(left.values()) > 1:  # no layer was at its floor
            gone, stay = (torch.cat([scores[n][m[n]] for n in after]) for m in (fallen_of(kept, after), after))
            assert gone.max() <= stay.min()
        kept = after


def fallen_of(kept: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: kept[name] & ~after[name] for name in kept}


@pytest.mark.parametrize("granularity", ["2:4", "4:8"])
@pytest.mark.parametrize("few", [1, 3, 10_000])
def test_n_of_every_m_neighbours_along_the_inputs_stay(granularity, few) -> None:
    n, m = map(int, granularity.split(":"))
    recipe = recipe_of("layerwise", {"kind": "one_shot", "sparsity": 0.5}, granularity)
    budget = Budget.of(recipe, LAYERS)
    kept = {name: torch.ones(shape, dtype=torch.bool) for name, shape in SHAPES.items()}
    scores, counts = scores_of(1, few), budget.counts(count_kept(kept), 1)
    assert counts == {layer.name: layer.size // 2 for layer in LAYERS}
    after = scope_of(budget)(scores, kept, counts, budget, torch.Generator().manual_seed(0), torch.clone)
    for name, mask in after.items():
        assert mask.shape == SHAPES[name]
        groups = pools("", granularity, mask)
        assert groups.sum(1).tolist() == [n] * (mask.numel() // m)
        for score, now in zip(pools("", granularity, scores[name]), groups, strict=True):
            assert score[~now].max() <= score[now].min()
    if few == 1:
        kept_first = [bool(pools("", granularity, mask)[:, :n].all()) for mask in after.values()]
        assert not any(kept_first), "ties fall by the draw, not by position"


def test_erk_shares_by_the_shapes_as_the_paper_has_it() -> None:
    """Density of a layer: epsilon * sum(shape) / prod(shape), at most 1 (Evci et al. 2020)."""
    layers = [
        LayerSize("conv1", 64 * 3 * 9, shape=(64, 3, 3, 3)),
        LayerSize("conv2", 128 * 64 * 9, shape=(128, 64, 3, 3)),
        LayerSize("conv3", 256 * 128 * 9, shape=(256, 128, 3, 3)),
        LayerSize("fc", 2560, shape=(10, 256)),
    ]
    recipe = recipe_of("erk", {"kind": "one_shot", "sparsity": 0.9})
    kept = plan(layers, recipe)[1].remaining
    total = sum(layer.size for layer in layers)
    assert sum(kept.values()) == total - int(0.9 * total + 0.5)
    densities = {layer.name: kept[layer.name] / layer.size for layer in layers}
    assert densities["conv1"] == densities["fc"] == 1.0, "whose share is more than they have"
    shares = [densities[layer.name] / (sum(layer.shape) / layer.size) for layer in layers[1:3]]
    assert shares[0] == pytest.approx(shares[1], rel=1e-4)


def test_a_fraction_of_the_original_takes_as_much_each_round_until_nothing_may_go() -> None:
    recipe = recipe_of("global", {"kind": "fraction", "fraction": 0.3, "of": "original"})
    recipe = recipe.model_copy(update={"stop": recipe.stop.model_copy(update={"rounds": 9})})
    remaining = [sum(r.remaining.values()) for r in plan([LayerSize("a", 80), LayerSize("b", 20)], recipe)]
    assert remaining == [100, 70, 40, 10, 2]


def test_geometric_rounds_end_at_their_sparsity_and_take_the_same_fraction_each() -> None:
    remaining = [
        sum(r.remaining.values())
        for r in plan(
            [LayerSize("a", 1000)], recipe_of("global", {"kind": "geometric", "sparsity": 0.875, "rounds": 3})
        )
    ]
    assert remaining == [1000, 500, 250, 125]


def test_polynomial_rounds_follow_zhu_and_gupta() -> None:
    schedule = {"kind": "polynomial", "sparsity": 0.9, "rounds": 3}
    remaining = [sum(r.remaining.values()) for r in plan([LayerSize("a", 10_000)], recipe_of("layerwise", schedule))]
    assert remaining == [10_000] + [10_000 - round(9_000 * (1 - (1 - r / 3) ** 3)) for r in (1, 2, 3)]


def test_small_steps_add_up_to_the_round_and_leave_the_same_fraction_each() -> None:
    recipe = recipe_of("global", {"kind": "one_shot", "sparsity": 0.9})
    budget = Budget.of(recipe, LAYERS)
    before = {layer.name: layer.size for layer in LAYERS}
    counts = budget.counts(before, 1)
    parts = [sum(part.values()) for part in budget.in_steps(before, counts, 100)]
    assert sum(parts) == sum(counts.values())
    assert min(parts) >= 0
    left = total = sum(before.values())
    for number, part in enumerate(parts, 1):
        left -= part
        assert left == pytest.approx(total * (1 - sum(counts.values()) / total) ** (number / 100), abs=1)


def test_overrides_of_units_hold_for_coupled_layers_once(make_recipe) -> None:
    """A residual group has one name, its first layer's, and goes by it."""
    from pruning.formats.architectures import build

    model = build("resnet20", (1, 8, 8))
    recipe = make_recipe(criterion={"name": "magnitude"}, granularity="unit", stop={"rounds": 1})
    budget = what_competes(model, torch.zeros(2, 1, 8, 8), recipe).budget
    assert sum(layer.size for layer in budget.layers.values()) == budget.size
    assert len(budget.layers) < sum(1 for m in model.modules() if isinstance(m, torch.nn.Conv2d))


@pytest.mark.parametrize("scope", ["layerwise", "global", "row", "erk"])
def test_scores_may_lie_in_memory_as_they_like(scope) -> None:
    """A network that is stored channels last loses the weights that it would lose otherwise."""
    recipe = recipe_of(scope, SCHEDULES["one shot"])
    budget, kept = Budget.of(recipe, LAYERS), {n: torch.ones(shape, dtype=torch.bool) for n, shape in SHAPES.items()}
    scores = scores_of(0, 1000)
    last = {n: s.contiguous(memory_format=torch.channels_last) if s.dim() == 4 else s for n, s in scores.items()}
    counts = budget.counts(count_kept(kept), 1)
    one, other = (
        scope_of(budget)(given, kept, counts, budget, torch.Generator().manual_seed(0), torch.abs)
        for given in (scores, last)
    )
    assert all(torch.equal(one[name], other[name]) for name in kept)
