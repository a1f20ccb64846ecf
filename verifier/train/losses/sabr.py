"""SABR, small adversarial bounding regions (Mueller et al. 2023)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from verifier.errors import InputError
from verifier.graph import Graph
from verifier.train.adversary import Adversary
from verifier.train.batch import Batch, cross_entropy
from verifier.train.intervals import worst_logits
from verifier.types import Box


@dataclass(frozen=True)
class Sabr:
    """The interval loss on a small box of radius share * eps, placed by an attack inside the ball.

    share: the paper's lambda, in (0, 1]; 1 is plain IBP. steps, step_size: of the attack, see `Adversary`.
    """

    share: float = 0.4
    steps: int = 1
    step_size: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise InputError(f"sabr: share must lie in (0, 1], not {self.share}")
        Adversary(self.steps, self.step_size)  # refuses what is out of range

    def __call__(self, net: Graph, batch: Batch) -> Tensor:
        ball, small = batch.ball(batch.eps), self.share * batch.eps
        centre = Adversary(self.steps, self.step_size)(net, batch, batch.ball(batch.eps - small))
        # The ball itself, not only the data range, bounds the small box: rounding must not lead out of it.
        box = Box((centre - small).maximum(ball.lower), (centre + small).minimum(ball.upper))
        return cross_entropy(worst_logits(net, box, batch.y), batch.y)
