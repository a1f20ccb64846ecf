"""The dual loss of Wong and Kolter (2018), exact, and with random projections (Wong et al. 2018)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from verifier.bounds.crown import Crown
from verifier.errors import InputError, ModelError
from verifier.graph import Graph
from verifier.ops.base import Affine
from verifier.ops.relu import ReLU
from verifier.train.backward import backward_margins
from verifier.train.batch import Batch, cross_entropy
from verifier.train.intervals import label_rows
from verifier.types import Box, Interval


@dataclass(frozen=True)
class Dual:
    """The cross-entropy of worst logits under the dual bound, which relaxes every neuron by parallel lines.

    projections: 0 bounds every hidden neuron exactly; n > 0 estimates the bounds of the hidden neurons by medians of n
    Cauchy projections, at a price that does not grow with the layers' widths: then the loss is no bound, but close to
    one. natural: weight of the clean cross-entropy.
    """

    projections: int = 0
    natural: float = 0.0

    def __post_init__(self) -> None:
        if self.projections < 0 or not 0 <= self.natural <= 1:
            raise InputError("dual: projections must be >= 0 and natural in [0, 1]")

    def __call__(self, net: Graph, batch: Batch) -> Tensor:
        box = batch.ball(batch.eps)
        C = label_rows(batch.y, net.output_shape[0], box.lower)
        if self.projections:
            nodes = projected_bounds(net, box, self.projections, batch.generator)
            lower = backward_margins(net, box, C, nodes, "parallel")
        else:
            lower = Crown(slopes="parallel")(net, box, C).lower
        loss = cross_entropy(-lower, batch.y)
        if self.natural:
            loss = self.natural * cross_entropy(batch.logits(net, batch.x), batch.y) + (1 - self.natural) * loss
        return loss


def projected_bounds(net: Graph, box: Box, count: int, generator: torch.Generator) -> dict[int, Interval]:
    """Estimated bounds of what every ReLU of a chain of layers reads.

    With parallel lines a neuron is D z + c, D the shared slope and c in [0, -D l], so a chain is linear in the input
    and in every such c: an upper bound is value at the centres + the 1-norms of its coefficients, times the radii. The
    1-norm of a row v of a matrix is estimated from V R, R a matrix of standard Cauchy numbers, as the median of |V R|
    (Li et al. 2007). V R needs no V: the radii times R are pushed forward through the layers.
    """
    if any(len(node.inputs) > 1 for node in net.nodes) or not all(
        isinstance(node.op, Affine | ReLU) for node in net.nodes[1:]
    ):
        raise ModelError("the dual loss with projections is for a chain of affine layers and ReLUs")
    value, noise = box.center, [_cauchy(box.radius, count, generator)]
    nodes: dict[int, Interval] = {}
    for node in net.nodes[1:]:
        if isinstance(node.op, Affine):
            value = node.op.forward(value)
            noise = [node.op.homogeneous.forward(n.flatten(0, 1)).unflatten(0, n.shape[:2]) for n in noise]  # type: ignore[arg-type]
            continue
        # Independent sources of error have their 1-norms added: each median stands for one of them.
        radius = sum((n.abs().median(0).values for n in noise), torch.zeros_like(value))
        z = Interval(value - radius, value + radius)
        nodes[node.inputs[0]] = z
        slope, gap = _parallel(z)
        value = slope * value + gap / 2
        noise = [slope * n for n in noise] + [_cauchy(gap / 2, count, generator)]
    return nodes


def _parallel(z: Interval) -> tuple[Tensor, Tensor]:
    """The slope of the parallel lines around relu on z, and the distance between them; 0 where relu is linear."""
    above, below = z.upper.clamp(min=0), z.lower.clamp(max=0)
    slope = above / (above - below).clamp(min=torch.finfo(above.dtype).tiny)
    return slope, -slope * below


def _cauchy(radius: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Independent Cauchy numbers (count, *radius.shape), scaled by the radii."""
    uniform = torch.rand((count, *radius.shape), generator=generator, dtype=torch.float64)
    return radius * torch.tan(math.pi * (uniform - 0.5)).to(radius)
