"""Smooth activations of any shape: lines of the best slopes, each as close as it can be."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from verifier.ops.base import Relaxation, Smooth
from verifier.types import Interval

BISECTIONS = 40
GRID = 8
ROUNDING = 16  # units in the last place that evaluating a function, a slope or a line may err by

POSITIVE = (0.0, torch.inf)

Segment = tuple[Tensor, Tensor, Tensor]
"""Ends of parts of the intervals, and whether the function is convex there (else it is concave)."""


@dataclass(frozen=True, eq=False)
class Curved(Smooth):
    """A function whose slope is monotone between its `inflections` (kinks included).

    convex: on each segment between them, one more, whether the slope rises. turns: where the function has extreme
    values. domain: where it is defined, the ends excluded; intervals that leave it have no bounds.

    A line has any slope m and starts at the least value of f(z) - m z, found segment by segment: at the ends where f is
    concave, at the tangent of slope m where it is convex. alpha picks m between the slopes that the convex hull of f
    has at the ends, which need not be exact, and which are the chord's for a concave f.
    """

    inflections: ClassVar[tuple[float, ...]] = ()
    turns: ClassVar[tuple[float, ...]] = ()
    domain: ClassVar[tuple[float, float]] = (-torch.inf, torch.inf)

    @property
    @abstractmethod
    def convex(self) -> tuple[bool, ...]:
        """Whether the function is convex, segment by segment."""

    def interval(self, z: Interval) -> Interval:
        known = (z.lower > self.domain[0]) & (z.upper <= self.domain[1])
        l, u = torch.where(known, z.lower, 1.0), torch.where(known, z.upper, 1.0)
        points = [self.forward(x) for x in (l, u, *(l.clamp(min=turn).minimum(u) for turn in self.turns))]
        values = torch.stack(points)
        return Interval(
            torch.where(known, values.amin(0), -torch.inf),
            torch.where(known, values.amax(0), torch.inf),
        )

    def steepest(self, z: Interval) -> Tensor:
        known = self.known(z)
        l, u = torch.where(known, z.lower, 1.0), torch.where(known, z.upper, 1.0)
        ends = [end for a, b, _ in self.segments(l, u) for end in (a, b)]
        return torch.where(known, torch.stack([self.slope(end).abs() for end in ends]).amax(0), torch.inf)

    def lines(self, z: Interval) -> Callable[[Tensor], Relaxation]:
        known, whole = self.known(z), self.interval(z)
        sides = (whole.lower, whole.upper)
        l, u = torch.where(known, z.lower, 1.0), torch.where(known, z.upper, 1.0)
        segments = self.segments(l, u)
        ranges = [self._slopes(l, u, sign) for sign in (1, -1)]

        def at(alpha: Tensor) -> Relaxation:
            found = []
            for sign, (first, last), side, share in zip((1, -1), ranges, sides, alpha, strict=True):
                m = torch.where(known, first + share * (last - first), 0.0)
                found += [m, torch.where(known, self._offset(segments, m, sign), side)]
            return Relaxation(found[0], found[2], found[1], found[3])

        return at

    def segments(self, l: Tensor, u: Tensor) -> list[Segment]:
        """The intervals [l, u] cut at the inflections; empty parts become points."""
        cuts = [l, *(l.clamp(min=point).minimum(u) for point in self.inflections), u]
        signs = [torch.full_like(l, convex, dtype=torch.bool) for convex in self.convex]
        return list(zip(cuts, cuts[1:], signs, strict=False))

    def touch(self, m: Tensor, a: Tensor, b: Tensor, convex: Tensor) -> Tensor:
        """About where in [a, b] the slope is m; an end where it is nowhere."""
        low, high = torch.broadcast_to(a, m.shape), torch.broadcast_to(b, m.shape)
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            before = (self.slope(middle) < m) == convex
            low, high = torch.where(before, middle, low), torch.where(before, high, middle)
        return high

    def known(self, z: Interval) -> Tensor:
        """Where the interval lies in the domain, and the function is finite."""
        low, high = self.domain
        finite = self.forward(z.lower).isfinite() & self.forward(z.upper).isfinite()
        return finite & (z.lower > low) & (z.upper < high)

    def _slopes(self, l: Tensor, u: Tensor, sign: int) -> tuple[Tensor, Tensor]:
        """About the slopes at l and at u of the convex hull of f (sign 1) or of the concave one (sign -1)."""
        steps = [l + (u - l) * (i / GRID) for i in range(GRID)] + [u]
        z = torch.stack(steps)
        y = self.forward(z)
        wide = z[-1] > z[0]

        def secants(fixed: int, others: slice) -> Tensor:
            run = z[others] - z[fixed]
            apart = run != 0
            rise = torch.where(apart, (y[others] - y[fixed]) / torch.where(apart, run, 1.0), sign * torch.inf)
            return rise if fixed == 0 else torch.where(apart, rise, -sign * torch.inf)

        first, last = sign * (sign * secants(0, slice(1, None))).amin(0), sign * (sign * secants(-1, slice(-1))).amax(0)
        return torch.where(wide, first, 0.0), torch.where(wide, last, 0.0)

    def _offset(self, segments: list[Segment], m: Tensor, sign: int) -> Tensor:
        """The least value of f(z) - m z over all segments (sign 1), or the greatest (sign -1), rounded outwards."""
        least: Tensor | None = None
        size = torch.zeros_like(m)
        for a, b, convex in segments:
            ends = [self.forward(end) for end in (a, b)]
            found = torch.minimum(*(sign * (y - m * end) for y, end in zip(ends, (a, b), strict=True)))
            size = torch.stack(torch.broadcast_tensors(size, *(y.abs() for y in ends))).amax(0)
            bowl = convex if sign > 0 else ~convex
            if bool(bowl.any()):
                with torch.no_grad():
                    t = self.touch(m, a, b, convex).clamp(a, b)
                    excess = sign * (self.slope(t) - m)
                # By convexity f lies above its tangent at t, even where its slope is not exactly m.
                tangent = sign * (self.forward(t) - m * t) + torch.minimum(excess * (a - t), excess * (b - t))
                found = torch.where(bowl, tangent, found)
            least = found if least is None else torch.minimum(least, found)
        assert least is not None
        far = torch.maximum(segments[0][0].abs(), segments[-1][1].abs())
        slack = ROUNDING * torch.finfo(m.dtype).eps * (size + m.abs() * far + least.abs())
        return sign * (least - slack)


def positive(m: Tensor) -> Tensor:
    """m, or a tiny number where it is not positive."""
    return m.clamp(min=torch.finfo(m.dtype).tiny)
