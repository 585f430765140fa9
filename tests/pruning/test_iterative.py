from __future__ import annotations

import copy
import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from pruning import trainer
from pruning.criteria import CRITERIA, Criterion
from pruning.data import Dataset
from pruning.formats.architectures import build
from pruning.iterative import Resume, Round, Stored, prune_iteratively
from pruning.masks import MaskError
from pruning.recipe import Recipe
from pruning.schedules import RecipeRefused
from pruning.selection import last_passing
from pruning.training import Diverged

BATCH = {"batch_size": 16, "optimizer": {"name": "adam", "lr": 0.01}}
UNITS = {"criterion": {"name": "activation"}, "granularity": "unit", "scope": {"kind": "global"}}


def same_bits(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return one.keys() == two.keys() and all(
        torch.equal(one[key], two[key]) and torch.equal(torch.signbit(one[key]), torch.signbit(two[key])) for key in one
    )


def resumed(rounds: list[Round], asked: list[int]) -> Resume:
    """As the worker does it: records and tensors that went through storage, and nothing else."""

    def load(position: int) -> Stored:
        asked.append(position)
        stored = rounds[position]
        return Stored({k: v.clone() for k, v in stored.state.items()}, {k: v.clone() for k, v in stored.masks.items()})

    return Resume([round_.record for round_ in rounds], load)


RECIPES = {
    "reset": {"stop": {"rounds": 3}},
    "reset, random ties": {"stop": {"rounds": 3}, "criterion": {"name": "random"}, "scope": {"kind": "global"}},
    "continue, final reset": {
        "stop": {"rounds": 2},
        "between_rounds": {"weights": "continue"},
        "finally": {"weights": "reset", "train": True},
    },
    "continue, final trained on": {
        "stop": {"rounds": 2},
        "between_rounds": {"weights": "continue"},
        "finally": {"weights": "none", "train": True},
    },
    "final untrained": {"stop": {"rounds": 2}, "finally": {"weights": "reset", "train": False}},
    "dropnet": {
        **UNITS,
        "stop": {"rounds": 3},
        "training": {"epochs": 2, "early_stopping": {"patience": 1}, **BATCH},
    },
    "floor missed, final": {
        "stop": {"rounds": 3, "accuracy_floor": {"factor": 1.0}},
        "finally": {"weights": "none", "train": True},
    },
}


@pytest.mark.parametrize("changes", RECIPES.values(), ids=RECIPES)
def test_resumed_at_any_position_equals_uninterrupted(changes, toy_conv, make_dataset, make_recipe) -> None:
    recipe, dataset = make_recipe(**changes), make_dataset((1, 4, 4), 3, 48)
    whole = list(prune_iteratively(toy_conv, dataset, recipe))
    assert len(whole) >= 2
    for stored in range(1, len(whole) + 1):
        asked: list[int] = []
        torch.manual_seed(stored)
        later = list(prune_iteratively(toy_conv, dataset, recipe, resume=resumed(whole[:stored], asked)))
        assert [r.position for r in later] == [r.position for r in whole[stored:]]
        for ours, theirs in zip(later, whole[stored:], strict=True):
            assert same_bits(ours.state, theirs.state)
            assert same_bits(ours.masks, theirs.masks)
            assert same_bits(ours.ticket, theirs.ticket)
            assert (ours.number, ours.record, ours.early_stopping) == (
                theirs.number,
                theirs.record,
                theirs.early_stopping,
            )
        passing = last_passing([r.record for r in whole[:stored]], recipe.stop.accuracy_floor).position
        assert set(asked) <= {stored - 1, passing}


def test_same_seed_same_bits_and_another_seed_others(toy_conv, make_dataset, make_recipe) -> None:
    runs = [list(prune_iteratively(toy_conv, make_dataset((1, 4, 4), 3), make_recipe(seed=seed))) for seed in (0, 0, 1)]
    assert all(same_bits(one.state, two.state) for one, two in zip(runs[0], runs[1], strict=True))
    assert not same_bits(runs[0][0].state, runs[2][0].state)


def test_reset_restores_parameters_and_buffers(toy_conv, make_dataset, make_recipe, monkeypatch) -> None:
    """With no step in between, what training starts from is the ticket, batch-norm statistics included."""
    starts = []
    real = trainer.train

    def spy(model, *args, **kwargs):
        starts.append(copy.deepcopy(model.state_dict()))
        return real(model, *args, **kwargs)

    monkeypatch.setattr(trainer, "train", spy)
    rounds = list(prune_iteratively(toy_conv, make_dataset((1, 4, 4), 3), make_recipe()))
    initial = toy_conv.state_dict()
    for start, round_ in zip(starts, rounds, strict=True):
        assert same_bits(start, round_.ticket)
        assert torch.equal(start["bn.running_mean"], initial["bn.running_mean"])
        assert int(start["bn.num_batches_tracked"]) == 0
        kept = round_.masks["fc1.weight"]
        assert torch.equal(start["fc1.weight"][kept], initial["fc1.weight"][kept])
        assert int(round_.state["bn.num_batches_tracked"]) == 6


def test_continue_goes_on_from_the_trained_weights_and_their_epochs(
    toy_conv, make_dataset, make_recipe, monkeypatch
) -> None:
    starts, offsets = [], []
    real = trainer.train

    def spy(model, *args, epoch_offset, **kwargs):
        starts.append(copy.deepcopy(model.state_dict()))
        offsets.append(epoch_offset)
        return real(model, *args, epoch_offset=epoch_offset, **kwargs)

    monkeypatch.setattr(trainer, "train", spy)
    recipe = make_recipe(between_rounds={"weights": "continue"}, **{"finally": {"weights": "reset", "train": True}})
    rounds = list(prune_iteratively(toy_conv, make_dataset((1, 4, 4), 3), recipe))
    for start, before, round_ in zip(starts[1:3], rounds, rounds[1:], strict=False):
        kept = round_.masks["fc1.weight"]
        assert torch.equal(start["fc1.weight"], before.state["fc1.weight"] * kept)
        assert torch.equal(start["bn.running_mean"], before.state["bn.running_mean"])
    assert offsets == [0, 2, 4, 0], "40 examples in batches of 16: six steps take their order from two epochs"
    final = rounds[-1]
    assert final.number is None
    assert same_bits(starts[-1], final.ticket)
    assert same_bits(final.masks, rounds[-2].masks)


def test_round_zero_is_dense_and_masks_only_shrink_by_the_lowest(toy_conv, make_dataset, make_recipe) -> None:
    rounds = list(prune_iteratively(toy_conv, make_dataset((1, 4, 4), 3), make_recipe()))
    assert all(bool(mask.all()) for mask in rounds[0].masks.values())
    assert set(rounds[0].masks) == {"conv.weight", "fc1.weight", "fc2.weight"}, "no biases, no batch-norm"
    for before, after in itertools.pairwise(rounds):
        for name, mask in after.masks.items():
            assert not bool((mask & ~before.masks[name]).any())
            fallen = before.masks[name] & ~mask
            trained = before.state[name].abs()
            assert int(fallen.sum()) == int(before.masks[name].sum() * 0.5 + 0.5)
            assert trained[fallen].max() <= trained[mask].min()
            assert bool((after.state[name][~mask] == 0).all())
            assert bool((after.ticket[name][~mask] == 0).all())


def test_keep_low_prunes_the_highest(toy_conv, make_dataset, make_recipe) -> None:
    recipe = make_recipe(criterion={"name": "magnitude", "keep": "low"}, stop={"rounds": 1})
    dense, pruned = prune_iteratively(toy_conv, make_dataset((1, 4, 4), 3), recipe)
    kept, trained = pruned.masks["fc1.weight"], dense.state["fc1.weight"].abs()
    assert trained[~kept].min() >= trained[kept].max()


def test_negative_weights_are_pruned_by_their_size(make_dataset, make_recipe) -> None:
    model = nn.Linear(3, 2)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[-0.1, -5.0, 0.2], [4.0, -0.3, -6.0]]))
    recipe = make_recipe(stop={"rounds": 1}, training={"steps": 1, **BATCH, "optimizer": {"name": "sgd", "lr": 1e-9}})
    _, pruned = prune_iteratively(nn.Sequential(model), make_dataset(), recipe)
    assert pruned.masks["0.weight"].tolist() == [[False, True, False], [True, False, True]]


