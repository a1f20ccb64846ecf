"""Interval bound propagation (Gowal et al. 2018)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from verifier.bounds.backward import concretise, pull_back
from verifier.graph import Graph
from verifier.ops.base import Activation, Affine
from verifier.types import Ball, Bounds, Box, Interval

Refine = Callable[[int, Interval, dict[int, Interval]], Interval]


def read_by_activations(graph: Graph) -> dict[int, list[Activation]]:
    """The activations that read each node, for the nodes that any reads."""
    readers: dict[int, list[Activation]] = {}
    for node in graph.nodes:
        if isinstance(node.op, Activation):
            readers.setdefault(node.inputs[0], []).append(node.op)
    return readers


def is_exact(graph: Graph, box: Box) -> list[bool]:
    """For each node, whether interval propagation is exact there: one mixing op, of a box, and only scaling before."""
    independent, exact = [not isinstance(box, Ball)], [not isinstance(box, Ball)]
    for node in graph.nodes[1:]:
        affine, mixing = isinstance(node.op, Affine), isinstance(node.op, Affine) and node.op.mixing
        single = len(node.inputs) == 1 and independent[node.inputs[0]]
        independent.append(single and not mixing)
        exact.append(single or (not affine and exact[node.inputs[0]]))
    return exact


def propagate(graph: Graph, box: Box, refine: Refine | None = None) -> tuple[list[Interval], dict[int, Interval]]:
    """Interval bounds of every node, and of those that activations read.

    `refine(node, interval, nodes so far)` may tighten what an activation reads before it is used further on.
    """
    values: list[Interval] = [Interval(box.lower, box.upper)]
    nodes: dict[int, Interval] = {}
    readers = read_by_activations(graph)
    for index, node in enumerate(graph.nodes):
        if index:
            values.append(node.op.interval(*(values[i] for i in node.inputs)))  # type: ignore[attr-defined]
        if index in readers:
            if refine is not None:
                values[index] = refine(index, values[index], nodes)
            nodes[index] = values[index]
    return values, nodes


def intersected(z: Interval, other: Interval) -> Interval:
    """What two bounds of the same neurons have in common; one that is NaN says nothing."""
    lower, upper = torch.fmax(z.lower, other.lower), torch.fmin(z.upper, other.upper)
    # The two can cross by a rounding error alone; both ends then bound the same number.
    return Interval(torch.minimum(lower, upper), torch.maximum(lower, upper))


def output_form(graph: Graph, C: Tensor, batch: int) -> Tensor:
    """C (batch or 1, spec, outputs) as coefficients (batch, spec, *output_shape)."""
    return C.expand(batch, -1, -1).reshape(batch, C.shape[1], *graph.output_shape)


def margins(graph: Graph, box: Box, C: Tensor, values: list[Interval]) -> Tensor:
    """Lower bounds (batch, spec) of C . output from intervals of the last activations, exact through affine ops."""
    A = output_form(graph, C, box.batch)
    form, constant = pull_back(graph, {graph.output: A}, A.new_zeros(A.shape[:2]), {})
    return concretise(form, constant, box, dict(enumerate(values)))


@dataclass(frozen=True)
class IntervalBounds:
    """Intervals pushed forward, op by op; the affine ops after the last activations are merged with C."""

    def __call__(self, graph: Graph, box: Box, C: Tensor) -> Bounds:
        """Bounds of C . output, C (batch or 1, spec, outputs), over the input set `box`."""
        values, nodes = propagate(graph, box)
        both = margins(graph, box, torch.cat((C, -C), 1), values)
        return Bounds(both[:, : C.shape[1]], -both[:, C.shape[1] :], nodes)
