"""One bound of every subdomain, and its gradient: backward through the network's lines, forward from the minimiser.

The bound is that of CROWN with split multipliers (Wang et al. 2021). A supergradient needs no second backward pass: at
the input that minimises the linear form, the value of each unit in the linear network says how the bound depends on
that unit's line (envelope theorem).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from verifier.bounds.backward import minimum, pull_back
from verifier.bounds.crown import unsqueezed
from verifier.graph import Graph
from verifier.ops.base import Activation, Relaxation
from verifier.ops.patches import Coefficients, add, dense
from verifier.search.units import Lines, Units, Values
from verifier.types import Ball, Box, Interval


class Backward(NamedTuple):
    """bound: (n,). v: (n, units), coefficients over the activations' outputs. slope, offset: the lines that these pick.

    x: where the linear form over the input is least, in the evaluator's own coordinates. share: (n, units), of the
    planes above units in what bounds them, where there are planes.
    """

    bound: Tensor
    v: Tensor
    slope: Tensor
    offset: Tensor
    x: Tensor
    share: Tensor | None = None

    def select(self, index: Tensor) -> Backward:
        """Those of some subdomains."""
        return Backward(*(None if t is None else t[index] for t in self))  # type: ignore[arg-type]


class Evaluator(Protocol):
    """Bounds `c . output` over subdomains that share one layout of units."""

    @property
    def units(self) -> Units: ...

    def to(self, dtype: torch.dtype) -> Evaluator:
        """The same in another precision."""

    def backward(self, lines: Lines, gamma: Tensor, paid: Tensor, c: Tensor) -> Backward:
        """Lower bounds for lines and multipliers (n, units), c (n, outputs); `paid` (n,) is what gamma costs."""

    def forward(self, back: Backward) -> Values:
        """What the linear network computes at `back.x`."""

    def points(self, x: Tensor) -> Tensor:
        """Inputs (n, *input_shape) from the evaluator's coordinates."""


def paid(gamma: Tensor, l: Tensor, u: Tensor) -> Tensor:
    """The most (n,) that `gamma . z` can be on the bounds; all (n, units)."""
    return (gamma.clamp(min=0) * u + gamma.clamp(max=0) * l).sum(1)


def choose(lines: Lines, v: Tensor, slope: Tensor, offset: Tensor) -> None:
    """Write slopes and offsets of the lower lines where v >= 0 and of the upper ones elsewhere."""
    up = v >= 0
    torch.where(up, lines.lower_slope, lines.upper_slope, out=slope)
    assert lines.upper_offset is not None
    if lines.lower_offset is None:
        torch.mul(lines.upper_offset, up.logical_not_(), out=offset)
    else:
        torch.where(up, lines.lower_offset, lines.upper_offset, out=offset)


def minimiser(region: Box, A: Tensor) -> Tensor:
    """A point (n, *input_shape) of the region at which `A . x` is least, A (n, *input_shape)."""
    if not isinstance(region, Ball):
        return torch.where(A > 0, region.lower, torch.where(A < 0, region.upper, region.center))
    with torch.enable_grad():
        A = A.detach().unsqueeze(1).requires_grad_()
        (x,) = torch.autograd.grad(region.minimum(A).sum(), [A])
    return region.project(x.squeeze(1))