def test_the_papers_percentages(make_dataset) -> None:
    """Frankle & Carbin 2019, figure 4: 100, 51.3, 21.1, 13.5, 3.6 percent of LeNet-300-100's weights remain."""
    recipe = Recipe.model_validate(
        {
            "strategy": "lottery_ticket_reset",
            "stop": {"rounds": 15},
            "training": {"steps": 1, "evaluate_every_steps": None},
        }
    )
    rounds = list(prune_iteratively(build("lenet_300_100"), make_dataset((1, 28, 28), 10, 60), recipe))
    remaining = {round_.number: round(100 * (1 - round_.sparsity_actual), 1) for round_ in rounds}
    assert [remaining[number] for number in (0, 3, 7, 9, 15)] == [100, 51.3, 21.1, 13.5, 3.6]
    assert [round(100 * (1 - rounds[n].sparsity_target), 1) for n in (3, 7)] == [51.3, 21.1]


def test_tied_weights_are_pruned_once_and_returned_under_every_key(make_dataset, make_recipe) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.out = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 2)
            self.b.weight = self.a.weight

        def forward(self, x):
            return self.out(torch.relu(self.b(torch.relu(self.a(x)))))

    dataset, recipe = make_dataset(), make_recipe(finally_={"weights": "none", "train": True})
    rounds = list(prune_iteratively(Tied(), dataset, recipe))
    last = rounds[2]
    assert torch.equal(last.masks["a.weight"], last.masks["b.weight"])
    assert torch.equal(last.state["a.weight"], last.state["b.weight"])
    assert bool((last.ticket["b.weight"][~last.masks["b.weight"]] == 0).all())
    # 9 -> 4 -> 2 and 6 -> 3 -> 1 of 15, where floor(0.5 n + 0.5) go
    assert last.sparsity_actual == 1 - (2 + 1) / 15
    (final,) = prune_iteratively(Tied(), dataset, recipe, resume=resumed(rounds[:3], []))
    assert final.masks.keys() == last.masks.keys()


