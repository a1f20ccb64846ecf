"""Planes above ReLUs, over what they are computed from, in place of the chord over the one number that they read.

For p in a box, y = max(0, w . p + b) is at most R . p + r for any R, where r = max(max -R . p, b + max (w - R) . p).
The upper side of the convex hull is made of such planes with R = T w, 0 <= T <= 1 (Anderson et al. 2020; as cuts in
verification: Tjandraatmadja et al. 2020, De Palma et al. 2021). At corners of the box the hull is exact where the chord
is not. Here one plane for every unit, chosen before the search by ascent on T, serves the whole tree; every subdomain
picks how much it counts beside the chord.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from verifier.graph import Graph
from verifier.ops.base import Activation
from verifier.ops.relu import Hinge, ReLU
from verifier.proof import INPUT as PROOF_INPUT
from verifier.proof import Plane
from verifier.search.ascent import adam
from verifier.search.neurons import NeuronSplits
from verifier.search.segments import INPUT, Layer, Matrix, Segment, SegmentEvaluator
from verifier.search.units import HingeLines, Units
from verifier.types import Ball, Interval

STEPS = 60
SEEN, FALLING = 5, 0.5  # steps by which a course is judged, and the share of their pace that the steps left may keep
LINES_RATE, PLANES_RATE, DECAY = 0.1, 0.2, 0.98  # of the ascent on what chooses lines, and on T
SETS = 512  # at most, for which planes are chosen; others start at the mean of their multipliers
SHARE = 0.5  # of a plane beside the chord, at first
GATHERED = 50  # products of single pairs of rows that take as long as one where all are multiplied


class Raised(NamedTuple):
    """An evaluator with planes above units, multipliers of the root that have their shares, and what chose them.

    lacking: what the sets' bounds lack, together, of what is enough: a share of what the first ones lacked.
    """

    evaluator: SegmentEvaluator
    start: Tensor
    chosen: Mapping[int, Chosen]
    lacking: float

    def described(self, numbers: Mapping[int, int]) -> list[Plane]:
        """The planes for a proof, in the order of the units. numbers: of activations, by node."""
        places = {INPUT: self.evaluator.coordinates.varying.nonzero().squeeze(1)}
        found, positions = [], {b.activation: b.positions for b in self.evaluator.units.blocks}
        for layer in self.evaluator.layers:
            if layer.activation in self.chosen:
                sources = {
                    numbers.get(i, PROOF_INPUT): (
                        part.row.numpy(force=True),
                        places[i][part.column].numpy(force=True),
                        part.T.numpy(force=True),
                    )
                    for i, part in self.chosen[layer.activation].parts.items()
                }
                own = positions[layer.activation].numpy(force=True)
                found.append(Plane(numbers[layer.activation], own, sources))
            places[layer.activation] = layer.living
        return found


def raised(
    splits: NeuronSplits, graph: Graph, nodes: Mapping[int, Interval], deadline: float, whole: bool = True
) -> Raised:
    """The evaluator of some splits with planes above the units that are ReLUs.

    splits: what the planes are for: they raise the sum of the bounds of its sets, each as far as is enough. nodes:
    bounds of what activations read, over the whole region. deadline: a time.monotonic(), when the ascent ends. whole:
    whether it goes on where what is enough is out of its reach.
    """
    exact = splits.exact
    assert isinstance(exact, SegmentEvaluator)
    root, enough = splits.root(), splits.enough
    count = len(root)
    root = root.select(torch.linspace(0, count - 1, min(count, SETS), device=root.l.device).long())
    layers = [layer for layer in exact.layers if layer.count and isinstance(graph.nodes[layer.activation].op, ReLU)]
    mask = torch.zeros(len(exact.units), dtype=torch.bool, device=root.l.device)
    for layer in layers:
        mask[layer.part] = True
    exact = replace(exact, units=replace(exact.units, planes=mask))
    l, u = exact.units.lower.unsqueeze(0), exact.units.upper.unsqueeze(0)
    chord, values = HingeLines(exact.units, l, u).chord[0], _values(exact, graph, nodes)
    planes = {layer.activation: Chosen.of(layer, chord[layer.part], values) for layer in layers}
    fast, quick = exact.to(root.l.dtype), splits.fast_rows
    relaxed, gamma = fast.units.relaxed(root.l, root.u), torch.zeros_like(root.l)
    c, d = quick.combined(root.weights, root.unsafe)
    alpha = torch.cat((root.multipliers[:, :-1], torch.full_like(gamma, SHARE).unsqueeze(1)), 1)
    moments = torch.zeros_like(alpha), torch.zeros_like(alpha)
    most, best = -math.inf, (alpha, {i: plane.shares for i, plane in planes.items()})
    lacking = list[float]()
    for number in range(STEPS + 1):
        fast = _with(fast, {i: plane.segment().to(root.l.dtype) for i, plane in planes.items()})
        back = fast.backward(relaxed.at(alpha), gamma, -d, c)
        total = float(back.bound.clamp(max=enough).sum())
        if total > most:
            most, best = total, (alpha, {i: plane.shares for i, plane in planes.items()})
        lacking.append(enough * len(d) - total)
        if number == STEPS or not lacking[-1] > 0 or time.monotonic() > deadline:
            break
        if not whole and _hopeless(lacking):
            break
        at, reached = fast.traced(back)
        open_ = (back.bound <= enough).unsqueeze(1)
        assert back.share is not None
        pressed = (back.share * back.v * open_).T
        for layer in layers:
            planes[layer.activation].move(pressed[layer.part], reached, number)
        slope = adam(relaxed.gradient(alpha, back.v, at), *moments, number + 1)
        alpha = torch.add(alpha, slope, alpha=LINES_RATE * DECAY**number).clamp_(0, 1)
    alpha, shares = best
    for i, plane in planes.items():
        plane.take(shares[i])
    exact = _with(exact, {i: plane.segment() for i, plane in planes.items()})
    start = torch.cat((alpha, gamma.unsqueeze(1)), 1)
    every = start.mean(0, keepdim=True).repeat(count, 1, 1)
    every[root.unsafe] = start
    return Raised(exact, every, planes, max(min(lacking), 0.0) / lacking[0] if lacking[0] > 0 else 0.0)


def _hopeless(lacking: Sequence[float]) -> bool:
    """Whether more is lacking than the steps left would bring, if they kept some of the last ones' pace."""
    if len(lacking) <= SEEN:
        return False
    pace = (lacking[-1 - SEEN] - lacking[-1]) / SEEN
    return not lacking[-1] < FALLING * pace * (STEPS + 1 - len(lacking))


