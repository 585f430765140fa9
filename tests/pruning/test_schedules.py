from __future__ import annotations

import pytest

from pruning.budgets import Budget, count_to_prune, resolve_overrides
from pruning.iterative import prune_iteratively
from pruning.recipe import LayerOverride, Recipe, Scope
from pruning.schedules import LayerSize, RecipeRefused, layer_sizes, plan

LENET = [LayerSize("fc1", 235_200), LayerSize("fc2", 30_000), LayerSize("fc3", 1_000, is_output=True)]


def test_k_of_weights_rounds_and_of_units_takes_at_least_one() -> None:
    assert [count_to_prune(n, 0.2, "weight") for n in (100, 12, 13, 3, 2)] == [20, 2, 3, 1, 0]
    assert [count_to_prune(n, 0.2, "unit") for n in (100, 12, 14, 3, 1, 0)] == [20, 2, 2, 1, 1, 0]


def test_plan_of_the_paper(make_recipe) -> None:
    recipe = make_recipe(
        scope={"kind": "layerwise", "overrides": {"output": {"rate": 0.5}}},
        schedule={"fraction": 0.2},
        stop={"rounds": 15},
    )
    rounds = plan(LENET, recipe)
    assert rounds[1].remaining == {"fc1": 188_160, "fc2": 24_000, "fc3": 900}
    assert [round(100 * (1 - rounds[n].sparsity), 1) for n in (0, 3, 7, 9, 15)] == [100, 51.3, 21.1, 13.5, 3.6]
    assert Budget.of(recipe, LENET).target(1) == pytest.approx(rounds[1].sparsity)


def test_plan_ends_at_the_first_round_that_meets_the_target(make_recipe) -> None:
    planned = plan(LENET, make_recipe(stop={"sparsity": 0.75, "rounds": 9}))
    assert [p.number for p in planned] == [0, 1, 2]
    with pytest.raises(RecipeRefused, match=r"set stop\.rounds to 3 or more") as caught:
        plan(LENET, make_recipe(stop={"sparsity": 0.8, "rounds": 2}))
    assert caught.value.field == ("stop", "sparsity")


def test_plan_ends_where_nothing_is_left(make_recipe) -> None:
    recipe = make_recipe(granularity="unit", stop={"rounds": 100})
    assert plan([LayerSize("a", 3), LayerSize("b", 1)], recipe)[-1].remaining == {"a": 1, "b": 1}
    with pytest.raises(RecipeRefused, match="nothing more can be pruned"):
        plan([LayerSize("a", 3)], make_recipe(granularity="unit", stop={"sparsity": 0.9}))


def test_overrides_by_name_and_by_output(make_recipe) -> None:
    recipe = make_recipe(scope={"kind": "layerwise", "overrides": {"output": {"rate": 0.5}, "fc1": {"ignore": True}}})
    assert resolve_overrides(recipe.scope, LENET) == {
        "fc1": LayerOverride(ignore=True),
        "fc2": LayerOverride(),
        "fc3": LayerOverride(rate=0.5),
    }
    assert list(plan(LENET, recipe)[0].remaining) == ["fc2", "fc3"]
    wrong = make_recipe(scope={"kind": "layerwise", "overrides": {"fc4": {"rate": 0.5}}})
    with pytest.raises(RecipeRefused, match="did you mean fc") as caught:
        plan(LENET, wrong)
    assert caught.value.field == ("scope", "overrides", "fc4")


def test_floors_bound_what_goes(make_recipe) -> None:
    scope = {"kind": "layerwise", "overrides": {"a": {"min_units": 5}}}
    recipe = make_recipe(granularity="unit", schedule={"fraction": 0.9}, scope=scope)
    budget = Budget.of(recipe, [LayerSize("a", 6), LayerSize("b", 10)])
    assert budget.by_layer({"a": 6, "b": 10}, 1) == {"a": 1, "b": 9}
    assert budget.in_all({"a": 6, "b": 10}, 1) == 10
    with pytest.raises(RecipeRefused, match="fewer than min_units"):
        plan(
            [LayerSize("a", 3)],
            make_recipe(granularity="unit", scope={"kind": "global", "overrides": {"a": {"min_units": 4}}}),
        )


