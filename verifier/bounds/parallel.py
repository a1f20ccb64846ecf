"""CROWN at half the cost: parallel lines around every activation, so that one pass bounds a neuron from both sides.

These are the lines of Wong and Kolter (2018) and of zonotopes (Singh et al. 2018), for any piecewise-linear activation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from verifier.bounds.backward import Form, minimum, pull_back, start_rows
from verifier.bounds.crown import Crown, Relax, RowBounds, unsqueezed
from verifier.bounds.interval import read_by_activations
from verifier.graph import Graph
from verifier.ops.base import PiecewiseLinear, Relaxation
from verifier.ops.patches import Coefficients, Patches, dot, negated
from verifier.types import Ball, Box, Interval


@dataclass(frozen=True)
class Parallel(Crown):
    """CROWN whose hidden neurons are bounded by parallel lines; those of `slopes` bound the output.

    Every activation must be piecewise linear: see `fits`.
    """

    def _bound_rows(self, graph: Graph, box: Box, relax: Relax) -> RowBounds:
        lines: dict[int, Relaxation] = {}

        def bound_rows(node: int, rows: Tensor, nodes: Mapping[int, Interval]) -> tuple[Tensor, Tensor]:
            for place, other in enumerate(graph.nodes[: node + 1]):
                if isinstance(other.op, PiecewiseLinear) and place not in lines:
                    lines[place] = parallel_lines(other.op, unsqueezed(nodes[other.inputs[0]]))
            return both_sides(graph, box, node, rows, lines)

        return bound_rows


def fits(graph: Graph) -> bool:
    """Whether parallel lines are known for every activation."""
    return all(isinstance(op, PiecewiseLinear) for ops in read_by_activations(graph).values() for op in ops)


def parallel_lines(op: PiecewiseLinear, z: Interval) -> Relaxation:
    """Two lines of the chord's slope, each as close as it can be; valid on z whatever slope rounding makes of it."""
    at_l, at_u = op.forward(z.lower), op.forward(z.upper)
    width = z.upper - z.lower
    slope = torch.where(width > 0, (at_u - at_l) / torch.where(width > 0, width, 1.0), 0.0)
    low, high = at_l - slope * z.lower, at_u - slope * z.upper
    low, high = torch.minimum(low, high), torch.maximum(low, high)
    for breakpoint in op.breakpoints:
        point = z.lower.clamp(min=breakpoint).minimum(z.upper)
        offset = op.forward(point) - slope * point
        low, high = torch.minimum(low, offset), torch.maximum(high, offset)
    return Relaxation(slope, slope, low, high)


def both_sides(
    graph: Graph, box: Box, node: int, rows: Tensor, lines: Mapping[int, Relaxation]
) -> tuple[Tensor, Tensor]:
    """Lower and upper bounds (batch, spec) of the coordinates `rows` of a node.

    With parallel lines both come from the same coefficients: they differ by what the gaps between the lines and the
    extent of the input set add up to.
    """
    outputs: Form = {}
    slopes = {place: Relaxation(line.lower_slope, line.lower_slope, None, None) for place, line in lines.items()}
    form, middle = pull_back(graph, *start_rows(graph, node, rows, box.lower.dtype), slopes, outputs=outputs)
    spread = torch.zeros_like(middle)
    for place, A in outputs.items():
        low, high = lines[place].lower_offset, lines[place].upper_offset
        assert low is not None and high is not None
        middle = middle + dot(A, (low + high)[:, 0] / 2)
        spread = spread + dot(_magnitude(A), (high - low)[:, 0] / 2)
    lower, upper = middle - spread, middle + spread
    for A in form.values():  # the input's alone: every activation has lines
        if isinstance(box, Ball):
            lower, upper = lower + minimum(box, A), upper - minimum(box, negated(A))
        else:
            middle, spread = dot(A, box.center), dot(_magnitude(A), box.radius)
            lower, upper = lower + (middle - spread), upper + (middle + spread)
    return lower, upper


def _magnitude(A: Coefficients) -> Coefficients:
    """|A|; over the border of a map it stays what it is there: `dot` reads nothing there."""
    return A.over(A.values.abs(), A.clean) if isinstance(A, Patches) else A.abs()
