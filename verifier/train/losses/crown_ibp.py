"""CROWN-IBP (Zhang et al. 2020) with loss fusion (Xu et al. 2020)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from verifier.bounds.interval import margins
from verifier.errors import InputError
from verifier.graph import Graph
from verifier.train.backward import backward_margins
from verifier.train.batch import Batch, cross_entropy
from verifier.train.intervals import interval_pass, label_rows, worst_logits
from verifier.types import Box, Interval

SHORT = 1e-4


@dataclass(frozen=True)
class CrownIbp:
    """Intervals for the hidden neurons, one backward pass for the output; from CROWN-IBP to IBP while the radius grows.

    backward_end: the weight of the backward bound at the full radius, 1 at the start; the paper's beta, 0 or 1.
    natural_start, natural_end: the weight of the clean loss, the paper's kappa. fusion: bound the loss itself with one
    backward row, instead of every margin with a row of its own.
    """

    backward_end: float = 0.0
    natural_start: float = 0.0
    natural_end: float = 0.0
    fusion: bool = True

    def __post_init__(self) -> None:
        if not all(0 <= weight <= 1 for weight in (self.backward_end, self.natural_start, self.natural_end)):
            raise InputError("crown_ibp: backward_end, natural_start and natural_end must lie in [0, 1]")

    def __call__(self, net: Graph, batch: Batch) -> Tensor:
        natural = self.natural_start + (self.natural_end - self.natural_start) * batch.progress
        backward = 1 + (self.backward_end - 1) * batch.progress
        box = batch.ball(batch.eps)
        values = interval_pass(net, box)
        loss = natural * cross_entropy(batch.logits(net, batch.x), batch.y) if natural else box.lower.new_zeros(())
        if backward < 1:
            loss = loss + (1 - natural) * (1 - backward) * cross_entropy(
                worst_logits(net, box, batch.y, values), batch.y
            )
        if backward > 0:
            bound = fused_loss if self.fusion else backward_loss
            loss = loss + (1 - natural) * backward * bound(net, box, batch.y, values)
        return loss


def backward_loss(net: Graph, box: Box, y: Tensor, values: list[Interval]) -> Tensor:
    """The cross-entropy of worst logits, one backward row for each class."""
    C = label_rows(y, net.output_shape[0], box.lower)
    return cross_entropy(-backward_margins(net, box, C, dict(enumerate(values)), "adaptive"), y)


def fused_loss(net: Graph, box: Box, y: Tensor, values: list[Interval]) -> Tensor:
    """An upper bound of the mean cross-entropy over the box, one backward row for each input.

    exp is convex: on [l, u] it lies below its chord. So sum_j exp(z_j - z_y) is at most a linear function of the
    logits, whose bound needs one row; [l, u] are the interval bounds of z_j - z_y.
    """
    C = label_rows(y, net.output_shape[0], box.lower)
    upper, lower = worst_logits(net, box, y, values), margins(net, box, -C, values)
    top, width = upper.amax(1, keepdim=True), upper - lower
    high, low = (upper - top).exp(), (lower - top).exp()
    # A chord as short as rounding errors is replaced by the constant at its upper end, which is no lower.
    slope = torch.where(width < SHORT, torch.zeros_like(high), (high - low) / width.clamp(min=SHORT))
    rising = -backward_margins(net, box, slope.unsqueeze(1) @ C, dict(enumerate(values)), "adaptive").squeeze(1)
    # The intervals alone bound the same sum: the smaller of two upper bounds is one.
    total = torch.minimum(rising + (high - slope * upper).sum(1), high.sum(1))
    return (total.clamp(min=torch.finfo(total.dtype).tiny).log() + top.squeeze(1)).mean()
