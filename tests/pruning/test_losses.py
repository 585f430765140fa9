from __future__ import annotations

import math

import pytest
import torch
from sklearn import metrics as theirs
from torch import nn
from torch.nn.functional import cross_entropy

from pruning.data import Dataset, Split, task_of, with_validation
from pruning.evaluation import evaluate
from pruning.iterative import prune_iteratively
from pruning.losses import LOSSES
from pruning.recipe import Recipe
from pruning.schedules import RecipeRefused
from pruning.training import train
from pruning.training_options import METRICS_OF_LOSS, Preprocessing, Training

DRAWS = torch.Generator().manual_seed(5)


def measured(outputs: torch.Tensor, targets: torch.Tensor, loss: str) -> dict[str, float]:
    """Over more than one batch: the model gives its inputs back."""
    return evaluate(nn.Identity(), Split(outputs, targets), Preprocessing(), loss)


def test_several_labels_as_scikit_learn_has_them() -> None:
    outputs = torch.randn(5000, 4, generator=DRAWS)
    targets = (outputs + torch.randn(5000, 4, generator=DRAWS) > 1).to(torch.uint8)
    outputs, targets = (
        torch.cat([part, torch.full((5000, 1), filler)], 1) for part, filler in ((outputs, -9), (targets, 0))
    )
    found = measured(outputs, targets.to(torch.uint8), "binary_cross_entropy")
    said = outputs > 0
    assert found["accuracy"] == pytest.approx(1 - theirs.hamming_loss(targets, said))
    assert found["f1"] == pytest.approx(theirs.f1_score(targets[:, :4], said[:, :4], average="macro")), "never a class"
    probabilities = outputs.sigmoid().double()
    by_hand = -torch.where(targets > 0, probabilities, 1 - probabilities).log().mean()
    assert found["loss"] == pytest.approx(float(by_hand), rel=1e-5)
    assert measured(-torch.ones(3, 2), torch.zeros(3, 2), "binary_cross_entropy")["f1"] == 0.0


@pytest.mark.parametrize(("shape", "scale"), [((5000, 1), 1), ((5000, 3), 1), ((200, 1), 1e-4)])
def test_numbers_as_scikit_learn_has_them(shape, scale) -> None:
    targets = scale * (1e4 + torch.randn(shape, generator=DRAWS) * torch.arange(1, shape[1] + 1))
    outputs = targets + scale * 0.3 * torch.randn(shape, generator=DRAWS)
    found = measured(outputs, targets, "mse")
    assert found == {
        "loss": pytest.approx(theirs.mean_squared_error(targets, outputs), rel=1e-4),
        "mae": pytest.approx(theirs.mean_absolute_error(targets, outputs), rel=1e-4),
        "r2": pytest.approx(theirs.r2_score(targets, outputs), rel=1e-4),
    }
    if shape[1] == 1:
        assert measured(outputs, targets.flatten(), "mse") == found
    assert measured(torch.ones(4, 1), torch.ones(4), "mse")["r2"] == 1.0
    assert measured(torch.zeros(4, 1), torch.ones(4), "mse")["r2"] == 0.0


def test_tokens_by_hand_and_ignored_ones_count_nowhere() -> None:
    outputs = torch.randn(70, 3, 5, generator=DRAWS)
    targets = torch.randint(0, 5, (70, 3), generator=DRAWS)
    targets[::2, 1] = -100
    told = targets != -100
    loss = cross_entropy(outputs[told], targets[told]).item()
    assert measured(outputs, targets, "next_token") == {
        "accuracy": pytest.approx((outputs.argmax(-1) == targets)[told].float().mean().item()),
        "loss": pytest.approx(loss),
        "perplexity": pytest.approx(math.exp(loss)),
    }
    trained = LOSSES["next_token"].training(outputs, targets, 0.0)
    assert trained.item() == pytest.approx(loss)
    assert LOSSES["next_token"].training(outputs, torch.full((70, 3), -100), 0.1).item() == 0.0
    assert math.isfinite(measured(outputs * 1e6, targets, "next_token")["perplexity"])


class Words(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.fc = nn.Embedding(5, 8), nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.embedding(x))


def problem(loss: str) -> tuple[nn.Module, Dataset]:
    inputs = torch.randn(200, 3, generator=torch.Generator().manual_seed(0))
    if loss == "next_token":
        words = torch.randint(0, 5, (200, 6), generator=torch.Generator().manual_seed(0))
        return Words(), Dataset(Split(words, (words + 1) % 5), None, None, 5)
    targets, model, classes = {
        "cross_entropy": ((inputs[:, 0] > 0).long(), nn.Linear(3, 2), 2),
        "binary_cross_entropy": ((inputs[:, :2] > 0).to(torch.uint8), nn.Linear(3, 2), 2),
        "mse": (inputs @ torch.tensor([1.0, -2.0, 0.5]) + 1, nn.Linear(3, 1), None),
    }[loss]
    return model, Dataset(Split(inputs, targets), None, None, classes)