@dataclass(frozen=True, eq=False)
class Coordinates:
    """The input as matrices read it: a box scaled to [-1, 1] in every coordinate that varies, a ball as it is."""

    region: Box

    @property
    def varying(self) -> Tensor:
        """A mask (inputs,) of the coordinates that there are."""
        radius = self.region.radius.flatten()
        return torch.ones_like(radius, dtype=torch.bool) if isinstance(self.region, Ball) else radius > 0

    @property
    def count(self) -> int:
        return int(self.varying.sum())

    def to(self, dtype: torch.dtype) -> Coordinates:
        """The same in another precision."""
        return Coordinates(self.region.to(dtype))

    def scaled(self, W: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """Forms W (k, inputs) and b (k,) over these coordinates."""
        if isinstance(self.region, Ball):
            return W.contiguous(), b
        moved = b + W @ self.region.center.flatten()
        return (W * self.region.radius.flatten())[:, self.varying].contiguous(), moved

    def least(self, A: Tensor) -> tuple[Tensor, Tensor]:
        """The minimum (n,) of the forms A (n, coordinates), and where it is taken."""
        if not isinstance(self.region, Ball):
            return -A.abs().sum(1), A.sign().neg_()  # six times faster than the norm
        region = self.region.select(torch.zeros(len(A), dtype=torch.long, device=A.device))
        A = A.view(-1, *self.region.lower.shape[1:])
        return region.minimum(A.unsqueeze(1)).squeeze(1), minimiser(region, A).flatten(1)

    def points(self, x: Tensor) -> Tensor:
        """Inputs (n, *input_shape) of the region."""
        if isinstance(self.region, Ball):
            return self.region.project(x.view(-1, *self.region.lower.shape[1:]))
        full = self.region.center.flatten().repeat(len(x), 1)
        full[:, self.varying] += x * self.region.radius.flatten()[self.varying]
        return self.region.project(full.view(-1, *self.region.lower.shape[1:]))


@dataclass(frozen=True, eq=False)
class GraphEvaluator:
    """Works on the network as it is: any ops, any shape of graph."""

    graph: Graph
    region: Box
    units: Units
    stable: Mapping[int, Relaxation]

    @classmethod
    def of(cls, graph: Graph, region: Box, nodes: Mapping[int, Interval], units: Units) -> GraphEvaluator:
        """For bounds of what activations read over the whole region, and the units that these leave undecided."""
        stable: dict[int, Relaxation] = {}
        for index, node in enumerate(graph.nodes):
            if isinstance(node.op, Activation):
                z = unsqueezed(nodes[node.inputs[0]])
                stable[index] = node.op.relax(z, node.op.initial(z, "adaptive"))
        return cls(graph, region, units, stable)

    def to(self, dtype: torch.dtype) -> GraphEvaluator:
        """The same in another precision."""
        stable = {
            i: Relaxation(
                r.lower_slope.to(dtype),
                r.upper_slope.to(dtype),
                *(None if s is None else s.to(dtype) for s in (r.lower_offset, r.upper_offset)),
            )
            for i, r in self.stable.items()
        }
        return GraphEvaluator(self.graph.to(dtype), self.region.to(dtype), self.units, stable)

    def backward(self, lines: Lines, gamma: Tensor, paid: Tensor, c: Tensor) -> Backward:
        graph, n = self.graph, len(c)
        form: dict[int, Coefficients] = {graph.output: c.view(n, 1, *graph.output_shape)}
        relaxations = dict(self.stable)
        for b in self.units.blocks:
            shape, size = graph.nodes[b.read].shape, graph.nodes[b.read].size
            own = [None if side is None else side[:, b.part] for side in lines[:4]]  # there are no planes
            full = vars(self.stable[b.activation]).values()
            sides = [_placed(base, value, b.positions, n, size) for base, value in zip(full, own, strict=True)]
            relaxations[b.activation] = Relaxation(*(None if s is None else s.view(n, 1, *shape) for s in sides))  # type: ignore[arg-type]
            extra = gamma.new_zeros(n, size)
            extra[:, b.positions] = gamma[:, b.part]
            pressed = extra.view(n, 1, *shape)
            form[b.read] = add(form[b.read], pressed) if b.read in form else pressed
        outputs: dict[int, Coefficients] = {}
        sources, constant = pull_back(graph, form, c.new_zeros(n, 1), relaxations, outputs=outputs)
        A = dense(sources[0]).squeeze(1) if 0 in sources else c.new_zeros(n, *graph.input_shape)
        region = self.region.select(torch.zeros(n, dtype=torch.long, device=c.device))
        bound = (constant + minimum(region, A.unsqueeze(1))).squeeze(1) - paid
        v = gamma.new_zeros(gamma.shape)
        for b in self.units.blocks:
            if b.activation in outputs:
                v[:, b.part] = dense(outputs[b.activation]).flatten(1)[:, b.positions]
        slope, offset = torch.empty_like(v), torch.empty_like(v)
        choose(lines, v, slope, offset)
        return Backward(bound, v, slope, offset, minimiser(region, A))

    def forward(self, back: Backward) -> Values:
        z = torch.zeros_like(back.v)
        values = [back.x]
        for index, node in enumerate(self.graph.nodes[1:], 1):
            if not isinstance(node.op, Activation):
                values.append(node.op.forward(*(values[i] for i in node.inputs)))
                continue
            own = self.stable[index]
            value = values[node.inputs[0]]
            result = own.lower_slope.squeeze(1) * value
            if own.lower_offset is not None:
                result = result + own.lower_offset.squeeze(1)
            for b in self.units.blocks:
                if b.activation == index:
                    z[:, b.part] = value.flatten(1)[:, b.positions]
                    flat = result.flatten(1).clone()
                    flat[:, b.positions] = back.slope[:, b.part] * z[:, b.part] + back.offset[:, b.part]
                    result = flat.view_as(result)
            values.append(result)
        return Values(z, values[-1].flatten(1))

    def points(self, x: Tensor) -> Tensor:
        return self.region.project(x)


def _placed(base: Tensor | None, value: Tensor | None, positions: Tensor, n: int, size: int) -> Tensor | None:
    """Lines (n, size) of all neurons of a node, with those of the units in their places."""
    if value is None:
        return base
    full = value.new_zeros(n, size) if base is None else base.view(1, size).repeat(n, 1)
    full[:, positions] = value
    return full
