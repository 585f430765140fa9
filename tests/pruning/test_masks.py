from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pruning.masks import (
    MaskError,
    apply_masks,
    check_masks,
    prune_smallest,
    prune_smallest_above_floors,
    prune_smallest_of_rows,
)

few_values = st.sampled_from([-2.0, -1.0, -0.0, 0.0, 0.5, 1.0, 1e-38, 3.4e38])
tensors = st.lists(st.lists(st.tuples(few_values, st.booleans()), min_size=1, max_size=12), min_size=1, max_size=3)


def draw(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@settings(max_examples=150, derandomize=True, deadline=None)
@given(tensors, st.data(), st.integers(0, 5))
def test_exactly_k_of_the_least_go_with_ties_and_zeros(tensors, data, seed) -> None:
    scores = {str(i): torch.tensor([value for value, _ in row]) for i, row in enumerate(tensors)}
    kept = {str(i): torch.tensor([held for _, held in row]) for i, row in enumerate(tensors)}
    available = sum(int(mask.sum()) for mask in kept.values())
    count = data.draw(st.integers(0, available))

    pruned = prune_smallest(scores, kept, count, draw(seed))

    gone = torch.cat([scores[name][kept[name] & ~pruned[name]] for name in kept])
    stay = torch.cat([scores[name][pruned[name]] for name in kept])
    assert len(gone) == count
    assert len(stay) == available - count
    assert not any(bool((pruned[name] & ~kept[name]).any()) for name in kept)
    if len(gone) and len(stay):
        assert gone.max() <= stay.min()


def test_all_equal_scores_lose_exactly_k_and_not_by_position() -> None:
    scores, kept = {"w": torch.zeros(1000)}, {"w": torch.ones(1000, dtype=torch.bool)}
    one, same, other = (prune_smallest(scores, kept, 300, draw(seed))["w"] for seed in (0, 0, 1))
    assert int(one.sum()) == 700
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert 50 < int((~one[:500]).sum()) < 250, "ties are drawn from everywhere"


def test_ties_are_drawn_across_tensors() -> None:
    scores = {"a": torch.zeros(100), "b": torch.zeros(100)}
    kept = {name: torch.ones(100, dtype=torch.bool) for name in scores}
    pruned = prune_smallest(scores, kept, 100, draw())
    assert 20 < int(pruned["a"].sum()) < 80


def test_selection_reads_more_than_one_chunk(monkeypatch) -> None:
    monkeypatch.setattr("pruning.masks._CHUNK", 7)
    scores = {"w": torch.randperm(100, generator=draw()).float().view(10, 10)}
    pruned = prune_smallest(scores, {"w": torch.ones(10, 10, dtype=torch.bool)}, 40, draw())
    assert torch.equal(pruned["w"], scores["w"] >= 40)


@pytest.mark.parametrize("by", [torch.abs, torch.neg, lambda score: -score.abs()])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_what_scores_are_compared_by_is_as_if_made_before(by, dtype) -> None:
    scores = {"w": torch.randn(1000, generator=draw()).to(dtype), "v": torch.tensor([0.0, -0.0, 1.0, -1.0]).to(dtype)}
    kept = {name: torch.arange(len(score)) % 7 != 3 for name, score in scores.items()}
    before = {name: score.clone() for name, score in scores.items()}
    pruned = prune_smallest(scores, kept, 300, draw(), by)
    made = prune_smallest({name: by(score) for name, score in scores.items()}, kept, 300, draw())
    assert all(torch.equal(pruned[name], made[name]) for name in kept)
    assert all(torch.equal(scores[name], before[name]) for name in kept), "the scores may be the weights themselves"


def test_no_more_than_there_is_and_no_score_that_is_no_number() -> None:
    kept = {"w": torch.tensor([True, False])}
    with pytest.raises(ValueError, match="cannot prune 2 of the 1"):
        prune_smallest({"w": torch.zeros(2)}, kept, 2, draw())
    with pytest.raises(ValueError, match="scores of w"):
        prune_smallest({"w": torch.tensor([float("nan"), 0])}, kept, 1, draw())


@settings(max_examples=100, derandomize=True, deadline=None)
@given(st.lists(st.lists(few_values, min_size=2, max_size=8), min_size=2, max_size=4), st.data())
def test_floors_hold_and_still_exactly_k_go(rows, data) -> None:
    scores = {str(i): torch.tensor(row) for i, row in enumerate(rows)}
    kept = {name: torch.ones(len(row), dtype=torch.bool) for name, row in scores.items()}
    floors = {name: data.draw(st.integers(1, len(row))) for name, row in scores.items()}
    can_go = sum(len(row) - floors[name] for name, row in scores.items())
    count = data.draw(st.integers(0, can_go))

    pruned = prune_smallest_above_floors(scores, kept, count, floors, draw())

    assert sum(int((~mask).sum()) for mask in pruned.values()) == count
    for name, mask in pruned.items():
        assert int(mask.sum()) >= floors[name]
        if int((~mask).sum()):
            assert scores[name][~mask].max() <= scores[name][mask].min(), "a starved tensor keeps its best"


def test_rows_lose_exactly_k_where_what_is_kept_scores_infinity() -> None:
    scores = torch.tensor([[float("inf"), float("inf"), 1.0, 2.0]] * 20)
    kept = torch.tensor([[True, True, False, False]] * 20)
    assert prune_smallest_of_rows(scores, kept, 1, draw()).sum(1).tolist() == [1] * 20


def test_apply_masks_leaves_positive_zeros() -> None:
    weight = torch.tensor([-1.0, 2.0, float("inf")])
    apply_masks({"w": weight}, {"w": torch.tensor([False, True, False])})
    assert weight.tolist() == [0.0, 2.0, 0.0]
    assert not torch.signbit(weight).any()


def test_check_masks_names_the_parameter() -> None:
    before = {"fc1.weight": torch.tensor([True, False])}
    check_masks({"fc1.weight": torch.tensor([True, False])}, before)
    with pytest.raises(MaskError, match=r"fc1\.weight revives"):
        check_masks({"fc1.weight": torch.tensor([True, True])}, before)
    with pytest.raises(MaskError, match=r"fc1\.weight keeps nothing"):
        check_masks({"fc1.weight": torch.tensor([False, False])}, before)
