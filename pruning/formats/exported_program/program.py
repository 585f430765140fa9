"""The rebuilt module: torch's own layers at the user's own paths, and the list of steps that runs them.

The steps are data, interpreted; no source text is generated from an upload. `torch.fx` traces the module as any other,
and `copy.deepcopy` keeps every parameter and buffer, used or not (`fx.GraphModule` would lose some).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn

INPUT = "input"
"""The name of the program's input among its values; names from a file begin with `v_`."""


@dataclass(frozen=True)
class Value:
    """What an earlier step gave."""

    name: str


@dataclass(frozen=True)
class Attribute:
    """A parameter or buffer, looked up when it is used: it may have been replaced."""

    path: str


@dataclass(frozen=True)
class Step:
    """One call.

    Attributes:
        call: an operator of the allow-list, or the path of a layer.
        results: names for parts of what it returns: () is all of it, (0,) its first, (1, 0) the first of its second.
        place: where the user's source asked for it, for messages.
        mutates: whether it changes an argument, so that it is needed even if its results are not.
        frees: values that no later step uses.
    """

    call: Callable[..., Any] | str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    results: tuple[tuple[str, tuple[int, ...]], ...]
    place: str
    mutates: bool = False
    frees: tuple[str, ...] = ()


Apply = Callable[[Step, Callable[..., Any], list[Any], dict[str, Any]], Any]


class Program(nn.Module):
    """
    Attributes:
        input_shape: of one example.
        input_dtype: integers where the program begins with an embedding.
    """

    def __init__(
        self, steps: Sequence[Step], output: Value | Attribute, input_shape: tuple[int, ...], input_dtype: torch.dtype
    ) -> None:
        super().__init__()
        self._steps = tuple(steps)
        self._output = output
        self.input_shape = input_shape
        self.input_dtype = input_dtype

    def forward(self, x: Tensor) -> Tensor:
        return self.run(x, _apply)

    def run(self, x: Tensor, apply: Apply) -> Tensor:
        """`apply` makes each call: itself in `forward`, with a watch on shapes in a dry run."""
        values: dict[str, Any] = {INPUT: x}
        for step in self._steps:
            call = attrgetter(step.call)(self) if isinstance(step.call, str) else step.call
            args = [self._fill(argument, values) for argument in step.args]
            kwargs = {name: self._fill(argument, values) for name, argument in step.kwargs.items()}
            returned = apply(step, call, args, kwargs)
            for name, path in step.results:
                part = returned
                for index in path:
                    part = part[index]
                values[name] = part
            for name in step.frees:
                values.pop(name, None)
        output: Tensor = self._fill(self._output, values)
        return output

    def replace_steps(self, steps: Sequence[Step]) -> None:
        """The same calls with other sizes, after layers have become smaller."""
        self._steps = tuple(steps)

    def _fill(self, argument: Any, values: dict[str, Any]) -> Any:
        if isinstance(argument, Value):
            return values[argument.name]
        if isinstance(argument, Attribute):
            return attrgetter(argument.path)(self)
        if isinstance(argument, list):
            return [self._fill(item, values) for item in argument]
        return argument


def _apply(step: Step, call: Callable[..., Any], args: list[Any], kwargs: dict[str, Any]) -> Any:  # noqa: ARG001
    return call(*args, **kwargs)


def names_used(argument: Any) -> set[str]:
    """Names of the values in an argument, or in a list of arguments."""
    if isinstance(argument, Value):
        return {argument.name}
    return set().union(*map(names_used, argument)) if isinstance(argument, (list, tuple)) else set()


def needed(steps: Sequence[Step], output: Value | Attribute) -> list[Step]:
    """The steps that the output needs, each with the values that may go after it."""
    wanted = names_used(output)
    kept: list[Step] = []
    for step in reversed(steps):
        results = tuple(result for result in step.results if result[0] in wanted)
        if not results and not step.mutates:
            continue
        used = names_used(step.args) | names_used(list(step.kwargs.values()))
        frees = tuple(sorted(used - wanted))
        wanted |= used
        kept.append(Step(step.call, step.args, step.kwargs, results, step.place, step.mutates, frees))
    return kept[::-1]
