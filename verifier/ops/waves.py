"""Sine and cosine."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor

from verifier.ops.curved import Curved, Segment
from verifier.ops.registry import Call, importer, register
from verifier.types import Interval


@register
@dataclass(frozen=True, eq=False)
class Sin(Curved):
    """sin(z), or cos(z). Intervals wider than a period or far from zero are bounded by -1 and 1."""

    far: ClassVar[float] = 1024.0

    cosine: bool = False

    @property
    def phase(self) -> float:
        """The op is sin(z + phase)."""
        return math.pi / 2 if self.cosine else 0.0

    @property
    def convex(self) -> tuple[bool, ...]:
        return ()

    def forward(self, *inputs: Tensor) -> Tensor:
        return inputs[0].cos() if self.cosine else inputs[0].sin()

    def slope(self, z: Tensor) -> Tensor:
        return -z.sin() if self.cosine else z.cos()

    def steepest(self, z: Interval) -> Tensor:
        return torch.ones_like(z.lower)

    def segments(self, l: Tensor, u: Tensor) -> list[Segment]:
        first = ((l + self.phase) / math.pi).ceil()
        cuts = [l, *(torch.maximum(l, math.pi * (first + i) - self.phase).minimum(u) for i in range(3)), u]
        sinks = first.remainder(2) == 0  # before a multiple 2 k pi the sine is negative, and convex
        return [(a, b, sinks if i % 2 == 0 else ~sinks) for i, (a, b) in enumerate(pairwise(cuts))]

    def interval(self, z: Interval) -> Interval:
        ends = torch.stack((self.forward(z.lower), self.forward(z.upper)))
        known, sides = self.known(z), []
        for extreme, side in ((-1.0, ends.amin(0)), (1.0, ends.amax(0))):
            start = extreme * math.pi / 2 - self.phase
            reached = ((z.upper - start) / (2 * math.pi)).floor() >= ((z.lower - start) / (2 * math.pi)).ceil()
            sides.append(torch.where(known & ~reached, side, extreme))
        return Interval(*sides)

    def known(self, z: Interval) -> Tensor:
        near = (z.lower > -self.far) & (z.upper < self.far)
        return near & (z.upper - z.lower < 2 * math.pi)


@importer(onnx=["Sin"], aten=["sin"])
def import_sin(call: Call) -> int:
    return call.add(Sin(), call.node())


@importer(onnx=["Cos"], aten=["cos"])
def import_cos(call: Call) -> int:
    return call.add(Sin(cosine=True), call.node())