def can_be_raised(units: Units) -> bool:
    """Whether some units are ReLUs, and all are convex, so that the chord is what bounds them from above."""
    ops = [block.op for block in units.blocks]
    return any(isinstance(op, ReLU) for op in ops) and all(
        isinstance(op, Hinge) and op.slopes[0] <= op.slopes[1] for op in ops
    )


def _with(evaluator: SegmentEvaluator, above: Mapping[int, Segment]) -> SegmentEvaluator:
    """The evaluator with planes, by activation."""
    layers = (replace(layer, above=above.get(layer.activation)) for layer in evaluator.layers)
    return replace(evaluator, layers=tuple(layers))


def _values(evaluator: SegmentEvaluator, graph: Graph, nodes: Mapping[int, Interval]) -> dict[int, Interval]:
    """Bounds (living,) of the input's coordinates and of what the activations compute."""
    region = evaluator.coordinates.region
    end = torch.ones(evaluator.coordinates.count, dtype=region.lower.dtype, device=region.lower.device)
    is_ball = isinstance(region, Ball)
    found = {INPUT: Interval(region.lower.flatten(), region.upper.flatten()) if is_ball else Interval(-end, end)}
    for layer in evaluator.layers:
        node = graph.nodes[layer.activation]
        assert isinstance(node.op, Activation)
        y = node.op.interval(nodes[node.inputs[0]])
        found[layer.activation] = Interval(y.lower.flatten()[layer.living], y.upper.flatten()[layer.living])
    return found


