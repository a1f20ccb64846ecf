"""The exact worst margin of a small piecewise-linear network, one linear program per activation pattern.

Written from the definition alone: it shares nothing with the bound methods or the encoding. With the pieces of every
neuron chosen, the network is one affine map on a polytope of inputs. Patterns are enumerated neuron by neuron; one
whose polytope is empty is dropped with everything below it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linprog

from verifier.graph import Graph
from verifier.ops.base import PiecewiseLinear
from verifier.spec.property import Property

TOLERANCES = {"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10}


@dataclass(frozen=True, eq=False)
class AffineMap:
    """x -> matrix x + constant, rows being the flat coordinates of a node."""

    matrix: np.ndarray
    constant: np.ndarray


@dataclass(frozen=True, eq=False)
class Polytope:
    """Inputs with rows x <= sides inside a box."""

    rows: np.ndarray
    sides: np.ndarray
    box: np.ndarray  # (inputs, 2)

    def cut(self, row: np.ndarray, side: float) -> Polytope:
        return Polytope(np.vstack((self.rows, row)), np.append(self.sides, side), self.box)

    def least(self, cost: np.ndarray) -> float:
        """The minimum of cost . x; inf when there is no point."""
        answer = linprog(cost, self.rows, self.sides, bounds=self.box, method="highs", options=TOLERANCES)
        assert answer.status in (0, 2), answer.message
        return float(answer.fun) if answer.status == 0 else np.inf

    def least_of_greatest(self, forms: AffineMap) -> float:
        """The minimum over x of the greatest of some affine forms."""
        one = np.ones((len(forms.constant), 1))
        rows = np.block([[self.rows, np.zeros((len(self.rows), 1))], [forms.matrix, -one]])
        bounds = np.vstack((self.box, [-np.inf, np.inf]))
        cost = np.append(np.zeros(len(self.box)), 1.0)
        sides = np.append(self.sides, -forms.constant)
        answer = linprog(cost, rows, sides, bounds=bounds, method="highs", options=TOLERANCES)
        assert answer.status in (0, 2), answer.message
        return float(answer.fun) if answer.status == 0 else np.inf


@dataclass(frozen=True, eq=False)
class Worst:
    """rows: the least value of every half-space row; margin: the least margin; patterns: how many were possible."""

    rows: np.ndarray
    margin: float
    patterns: int


def worst(graph: Graph, prop: Property) -> Worst:
    """The exact minima over the region, a box."""
    box = np.stack([a.astype(float).flatten() for a in (prop.region.lower, prop.region.upper)], 1)
    everything = Polytope(np.zeros((0, len(box))), np.zeros(0), box)
    C, _, sets = prop.rows
    rows, margin, patterns = np.full(len(C), np.inf), np.inf, 0
    for output, cell in regions(graph, everything):
        patterns += 1
        forms = _rows(prop, output)
        for i, row in enumerate(forms.matrix):
            rows[i] = min(rows[i], cell.least(row) + forms.constant[i])
        for k in range(len(prop.unsafe)):
            chosen = (sets == k).numpy()
            margin = min(margin, cell.least_of_greatest(AffineMap(forms.matrix[chosen], forms.constant[chosen])))
    return Worst(rows, margin, patterns)


def _rows(prop: Property, output: AffineMap) -> AffineMap:
    C, d, _ = prop.rows
    return AffineMap(C.numpy() @ output.matrix, C.numpy() @ output.constant + d.numpy())


def regions(graph: Graph, cell: Polytope) -> Iterator[tuple[AffineMap, Polytope]]:
    """Every nonempty cell of inputs on which the network is affine, with that map."""
    count = len(cell.box)
    yield from _from_node(graph, 1, [AffineMap(np.eye(count), np.zeros(count))], cell)


def _from_node(graph: Graph, index: int, maps: list[AffineMap], cell: Polytope) -> Iterator[tuple[AffineMap, Polytope]]:
    if index == len(graph.nodes):
        yield maps[-1], cell
        return
    node = graph.nodes[index]
    if isinstance(node.op, PiecewiseLinear):
        read = maps[node.inputs[0]]
        for after, smaller in _pieces(node.op, read, 0, cell, np.zeros((0, 2))):
            yield from _from_node(graph, index + 1, [*maps, after], smaller)
    else:
        yield from _from_node(graph, index + 1, [*maps, _affine(graph, index, maps)], cell)


def _affine(graph: Graph, index: int, maps: list[AffineMap]) -> AffineMap:
    """An affine op applied to affine maps: columns and constants go through `forward`."""
    node, shapes = graph.nodes[index], graph.input_shapes(index)
    stacked = []
    for source, shape in zip(node.inputs, shapes, strict=True):
        matrix, constant = maps[source].matrix, maps[source].constant
        stacked.append(torch.from_numpy(np.vstack((matrix.T + constant, constant))).view(-1, *shape))
    values = node.op.forward(*stacked).flatten(1).numpy()
    return AffineMap((values[:-1] - values[-1]).T, values[-1])


def _pieces(
    op: PiecewiseLinear, read: AffineMap, neuron: int, cell: Polytope, chosen: np.ndarray
) -> Iterator[tuple[AffineMap, Polytope]]:
    """Choose a piece (slope and offset) of each neuron from `neuron` on; `chosen` are those of the earlier ones."""
    if neuron == len(read.constant):
        yield AffineMap(chosen[:, :1] * read.matrix, chosen[:, 0] * read.constant + chosen[:, 1]), cell
        return
    row, constant = read.matrix[neuron], float(read.constant[neuron])
    low = constant + float(np.minimum(row * cell.box[:, 0], row * cell.box[:, 1]).sum())
    high = constant + float(np.maximum(row * cell.box[:, 0], row * cell.box[:, 1]).sum())
    edges = [-np.inf, *op.breakpoints, np.inf]
    for left, right, slope in zip(edges[:-1], edges[1:], op.slopes, strict=True):
        if high < left or low > right:
            continue
        smaller = cell
        if low < left:
            smaller = smaller.cut(-row, constant - left)
        if high > right:
            smaller = smaller.cut(row, right - constant)
        if smaller is not cell and smaller.least(np.zeros(len(row))) == np.inf:
            continue
        inside = min(max(0.0, left), right)
        offset = float(op.forward(torch.tensor([inside], dtype=torch.float64))) - slope * inside
        yield from _pieces(op, read, neuron + 1, smaller, np.vstack((chosen, (slope, offset))))
