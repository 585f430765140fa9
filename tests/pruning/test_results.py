from __future__ import annotations

import subprocess
import sys
from math import ceil

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from torch import nn

from pruning.formats.results import pack, read_masks, read_sparse, unpack, write_masks, write_sparse, write_state
from pruning.formats.weights import read_state_dict

NETWORK = nn.Sequential(nn.Conv2d(1, 16, 5), nn.Flatten(), nn.Linear(784, 100), nn.Linear(100, 10))


def some(seed: int = 0) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    draws = torch.Generator().manual_seed(seed)
    masks = {f"layer{n}.weight": torch.rand(7, n + 3, generator=draws) < 0.3 for n in range(4)}
    state = {key: torch.randn(mask.shape, generator=draws) * mask for key, mask in masks.items()}
    state["layer0.weight"][masks["layer0.weight"]] = 0.0  # kept, and zero
    state |= {"layer0.bias": torch.randn(7, generator=draws), "bn.num_batches_tracked": torch.tensor(12)}
    return state, masks


@settings(max_examples=60, derandomize=True, deadline=None)
@given(st.lists(st.booleans(), max_size=40))
def test_packing_is_little_endian_and_goes_round(bits) -> None:
    mask = torch.tensor(bits, dtype=torch.bool)
    packed = pack(mask)
    assert len(packed) == ceil(len(bits) / 8)
    assert [bool(packed[n // 8] >> (n % 8) & 1) for n in range(len(bits))] == bits
    assert torch.equal(unpack(packed, [len(bits)]), mask)


def test_masks_go_round_also_where_a_kept_weight_is_zero(tmp_path) -> None:
    _, masks = some()
    masks["scalar"] = torch.tensor(True)
    write_masks(tmp_path / "m", masks)
    back = read_masks(tmp_path / "m")
    assert back.keys() == masks.keys()
    assert all(torch.equal(back[key], mask) and back[key].dtype == torch.bool for key, mask in masks.items())
    with safe_open(tmp_path / "m", framework="pt") as file:
        assert len(file.metadata()) == 1
        assert file.get_tensor("layer0.weight").dtype == torch.uint8


def test_sparse_goes_round_and_holds_the_kept_alone(tmp_path) -> None:
    state, masks = some()
    write_sparse(tmp_path / "s", state, masks)
    back = read_sparse(tmp_path / "s")
    assert back.keys() == state.keys()
    assert all(torch.equal(back[key], tensor) and back[key].dtype == tensor.dtype for key, tensor in state.items())


def test_sparse_is_near_its_bound(tmp_path) -> None:
    draws = torch.Generator().manual_seed(0)
    mask = torch.rand(400, 500, generator=draws) < 0.1
    write_sparse(tmp_path / "s", {"w": torch.randn(400, 500, generator=draws) * mask}, {"w": mask})
    p = float(mask.float().mean())
    entropy_bits = -mask.numel() * (p * np.log2(p) + (1 - p) * np.log2(1 - p))
    assert (tmp_path / "s").stat().st_size < 1.1 * (entropy_bits / 8 + 4 * int(mask.sum()))


@pytest.mark.parametrize("sparsity", [0, 0.01, 0.05, 0.2, 0.5, 0.8, 0.9, 0.95, 0.99, 0.995, 0.999])
def test_sparse_is_within_a_tenth_of_masks_and_kept_weights_at_every_sparsity(tmp_path, sparsity) -> None:
    """Nothing in it can be compressed but the masks: random weights, random biases, masks at random."""
    draws = torch.Generator().manual_seed(int(sparsity * 1000))
    state = {name: torch.randn(tensor.shape, generator=draws) for name, tensor in NETWORK.state_dict().items()}
    masks = {
        name: torch.rand(tensor.shape, generator=draws) >= sparsity
        for name, tensor in state.items()
        if tensor.dim() > 1
    }
    write_sparse(tmp_path / "s", {n: t * masks[n] if n in masks else t for n, t in state.items()}, masks)
    values = 4 * sum(int(masks[n].sum()) if n in masks else t.numel() for n, t in state.items())
    plain, least = values, float(values)
    for mask in masks.values():
        p = float(mask.float().mean())
        plain += ceil(mask.numel() / 8)
        least += 0 if p in (0, 1) else -mask.numel() * (p * np.log2(p) + (1 - p) * np.log2(1 - p)) / 8
    # Beyond 0.95 zstandard does not reach what the masks tell, but the plain layout is far behind.
    assert (tmp_path / "s").stat().st_size < 1.1 * (least if sparsity <= 0.95 else plain / 2)


def test_tied_weights_are_written_under_every_key_and_load(tmp_path) -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    write_state(tmp_path / "w", model.state_dict())
    fresh = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    fresh[1].weight = fresh[0].weight
    fresh.load_state_dict(read_state_dict(tmp_path / "w"))
    assert torch.equal(fresh[1].weight, model[0].weight)


def test_strided_tensors_are_written_as_they_are(tmp_path) -> None:
    tensor = torch.arange(6.0).view(2, 3).t()
    write_state(tmp_path / "w", {"w": tensor})
    assert torch.equal(read_state_dict(tmp_path / "w")["w"], tensor)


def test_the_same_tensors_give_the_same_bytes_in_another_process_and_order(tmp_path) -> None:
    state, masks = some()
    backwards = (dict(reversed(state.items())), dict(reversed(masks.items())))
    torch.save((*backwards,), tmp_path / "tensors")
    code = f"""
import torch
from pathlib import Path
from pruning.formats.results import write_masks, write_sparse, write_state
state, masks = torch.load(r"{tmp_path / "tensors"}")
folder = Path(r"{tmp_path}")
write_state(folder / "state.2", state)
write_masks(folder / "masks.2", masks)
write_sparse(folder / "sparse.2", state, masks)
"""
    write_state(tmp_path / "state.1", state)
    write_masks(tmp_path / "masks.1", masks)
    write_sparse(tmp_path / "sparse.1", state, masks)
    subprocess.run([sys.executable, "-c", code], check=True)
    for kind in ("state", "masks", "sparse"):
        assert (tmp_path / f"{kind}.1").read_bytes() == (tmp_path / f"{kind}.2").read_bytes()
