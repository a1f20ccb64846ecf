"""The network as matrices between the neurons that are alive: all but those whose output is zero over the region.

Between two activations a network is affine. Restricted to living neurons these pieces are small and, for convolutions,
sparse matrices, which a batch of subdomains multiplies faster than the ops run. Everything is laid out with the batch
as the last axis; the units come first among the living neurons of their layer.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from verifier.bounds.backward import pull_back, start_rows
from verifier.bounds.crown import unsqueezed
from verifier.graph import Graph
from verifier.ops.base import Activation
from verifier.ops.patches import dense
from verifier.search.evaluator import Backward, Coordinates, GraphEvaluator, choose
from verifier.search.units import Lines, Units, Values
from verifier.types import Box, Interval

SPARSE = 1 / 6  # the density below which a sparse product is faster than a dense one, on a CPU
CHUNK = 1 << 25  # coefficients that are pulled back together
LARGEST = 1 << 28  # coefficients of the whole network, beyond which it is not turned into matrices

INPUT = 0  # the node


class Matrix(NamedTuple):
    """A matrix M and its transpose, both dense or both in compressed rows."""

    M: Tensor
    transposed: Tensor

    @classmethod
    def of(cls, M: Tensor) -> Matrix:
        """Of a dense one, in the form that is multiplied faster."""
        if M.is_cuda or int((M != 0).sum()) > SPARSE * M.numel():
            return cls(M, M.T)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
            return cls(M.to_sparse_csr(), M.T.to_sparse_csr())

    def to(self, dtype: torch.dtype) -> Matrix:
        return Matrix(self.M.to(dtype), self.transposed.to(dtype))


@dataclass(frozen=True, eq=False)
class Segment:
    """The affine piece that ends in some neurons: b (k,), and a matrix (k, living) by the activation that it reads.

    The matrix of the input has the region's own coordinates.
    """

    sources: Mapping[int, Matrix]
    b: Tensor

    def to(self, dtype: torch.dtype) -> Segment:
        return Segment({i: m.to(dtype) for i, m in self.sources.items()}, self.b.to(dtype))

    def forward(self, values: Mapping[int, Tensor]) -> Tensor:
        """The neurons (k, n) for values (living, n) by activation."""
        result = self.b.unsqueeze(1).expand(-1, values[INPUT].shape[1])
        for i, matrix in self.sources.items():
            result = torch.addmm(result, matrix.M, values[i])
        return result if self.sources else result.clone()

    def backward(self, e: Tensor, pending: dict[int, Tensor]) -> Tensor:
        """Add what coefficients e (k, n) give to those of the sources; returns the constants (n,)."""
        for i, matrix in self.sources.items():
            pending[i] = torch.addmm(pending[i], matrix.transposed, e) if i in pending else matrix.transposed @ e
        return self.b @ e


@dataclass(frozen=True, eq=False)
class Layer:
    """One activation: what it reads, and the lines of its decided neurons, which come after its units.

    living: (living,), the flat positions of the neurons that count, in this order. slope, offset: (decided, 1); None
    where all slopes are one, or all offsets zero. above: planes above its units, over what these are computed from.
    """

    activation: int
    living: Tensor
    part: slice
    read: Segment
    slope: Tensor | None
    offset: Tensor | None
    above: Segment | None = None

    @property
    def count(self) -> int:
        """How many units there are."""
        return self.part.stop - self.part.start

    def to(self, dtype: torch.dtype) -> Layer:
        slope, offset = (None if side is None else side.to(dtype) for side in (self.slope, self.offset))
        above = None if self.above is None else self.above.to(dtype)
        return replace(self, read=self.read.to(dtype), slope=slope, offset=offset, above=above)


@dataclass(frozen=True, eq=False)
class SegmentEvaluator:
    """Layers in the order of the graph, then the outputs, which may be any neurons of a node above them."""

    units: Units
    coordinates: Coordinates
    layers: tuple[Layer, ...]
    output: Segment

    def to(self, dtype: torch.dtype) -> SegmentEvaluator:
        """The same in another precision."""
        layers = tuple(layer.to(dtype) for layer in self.layers)
        return replace(self, coordinates=self.coordinates.to(dtype), layers=layers, output=self.output.to(dtype))

    def backward(self, lines: Lines, gamma: Tensor, paid: Tensor, c: Tensor) -> Backward:
        pending: dict[int, Tensor] = {}
        lines = Lines(*(None if side is None else side.T.contiguous() for side in lines))  # type: ignore[arg-type]
        gamma, e = gamma.T.contiguous(), c.T.contiguous()
        v, slope, offset = (torch.empty_like(gamma) for _ in range(3))
        share = None if lines.share is None else torch.zeros_like(gamma)
        constant = self.output.backward(e, pending) - paid
        for layer in reversed(self.layers):
            part, count = layer.part, layer.count
            if layer.activation in pending:
                e = pending.pop(layer.activation)
            elif count:  # nothing above reads these units, but gamma still presses on them
                e = gamma.new_zeros(len(layer.read.b), gamma.shape[1])
            else:
                continue
            if layer.offset is not None:
                constant = constant + layer.offset.squeeze(1) @ e[count:]
            if layer.slope is not None:
                e[count:] *= layer.slope
            if count:
                v[part] = e[:count]
                choose(lines.at(part), v[part], slope[part], offset[part])
                torch.addcmul(gamma[part], slope[part], v[part], out=e[:count])
                if layer.above is not None and share is not None:
                    assert lines.share is not None
                    torch.mul(lines.share[part], v[part] < 0, out=share[part])
                    constant = constant + layer.above.backward(share[part] * v[part], pending)
            constant = constant + layer.read.backward(e, pending)
        constant = constant + (v * offset).sum(0)
        A = pending[INPUT].T if INPUT in pending else c.new_zeros(len(c), self.coordinates.count)
        least, x = self.coordinates.least(A)
        return Backward(constant + least, v.T.contiguous(), slope.T, offset.T, x, None if share is None else share.T)

    def forward(self, back: Backward) -> Values:
        return self.traced(back)[0]

    def traced(self, back: Backward) -> tuple[Values, dict[int, Tensor]]:
        """What `forward` returns, and the values (living, n) of the input and of all activations."""
        # `backward` lays out what it hands back as it is read here, unless some of it was selected.
        values = {INPUT: back.x.T.contiguous()}
        slope, offset = back.slope.T.contiguous(), back.offset.T.contiguous()
        z = torch.empty_like(slope)
        share = None if back.share is None else back.share.T.contiguous()
        planes = None if share is None else torch.zeros_like(z)
        for layer in self.layers:
            a, part, count = layer.read.forward(values), layer.part, layer.count
            if count:
                z[part] = a[:count]
                torch.addcmul(offset[part], slope[part], z[part], out=a[:count])
                if layer.above is not None and share is not None and planes is not None:
                    planes[part] = layer.above.forward(values)
                    a[:count].addcmul_(share[part], planes[part])
            if layer.slope is not None:
                a[count:] *= layer.slope
            if layer.offset is not None:
                a[count:] += layer.offset
            values[layer.activation] = a
        outputs = self.output.forward(values).T.contiguous()
        return Values(z.T.contiguous(), outputs, None if planes is None else planes.T.contiguous()), values

    def points(self, x: Tensor) -> Tensor:
        return self.coordinates.points(x)


class Matrices:
    """The matrices of a network, made activation by activation as the bounds of what these read become known."""

    def __init__(self, graph: Graph, region: Box) -> None:
        self.graph, self.coordinates = graph, Coordinates(region)
        self._layers: list[Layer] = []
        self._living: dict[int, Tensor] = {}
        self._size = 0

    @property
    def too_large(self) -> bool:
        """Whether the network is better left as it is."""
        return self._size > LARGEST

    def add(self, activation: int, z: Interval, units: Units) -> None:
        """The next activation of the graph, bounds z (batch one) of what it reads, and the units up to it."""
        op, read = self.graph.nodes[activation].op, self.graph.nodes[activation].inputs[0]
        assert isinstance(op, Activation)
        lines = op.relax(unsqueezed(z), op.initial(unsqueezed(z), "adaptive"))
        slope = lines.lower_slope.flatten()
        offset = torch.zeros_like(slope) if lines.lower_offset is None else lines.lower_offset.flatten()
        block = next((b for b in units.blocks if b.activation == activation), None)
        own, part = (slope.new_zeros(0).long(), slice(0, 0)) if block is None else (block.positions, block.part)
        alive = (slope != 0) | (offset != 0)
        alive[own] = False
        others = alive.nonzero().squeeze(1)
        living = torch.cat((own, others))
        self._living[activation] = living
        self._size += len(living) * max(self.graph.nodes[i].size for i in range(read + 1))
        if not self.too_large:
            steep, high = slope[others].unsqueeze(1), offset[others].unsqueeze(1)
            kept = (None if bool((steep == 1).all()) else steep, high if bool((high != 0).any()) else None)
            self._layers.append(Layer(activation, living, part, self._segment(read, living), *kept))

    def evaluator(self, units: Units, target: int, outputs: Tensor) -> SegmentEvaluator | None:
        """For the flat positions `outputs` of a node, all activations below which were added; None if too large."""
        if self.too_large:
            return None
        return SegmentEvaluator(units, self.coordinates, tuple(self._layers), self._segment(target, outputs))

    def _segment(self, node: int, positions: Tensor) -> Segment:
        """The affine piece from the living neurons of the activations below to neurons of a node."""
        graph = self.graph
        if not len(positions):
            return Segment({}, torch.zeros(0, dtype=graph.dtype, device=graph.device))
        chunk = max(1, CHUNK // max(n.size for n in graph.nodes[: node + 1]))
        parts: dict[int, list[Tensor]] = {}
        constants = []
        for rows in positions.split(chunk):
            form, constant = start_rows(graph, node, rows.unsqueeze(0), graph.dtype)
            sources, constant = pull_back(graph, form, constant, {})
            constants.append(constant.squeeze(0))
            for i, A in sources.items():
                own = dense(A).reshape(len(rows), -1)
                parts.setdefault(i, []).append(own if i == INPUT else own[:, self._living[i]])
        b, matrices = torch.cat(constants), dict[int, Matrix]()
        for i, blocks in parts.items():
            M = torch.cat(blocks)
            if i == INPUT:
                M, b = self.coordinates.scaled(M, b)
            if M.numel() and bool((M != 0).any()):
                matrices[i] = Matrix.of(M.contiguous())
        return Segment(matrices, b)


def for_graph(
    graph: Graph, region: Box, nodes: Mapping[int, Interval], units: Units
) -> SegmentEvaluator | GraphEvaluator:
    """The evaluator of a whole network: of its matrices, or of its ops where those would be too large."""
    matrices = Matrices(graph, region)
    for index, node in enumerate(graph.nodes):
        if isinstance(node.op, Activation):
            matrices.add(index, nodes[node.inputs[0]], units)
    outputs = torch.arange(graph.nodes[-1].size, device=graph.device)
    return matrices.evaluator(units, graph.output, outputs) or GraphEvaluator.of(graph, region, nodes, units)
