"""FGSM adversarial training with a random start (Wong, Rice and Kolter 2020, "Fast is better than free")."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from verifier.graph import Graph
from verifier.train.adversary import Adversary
from verifier.train.batch import Batch, cross_entropy


@dataclass(frozen=True)
class Fgsm:
    """The cross-entropy after one sign step from a random point. step_size: relative to the radius."""

    step_size: float = 1.25

    def __post_init__(self) -> None:
        Adversary(1, self.step_size)  # refuses what is out of range

    def __call__(self, net: Graph, batch: Batch) -> Tensor:
        points = Adversary(1, self.step_size)(net, batch, batch.ball(batch.eps))
        return cross_entropy(batch.logits(net, points), batch.y)
