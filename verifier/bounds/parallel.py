"""CROWN at half the cost: parallel lines around every activation, so that one pass bounds a neuron from both sides.

These are the lines of Wong and Kolter (2018) and of zonotopes (Singh et al. 2018), for any piecewise-linear activation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from verifier.bounds.backward import Form, concretise, minimum, pull_back, start_rows
from verifier.bounds.crown import DEFAULT_MEMORY, fixed_slopes, tightened, unsqueezed, unstable_rows
from verifier.bounds.interval import Refine, is_exact, margins, output_form, propagate, read_by_activations
from verifier.graph import Graph
from verifier.ops.base import PiecewiseLinear, Relaxation
from verifier.ops.patches import Coefficients, Patches, dot, negated
from verifier.types import Ball, Bounds, Box, Interval


@dataclass(frozen=True)
class Parallel:
    """Bounds of every unstable neuron by parallel lines, then of C . output by CROWN's; never below the intervals.

    memory: bytes that the coefficients of one call may take; rows are computed in chunks.
    """

    memory: int = DEFAULT_MEMORY

    def __call__(self, graph: Graph, box: Box, C: Tensor) -> Bounds:
        """Bounds of C . output, C (batch or 1, spec, outputs), over the input set `box`.

        Every activation must be piecewise linear: see `fits`.
        """
        values, nodes = propagate(graph, box, refiner(graph, box, self.memory))
        signed = torch.cat((C, -C), 1)
        A = output_form(graph, signed, box.batch)
        lines = fixed_slopes(graph, "adaptive")(graph.output + 1, nodes)
        form, constant = pull_back(graph, {graph.output: A}, A.new_zeros(A.shape[:2]), lines)
        both = torch.maximum(concretise(form, constant, box, {}), margins(graph, box, signed, values))
        return Bounds(both[:, : C.shape[1]], -both[:, C.shape[1] :], nodes)


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


def refiner(graph: Graph, box: Box, memory: int) -> Refine:
    """A `refine` for `propagate` that intersects intervals with bounds by parallel lines of the unstable neurons."""
    exact, readers = is_exact(graph, box), read_by_activations(graph)
    lines: dict[int, Relaxation] = {}

    def refine(node: int, z: Interval, nodes: dict[int, Interval]) -> Interval:
        if exact[node]:
            return z
        index, counts = unstable_rows(z, readers[node])
        if not index.shape[1]:
            return z
        for place, other in enumerate(graph.nodes[:node]):
            if isinstance(other.op, PiecewiseLinear) and place not in lines:
                lines[place] = parallel_lines(other.op, unsqueezed(nodes[other.inputs[0]]))
        widest = max(n.size for n in graph.nodes[: node + 1])
        chunk = max(1, memory // (4 * z.lower.element_size() * widest * box.batch))
        parts = [both_sides(graph, box, node, rows, lines) for rows in index.split(chunk, 1)]
        lower, upper = (torch.cat(side, 1) for side in zip(*parts, strict=True))
        return tightened(z, index, counts, lower, upper)

    return refine


def both_sides(
    graph: Graph, box: Box, node: int, rows: Tensor, lines: Mapping[int, Relaxation]
) -> tuple[Tensor, Tensor]:
    """Lower and upper bounds (batch, spec) of the coordinates `rows` of a node.

    With parallel lines both come from the same coefficients: they differ by what the gaps between the lines and the
    extent of the input set add up to.
    """
    outputs: Form = {}
    form, constant = pull_back(graph, *start_rows(graph, node, rows, box.lower.dtype), lines, outputs=outputs)
    lower, gaps = constant, torch.zeros_like(constant)
    for place, A in outputs.items():
        low, high = lines[place].lower_offset, lines[place].upper_offset
        assert low is not None and high is not None
        gaps = gaps + dot(_magnitude(A), (high - low)[:, 0])
    upper = constant + gaps
    for A in form.values():  # the input's alone: every activation has lines
        least = minimum(box, A)
        most = -minimum(box, negated(A)) if isinstance(box, Ball) else least + 2 * dot(_magnitude(A), box.radius)
        lower, upper = lower + least, upper + most
    return lower, upper


def _magnitude(A: Coefficients) -> Coefficients:
    return A.over(A.masked().values.abs()) if isinstance(A, Patches) else A.abs()
