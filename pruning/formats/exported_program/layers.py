"""Torch's own layers instead of bare operators, so that they can be pruned, and trained and evaluated in turn.

Each rule takes a call and gives the layer's path and inputs, or None where the call stays as it is: weights that are
computed, or that lie under other names than the layer's own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from pruning.formats.exported_program.arguments import Mismatch
from pruning.formats.exported_program.program import Attribute
from pruning.formats.exported_program.state import State, counterless

META = torch.device("meta")
"""Layers are made without memory: their weights are those of the file."""


@dataclass(frozen=True)
class Call:
    """
    Attributes:
        arguments: all of the operator's, by name.
        hint: the path of the module that made the call, as the file says; "" where it does not.
        module_type: that module's class, likewise.
        rank: dimensions of the first tensor, as the file says.
    """

    operator: str
    arguments: dict[str, Any]
    hint: str
    module_type: str
    rank: int | None

    def plain(self, name: str) -> Any:
        """An argument that must be written in the program, not computed by it."""
        value = self.arguments[name]
        if isinstance(value, (int, float, str, type(None))):
            return value
        if isinstance(value, list) and all(isinstance(item, (int, float)) for item in value):
            return value
        raise Mismatch(f"computes its {name!r}; write it as a number")


@dataclass(frozen=True)
class Lifted:
    """A layer, its inputs, and where it keeps what the operator would have returned, one path a result."""

    path: str
    inputs: tuple[Any, ...]
    results: tuple[tuple[int, ...], ...] = ((),)


Rule = Callable[[Call, State], Lifted | None]


def _weights(call: Call, *names: str) -> tuple[dict[str, Any], tuple[str, ...]]:
    """(those of the arguments that are given, the names of the others)."""
    given = {name: call.arguments[name] for name in names if call.arguments[name] is not None}
    return given, tuple(name for name in names if name not in given)


def linear(call: Call, state: State) -> Lifted | None:
    parts, absent = _weights(call, "weight", "bias")
    path = state.find_path(parts, absent, call.hint)
    if path is None or state.tensor(parts["weight"]).dim() != 2:
        return None
    outputs, inputs = state.tensor(parts["weight"]).shape
    bias = "bias" in parts
    made = state.layer(path, ("linear", bias), lambda: nn.Linear(inputs, outputs, bias=bias, device=META))
    return Lifted(path, (call.arguments["input"],)) if made else None


def convolution(call: Call, state: State) -> Lifted | None:
    num_dims = int(call.operator[len("conv")])
    parts, absent = _weights(call, "weight", "bias")
    path = state.find_path(parts, absent, call.hint)
    if path is None or state.tensor(parts["weight"]).dim() != num_dims + 2:
        return None
    shape, groups, bias = state.tensor(parts["weight"]).shape, call.plain("groups"), "bias" in parts
    stride, padding, dilation = (_each(call.plain(name), num_dims) for name in ("stride", "padding", "dilation"))
    kind: Any = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[num_dims - 1]

    def make() -> nn.Module:
        sizes = (shape[1] * groups, shape[0], tuple(shape[2:]))
        module: nn.Module = kind(*sizes, stride, padding, dilation, groups, bias, device=META)
        return module

    made = state.layer(path, ("convolution", stride, padding, dilation, groups, bias), make)
    return Lifted(path, (call.arguments["input"],)) if made else None


def _each(setting: Any, num_dims: int) -> Any:
    """[1] stands for every dimension; padding may be a word."""
    if isinstance(setting, str):
        return setting
    if len(setting) not in (1, num_dims):
        raise Mismatch("has another number of settings than dimensions")
    return tuple(setting) * (num_dims if len(setting) == 1 else 1)


def batch_norm(call: Call, state: State) -> Lifted | None:
    parts, absent = _weights(call, "weight", "bias", "running_mean", "running_var")
    if "running_mean" not in parts:
        return None  # it always uses the batch: nothing to switch
    path = state.find_path(parts, absent, call.hint)
    kind = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}.get(call.rank or 0)
    if path is None or kind is None or len(absent) not in (0, 2) or "running_var" in absent:
        raise Mismatch("normalises by buffers that are not a batch-norm layer's own; use nn.BatchNorm1d, 2d or 3d")
    eps, momentum = call.plain("eps"), call.plain("momentum")
    num_features, affine = state.tensor(parts["running_mean"]).numel(), "weight" in parts
    if not call.plain("training"):
        momentum = momentum or None  # an average over all batches (momentum=None) is exported as 0

    def make() -> nn.Module:
        norm = kind(num_features, eps, momentum, affine, device=META)
        return counterless(norm, f"{path}.num_batches_tracked" in state.stored)

    if not state.layer(path, ("batch_norm", eps, momentum, affine, kind), make):
        raise Mismatch("uses one batch-norm layer in two ways; use two layers")
    return Lifted(path, (call.arguments["input"],))


def layer_norm(call: Call, state: State) -> Lifted | None:
    parts, absent = _weights(call, "weight", "bias")
    path = state.find_path(parts, absent, call.hint) if "weight" in parts else None
    if path is None:
        return None
    shape, eps, bias = tuple(call.plain("normalized_shape")), call.plain("eps"), "bias" in parts

    def make() -> nn.Module:
        return nn.LayerNorm(shape, eps, bias=bias, device=META)

    return Lifted(path, (call.arguments["input"],)) if state.layer(path, ("norm", shape, eps), make) else None


def group_norm(call: Call, state: State) -> Lifted | None:
    parts, absent = _weights(call, "weight", "bias")
    path = state.find_path(parts, absent, call.hint) if not absent else None
    if path is None:
        return None
    num_groups, eps, channels = call.plain("num_groups"), call.plain("eps"), state.tensor(parts["weight"]).numel()

    def make() -> nn.Module:
        return nn.GroupNorm(num_groups, channels, eps, device=META)

    return (
        Lifted(path, (call.arguments["input"],)) if state.layer(path, ("group_norm", num_groups, eps), make) else None
    )


def embedding(call: Call, state: State) -> Lifted | None:
    path = state.find_path({"weight": call.arguments["weight"]}, (), call.hint)
    if call.plain("sparse"):
        raise Mismatch("has sparse gradients, which the optimisers here do not take; use sparse=False")
    if path is None or state.tensor(call.arguments["weight"]).dim() != 2:
        return None
    num, size = state.tensor(call.arguments["weight"]).shape
    padding = call.plain("padding_idx")
    padding, by_frequency = None if padding < 0 else padding, call.plain("scale_grad_by_freq")

    def make() -> nn.Module:
        return nn.Embedding(num, size, padding, scale_grad_by_freq=by_frequency, device=META)

    made = state.layer(path, ("embedding", padding, by_frequency), make)
    return Lifted(path, (call.arguments["indices"],)) if made else None


_DROPOUTS: dict[str, type[nn.modules.dropout._DropoutNd]] = {
    "dropout": nn.Dropout,
    "dropout_": nn.Dropout,
    "feature_dropout": nn.Dropout2d,
    "alpha_dropout": nn.AlphaDropout,
    "feature_alpha_dropout": nn.FeatureAlphaDropout,
}


def dropout(call: Call, state: State) -> Lifted | None:
    kind, p = _DROPOUTS[call.operator.split(".")[0]], call.plain("p")
    if kind is nn.Dropout2d:
        kind = {3: nn.Dropout1d, 5: nn.Dropout3d}.get(call.rank or 4, nn.Dropout2d)
    inplace = call.operator == "dropout_.default"  # what else reads its input sees it changed, as in the user's own
    wanted = call.hint if "Dropout" in call.module_type else ""
    if wanted not in state.layers or not state.layer(wanted, (kind, p, inplace), lambda: kind(p, inplace)):
        wanted = state.free_path(wanted, "dropout")
        state.layer(wanted, (kind, p, inplace), lambda: kind(p, inplace))
    return Lifted(wanted, (call.arguments["self" if inplace else "input"],))


class Attention(nn.Module):
    """Scaled dot-product attention whose dropout can be switched off."""

    def __init__(self, dropout: float, is_causal: bool, scale: float | None, enable_gqa: bool) -> None:
        super().__init__()
        self.dropout = dropout
        self.is_causal = is_causal
        self.scale = scale
        self.enable_gqa = enable_gqa

    def forward(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        return scaled_dot_product_attention(
            query,
            key,
            value,
            mask,
            self.dropout if self.training else 0.0,
            self.is_causal,
            scale=self.scale,
            enable_gqa=self.enable_gqa,
        )


def attention(call: Call, state: State) -> Lifted | None:
    p, is_causal, scale, gqa = (call.plain(name) for name in ("dropout_p", "is_causal", "scale", "enable_gqa"))
    if not p:
        return None
    path = state.free_path("", "attention")
    state.layer(path, ("attention", p, is_causal, scale, gqa), lambda: Attention(p, is_causal, scale, gqa))
    return Lifted(path, tuple(call.arguments[name] for name in ("query", "key", "value", "attn_mask")))


def is_own_counter(call: Call) -> bool:
    """A batch-norm's count of batches, which the layer itself will keep."""
    counted, by = call.arguments["self"], call.arguments["other"]
    return isinstance(counted, Attribute) and counted.path.endswith("num_batches_tracked") and by == 1


LAYERS: dict[str, Rule] = {
    "linear.default": linear,
    **{f"conv{n}d.{overload}": convolution for n in (1, 2, 3) for overload in ("default", "padding")},
    "batch_norm.default": batch_norm,
    "layer_norm.default": layer_norm,
    "group_norm.default": group_norm,
    "embedding.default": embedding,
    **{f"{name}.default": dropout for name in _DROPOUTS},
    "scaled_dot_product_attention.default": attention,
}
