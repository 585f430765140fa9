"""Optimisers, fused: one call for all parameters, which saves more than half of Adam's time on a CPU. And their state,
flat, as it is stored."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn

from pruning.training_options import Optimizer

OptimizerState = dict[str, Tensor]
"""{"<parameter>/<slot>": tensor} on the CPU, contiguous. Slots: exp_avg, exp_avg_sq and step of adam and adamw,
momentum_buffer of sgd with momentum; sgd without has none. A parameter that never had a gradient has none either."""


def _sgd(parameters: Iterable[nn.Parameter], options: Optimizer) -> torch.optim.Optimizer:
    """v <- momentum * v + g + decay * w; w <- w - lr * v, or with nesterov w - lr * (g + decay * w + momentum * v)."""
    return torch.optim.SGD(
        parameters,
        lr=options.lr,
        momentum=options.momentum,
        nesterov=options.nesterov,
        weight_decay=options.weight_decay,
        fused=True,
    )


def _adam(parameters: Iterable[nn.Parameter], options: Optimizer) -> torch.optim.Optimizer:
    """Kingma & Ba 2015, betas 0.9 and 0.999; the decay is part of the gradient."""
    return torch.optim.Adam(parameters, lr=options.lr, weight_decay=options.weight_decay, fused=True)


def _adamw(parameters: Iterable[nn.Parameter], options: Optimizer) -> torch.optim.Optimizer:
    """Loshchilov & Hutter 2019: the decay, times the learning rate, is apart from the gradient."""
    return torch.optim.AdamW(parameters, lr=options.lr, weight_decay=options.weight_decay, fused=True)


OPTIMIZERS: dict[str, Callable[[Iterable[nn.Parameter], Optimizer], torch.optim.Optimizer]] = {
    "adam": _adam,
    "adamw": _adamw,
    "sgd": _sgd,
}


SLOTS = {
    "adam": {"exp_avg", "exp_avg_sq", "step"},
    "adamw": {"exp_avg", "exp_avg_sq", "step"},
    "sgd": {"momentum_buffer"},
}
"""By optimiser, what a parameter has once it had a gradient; of sgd, with momentum."""


def flat_state(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter], copy: bool = True
) -> OptimizerState:
    """All that the optimiser remembers of `parameters`: clones, or where it can be its own tensors."""
    return {
        f"{name}/{slot}": value.detach().to("cpu", copy=copy).contiguous()
        for name, parameter in parameters.items()
        for slot, value in optimizer.state.get(parameter, {}).items()
        if isinstance(value, Tensor)
    }


def restore_optimizer(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter], state: Mapping[str, Tensor]
) -> None:
    """Give a fresh optimiser the memory of another of the same kind; the tensors given are copied.

    Raises:
        ValueError: a key names no trained parameter, or a tensor has not its shape.
    """
    for key, value in state.items():
        name, _, slot = key.rpartition("/")
        if name not in parameters:
            raise ValueError(f"the optimiser state {key} belongs to no parameter that is trained")
        parameter = parameters[name]
        if value.dim() and value.shape != parameter.shape:
            raise ValueError(f"the optimiser state {key} has shape {tuple(value.shape)}, not {tuple(parameter.shape)}")
        # In the parameter's memory format, on its device; a step count is a scalar.
        restored = torch.empty_like(parameter.detach()) if value.dim() else torch.empty((), device=parameter.device)
        optimizer.state[parameter][slot] = restored.copy_(value)


def set_rate(optimizer: torch.optim.Optimizer, options: Optimizer, factor: float) -> None:
    """The rate of the next step: a plain number, which a fused optimiser takes as cheaply as a tensor."""
    for group in optimizer.param_groups:
        group["lr"] = options.lr * factor
