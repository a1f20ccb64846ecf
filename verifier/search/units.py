"""The neurons that the region leaves undecided, side by side in one flat axis, and the lines around them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from verifier.bounds.crown import unsqueezed
from verifier.graph import Graph
from verifier.ops.base import Activation
from verifier.ops.relu import Hinge
from verifier.types import Interval


class Values(NamedTuple):
    """What the linear network computes at one input of every subdomain.

    z: (n, units), what units read. outputs: (n, outputs). planes: (n, units), the planes above units, where there are.
    """

    z: Tensor
    outputs: Tensor
    planes: Tensor | None = None


class Lines(NamedTuple):
    """Lines below and above every unit, each (n, units); None stands for zero.

    share: of the plane above a unit (see `verifier.search.planes`) in what bounds it from above. The line above is
    scaled by the rest already.
    """

    lower_slope: Tensor
    upper_slope: Tensor
    lower_offset: Tensor | None
    upper_offset: Tensor | None
    share: Tensor | None = None

    def at(self, part: slice) -> Lines:
        """Those of some units, where the units are the first axis."""
        return Lines(*(None if side is None else side[part] for side in self))  # type: ignore[arg-type]

    def of(self, part: slice) -> Lines:
        """Those of some units."""
        return Lines(*(None if side is None else side[:, part] for side in self))  # type: ignore[arg-type]


@dataclass(frozen=True, eq=False)
class Block:
    """The units of one activation: the node `activation` applies `op` to the node `read` at flat `positions` (k,).

    part: where they lie among all units.
    """

    activation: int
    read: int
    op: Activation
    positions: Tensor
    part: slice


@dataclass(frozen=True, eq=False)
class Units:
    """Every neuron of an activation that the bounds `nodes` of the whole region do not decide.

    neuron: (units,), equal for units of different activations that read the same neuron. lower, upper: (units,), their
    bounds. planes: a mask (units,) of those with a plane above them, or None where there are none. parameters: how many
    numbers choose what bounds a unit: those of its lines, then the share of the plane.
    """

    blocks: tuple[Block, ...]
    neuron: Tensor
    lower: Tensor
    upper: Tensor
    planes: Tensor | None = None

    @classmethod
    def none(cls, graph: Graph) -> Units:
        """No units yet."""
        empty = torch.zeros(0, dtype=graph.dtype, device=graph.device)
        return cls((), empty.long(), empty, empty)

    @classmethod
    def of(cls, graph: Graph, nodes: Mapping[int, Interval]) -> Units:
        """The units under the bounds (batch one) of what activations read."""
        units = cls.none(graph)
        for index, node in enumerate(graph.nodes):
            if isinstance(node.op, Activation):
                units = units.then(graph, index, nodes[node.inputs[0]])
        return units

    def then(self, graph: Graph, activation: int, z: Interval) -> Units:
        """These units and those of one more activation, whose input has the bounds z (batch one)."""
        op, read = graph.nodes[activation].op, graph.nodes[activation].inputs[0]
        assert isinstance(op, Activation)
        positions = op.unstable(z).flatten().nonzero().squeeze(1)
        if not len(positions):
            return self
        block = Block(activation, read, op, positions, slice(len(self), len(self) + len(positions)))
        first = sum(node.size for node in graph.nodes[:read])
        return Units(
            (*self.blocks, block),
            torch.cat((self.neuron, positions + first)),
            torch.cat((self.lower, z.lower.flatten()[positions])),
            torch.cat((self.upper, z.upper.flatten()[positions])),
        )

    def __len__(self) -> int:
        return len(self.neuron)

    @property
    def parameters(self) -> int:
        return max((block.op.parameters for block in self.blocks), default=1) + int(self.planes is not None)

    def per_block(self, values: list[float]) -> Tensor:
        """(units,): each block's value for all of its units."""
        sizes = torch.tensor([len(b.positions) for b in self.blocks], dtype=torch.long)
        return torch.tensor(values, dtype=torch.float64).repeat_interleave(sizes).to(self.lower)

    def unstable(self, l: Tensor, u: Tensor) -> Tensor:
        """A mask (n, units) of what the bounds (n, units) leave undecided."""
        parts = [b.op.unstable(Interval(l[:, b.part], u[:, b.part])) for b in self.blocks]
        return torch.cat(parts, 1) if parts else torch.zeros_like(l, dtype=torch.bool)

    def initial(self, l: Tensor, u: Tensor) -> Tensor:
        """CROWN's parameters (n, parameters, units) for the bounds (n, units)."""
        result = l.new_zeros(len(l), self.parameters, len(self))
        for b in self.blocks:
            z = Interval(l[:, b.part], u[:, b.part])
            result[:, : b.op.parameters, b.part] = b.op.initial(z, "adaptive").transpose(0, 1)
        return result

    def relaxed(self, l: Tensor, u: Tensor) -> Relaxed:
        """The lines around every unit under the bounds (n, units), as functions of the parameters."""
        if all(isinstance(b.op, Hinge) for b in self.blocks):
            return HingeLines(self, l, u)
        return AnyLines(self, l, u)

    def gaps(self, l: Tensor, u: Tensor, lines: Lines) -> tuple[Tensor, Tensor]:
        """The widest gaps (n, units) between the activations and their lower and upper lines."""
        below, above = torch.zeros_like(l), torch.zeros_like(u)
        for b in self.blocks:
            z, own = Interval(l[:, b.part], u[:, b.part]), lines.of(b.part)
            for point in (z.lower, z.upper, *bends(b.op, z)):
                value = b.op.forward(point)
                low, high = own.lower_slope * point, own.upper_slope * point
                low = low if own.lower_offset is None else low + own.lower_offset
                high = high if own.upper_offset is None else high + own.upper_offset
                below[:, b.part] = torch.maximum(below[:, b.part], value - low)
                above[:, b.part] = torch.maximum(above[:, b.part], high - value)
        return below, above

    def split_point(self, unit: Tensor, l: Tensor, u: Tensor) -> Tensor:
        """Where to split the units (n,) with the bounds (n,): at the breakpoint nearest the middle, else there."""
        middle = (l + u) / 2
        point = middle.clone()
        for b in self.blocks:
            mine = (unit >= b.part.start) & (unit < b.part.stop)
            breakpoints = getattr(b.op, "breakpoints", ())
            if not breakpoints or not bool(mine.any()):
                continue
            bend = torch.tensor(breakpoints, dtype=l.dtype, device=l.device)
            inside = (bend > l.unsqueeze(1)) & (bend < u.unsqueeze(1))
            distance = torch.where(inside, (bend - middle.unsqueeze(1)).abs(), math.inf)
            point = torch.where(mine & inside.any(1), bend[distance.argmin(1)], point)
        return point


