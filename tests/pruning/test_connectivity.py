"""A mask that disconnects the network is refused with the layer's name, though every layer keeps something."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from pruning.connectivity import check_connected
from pruning.formats.architectures import build
from pruning.masks import MaskError


def mlp_masks(first: list[list[int]], second: list[list[int]]) -> dict[str, Tensor]:
    return {"0.weight": torch.tensor(first).bool(), "2.weight": torch.tensor(second).bool()}


def test_a_path_cut_between_two_layers_is_named() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1))
    example = torch.zeros(1, 2)
    check_connected(model, mlp_masks([[1, 0], [0, 0]], [[1, 0]]), example)
    with pytest.raises(MaskError, match="layer '2'"):
        check_connected(model, mlp_masks([[1, 0], [0, 0]], [[0, 1]]), example)
    with pytest.raises(MaskError, match="layer '0'"):
        check_connected(model, mlp_masks([[0, 0], [0, 0]], [[0, 1]]), example)


def test_weights_and_biases_of_the_model_do_not_matter_and_stay() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1))
    nn.init.constant_(model[0].bias, 5.0)
    nn.init.constant_(model[0].weight, -1.0)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(MaskError):
        check_connected(model, mlp_masks([[1, 1], [0, 0]], [[0, 1]]), torch.zeros(1, 2))
    check_connected(model, mlp_masks([[1, 1], [0, 0]], [[1, 0]]), torch.zeros(1, 2))
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_a_residual_branch_may_go_as_long_as_something_gets_round_it() -> None:
    model = build("resnet20")
    weights = {name: p for name, p in model.named_parameters() if p.dim() > 1}
    masks = {name: torch.ones_like(p, dtype=torch.bool) for name, p in weights.items()}
    branch = next(name for name in masks if "conv2" in name)
    check_connected(model, masks | {branch: torch.zeros_like(masks[branch])}, torch.zeros(1, 3, 32, 32))
    first = next(iter(masks))
    with pytest.raises(MaskError, match=first.removesuffix(".weight")):
        check_connected(model, masks | {first: torch.zeros_like(masks[first])}, torch.zeros(1, 3, 32, 32))


def test_deep_and_wide_networks_neither_overflow_nor_vanish() -> None:
    deep = nn.Sequential(*[layer for _ in range(60) for layer in (nn.Linear(512, 512), nn.ReLU())])
    keep_one = torch.zeros(512, 512, dtype=torch.bool)
    keep_one[0, 0] = True
    check_connected(deep, {}, torch.zeros(1, 512))
    check_connected(deep, {f"{2 * i}.weight": keep_one for i in range(60)}, torch.zeros(1, 512))


def test_where_the_dense_network_shows_nothing_it_says_nothing() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2), nn.Linear(2, 1))  # of constants, a norm leaves zeros
    check_connected(model, {"0.weight": torch.zeros(2, 2, dtype=torch.bool)}, torch.zeros(1, 2))
