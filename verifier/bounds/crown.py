"""CROWN (Zhang et al. 2018), also known as DeepPoly (Singh et al. 2019)."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from verifier.bounds.backward import concretise, pull_back, start_rows, with_negatives
from verifier.bounds.interval import Refine, intersected, is_exact, margins, output_form, propagate, read_by_activations
from verifier.graph import Graph
from verifier.ops.base import Activation, Relaxation
from verifier.types import Bounds, Box, Interval

DEFAULT_MEMORY = 1 << 27

Relax = Callable[[int, Mapping[int, Interval]], dict[int, Relaxation]]
RowBounds = Callable[[int, Tensor, Mapping[int, Interval]], tuple[Tensor, Tensor]]
"""Lower and upper bounds (batch, spec) of the coordinates (batch, spec) of a node, from bounds of the nodes before."""


def fixed_slopes(graph: Graph, rule: str) -> Relax:
    """Relaxations by a rule (see `Activation.initial`), each computed once: `(start node, bounds) -> lines by node`."""
    cache: dict[int, Relaxation] = {}

    def relax(start: int, nodes: Mapping[int, Interval]) -> dict[int, Relaxation]:
        for index, node in enumerate(graph.nodes[: start + 1]):  # what an activation reads may be one
            if isinstance(node.op, Activation) and index not in cache:
                z = unsqueezed(nodes[node.inputs[0]])
                cache[index] = node.op.relax(z, node.op.initial(z, rule))
        return cache

    return relax


def unsqueezed(z: Interval) -> Interval:
    """The interval with a spec axis, (batch, 1, *shape)."""
    return Interval(z.lower.unsqueeze(1), z.upper.unsqueeze(1))


def unstable_rows(z: Interval, readers: list[Activation]) -> tuple[Tensor, Tensor]:
    """The neurons that some reader cannot relax exactly: flat positions (batch, spec), and which of these count.

    Batch elements with fewer than the most are filled up with stable neurons, which do not count, so that positions
    in a row are distinct and a batch gives the same bounds as its elements.
    """
    mask = torch.stack([op.unstable(z) for op in readers]).any(0).flatten(1)
    most = int(mask.sum(1).max())
    index = mask.to(torch.uint8).topk(most, dim=1).indices
    return index, mask.gather(1, index)


def refiner(
    graph: Graph,
    box: Box,
    bound_rows: RowBounds,
    memory: int,
    known: Mapping[int, Interval] | None = None,
    deadline: float = math.inf,
) -> Refine:
    """A `refine` for `propagate` that intersects intervals with backward bounds of the unstable neurons.

    memory: bytes that the coefficients of a call may take, of one for every row; rows are bounded in chunks. known:
    bounds of nodes to begin with. deadline: a time.monotonic(), after which no more rows are bounded.
    """
    exact, readers = is_exact(graph, box), read_by_activations(graph)

    def refine(node: int, z: Interval, nodes: dict[int, Interval]) -> Interval:
        if exact[node]:
            return z
        if known is not None and node in known:
            z = intersected(z, known[node])
        index, counts = unstable_rows(z, readers[node])
        if not index.shape[1]:
            return z
        widest = max(n.size for n in graph.nodes[: node + 1])
        chunk = max(1, memory // (4 * z.lower.element_size() * widest * box.batch))
        parts = []
        for rows in index.split(chunk, 1):
            if time.monotonic() > deadline:
                break
            parts.append(bound_rows(node, rows, nodes))
        if not parts:
            return z
        lower, upper = (torch.cat(side, 1) for side in zip(*parts, strict=True))
        done = lower.shape[1]
        return tightened(z, index[:, :done], counts[:, :done], lower, upper)

    return refine


def from_both_signs(graph: Graph, box: Box, relax: Relax) -> RowBounds:
    """Bounds of rows by any relaxation: a pass for the rows and for their negatives."""

    def bound_rows(node: int, rows: Tensor, nodes: Mapping[int, Interval]) -> tuple[Tensor, Tensor]:
        signed = with_negatives(*start_rows(graph, node, rows, box.lower.dtype))
        form, constant = pull_back(graph, *signed, relax(node, nodes))
        lower, negated_upper = concretise(form, constant, box, {}).unflatten(1, (2, -1)).unbind(1)
        return lower, -negated_upper

    return bound_rows


def tightened(z: Interval, index: Tensor, counts: Tensor, lower: Tensor, upper: Tensor) -> Interval:
    """The interval intersected with bounds (batch, spec) of the neurons at positions `index`, where these count.

    A bound that is NaN says nothing.
    """
    l, u = z.lower.flatten(1), z.upper.flatten(1)
    known_l, known_u = l.gather(1, index), u.gather(1, index)
    l = l.scatter(1, index, torch.where(counts, torch.fmax(known_l, lower), known_l))
    u = u.scatter(1, index, torch.where(counts, torch.fmin(known_u, upper), known_u))
    # The two can cross by a rounding error alone; both ends then bound the same number.
    return Interval(torch.minimum(l, u).view_as(z.lower), torch.maximum(l, u).view_as(z.upper))


@dataclass(frozen=True)
class Crown:
    """Backward linear bounds of every unstable neuron, layer by layer, then of C . output; never below the intervals.

    slopes: "adaptive" (least area), or "parallel" for the dual bound of Wong and Kolter (2018).
    memory: bytes that the coefficients of one call may take; rows are computed in chunks. known: valid bounds of nodes,
    from which it sets out. deadline: a time.monotonic(); the neurons that are not bounded by then keep what they have.
    """

    slopes: str = "adaptive"
    memory: int = DEFAULT_MEMORY
    known: Mapping[int, Interval] | None = None
    deadline: float = math.inf

    def __call__(self, graph: Graph, box: Box, C: Tensor) -> Bounds:
        """Bounds of C . output, C (batch or 1, spec, outputs), over the input set `box`."""
        both, nodes = self.lower(graph, box, torch.cat((C, -C), 1))
        return Bounds(both[:, : C.shape[1]], -both[:, C.shape[1] :], nodes)

    def lower(self, graph: Graph, box: Box, C: Tensor) -> tuple[Tensor, dict[int, Interval]]:
        """Lower bounds (batch, spec) of C . output alone, at half the cost of both, and of what activations read."""
        relax = fixed_slopes(graph, self.slopes)
        bound_rows = self._bound_rows(graph, box, relax)
        refine = refiner(graph, box, bound_rows, self.memory, self.known, self.deadline)
        values, nodes = propagate(graph, box, refine)
        A = output_form(graph, C, box.batch)
        form, constant = pull_back(graph, {graph.output: A}, A.new_zeros(A.shape[:2]), relax(graph.output + 1, nodes))
        return torch.maximum(concretise(form, constant, box, {}), margins(graph, box, C, values)), nodes

    def _bound_rows(self, graph: Graph, box: Box, relax: Relax) -> RowBounds:
        return from_both_signs(graph, box, relax)