def test_layer_sizes_from_a_report_count_groups_and_tied_weights_once() -> None:
    def layer(name, prunable, group=None, is_output=False):
        return {
            "name": name,
            "prunable": prunable,
            "group": group,
            "is_output": is_output,
            "shape": [4, 3],
            "num_weights": 12,
            "num_units": 4,
        }

    report = {
        "layers": [
            layer("stem", ["weight", "unit"], "stem"),
            layer("conv", ["weight", "unit"], "stem"),
            layer("tied", []),
            layer("fc", ["weight"], is_output=True),
        ]
    }
    assert layer_sizes(report, "unit") == [LayerSize("stem", 4)]
    assert layer_sizes(report, "weight") == [
        LayerSize("stem", 12, shape=(4, 3)),
        LayerSize("conv", 12, shape=(4, 3)),
        LayerSize("fc", 12, is_output=True, shape=(4, 3)),
    ]


def test_a_layers_own_override_beats_the_key_output() -> None:
    scope = Scope.model_validate({"kind": "layerwise", "overrides": {"output": {"rate": 0.5}, "fc2": {"ignore": True}}})
    layers = [LayerSize("fc1", 100), LayerSize("fc2", 10, is_output=True)]
    assert resolve_overrides(scope, layers)["fc2"].ignore


