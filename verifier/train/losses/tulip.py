"""Lipschitz-augmented gradient regularisation, tulip (Finlay and Oberman 2018)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from verifier.errors import InputError
from verifier.graph import Graph
from verifier.train.batch import Batch
from verifier.train.losses.gradient_norm import losses_and_norms


@dataclass(frozen=True)
class Tulip:
    """mean(loss + weight * eps * ||gradient||) + lipschitz * the largest ||gradient|| over the batch.

    norm: of the input gradient, the dual of the ball's: 1 for linf, 2 for l2.
    """

    norm: int = 1
    weight: float = 1.0
    lipschitz: float = 0.01

    def __post_init__(self) -> None:
        if not (self.norm in (1, 2) and self.weight >= 0 and self.lipschitz >= 0):
            raise InputError("tulip: norm must be 1 or 2, weight and lipschitz >= 0")

    def __call__(self, net: Graph, batch: Batch) -> Tensor:
        losses, norms = losses_and_norms(net, batch, self.norm)
        return (losses + self.weight * batch.eps * norms).mean() + self.lipschitz * norms.amax()