def test_ignored_layers_are_neither_pruned_nor_counted(toy_conv, make_dataset, make_recipe) -> None:
    recipe = make_recipe(scope={"kind": "global", "overrides": {"output": {"ignore": True}, "conv": {"ignore": True}}})
    rounds = list(prune_iteratively(toy_conv, make_dataset((1, 4, 4), 3), recipe))
    assert set(rounds[-1].masks) == {"fc1.weight"}
    assert int(rounds[1].masks["fc1.weight"].sum()) == 48
    assert rounds[1].sparsity_actual == 0.5


def test_units_go_exactly_k_over_the_network_above_their_floors(toy_conv, make_dataset, make_recipe) -> None:
    recipe = make_recipe(
        **UNITS | {"scope": {"kind": "global", "overrides": {"conv": {"min_units": 3}}}},
        schedule={"fraction": 0.25},
        stop={"rounds": 200},
    )
    rounds = list(prune_iteratively(toy_conv, make_dataset((1, 4, 4), 3), recipe))
    counts = [round_.units.num_units_kept for round_ in rounds]
    assert counts == [10, 8, 6, 5, 4], "floor(remaining / 4), at least one, down to 3 filters and 1 neuron"
    assert rounds[0].units.num_units == 10
    last = rounds[-1]
    assert (len(last.units.kept_units["conv"]), len(last.units.kept_units["fc1"])) == (3, 1)
    assert last.sparsity_actual == 1 - 4 / 10
    gone = sorted(set(range(4)) - set(last.units.kept_units["conv"]))
    for key in ("conv.weight", "conv.bias", "bn.weight", "bn.bias"):
        assert bool((last.state[key][gone] == 0).all()), "trained, and still exactly zero"


def test_layers_never_die(toy_conv, make_dataset, make_recipe) -> None:
    recipe = make_recipe(schedule={"fraction": 0.5}, scope={"kind": "global"}, stop={"rounds": 200})
    rounds = []
    # Each layer keeps a weight to the last, but soon they no longer meet: that mask is refused, by name.
    with pytest.raises(MaskError, match="nothing gets through layer"):
        for round_ in prune_iteratively(toy_conv, make_dataset((1, 4, 4), 3), recipe):
            rounds.append(round_)
    assert len(rounds) >= 2
    for round_ in rounds:
        assert all(int(mask.sum()) >= 1 for mask in round_.masks.values())


def test_it_ends_where_nothing_is_left_to_prune(toy_conv, make_dataset, make_recipe) -> None:
    recipe = make_recipe(
        criterion={"name": "activation"},
        granularity="unit",
        schedule={"fraction": 0.9},
        scope={"kind": "global"},
        stop={"rounds": 200},
    )
    rounds = list(prune_iteratively(toy_conv, make_dataset((1, 4, 4), 3), recipe))
    assert 2 <= len(rounds) < 10
    assert all(len(kept) >= 1 for kept in rounds[-1].units.kept_units.values())


def test_stops_at_the_target_sparsity(toy_conv, make_dataset, make_recipe) -> None:
    rounds = list(prune_iteratively(toy_conv, make_dataset((1, 4, 4), 3), make_recipe(stop={"sparsity": 0.74})))
    assert [round_.number for round_ in rounds] == [0, 1, 2]
    with pytest.raises(RecipeRefused, match="out of reach"):
        next(prune_iteratively(toy_conv, make_dataset((1, 4, 4), 3), make_recipe(stop={"sparsity": 0.99, "rounds": 2})))


