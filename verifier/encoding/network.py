"""The network as columns and rows: the triangle relaxation (Ehlers 2017) or big-M (Tjeng et al. 2019).

Columns stand for the inputs and, per activation, for its unstable and its active neurons; inactive neurons vanish.
Affine ops between them are merged into rows, whatever the shape of the graph. Every piecewise-linear activation is a
sum of hinges relu(z - t); a smooth one is kept between lines, so that its program is a relaxation.
"""

from __future__ import annotations

import math

import numpy as np
import scipy
import torch
from torch import Tensor

from verifier.bounds.backward import pull_back, start_rows
from verifier.encoding.builder import Builder, widened
from verifier.errors import SpecificationError
from verifier.graph import Graph
from verifier.ops.base import Activation, PiecewiseLinear
from verifier.ops.patches import dense
from verifier.types import Ball, Box, Interval

ROW_CHUNK = 512


class Encoder(Builder):
    """Builds a program activation by activation.

    graph must be float64 on the CPU, `box` of batch one. integer: big-M with binary columns, else the triangle. exact:
    whether feasible points are runs of the network so far. inputs: the columns of the input.
    Raises SpecificationError for an l2 ball, which no linear program can hold.
    """

    def __init__(self, graph: Graph, box: Box, integer: bool) -> None:
        if isinstance(box, Ball) and box.norm == 2:
            way_out = "use --method crown or alpha, or --norm linf or l1"
            raise SpecificationError(f"an l2 ball has no linear encoding: {way_out}")
        super().__init__()
        self.graph, self.integer, self.exact = graph, integer, integer
        self._columns: dict[int, np.ndarray] = {}  # by node: a column per neuron, -1 where it is constant
        self._constants: dict[int, np.ndarray] = {}  # by node: the values of constant neurons, else 0
        self.inputs = self._add_input(box)

    def _add_input(self, box: Box) -> np.ndarray:
        """The columns of the input."""
        lower, upper = _flat(box.lower), _flat(box.upper)
        x = self.add_columns(lower, upper, lambda values: values[0])
        self._columns[0], self._constants[0] = x, np.zeros(len(x))
        if isinstance(box, Ball):
            step = self.add_distance(x, _flat(box.origin), np.maximum(upper - lower, 0))
            self.add_rows([(step, np.ones((1, len(step))))], -math.inf, float(box.eps[0]))
        return x

    def add_distance(self, x: np.ndarray, origin: np.ndarray, reach: np.ndarray) -> np.ndarray:
        """Columns that are at least |x - origin|, elementwise."""
        step = self.add_columns(np.zeros(len(x)), reach, lambda values: np.abs(values[0] - origin))
        self.add_rows([(step, 1.0), (x, -1.0)], -origin, math.inf)
        self.add_rows([(step, 1.0), (x, 1.0)], origin, math.inf)
        return step

    def forms(self, node: int, index: np.ndarray) -> tuple[scipy.sparse.csr_array, np.ndarray]:
        """Neurons `index` of a node as linear forms: a matrix (len(index), columns so far) and constants."""
        matrices, constants = [scipy.sparse.csr_array((0, self.size))], [np.zeros(0)]
        for chunk in np.array_split(index, max(1, math.ceil(len(index) / ROW_CHUNK))):
            if len(chunk):
                rows = torch.from_numpy(chunk).to(self.graph.device).unsqueeze(0)
                matrix, offset = self._over_columns(*start_rows(self.graph, node, rows, self.graph.dtype))
                matrices.append(matrix)
                constants.append(offset)
        return scipy.sparse.csr_array(scipy.sparse.vstack(matrices)), np.concatenate(constants)

    def output_forms(self, C: Tensor, d: Tensor) -> tuple[scipy.sparse.csr_array, np.ndarray]:
        """The rows `C y + d` of the output y as linear forms, as in `forms`."""
        A = C.to(self.graph.dtype).reshape(1, len(C), *self.graph.output_shape)
        return self._over_columns({self.graph.output: A}, d.to(self.graph.dtype).unsqueeze(0))

    def _over_columns(self, form: dict, constant: Tensor) -> tuple[scipy.sparse.csr_array, np.ndarray]:
        """Forms over nodes, rewritten over the columns of their inputs and activations."""
        sources, constant = pull_back(self.graph, form, constant, {})
        offset = constant.squeeze(0).numpy().copy()
        matrix = scipy.sparse.csr_array((len(offset), self.size))
        for source, A in sources.items():
            values = dense(A).flatten(2).squeeze(0).numpy()
            offset += values @ self._constants[source]
            kept = np.flatnonzero(self._columns[source] >= 0)
            block = scipy.sparse.coo_array(values[:, kept])
            columns = self._columns[source][kept][block.coords[1]]
            matrix += scipy.sparse.csr_array((block.data, (block.coords[0], columns)), shape=matrix.shape)
        return matrix, offset

    def add_activation(self, node: int, z: Interval) -> None:
        """Append the activation at `node`, whose input has the bounds z."""
        op, read = self.graph.nodes[node].op, self.graph.nodes[node].inputs[0]
        assert isinstance(op, Activation)
        l, u = _flat(z.lower), _flat(z.upper)
        unstable = _flat(op.unstable(z)).astype(bool)
        columns, constants = np.full(len(l), -1), np.zeros(len(l))
        slope, offset = _stable_piece(op, l)
        constant = ~unstable & (slope == 0)
        constants[constant] = offset[constant]
        active = np.flatnonzero(~unstable & (slope != 0))
        if len(active):
            columns[active] = self._add_active(node, read, active, slope[active], offset[active], l, u)
        rest = np.flatnonzero(unstable)
        if len(rest):
            part = Interval(torch.from_numpy(l[rest]), torch.from_numpy(u[rest]))
            pre = self.add_columns(l[rest], u[rest], lambda values: values[read][rest])
            forms, at_zero = self.forms(read, rest)
            self.add_rows([(pre, -1.0)], -at_zero, -at_zero, forms)
            columns[rest] = self._add_unstable(node, op, rest, pre, part)
        self._columns[node], self._constants[node] = columns, constants

    def _add_active(
        self,
        node: int,
        read: int,
        index: np.ndarray,
        slope: np.ndarray,
        offset: np.ndarray,
        l: np.ndarray,
        u: np.ndarray,
    ) -> np.ndarray:
        """Columns of neurons on one linear piece with a slope: equal to a linear form."""
        ends = slope * l[index] + offset, slope * u[index] + offset
        post = self.add_columns(np.minimum(*ends), np.maximum(*ends), lambda values: values[node][index])
        forms, at_zero = self.forms(read, index)
        side = -(slope * at_zero + offset)
        self.add_rows([(post, -1.0)], side, side, scipy.sparse.csr_array(scipy.sparse.diags_array(slope) @ forms))
        return post

    def _add_unstable(self, node: int, op: Activation, index: np.ndarray, pre: np.ndarray, z: Interval) -> np.ndarray:
        """Columns of the activation of neurons with the columns `pre` and the bounds z (k,)."""
        if not isinstance(op, PiecewiseLinear):
            return self._add_between_lines(node, op, index, pre, z)
        l, u, read = z.lower.numpy(), z.upper.numpy(), self.graph.nodes[node].inputs[0]
        if op.breakpoints == (0.0,) and op.slopes == (0.0, 1.0):
            return self._add_hinge(read, index, pre, 0.0, l, u)
        span = op.interval(z)
        post = self.add_columns(span.lower.numpy(), span.upper.numpy(), lambda values: values[node][index])
        slope, offset = _stable_piece(op, l)
        terms: list[tuple[np.ndarray, np.ndarray | float]] = [(post, -1.0), (pre, slope)]
        hinges = scipy.sparse.csr_array((len(index), self.size))
        for point, before, after in zip(op.breakpoints, op.slopes[:-1], op.slopes[1:], strict=True):
            inside = np.flatnonzero((l < point) & (point < u))
            if len(inside):
                hinge = self._add_hinge(read, index[inside], pre[inside], point, l[inside], u[inside])
                jump = np.full(len(inside), after - before)
                added = scipy.sparse.csr_array((jump, (inside, hinge)), shape=(len(index), self.size))
                hinges = scipy.sparse.csr_array(widened(hinges, self.size) + added)
        self.add_rows(terms, -offset, -offset, hinges)
        bends = sum((l < point) & (point < u) for point in op.breakpoints)
        several = np.flatnonzero(bends > 1)  # here triangles of single hinges are looser than the lines of the whole op
        if len(several):
            part = Interval(z.lower[several], z.upper[several])
            self._add_lines(op, pre[several], post[several], part, (0.0, 1.0))
        return post

    def _add_hinge(
        self, read: int, index: np.ndarray, pre: np.ndarray, point: float, l: np.ndarray, u: np.ndarray
    ) -> np.ndarray:
        """Columns h = relu(z - point) for neurons with l < point < u."""
        hinge = self.add_columns(np.zeros(len(l)), u - point, lambda v: np.maximum(v[read][index] - point, 0))
        self.add_rows([(hinge, 1.0), (pre, -1.0)], -point, math.inf)
        if self.integer:
            on = self.add_columns(
                np.zeros(len(l)), np.ones(len(l)), lambda v: (v[read][index] > point).astype(float), binary=True
            )
            self.add_rows([(hinge, 1.0), (pre, -1.0), (on, point - l)], -math.inf, -l)
            self.add_rows([(hinge, 1.0), (on, point - u)], -math.inf, 0.0)
        else:
            slope = (u - point) / (u - l)
            self.add_rows([(hinge, 1.0), (pre, -slope)], -math.inf, -slope * l)
        return hinge

    def _add_between_lines(
        self, node: int, op: Activation, index: np.ndarray, pre: np.ndarray, z: Interval
    ) -> np.ndarray:
        """Columns of a smooth activation, held between its flattest, middle and steepest lines."""
        self.exact = False
        span = op.interval(z)
        post = self.add_columns(span.lower.numpy(), span.upper.numpy(), lambda values: values[node][index])
        self._add_lines(op, pre, post, z, (0.0, 0.5, 1.0))
        return post

    def _add_lines(
        self, op: Activation, pre: np.ndarray, post: np.ndarray, z: Interval, choices: tuple[float, ...]
    ) -> None:
        """Rows that hold `post` between the lines that `op` has for some of its parameters."""
        for choice in choices:
            lines = op.relax(z, torch.full((op.parameters, *z.lower.shape), choice, dtype=z.lower.dtype))
            for slope, offset, sides in (
                (lines.lower_slope, lines.lower_offset, (1.0, math.inf)),
                (lines.upper_slope, lines.upper_offset, (-math.inf, 1.0)),
            ):
                level = np.zeros(len(pre)) if offset is None else offset.numpy()
                lower, upper = (level if side == 1.0 else side for side in sides)
                self.add_rows([(post, 1.0), (pre, -slope.numpy())], lower, upper)


def _stable_piece(op: Activation, l: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Slope and offset of the linear piece that starts at or holds l; zeros for smooth activations."""
    if not isinstance(op, PiecewiseLinear):
        return np.zeros(len(l)), op.forward(torch.from_numpy(l)).numpy()
    piece = np.searchsorted(np.array(op.breakpoints), l, side="right")
    slope = np.array(op.slopes)[piece]
    return slope, op.forward(torch.from_numpy(l)).numpy() - slope * l


def _flat(tensor: Tensor) -> np.ndarray:
    """A tensor of batch one as a flat array, float64 unless boolean."""
    flat = tensor.detach().cpu().flatten()
    return flat.numpy() if flat.dtype == torch.bool else flat.double().numpy()
