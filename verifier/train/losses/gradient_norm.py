"""Gradient regularisation: what small adversarial perturbations amount to (Lyu et al. 2015; Simon-Gabriel et al. 2019).

To first order, the loss after the worst step of length eps is loss + eps * ||gradient||_q, q the dual norm of the
ball's: the 1-norm for linf (FGSM training), the 2-norm for l2.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from verifier.errors import InputError
from verifier.graph import Graph
from verifier.train.batch import Batch


@dataclass(frozen=True)
class GradientNorm:
    """The mean over the batch of loss + weight * eps * ||input gradient of the loss||.

    norm: 1 for linf balls, 2 for l2 balls.
    """

    norm: int = 1
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not (self.norm in (1, 2) and self.weight >= 0):
            raise InputError(f"gradient_norm: norm must be 1 or 2 and weight >= 0, not {self.norm} and {self.weight}")

    def __call__(self, net: Graph, batch: Batch) -> Tensor:
        losses, norms = losses_and_norms(net, batch, self.norm)
        return (losses + self.weight * batch.eps * norms).mean()


def losses_and_norms(net: Graph, batch: Batch, norm: int) -> tuple[Tensor, Tensor]:
    """The cross-entropy of every input and the norm of its input gradient, (batch,) each, both differentiable."""
    with torch.enable_grad():
        x = batch.x.detach().requires_grad_(True)
        losses = F.cross_entropy(net(x), batch.y, reduction="none")
        (gradient,) = torch.autograd.grad(losses.sum(), x, create_graph=True)
    flat = gradient.flatten(1)
    # The 2-norm has no derivative at zero: the smallest normal number under the root gives it the derivative zero.
    tiny = torch.finfo(flat.dtype).tiny
    return losses, flat.abs().sum(1) if norm == 1 else (flat.square().sum(1) + tiny).sqrt()
