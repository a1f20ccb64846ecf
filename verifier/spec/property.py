"""What is to be proved: no input of a region makes the output fall into any of some conjunctions of half-spaces."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from verifier.errors import SpecificationError
from verifier.types import Ball, Box, Shape

NORMS = {"linf": math.inf, "l2": 2, "l1": 1}


@dataclass(frozen=True, eq=False)
class Region:
    """The set of allowed inputs in exact numbers: a box, or a ball intersected with a box.

    lower, upper: object arrays of Fraction, of the input's shape; they bound an linf ball wholly.
    origin, eps: the ball's centre (object array) and radius; norm: inf, 2 or 1. All None for a plain box.
    """

    lower: np.ndarray
    upper: np.ndarray
    origin: np.ndarray | None = None
    eps: Fraction | None = None
    norm: float | None = None
    _inner: dict[torch.dtype, Box] = field(default_factory=dict, init=False, repr=False)

    @property
    def is_box(self) -> bool:
        """Whether `lower` and `upper` say it all."""
        return self.norm in (None, math.inf)

    def __post_init__(self) -> None:
        if (self.lower > self.upper).any():
            where = np.unravel_index(int(np.argmax(self.lower > self.upper)), self.lower.shape)
            raise SpecificationError(
                f"the input region is empty: at index {tuple(map(int, where))} the lower bound "
                f"{float(self.lower[where])} exceeds the upper bound {float(self.upper[where])}"
            )

    @property
    def shape(self) -> Shape:
        return self.lower.shape

    def point(self, x: np.ndarray) -> np.ndarray:
        """The point that a float32 input x stands for: the Fractions in [lower, upper] nearest to it.

        No float equals an input that is fixed at 0.1; the network reads the float32 next to it.
        """
        return np.minimum(np.maximum(exact(x), self.lower), self.upper)

    @cached_property
    def floats(self) -> tuple[np.ndarray, np.ndarray]:
        """The least and the greatest float64 numbers between `lower` and `upper`; they cross where there is none."""
        return -round_down(-self.lower), round_down(self.upper)

    def sides(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """float64 numbers at most and at least the point that a float32 input x stands for."""
        below = x.astype(np.float64)
        above, moved = below.copy(), self._moved(x)
        point = np.minimum(np.maximum(exact(x[moved]), self.lower[moved]), self.upper[moved])
        below[moved], above[moved] = round_down(point), -round_down(-point)
        return below, above

    def _moved(self, x: np.ndarray) -> np.ndarray:
        """A mask of where x need not be the point that it stands for: exact numbers, which take long, must tell."""
        least, most = self.floats
        return ~((least <= x) & (x <= most))

    def admits(self, x: np.ndarray) -> bool:
        """Whether the region holds a point that float32 rounds to x, decided exactly."""
        if x.shape != self.shape or not np.isfinite(x).all():
            return False
        if self.is_box:
            moved = self._moved(x)
            point = np.minimum(np.maximum(exact(x[moved]), self.lower[moved]), self.upper[moved])
            return bool((single(point) == x[moved]).all())
        point = self.point(x)
        return self.contains(point) and bool((single(point) == x).all())

    def contains(self, x: np.ndarray) -> bool:
        """Whether the point x (floats or Fractions, of the input's shape) lies in the region, decided exactly."""
        if x.shape != self.shape or not all(map(math.isfinite, x.flat)):
            return False
        point = exact(x)
        if not ((self.lower <= point) & (point <= self.upper)).all():
            return False
        if self.is_box:
            return True
        assert self.origin is not None and self.eps is not None
        step = abs(point - self.origin).flatten()
        return bool(sum(step) <= self.eps if self.norm == 1 else sum(step * step) <= self.eps * self.eps)

    def box(self) -> Box:
        """A float64 set, of batch one, that contains the region: every number is rounded outwards."""
        lower = torch.from_numpy(round_down(self.lower)).unsqueeze(0)
        upper = torch.from_numpy(-round_down(-self.upper)).unsqueeze(0)
        if self.is_box:
            return Box(lower, upper)
        assert self.origin is not None and self.eps is not None and self.norm is not None
        origin = self.origin.astype(np.float64)
        drift = sum(abs(exact(origin) - self.origin).flatten())  # an l1 distance, so an l2 one as well
        eps = -round_down(np.array([-(self.eps + drift)], dtype=object))
        center = torch.from_numpy(origin).unsqueeze(0)
        lower, upper = torch.minimum(lower, center), torch.maximum(upper, center)
        return Ball(lower, upper, center, torch.from_numpy(eps), int(self.norm))

    def inner_box(self, dtype: torch.dtype = torch.float32) -> Box:
        """The set that attacks search: every bound is a `dtype` number rounded inwards, where there is room."""
        if dtype not in self._inner:
            self._inner[dtype] = self._inner_box(dtype)
        return self._inner[dtype]

    def _inner_box(self, dtype: torch.dtype) -> Box:
        numpy_type = np.float32 if dtype == torch.float32 else np.float64
        lower, upper = -round_down(-self.lower, numpy_type), round_down(self.upper, numpy_type)
        # An interval between two neighbouring floats has the one that its lower end is read as.
        lower = np.where(lower > upper, self.lower.astype(np.float64).astype(numpy_type), lower)
        upper = np.maximum(lower, upper)
        low, high = torch.from_numpy(lower).unsqueeze(0), torch.from_numpy(upper).unsqueeze(0)
        if self.is_box:
            return Box(low, high)
        assert self.origin is not None and self.eps is not None and self.norm is not None
        rounded = self.origin.astype(numpy_type)
        origin = torch.from_numpy(rounded).unsqueeze(0)
        # Rounding must not take a projected point out of the ball: neither that of its coordinates nor its centre's.
        unit = float(np.finfo(numpy_type).eps)
        sizes = np.maximum(np.abs(lower), np.abs(upper)).astype(np.float64).flatten()
        drift = float(sum(abs(exact(rounded) - self.origin).flatten()))
        room = float(self.eps) * (1 - 64 * unit) - unit / 2 * float(np.linalg.norm(sizes, self.norm)) - drift
        eps = torch.tensor([max(room, 0.0)], dtype=dtype)
        return Ball(torch.minimum(low, origin), torch.maximum(high, origin), origin, eps, int(self.norm))


@dataclass(frozen=True, eq=False)
class HalfSpaces:
    """A conjunction of half-spaces of outputs: `C y + d <= 0` in every row.

    C: (rows, outputs) and d: (rows,), float64. The margin of an output is max(C y + d): it lies in the set when that
    is <= 0, so a positive lower bound of any row, or of any nonnegative combination, proves that it cannot.
    stated: the constants that d is rounded down from, so that the set has grown; None where d is exact.
    """

    C: Tensor
    d: Tensor
    stated: tuple[Fraction, ...] | None = None

    def __post_init__(self) -> None:
        if self.C.dim() != 2 or self.d.shape != self.C.shape[:1] or not len(self.C):
            raise SpecificationError("a conjunction needs at least one half-space over the flattened output")
        if not (torch.isfinite(self.C).all() and torch.isfinite(self.d).all()):
            raise SpecificationError("a half-space has a coefficient that is NaN or infinite")

    @property
    def constants(self) -> np.ndarray:
        """What d stands for, (rows,), as Fractions."""
        return exact(self.d.cpu().numpy()) if self.stated is None else np.array(self.stated, dtype=object)

    @property
    def above(self) -> Tensor:
        """The least float64 numbers (rows,) that are not below the constants."""
        return self.d if self.stated is None else torch.from_numpy(-round_down(-self.constants))

    def holds(self, y: np.ndarray) -> bool:
        """Whether a flat output of Fractions lies in the set as it is stated, decided exactly."""
        return bool((exact(self.C.cpu().numpy()) @ y + self.constants <= 0).all())

    def rows(self, outputs: Tensor) -> Tensor:
        """C y + d for outputs (batch, *output_shape); returns (batch, rows)."""
        return outputs.flatten(1) @ self.C.to(outputs).T + self.d.to(outputs)

    def margin(self, outputs: Tensor) -> Tensor:
        """max(C y + d) for outputs (batch, *output_shape); returns (batch,), <= 0 inside the set."""
        return self.rows(outputs).amax(1)


@dataclass(frozen=True, eq=False)
class Property:
    """The claim that no input of `region` puts the output into any of the `unsafe` sets (a disjunction).

    about: the claim in words, for people, such as "the prediction stays 7".
    """

    region: Region
    unsafe: tuple[HalfSpaces, ...]
    about: str = ""

    def margin(self, outputs: Tensor) -> Tensor:
        """The least margin over the unsafe sets, (batch,); <= 0 exactly when an output is unsafe."""
        return torch.stack([s.margin(outputs) for s in self.unsafe]).amin(0)

    @property
    def rows(self) -> tuple[Tensor, Tensor, Tensor]:
        """All half-spaces stacked: C (rows, outputs), d (rows,) and the index of the set that each row is of."""
        sets = torch.cat([torch.full((len(s.C),), i) for i, s in enumerate(self.unsafe)])
        return torch.cat([s.C for s in self.unsafe]), torch.cat([s.d for s in self.unsafe]), sets

    def check_fits(self, input_shape: Shape, outputs: int) -> None:
        """Raise SpecificationError unless the property is about inputs and outputs of these sizes."""
        if self.region.shape != tuple(input_shape):
            raise SpecificationError(
                f"the property is about inputs of shape {self.region.shape}, the network reads {tuple(input_shape)}"
            )
        if self.unsafe and self.unsafe[0].C.shape[1] != outputs:
            raise SpecificationError(
                f"the property is about {self.unsafe[0].C.shape[1]} outputs, the network has {outputs}"
            )


def exact(values: np.ndarray | Sequence | float) -> np.ndarray:
    """The same numbers as an object array of Fraction."""
    array = np.asarray(values)
    return np.array([Fraction(v) for v in array.flatten().tolist()], dtype=object).reshape(array.shape)


def single(point: np.ndarray) -> np.ndarray:
    """What a float32 network reads of Fractions: float64, as files are parsed, then float32."""
    return point.astype(np.float64).astype(np.float32)


def round_down(values: np.ndarray, dtype: type = np.float64) -> np.ndarray:
    """The largest floats of `dtype` that do not exceed the Fractions `values`."""
    nearest: np.ndarray = values.astype(np.float64).astype(dtype)
    exceeding = [_exceeds(*pair) for pair in zip(nearest.flatten().tolist(), values.flatten().tolist(), strict=True)]
    return np.where(np.reshape(exceeding, values.shape), np.nextafter(nearest, dtype(-np.inf)), nearest)


def _exceeds(number: float, value: Fraction) -> bool:
    """Whether the number is greater, by integers: an order of magnitude faster than Fractions are compared."""
    (a, b), (c, d) = number.as_integer_ratio(), value.as_integer_ratio()
    return a * d > c * b
