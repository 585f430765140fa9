"""The targets of a split: their dtype and shape say what there is to learn (`pruning.data.task_of`)."""

from __future__ import annotations

import torch
from torch import Tensor

from pruning.formats.errors import FormatError
from pruning.losses import IGNORED

MAX_CLASSES = 100_000
MAX_VOCABULARY = 1_000_000


def read_targets(key: str, targets: Tensor, inputs: Tensor) -> Tensor:
    """The targets as the library has them: labels and tokens int64, numbers float32, several labels uint8 or float32.

    Args:
        inputs: of the split, (n, ...).

    Raises:
        FormatError: naming `key` and the remedy.
    """
    if targets.dim() not in (1, 2) or targets.numel() == 0:
        raise FormatError(
            key,
            f"has shape {tuple(targets.shape)}; give one label or number for each example, (examples,), or "
            "(examples, several)",
        )
    if len(inputs) != len(targets):
        raise FormatError(key, f"has {len(targets)} labels for {len(inputs)} examples; give one label for each example")
    if targets.is_floating_point():
        return _numbers(key, targets)
    if targets.is_complex() or (targets.dtype == torch.bool and targets.dim() == 1):
        raise FormatError(
            key,
            f"has dtype {targets.dtype}; labels are whole numbers from 0, convert them to int64 (numbers to predict: "
            "to float32)",
        )
    if targets.dim() == 1:
        return _labels(key, targets)
    if targets.dtype in (torch.uint8, torch.bool):
        return _flags(key, targets)
    return _tokens(key, targets, inputs)


def _numbers(key: str, targets: Tensor) -> Tensor:
    finite = torch.isfinite(targets).view(len(targets), -1).all(1)
    if not bool(finite.all()):
        example = int((~finite).nonzero()[0])
        raise FormatError(key, f"example {example} has NaN or infinity; repair it or leave it out")
    _check_width(key, targets)
    return targets.float()


def _labels(key: str, targets: Tensor) -> Tensor:
    # Through int64, whose range an unsigned 64-bit label can leave: it then shows as a negative one.
    targets = targets.long()
    lowest, highest = int(targets.min()), int(targets.max())
    if lowest < 0 or highest >= MAX_CLASSES:
        raise FormatError(key, f"has labels from {lowest} to {highest}; number the classes from 0, below {MAX_CLASSES}")
    return targets


def _flags(key: str, targets: Tensor) -> Tensor:
    targets = targets.to(torch.uint8)
    if int(targets.max()) > 1:
        raise FormatError(
            key, f"has the value {int(targets.max())}; of several labels for an example, each is 0 or 1, one a class"
        )
    _check_width(key, targets)
    return targets


def _check_width(key: str, targets: Tensor) -> None:
    if targets.dim() == 2 and targets.shape[1] > MAX_CLASSES:
        raise FormatError(key, f"has {targets.shape[1]} values an example; give at most {MAX_CLASSES}")


def _tokens(key: str, targets: Tensor, inputs: Tensor) -> Tensor:
    if inputs.dtype not in (torch.int32, torch.int64) or inputs.shape != targets.shape:
        raise FormatError(
            key,
            f"has shape {tuple(targets.shape)} and dtype {targets.dtype}, as tokens to predict have, but the inputs "
            f"are {tuple(inputs.shape)} {inputs.dtype}; give tokens for both, of one shape, or one label for each "
            "example, (examples,), or convert 0 and 1 for several labels to uint8",
        )
    targets = targets.long()
    told = targets[targets != IGNORED]
    if len(told) == 0:
        raise FormatError(key, f"is {IGNORED} throughout, which is ignored; give tokens to predict")
    lowest, highest = int(told.min()), int(told.max())
    if lowest < 0 or highest >= MAX_VOCABULARY:
        raise FormatError(
            key,
            f"has tokens from {lowest} to {highest}; number them from 0, below {MAX_VOCABULARY}, and put {IGNORED} "
            "where nothing is to be predicted",
        )
    return targets
