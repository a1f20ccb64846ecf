"""Bounds by linear programs, one or two per neuron (Ehlers 2017; progressive tightening as in Tjeng et al. 2019)."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from verifier.bounds.crown import DEFAULT_MEMORY, Crown, tightened, unstable_rows
from verifier.bounds.interval import is_exact, propagate, read_by_activations
from verifier.encoding import Encoder
from verifier.graph import Graph
from verifier.ops.base import Activation
from verifier.program import Solution, SolveOptions
from verifier.solvers import get
from verifier.types import Bounds, Box, Interval

CLOCK_STEP = 32  # solves between looks at the clock; the first of each group starts without a basis


@dataclass(frozen=True)
class LpBounds:
    """The triangle relaxation minimised and maximised for every unstable neuron, layer by layer, then for C . output.

    Starts from CROWN. integer: the big-M MILP instead, which is exact for piecewise-linear networks.
    solver: see `verifier.solvers`. neuron_seconds: limit of one neuron's solve. deadline: time.monotonic() after which
    neurons keep the bounds they have.
    """

    solver: str = "highs"
    integer: bool = False
    neuron_seconds: float | None = None
    deadline: float = float("inf")
    memory: int = DEFAULT_MEMORY

    def __call__(self, graph: Graph, box: Box, C: Tensor) -> Bounds:
        """Bounds of C . output, C (batch or 1, spec, outputs), over the input set `box`; on the CPU in float64."""
        start = Crown(memory=self.memory)(graph, box, C)
        exact = graph.to(torch.float64, "cpu")
        singles = [
            self._one(
                exact,
                box.select(slice(i, i + 1)).to("cpu", torch.float64),
                C.expand(box.batch, -1, -1)[i],
                {n: z.select(slice(i, i + 1)).to("cpu", torch.float64) for n, z in start.nodes.items()},
            )
            for i in range(box.batch)
        ]
        nodes = {
            n: Interval(
                *(torch.cat([getattr(s.nodes[n], side) for s in singles]).to(z.lower) for side in ("lower", "upper"))
            )
            for n, z in start.nodes.items()
        }
        lower, upper = (torch.cat([getattr(s, side) for s in singles]).to(start.lower) for side in ("lower", "upper"))
        return Bounds(torch.maximum(lower, start.lower), torch.minimum(upper, start.upper), nodes)

    def _one(self, graph: Graph, box: Box, C: Tensor, known: dict[int, Interval]) -> Bounds:
        """Bounds for one input set."""
        encoder = Encoder(graph, box, self.integer)
        skip, readers = is_exact(graph, box), read_by_activations(graph)
        encoded = 0

        def refine(node: int, z: Interval, nodes: dict[int, Interval]) -> Interval:
            nonlocal encoded
            z = Interval(torch.fmax(z.lower, known[node].lower), torch.fmin(z.upper, known[node].upper))
            while encoded < node:  # every activation below this node has its bounds by now
                encoded += 1
                if isinstance(graph.nodes[encoded].op, Activation):
                    encoder.add_activation(encoded, nodes[graph.nodes[encoded].inputs[0]])
            index, counts = unstable_rows(z, readers[node])
            if skip[node] or not index.shape[1]:
                return z
            matrix, constant = encoder.forms(node, index.squeeze(0).numpy())
            lower, upper = self._extremes(encoder, matrix.toarray(), constant)
            return tightened(z, index, counts, lower.unsqueeze(0), upper.unsqueeze(0))

        _, nodes = propagate(graph, box, refine)
        for index in range(encoded + 1, len(graph.nodes)):
            if isinstance(graph.nodes[index].op, Activation):
                encoder.add_activation(index, nodes[graph.nodes[index].inputs[0]])
        matrix, constant = encoder.output_forms(C, C.new_zeros(len(C)))
        lower, upper = self._extremes(encoder, matrix.toarray(), constant)
        return Bounds(lower.unsqueeze(0), upper.unsqueeze(0), nodes)

    def _extremes(self, encoder: Encoder, rows: np.ndarray, constant: np.ndarray) -> tuple[Tensor, Tensor]:
        """Proved bounds of linear forms over the columns; -inf and inf where the solver proved none in time."""
        program, solver = encoder.program(np.zeros(encoder.size)), get(self.solver)
        costs, bounds = np.concatenate((rows, -rows)), np.full(2 * len(rows), -math.inf)
        step = len(costs) if self.deadline == math.inf else CLOCK_STEP
        for start in range(0, len(costs), step):
            remaining = self.deadline - time.monotonic()
            if not remaining > 0:
                break
            limit = min(remaining, math.inf if self.neuron_seconds is None else self.neuron_seconds)
            options = SolveOptions(time_limit=None if limit == math.inf else limit)
            solutions = solver.minimise_many(program, costs[start : start + step], options)
            bounds[start : start + step] = [self._proved(s) for s in solutions]
        lower, negated_upper = np.split(bounds, 2)
        return torch.from_numpy(constant + lower), torch.from_numpy(constant - negated_upper)

    def _proved(self, solution: Solution) -> float:
        """The bound of one solve if it counts, else -inf: an LP's must follow from multipliers.

        Runs of the network satisfy the program, so that "infeasible" (a bound of inf) is an error of the solver.
        """
        counts = solution.bound < math.inf and (self.integer or solution.row_duals is not None)
        return solution.bound if counts else -math.inf
