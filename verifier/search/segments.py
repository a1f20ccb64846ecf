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
from verifier.search.units import Lines, Units
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
        return result

    def backward(self, e: Tensor, pending: dict[int, Tensor]) -> Tensor:
        """Add what coefficients e (k, n) give to those of the sources; returns the constants (n,)."""
        for i, matrix in self.sources.items():
            pending[i] = torch.addmm(pending[i], matrix.transposed, e) if i in pending else matrix.transposed @ e
        return self.b @ e


@dataclass(frozen=True, eq=False)
class Layer:
    """One activation: what it reads, and the lines (living, 1) of its decided neurons, zero at its units."""

    activation: int
    part: slice
    read: Segment
    slope: Tensor
    offset: Tensor | None

    def to(self, dtype: torch.dtype) -> Layer:
        offset = None if self.offset is None else self.offset.to(dtype)
        return replace(self, read=self.read.to(dtype), slope=self.slope.to(dtype), offset=offset)


@dataclass(frozen=True, eq=False)
class SegmentEvaluator:
    """Layers in the order of the graph, then the outputs."""

    units: Units
    coordinates: Coordinates
    layers: tuple[Layer, ...]
    output: Segment

    @classmethod
    def of(
        cls, graph: Graph, region: Box, nodes: Mapping[int, Interval], units: Units, target: int, outputs: Tensor
    ) -> SegmentEvaluator | None:
        """For bounds `nodes` of what activations read, and the units that these leave undecided below the outputs.

        outputs: flat positions in the node `target`. None where the matrices would be too large.
        """
        coordinates, living = Coordinates(region), dict[int, Tensor]()
        build, layers, size = _Builder(graph, coordinates, living), [], 0
        blocks = {b.activation: b for b in units.blocks}
        for index, node in enumerate(graph.nodes[: target + 1]):
            if not isinstance(node.op, Activation):
                continue
            read, block = node.inputs[0], blocks.get(index)
            z = unsqueezed(nodes[read])
            lines = node.op.relax(z, node.op.initial(z, "adaptive"))
            slope, offset = lines.lower_slope.flatten().clone(), torch.zeros_like(lines.lower_slope).flatten()
            if lines.lower_offset is not None:
                offset = lines.lower_offset.flatten().clone()
            own = block.positions if block is not None else outputs.new_zeros(0)
            slope[own] = offset[own] = 0
            others = ((slope != 0) | (offset != 0)).nonzero().squeeze(1)
            living[index] = torch.cat((own, others))
            size += len(living[index]) * max(graph.nodes[i].size for i in range(read + 1))
            if size > LARGEST:
                return None
            part = block.part if block is not None else slice(0, 0)
            kept = offset[living[index]].unsqueeze(1)
            layers.append(
                Layer(
                    index,
                    part,
                    build(read, living[index]),
                    slope[living[index]].unsqueeze(1),
                    kept if bool((kept != 0).any()) else None,
                )
            )
        return cls(units, coordinates, tuple(layers), build(target, outputs))

    def to(self, dtype: torch.dtype) -> SegmentEvaluator:
        """The same in another precision."""
        layers = tuple(layer.to(dtype) for layer in self.layers)
        return replace(self, coordinates=self.coordinates.to(dtype), layers=layers, output=self.output.to(dtype))

    @property
    def multiplications(self) -> float:
        """About how many dense ones one bound takes."""
        matrices = [m.M for s in (self.output, *(layer.read for layer in self.layers)) for m in s.sources.values()]
        return sum(M.numel() if M.layout == torch.strided else M.values().numel() / SPARSE for M in matrices)

    def backward(self, lines: Lines, gamma: Tensor, paid: Tensor, c: Tensor) -> Backward:
        pending: dict[int, Tensor] = {}
        lines = Lines(*(None if side is None else side.T.contiguous() for side in lines))  # type: ignore[arg-type]
        gamma, e = gamma.T.contiguous(), c.T.contiguous()
        v = torch.zeros_like(gamma)
        slope, offset = lines.lower_slope.clone(), torch.zeros_like(gamma)
        constant = self.output.backward(e, pending) - paid
        for layer in reversed(self.layers):
            part = layer.part
            count = part.stop - part.start
            if layer.activation in pending:
                e = pending.pop(layer.activation)
            elif count:  # nothing above reads these units, but gamma still presses on them
                e = gamma.new_zeros(len(layer.slope), gamma.shape[1])
            else:
                continue
            if layer.offset is not None:
                constant = constant + layer.offset.squeeze(1) @ e
            if count:
                v[part] = e[:count]
                slope[part], offset[part] = choose(lines.at(part), v[part])
            e = e * layer.slope
            if count:
                torch.addcmul(gamma[part], slope[part], v[part], out=e[:count])
            constant = constant + layer.read.backward(e, pending)
        constant = constant + (v * offset).sum(0)
        A = pending[INPUT].T.contiguous() if INPUT in pending else c.new_zeros(len(c), self.coordinates.count)
        least, x = self.coordinates.least(A)
        return Backward(constant + least, v.T.contiguous(), slope.T.contiguous(), offset.T.contiguous(), x)

    def forward(self, back: Backward) -> tuple[Tensor, Tensor]:
        values = {INPUT: back.x.T.contiguous()}
        slope, offset = back.slope.T.contiguous(), back.offset.T.contiguous()
        z = torch.zeros_like(slope)
        for layer in self.layers:
            t, part = layer.read.forward(values), layer.part
            count = part.stop - part.start
            a = t * layer.slope if layer.offset is None else torch.addcmul(layer.offset, t, layer.slope)
            if count:
                z[part] = t[:count]
                torch.addcmul(offset[part], slope[part], z[part], out=a[:count])
            values[layer.activation] = a
        return z.T.contiguous(), self.output.forward(values).T.contiguous()

    def points(self, x: Tensor) -> Tensor:
        return self.coordinates.points(x)


def for_graph(
    graph: Graph, region: Box, nodes: Mapping[int, Interval], units: Units
) -> SegmentEvaluator | GraphEvaluator:
    """The evaluator of a whole network: of its matrices, or of its ops where those would be too large."""
    outputs = torch.arange(graph.nodes[-1].size, device=graph.device)
    matrices = SegmentEvaluator.of(graph, region, nodes, units, graph.output, outputs)
    return GraphEvaluator.of(graph, region, nodes, units) if matrices is None else matrices


class _Builder:
    """Makes segments from the living neurons of the activations, which it is given by node as they become known."""

    def __init__(self, graph: Graph, coordinates: Coordinates, living: Mapping[int, Tensor]) -> None:
        self.graph, self.coordinates, self.living = graph, coordinates, living

    def __call__(self, node: int, positions: Tensor) -> Segment:
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
                parts.setdefault(i, []).append(own if i == INPUT else own[:, self.living[i]])
        b, matrices = torch.cat(constants), dict[int, Matrix]()
        for i, blocks in parts.items():
            M = torch.cat(blocks)
            if i == INPUT:
                M, b = self.coordinates.scaled(M, b)
            if M.numel() and bool((M != 0).any()):
                matrices[i] = Matrix.of(M.contiguous())
        return Segment(matrices, b)
