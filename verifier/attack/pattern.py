"""Descent from piece to piece of a piecewise-linear network, by linear programs: for needles that gradients step over.

Where every activation keeps the piece that it is on (the activation pattern), the network is affine, and a linear
program finds the least margin that there is. It lies at borders of the pattern: those that hold it back are crossed
where the margin falls on their other side as well. The end is a local minimum of the network itself.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import scipy
import torch
from torch import Tensor

from verifier.attack.pgd import AttackResult, Objective
from verifier.graph import Graph
from verifier.ops.base import Activation, PiecewiseLinear
from verifier.program import LinearProgram, Solution, SolveOptions
from verifier.solvers.base import Solver
from verifier.types import Ball, Box, Interval

AT_BEND = 1e-7  # of a neuron's range: so close to a bend it is on both pieces
SMALLEST = 1e-9  # what the margin must gain per unit beyond a border that is crossed


@dataclass(frozen=True)
class PatternDescent:
    """A descent from a point of a region.

    solver: an LP solver with duals. steps: linear programs at most. rows: neurons that a program keeps on their piece,
    at most, those that are nearest to a bend; the others may leave it, and then the margin is not what it promised.
    deadline: a time.monotonic() at which no program is begun.
    """

    solver: Solver
    steps: int = 30
    rows: int = 400
    deadline: float = math.inf

    def __call__(
        self, graph: Graph, region: Box, objective: Objective, start: Tensor, nodes: Mapping[int, Interval]
    ) -> AttackResult:
        """The best point on the way from `start` (1, *input_shape), in float64, and its margin (1,).

        graph: float64 on the CPU. region: of batch one. objective: as for `Pgd`. nodes: bounds of what activations
        read, in the region. Raises SolverError when the solver refuses a program; see `applies`.
        """
        x, pattern = start.to(graph.dtype), Pattern(graph, nodes)
        best = AttackResult(x, objective(graph(x)))
        for _ in range(self.steps):
            if time.monotonic() >= self.deadline:
                break
            pattern.follow(x)
            piece = pattern.piece(x, objective, self.rows)
            solution = self._least(piece, region)
            if solution.x is None or solution.row_duals is None:
                break
            x = region.project(torch.from_numpy(solution.x).view_as(x))
            margin = objective(graph(x))
            best = AttackResult(x, margin) if margin < best.margin else best
            pattern.follow(x)
            if not pattern.cross(piece, solution.row_duals):
                break
        return best

    def _least(self, piece: Piece, region: Box) -> Solution:
        """The least margin on a piece."""
        at_zero = piece.z - piece.rows @ piece.x
        program = LinearProgram(
            cost=piece.slope,
            lower=region.lower.flatten().numpy(),
            upper=region.upper.flatten().numpy(),
            matrix=scipy.sparse.csr_array(piece.rows),
            row_lower=piece.ends[:, 0] - at_zero,
            row_upper=piece.ends[:, 1] - at_zero,
            offset=piece.margin - float(piece.slope @ piece.x),
        )
        left = self.deadline - time.monotonic()
        return self.solver.solve(program, SolveOptions(time_limit=max(left, 0.01) if left < math.inf else None))


def applies(graph: Graph, region: Box, nodes: Mapping[int, Interval]) -> bool:
    """Whether patterns are polytopes: a box of inputs, piecewise-linear activations, and bounds of what they read."""
    activations = [node for node in graph.nodes if isinstance(node.op, Activation)]
    affine = all(isinstance(node.op, PiecewiseLinear) and node.inputs[0] in nodes for node in activations)
    return affine and bool(activations) and not isinstance(region, Ball)


@dataclass(frozen=True, eq=False)
class Piece:
    """The affine function that a network is on a pattern, around the input x (inputs,), and neurons near its borders.

    margin, slope (inputs,): of the margin. neurons: (activation, position) by row. z (rows,), rows (rows, inputs): what
    they read. ends (rows, 2): between which it stays. kinks (rows, 2): how much faster the margin rises (per unit of
    what the neuron reads) beyond the lower end, and beyond the upper one, than before it.
    """

    x: np.ndarray
    margin: float
    slope: np.ndarray
    neurons: list[tuple[int, int]]
    z: np.ndarray
    rows: np.ndarray
    ends: np.ndarray
    kinks: np.ndarray


class Pattern:
    """Which piece every activation is on: `pieces`, by activation, an index for each neuron, flat."""

    def __init__(self, graph: Graph, nodes: Mapping[int, Interval]) -> None:
        self.graph, self.pieces = graph, dict[int, Tensor]()
        self.ops = {i: node.op for i, node in enumerate(graph.nodes) if isinstance(node.op, PiecewiseLinear)}
        self.reads = {i: graph.nodes[i].inputs[0] for i in self.ops}
        bounds = {i: nodes[self.reads[i]].to("cpu", graph.dtype) for i in self.ops}
        self.width = {i: (z.upper - z.lower).flatten() for i, z in bounds.items()}
        self.unstable = {i: op.unstable(bounds[i]).flatten().nonzero().squeeze(1) for i, op in self.ops.items()}

    def follow(self, x: Tensor) -> None:
        """Take over the pieces at x; a neuron at a bend keeps the one that it has."""
        values = self.graph.values(x)
        for i in self.ops:
            distance = self._distance(i, values)
            piece = (distance > 0).sum(1)
            if i in self.pieces:
                at_bend = (distance.abs() <= AT_BEND * self.width[i].unsqueeze(1)).any(1)
                piece = torch.where(at_bend, self.pieces[i], piece)
            self.pieces[i] = piece

    def piece(self, x: Tensor, objective: Objective, most: int) -> Piece:
        """The affine function around x, with the `most` unstable neurons that are nearest to a bend."""
        chosen = self._nearest(x, most)
        count = sum(map(len, chosen.values()))
        copies = x.expand(count + 1, *x.shape[1:]).clone().requires_grad_(True)  # one for each row, the last: margin
        values, read, taken = [copies], list[Tensor](), dict[int, Tensor]()
        for i, node in enumerate(self.graph.nodes[1:], start=1):
            inputs = [values[k] for k in node.inputs]
            if i in self.ops:
                taken[i] = self._on_pieces(i, inputs[0])
                read.append(inputs[0].flatten(1)[:, chosen[i]])
            values.append(taken[i] if i in self.ops else node.op.forward(*inputs))
        margin, z = objective(values[-1])[-1], torch.cat(read, 1)
        returned = torch.autograd.grad(margin, list(taken.values()), retain_graph=True, materialize_grads=True)
        (slopes,) = torch.autograd.grad(margin + z.diagonal().sum(), copies)
        weights = [g[-1].flatten()[chosen[i]] for i, g in zip(taken, returned, strict=True)]
        ends, jumps = zip(*(self._borders(i, chosen[i]) for i in self.ops), strict=True)
        return Piece(
            x.flatten().numpy(),
            float(margin.detach()),
            slopes[-1].flatten().numpy(),
            [(i, k) for i, neurons in chosen.items() for k in neurons.tolist()],
            z[-1].detach().numpy(),
            slopes[:-1].flatten(1).numpy(),
            torch.cat(ends).numpy(),
            (torch.cat(jumps) * torch.cat(weights).unsqueeze(1)).numpy(),
        )

    def cross(self, piece: Piece, multipliers: np.ndarray) -> bool:
        """Cross borders of the piece, to which `multipliers` (rows,) hold the margin; False where it only rises beyond.

        Those beyond which it falls the most, half of them: the others may look different from there.
        """
        above = multipliers < 0
        falls = np.abs(multipliers) - np.where(above, piece.kinks[:, 1], piece.kinks[:, 0])
        falls[np.abs(multipliers) <= SMALLEST] = 0
        count = int((falls > SMALLEST).sum())
        for row in np.argsort(-falls)[: (count + 1) // 2].tolist():
            i, k = piece.neurons[row]
            self.pieces[i][k] += 1 if above[row] else -1
        return count > 0

    def _distance(self, i: int, values: list[Tensor]) -> Tensor:
        """How far what each neuron reads lies above each bend, (neurons, bends)."""
        z = values[self.reads[i]].flatten()
        return z.unsqueeze(1) - z.new_tensor(self.ops[i].breakpoints)

    def _nearest(self, x: Tensor, most: int) -> dict[int, Tensor]:
        """By activation, the neurons that are nearest to a bend, relative to their range."""
        values = self.graph.values(x)
        near = {
            i: self._distance(i, values)[own].abs().amin(1) / self.width[i][own] for i, own in self.unstable.items()
        }
        ranked = torch.cat(list(near.values())).sort().values
        last = float(ranked[most]) if len(ranked) > most else math.inf
        return {i: own[near[i] < last] for i, own in self.unstable.items()}

    def _on_pieces(self, i: int, z: Tensor) -> Tensor:
        """What an activation returns for z (batch, *shape) on its pieces, continued beyond their ends."""
        op, piece = self.ops[i], self.pieces[i].view(z.shape[1:])
        anchor = z.new_tensor(op.breakpoints)[(piece - 1).clamp(min=0)]
        return op.forward(anchor) + z.new_tensor(op.slopes)[piece] * (z - anchor)

    def _borders(self, i: int, neurons: Tensor) -> tuple[Tensor, Tensor]:
        """The ends of the pieces of some neurons, (k, 2), and how much faster they rise beyond them, (k, 2).

        Beyond the lower end they are followed downwards.
        """
        op, piece, width = self.ops[i], self.pieces[i][neurons], self.width[i]
        ends = width.new_tensor([-math.inf, *op.breakpoints, math.inf])
        slopes = width.new_tensor(op.slopes)
        own, below, above = (
            slopes[piece],
            slopes[(piece - 1).clamp(min=0)],
            slopes[(piece + 1).clamp(max=len(slopes) - 1)],
        )
        return torch.stack((ends[piece], ends[piece + 1]), 1), torch.stack((own - below, above - own), 1)
