"""Options of training, each against a computation by hand: smoothing, distillation, precision, batch-norm, ..."""

from __future__ import annotations

import copy

import pytest
import torch
from pydantic import ValidationError
from torch import nn
from torch.nn.functional import cross_entropy, kl_div

from pruning import batch_norm
from pruning.batches import batches
from pruning.evaluation import evaluate
from pruning.rewinding import snapshot
from pruning.schedules import RecipeRefused
from pruning.training import train
from pruning.training_options import Training


def plan(**changes) -> Training:
    given = {"steps": 12, "batch_size": 16, "optimizer": {"name": "sgd", "lr": 0.05, "momentum": 0.9}}
    return Training.model_validate(given | changes)


@pytest.fixture
def images(make_dataset):
    return make_dataset((1, 4, 4), 3)


@pytest.fixture
def toy_conv(toy_conv):
    toy_conv.dropout.p = 0.0
    return toy_conv


def one_step(model, images, recipe: Training, **given) -> nn.Module:
    trained = copy.deepcopy(model)
    train(trained, {}, images, recipe, seed=0, **given)
    return trained


def by_hand(model, images, loss_of) -> nn.Module:
    """One step of plain SGD on the first batch, with another loss."""
    model = copy.deepcopy(model).train()
    inputs, targets = next(batches(images.train, plan(), model, 0))
    loss_of(model(inputs), inputs, targets).backward()
    torch.optim.SGD(model.parameters(), lr=0.5).step()
    return model


FIRST_STEP = {"steps": 1, "optimizer": {"name": "sgd", "lr": 0.5}}


def assert_close(one: nn.Module, two: nn.Module, tolerance: float = 1e-5) -> None:
    for ours, theirs in zip(one.state_dict().values(), two.state_dict().values(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)


def test_smoothing_is_of_the_training_loss_alone(toy_conv, images) -> None:
    ours = one_step(toy_conv, images, plan(**FIRST_STEP, label_smoothing=0.3))
    assert_close(ours, by_hand(toy_conv, images, lambda out, _, y: cross_entropy(out, y, label_smoothing=0.3)))
    recipe = plan(label_smoothing=0.3)
    trained = train(toy_conv, {}, images, recipe, seed=0)
    assert trained.early_stopping["metrics"] == evaluate(toy_conv, images.validation, recipe.preprocessing)
    with pytest.raises(ValidationError, match="no labels to smooth"):
        plan(loss="mse", label_smoothing=0.1)


def test_distillation_is_its_formula(toy_conv, images) -> None:
    teacher = copy.deepcopy(toy_conv).eval()
    with torch.no_grad():
        teacher.fc2.weight.mul_(5)

    def loss_of(out, inputs, targets):
        soft = (teacher(inputs) / 2).softmax(1).detach()
        divergence = kl_div((out / 2).log_softmax(1), soft, reduction="batchmean")
        return 0.25 * cross_entropy(out, targets) + 0.75 * 4 * divergence

    recipe = plan(**FIRST_STEP, distillation={"weight": 0.75, "temperature": 2})
    assert_close(one_step(toy_conv, images, recipe, teacher=teacher), by_hand(toy_conv, images, loss_of))
    plain = one_step(toy_conv, images, plan(**FIRST_STEP))
    assert_close(one_step(toy_conv, images, recipe), plain, 0.0)


def test_bfloat16_trains_and_stores_float32(toy_conv, images) -> None:
    seen = []
    toy_conv.fc2.register_forward_hook(lambda _, __, out: seen.append((torch.is_autocast_enabled("cpu"), out.dtype)))
    plain = one_step(toy_conv, images, plan(steps=40))
    seen.clear()
    ours = one_step(toy_conv, images, plan(steps=40, precision="bfloat16"))
    assert set(seen) == {(True, torch.bfloat16), (False, torch.float32)}, "training; evaluation"
    assert seen[-1] == (False, torch.float32)
    assert all(t.dtype in (torch.float32, torch.int64) for t in ours.state_dict().values())
    assert not torch.equal(ours.fc1.weight, plain.fc1.weight)
    assert_close(ours, plain, 0.1)
    assert evaluate(ours, images.validation, plan().preprocessing)["accuracy"] > 0.9


@pytest.mark.parametrize(
    "optimizer", [{"name": "adam", "lr": 0.01}, {"name": "sgd", "lr": 0.05, "momentum": 0.9}], ids=["adam", "sgd"]
)
def test_channels_last_is_the_same_numbers(optimizer, toy_conv, make_dataset) -> None:
    """No bias before batch-norm, where its gradient is rounding alone, which Adam would blow up to steps."""
    model, dataset = (
        nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), toy_conv.bn, nn.Conv2d(4, 5, 3), nn.Flatten(), nn.Linear(20, 3)),
        make_dataset((3, 6, 6), 3),
    )
    formats = []
    model[2].register_forward_pre_hook(
        lambda layer, x: formats.append(layer.weight.is_contiguous(memory_format=torch.channels_last))
    )
    plain = one_step(model, dataset, plan(optimizer=optimizer))
    assert not any(formats)
    formats.clear()
    trained = copy.deepcopy(model)
    mask = {"0.weight": torch.ones(4, 3, 3, 3, dtype=torch.bool)}
    kept = train(
        trained,
        mask,
        dataset,
        plan(optimizer=optimizer, channels_last=True),
        seed=0,
        keep_step=12,
        keep_optimizer_state=True,
    )
    assert all(formats)
    assert_close(trained, plain)
    for state in (snapshot(trained), kept.kept, kept.optimizer_state):
        assert all(tensor.is_contiguous() for tensor in state.values())


def test_channels_last_is_refused_where_the_model_needs_it_otherwise(make_dataset) -> None:
    class Viewed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(64, 3)

        def forward(self, x):
            x = self.conv(x)
            return self.fc(x.view(len(x), 64))

    model = Viewed()
    with pytest.raises(RecipeRefused, match="leave it out") as caught:
        train(model, {}, make_dataset((3, 6, 6), 3), plan(channels_last=True), seed=0)
    assert caught.value.field == ("training", "channels_last")
    assert model.conv.weight.is_contiguous()


def test_batch_norm_statistics_are_the_average_over_an_epoch(toy_conv, images) -> None:
    toy_conv.dropout.p = 0.5
    recipe = plan(recalibrate_batch_norm=True, augmentation={"crop_padding": 1})
    without = one_step(toy_conv, images, plan(augmentation={"crop_padding": 1}))
    ours = one_step(toy_conv, images, recipe)
    for name, parameter in without.named_parameters():
        assert torch.equal(parameter, ours.get_parameter(name)), name

    there = batches(images.train, plan(), ours, 0)
    values = [ours.conv(next(there)[0]).transpose(0, 1).flatten(1) for _ in range(3)]
    mean, var = (torch.stack(parts).mean(0) for parts in ([v.mean(1) for v in values], [v.var(1) for v in values]))
    torch.testing.assert_close(ours.bn.running_mean, mean.detach())
    torch.testing.assert_close(ours.bn.running_var, var.detach())
    assert not torch.allclose(without.bn.running_mean, mean)
    assert (ours.bn.momentum, ours.bn.num_batches_tracked.item(), ours.training) == (0.1, 3, True)


def test_what_a_recalibration_leaves_alone(images) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3), nn.BatchNorm1d(3, track_running_stats=False))
    before = snapshot(model)
    batch_norm.recalibrate_batch_norm(model, images.train, plan(), 0)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert model[2].momentum == 0.1
