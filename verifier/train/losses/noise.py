"""Training with Gaussian noise, for randomised smoothing (Cohen et al. 2019)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from verifier.graph import Graph
from verifier.train.batch import Batch, cross_entropy


@dataclass(frozen=True)
class Noise:
    """The cross-entropy of inputs with noise N(0, sigma^2) added, which may leave the data range, as in smoothing.

    The noise grows with the radius, from zero.
    """

    sigma: float = 0.25

    def __call__(self, net: Graph, batch: Batch) -> Tensor:
        noisy = batch.x + self.sigma * batch.progress * batch.normal(batch.x)
        return cross_entropy(batch.logits(net, noisy), batch.y)
