from __future__ import annotations

import pytest

from pruning.recipe import AccuracyFloor
from pruning.selection import Gate, RoundRecord, last_passing, passes_floor, rounds_without_progress, select_round


def records(*accuracies: float | None) -> list[RoundRecord]:
    """Rounds 0, 1, ...; each 0.1 sparser than the one before."""
    return [
        RoundRecord(n, n, n / 10, {} if accuracy is None else {"accuracy": accuracy, "loss": 1 - accuracy})
        for n, accuracy in enumerate(accuracies)
    ]


FACTOR = AccuracyFloor(factor=0.9)
LITERAL = AccuracyFloor(factor=0.9, on_floor="literal")


def test_passing_means_above_not_at_the_floor() -> None:
    dense, at, above = records(0.8, 0.9 * 0.8, 0.73)
    assert passes_floor(dense, dense, FACTOR)
    assert not passes_floor(at, dense, FACTOR)
    assert passes_floor(above, dense, FACTOR)
    assert not passes_floor(dense, dense, AccuracyFloor(value=0.8))
    assert passes_floor(at, dense, None)
    assert not passes_floor(records(None)[0], dense, FACTOR)


def test_last_passing() -> None:
    assert last_passing(records(0.8, 0.79, 0.5), FACTOR).number == 1
    assert last_passing(records(0.8, 0.79, 0.5), LITERAL).number == 2
    assert last_passing(records(0.8, 0.79, 0.5), None).number == 2
    assert last_passing(records(0.8, 0.1), AccuracyFloor(value=0.9)).number == 0
    final = RoundRecord(2, None, 0.1, {"accuracy": 1.0})
    assert last_passing([*records(0.8, 0.79), final], FACTOR).number == 1


@pytest.mark.parametrize(("select", "expected"), [("smallest_passing", 3), ("best", 2), ("last", 3)])
def test_choices_among_the_rounds_above_the_floor(select, expected) -> None:
    chosen, passed = select_round(records(0.8, 0.79, 0.81, 0.75, 0.4), [], FACTOR, select)
    assert (chosen.number, passed) == (expected, True)


def test_gates_decide_the_verdict_and_narrow_the_choice() -> None:
    gate = Gate(metric="accuracy", value=0.79)
    assert select_round(records(0.8, 0.79, 0.75), [gate], FACTOR, "smallest_passing")[0].number == 1
    strict = Gate(metric="accuracy", op=">", value=0.8)
    chosen, passed = select_round(records(0.8, 0.79, 0.75), [strict], FACTOR, "smallest_passing")
    assert (chosen.number, passed) == (2, False)
    assert select_round(records(0.8, 0.6), [Gate(metric="loss", op="<=", value=0.25)], None, "last") == (
        records(0.8)[0],
        True,
    )


def test_gates_on_what_is_left_of_the_dense_networks_accuracy_and_on_sparsity() -> None:
    ratio, sparse = Gate(metric="accuracy_ratio", value=0.95), Gate(metric="sparsity", value=0.2)
    rounds = records(0.8, 0.79, 0.77, 0.7)
    assert select_round(rounds, [ratio], None, "smallest_passing")[0].number == 2
    assert select_round(rounds, [ratio, sparse], None, "best") == (rounds[2], True)
    chosen, passed = select_round(records(0.8, 0.79, 0.7), [ratio, sparse], None, "smallest_passing")
    assert (chosen.number, passed) == (2, False)
    untrained = RoundRecord(1, 1, 0.5, {})
    assert not ratio.passes(untrained, rounds[0])
    assert not ratio.passes(rounds[1], untrained)
    assert not ratio.passes(rounds[1], records(0.0)[0])


def test_literal_lets_the_last_one_run_stand() -> None:
    assert select_round(records(0.8, 0.79, 0.5), [], LITERAL, "smallest_passing")[0].number == 2
    assert select_round(records(0.8, 0.79, 0.5), [], FACTOR, "smallest_passing")[0].number == 1


def test_a_dense_network_below_an_absolute_floor_fails() -> None:
    chosen, passed = select_round(records(0.8), [], AccuracyFloor(value=0.9), "smallest_passing")
    assert (chosen.number, passed) == (0, False)


@pytest.mark.parametrize("on_floor", ["last_passing", "literal"])
def test_nothing_that_came_after_it_saves_a_dense_network_below_an_absolute_floor(on_floor: str) -> None:
    floor = AccuracyFloor(value=0.75, on_floor=on_floor)
    final = RoundRecord(1, None, 0.0, {"accuracy": 0.99, "loss": 0.1})
    for rounds in (records(0.5), [*records(0.5), final]):
        chosen, passed = select_round(rounds, [], floor, "best")
        assert (chosen.number, passed) == (0, False)


def test_an_untrained_final_entry_is_never_chosen_and_a_trained_one_may_be() -> None:
    rounds = records(0.8, 0.79)
    untrained = RoundRecord(2, None, 0.1, {})
    trained = RoundRecord(2, None, 0.1, {"accuracy": 0.79, "loss": 0.2})
    assert select_round([*rounds, untrained], [], FACTOR, "last")[0].position == 1
    assert select_round([*rounds, trained], [], FACTOR, "smallest_passing")[0].position == 2


def test_where_there_is_no_accuracy_the_least_loss_is_best() -> None:
    rounds = [RoundRecord(n, n, n / 10, {"loss": loss, "r2": 1 - loss}) for n, loss in enumerate((0.3, 0.1, 0.2, 0.4))]
    assert select_round(rounds, [], None, "best")[0].number == 1
    assert rounds_without_progress(rounds) == 2
    gate = Gate(metric="r2", value=0.75)
    assert select_round(rounds, [gate], None, "smallest_passing") == (rounds[2], True)
