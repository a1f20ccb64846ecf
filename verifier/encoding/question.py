"""The whole question as one program: the network, the unsafe sets and what is asked of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import scipy
import torch

from verifier.encoding.builder import Fill
from verifier.encoding.network import Encoder
from verifier.errors import SpecificationError
from verifier.graph import Graph
from verifier.ops.base import Activation
from verifier.program import LinearProgram
from verifier.spec.property import Property, Region
from verifier.types import Box, Interval

OBJECTIVES = ("feasibility", "margin", "distance")


@dataclass(frozen=True, eq=False)
class Encoding:
    """A program and how it speaks about the network.

    exact: its feasible points are runs of the network (a MILP without smooth activations), not a relaxation.
    """

    program: LinearProgram
    graph: Graph
    exact: bool
    fills: tuple[tuple[np.ndarray, Fill], ...]

    def input(self, x: np.ndarray) -> np.ndarray:
        """The network input (*input_shape) at a point x (n,) of the program."""
        return x[: math.prod(self.graph.input_shape)].reshape(self.graph.input_shape)

    def start(self, point: np.ndarray) -> np.ndarray:
        """The columns' values (n,) when the network runs on `point` (*input_shape): a MIP start."""
        x = torch.from_numpy(np.ascontiguousarray(point)).to(self.graph.dtype).unsqueeze(0)
        values = [v.flatten().double().numpy() for v in self.graph.values(x)]
        columns = np.zeros(self.program.cost.size)
        for index, fill in self.fills:
            columns[index] = fill(values)
        return np.clip(columns, self.program.lower, self.program.upper)


def encode(
    graph: Graph,
    box: Box,
    nodes: Mapping[int, Interval],
    prop: Property,
    integer: bool = True,
    objective: str = "margin",
) -> Encoding:
    """The question whether the network can be unsafe, as a program.

    graph, box, nodes: the network (float64, CPU), the input set (batch one) and the bounds of what activations read.
    objective: "feasibility" (is any unsafe output reachable), "margin" (the worst margin) or "distance" (the unsafe
    input closest to the centre of the ball). Raises SpecificationError where no linear program can say it.
    """
    if objective not in OBJECTIVES:
        raise SpecificationError(f"unknown objective '{objective}' (available: {', '.join(OBJECTIVES)})")
    encoder = Encoder(graph, box, integer)
    for index, node in enumerate(graph.nodes):
        if isinstance(node.op, Activation):
            encoder.add_activation(index, nodes[node.inputs[0]])
    margin = _add_unsafe(encoder, prop, asks_margin=objective == "margin")
    paid = _add_distance(encoder, prop.region) if objective == "distance" else margin
    cost = np.zeros(encoder.size)
    cost[paid] = 1.0
    return Encoding(encoder.program(cost), graph, encoder.exact, tuple(encoder.fills))


def _add_unsafe(encoder: Encoder, prop: Property, asks_margin: bool) -> np.ndarray:
    """Append the unsafe sets, joined by binary columns; returns the column of the margin where one is asked for."""
    forms = [encoder.output_forms(s.C, s.d) for s in prop.unsafe]
    ranges = [encoder.range_of(*form) for form in forms]
    chosen = _add_choice(encoder, prop) if len(forms) > 1 else None
    margin = np.zeros(0, dtype=int)
    least = min(low.max() for low, _ in ranges)
    if asks_margin:
        most = max(high.max() for _, high in ranges)
        margin = encoder.add_columns([least], [most], lambda values: _margins(prop, values).min(keepdims=True))
    for k, ((matrix, constant), (_, high)) in enumerate(zip(forms, ranges, strict=True)):
        rows = len(constant)
        terms: list[tuple[np.ndarray, np.ndarray | float]] = []
        slack = np.zeros(rows)  # what an unchosen set's rows are relaxed by
        if chosen is not None:
            slack = np.maximum(high - (least if asks_margin else 0.0), 0.0)
            terms.append((chosen[[k]], slack.reshape(-1, 1)))
        if asks_margin:
            terms.append((margin, np.full((rows, 1), -1.0)))
        encoder.add_rows(terms, -math.inf, slack - constant, matrix)
    return margin


def _add_choice(encoder: Encoder, prop: Property) -> np.ndarray:
    """Columns that sum to one, one per unsafe set: which of them the output is in."""
    count = len(prop.unsafe)
    chosen = encoder.add_columns(
        np.zeros(count),
        np.ones(count),
        lambda values: np.eye(count)[_margins(prop, values).argmin()],
        binary=encoder.integer,
    )
    encoder.add_rows([(chosen, np.ones((1, count)))], 1.0, 1.0)
    return chosen


def _add_distance(encoder: Encoder, region: Region) -> np.ndarray:
    """Append columns whose sum is the distance of the input from the region's centre."""
    if region.origin is None or region.eps is None or region.norm == 2:
        raise SpecificationError("the closest adversarial example needs an linf or l1 ball around an input")
    origin, x, reach = region.origin.astype(np.float64).flatten(), encoder.inputs, float(region.eps)
    if region.norm == 1:
        return encoder.add_distance(x, origin, np.full(len(x), reach))
    widest = encoder.add_columns([0.0], [reach], lambda values: np.abs(values[0] - origin).max(keepdims=True))
    ones = scipy.sparse.csr_array((np.ones(len(x)), (np.arange(len(x)), np.full(len(x), widest[0]))))
    encoder.add_rows([(x, -1.0)], -origin, math.inf, ones)
    encoder.add_rows([(x, 1.0)], origin, math.inf, ones)
    return widest


def _margins(prop: Property, values: list[np.ndarray]) -> np.ndarray:
    """The margin of every unsafe set at the output values[-1]."""
    output = torch.from_numpy(values[-1]).unsqueeze(0)
    return np.array([float(s.margin(output)) for s in prop.unsafe])
