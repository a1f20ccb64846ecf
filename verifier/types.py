"""Shapes and the small records that every layer shares.

Conventions: axis 0 of every tensor is the batch; a node's shape excludes it. Linear coefficients over a node
have shape (batch, spec, *node_shape).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

Shape = tuple[int, ...]

BISECTIONS = 60


def same_layout(given: Shape, wanted: Shape) -> bool:
    """Whether the shapes differ at most by axes of length one, or one of them is the other one flattened."""
    long_axes = [tuple(n for n in shape if n != 1) for shape in (given, wanted)]
    return long_axes[0] == long_axes[1] or (math.prod(given) == math.prod(wanted) and min(map(len, long_axes)) <= 1)


@dataclass(frozen=True)
class Interval:
    """Elementwise bounds `lower <= value <= upper`, each of shape (batch, *shape)."""

    lower: Tensor
    upper: Tensor

    @property
    def center(self) -> Tensor:
        return (self.lower + self.upper) / 2

    @property
    def radius(self) -> Tensor:
        return (self.upper - self.lower) / 2

    @property
    def batch(self) -> int:
        return self.lower.shape[0]

    def known(self) -> Interval:
        """The same bounds, where NaN, which says nothing, is infinite."""
        ends = ((self.lower, -math.inf), (self.upper, math.inf))
        return Interval(*(side.nan_to_num(nothing, math.inf, -math.inf) for side, nothing in ends))

    def to(self, *args, **kwargs) -> Self:
        """The same record with every tensor moved by `Tensor.to`."""
        tensors = {k: v.to(*args, **kwargs) for k, v in vars(self).items() if isinstance(v, Tensor)}
        return replace(self, **tensors)

    def select(self, index: Tensor | slice) -> Self:
        """The sub-batch picked by `index` along axis 0."""
        return replace(self, **{k: v[index] for k, v in vars(self).items() if isinstance(v, Tensor)})


@dataclass(frozen=True)
class Box(Interval):
    """A set of inputs: the box `lower <= x <= upper`, tensors of shape (batch, *input_shape)."""

    def minimum(self, A: Tensor) -> Tensor:
        """Minimum of `A . x` over the set, for A (batch, spec, *input_shape); returns (batch, spec)."""
        A, center, radius = A.flatten(2), self.center.flatten(1), self.radius.flatten(1)
        return (A @ center.unsqueeze(2) - A.abs() @ radius.unsqueeze(2)).squeeze(2)

    def project(self, x: Tensor) -> Tensor:
        """The nearest point of the set, for x (batch, *input_shape)."""
        return torch.maximum(torch.minimum(x, self.upper), self.lower)


@dataclass(frozen=True)
class Ball(Box):
    """The l2 or l1 ball of radius `eps` around `origin`, intersected with the box `lower <= x <= upper`.

    `lower`, `upper` must lie within `origin -/+ eps` and hold `origin`. `eps` has shape (batch,), `norm` is 2 or 1.
    """

    origin: Tensor
    eps: Tensor
    norm: int

    def minimum(self, A: Tensor) -> Tensor:
        """A lower bound of `A . x` over the set that is exact up to rounding.

        Any split A = p + q gives the bound box(p) + ball(q) (weak duality). The best split leaves to the ball what
        lies under a water line: q_i = min(|a_i|, line * d_i) for l2 and min(|a_i|, line) for l1, where d_i is how
        far coordinate i may move. The bound is valid for any line, and its gradient is that of the best one.
        """
        a, origin = A.flatten(2), self.origin.flatten(1).unsqueeze(1)
        lower, upper = self.lower.flatten(1).unsqueeze(1), self.upper.flatten(1).unsqueeze(1)
        room = torch.where(a >= 0, origin - lower, upper - origin)
        eps = self.eps.view(-1, 1)
        if self.norm == 2:
            q = torch.minimum(a.abs(), self._l2_line(a.detach().abs(), room.detach()).unsqueeze(2) * room)
            paid = torch.linalg.vector_norm(q, dim=2)
        else:
            paid = self._l1_line(a.abs(), room)
            q = torch.minimum(a.abs(), paid.unsqueeze(2))
        return (a * origin).sum(2) - ((a.abs() - q) * room).sum(2) - eps * paid

    def _l2_line(self, a: Tensor, room: Tensor) -> Tensor:
        """The best line (batch, spec) by bisection; by the envelope theorem no gradient passes through it."""
        tiny = torch.finfo(a.dtype).tiny
        ratio = torch.where(room > 0, a / room.clamp(min=tiny), torch.zeros_like(a))
        low, high = torch.zeros_like(a[:, :, 0]), 2 * ratio.amax(2)
        for _ in range(BISECTIONS):
            line = (low + high) / 2
            step = torch.minimum(a / line.clamp(min=tiny).unsqueeze(2), room)
            too_far = torch.linalg.vector_norm(step, dim=2) > self.eps.view(-1, 1)
            low, high = torch.where(too_far, line, low), torch.where(too_far, high, line)
        return high

    def _l1_line(self, a: Tensor, room: Tensor) -> Tensor:
        """The best line (batch, spec): the largest coefficient that may move further than the ball has left."""
        ordered, order = a.sort(dim=2, descending=True)
        spent = room.detach().gather(2, order).cumsum(2)
        over = spent > self.eps.view(-1, 1, 1)
        first = over.to(torch.uint8).argmax(dim=2, keepdim=True)
        return torch.where(over.any(2), ordered.gather(2, first).squeeze(2), torch.zeros_like(spent[:, :, 0]))

    def project(self, x: Tensor) -> Tensor:
        """A point of the set near x: scaled (l2) or soft-thresholded (l1) onto the ball, then clipped to the box.

        Clipping moves every coordinate towards `origin`'s side of the box, so the result stays in the ball.
        """
        step = super().project(x) - self.origin
        flat, eps = step.flatten(1), self.eps.view(-1, 1)
        size = torch.linalg.vector_norm(flat, ord=self.norm, dim=1, keepdim=True)
        if self.norm == 2:
            inside = flat * (eps / size.clamp(min=torch.finfo(x.dtype).tiny)).clamp(max=1)
        else:
            inside = torch.where(size > eps, _project_simplex(flat, eps), flat)
        return super().project(self.origin + inside.view_as(step))


def _project_simplex(x: Tensor, eps: Tensor) -> Tensor:
    """Euclidean projection of the rows of x (batch, n) onto the l1 ball of radius eps (Duchi et al. 2008)."""
    ordered = x.abs().sort(dim=1, descending=True).values
    excess = (ordered.cumsum(1) - eps) / torch.arange(1, x.shape[1] + 1, dtype=x.dtype, device=x.device)
    count = (ordered > excess).sum(1, keepdim=True).clamp(min=1)
    threshold = excess.gather(1, count - 1)
    return x.sign() * (x.abs() - threshold).clamp(min=0)


@dataclass(frozen=True)
class Bounds:
    """What a bound method returns.

    lower, upper: bounds of the specification rows `C . output`, each (batch, spec).
    nodes: bounds of every node that a nonlinear op reads, by node index.
    """

    lower: Tensor
    upper: Tensor
    nodes: Mapping[int, Interval]
