"""The client reads masks with numpy alone; the service writes them with torch and safetensors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from espalier import read_masks

from pruning.formats.results import write_masks


@pytest.mark.parametrize("shape", [(8,), (1,), (3, 5), (64, 1, 3, 3), (2, 0), ()])
def test_masks_are_read_as_they_were_written(tmp_path: Path, shape: tuple[int, ...]) -> None:
    draws = torch.Generator().manual_seed(1)
    masks = {key: torch.rand(shape, generator=draws) < 0.5 for key in ("fc1.weight", "a")}
    masks["all"], masks["none"] = torch.ones(9, dtype=torch.bool), torch.zeros(7, 2, dtype=torch.bool)
    write_masks(tmp_path / "masks.safetensors", masks)
    for path in (tmp_path / "masks.safetensors", str(tmp_path / "masks.safetensors")):
        read = read_masks(path)
        assert read.keys() == masks.keys()
        for key, mask in masks.items():
            assert read[key].dtype == np.bool_
            assert read[key].shape == tuple(mask.shape)
            assert np.array_equal(read[key], mask.numpy())


def test_no_masks(tmp_path: Path) -> None:
    write_masks(tmp_path / "masks.safetensors", {})
    assert read_masks(tmp_path / "masks.safetensors") == {}


def test_a_mask_counts_and_selects(tmp_path: Path) -> None:
    """Real booleans: a byte of 255 or 2 would count wrongly, and its negation would stay true."""
    mask = torch.tensor([[True, False, True], [False, False, True]])
    write_masks(tmp_path / "masks.safetensors", {"w": mask})
    read = read_masks(tmp_path / "masks.safetensors")["w"]
    assert read.sum() == 3
    assert np.arange(6).reshape(2, 3)[~read].tolist() == [1, 3, 4]
    assert torch.equal(torch.from_numpy(read.copy()), mask)
