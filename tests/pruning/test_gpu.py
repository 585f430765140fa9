"""On a CUDA device: the CPU's results within rounding, its own results to the bit. Skipped, visibly, without one."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator

import pytest
import torch
from test_iterative import BATCH, RECIPES, resumed, same_bits
from torch import nn

from pruning.data import Dataset, Split, place
from pruning.formats.architectures import build
from pruning.iterative import prune_iteratively
from pruning.randomness import global_stream
from pruning.rewinding import snapshot
from pruning.training import evaluate, train
from pruning.training_options import Preprocessing
from worker import machine

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here: nothing of this has been run"),
]
MIB = 1 << 20


@pytest.fixture(scope="module")
def cuda() -> Iterator[torch.device]:
    """As a training process sets it up; CUBLAS_WORKSPACE_CONFIG must be set before the first product."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        device = machine.start_device("0", 0.95)
        torch.use_deterministic_algorithms(True)
        yield device
        torch.use_deterministic_algorithms(False)


def pictures(shape: tuple[int, ...], num_examples: int = 64) -> Dataset:
    draws = torch.Generator().manual_seed(0)
    targets = torch.arange(num_examples) % 10
    inputs = torch.randint(0, 256, (num_examples, *shape), dtype=torch.uint8, generator=draws)
    return Dataset(Split(inputs, targets), Split(inputs[:20], targets[:20]), None, 10)


@pytest.mark.parametrize("name", ["lenet_300_100", "lenet5", "conv2", "conv4", "conv6", "resnet20", "vgg16"])
def test_training_equals_the_cpus_within_rounding_and_itself_to_the_bit(name, make_recipe, cuda) -> None:
    """Also that every architecture of ours has deterministic kernels for all it does."""
    shape = (1, 28, 28) if name.startswith("lenet") else (3, 32, 32)
    model = build(architecture=name, input_shape=list(shape), num_classes=10, seed=0)
    recipe = make_recipe(
        stop={"rounds": 1},
        training={"steps": 4, "batch_size": 16, "optimizer": {"name": "sgd", "lr": 0.001, "momentum": 0.9}},
    )
    dataset = pictures(shape)
    here, there, again = (
        list(prune_iteratively(model, dataset, recipe, device=device)) for device in (torch.device("cpu"), cuda, cuda)
    )
    for ours, theirs, same in zip(here, there, again, strict=True):
        assert same_bits(theirs.state, same.state)
        assert same_bits(theirs.masks, same.masks)
        assert {tensor.device.type for tensor in [*theirs.state.values(), *theirs.masks.values()]} == {"cpu"}
        assert theirs.sparsity_actual == ours.sparsity_actual
        assert theirs.metrics["validation"]["loss"] == pytest.approx(ours.metrics["validation"]["loss"], rel=0.02)
    for key, expected in here[0].state.items():
        torch.testing.assert_close(there[0].state[key], expected, rtol=1e-3, atol=1e-4)
    agree = [(there[1].masks[key] == mask).float().mean().item() for key, mask in here[1].masks.items()]
    assert min(agree) > 0.98, "near-ties aside, the same weights go"


@pytest.mark.parametrize("changes", RECIPES.values(), ids=RECIPES)
def test_resumed_on_the_same_device_is_the_same_to_the_bit(changes, toy_conv, make_dataset, make_recipe, cuda) -> None:
    recipe, dataset = make_recipe(**changes), make_dataset((1, 4, 4), 3, 48)
    whole = list(prune_iteratively(toy_conv, dataset, recipe, device=cuda))
    for stored in range(1, len(whole) + 1):
        torch.manual_seed(stored)
        later = list(prune_iteratively(toy_conv, dataset, recipe, resume=resumed(whole[:stored], []), device=cuda))
        for ours, theirs in zip(later, whole[stored:], strict=True):
            assert same_bits(ours.state, theirs.state)
            assert same_bits(ours.masks, theirs.masks)
            assert ours.metrics == theirs.metrics