def bends(op: Activation, z: Interval) -> list[Tensor]:
    """Where to look for the widest gap: at the breakpoints inside the interval, else at its middle."""
    breakpoints = getattr(op, "breakpoints", ())
    return [z.lower.clamp(min=point).minimum(z.upper) for point in breakpoints] or [z.center]


class HingeLines:
    """Lines around two-piece activations: the chord on one side, on the other a slope that the parameter picks.

    Where there are planes above the units, all of which are convex then, a second parameter is their share.
    """

    def __init__(self, units: Units, l: Tensor, u: Tensor) -> None:
        left = units.per_block([b.op.slopes[0] for b in units.blocks]).to(l)  # type: ignore[attr-defined]
        jump = units.per_block([b.op.slopes[1] - b.op.slopes[0] for b in units.blocks]).to(l)  # type: ignore[attr-defined]
        above, below = u.clamp(min=0), l.clamp(max=0)
        share = above / (above - below).clamp(min=torch.finfo(l.dtype).tiny)
        self.chord = torch.addcmul(left, jump, share)
        self.offset = (left - self.chord) * below
        active = l >= 0
        self.undecided = ~(active | (u <= 0))
        self.gain = jump * self.undecided
        self.base = left + jump * active
        self.convex = None if bool((jump >= 0).all()) else jump >= 0
        self.raised = None if units.planes is None else self.undecided & units.planes

    def at(self, alpha: Tensor) -> Lines:
        lines = self.alone(alpha)
        if self.raised is None:
            return lines
        share = alpha[:, 1] * self.raised
        rest = 1 - share
        return Lines(lines.lower_slope, rest * self.chord, None, rest * self.offset, share)

    def alone(self, alpha: Tensor) -> Lines:
        """The lines where planes do not count."""
        slope = torch.addcmul(self.base, self.gain, alpha[:, 0])
        if self.convex is None:
            return Lines(slope, self.chord, None, self.offset)
        zero = torch.zeros_like(slope)
        return Lines(
            torch.where(self.convex, slope, self.chord),
            torch.where(self.convex, self.chord, slope),
            torch.where(self.convex, zero, self.offset),
            torch.where(self.convex, self.offset, zero),
        )

    def gradient(self, alpha: Tensor, v: Tensor, at: Values) -> Tensor:
        """Of the bound with respect to alpha: v (n, units) multiplies what bounds each unit, taken at a point."""
        chosen = v.clamp(min=0)
        if self.convex is not None:
            chosen = torch.where(self.convex, chosen, v.clamp(max=0))
        own = chosen * at.z * self.gain
        if self.raised is None:
            return own.unsqueeze(1)
        assert at.planes is not None
        above = v.clamp(max=0) * self.raised
        return torch.stack((own, above * (at.planes - torch.addcmul(self.offset, self.chord, at.z))), 1)


class AnyLines:
    """Lines around activations of any kind."""

    def __init__(self, units: Units, l: Tensor, u: Tensor) -> None:
        self.units = units
        self.lines = [b.op.lines(unsqueezed(Interval(l[:, b.part], u[:, b.part]))) for b in units.blocks]

    def at(self, alpha: Tensor) -> Lines:
        parts = []
        for b, lines in zip(self.units.blocks, self.lines, strict=True):
            own = lines(alpha[:, : b.op.parameters, b.part].transpose(0, 1).unsqueeze(2))
            zero = torch.zeros_like(own.lower_slope)
            offsets = (zero if side is None else side for side in (own.lower_offset, own.upper_offset))
            parts.append([side.squeeze(1) for side in (own.lower_slope, own.upper_slope, *offsets)])
        return Lines(*(torch.cat(sides, 1) for sides in zip(*parts, strict=True)))

    alone = at  # there are no planes

    def gradient(self, alpha: Tensor, v: Tensor, at: Values) -> Tensor:
        with torch.enable_grad():
            alpha = alpha.detach().requires_grad_()
            lines = self.at(alpha)
        positive, negative = v.clamp(min=0), v.clamp(max=0)
        outer = (positive * at.z, negative * at.z, positive, negative)
        pairs = [(side, g) for side, g in zip(lines[:4], outer, strict=True) if side is not None and side.requires_grad]
        (gradient,) = torch.autograd.grad(
            [side for side, _ in pairs], [alpha], [g for _, g in pairs], allow_unused=True, materialize_grads=True
        )
        return gradient


Relaxed = HingeLines | AnyLines
