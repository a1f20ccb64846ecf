"""PGD adversarial training (Madry et al. 2018)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from verifier.graph import Graph
from verifier.train.adversary import Adversary
from verifier.train.batch import Batch, cross_entropy


@dataclass(frozen=True)
class Pgd:
    """The cross-entropy at the end of `steps` sign steps; see `Adversary`."""

    steps: int = 7
    step_size: float = 0.5

    def __post_init__(self) -> None:
        Adversary(self.steps, self.step_size)  # refuses what is out of range

    def __call__(self, net: Graph, batch: Batch) -> Tensor:
        points = Adversary(self.steps, self.step_size)(net, batch, batch.ball(batch.eps))
        return cross_entropy(batch.logits(net, points), batch.y)
