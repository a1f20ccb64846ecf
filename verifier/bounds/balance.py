"""Products, scaled for a region so that their relaxations are tight."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from verifier.bounds.interval import propagate
from verifier.graph import Graph, Node
from verifier.ops.product import SumDifference
from verifier.types import Box

MOST = 64.0
"""The most by which a factor is scaled: how much is lost where the other one does not vary at all."""


def balanced(graph: Graph, box: Box) -> Graph:
    """The same function on the same nodes, with the factors of every product scaled to equal widths over the boxes."""
    if not any(isinstance(node.op, SumDifference) for node in graph.nodes):
        return graph
    values, _ = propagate(graph, box)
    widths = [(z.upper - z.lower).amax(0) for z in values]
    nodes = [_scaled(node, *(widths[i] for i in node.inputs)) for node in graph.nodes]
    return Graph(tuple(nodes), graph.unmerged)


def _scaled(node: Node, *widths: Tensor) -> Node:
    if not isinstance(node.op, SumDifference):
        return node
    x, y = (width.nan_to_num(math.inf, math.inf).clamp(min=torch.finfo(width.dtype).tiny) for width in widths)
    a = (y / x).sqrt().nan_to_num(1.0).clamp(1 / MOST, MOST)
    # Powers of two scale without rounding.
    return replace(node, op=SumDifference(a.log2().round().exp2()))
