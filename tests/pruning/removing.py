"""What tests of the physical removal share: networks as after training, random masks of units, and the comparison."""

from __future__ import annotations

import copy

import torch
from torch import nn

from pruning.formats.exported_program import read_program
from pruning.masks import apply_masks
from pruning.unit_flow import find_units
from pruning.units import unit_masks_to_masks

BATCH = ({0: torch.export.Dim("batch")},)


def lived_in(model: nn.Module, seed: int) -> nn.Module:
    """As after training: no parameter or statistic is zero or one."""
    draws = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            if tensor.dim() == 1:
                tensor.uniform_(0.5, 1.5, generator=draws)
                if not name.endswith("running_var"):
                    tensor.mul_((torch.rand(tensor.shape, generator=draws) < 0.5) * 2 - 1)
    return model


def pruned_by_unit(model: nn.Module, shape, seed: int, density: float = 0.5):
    """(random masks of whole units, of which each group keeps one at least; the unit masks). They are applied."""
    groups, _ = find_units(model, torch.randn(2, *shape))
    draws = torch.Generator().manual_seed(seed)
    unit_masks = {group.name: torch.rand(group.size, generator=draws) < density for group in groups}
    for mask in unit_masks.values():
        mask[int(torch.randint(len(mask), (), generator=draws))] = True
    masks = unit_masks_to_masks(unit_masks, groups, dict(model.named_parameters()))
    apply_masks(dict(model.named_parameters()), masks)
    return masks, unit_masks


def outputs(model: nn.Module, shape, trained: bool, batch: int = 7):
    model = copy.deepcopy(model).train(trained)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    with torch.no_grad():
        return model(torch.randn(batch, *shape, generator=torch.Generator().manual_seed(8)))


def assert_same(masked: nn.Module, reduced: nn.Module, shape) -> None:
    torch.testing.assert_close(outputs(reduced, shape, False), outputs(masked, shape, False), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(outputs(reduced, shape, True), outputs(masked, shape, True), rtol=1e-3, atol=1e-3)


def exported(model: nn.Module, shape, path):
    torch.export.save(torch.export.export(model.train(), (torch.randn(2, *shape),), dynamic_shapes=BATCH), path)
    return read_program(path)