@pytest.mark.parametrize("percent", range(1, 100))
def test_k_is_that_of_the_decimal_that_was_written(percent: int) -> None:
    """0.29 * 100 is 28.999... in binary; whoever wrote 29% of 100 means 29."""
    for remaining in range(1, 400):
        exact = percent * remaining  # hundredths
        assert count_to_prune(remaining, percent / 100, "weight") == (exact + 50) // 100
        assert count_to_prune(remaining, percent / 100, "unit") == max(1, exact // 100)


def test_an_overrides_rate_is_a_decimal_too() -> None:
    recipe = Recipe.model_validate({"strategy": "lottery_ticket_reset", "schedule": {"fraction": 0.7}})
    budget = Budget.of(recipe, [LayerSize("fc", 10, is_output=True)])  # whose rate is 0.5
    assert budget.by_layer({"fc": 10}, 1) == {"fc": 4}  # 3.5, rounded up


ONE_SHOT = {"kind": "one_shot", "sparsity": 0.8}


def test_a_goal_below_what_min_units_keep_is_refused(make_recipe) -> None:
    layers = [LayerSize("a", 10), LayerSize("b", 40)]
    for kind, layer, word in [
        ("layerwise", "a", "would leave 2 of layer a's 10 units, of which min_units keeps 5"),
        ("global", "b", "would leave 10 of the network's 50 units, of which min_units keeps 16"),
    ]:
        least = {"a": 5, "b": 15}[layer]
        scope = {"kind": kind, "overrides": {layer: {"min_units": least}}}
        for schedule in (ONE_SHOT, {"kind": "geometric", "rounds": 3, "sparsity": 0.8}):
            recipe = make_recipe(granularity="unit", schedule=schedule, scope=scope, stop={"rounds": None})
            with pytest.raises(RecipeRefused, match=word) as caught:
                plan(layers, recipe)
            assert caught.value.field == ("schedule", "sparsity")
        fits = {**scope, "overrides": {layer: {"min_units": {"a": 2, "b": 9}[layer]}}}
        recipe = make_recipe(granularity="unit", schedule=ONE_SHOT, scope=fits, stop={"rounds": None})
        assert sum(plan(layers, recipe)[-1].remaining.values()) == 10


def test_a_network_of_small_layers_that_can_not_all_die(make_recipe) -> None:
    """Without any override: each layer keeps its last unit."""
    recipe = make_recipe(granularity="unit", schedule=ONE_SHOT, scope={"kind": "global"}, stop={"rounds": None})
    with pytest.raises(RecipeRefused, match="of which min_units keeps 3"):
        plan([LayerSize(name, 2) for name in "abc"], recipe)


def test_n_of_m_takes_whole_groups_of_inputs(make_recipe) -> None:
    layers = [
        LayerSize("conv", 36, shape=(4, 1, 3, 3)),
        LayerSize("a", 32, shape=(4, 8)),
        LayerSize("b", 8, shape=(2, 4)),
    ]
    half = {"kind": "one_shot", "sparsity": 0.5}
    for granularity, narrow in [
        ("2:4", "1 of 3 layers are no multiple of 4: conv \\(1\\)"),
        ("4:8", "conv \\(1\\), b \\(4\\)"),
    ]:
        with pytest.raises(RecipeRefused, match=narrow) as caught:
            plan(layers, make_recipe(granularity=granularity, schedule=half, stop={"rounds": None}))
        assert caught.value.field == ("granularity",)
    ignored = {"kind": "layerwise", "overrides": {"conv": {"ignore": True}}}
    recipe = make_recipe(granularity="2:4", schedule=half, scope=ignored, stop={"rounds": None})
    assert plan(layers, recipe)[-1].remaining == {"a": 16, "b": 4}


def test_a_step_that_no_round_reaches_is_refused_before_any_training(toy_conv, make_dataset, make_recipe) -> None:
    """Of epochs only the examples say how many steps they are: 40 in batches of 16 are three."""
    told: list[tuple] = []
    dataset = make_dataset((1, 4, 4), 3)
    for weights in ("rewind", "continue"):
        between = {"weights": weights, "learning_rate": "rewind"}
        training = {"epochs": 2, "batch_size": 16, "optimizer": {"name": "adam", "lr": 0.01}}
        late = make_recipe(between_rounds={**between, "step": 6}, training=training, stop={"rounds": 1})
        with pytest.raises(RecipeRefused, match="behind the 6 steps") as caught:
            next(prune_iteratively(toy_conv, dataset, late, progress=lambda *call: told.append(call)))
        assert (caught.value.field, told) == (("between_rounds", "step"), [])
        reached = make_recipe(between_rounds={**between, "step": 5}, training=training, stop={"rounds": 1})
        assert [round_.steps for round_ in prune_iteratively(toy_conv, dataset, reached)] == [6, 1]


def one_shot(sparsity: float) -> dict:
    return {"kind": "one_shot", "sparsity": sparsity}


@pytest.mark.parametrize("percent", range(1, 100))
@pytest.mark.parametrize("kind", ["layerwise", "global", "row", "erk"])
def test_a_schedule_meets_its_own_sparsity_as_a_target(make_recipe, percent: int, kind: str) -> None:
    """Whole weights may end half a weight below the decimal, and 1 - 80 / 100 is less than 0.2."""
    target = percent / 100
    layers = [
        LayerSize("a", 1006, shape=(2, 503)),
        LayerSize("b", 100, shape=(1, 100)),
        LayerSize("c", 200, shape=(2, 100)),
    ]
    for schedule in (one_shot(target), {"kind": "geometric", "rounds": 2, "sparsity": target}):
        recipe = make_recipe(schedule=schedule, scope={"kind": kind}, stop={"sparsity": target})
        assert plan(layers, recipe)[-1].sparsity == pytest.approx(target, abs=0.001)


@pytest.mark.parametrize("tenths", range(1, 10))
def test_a_fraction_of_the_original_prunes_no_round_too_many(make_recipe, tenths: int) -> None:
    for granularity in ("weight", "unit"):
        schedule = {"kind": "fraction", "fraction": 0.1, "of": "original"}
        recipe = make_recipe(granularity=granularity, schedule=schedule, stop={"sparsity": tenths / 10})
        assert plan([LayerSize("a", 100), LayerSize("b", 30)], recipe)[-1].number == tenths


def test_a_target_is_missed_by_more_than_rounding(make_recipe) -> None:
    """Half a weight in each layer is all that rounding may cost."""
    layers = [LayerSize("a", 1006), LayerSize("b", 100)]
    budget = Budget.of(make_recipe(), layers)
    assert [budget.meets(0.9, removed / 1106) for removed in (994, 995)] == [False, True]  # 905 + 90
    shared = Budget.of(make_recipe(scope={"kind": "global"}), layers)
    assert [shared.meets(0.9, removed / 1106) for removed in (994, 995)] == [False, True]  # of 995.4
    units = Budget.of(make_recipe(granularity="unit"), [LayerSize("a", 10), LayerSize("b", 3)])
    assert [units.meets(0.9, removed / 13) for removed in (11, 12)] == [False, True]


def test_the_loop_ends_where_the_plan_does(toy_conv, make_dataset, make_recipe) -> None:
    """Of 36, 96 and 18 weights: 14, 38 and 7 are 0.4 as near as whole weights come, and a little less in all."""
    for schedule in (one_shot(0.4), {"kind": "fraction", "fraction": 0.2, "of": "original"}):
        recipe = make_recipe(schedule=schedule, stop={"sparsity": 0.4})
        rounds = list(prune_iteratively(toy_conv, make_dataset((1, 4, 4), 3), recipe))
        layers = [LayerSize("conv", 36), LayerSize("fc1", 96), LayerSize("fc2", 18)]
        assert [r.sparsity_actual for r in rounds] == [p.sparsity for p in plan(layers, recipe)]


@pytest.mark.parametrize(
    ("kind", "sparsity", "word"),
    [
        (
            "layerwise",
            0.99,
            "nearly none of layer b's 20 weights, of which 1 always stays; lower it to 0.95, or set ignore",
        ),
        ("row", 0.98, "each of layer a's rows' 20 weights, of which 1 always stays; lower it to 0.95, or set ignore"),
        ("global", 0.9999, "the network's 820 weights, of which 2 always stay; lower it to 0.997"),
        ("erk", 0.9999, "the network's 820 weights, of which 2 always stay; lower it to 0.997"),
    ],
)
def test_a_goal_that_the_last_weight_of_a_layer_or_row_forbids_is_refused(make_recipe, kind, sparsity, word) -> None:
    layers = [LayerSize("a", 800, shape=(40, 20)), LayerSize("b", 20, shape=(1, 20))]
    for schedule in (one_shot(sparsity), {"kind": "polynomial", "rounds": 3, "sparsity": sparsity}):
        for stop in ({"rounds": None}, {"sparsity": sparsity}):
            with pytest.raises(RecipeRefused) as caught:
                plan(layers, make_recipe(schedule=schedule, scope={"kind": kind}, stop=stop))
            assert caught.value.field == ("schedule", "sparsity")
            assert word in str(caught.value)


@pytest.mark.parametrize("kind", ["layerwise", "row"])
def test_rounding_to_whole_weights_is_no_refusal(make_recipe, kind) -> None:
    layers = [LayerSize("a", 800, shape=(40, 20)), LayerSize("b", 20, shape=(1, 20)), LayerSize("one", 1, shape=(1, 1))]
    for sparsity, left in ((0.96, 1), (0.975, 1), (0.94, 1), (0.92, 2)):
        recipe = make_recipe(
            schedule=one_shot(sparsity),
            scope={"kind": kind, "overrides": {"one": {"ignore": True}}},
            stop={"sparsity": sparsity},
        )
        assert plan(layers, recipe)[-1].remaining["b"] == left
    with pytest.raises(RecipeRefused, match=r"sparsity 0.9 .* 1 weights, of which 1 always stays; set ignore"):
        plan(layers, make_recipe(schedule=one_shot(0.9), scope={"kind": kind}, stop={"rounds": None}))
    recipe = make_recipe(schedule=one_shot(0.5), scope={"kind": kind}, stop={"rounds": None})
    assert plan(layers, recipe)[-1].remaining == {"a": 400, "b": 10, "one": 1}
