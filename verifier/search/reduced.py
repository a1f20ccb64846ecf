"""The network with only its undecided neurons left: everything else is affine and merged away.

Under the bounds of the whole region most neurons are on one linear piece. What remains are the units
`z_i = W_i x + sum_j V_ij act(z_j) + b_i`, j in earlier layers, and the outputs in the same form.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from verifier.bounds.backward import pull_back, start_rows
from verifier.bounds.crown import unsqueezed
from verifier.graph import Graph
from verifier.ops.affine import Linear
from verifier.ops.base import Activation, Relaxation
from verifier.ops.convolution import Conv2d
from verifier.ops.patches import Coefficients, dense
from verifier.search.evaluator import Backward, Coordinates, choose
from verifier.search.units import Lines, Units
from verifier.types import Box, Interval

DEARER = 2  # multiplications of the reduced network for one of the network itself, at most


class Forms(NamedTuple):
    """Affine forms over the input, W (k, inputs), and over the units' activations, V (k, units), with constants b."""

    W: Tensor
    V: Tensor
    b: Tensor

    @classmethod
    def none(cls, graph: Graph) -> Forms:
        """No forms yet."""
        W = torch.zeros(0, graph.nodes[0].size, dtype=graph.dtype, device=graph.device)
        return cls(W, W[:, :0], W[:, 0])

    def select(self, index: Tensor) -> Forms:
        return Forms(*(t[index] for t in self))

    def then(self, other: Forms) -> Forms:
        """These forms and, below them, others over more units."""
        wider = torch.nn.functional.pad(self.V, (0, other.V.shape[1] - self.V.shape[1]))
        return Forms(torch.cat((self.W, other.W)), torch.cat((wider, other.V)), torch.cat((self.b, other.b)))


@dataclass(frozen=True, eq=False)
class ReducedEvaluator:
    """Dense matrices over the region's coordinates and the units' activations.

    W (units + outputs, coordinates), V (units + outputs, units) and b: rows of the units' inputs, then of the outputs.
    """

    units: Units
    coordinates: Coordinates
    W: Tensor
    V: Tensor
    b: Tensor

    @classmethod
    def of(cls, region: Box, units: Units, rows: Forms) -> ReducedEvaluator:
        """The network of forms over the region's own coordinates."""
        coordinates = Coordinates(region)
        W, b = coordinates.scaled(rows.W, rows.b)
        return cls(units, coordinates, W, rows.V.contiguous(), b)

    def to(self, dtype: torch.dtype) -> ReducedEvaluator:
        """The same in another precision."""
        W, V, b = (t.to(dtype) for t in (self.W, self.V, self.b))
        return replace(self, coordinates=self.coordinates.to(dtype), W=W, V=V, b=b)

    def backward(self, lines: Lines, gamma: Tensor, paid: Tensor, c: Tensor) -> Backward:
        n = len(self.units)
        v = c @ self.V[n:]
        s, slope, offset = torch.empty_like(v), torch.empty_like(v), torch.empty_like(v)
        for block in reversed(self.units.blocks):
            part = block.part
            slope[:, part], offset[:, part] = choose(lines.of(part), v[:, part])
            s[:, part] = torch.addcmul(gamma[:, part], slope[:, part], v[:, part])
            if part.start:
                v[:, : part.start].addmm_(s[:, part], self.V[part, : part.start])
        A = torch.addmm(c @ self.W[n:], s, self.W[:n])
        constant = s @ self.b[:n] + c @ self.b[n:] + (v * offset).sum(1) - paid
        least, x = self.coordinates.least(A)
        return Backward(constant + least, v, slope, offset, x)

    def forward(self, back: Backward) -> tuple[Tensor, Tensor]:
        n = len(self.units)
        t = torch.addmm(self.b, back.x, self.W.T)
        a = torch.empty_like(back.v)
        for block in self.units.blocks:
            part = block.part
            if part.start:
                t[:, part].addmm_(a[:, : part.start], self.V[part, : part.start].T)
            a[:, part] = torch.addcmul(back.offset[:, part], back.slope[:, part], t[:, part])
        return t[:, :n], torch.addmm(t[:, n:], a, self.V[n:].T)

    def points(self, x: Tensor) -> Tensor:
        return self.coordinates.points(x)


def pays(graph: Graph, region: Box, rows: int) -> bool:
    """Whether so many forms are worth more than the network itself, whose pieces are slower to run."""
    return rows * (int((region.radius > 0).sum()) + rows / 2) <= DEARER * multiplications(graph)


def multiplications(graph: Graph) -> int:
    """About how many one run of the network takes."""
    total = 0
    for node in graph.nodes[1:]:
        if isinstance(node.op, Linear):
            total += node.size * node.op.weight.shape[1]
        elif isinstance(node.op, Conv2d):
            total += node.size * math.prod(node.op.weight.shape[1:])
        else:
            total += node.size
    return total


def stable_lines(op: Activation, z: Interval, positions: Tensor) -> Relaxation:
    """The linear pieces of an activation's decided neurons, zero at `positions`, its units'; z of batch one."""
    lines = op.relax(unsqueezed(z), op.initial(unsqueezed(z), "adaptive"))
    sides = (lines.lower_slope, lines.upper_slope, lines.lower_offset, lines.upper_offset)
    return Relaxation(*(None if side is None else _zeroed(side, positions) for side in sides))  # type: ignore[arg-type]


def _zeroed(side: Tensor, positions: Tensor) -> Tensor:
    flat = side.flatten().clone()
    flat[positions] = 0
    return flat.view(side.shape)


def forms(graph: Graph, node: int, positions: Tensor, lines: Mapping[int, Relaxation], units: Units) -> Forms:
    """Neurons of a node as forms over the input and the units below it. lines: `stable_lines` by activation."""
    k, outputs = len(positions), dict[int, Coefficients]()
    if not k:
        empty = units.lower.new_zeros
        return Forms(empty(0, graph.nodes[0].size), empty(0, len(units)), empty(0))
    form, constant = start_rows(graph, node, positions.unsqueeze(0), graph.dtype)
    sources, constant = pull_back(graph, form, constant, lines, outputs=outputs)
    W = dense(sources[0]).reshape(k, -1) if 0 in sources else constant.new_zeros(k, graph.nodes[0].size)
    V = constant.new_zeros(k, len(units))
    for b in units.blocks:
        if b.activation in outputs:
            V[:, b.part] = dense(outputs[b.activation]).reshape(k, -1)[:, b.positions]
    return Forms(W, V, constant.squeeze(0))