def plan(**changes) -> Training:
    given = {"epochs": 40, "batch_size": 20, "optimizer": {"name": "adam", "lr": 0.05}}
    return Training.model_validate(given | changes)


@pytest.mark.parametrize(
    ("loss", "metric", "least"),
    [
        ("cross_entropy", "accuracy", 0.9),
        ("binary_cross_entropy", "f1", 0.9),
        ("mse", "r2", 0.99),
        ("next_token", "accuracy", 0.99),
    ],
)
def test_each_loss_learns_and_distils_a_toy_problem(loss, metric, least) -> None:
    model, dataset = problem(loss)
    dataset = with_validation(dataset, 0)
    before = evaluate(model, dataset.validation, Preprocessing(), loss)
    train(model, {}, dataset, plan(loss=loss), seed=0)
    after = evaluate(model, dataset.validation, Preprocessing(), loss)
    assert after["loss"] < before["loss"] / 2
    assert after[metric] > least

    pupil, _ = problem(loss)
    recipe = plan(loss=loss, distillation={"weight": 1.0, "temperature": 2.0})
    train(pupil, {}, dataset, recipe, seed=0, teacher=model.eval())
    assert evaluate(pupil, dataset.validation, Preprocessing(), loss)[metric] > least - 0.05


@pytest.mark.parametrize("loss", LOSSES)
def test_the_table_of_metrics_is_what_is_measured(loss) -> None:
    """Floors and gates are admitted by it, without torch."""
    model, dataset = problem(loss)
    assert sorted(evaluate(model, dataset.train, Preprocessing(), loss)) == sorted(METRICS_OF_LOSS[loss])
    assert METRICS_OF_LOSS.keys() == LOSSES.keys()


@pytest.mark.parametrize("loss", ["mse", "next_token"])
def test_every_entry_of_a_job_is_measured_by_the_recipes_loss(loss) -> None:
    model, dataset = problem(loss)
    if loss == "mse":
        model = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 1))
    recipe = Recipe.model_validate(
        {
            "strategy": "lottery_ticket_reset",
            "training": {"steps": 20, "batch_size": 20, "loss": loss, "evaluate_every_steps": 10},
            "stop": {"rounds": 2, "patience": 5},
            "controls": ["random_mask"],
            "finally": {"weights": "reset", "train": True},
        }
    )
    rounds = list(prune_iteratively(model, dataset, recipe))
    assert [round_.number for round_ in rounds] == [0, 1, 2, None]
    for round_ in rounds:
        for metrics in (*round_.metrics.values(), *(c["metrics"]["validation"] for c in round_.controls.values())):
            assert set(metrics) == set(METRICS_OF_LOSS[loss])
        assert set(round_.early_stopping["metrics"]) == set(METRICS_OF_LOSS[loss])


@pytest.mark.parametrize("loss", LOSSES)
def test_the_teacher_itself_learns_nothing_from_the_teacher(loss) -> None:
    """Its divergence is 0 and least there: a push by SGD moves no weight."""
    model, dataset = problem(loss)
    teacher, _ = problem(loss)
    teacher.load_state_dict(model.state_dict())
    distils = LOSSES[loss].distillation
    outputs = model(dataset.train.inputs)
    same = distils(outputs, teacher(dataset.train.inputs).detach(), dataset.train.targets, 3.0)
    assert same.item() == pytest.approx(0, abs=1e-6)
    same.backward()
    assert all(p.grad.abs().max() < 1e-6 for p in model.parameters())
    other = distils(outputs.detach(), outputs.detach().flip(-1) + outputs.detach() ** 2, dataset.train.targets, 3.0)
    assert other.item() > 1e-4


def test_a_loss_for_other_targets_is_refused() -> None:
    for loss in LOSSES:
        for other in LOSSES:
            model, dataset = problem(other)
            dataset = with_validation(dataset, 0)
            if loss == other or (loss, other) == ("mse", "binary_cross_entropy"):
                continue
            with pytest.raises(RecipeRefused, match=f"set it to {other}") as caught:
                train(model, {}, dataset, plan(loss=loss), seed=0)
            assert caught.value.field == ("training", "loss")


@pytest.mark.parametrize("loss", ["binary_cross_entropy", "mse", "next_token"])
def test_a_tenth_is_held_out_where_there_are_no_classes(loss) -> None:
    _, dataset = problem(loss)
    held = with_validation(dataset, 0)
    assert (len(held.train), len(held.validation)) == (180, 20)
    assert task_of(held.validation) == task_of(dataset.train)
    assert torch.equal(with_validation(dataset, 0).validation.inputs, held.validation.inputs)
    assert not torch.equal(with_validation(dataset, 1).validation.inputs, held.validation.inputs)
