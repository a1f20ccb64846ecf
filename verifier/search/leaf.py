"""The last step: a subdomain whose neurons are all on one piece is one linear program."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import scipy
import torch
from torch import Tensor

from verifier.bounds.backward import pull_back, start_rows
from verifier.bounds.crown import unsqueezed
from verifier.encoding import Encoder
from verifier.errors import SpecificationError
from verifier.graph import Graph
from verifier.ops.base import Activation, Relaxation
from verifier.ops.patches import Coefficients, dense
from verifier.program import LinearProgram, SolveOptions, Status
from verifier.solvers import get
from verifier.types import Box, Interval

EMPTY = 1e-6  # the least total violation that counts; far above rounding


@dataclass(frozen=True)
class LeafBound:
    """What a linear program says of one subdomain.

    bound: of the margin, that of the multipliers: inf when these show that the subdomain is empty, -inf when there are
    none. point: the program's input (1, *input_shape). pressure: (rows,), multipliers of what was split, in the order
    in which it was given. weights: (rows,), of the rows of the unsafe set; zero where the subdomain is empty.
    """

    bound: float
    point: Tensor | None = None
    pressure: np.ndarray | None = None
    weights: np.ndarray | None = None


def close_by_lp(
    graph: Graph,
    region: Box,
    nodes: Mapping[int, Interval],
    split: Mapping[int, Tensor],
    C: Tensor,
    d: Tensor,
    deadline: float,
) -> LeafBound:
    """The margin bound of one subdomain by the LP over its inputs with its splits as rows.

    nodes: bounds inside the subdomain of what activations read. split: by node, flat positions of neurons that were
    split. C, d: the rows of the unsafe set. There is no bound where the region is no polytope.
    """
    exact, box = graph.to(torch.float64, "cpu"), region.to("cpu", torch.float64)
    try:
        encoder = Encoder(exact, box, integer=False)
    except SpecificationError:
        return LeafBound(-math.inf)
    forms = _DecidedForms(exact, nodes)
    first = encoder.row_count
    for read, positions in split.items():
        index = positions.cpu()
        if len(index):
            matrix, constant = forms(*start_rows(exact, read, index.unsqueeze(0), torch.float64))
            bounds = nodes[read].to("cpu", torch.float64)
            lower, upper = (side.flatten()[index].numpy() for side in (bounds.lower, bounds.upper))
            encoder.add_rows([], lower - constant, upper - constant, matrix)
    last = encoder.row_count
    A = C.to("cpu", torch.float64).reshape(1, len(C), *exact.output_shape)
    matrix, constant = forms({exact.output: A}, d.to("cpu", torch.float64).unsqueeze(0))
    low, high = encoder.range_of(matrix, constant)
    margin = encoder.add_columns([low.max()], [high.max()], lambda values: np.zeros(1))
    encoder.add_rows([(margin, np.full((len(constant), 1), -1.0))], -math.inf, -constant, matrix)
    cost = np.zeros(encoder.size)
    cost[margin] = 1.0
    program = encoder.program(cost)
    options = SolveOptions(time_limit=max(deadline - time.monotonic(), 0.01))
    solution = get("highs").solve(program, options)
    if solution.status is Status.INFEASIBLE:
        duals = violation_multipliers(program, options)
        if duals is None:
            return LeafBound(-math.inf)
        return LeafBound(math.inf, None, -duals[first:last], np.zeros(len(C)))
    duals = solution.row_duals
    bound = solution.bound if duals is not None else -math.inf  # a solver's word alone is no bound
    found = (None, None) if duals is None else (-duals[first:last], np.maximum(-duals[last:], 0))
    if solution.x is None:
        return LeafBound(bound, None, *found)
    shape = exact.input_shape
    point = torch.from_numpy(solution.x[: int(np.prod(shape))]).view(1, *shape)
    return LeafBound(bound, region.project(point.to(region.lower)), *found)


class _DecidedForms:
    """Forms over a network's nodes as forms over its inputs, where all neurons are decided: their lines are exact."""

    def __init__(self, graph: Graph, nodes: Mapping[int, Interval]) -> None:
        self.graph, self.lines = graph, dict[int, Relaxation]()
        for place, node in enumerate(graph.nodes):
            if isinstance(node.op, Activation):
                z = unsqueezed(nodes[node.inputs[0]].to("cpu", torch.float64))
                self.lines[place] = node.op.relax(z, node.op.initial(z, "adaptive"))

    def __call__(self, form: dict[int, Coefficients], constant: Tensor) -> tuple[scipy.sparse.csr_array, np.ndarray]:
        """A matrix (spec, inputs) and constants (spec,), for coefficients by node and constant (1, spec)."""
        sources, constant = pull_back(self.graph, form, constant, self.lines)
        inputs, count = self.graph.nodes[0].size, constant.shape[1]
        A = dense(sources[0]).reshape(count, inputs) if 0 in sources else torch.zeros(count, inputs)
        return scipy.sparse.csr_array(A.numpy()), constant[0].numpy()


def violation_multipliers(program: LinearProgram, options: SolveOptions) -> np.ndarray | None:
    """Multipliers of the rows that prove that no point is feasible: the least total violation is positive."""
    if (program.lower > program.upper).any():
        return np.zeros(len(program.row_lower))
    rows, columns = program.matrix.shape
    reach = abs(program.matrix) @ np.maximum(np.abs(program.lower), np.abs(program.upper))
    sides = np.stack([np.where(np.isfinite(s), np.abs(s), 0.0) for s in (program.row_lower, program.row_upper)])
    slack = scipy.sparse.eye_array(rows, format="csr")
    elastic = LinearProgram(
        cost=np.concatenate([np.zeros(columns), np.ones(2 * rows)]),
        lower=np.concatenate([program.lower, np.zeros(2 * rows)]),
        upper=np.concatenate([program.upper, np.tile(reach + sides.max(0), 2)]),
        matrix=scipy.sparse.hstack([program.matrix, slack, -slack], format="csr"),
        row_lower=program.row_lower,
        row_upper=program.row_upper,
    )
    solution = get("highs").solve(elastic, options)
    proved = solution.status is Status.OPTIMAL and solution.bound > EMPTY
    return solution.row_duals if proved else None
