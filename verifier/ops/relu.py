"""Piecewise-linear activations: ReLU, LeakyReLU, absolute value and clipping."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from verifier.ops.affine import rescaled
from verifier.ops.base import PiecewiseLinear, Relaxation
from verifier.ops.registry import Call, importer, register
from verifier.types import Interval


@dataclass(frozen=True, eq=False)
class Hinge(PiecewiseLinear):
    """Two linear pieces that meet in the origin, with the slopes `(left, right)` below and above it.

    Around a convex hinge the chord bounds from above (Ehlers 2017) and any line through the origin with a slope
    between the two bounds from below; alpha in [0, 1] picks that slope. Around a concave one it is the other way.
    """

    @property
    def breakpoints(self) -> tuple[float, ...]:
        return (0.0,)

    def interval(self, z: Interval) -> Interval:
        lower, upper = self.forward(z.lower), self.forward(z.upper)
        least, most = torch.minimum(lower, upper), torch.maximum(lower, upper)
        if min(self.slopes) < 0:  # not monotone: the origin may be an extreme point
            spans = (z.lower < 0) & (z.upper > 0)
            least = torch.where(spans, least.clamp(max=0), least)
            most = torch.where(spans, most.clamp(min=0), most)
        return Interval(least, most)

    def initial(self, z: Interval, rule: str) -> Tensor:
        if rule == "parallel":
            return _share(z).unsqueeze(0)
        return (z.upper > -z.lower).to(z.lower.dtype).unsqueeze(0)

    def relax(self, z: Interval, alpha: Tensor) -> Relaxation:
        left, right = self.slopes
        jump = right - left
        chord = left + jump * _share(z)
        offset = (left - chord) * z.lower.clamp(max=0)
        one = torch.ones_like(z.lower)
        slope = left + jump * torch.where(z.lower >= 0, one, torch.where(z.upper <= 0, 0 * one, alpha[0]))
        if jump >= 0:
            return Relaxation(slope, chord, None, offset)
        return Relaxation(chord, slope, offset, None)


def _share(z: Interval) -> Tensor:
    """The share of the interval above zero, u / (u - l); 1 and 0 where the neuron is stable."""
    above, below = z.upper.clamp(min=0), z.lower.clamp(max=0)
    return above / (above - below).clamp(min=torch.finfo(above.dtype).tiny)


@register
@dataclass(frozen=True, eq=False)
class ReLU(Hinge):
    """max(z, 0)."""

    @property
    def slopes(self) -> tuple[float, ...]:
        return (0.0, 1.0)

    def forward(self, *inputs: Tensor) -> Tensor:
        return torch.relu(inputs[0])


@register
@dataclass(frozen=True, eq=False)
class LeakyReLU(Hinge):
    """z for z >= 0, `slope * z` below; any slope."""

    slope: float

    @property
    def slopes(self) -> tuple[float, ...]:
        return (self.slope, 1.0)

    def forward(self, *inputs: Tensor) -> Tensor:
        return torch.nn.functional.leaky_relu(inputs[0], self.slope)


@register
@dataclass(frozen=True, eq=False)
class Abs(Hinge):
    """|z|."""

    @property
    def slopes(self) -> tuple[float, ...]:
        return (-1.0, 1.0)

    def forward(self, *inputs: Tensor) -> Tensor:
        return inputs[0].abs()


@register
@dataclass(frozen=True, eq=False)
class Clip(PiecewiseLinear):
    """min(max(z, low), high), with low < high: Clip, Hardtanh, ReLU6.

    Where the interval spans both breakpoints, alpha[0] turns the lower line about (low, low) and alpha[1] the upper
    line about (high, high), each between flat and the steepest valid slope.
    """

    parameters: ClassVar[int] = 2

    low: float
    high: float

    @property
    def breakpoints(self) -> tuple[float, ...]:
        return (self.low, self.high)

    @property
    def slopes(self) -> tuple[float, ...]:
        return (0.0, 1.0, 0.0)

    def forward(self, *inputs: Tensor) -> Tensor:
        return inputs[0].clamp(self.low, self.high)

    def initial(self, z: Interval, rule: str) -> Tensor:
        # Steep lines halve the area when the far end lies well inside; flat ones when it lies well outside.
        middle = self.high - self.low
        lower = (self.high - z.lower.clamp(self.low)).clamp(min=0) + (z.upper - self.high) > self.low - z.lower
        upper = middle + (self.low - z.lower).clamp(min=0) > z.upper - self.high
        return torch.stack((lower, upper)).to(z.lower.dtype)

    def relax(self, z: Interval, alpha: Tensor) -> Relaxation:
        at_l, at_u = self.forward(z.lower), self.forward(z.upper)
        chord = _ratio(at_u - at_l, z.upper - z.lower)
        steepest_lower = _ratio(at_u - self.low, z.upper - self.low)
        steepest_upper = _ratio(self.high - at_l, self.high - z.lower)
        concave, convex = z.lower >= self.low, z.upper <= self.high
        lower = torch.where(concave, chord, alpha[0] * steepest_lower)
        upper = torch.where(convex, chord, alpha[1] * steepest_upper)
        lower_offset = torch.where(concave, at_l - lower * z.lower, self.low * (1 - lower))
        upper_offset = torch.where(convex, at_l - upper * z.lower, self.high * (1 - upper))
        return Relaxation(lower, upper, lower_offset, upper_offset)


def _ratio(rise: Tensor, run: Tensor) -> Tensor:
    """rise / run where run > 0, else 0."""
    positive = run > 0
    return torch.where(positive, rise / torch.where(positive, run, torch.ones_like(run)), torch.zeros_like(run))


@importer(onnx=["Relu"], aten=["relu"], module=["ReLU"])
def import_relu(call: Call) -> int:
    return call.add(ReLU(), call.node())


@importer(onnx=["Abs"], aten=["abs"])
def import_abs(call: Call) -> int:
    return call.add(Abs(), call.node())


@importer(onnx=["LeakyRelu"], aten=["leaky_relu"], module=["LeakyReLU"])
def import_leaky_relu(call: Call) -> int:
    return _leaky_relu(call, call.attributes.get("negative_slope", call.attributes.get("alpha", 0.01)))


@importer(onnx=["PRelu"], aten=["prelu"], module=["PReLU"])
def import_prelu(call: Call) -> int:
    slopes = call.distinct(1) if call.operator == "PRelu" else call.weight(1).unique()
    if len(slopes) != 1:
        raise call.refusal(f"{len(slopes)} different slopes; one is supported")
    return _leaky_relu(call, float(slopes))


def _leaky_relu(call: Call, slope: float) -> int:
    if not math.isfinite(slope):
        raise call.refusal(f"slope {slope}")
    return call.add(LeakyReLU(slope), call.node())


@importer(
    onnx=["Clip"],
    aten=["clamp", "clamp_min", "clamp_max", "hardtanh", "relu6"],
    module=["Hardtanh", "ReLU6"],
)
def import_clip(call: Call) -> int:
    if call.operator == "relu6":
        return call.add(Clip(0.0, 6.0), call.node())
    low, high = _limit(call, "min", 1, -math.inf), _limit(call, "max", 2, math.inf)
    if not low < high:
        raise call.refusal(f"the range [{low}, {high}] is empty or a single point")
    if low > -math.inf and high < math.inf:
        return call.add(Clip(low, high), call.node())
    if low > -math.inf:  # low + relu(x - low)
        return rescaled(call, call.add(ReLU(), rescaled(call, call.node(), 1.0, -low)), 1.0, low)
    if high < math.inf:  # high - relu(high - x)
        return rescaled(call, call.add(ReLU(), rescaled(call, call.node(), -1.0, high)), -1.0, high)
    return call.node()


def _limit(call: Call, name: str, position: int, default: float) -> float:
    """A limit given as an attribute under either name, or as a constant input."""
    value = call.attributes.get(name, call.attributes.get(f"{name}_val"))
    constant = call.constant(position)
    return float(constant if constant is not None else default if value is None else value)