@pytest.mark.parametrize(
    ("floor", "accuracies", "num_rounds", "masks_of"),
    [
        ({"factor": 0.9}, [0.8, 0.75, 0.72, 0.9], 3, 1),  # 0.72 = 0.9 * 0.8 does not pass: a' <= k * a stops
        ({"factor": 0.9, "on_floor": "literal"}, [0.8, 0.75, 0.7, 0.9], 3, 2),
        ({"factor": 0.9}, [0.8, 0.1], 2, 0),
        ({"value": 0.7}, [0.8, 0.71, 0.7], 3, 1),
    ],
)
def test_the_accuracy_floor(
    floor, accuracies, num_rounds, masks_of, toy_conv, make_dataset, make_recipe, monkeypatch
) -> None:
    told = iter(accuracies)
    dataset = make_dataset((1, 4, 4), 3)

    def evaluate(model, split, preprocessing, loss):
        validation = {"accuracy": next(told, 0.5), "loss": 1.0} if split is dataset.validation else None
        return validation or {"accuracy": 0.0, "loss": 1.0}  # the test split is never what decides

    monkeypatch.setattr(trainer, "evaluate", evaluate)
    recipe = make_recipe(
        stop={"rounds": 3, "accuracy_floor": floor}, **{"finally": {"weights": "reset", "train": True}}
    )
    *numbered, final = prune_iteratively(toy_conv, dataset, recipe)
    assert len(numbered) == num_rounds
    assert final.number is None
    assert same_bits(final.masks, numbered[masks_of].masks)
    assert final.sparsity_actual == numbered[masks_of].sparsity_actual
    assert final.sparsity_target == numbered[masks_of].sparsity_target


@pytest.mark.parametrize("on_floor", ["last_passing", "literal"])
def test_an_absolute_floor_that_the_dense_network_misses_ends_it_there(
    on_floor, toy_conv, make_dataset, make_recipe
) -> None:
    """No round more, and no final entry that could pass in its place."""
    stop = {"rounds": 3, "accuracy_floor": {"value": 0.99, "on_floor": on_floor}}
    recipe = make_recipe(stop=stop, **{"finally": {"weights": "none", "train": True}})
    rounds = list(prune_iteratively(toy_conv, make_dataset((1, 4, 4), 3), recipe))
    assert [round_.number for round_ in rounds] == [0]
    assert rounds[0].metrics["validation"]["accuracy"] < 0.99
    resume = Resume([rounds[0].record], lambda _: Stored(rounds[0].state, rounds[0].masks))
    assert list(prune_iteratively(toy_conv, make_dataset((1, 4, 4), 3), recipe, resume=resume)) == []


def test_an_untrained_final_entry_has_no_metrics(toy_conv, make_dataset, make_recipe) -> None:
    recipe = make_recipe(stop={"rounds": 1}, **{"finally": {"weights": "reset", "train": False}})
    *_, final = prune_iteratively(toy_conv, make_dataset((1, 4, 4), 3), recipe)
    assert (final.metrics, final.early_stopping, final.steps, final.record.validation) == ({}, None, 0, {})
    assert same_bits(final.state, final.ticket)


def test_the_callers_model_and_data_stay_as_they_were(toy_conv, make_dataset, make_recipe, monkeypatch) -> None:
    def failing(model, masks, evidence):
        with torch.no_grad():
            model.fc1.weight.zero_()
        raise RuntimeError("a criterion failed")

    before, dataset = copy.deepcopy(toy_conv.state_dict()), make_dataset((1, 4, 4), 3)
    inputs = dataset.train.inputs.clone()
    monkeypatch.setitem(CRITERIA, "magnitude", Criterion(failing))
    rounds = prune_iteratively(toy_conv, dataset, make_recipe())
    next(rounds)
    with pytest.raises(RuntimeError, match="criterion failed"):
        next(rounds)
    assert same_bits(before, toy_conv.state_dict())
    assert torch.equal(inputs, dataset.train.inputs)
    assert toy_conv.training


def test_a_round_is_not_changed_by_those_after_it(toy_conv, make_dataset, make_recipe) -> None:
    rounds = prune_iteratively(toy_conv, make_dataset((1, 4, 4), 3), make_recipe())
    first = next(rounds)
    state, masks = copy.deepcopy(first.state), copy.deepcopy(first.masks)
    list(rounds)
    assert same_bits(state, first.state)
    assert same_bits(masks, first.masks)


