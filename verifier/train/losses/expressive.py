"""Expressive losses: adversarial and interval loss, or their logits, combined (De Palma et al. 2024)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from verifier.errors import InputError
from verifier.graph import Graph
from verifier.train.adversary import Adversary
from verifier.train.batch import Batch, cross_entropy
from verifier.train.intervals import worst_logits


@dataclass(frozen=True)
class _Expressive:
    """alpha: the weight of the interval bounds, from 0 (adversarial training) to 1 (IBP).

    steps, step_size: of the attack, see `Adversary`. reach: the radius of the attack relative to eps.
    """

    alpha: float = 0.05
    steps: int = 1
    step_size: float = 1.0
    reach: float = 1.0

    def __post_init__(self) -> None:
        if not (0 <= self.alpha <= 1 and self.reach > 0):
            raise InputError(f"alpha must lie in [0, 1] and reach above 0; they are {self.alpha} and {self.reach}")
        Adversary(self.steps, self.step_size)  # refuses what is out of range

    def both(self, net: Graph, batch: Batch) -> tuple[Tensor, Tensor]:
        """Logits under attack and worst logits by intervals, both (batch, classes)."""
        points = Adversary(self.steps, self.step_size)(net, batch, batch.ball(self.reach * batch.eps))
        return batch.logits(net, points), worst_logits(net, batch.ball(batch.eps), batch.y)


@dataclass(frozen=True)
class MtlIbp(_Expressive):
    """(1 - alpha) * adversarial loss + alpha * interval loss."""

    def __call__(self, net: Graph, batch: Batch) -> Tensor:
        attacked, worst = self.both(net, batch)
        return (1 - self.alpha) * cross_entropy(attacked, batch.y) + self.alpha * cross_entropy(worst, batch.y)


@dataclass(frozen=True)
class CcIbp(_Expressive):
    """The loss of (1 - alpha) * attacked logits, relative to the label's, + alpha * worst logits."""

    def __call__(self, net: Graph, batch: Batch) -> Tensor:
        attacked, worst = self.both(net, batch)
        relative = attacked - attacked.gather(1, batch.y.unsqueeze(1))
        return cross_entropy((1 - self.alpha) * relative + self.alpha * worst, batch.y)


@dataclass(frozen=True)
class ExpIbp(_Expressive):
    """The mean of (adversarial loss)^(1 - alpha) * (interval loss)^alpha."""

    def __call__(self, net: Graph, batch: Batch) -> Tensor:
        attacked, worst = (F.cross_entropy(z, batch.y, reduction="none") for z in self.both(net, batch))
        # Where a loss underflows to zero, so does the product, but the gradient of its power would be infinite.
        return (attacked.clamp(min=TINY) ** (1 - self.alpha) * worst.clamp(min=TINY) ** self.alpha).mean()


TINY = 1e-12
