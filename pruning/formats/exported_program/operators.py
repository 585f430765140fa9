"""The operators that a program may call. The list is ours; a program's words are only looked up in it.

Left out on purpose: what shows memory that was never written (`empty`), what reaches outside a tensor's own elements
(`as_strided`, `set_`, `resize_`), what depends on values, and what draws at random.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch

ATEN = "torch.ops.aten."

_LAYERS = """
linear.default conv1d.default conv2d.default conv3d.default conv1d.padding conv2d.padding conv3d.padding
conv_transpose1d.default conv_transpose2d.input conv_transpose3d.input batch_norm.default layer_norm.default
group_norm.default instance_norm.default rms_norm.default embedding.default dropout.default dropout_.default
feature_dropout.default alpha_dropout.default feature_alpha_dropout.default scaled_dot_product_attention.default
lstm.input gru.input rnn_tanh.input rnn_relu.input
"""
_ACTIVATIONS = """
relu.default relu_.default relu6.default relu6_.default gelu.default silu.default silu_.default sigmoid.default
sigmoid_.default tanh.default tanh_.default hardsigmoid.default hardsigmoid_.default hardswish.default
hardswish_.default hardtanh.default hardtanh_.default elu.default elu_.default selu.default selu_.default celu.default
celu_.default leaky_relu.default leaky_relu_.default softplus.default softshrink.default hardshrink.default
mish.default mish_.default prelu.default glu.default softmax.int log_softmax.int log_sigmoid.default threshold.default
"""
_POOLING = """
max_pool1d.default max_pool2d.default max_pool3d.default avg_pool1d.default avg_pool2d.default avg_pool3d.default
adaptive_avg_pool1d.default adaptive_avg_pool2d.default adaptive_avg_pool3d.default adaptive_max_pool1d.default
adaptive_max_pool2d.default adaptive_max_pool3d.default upsample_nearest1d.vec upsample_nearest2d.vec
upsample_bilinear2d.vec upsample_bicubic2d.vec _upsample_bilinear2d_aa.vec _upsample_bicubic2d_aa.vec pad.default
constant_pad_nd.default pixel_shuffle.default
pixel_unshuffle.default unfold.default im2col.default col2im.default channel_shuffle.default
"""
_SHAPES = """
flatten.using_ints reshape.default view.default reshape_as.default view_as.default permute.default transpose.int
t.default squeeze.default squeeze.dim squeeze.dims unsqueeze.default expand.default expand_as.default
contiguous.default clone.default cat.default stack.default split.Tensor split_with_sizes.default chunk.default
unbind.int select.int slice.Tensor narrow.default index_select.default index.Tensor gather.default roll.default
flip.default repeat.default tile.default repeat_interleave.self_int masked_fill.Scalar masked_fill.Tensor where.self
where.ScalarOther where.ScalarSelf tril.default triu.default movedim.int movedim.intlist swapaxes.default
unflatten.int broadcast_to.default diff.default meshgrid.default meshgrid.indexing sym_size.int
"""
_ARITHMETIC = """
add.Tensor add_.Tensor sub.Tensor sub_.Tensor rsub.Scalar mul.Tensor mul_.Tensor div.Tensor div_.Tensor
div.Tensor_mode add.Scalar sub.Scalar mul.Scalar div.Scalar pow.Tensor_Scalar pow.Tensor_Tensor pow.Scalar
sqrt.default rsqrt.default exp.default log.default log1p.default log2.default abs.default neg.default sin.default
cos.default tan.default atan2.default erf.default floor.default ceil.default round.default sign.default
reciprocal.default square.default clamp.default clamp_.default clamp_min.default clamp_max.default maximum.default
minimum.default remainder.Scalar floor_divide.default lerp.Scalar lerp.Tensor
sum.default sum.dim_IntList mean.default mean.dim max.default max.dim min.default min.dim amax.default amin.default
argmax.default argmin.default var.correction std.correction var_mean.correction prod.default cumsum.default
norm.ScalarOpt_dim linalg_vector_norm.default logsumexp.default
matmul.default mm.default bmm.default addmm.default baddbmm.default einsum.default dot.default outer.default
"""
_LOGIC = """
eq.Scalar eq.Tensor ne.Scalar ne.Tensor lt.Scalar lt.Tensor le.Scalar le.Tensor gt.Scalar gt.Tensor ge.Scalar ge.Tensor
logical_and.default logical_or.default logical_not.default bitwise_not.default bitwise_and.Tensor bitwise_or.Tensor
bitwise_and.Scalar __and__.Tensor __or__.Tensor any.default all.default all.dim any.dim
"""
_MAKING = """
zeros.default ones.default full.default zeros_like.default ones_like.default full_like.default new_zeros.default
new_ones.default new_full.default arange.default arange.start arange.start_step scalar_tensor.default linspace.default
eye.default to.dtype to.device to.dtype_layout _to_copy.default type_as.default detach.default detach_.default
lift_fresh_copy.default lift_fresh.default alias.default fill.Scalar fill_.Scalar copy_.default
"""


def _look_up(names: str) -> dict[str, torch._ops.OpOverload]:
    found = {}
    for name in names.split():
        packet, overload = name.split(".")
        found[ATEN + name] = getattr(getattr(torch.ops.aten, packet), overload)
    return found


OPERATORS = _look_up(_LAYERS + _ACTIVATIONS + _POOLING + _SHAPES + _ARITHMETIC + _LOGIC + _MAKING)

NUMBER_OPERATORS: dict[str, Callable[..., Any]] = {
    f"_operator.{name}": getattr(operator, name)
    for name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "neg", "eq", "ne", "lt", "le", "gt", "ge")
} | {f"torch.{name}": getattr(torch, name) for name in ("sym_max", "sym_min", "sym_not")}
"""Arithmetic on sizes; it takes numbers alone."""

CHECKS = {
    ATEN + name
    for name in (
        "_assert_tensor_metadata.default",
        "_assert_scalar.default",
        "_assert_async.msg",
        "sym_constrain_range_for_size.default",
        "sym_constrain_range.default",
    )
}
"""Assertions about sizes: left out, since the dry run and the smoke test see what they would."""

RANDOM = {
    *("bernoulli", "bernoulli_", "rand", "rand_like", "randn", "randn_like", "randint", "randint_like", "randperm"),
    *("uniform", "uniform_", "normal", "normal_", "multinomial", "exponential_", "rrelu", "rrelu_with_noise"),
}


_MENDS = {
    "empty empty_like new_empty empty_strided": (
        "torch.zeros(...) in its place: memory that was never written is not read"
    ),
    "as_strided": "x.reshape(...), x.unfold(...) or x[...] in its place",
    "nonzero nonzero_numpy masked_select unique unique2 item _local_scalar_dense": (
        "torch.where(condition, x, y) in its place: shapes and branches must not depend on values"
    ),
    "convolution native_batch_norm _native_batch_norm_legit native_layer_norm native_group_norm native_dropout "
    "max_pool2d_with_indices _softmax _log_softmax _to_copy _adaptive_avg_pool2d _unsafe_view": (
        "torch.export.export(model, ...) without .run_decompositions()"
    ),
    "index_put index_put_ scatter scatter_ scatter_add scatter_add_": (
        "torch.where(condition, x, y) or torch.cat(parts, dim) in its place"
    ),
}
_MEND = {name: mend for names, mend in _MENDS.items() for name in names.split()}


def why_not(target: str) -> str:
    """The refusal of an operator that is on no list, with the line that mends it."""
    name = target.removeprefix(ATEN)
    bare = name.split(".")[0]
    if target.startswith(ATEN) and bare in RANDOM:
        return (
            f"{name} draws at random in the forward pass, as stochastic depth does in training mode; export the "
            "evaluation instead: torch.export.export(model.eval(), ...)"
        )
    if target.startswith(ATEN) and bare in _MEND:
        return f"the operator {name!r} is not among those that are read; write {_MEND[bare]}"
    if not target.startswith(ATEN):
        return (
            f"the operator {name[:100]!r} is not torch's own (torch.ops.aten), and no code of others is run; "
            "write the same with torch.nn and torch.nn.functional"
        )
    return (
        f"the operator {name[:100]!r} is not among those that are read; write it with other operations of torch.nn and "
        "torch.nn.functional, and export without .run_decompositions()"
    )