@dataclass(eq=False)
class Part:
    """The nonzero weights w of a layer's units for one source, in the order of its matrix's rows, and T for each.

    row, column: (m,). least, most: (m,), of a weight times its value. shape: (units, living), of the matrix.
    """

    row: Tensor
    column: Tensor
    weight: Tensor
    T: Tensor
    least: Tensor
    most: Tensor
    shape: tuple[int, int]
    dense: bool

    @classmethod
    def of(cls, read: Matrix, T: Tensor, values: Interval) -> Part:
        """For the matrix of a layer, whose first rows are its units', with T to begin with (units,)."""
        dense = read.M.layout == torch.strided
        M = (read.M if dense else read.M.to_dense())[: len(T)]
        row, column = M.nonzero().unbind(1)
        weight = M[row, column]
        ends = weight * values.lower[column], weight * values.upper[column]
        return cls(row, column, weight, T[row], torch.minimum(*ends), torch.maximum(*ends), (len(T), M.shape[1]), dense)

    def __post_init__(self) -> None:
        self.by_column = (self.column * self.shape[0] + self.row).argsort()
        self.moments = torch.zeros_like(self.T), torch.zeros_like(self.T)

    def products(self, rows: Tensor, columns: Tensor) -> Tensor:
        """The products (m,) of rows (units, n) with columns (living, n) where the weights are not zero."""
        if GATHERED * len(self.row) < math.prod(self.shape):
            return (rows[self.row] * columns[self.column]).sum(1)
        return (rows @ columns.T)[self.row, self.column]

    def matrix(self) -> Matrix:
        """R = T w."""
        R = self.T * self.weight
        if self.dense:
            M = torch.zeros(self.shape, dtype=R.dtype, device=R.device).index_put_((self.row, self.column), R)
            return Matrix(M, M.T)
        order, (rows, columns) = self.by_column, self.shape
        transposed = _compressed(self.column[order], self.row[order], R[order], (columns, rows))
        return Matrix(_compressed(self.row, self.column, R, self.shape), transposed)


def _compressed(row: Tensor, column: Tensor, values: Tensor, shape: tuple[int, int]) -> Tensor:
    """A matrix in compressed rows, of entries in the order of its rows."""
    starts = torch.searchsorted(row, torch.arange(shape[0] + 1, device=row.device))
    return torch.sparse_csr_tensor(starts, column, values, shape, check_invariants=False)


@dataclass(eq=False)
class Chosen:
    """The planes above a layer's units while they are being chosen. b: (units,)."""

    parts: dict[int, Part]
    b: Tensor

    @classmethod
    def of(cls, layer: Layer, T: Tensor, values: Mapping[int, Interval]) -> Chosen:
        """With T to begin with (units,), over values in bounds (living,) by source."""
        parts = {i: Part.of(matrix, T, values[i]) for i, matrix in layer.read.sources.items()}
        return cls(parts, layer.read.b[: layer.count])

    @property
    def shares(self) -> dict[int, Tensor]:
        """T as it is now, by source."""
        return {i: part.T.clone() for i, part in self.parts.items()}

    def take(self, shares: Mapping[int, Tensor]) -> None:
        """Go back to what T was."""
        for i, part in self.parts.items():
            part.T = shares[i]

    def segment(self) -> Segment:
        """R and r."""
        zero, steep = torch.zeros_like(self.b), self.b.clone()
        for part in self.parts.values():
            zero.index_add_(0, part.row, part.T * -part.least)
            steep.index_add_(0, part.row, (1 - part.T) * part.most)
        self.above_zero = zero >= steep  # which of the two conditions is the one that costs
        return Segment({i: part.matrix() for i, part in self.parts.items()}, torch.maximum(zero, steep))

    def move(self, pressed: Tensor, values: Mapping[int, Tensor], number: int) -> None:
        """One step of ascent on T where `pressed` (units, n) multiplies the planes, at values (living, n) by source."""
        for i, part in self.parts.items():
            end = torch.where(self.above_zero[part.row], part.least, part.most)
            slope = part.weight * part.products(pressed, values[i]) - end * pressed.sum(1)[part.row]
            part.T.add_(adam(slope, *part.moments, number + 1), alpha=PLANES_RATE * DECAY**number).clamp_(0, 1)
