"""Attacks for training (Madry et al. 2018; Wong et al. 2020), cheaper than those that look for counterexamples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from verifier.errors import InputError
from verifier.graph import Graph
from verifier.train.batch import Batch
from verifier.types import Box

LAST_STEP = 0.25
"""The size of the last of several steps, as a share of the first."""


@dataclass(frozen=True)
class Adversary:
    """Ascent by sign steps from a random point; the last point counts, so that n steps cost n gradients.

    steps: how many. step_size: of the first step, relative to the radius; it falls linearly to a quarter.
    Raises InputError when an option is out of range.
    """

    steps: int = 1
    step_size: float = 1.0

    def __post_init__(self) -> None:
        if not (self.steps >= 0 and self.step_size > 0):
            raise InputError(f"an attack needs steps >= 0 and a step size above 0, not {self.steps}, {self.step_size}")

    def __call__(
        self, net: Graph, batch: Batch, box: Box, objective: Callable[[Tensor], Tensor] | None = None
    ) -> Tensor:
        """Points (batch, *shape) of `box` where `objective` of the logits, by default the cross-entropy, is large."""
        if objective is None:
            objective = _cross_entropy(batch.y)
        x, radius = batch.uniform(box), box.radius.amax()
        for step in range(self.steps):
            x = x.detach().requires_grad_(True)
            with torch.enable_grad():
                (gradient,) = torch.autograd.grad(objective(batch.logits(net, x)), x)
            shrink = 1 - (1 - LAST_STEP) * step / max(self.steps - 1, 1)
            x = box.project(x.detach() + self.step_size * shrink * radius * gradient.sign())
        return x.detach()


def _cross_entropy(y: Tensor) -> Callable[[Tensor], Tensor]:
    # The sum, not the mean: only the sign of the gradient matters, and the mean may underflow.
    return lambda logits: F.cross_entropy(logits, y, reduction="sum")
