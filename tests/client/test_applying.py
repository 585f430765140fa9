"""`apply`: a result into the user's own module, with masks that hold, or not at all."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from espalier import ApplyError, DigestMismatch, apply
from torch import nn

from pruning.formats.results import write_masks, write_state


def network(hidden: int = 6) -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(4, hidden), nn.BatchNorm1d(hidden), nn.Linear(hidden, 3))


def results(folder: Path, seed: int = 0) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """`model.safetensors` and `masks.safetensors` in the folder: half of each weight pruned."""
    net = network()
    torch.manual_seed(seed)
    masks = {name: torch.rand(p.shape) > 0.5 for name, p in net.named_parameters() if p.dim() == 2}
    state = {name: torch.randn(t.shape) if t.is_floating_point() else t + 7 for name, t in net.state_dict().items()}
    state = {name: tensor * masks[name] if name in masks else tensor for name, tensor in state.items()}
    folder.mkdir(exist_ok=True)
    write_state(folder / "model.safetensors", state)
    write_masks(folder / "masks.safetensors", masks)
    return state, masks


def step(net: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    net(torch.randn(8, 4)).square().sum().backward()
    optimizer.step()


@pytest.mark.parametrize("how", ["file", "folder", "zip"])
def test_weights_and_masks_are_loaded(tmp_path: Path, how: str) -> None:
    state, masks = results(tmp_path)
    path = {"file": tmp_path / "model.safetensors", "folder": tmp_path, "zip": tmp_path / "all.zip"}[how]
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        for name in ("model.safetensors", "masks.safetensors"):
            archive.write(tmp_path / name, f"round-3/{name}")
    net = network()
    applied = apply(net, path)
    assert all(torch.equal(state[name], tensor) for name, tensor in net.state_dict().items())
    assert applied.masks.keys() == masks.keys()
    assert all(torch.equal(applied.masks[name], mask) for name, mask in masks.items())
    kept = sum(int(mask.sum()) for mask in masks.values())
    assert applied.sparsity == pytest.approx(1 - kept / sum(mask.numel() for mask in masks.values()))


def test_held_masks_stay_while_it_trains(tmp_path: Path) -> None:
    _, masks = results(tmp_path)
    net = network()
    applied = apply(net, tmp_path)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.1)
    before = net[0].weight.detach().clone()
    handle = applied.hold(optimizer)
    for _ in range(3):
        step(net, optimizer)
    assert not torch.equal(net[0].weight, before), "it trains"
    assert all(bool((net.get_parameter(name)[~mask] == 0).all()) for name, mask in masks.items())
    handle.remove()
    step(net, optimizer)
    assert bool((net[0].weight[~masks["0.weight"]] != 0).any()), "without it, pruned weights come back"
    applied.enforce()
    assert bool((net[0].weight[~masks["0.weight"]] == 0).all())


def test_what_is_wrapped_around_it_does_not_matter(tmp_path: Path) -> None:
    state, _ = results(tmp_path)
    net = network()
    apply(nn.DataParallel(net), tmp_path)
    assert torch.equal(net[0].weight, state["0.weight"])


def test_files_are_those_that_the_service_promised(tmp_path: Path) -> None:
    results(tmp_path)
    artifacts: list[Any] = [
        {"sha256": hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()}
        for name in ("model.safetensors", "masks.safetensors")
    ]
    apply(network(), tmp_path, artifacts=iter(artifacts))
    for promised, named in ((artifacts[:1], "masks"), (artifacts[1:], "model")):
        with pytest.raises(DigestMismatch, match=rf"{named}\.safetensors: its sha256"):
            apply(network(), tmp_path, artifacts=promised)


def test_what_does_not_fit_changes_nothing(tmp_path: Path, subtests: pytest.Subtests) -> None:
    state, masks = results(tmp_path)
    results(tmp_path / "other", seed=5)
    alone = tmp_path / "alone"
    alone.mkdir()
    write_state(alone / "model.safetensors", state)
    (tmp_path / "no").mkdir()
    (tmp_path / "no" / "model.safetensors").write_bytes(b"\x80\x04nonsense")
    write_masks(tmp_path / "no" / "masks.safetensors", masks)
    inside = nn.ModuleDict({"net": network()})
    named: Any
    for module, path, named, words in [
        (network(), alone, {}, r"no masks\.safetensors in .*masks=False"),
        (network(), tmp_path / "nowhere", {}, r"there is no .*nowhere"),
        (network(), tmp_path / "no", {}, r"no whole safetensors file"),
        (network(), tmp_path, {"masks": tmp_path / "other" / "masks.safetensors"}, r"weights where its mask has none"),
        (network(), tmp_path, {"masks": tmp_path / "model.safetensors"}, r"holds no masks"),
        (network(7), tmp_path, {}, r"0\.weight \(6, 4\) instead of \(7, 4\).*same sizes"),
        (network()[:2], tmp_path, {}, r"none missing in it, 2\.bias, 2\.weight unexpected"),
        (inside, tmp_path, {}, r"apply to the module's own part 'net'"),
        (network(), tmp_path, {"public_key": b"key"}, r"pass statements and public_key"),
    ]:
        before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
        with subtests.test(words=words), pytest.raises(ApplyError, match=words):
            apply(module, path, **named)
        assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())
    assert apply(network(), alone, masks=False).masks == {}
