"""The two kinds of op: affine maps and elementwise activations."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import ClassVar

import torch
from torch import Tensor

from verifier.graph import Op
from verifier.ops.patches import Coefficients, dense, unit_patches
from verifier.types import Interval, Shape


@dataclass(frozen=True, eq=False)
class Affine(Op):
    """An affine map. A subclass gives `forward`; everything else follows, and may be overridden to be faster."""

    mixing: ClassVar[bool] = True  # False when every input coordinate is read by at most one output coordinate and v.v.

    @cached_property
    def homogeneous(self) -> Affine:
        """The same map without its constant. This default drops a `bias` and a `shift`; others are to override it."""
        changes: dict[str, Tensor | None] = {}
        if hasattr(self, "bias"):
            changes["bias"] = None
        if hasattr(self, "shift"):
            changes["shift"] = torch.zeros_like(self.shift)
        return replace(self, **changes) if changes else self

    def magnitude(self, *radii: Tensor) -> Tensor:
        """The map with absolute coefficients and no constant. This default fits nonnegative coefficients."""
        return self.forward(*radii) - self.forward(*(torch.zeros_like(r[:1]) for r in radii))

    def interval(self, *inputs: Interval) -> Interval:
        """Bounds of the output given bounds of the inputs (Gowal et al. 2018)."""
        center, radius = self.forward(*(i.center for i in inputs)), self.magnitude(*(i.radius for i in inputs))
        return Interval(center - radius, center + radius)

    def transpose(self, A: Coefficients, *shapes: Shape) -> list[Coefficients]:
        """Coefficients over the output, (batch, spec, *shape), pulled back to each input of the given shapes.

        This default is the vector-Jacobian product of `forward`.
        """
        A = dense(A)
        flat = A.flatten(0, 1)
        zeros = (flat.new_zeros(len(flat), *shape) for shape in shapes)
        _, pull_back = torch.func.vjp(self.forward, *zeros)  # type: ignore[misc]
        return [gradient.unflatten(0, A.shape[:2]) for gradient in pull_back(flat)]

    def rows(self, index: Tensor, dtype: torch.dtype, shape: Shape, *shapes: Shape) -> list[Coefficients]:
        """Coefficients over the inputs of the output coordinates `index` (batch, spec), flat positions in `shape`."""
        return self.transpose(unit_rows(index, dtype, shape), *shapes)

    def rescaled(self, scale: Tensor, shift: Tensor) -> Op | None:
        """One op that equals `self * scale + shift`, or None; constants broadcast as in Rescale."""
        return None


def unit_rows(index: Tensor, dtype: torch.dtype, shape: Shape) -> Coefficients:
    """Coefficients with a one at the flat position `index` (batch, spec) in `shape`; over maps as windows."""
    if len(shape) == 3:
        return unit_patches(index, dtype, shape)
    rows = torch.zeros(*index.shape, math.prod(shape), dtype=dtype, device=index.device)
    return rows.scatter_(2, index.unsqueeze(2), 1.0).view(*index.shape, *shape)


@dataclass(frozen=True)
class Relaxation:
    """Lines around an activation on its interval: slope * z + offset, below and above. None stands for zero."""

    lower_slope: Tensor
    upper_slope: Tensor
    lower_offset: Tensor | None
    upper_offset: Tensor | None


@dataclass(frozen=True, eq=False)
class Activation(Op):
    """An elementwise function of one input, monotone unless `interval` says otherwise.

    parameters: how many free numbers in [0, 1] per neuron choose among its valid lines. grain: evaluating it errs by a
    few units in the last place of its value and of this.
    """

    parameters: ClassVar[int] = 1
    grain: ClassVar[float] = 0.0

    def interval(self, z: Interval) -> Interval:
        """The exact range over the interval z."""
        return Interval(self.forward(z.lower), self.forward(z.upper))

    @abstractmethod
    def steepest(self, z: Interval) -> Tensor:
        """The greatest absolute value of the slope on z, or more."""

    @abstractmethod
    def unstable(self, z: Interval) -> Tensor:
        """A boolean mask of the neurons whose relaxation on z is not exact."""

    @abstractmethod
    def initial(self, z: Interval, rule: str) -> Tensor:
        """Parameters (parameters, *z.shape) of the lines that the rule picks.

        "adaptive" takes the lines of least area (Zhang et al. 2018); "parallel" takes parallel lines where the op
        has them (Wong and Kolter 2018; Singh et al. 2018), else the adaptive ones.
        """

    @abstractmethod
    def relax(self, z: Interval, alpha: Tensor) -> Relaxation:
        """Lines valid on z for any alpha in [0, 1] of shape (parameters, ...) that broadcasts with z."""

    def lines(self, z: Interval) -> Callable[[Tensor], Relaxation]:
        """`relax` on z as a function of alpha, for many calls: what depends on z alone is computed once."""
        return partial(self.relax, z)


@dataclass(frozen=True, eq=False)
class PiecewiseLinear(Activation):
    """A continuous activation made of linear pieces: `slopes[i]` holds up to `breakpoints[i]`, the last one beyond.

    With `forward` at one point this determines it, so that encodings, splits and certificates need nothing more.
    """

    @property
    @abstractmethod
    def breakpoints(self) -> tuple[float, ...]:
        """Where the slope changes, ascending."""

    @property
    @abstractmethod
    def slopes(self) -> tuple[float, ...]:
        """The slope of each piece, one more than breakpoints."""

    def steepest(self, z: Interval) -> Tensor:
        return torch.full_like(z.lower, max(map(abs, self.slopes)))

    def unstable(self, z: Interval) -> Tensor:
        inside = [(z.lower < point) & (z.upper > point) for point in self.breakpoints]
        return torch.stack(inside).any(0)


@dataclass(frozen=True, eq=False)
class Smooth(Activation):
    """An activation that is nowhere linear, with two parameters: alpha[0] picks its lower line, alpha[1] its upper."""

    parameters: ClassVar[int] = 2

    @abstractmethod
    def slope(self, z: Tensor) -> Tensor:
        """The first derivative."""

    def unstable(self, z: Interval) -> Tensor:
        return z.upper > z.lower

    def initial(self, z: Interval, rule: str) -> Tensor:
        half = torch.full_like(z.lower, 0.5)
        return torch.stack((half, half))

    def relax(self, z: Interval, alpha: Tensor) -> Relaxation:
        return self.lines(z)(alpha)

    @abstractmethod
    def lines(self, z: Interval) -> Callable[[Tensor], Relaxation]:
        """See `Activation.lines`; here it says what `relax` answers."""
