"""S-shaped smooth activations: sigmoid, tanh, error function, arc tangent and softsign."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from verifier.ops.base import Relaxation, Smooth
from verifier.ops.registry import Call, importer, register
from verifier.types import Interval

BISECTIONS = 60

Function = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class SShaped(Smooth):
    """A function that is convex below zero, concave above, increasing and bounded.

    An upper line is the chord while that lies above, else the tangent at a point between the point of contact of the
    tangent through the left end and the right end (Zhang et al. 2018); alpha[1] in [0, 1] picks it. Lower lines, by
    alpha[0], are the upper lines of -f(-z).
    """

    @abstractmethod
    def curvature(self, z: Tensor) -> Tensor:
        """The second derivative."""

    def steepest(self, z: Interval) -> Tensor:
        return self.slope(torch.zeros_like(z.lower))

    def lines(self, z: Interval) -> Callable[[Tensor], Relaxation]:
        upper_line = self._upper_line(self.forward, z.lower, z.upper)
        lower_line = self._upper_line(lambda x: -self.forward(-x), -z.upper, -z.lower)

        def at(alpha: Tensor) -> Relaxation:
            (upper, above), (lower, below) = upper_line(alpha[1]), lower_line(alpha[0])
            # Evaluating f, a chord or a tangent rounds; this slack keeps the lines outside.
            slack = 16 * torch.finfo(above.dtype).eps
            return Relaxation(lower, upper, -below - slack, above + slack)

        return at

    def _upper_line(self, f: Function, l: Tensor, u: Tensor) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
        """Slope and offset of lines above f on [l, u], as functions of alpha.

        The derivatives of f are even and odd, so those of -f(-z).
        """
        at_l = f(l)
        contact = torch.maximum(self._contact(f, l, u), l)
        curved = contact < u
        width = torch.where(curved, torch.ones_like(l), (u - l).clamp(min=torch.finfo(l.dtype).tiny))
        chord = torch.where(u > l, (f(u) - at_l) / width, self.slope(l))

        def at(alpha: Tensor) -> tuple[Tensor, Tensor]:
            point = contact + alpha * (u - contact)
            slope = torch.where(curved, self.slope(point), chord)
            return slope, torch.where(curved, f(point) - slope * point, at_l - slope * l)

        return at

    def _contact(self, f: Function, l: Tensor, u: Tensor) -> Tensor:
        """Where, at z >= 0, the tangent through (l, f(l)) touches f; any value >= u when it does not within [l, u]."""

        def excess(z: Tensor, l: Tensor) -> Tensor:  # positive before the contact
            return self.slope(z) * (z - l) - (f(z) - f(l))

        with torch.no_grad():
            low, high = torch.zeros_like(u), torch.where(l < 0, u.clamp(min=0), torch.zeros_like(u))
            for _ in range(BISECTIONS):
                middle = (low + high) / 2
                before = excess(middle, l) > 0
                low, high = torch.where(before, middle, low), torch.where(before, high, middle)
            inner = (l < 0) & (high > 0) & (high < u)
            steepness = self.curvature(high) * (high - l)
            steepness = torch.where(inner & (steepness < 0), steepness, -torch.ones_like(u))
        if not l.requires_grad:
            return high
        # The implicit function theorem gives the gradient of the contact with respect to l.
        shift = -excess(high, l) / steepness
        return high + torch.where(inner, shift - shift.detach(), torch.zeros_like(shift))


@register
@dataclass(frozen=True, eq=False)
class Sigmoid(SShaped):
    """1 / (1 + exp(-z))."""

    def forward(self, *inputs: Tensor) -> Tensor:
        return torch.sigmoid(inputs[0])

    def slope(self, z: Tensor) -> Tensor:
        s = torch.sigmoid(z)
        return s * (1 - s)

    def curvature(self, z: Tensor) -> Tensor:
        s = torch.sigmoid(z)
        return s * (1 - s) * (1 - 2 * s)


@register
@dataclass(frozen=True, eq=False)
class Tanh(SShaped):
    """tanh(z)."""

    def forward(self, *inputs: Tensor) -> Tensor:
        return torch.tanh(inputs[0])

    def slope(self, z: Tensor) -> Tensor:
        t = torch.tanh(z)
        return 1 - t * t

    def curvature(self, z: Tensor) -> Tensor:
        t = torch.tanh(z)
        return -2 * t * (1 - t * t)


@register
@dataclass(frozen=True, eq=False)
class Erf(SShaped):
    """The error function."""

    def forward(self, *inputs: Tensor) -> Tensor:
        return inputs[0].erf()

    def slope(self, z: Tensor) -> Tensor:
        return (-z * z).exp() * (2 / math.sqrt(math.pi))

    def curvature(self, z: Tensor) -> Tensor:
        return -2 * z * self.slope(z)


@register
@dataclass(frozen=True, eq=False)
class Atan(SShaped):
    """The arc tangent."""

    def forward(self, *inputs: Tensor) -> Tensor:
        return inputs[0].atan()

    def slope(self, z: Tensor) -> Tensor:
        return 1 / (1 + z * z)

    def curvature(self, z: Tensor) -> Tensor:
        return -2 * z / (1 + z * z).square()


@register
@dataclass(frozen=True, eq=False)
class Softsign(SShaped):
    """z / (1 + |z|)."""

    def forward(self, *inputs: Tensor) -> Tensor:
        return inputs[0] / (1 + inputs[0].abs())

    def slope(self, z: Tensor) -> Tensor:
        return 1 / (1 + z.abs()).square()

    def curvature(self, z: Tensor) -> Tensor:
        return -2 * z.sign() / (1 + z.abs()).pow(3)


@importer(onnx=["Sigmoid"], aten=["sigmoid"], module=["Sigmoid"])
def import_sigmoid(call: Call) -> int:
    return call.add(Sigmoid(), call.node())


@importer(onnx=["Tanh"], aten=["tanh"], module=["Tanh"])
def import_tanh(call: Call) -> int:
    return call.add(Tanh(), call.node())


@importer(onnx=["Erf"], aten=["erf"])
def import_erf(call: Call) -> int:
    return call.add(Erf(), call.node())


@importer(onnx=["Atan"], aten=["atan"])
def import_atan(call: Call) -> int:
    return call.add(Atan(), call.node())


@importer(onnx=["Softsign"], module=["Softsign"])
def import_softsign(call: Call) -> int:
    return call.add(Softsign(), call.node())
