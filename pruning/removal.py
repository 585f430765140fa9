"""Physical removal: masked units are cut out, and a smaller network that computes the same is left.

A unit may go where the masks let nothing of it reach the next layers, or leave it nothing to emit. The groups' slices
already say which indices of which tensors are a unit's (`units.py`, `unit_flow.py`), so cutting is `index_select`, in
grouped convolutions group by group. Which units stay so that their groups remain alike: `unit_widths.py`.
Torch-Pruning 1.6.1 would follow the graph a second time, by gradients, with its own idea of which units belong
together; where the two differ, what was masked is not what is cut. It is a dependency that would save one function.

The plan is data: which indices stay, of which dimension, of which tensor. With it a user cuts his own module by hand.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NotRequired, TypedDict

import torch
from torch import Tensor, nn

from pruning.formats.errors import FormatError
from pruning.formats.exported_program.literals import fit_literals
from pruning.formats.exported_program.program import Program
from pruning.graph import canonical_names
from pruning.inputs import noise
from pruning.masks import Masks, apply_masks
from pruning.randomness import generator
from pruning.removal_check import RemovalError, check_same
from pruning.rewinding import State
from pruning.unit_flow import find_units
from pruning.unit_widths import widths_that_fit
from pruning.units import Slice, UnitGroup


class CutTensor(TypedDict):
    """`kept`: the indices that stay of dimension `dim` of the tensor `name` of the state dict, ascending.

    With `blocks`, the tensor is the weight of a grouped convolution of that many groups, `dim` is 1, and sizes and
    indices count the convolution's inputs, one group's after another's. Each group keeps as many, its own: with n =
    `old_size` / `blocks`, the filters of group b keep the indices i - b * n of the i in [b * n, (b + 1) * n).
    """

    name: str
    dim: int
    old_size: int
    new_size: int
    kept: list[int]
    blocks: NotRequired[int]


class CutGroup(TypedDict):
    """Units that `layers` have in common, under the name of the first. `kept_units` are numbered as before."""

    name: str
    layers: list[str]
    old_width: int
    new_width: int
    kept_units: list[int]


class Plan(TypedDict):
    """All of a removal, JSON-able. A tensor that loses along two dimensions is listed twice, in any order."""

    round_to: int
    groups: list[CutGroup]
    tensors: list[CutTensor]


@dataclass(frozen=True, eq=False)
class Removed:
    """
    Attributes:
        module: the smaller network, in the model's own mode, its state dict under the same keys.
        masks: what is left of the masks: all ones, but for single weights pruned and units kept for `round_to`.
    """

    module: nn.Module
    masks: Masks
    plan: Plan


def materialize(
    model: nn.Module, masks: Mapping[str, Tensor], input_shape: Sequence[int], round_to: int = 1
) -> Removed:
    """Cut the masked units out of a copy of `model`, and verify that it computes the same as the masked network.

    Compared on noise, in evaluation and in training mode, at two batch sizes. Where the network draws at random in
    training (dropout), only the shapes are compared there.

    Args:
        masks: by parameter name, as a round has them. Units that single-weight masks happen to leave dead go as well.
        input_shape: of one example.
        round_to: widths stay multiples of it where a layer is wide enough: fewer units go than are masked.

    Raises:
        UntraceableError: the model cannot be followed as a graph.
        RemovalError: its forward pass depends on the old widths, at a place that is named where that is known.
    """
    masked = copy.deepcopy(model)
    apply_masks(dict(masked.named_parameters(remove_duplicate=False)), masks)
    groups, _ = find_units(masked, noise(masked, 2, input_shape, generator(0, "removal")))
    plan = plan_removal(masked, masks, groups, round_to)
    module = cut(masked, plan)
    check_same(masked, module, input_shape)
    return Removed(module, _cut_tensors(masks, plan), plan)


def plan_removal(model: nn.Module, masks: Mapping[str, Tensor], groups: Sequence[UnitGroup], round_to: int = 1) -> Plan:
    """What to keep. No layer is emptied: the first unit of one that is all dead stays.

    Nor is a group of a grouped convolution, and all groups of one keep equally many inputs and equally many filters.

    Args:
        model: with `masks` applied.
        groups: of `find_units`.
        round_to: 1 or more; a layer of fewer units than that is left whole.
    """
    parameters = dict(model.named_parameters())
    alive = {group.name: _alive(group, masks, parameters) for group in groups}
    kept_units = widths_that_fit(alive, groups, parameters, round_to)
    return {
        "round_to": round_to,
        "groups": [
            {
                "name": group.name,
                "layers": list(group.layers),
                "old_width": group.size,
                "new_width": int(kept_units[group.name].sum()),
                "kept_units": kept_units[group.name].nonzero().flatten().tolist(),
            }
            for group in groups
        ],
        "tensors": _plan_tensors(model, groups, kept_units),
    }


def _alive(group: UnitGroup, masks: Mapping[str, Tensor], parameters: Mapping[str, Tensor]) -> Tensor:
    """(size,) bool: units that emit something, as far as that is known, and reach someone.

    Masks decide. A parameter without one counts as kept by its consumers, and its value, if it is the unit's own: a
    bias that is exactly zero does not keep a unit alive whose incoming weights are all pruned.
    """

    def any_kept(slices: Sequence[Slice], without_mask: Mapping[str, Tensor]) -> Tensor:
        found = torch.zeros(group.size, dtype=torch.bool)
        for part in slices:
            kept = masks[part.name] if part.name in masks else without_mask[part.name]
            found |= part.per_unit(kept, group.size).any(1)
        return found

    everything = {part.name: torch.ones(parameters[part.name].shape, dtype=torch.bool) for part in group.outgoing}
    reaches = any_kept(group.outgoing, everything)
    if not group.keeps_zero:
        return reaches
    own = [part for part in group.slices if part not in group.outgoing]
    return reaches & any_kept(own, {part.name: parameters[part.name].detach() != 0 for part in own})


def _plan_tensors(model: nn.Module, groups: Sequence[UnitGroup], kept_units: Mapping[str, Tensor]) -> list[CutTensor]:
    sizes = {name: tensor.shape for name, tensor in (*model.named_parameters(), *model.named_buffers())}
    kept: dict[tuple[str, int], Tensor] = {}
    blocks: dict[tuple[str, int], int] = {}
    for group in groups:
        for part in (*group.slices, *group.buffers):
            place = (part.name, part.dim)
            spread = part.spread(kept_units[group.name], part.length(sizes[part.name]))
            kept[place] = kept[place] & spread if place in kept else spread
            if part.dim == 1 and part.blocks > 1:
                blocks[place] = part.blocks
    aliases: dict[str, list[str]] = {}
    for name, first in canonical_names(model).items():
        aliases.setdefault(first, []).append(name)
    return [
        _cut_tensor(name, dim, spread, blocks.get((first, dim)))
        for (first, dim), spread in kept.items()
        if not bool(spread.all())
        for name in aliases.get(first, [first])
    ]


def _cut_tensor(name: str, dim: int, spread: Tensor, blocks: int | None) -> CutTensor:
    """`spread`: which indices stay."""
    kept = spread.nonzero().flatten().tolist()
    entry: CutTensor = {"name": name, "dim": dim, "old_size": len(spread), "new_size": len(kept), "kept": kept}
    if blocks is not None:
        entry["blocks"] = blocks
    return entry


def cut(model: nn.Module, plan: Plan) -> nn.Module:
    """A copy of `model` with only the plan's indices, its layers' own sizes and an exported program's written ones fit.

    Raises:
        RemovalError: the plan is not this model's, or a step of the program does not fit; it names the step's place.
    """
    module = copy.deepcopy(model)
    tensors = dict((*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)))
    smaller = _cut_tensors(tensors, plan)
    parameters: dict[int, nn.Parameter] = {}
    for name in {tensor["name"] for tensor in plan["tensors"]}:
        path, _, leaf = name.rpartition(".")
        owner, old = module.get_submodule(path), tensors[name]
        if isinstance(old, nn.Parameter):
            # Tied weights stay one parameter.
            new = parameters.setdefault(id(old), nn.Parameter(smaller[name].detach(), old.requires_grad))
            owner._parameters[leaf] = new
        else:
            owner._buffers[leaf] = smaller[name]
    for layer in module.modules():
        _renew_sizes(layer)
    if isinstance(module, Program) and isinstance(model, Program):
        try:
            fit_literals(module, model)
        except FormatError as error:
            raise RemovalError(str(error)) from error
    return module


def _cut_tensors(tensors: Mapping[str, Tensor], plan: Plan) -> State:
    """Only the plan's indices of those of its tensors that are given."""
    smaller = dict(tensors)
    for entry in plan["tensors"]:
        name, dim, blocks = entry["name"], entry["dim"], entry.get("blocks", 1)
        if name not in smaller:
            continue
        if smaller[name].dim() <= dim or smaller[name].shape[dim] * blocks != entry["old_size"]:
            shape = tuple(smaller[name].shape)
            raise RemovalError(f"{name} has the shape {shape}, and the plan is for {entry['old_size']} at {dim}")
        kept = torch.tensor(entry["kept"], device=smaller[name].device)
        smaller[name] = _select(smaller[name].detach(), dim, kept, blocks)
    return smaller


def _select(tensor: Tensor, dim: int, kept: Tensor, blocks: int) -> Tensor:
    """The indices `kept` of `dim`; in each of the `blocks` along dimension 0, those that are its own."""
    if blocks == 1:
        return tensor.index_select(dim, kept)
    own = kept.view(blocks, -1) % tensor.shape[dim]  # ascending and equally many a block: a row for each
    parts = tensor.chunk(blocks)
    return torch.cat([part.index_select(dim, index) for part, index in zip(parts, own, strict=True)])


def _renew_sizes(layer: nn.Module) -> None:
    """A layer's own account of its sizes."""
    if isinstance(layer, nn.Linear):
        layer.out_features, layer.in_features = layer.weight.shape
    elif isinstance(layer, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
        if 1 < layer.groups == layer.in_channels:  # depthwise: a group for each input, of as many filters as before
            layer.groups = len(layer.weight) // (layer.out_channels // layer.groups)
        layer.out_channels, layer.in_channels = len(layer.weight), layer.weight.shape[1] * layer.groups
    elif isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.weight is not None:
        layer.num_features = len(layer.weight)
