"""Unit groups in the making, and what each node of the graph carries of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import fx, nn

from pruning.units import Slice, UnitGroup


@dataclass(eq=False)
class Draft:
    """A group in the making. `into` is the group that it turned out to be the same as; `raw` see `finished`."""

    size: int
    layers: list[str]
    incoming: list[Slice] = field(default_factory=list)
    slices: list[Slice] = field(default_factory=list)
    outgoing: list[Slice] = field(default_factory=list)
    buffers: list[Slice] = field(default_factory=list)
    activations: list[Slice] = field(default_factory=list)
    raw: list[Slice] = field(default_factory=list)
    keeps_zero: bool = True
    reason: str | None = None
    into: Draft | None = None

    def root(self) -> Draft:
        return self if self.into is None else self.into.root()

    def absorb(self, other: Draft) -> None:
        other.into = self
        self.layers += other.layers
        self.incoming += other.incoming
        self.slices += other.slices
        self.outgoing += other.outgoing
        self.buffers += other.buffers
        self.activations += other.activations
        self.raw += other.raw
        self.keeps_zero = self.keeps_zero and other.keeps_zero
        self.reason = self.reason or other.reason

    def finished(self) -> UnitGroup:
        # Without an activation function of its own, a unit is active where its layer, or the norm after it, ends.
        return UnitGroup(
            self.layers[0],
            self.size,
            tuple(self.layers),
            tuple(self.incoming),
            tuple(dict.fromkeys(self.slices)),
            tuple(self.activations or self.raw),
            tuple(dict.fromkeys(self.outgoing)),
            tuple(dict.fromkeys(self.buffers)),
            self.keeps_zero,
        )


@dataclass(frozen=True)
class Flow:
    """A node's tensor carries a group's units along dimension `dim`, laid out as in a `Slice`."""

    draft: Draft
    dim: int
    span: int = 1
    offset: int = 0

    @property
    def group(self) -> Draft:
        return self.draft.root()

    @property
    def layout(self) -> tuple[int, int, int, int]:
        return self.offset, self.dim, self.span, self.group.size

    def slice_of(self, name: str, dim: int, blocks: int = 1) -> Slice:
        """The units' own indices of a tensor that is laid out like the node's."""
        return Slice(name, dim, self.span, self.offset, blocks)


@dataclass
class Trail:
    """What the walk knows so far.

    Attributes:
        modules: by path.
        names: every name of every parameter -> its first name.
        uses: how often the graph uses each parameter, by its first name.
        drafts: the groups, in the order in which they were met.
        flows: what each node carries; several groups behind a concatenation.
        guests: layers without units of their own, each with the reason.
    """

    modules: dict[str, nn.Module]
    names: dict[str, str]
    uses: dict[str, int]
    drafts: list[Draft] = field(default_factory=list)
    flows: dict[fx.Node, list[Flow]] = field(default_factory=dict)
    guests: dict[str, str] = field(default_factory=dict)

    def of(self, argument: Any) -> list[Flow]:
        return self.flows.get(argument, []) if isinstance(argument, fx.Node) else []

    def tie(self, some: list[Flow], others: list[Flow]) -> bool:
        """Make the units that lie at the same places one; whether they do."""
        pairs = list(zip(sorted(some, key=_offset), sorted(others, key=_offset), strict=False))
        if len(some) != len(others) or any(one.layout != other.layout for one, other in pairs):
            return False
        for one, other in pairs:
            if one.group is not other.group:
                first, second = sorted((one.group, other.group), key=self.drafts.index)
                first.absorb(second)
        return True


def _offset(flow: Flow) -> int:
    return flow.offset
