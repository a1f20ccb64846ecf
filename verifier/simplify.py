"""An equal network with fewer activations, for analysis.

ReLU networks that compute maxima, minima or absolute values hold neurons that read the same number, or the same number
with the other sign: relu(-z) = relu(z) - z. Relaxed one by one they cost precision that they need not cost.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from verifier.graph import Graph, GraphBuilder
from verifier.ops.affine import Add, Linear
from verifier.ops.relu import ReLU


@lru_cache(maxsize=8)
def simplified(graph: Graph) -> Graph:
    """The same function with every ReLU layer between dense layers reduced to neurons that differ in more than sign.

    Returns `graph` itself where nothing can be merged.
    """
    merges = {}
    for place, node in enumerate(graph.nodes):
        if isinstance(node.op, ReLU) and _is_between_linear(graph, place):
            layer = graph.nodes[node.inputs[0]].op
            assert isinstance(layer, Linear)
            merge = Merge.of(layer)
            if len(merge.kept) < node.size:
                merges[place] = merge
    return _rebuilt(graph, merges) if merges else graph


def is_merged(graph: Graph, original: Graph) -> bool:
    """Whether a form of `original` that is analysed has neurons merged; as many values in all tell nothing."""
    return [node.size for node in graph.nodes] != [node.size for node in original.nodes]


@dataclass(frozen=True)
class Merge:
    """Neurons of a layer by what they read. kept: positions (m,) of one neuron of each kind. which, sign: (n,), every
    neuron reads `sign` times what neuron `kept[which]` reads."""

    kept: Tensor
    which: Tensor
    sign: Tensor

    @classmethod
    def of(cls, layer: Linear) -> Merge:
        """The kinds of neurons that read the outputs of a dense layer."""
        bias = layer.weight.new_zeros(len(layer.weight)) if layer.bias is None else layer.bias
        rows = torch.cat((layer.weight, bias.unsqueeze(1)), 1)
        first = (rows != 0).to(torch.uint8).argmax(1, keepdim=True)
        sign = rows.gather(1, first).squeeze(1).sign()
        sign = torch.where(sign == 0, 1.0, sign).to(rows)
        turned = rows * sign.unsqueeze(1) + 0.0  # turns -0.0 into 0.0
        _, which = torch.unique(_fingerprints(turned), return_inverse=True)
        kept = torch.full((int(which.max()) + 1,), len(rows), device=rows.device)
        kept = kept.scatter_reduce(0, which, torch.arange(len(rows), device=rows.device), "amin")
        order = kept.argsort()  # each kind stands where its first neuron does
        kept, which = kept[order], order.argsort()[which]
        if not torch.equal(turned[kept][which], turned):  # two kinds have one fingerprint
            kept = which = torch.arange(len(rows), device=rows.device)
        return cls(kept, which, sign * sign[kept][which])

    def inner(self, layer: Linear) -> Linear:
        """The layer before, for the neurons kept."""
        return Linear(layer.weight[self.kept], None if layer.bias is None else layer.bias[self.kept])

    def outer(self, layer: Linear) -> tuple[Linear, Linear | None]:
        """The layer after: the sum of one over the neurons kept and one over what they read (None when it is zero)."""
        over = layer.weight.new_zeros(len(layer.weight), len(self.kept)).index_add(1, self.which, layer.weight)
        turned = torch.where(self.sign < 0, -layer.weight, 0.0)
        under = torch.zeros_like(over).index_add(1, self.which, turned)
        return Linear(over, layer.bias), Linear(under, None) if under.count_nonzero() else None


def _fingerprints(rows: Tensor) -> Tensor:
    """One integer per row (n, columns), the same for equal rows, and different for different ones but for bad luck."""
    generator = torch.Generator().manual_seed(0)
    factors = torch.randint(-(1 << 62), 1 << 62, rows.shape[1:], generator=generator).to(rows.device)
    bits = rows.contiguous().to(torch.float64).view(torch.int64)
    return ((bits ^ bits >> 52) * factors).sum(1)  # the leading bits, where small numbers differ, count everywhere


def _is_between_linear(graph: Graph, place: int) -> bool:
    node = graph.nodes[place]
    source = node.inputs[0]
    readers = [graph.nodes[i].op for i in graph.consumers[place]]
    alone = graph.consumers[source] == [place] and isinstance(graph.nodes[source].op, Linear)
    return alone and len(node.shape) == 1 and bool(readers) and all(isinstance(op, Linear) for op in readers)


def _rebuilt(graph: Graph, merges: dict[int, Merge]) -> Graph:
    builder = GraphBuilder(graph.input_shape, graph.nodes[0].name)
    by_source = {graph.nodes[place].inputs[0]: merge for place, merge in merges.items()}
    number = [0]
    for index, node in enumerate(graph.nodes[1:], start=1):
        op, inputs = node.op, [number[i] for i in node.inputs]
        if index in by_source:
            assert isinstance(op, Linear)
            op = by_source[index].inner(op)
        if node.inputs[0] in merges:
            assert isinstance(op, Linear)
            over, under = merges[node.inputs[0]].outer(op)
            out = builder.add(over, *inputs, name=node.name if under is None else f"{node.name}/activated")
            if under is not None:
                read = number[graph.nodes[node.inputs[0]].inputs[0]]
                out = builder.add(Add((1, 1)), out, builder.add(under, read, name=f"{node.name}/read"), name=node.name)
            number.append(out)
        else:
            number.append(builder.add(op, *inputs, name=node.name))
    return builder.finish().to(graph.dtype, graph.device)