def test_progress_and_divergence_name_the_round(toy_conv, make_dataset, make_recipe) -> None:
    calls: list[tuple[int | None, int, int]] = []
    dataset = make_dataset((1, 4, 4), 3)
    recipe = make_recipe(stop={"rounds": 1}, **{"finally": {"weights": "reset", "train": True}})
    list(prune_iteratively(toy_conv, dataset, recipe, progress=lambda *call: calls.append(call)))
    assert calls == [(0, 6, 6), (1, 6, 6), (None, 6, 6)]
    nan = Dataset(dataset.train, dataset.validation, None, 3)
    nan.train.inputs[:] = float("nan")
    with pytest.raises(Diverged, match="round 0 is not finite at step 1") as caught:
        next(prune_iteratively(toy_conv, nan, make_recipe()))
    assert (caught.value.number, caught.value.step) == (0, 1)


def test_a_control_that_diverges_is_named(toy_conv, make_dataset, make_recipe, monkeypatch) -> None:
    real, calls = trainer.train, []

    def train(*args, **options):
        calls.append(options)
        if len(calls) == 3:
            raise Diverged(4)
        return real(*args, **options)

    monkeypatch.setattr(trainer, "train", train)
    rounds = prune_iteratively(toy_conv, make_dataset((1, 4, 4), 3), make_recipe(controls=["random_mask"]))
    next(rounds)
    with pytest.raises(Diverged, match="the control random_mask of round 1 is not finite at step 4"):
        next(rounds)


def test_a_real_dataset_with_the_dropnet_preset() -> None:
    from sklearn.datasets import load_digits

    from pruning.data import Split

    digits = load_digits()
    inputs = torch.tensor(digits.images * 15, dtype=torch.uint8).unsqueeze(1)
    targets = torch.tensor(digits.target, dtype=torch.int64)
    dataset = Dataset(Split(inputs[:1500], targets[:1500]), None, Split(inputs[1500:], targets[1500:]), 10)
    recipe = Recipe.model_validate(
        {"strategy": "dropnet", "stop": {"rounds": 3}, "training": {"epochs": 12, "early_stopping": {"patience": 3}}}
    )
    model = build("lenet_300_100", (1, 8, 8))
    rounds = list(prune_iteratively(model, dataset, recipe))
    assert rounds[0].metrics["validation"]["accuracy"] > 0.9
    assert rounds[0].metrics["test"]["accuracy"] > 0.85
    assert [round_.units.num_units_kept for round_ in rounds] == [400, 320, 256, 205][: len(rounds)]


@settings(max_examples=8, derandomize=True, deadline=None)
@given(
    fraction=st.sampled_from([0.1, 0.34, 0.7]),
    scope=st.sampled_from(["layerwise", "global"]),
    criterion=st.sampled_from(["magnitude", "random"]),
    granularity=st.sampled_from(["weight", "unit"]),
)
def test_what_the_plan_says_is_what_is_pruned(fraction, scope, criterion, granularity) -> None:
    from pruning.data import Split
    from pruning.intake import inspect_model
    from pruning.schedules import layer_sizes, plan

    floor = {"conv2": {"min_units": 3}} if granularity == "unit" else {}  # of single weights it is refused
    recipe = Recipe.model_validate(
        {
            "criterion": {"name": criterion},
            "granularity": granularity,
            "scope": {"kind": scope, "overrides": {**floor, "output": {"ignore": True}}},
            "schedule": {"fraction": fraction},
            "between_rounds": {"weights": "continue"},
            "stop": {"rounds": 4},
            "training": {"steps": 1, **BATCH},
        }
    )
    model = build("lenet5", (1, 12, 12), 3)
    sizes = layer_sizes(inspect_model(model, (1, 12, 12)), granularity)
    split = Split(torch.randn(12, 1, 12, 12), torch.arange(12) % 3)
    rounds = list(prune_iteratively(model, Dataset(split, split, None, 3), recipe))
    planned = plan(sizes, recipe)
    assert [round_.sparsity_actual for round_ in rounds] == [p.sparsity for p in planned]


def test_every_round_draws_anew(toy_conv, make_dataset, make_recipe, monkeypatch) -> None:
    drawn = []
    real = CRITERIA["random"].score

    def spy(model, masks, evidence):
        drawn.append(real(model, masks, evidence)["fc1.weight"])
        return {name: torch.zeros(mask.shape) for name, mask in masks.items()} | {"fc1.weight": drawn[-1]}

    monkeypatch.setitem(CRITERIA, "random", Criterion(spy))
    list(prune_iteratively(toy_conv, make_dataset((1, 4, 4), 3), make_recipe(criterion={"name": "random"})))
    assert len(drawn) == 2
    assert not torch.equal(*drawn)
