# ruff: noqa: ARG001 (rewinds share one signature)
"""What survives from the trained network of one round into the training of the next."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pruning.randomness import generator

State = dict[str, Tensor]
"""Parameters and buffers on the CPU, under the model's own keys, as in `state_dict()`; tied weights under every key."""


def snapshot(model: nn.Module) -> State:
    """Detached clones of the parameters and buffers, on the CPU wherever the model is."""
    return {key: tensor.detach().to("cpu", copy=True) for key, tensor in model.state_dict().items()}


def restore(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Set parameters and buffers (batch-norm statistics among them) to `state`, in place.

    Raises:
        RuntimeError: keys or shapes are not the model's.
    """
    model.load_state_dict(dict(state))


@dataclass(frozen=True)
class Origins:
    """Where weights may be set back to.

    Attributes:
        initial: the first weights.
        rewound: those of round 0 after `between_rounds.step` steps; None where the recipe does not rewind, or before.
        seed: of the job, for what is newly drawn.
    """

    initial: State
    rewound: State | None
    seed: int

    @property
    def ticket(self) -> State:
        """What the papers call the ticket's weights: the first ones, or the rewound."""
        return self.initial if self.rewound is None else self.rewound


Rewind = Callable[[nn.Module, Origins, int], None]
"""rewind(model, origins, position of the entry that begins)."""


def reset(model: nn.Module, origins: Origins, position: int) -> None:
    """Back to the first weights (Frankle & Carbin 2019, strategy 1; Tan & Motani 2020)."""
    restore(model, origins.initial)


def rewind(model: nn.Module, origins: Origins, position: int) -> None:
    """Back to the weights of round 0 at step k (Frankle et al. 2020, Linear Mode Connectivity, section 3)."""
    assert origins.rewound is not None, "round 0 has been trained, and the recipe says up to where"
    restore(model, origins.rewound)


def keep_trained(model: nn.Module, origins: Origins, position: int) -> None:
    """Training goes on from the trained weights (Frankle & Carbin 2019, strategy 2)."""


def reinit(model: nn.Module, origins: Origins, position: int, stream: str = "reinit") -> None:
    """Newly drawn weights: each tensor of two or more dimensions from a normal distribution of the mean and deviation
    of its first values; biases, normalisations and buffers as they first were (Frankle & Carbin 2019, section 2).

    The distribution is read off the weights because a user's own network does not say how it was initialised.
    """
    restore(model, origins.initial)
    draws = generator(origins.seed, stream, position)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                first = parameter.detach().cpu()
                fresh = torch.randn(first.shape, generator=draws) * first.std(correction=0) + first.mean()
                parameter.copy_(fresh)


REWINDS: dict[str, Rewind] = {
    "reset": reset,
    "rewind": rewind,
    "continue": keep_trained,
    "reinit": reinit,
    "none": keep_trained,
}
"""By the recipe's `between_rounds.weights` and `finally.weights`; called before the masks are applied."""
