"""TRADES (Zhang et al. 2019): accuracy against how far the prediction moves within the ball."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from verifier.errors import InputError
from verifier.graph import Graph
from verifier.train.adversary import Adversary
from verifier.train.batch import Batch, cross_entropy


@dataclass(frozen=True)
class Trades:
    """Clean cross-entropy + beta * KL(p(x) || p(x')), x' found by ascent on that divergence.

    beta: the paper's 1 / lambda. steps, step_size: of the ascent, see `Adversary`.
    """

    beta: float = 6.0
    steps: int = 7
    step_size: float = 0.5

    def __post_init__(self) -> None:
        if not self.beta >= 0:
            raise InputError(f"trades: beta must be >= 0, not {self.beta}")
        Adversary(self.steps, self.step_size)  # refuses what is out of range

    def __call__(self, net: Graph, batch: Batch) -> Tensor:
        clean = batch.logits(net, batch.x)
        target = clean.detach().log_softmax(1)
        points = Adversary(self.steps, self.step_size)(
            net, batch, batch.ball(batch.eps), lambda logits: divergence(target, logits.log_softmax(1))
        )
        moved = divergence(clean.log_softmax(1), batch.logits(net, points).log_softmax(1))
        return cross_entropy(clean, batch.y) + self.beta * moved


def divergence(p: Tensor, q: Tensor) -> Tensor:
    """The mean Kullback-Leibler divergence KL(p || q) of log-probabilities (batch, classes)."""
    return F.kl_div(q, p, reduction="batchmean", log_target=True)
