"""Gradient attacks: FGSM (Goodfellow et al. 2015) and projected gradient descent with restarts (Madry et al. 2018).

They look for the point of a region with the smallest margin. What they find is a candidate: only a replay makes
it a counterexample.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from verifier.errors import InputError
from verifier.types import Ball, Box

Forward = Callable[[Tensor], Tensor]
Objective = Callable[[Tensor], Tensor]


class AttackResult(NamedTuple):
    """The best point found, (batch, *input_shape), inside the region, and its margin, (batch,); <= 0 is a violation."""

    point: Tensor
    margin: Tensor


@dataclass(frozen=True)
class Pgd:
    """Projected gradient descent on the margin, in the norm of the region.

    steps: gradient steps per restart. step_size: length of the first step relative to the region's radius (linf: of
    each coordinate's half-width; l2, l1: of eps); it falls linearly to zero over the steps. restarts: independent runs,
    folded into the batch. random_start: from a random point of the region instead of its centre. seed: fixes those
    points. Raises InputError when an option is out of range.
    """

    steps: int = 40
    step_size: float = 0.25
    restarts: int = 1
    random_start: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1 or self.restarts < 1:
            raise InputError(f"PGD needs at least 1 step and 1 restart, not {self.steps} and {self.restarts}")
        if not (math.isfinite(self.step_size) and self.step_size > 0):
            raise InputError(f"PGD step size must be a positive number, not {self.step_size}")
        if self.restarts > 1 and not self.random_start:
            raise InputError(f"PGD with {self.restarts} restarts needs random_start: from the centre all are the same")

    def __call__(
        self, forward: Forward, region: Box, objective: Objective, start: Tensor | None = None
    ) -> AttackResult:
        """Minimise `objective(forward(x))` over `region`, whose batch is n.

        start: points (restarts * n, *input_shape) of the region to begin with, in place of centre or random points.
        forward: (batch, *input_shape) -> (batch, out), differentiable. objective: (n, out) -> margin (n,); a margin
        <= 0 is a violation, and the search ends as soon as every element has one. A NaN margin never counts: an
        element without any other keeps its first point, with margin +inf.
        """
        n = region.batch
        folded = region.select(torch.arange(n, device=region.lower.device).repeat(self.restarts))
        x = self._start(folded) if start is None else start
        best = AttackResult(x, torch.full_like(x.flatten(1)[:, 0], torch.inf))
        for step in range(self.steps + 1):
            margin, gradient = _margin_and_gradient(forward, objective, x, n)
            better = margin < best.margin
            best = AttackResult(_where(better, x, best.point), torch.where(better, margin, best.margin))
            if step == self.steps or bool((best.margin.view(-1, n) <= 0).any(0).all()):
                break
            size = self.step_size * (1 - step / self.steps)
            x = project(folded, x - steepest(folded, x, gradient, size))
        margins, winner = best.margin.view(-1, n).min(0)
        return AttackResult(best.point[winner * n + torch.arange(n, device=winner.device)], margins)

    def _start(self, region: Box) -> Tensor:
        if not self.random_start:
            return _centre(region)
        # Drawn on the CPU, so that a seed means the same points on every device.
        generator = torch.Generator().manual_seed(self.seed)
        return project(region, random_point(region, generator))


@dataclass(frozen=True)
class Fgsm:
    """The fast gradient (sign) method: one step of full size from the centre of the region."""

    def __call__(self, forward: Forward, region: Box, objective: Objective) -> AttackResult:
        """As `Pgd`, with a single step."""
        return Pgd(steps=1, step_size=1.0, random_start=False)(forward, region, objective)


def _margin_and_gradient(forward: Forward, objective: Objective, x: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Margins (restarts * n,) and their gradients at x (restarts * n, *shape); entries not finite become zero."""
    with torch.enable_grad():
        x = x.detach().requires_grad_(True)
        # The objective may hold one label per element, so it sees one restart at a time.
        margin = torch.cat([objective(outputs) for outputs in forward(x).split(n)])
        (gradient,) = torch.autograd.grad(margin.sum(), x)
    return margin.detach(), torch.where(gradient.isfinite(), gradient, torch.zeros_like(gradient))


def _centre(region: Box) -> Tensor:
    return region.origin if isinstance(region, Ball) else region.project(region.center)


def random_point(region: Box, generator: torch.Generator) -> Tensor:
    """Uniform in a box; uniform in a ball before its intersection with the box."""
    shape, dtype = region.lower.shape, region.lower.dtype
    uniform = torch.rand(shape, generator=generator, dtype=dtype).to(region.lower.device)
    if not isinstance(region, Ball):
        return region.lower + (region.upper - region.lower) * uniform
    # A direction with the ball's symmetry (Gaussian for l2, Laplace for l1) and a radius ~ u^(1/dimension).
    if region.norm == 2:
        direction = torch.randn(shape, generator=generator, dtype=dtype).to(uniform.device)
    else:
        sign = torch.randint(0, 2, shape, generator=generator).to(uniform) * 2 - 1
        direction = -sign * torch.log1p(-uniform)
    flat = direction.flatten(1)
    norm = torch.linalg.vector_norm(flat, ord=region.norm, dim=1, keepdim=True)
    radius = torch.rand((len(flat), 1), generator=generator, dtype=dtype).to(flat.device) ** (1 / flat.shape[1])
    return region.origin + (flat / norm * radius * region.eps.view(-1, 1)).view(shape)


def steepest(region: Box, x: Tensor, gradient: Tensor, size: float) -> Tensor:
    """The steepest-descent step to subtract, of length `size` in the region's own norm."""
    if not isinstance(region, Ball):
        return size * region.radius * gradient.sign()
    # Coordinates already at the edge of the box cannot follow the gradient: they take no part in the step.
    room = torch.where(gradient > 0, x - region.lower, region.upper - x).flatten(1)
    flat = torch.where(room > 0, gradient.flatten(1), torch.zeros_like(room))
    budget = size * region.eps.view(-1, 1)
    if region.norm == 2:
        norm = torch.linalg.vector_norm(flat, dim=1, keepdim=True)
        step = budget * flat / norm.clamp(min=torch.finfo(x.dtype).tiny)
    else:
        # The largest gradients first, each to the edge of the box, until the budget is spent.
        order = flat.abs().argsort(dim=1, descending=True, stable=True)
        ordered = room.gather(1, order)
        spent = ordered.cumsum(1) - ordered
        amount = torch.minimum((budget - spent).clamp(min=0), ordered)
        step = torch.zeros_like(flat).scatter(1, order, amount) * flat.sign()
    return step.view_as(x)


def project(region: Box, x: Tensor) -> Tensor:
    """A point of the region near x, inside it exactly: a replay compares with zero tolerance."""
    x = region.project(x)
    if not isinstance(region, Ball):
        return x
    # Rounding can leave a projected point a few units outside of the ball: pull it towards the origin until a
    # float64 evaluation of the distance, with room for its own rounding, says it is inside.
    limit = region.eps.double() * (1 - 1e-12)
    shrink = 2.0**-22
    while True:
        distance = torch.linalg.vector_norm((x.double() - region.origin.double()).flatten(1), ord=region.norm, dim=1)
        outside = distance > limit
        if shrink > 1 or not bool(outside.any()):
            return x
        pulled = region.origin + (x - region.origin) * (1 - shrink)
        x = _where(outside, torch.maximum(torch.minimum(pulled, region.upper), region.lower), x)
        shrink *= 2


def _where(rows: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """x (batch, *shape) in the rows (batch,) that are true, y elsewhere."""
    return torch.where(rows.view(-1, *[1] * (x.dim() - 1)), x, y)
