"""Interval bound propagation (Gowal et al. 2018)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from verifier.errors import InputError
from verifier.graph import Graph
from verifier.train.batch import Batch, cross_entropy
from verifier.train.intervals import worst_logits


@dataclass(frozen=True)
class Ibp:
    """natural * clean cross-entropy + (1 - natural) * that of the interval bounds.

    natural_start, natural_end: the weight of the clean part while the radius grows, linearly from one to the other;
    the paper's kappa, 1 to 0.5 for most of its networks, 0 throughout for the best known MNIST ones.
    """

    natural_start: float = 0.0
    natural_end: float = 0.0

    def __post_init__(self) -> None:
        if not (0 <= self.natural_start <= 1 and 0 <= self.natural_end <= 1):
            raise InputError("ibp: natural_start and natural_end must lie in [0, 1]")

    def __call__(self, net: Graph, batch: Batch) -> Tensor:
        natural = self.natural_start + (self.natural_end - self.natural_start) * batch.progress
        loss = cross_entropy(worst_logits(net, batch.ball(batch.eps), batch.y), batch.y)
        if natural == 0:
            return loss
        return natural * cross_entropy(batch.logits(net, batch.x), batch.y) + (1 - natural) * loss
