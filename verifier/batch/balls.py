"""Balls around many inputs at once: `spec.property.Region` in floats, without a Fraction for every pixel."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import torch
from torch import Tensor

from verifier.spec.property import NORMS, round_down
from verifier.types import Ball, Box


def outer_box(x: Tensor, eps: Sequence[Fraction], norm: str, lower: float, upper: float) -> Box:
    """Float64 sets that contain the balls around the float32 inputs x (batch, *shape) within the data range."""
    origin = x.double()
    radius = _above(eps)
    reach = radius.view(-1, *[1] * (x.dim() - 1))
    # A sum in float64 is off by at most half a unit in the last place.
    low, high = _down(origin - reach).clamp(min=lower), _up(origin + reach).clamp(max=upper)
    return Box(low, high) if NORMS[norm] == math.inf else Ball(low, high, origin, radius, int(NORMS[norm]))


def inner_box(x: Tensor, eps: Sequence[Fraction], norm: str, lower: float, upper: float) -> Box:
    """Float32 sets, for attacks, that lie in the balls around the float32 inputs x within the data range."""
    origin = x.double()
    radius = -_above([-e for e in eps])
    reach = radius.view(-1, *[1] * (x.dim() - 1))
    low, high = _single_above(_up(origin - reach)), -_single_above(-_down(origin + reach))
    low, high = torch.minimum(low.clamp(min=lower), x), torch.maximum(high.clamp(max=upper), x)
    if NORMS[norm] == math.inf:
        return Box(low, high)
    # Rounding must not take a projected point out of the ball.
    unit = float(np.finfo(np.float32).eps)
    sizes = torch.linalg.vector_norm(torch.maximum(low.abs(), high.abs()).double().flatten(1), NORMS[norm], dim=1)
    room = (radius * (1 - 64 * unit) - unit / 2 * sizes).clamp(min=0).float()
    return Ball(low, high, x, room, int(NORMS[norm]))


def _above(values: Sequence[Fraction]) -> Tensor:
    """The least float64 numbers that are not below these."""
    return torch.from_numpy(-round_down(np.array([-value for value in values], dtype=object)))


def _down(x: Tensor) -> Tensor:
    return torch.nextafter(x, torch.full_like(x, -math.inf))


def _up(x: Tensor) -> Tensor:
    return torch.nextafter(x, torch.full_like(x, math.inf))


def _single_above(x: Tensor) -> Tensor:
    """The least float32 numbers that are not below the float64 numbers x."""
    near = x.float()
    return torch.where(near.double() < x, torch.nextafter(near, torch.full_like(near, math.inf)), near)
