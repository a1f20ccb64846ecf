"""What a loss sees of one training step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from verifier.graph import Graph
from verifier.types import Box


def linf_ball(x: Tensor, eps: float, lower: float, upper: float) -> Box:
    """The linf ball of radius eps around every x (batch, *shape), intersected with the data range."""
    return Box((x - eps).clamp(min=lower), (x + eps).clamp(max=upper))


@dataclass(frozen=True, eq=False)
class Batch:
    """Labelled inputs x (batch, *shape) in [lower, upper] and y (batch,), and the state of the schedules.

    eps: linf radius of this step. progress: how far the radius has grown, from 0 to 1. generator: on the CPU, for
    everything random. unlabelled: further inputs, for methods that use them. autocast: bfloat16 in forward passes that
    no bound depends on.
    """

    x: Tensor
    y: Tensor
    eps: float
    lower: float = 0.0
    upper: float = 1.0
    progress: float = 1.0
    generator: torch.Generator = field(default_factory=torch.Generator)
    unlabelled: Tensor | None = None
    autocast: bool = False

    def ball(self, eps: float) -> Box:
        """The linf ball of radius eps around every x, intersected with the data range."""
        return linf_ball(self.x, eps, self.lower, self.upper)

    def logits(self, net: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """The outputs for points x, in float32 whatever the network computes in."""
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.autocast):
            return net(x).float() if self.autocast else net(x)

    def uniform(self, box: Box) -> Tensor:
        """A random point of every box, drawn on the CPU, so that a seed means the same points on every device."""
        draw = torch.rand(box.lower.shape, generator=self.generator).to(box.lower)
        return torch.lerp(box.lower, box.upper, draw)

    def normal(self, like: Tensor) -> Tensor:
        """Standard normal numbers of the shape of `like`."""
        return torch.randn(like.shape, generator=self.generator).to(like)


class Loss(Protocol):
    """A training method: a frozen dataclass whose fields are its options."""

    def __call__(self, net: Graph, batch: Batch) -> Tensor:
        """The scalar to minimise, differentiable in the weights of `net`."""
        ...


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """The mean cross-entropy of logits (batch, classes) against labels (batch,)."""
    return F.cross_entropy(logits, y)
