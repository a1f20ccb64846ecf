"""Rigorous interval arithmetic in float64: every rounding error is bounded and added.

A sum of n products computed in any order errs by at most gamma_n = n u / (1 - n u) times the sum of their magnitudes,
u = 2^-53 (Higham 2002, section 3.1).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from verifier.bounds.interval import intersected, propagate
from verifier.graph import Graph
from verifier.ops.base import Activation, Affine, PiecewiseLinear
from verifier.types import Box, Interval

UNIT = 2.0**-53
UNDERFLOW = 2.0**-1000  # far above what the underflows of any one sum add up to


def enclose(graph: Graph, box: Box, C: Tensor, d: Tensor) -> Interval:
    """Bounds of `C . output + d` that hold in real arithmetic on the graph's weights, (batch, rows).

    graph and box: float64, on the CPU, where convolutions are sums of products in some order. C: (rows, outputs),
    d: (rows,).
    """
    assert graph.dtype == torch.float64 and graph.device.type == "cpu"
    values = [Interval(box.lower, box.upper)]
    for node in graph.nodes[1:]:
        inputs = [values[i] for i in node.inputs]
        if isinstance(node.op, Affine):
            values.append(_affine(node.op, inputs, node.at_zero))
        else:
            assert isinstance(node.op, Activation)
            values.append(_activation(node.op, inputs[0]))
    y = Interval(values[-1].lower.flatten(1), values[-1].upper.flatten(1))
    center, radius = _center_radius(y)
    rows, spread = center @ C.T + d, radius @ C.abs().T
    reach = (center.abs() + radius) @ C.abs().T + d.abs()
    return _widened(rows, spread, _gamma(C.shape[1] + 2) * reach)


def forward_error(graph: Graph, box: Box, C: Tensor, d: Tensor, known: Mapping[int, Interval] | None = None) -> float:
    """The most that rounding may change in a float64 evaluation of `C . output + d` anywhere in any of the boxes.

    known: bounds of nodes that activations read, in place of intervals alone, which can be too wide to tell anything.
    """
    return float(forward_errors(graph, box, C, d, known).max())


def forward_errors(graph: Graph, box: Box, C: Tensor, d: Tensor, known: Mapping[int, Interval] | None = None) -> Tensor:
    """The same for every box and every row of C (rows, outputs) and d (rows,): (batch, rows)."""
    refine = None if known is None else lambda node, z, _: intersected(z, known[node])
    values, _ = propagate(graph, box, refine)
    errors = [torch.zeros_like(box.lower)]
    for node in graph.nodes[1:]:
        read = [errors[i] for i in node.inputs]
        if isinstance(node.op, Affine):
            sizes = [_size(values[i]) for i in node.inputs]
            gamma = _gamma(_terms(node.op, sizes))
            errors.append(node.op.magnitude(*read) + gamma * (node.op.magnitude(*sizes) + node.at_zero.abs()))
        else:
            assert isinstance(node.op, Activation)
            steepest = node.op.steepest(values[node.inputs[0]])
            errors.append(steepest * read[0] + 8 * UNIT * (_size(values[len(errors)]) + node.op.grain))
    last = errors[-1].flatten(1) + _gamma(C.shape[1] + 2) * _size(values[-1]).flatten(1)
    return last @ C.abs().T + UNIT * d.abs()


def _size(z: Interval) -> Tensor:
    return torch.maximum(z.lower.abs(), z.upper.abs())


def _terms(op: Affine, inputs: list[Tensor]) -> int:
    """The most terms that an output sums up: every input, or one where they do not mix, and a constant."""
    return (sum(x[0].numel() for x in inputs) if op.mixing else 1) + 2


def _affine(op: Affine, inputs: list[Interval], at_zero: Tensor) -> Interval:
    parts = [_center_radius(i) for i in inputs]
    centers, radii = [c for c, _ in parts], [r for _, r in parts]
    terms = _terms(op, centers)
    reach = op.magnitude(*(c.abs() + r for c, r in parts)) + at_zero.abs()
    return _widened(op.forward(*centers), op.magnitude(*radii), _gamma(terms) * reach)


def _activation(op: Activation, z: Interval) -> Interval:
    exact = isinstance(op, PiecewiseLinear) and set(op.slopes) <= {-1.0, 0.0, 1.0}
    y = op.interval(z)
    if exact:
        return y
    slack = [
        8 * UNIT * (side.abs() + op.grain) + UNDERFLOW for side in (y.lower, y.upper)
    ]  # library functions err by a few units
    return Interval(y.lower - slack[0], y.upper + slack[1])


def _center_radius(z: Interval) -> tuple[Tensor, Tensor]:
    """A centre and a radius that cover the interval in spite of rounding."""
    center = z.center
    radius = torch.maximum(z.upper - center, center - z.lower)
    return center, radius + 4 * UNIT * radius + torch.where(radius > 0, UNDERFLOW, 0.0)


def _widened(center: Tensor, radius: Tensor, error: Tensor) -> Interval:
    """center -/+ radius, widened by the error of each (bounded by `error`) and of these last operations."""
    spread = radius + 2 * error + 4 * UNIT * (center.abs() + radius) + UNDERFLOW
    return Interval(center - spread, center + spread)


def _gamma(terms: int) -> float:
    return 2 * terms * UNIT / (1 - terms * UNIT)
