"""What survives from the trained network of one round into the training of the next."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor, nn

State = dict[str, Tensor]
"""Parameters and buffers under the model's own keys, as in `state_dict()`, on the CPU; tied weights under every key."""


def snapshot(model: nn.Module) -> State:
    """Clones of the parameters and buffers, on the CPU wherever the model is."""
    return {key: tensor.detach().to("cpu", copy=True) for key, tensor in model.state_dict().items()}


def restore(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Set parameters and buffers (batch-norm statistics among them) to `state`, in place.

    Raises:
        RuntimeError: keys or shapes are not the model's.
    """
    model.load_state_dict(dict(state))


def reset(model: nn.Module, initial: Mapping[str, Tensor]) -> None:
    """Back to the first weights (Frankle & Carbin 2019, strategy 1; Tan & Motani 2020)."""
    restore(model, initial)


def keep_trained(model: nn.Module, initial: Mapping[str, Tensor]) -> None:
    """Training goes on from the trained weights (Frankle & Carbin 2019, strategy 2)."""


REWINDS: dict[str, Callable[[nn.Module, Mapping[str, Tensor]], None]] = {
    "reset": reset,
    "continue": keep_trained,
    "none": keep_trained,
}
"""By the recipe's `between_rounds.weights` and `finally.weights`; called before the masks are applied."""
