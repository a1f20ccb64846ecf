"""The network in exact rational arithmetic, for candidates that rounding leaves too close to call."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import torch

from verifier.graph import Graph, Node
from verifier.ops.base import Affine, PiecewiseLinear
from verifier.ops.patches import dense
from verifier.spec.property import exact
from verifier.types import Shape

ROW_CHUNK = 256


def exact_output(graph: Graph, point: np.ndarray) -> np.ndarray | None:
    """The output, a flat object array of Fraction, at a point of Fractions (*input_shape).

    The weights are the graph's, in float64. None when an activation is smooth: its values are not rational.
    """
    values = [point.flatten()]
    for index, node in enumerate(graph.nodes[1:], start=1):
        inputs = [values[i] for i in node.inputs]
        if isinstance(node.op, Affine):
            values.append(_affine(node, graph.input_shapes(index), inputs))
        elif isinstance(node.op, PiecewiseLinear):
            values.append(_piecewise(node.op, inputs[0]))
        else:
            return None
    return values[-1]


def _affine(node: Node, shapes: list[Shape], inputs: list[np.ndarray]) -> np.ndarray:
    """Rows of the map, which float64 holds exactly, times the inputs, all as integers over common denominators."""
    op = node.op
    assert isinstance(op, Affine)
    scaled = [_integers(x) for x in inputs]
    total = exact(node.at_zero.flatten().numpy())
    for rows in torch.arange(node.size).split(ROW_CHUNK):
        parts = op.rows(rows.unsqueeze(0), torch.float64, node.shape, *shapes)
        for A, (numbers, denominator) in zip(parts, scaled, strict=True):
            weights = dense(A).reshape(len(rows), -1).numpy()
            place, column = np.nonzero(weights)
            if not len(place):
                continue
            factors, scale = _integers(exact(weights[place, column]))
            sums = np.zeros(len(rows), dtype=object)
            np.add.at(sums, place, factors * numbers[column])
            total[rows.numpy()] += np.array([Fraction(int(s), scale * denominator) for s in sums], dtype=object)
    return total


def _integers(values: np.ndarray) -> tuple[np.ndarray, int]:
    """Fractions as integers over their common denominator."""
    denominator = math.lcm(*{v.denominator for v in values.flat})
    return np.array([v.numerator * (denominator // v.denominator) for v in values.flat], dtype=object), denominator


def _piecewise(op: PiecewiseLinear, z: np.ndarray) -> np.ndarray:
    """The activation from its pieces, starting at its first breakpoint."""
    bends = [Fraction(b) for b in op.breakpoints]
    slopes = [Fraction(s) for s in op.slopes]
    start = Fraction(float(op.forward(torch.tensor(op.breakpoints[0], dtype=torch.float64))))

    def value(x: Fraction) -> Fraction:
        total = start + slopes[0] * min(x - bends[0], Fraction(0))
        for i, bend in enumerate(bends):
            end = min(x, bends[i + 1]) if i + 1 < len(bends) else x
            total += slopes[i + 1] * max(end - bend, Fraction(0))
        return total

    return np.array([value(x) for x in z], dtype=object)
