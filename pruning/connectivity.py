"""Does anything still get through? A mask may leave every layer some weights and yet no path from input to output."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from pruning.graph import LAYER_TYPES
from pruning.masks import MaskError
from pruning.training import evaluating


def check_connected(model: nn.Module, masks: Mapping[str, Tensor], example: Tensor) -> None:
    """Refuse masks that cut the network in two: its outputs would be constants.

    An input of ones goes through the network with every kept weight 1, every pruned one 0 and every bias 0; layers pass
    on whether something arrived (1) or nothing (0), so nothing overflows or vanishes on the way. Where even the dense
    network lets nothing through by that measure (a normalisation over constants, say), it cannot tell and says nothing.

    Args:
        example: a batch of inputs; only its shape and dtype matter.

    Raises:
        MaskError: naming the layer that nothing reaches or leaves.
    """
    ones = torch.ones_like(example[:1])
    arrived = _what_arrives(model, masks, ones)
    if arrived[_OUTPUT] or not _what_arrives(model, {}, ones)[_OUTPUT]:
        return
    layers = list(arrived)
    last_reached = max((index for index, layer in enumerate(layers) if arrived[layer]), default=-1)
    raise MaskError(
        f"nothing gets through layer {layers[last_reached + 1]!r} any more: the masks disconnect the network; stop "
        "earlier (stop.rounds, stop.sparsity), prune less a round, or let layers compete on their own (scope layerwise)"
    )


_OUTPUT = "output"


def _what_arrives(model: nn.Module, masks: Mapping[str, Tensor], ones: Tensor) -> dict[str, bool]:
    """By layer in the order of execution, and last the output: whether anything but zero leaves it."""
    model = copy.deepcopy(model)
    arrived: dict[str, bool] = {}

    def watch(path: str, module: nn.Module) -> None:
        def hook(_module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            arrived[path] = bool(output.any())
            return (output != 0).to(output.dtype)

        module.register_forward_hook(hook)

    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.fill_(0.0 if name.endswith("bias") else 1.0)
            if name in masks:
                parameter.mul_(masks[name].to(parameter.device))
        for name, buffer in model.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                buffer.fill_(float(name.endswith("running_var")))
        for path, module in model.named_modules():
            if isinstance(module, LAYER_TYPES):
                watch(path, module)
        with evaluating(model):
            output = model(ones)
    return arrived | {_OUTPUT: bool(output.any())}
