"""The last step: a subdomain whose neurons are all on one piece is one linear program."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from verifier.encoding import Encoder
from verifier.errors import SpecificationError
from verifier.graph import Graph
from verifier.ops.base import Activation
from verifier.program import LinearProgram, SolveOptions, Status
from verifier.solvers import get
from verifier.types import Box, Interval

EMPTY = 1e-6  # the least total violation that counts; far above rounding


def close_by_lp(
    graph: Graph,
    region: Box,
    nodes: Mapping[int, Interval],
    split: Mapping[int, Tensor],
    C: Tensor,
    d: Tensor,
    deadline: float,
) -> tuple[float, Tensor | None]:
    """The margin bound of one subdomain by the LP with its splits as rows, and the LP's input (1, *input_shape).

    nodes: bounds inside the subdomain of what activations read. split: by node, flat positions of neurons that were
    split. C, d: the rows of the unsafe set. The bound is that of the LP's multipliers, by weak duality: inf when these
    show that the subdomain is empty, -inf when there are none or the region is no polytope.
    """
    exact, box = graph.to(torch.float64, "cpu"), region.to("cpu", torch.float64)
    try:
        encoder = Encoder(exact, box, integer=False)
    except SpecificationError:
        return -math.inf, None
    bounds = {n: z.to("cpu", torch.float64) for n, z in nodes.items()}
    for place, node in enumerate(exact.nodes):
        if isinstance(node.op, Activation):
            encoder.add_activation(place, bounds[node.inputs[0]])
    for read, positions in split.items():
        index = positions.cpu().numpy()
        if index.size:
            matrix, constant = encoder.forms(read, index)
            lower, upper = (side.flatten().numpy()[index] for side in (bounds[read].lower, bounds[read].upper))
            encoder.add_rows([], lower - constant, upper - constant, matrix)
    matrix, constant = encoder.output_forms(C.to("cpu", torch.float64), d.to("cpu", torch.float64))
    low, high = encoder.range_of(matrix, constant)
    margin = encoder.add_columns([low.max()], [high.max()], lambda values: np.zeros(1))
    encoder.add_rows([(margin, np.full((len(constant), 1), -1.0))], -math.inf, -constant, matrix)
    cost = np.zeros(encoder.size)
    cost[margin] = 1.0
    program = encoder.program(cost)
    options = SolveOptions(time_limit=max(deadline - time.monotonic(), 0.01))
    solution = get("highs").solve(program, options)
    if solution.status is Status.INFEASIBLE:
        return (math.inf if is_empty(program, options) else -math.inf), None
    bound = solution.bound if solution.row_duals is not None else -math.inf  # a solver's word alone is no bound
    if solution.x is None:
        return bound, None
    shape = exact.input_shape
    point = torch.from_numpy(solution.x[: int(np.prod(shape))]).view(1, *shape)
    return bound, region.project(point.to(region.lower))


def is_empty(program: LinearProgram, options: SolveOptions) -> bool:
    """Whether multipliers prove that no point is feasible: the least total violation of the rows is positive."""
    if (program.lower > program.upper).any():
        return True
    rows, columns = program.matrix.shape
    reach = abs(program.matrix) @ np.maximum(np.abs(program.lower), np.abs(program.upper))
    sides = np.stack([np.where(np.isfinite(s), np.abs(s), 0.0) for s in (program.row_lower, program.row_upper)])
    slack = sparse.eye_array(rows, format="csr")
    elastic = LinearProgram(
        cost=np.concatenate([np.zeros(columns), np.ones(2 * rows)]),
        lower=np.concatenate([program.lower, np.zeros(2 * rows)]),
        upper=np.concatenate([program.upper, np.tile(reach + sides.max(0), 2)]),
        matrix=sparse.hstack([program.matrix, slack, -slack], format="csr"),
        row_lower=program.row_lower,
        row_upper=program.row_upper,
    )
    solution = get("highs").solve(elastic, options)
    return solution.status is Status.OPTIMAL and solution.row_duals is not None and solution.bound > EMPTY
