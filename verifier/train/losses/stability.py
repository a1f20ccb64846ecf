"""Stability training (Zheng et al. 2016): noise should not move the predicted distribution."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from verifier.errors import InputError
from verifier.graph import Graph
from verifier.train.batch import Batch, cross_entropy
from verifier.train.losses.trades import divergence


@dataclass(frozen=True)
class Stability:
    """Clean cross-entropy + weight * KL(p(x) || p(x + noise)), noise N(0, sigma^2)."""

    sigma: float = 0.25
    weight: float = 6.0

    def __post_init__(self) -> None:
        if not (self.sigma >= 0 and self.weight >= 0):
            raise InputError(f"stability: sigma and weight must be >= 0, not {self.sigma} and {self.weight}")

    def __call__(self, net: Graph, batch: Batch) -> Tensor:
        clean = batch.logits(net, batch.x)
        noisy = batch.logits(net, batch.x + self.sigma * batch.progress * batch.normal(batch.x))
        moved = divergence(clean.log_softmax(1), noisy.log_softmax(1))
        return cross_entropy(clean, batch.y) + self.weight * moved