def test_dropout_draws_from_the_named_stream_and_puts_the_devices_back(cuda) -> None:
    ones, drawn = torch.ones(1000, device=cuda), []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.cuda.get_rng_state(cuda)
        with global_stream(0, "dropout", 3, device=cuda):
            drawn.append(nn.functional.dropout(ones))
        assert torch.equal(torch.cuda.get_rng_state(cuda), before)
    assert torch.equal(*drawn)


def test_a_dataset_that_does_not_fit_trains_to_the_same_bits(make_recipe, cuda) -> None:
    dataset = pictures((1, 256, 256), 1000)
    training = make_recipe(training={"epochs": 2, **BATCH}).training
    model = nn.Sequential(nn.AvgPool2d(32), nn.Flatten(), nn.Dropout(), nn.Linear(64, 10)).to(cuda)
    states = []
    total = torch.cuda.mem_get_info(cuda)[1]
    for fraction, where in ((0.95, "cuda"), (100 * MIB / total, "cpu")):
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction(fraction, cuda)
        try:
            placed = place(dataset, cuda)
            assert (placed.train.inputs.device.type, placed.train.targets.device.type) == (where, "cuda")
            trained = copy.deepcopy(model)
            train(trained, {}, placed, training, seed=0)
            states.append(snapshot(trained) | {"metrics": torch.tensor([*_metrics(trained, placed)])})
        finally:
            del placed
            torch.cuda.set_per_process_memory_fraction(0.95, cuda)
    assert same_bits(*states)


def _metrics(model: nn.Module, dataset: Dataset) -> list[float]:
    return list(evaluate(model, dataset.train, Preprocessing()).values())


def test_nothing_waits_for_the_device_between_evaluations(make_recipe, cuda) -> None:
    dataset = place(pictures((1, 28, 28), 2000), cuda)
    waits = []
    for steps in (20, 100):  # of one epoch
        model = build(architecture="lenet_300_100", input_shape=[1, 28, 28], num_classes=10, seed=0).to(cuda)
        masks = {"fc1.weight": torch.rand_like(model.fc1.weight, device="cpu") > 0.5}
        training = make_recipe(
            training={"steps": steps, **BATCH, "evaluate_every_steps": steps},
        ).training
        torch.cuda.set_sync_debug_mode("warn")
        with warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always")
            train(model, masks, dataset, training, seed=0)
        torch.cuda.set_sync_debug_mode("default")
        waits.append(sum("synchronizing CUDA operation" in str(warning.message) for warning in heard))
    assert waits[0] == waits[1]


def test_out_of_memory_is_explained(cuda) -> None:
    total = torch.cuda.mem_get_info(cuda)[1]
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2 * total, dtype=torch.uint8, device=cuda)
    code, message = machine.explain(caught.value, cuda, 6 << 30) or ("", "")
    assert code == "out_of_memory"
    assert "MiB of GPU memory (peak so far:" in message
    assert "lower training.batch_size" in message


def test_an_operator_without_a_deterministic_kernel_is_named(cuda) -> None:
    inputs = torch.rand(1, 1, 8, 8, device=cuda, requires_grad=True)
    with pytest.raises(RuntimeError) as caught:
        nn.functional.adaptive_avg_pool2d(inputs, 3).sum().backward()
    code, message = machine.explain(caught.value, cuda, 6 << 30) or ("", "")
    assert code == "nondeterministic_operator"
    assert message.startswith("adaptive_avg_pool2d_backward_cuda has no deterministic kernel on cuda")


def test_the_class_of_machine_names_the_device(cuda) -> None:
    found = machine.determinism_class(cuda)
    assert (found["device"], found["model"]) == ("cuda", torch.cuda.get_device_name(0))
    assert {"capability", "cuda", "cudnn", "threads", "compiled", "torch"} <= found.keys()
    machine.try_out(cuda)
