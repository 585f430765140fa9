"""Programs that other versions of torch wrote (`fixtures/make_programs.py`): read, trained, pruned and written."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from fixtures.make_programs import NETWORKS
from torch import nn

from pruning.data import Dataset, Split
from pruning.formats.exported_program import read_program, write_program
from pruning.intake import inspect_model
from pruning.iterative import prune_iteratively
from pruning.rewinding import restore

FOLDER = Path(__file__).parent / "fixtures"
VERSIONS = ("2.9.1", "2.10.0", "2.11.0", "2.12.1", "2.13.0")
CLASSES = 3


def draw(example: torch.Tensor, count: int, seed: int) -> torch.Tensor:
    draws = torch.Generator().manual_seed(seed)
    shape = (count, *example.shape[1:])
    return (
        torch.randint(0, 11, shape, generator=draws)
        if example.dtype is torch.int64
        else torch.randn(shape, generator=draws)
    )


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", NETWORKS)
def test_a_program_of_another_torch_is_read_trained_pruned_and_written(name, version, make_recipe, tmp_path) -> None:
    make, example = NETWORKS[name]
    program, eager = read_program(FOLDER / f"{name}-{version}.pt2"), make()
    eager.load_state_dict(program.state_dict())
    x, shape = draw(example, 5, 1), tuple(example.shape[1:])
    assert torch.equal(program.eval()(x), eager.eval()(x))

    layers = inspect_model(program, shape)["layers"]
    dataset = Dataset(*(Split(draw(example, n, n), torch.arange(n) % CLASSES) for n in (12, 6)), None, CLASSES)
    granularities = ["weight"] + ["unit"] * any("unit" in layer["prunable"] for layer in layers)
    for granularity in granularities:
        *_, last = prune_iteratively(program, dataset, make_recipe(granularity=granularity))
        assert last.sparsity_actual == pytest.approx(0.75, abs=0.15)
        eager.load_state_dict(last.state)
        restore(program, last.state)
        assert torch.equal(program.eval()(x), eager.eval()(x))
        assert all(bool((eager.get_parameter(key)[~mask] == 0).all()) for key, mask in last.masks.items())

    write_program(tmp_path / "p.pt2", program, shape)
    with torch.no_grad():
        assert torch.equal(torch.export.load(tmp_path / "p.pt2").module()(x), program.eval()(x))


@pytest.mark.parametrize("version", VERSIONS)
def test_it_trains_as_the_module_does(version) -> None:
    make, example = NETWORKS["residual"]
    program, eager = read_program(FOLDER / f"residual-{version}.pt2"), make()
    eager.load_state_dict(program.state_dict())
    for model in (program.train(), eager.train()):
        optimizer = torch.optim.Adam(model.parameters(), 1e-2)
        for step in range(3):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(draw(example, 8, step)), torch.arange(8) % CLASSES).backward()
            optimizer.step()
    assert all(torch.equal(value, eager.state_dict()[key]) for key, value in program.state_dict().items())
