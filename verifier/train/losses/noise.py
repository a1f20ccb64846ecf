"""Training with Gaussian noise, for randomised smoothing (Cohen et al. 2019)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from verifier.errors import InputError
from verifier.graph import Graph
from verifier.train.batch import Batch, cross_entropy


@dataclass(frozen=True)
class Noise:
    """The cross-entropy of inputs with noise N(0, sigma^2) added, which may leave the data range, as in smoothing.

    The noise grows with the radius, from zero.
    """

    sigma: float = 0.25

    def __post_init__(self) -> None:
        if not self.sigma >= 0:
            raise InputError(f"noise: sigma must be >= 0, not {self.sigma}")

    def __call__(self, net: Graph, batch: Batch) -> Tensor:
        noisy = batch.x + self.sigma * batch.progress * batch.normal(batch.x)
        return cross_entropy(batch.logits(net, noisy), batch.y)
