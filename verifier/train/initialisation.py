"""Initialisation and warm-up regularisers for interval training (Shi et al. 2021)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from verifier.graph import Graph
from verifier.ops.relu import ReLU
from verifier.train.batch import Batch
from verifier.train.intervals import interval_pass

TOLERANCE = 0.5
"""From which ratio on two quantities count as alike; the paper's lambda."""


@torch.no_grad()
def initialise(model: nn.Sequential, rule: str) -> None:
    """`default`: leave PyTorch's initialisation. `ibp`: N(0, sqrt(2 pi) / fan-in), which keeps interval widths."""
    if rule == "default":
        return
    for layer in model:
        if isinstance(layer, nn.Linear | nn.Conv2d):
            fan_in = layer.weight[0].numel()
            layer.weight.normal_(0, math.sqrt(2 * math.pi) / fan_in)
            if layer.bias is not None:
                layer.bias.zero_()


def regulariser(graph: Graph, batch: Batch) -> Tensor:
    """The tightness and the ReLU regulariser of Shi et al. (2021), summed over the ReLU layers, over their number.

    Tightness: a layer's mean interval width should not exceed twice that of the input. ReLU: stably active and stably
    inactive neurons should have alike sums of centres and alike variances.
    """
    values = interval_pass(graph, batch.ball(batch.eps))
    width, terms = values[0].radius.mean(), []
    for node in graph.nodes:
        if isinstance(node.op, ReLU):
            z = values[node.inputs[0]]
            active, inactive, centre = z.lower > 0, z.upper < 0, z.center
            spread = (centre - centre.mean()).square()
            sums = (centre * active).sum(), -(centre * inactive).sum()
            variances = (spread * active).sum(), (spread * inactive).sum()
            terms += [_shortfall(width, z.radius.mean()), _alike(*sums), _alike(*variances)]
    layers = max(len(terms) // 3, 1)
    return torch.stack(terms).sum() / layers if terms else width.new_zeros(())


def _shortfall(a: Tensor, b: Tensor) -> Tensor:
    """0 where a / b is at least `TOLERANCE`, growing to 1 as the ratio falls to 0."""
    ratio = a / b.clamp(min=torch.finfo(b.dtype).tiny)
    return torch.relu(TOLERANCE - ratio) / TOLERANCE


def _alike(a: Tensor, b: Tensor) -> Tensor:
    """0 where the smaller of two numbers is at least `TOLERANCE` times the larger one."""
    return _shortfall(torch.minimum(a, b), torch.maximum(a, b))
