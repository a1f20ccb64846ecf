"""Lines below and above smooth functions of one number. One part of the stand-alone checker; it needs only numpy.

A function consists of pieces between `cuts`, each convex or concave on all of it. Over an interval of a piece, f(z)
lies above its tangent anywhere if it is convex, and above its chord if it is concave. Both are lines, so that f(z) -
m z is at least what one of them leaves at the ends of the interval, whatever m is: all that m decides is which tangent.
Where a cut is no float64 number, it is off by so little that the function, bent the wrong way between, differs from a
convex or concave one by far less than its value is off by.

Where an interval leaves the `domain`, the function is taken as constant beyond it, so that bounds hold for a network of
such functions. Regions in which this happens are not proved (see `Analysis.activation`).
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

if __package__:
    from verifier.certificate import elementary
    from verifier.certificate.elementary import CLOSE, FAR, TINY, Array, Near, relative
else:  # run as a file, with the others beside it
    import elementary  # type: ignore
    from elementary import CLOSE, FAR, TINY, Array, Near, relative  # type: ignore

Pairs = list[tuple[Array, Array]]
Function = Callable[[Array], Near]
LARGE, LITTLE = 2.0**200, 2.0**-64
ANYWHERE, ABOVE_ZERO = (-LARGE, LARGE), (LITTLE, LARGE)
STEPS = 25  # of bisection
GRID = 8


class Piece(NamedTuple):
    """One piece: a function and its derivative, with their errors. touch: about where the derivative is m."""

    convex: bool
    value: Function
    slope: Function
    touch: Callable[[Array], Array] | None = None


Part = tuple[Array, Array, "bool | Array", Piece]
"""Ends of parts of intervals, and whether the function is convex there."""


@dataclass(frozen=True, eq=False)
class Curve:
    """A function of pieces between cuts, on a domain. rising: whether it is monotone increasing."""

    pieces: tuple[Piece, ...]
    cuts: tuple[float, ...] = ()
    domain: tuple[float, float] = ANYWHERE
    rising: bool = False

    @property
    def single(self) -> bool:
        """Whether all pieces are one function."""
        return all(piece.value is self.pieces[0].value for piece in self.pieces)

    def value(self, z: Array) -> Near:
        """What it is at points of the domain."""
        if self.single:
            return self.pieces[0].value(z)
        ends = [self.domain[0], *self.cuts, self.domain[1]]
        found = [p.value(np.clip(z, a, b)) for p, (a, b) in zip(self.pieces, itertools.pairwise(ends), strict=True)]
        which = sum(z > cut for cut in self.cuts)
        return np.choose(which, [y for y, _ in found]), np.choose(which, [e for _, e in found])

    def parts(self, l: Array, u: Array) -> Iterator[Part]:
        """Intervals cut into parts, some of which are points."""
        ends = [l, *(np.clip(cut, l, u) for cut in self.cuts), u]
        for (a, b), piece in zip(itertools.pairwise(ends), self.pieces, strict=True):
            yield a, b, piece.convex, piece

    def flat(self, l: Array, u: Array) -> Array:
        """Where a constant is all that is known, because intervals leave the domain."""
        return (l < self.domain[0]) | (u > self.domain[1])

    def leaves(self, l: Array, u: Array) -> Array:
        """Where intervals leave the domain."""
        return self.flat(l, u)

    def points(self, l: Array, u: Array, slope: Array, above: bool) -> Pairs:
        """Pairs (p, q) such that f(z) - slope z >= min of p - slope q (above: <= max) for every z in [l, u]."""
        flat = self.flat(l, u)
        slope = np.where(flat, 0.0, slope)
        sign = -1.0 if above else 1.0
        pairs: Pairs = []
        low, high = (np.clip(z, *self.domain) for z in (l, u))
        for a, b, convex, piece in self.parts(low, high):
            pairs += zip(touching(piece, a, b, slope, convex ^ above, sign), (a, b), strict=True)
        if not self.single:  # what a piece is beyond its cuts is another function
            y, e = self.value(low)
            ends = [-math.inf, *self.cuts, math.inf]
            own = [(low <= end) & (high >= start) for start, end in itertools.pairwise(ends) for _ in (0, 1)]
            pairs = [(np.where(o, p, y - sign * e), np.where(o, q, low)) for o, (p, q) in zip(own, pairs, strict=True)]
        if flat.any():
            most = functools.reduce(np.maximum if above else np.minimum, [p for p, _ in pairs])
            pairs = [(np.where(flat, most, p), np.where(flat, (l, u)[i % 2], q)) for i, (p, q) in enumerate(pairs)]
        return pairs

    def range(self, l: Array, u: Array) -> tuple[Array, Array]:
        """Bounds over intervals."""
        if self.rising:
            (low, below), (high, above) = (self.value(np.clip(z, *self.domain)) for z in (l, u))
            return low - below, high + above
        still = np.zeros_like(l)
        under, over = ([p for p, _ in self.points(l, u, still, above)] for above in (False, True))
        return functools.reduce(np.minimum, under), functools.reduce(np.maximum, over)

    def slopes(self, l: Array, u: Array) -> tuple[list[Array], Array, Array]:
        """Slopes to choose from, and points (k, d, n) of the intervals with about what the function is there."""
        low, high = (np.clip(z, *self.domain) for z in (l, u))
        z = np.stack([low + (high - low) * (i / GRID) for i in range(GRID)] + [high])
        y = self.value(z)[0]
        # Secants from both ends: the steepest and the flattest are those of the convex and the concave hull.
        both = zip(differences(y), differences(z), strict=True)
        first, last, middle = (rise / np.where(run == 0, 1.0, run) for rise, run in both)
        hulls = ((first.min(0) + last.max(0)) / 2, (first.max(0) + last.min(0)) / 2)
        known = (high > low) & ~self.flat(l, u)
        return [np.where(known, np.nan_to_num(m), 0.0) for m in (*hulls, middle, first[-1])], z, y


def differences(x: Array) -> tuple[Array, Array, Array]:
    """Of GRID + 1 values: from the first, from the last, about the middle."""
    return x[1:] - x[0], x[:-1] - x[-1], x[GRID // 2 + 1] - x[GRID // 2 - 1]


class Wave(Curve):
    """Sine, or cosine: cut where it is zero. What is wide or far lies between -1 and 1, which is no fault."""

    def parts(self, l: Array, u: Array) -> Iterator[Part]:
        phase = math.pi / 2 * (self.pieces[0].value is cosine)
        first = np.ceil((l + phase) / math.pi)
        ends = [l, *(np.clip(math.pi * (first + i) - phase, l, u) for i in range(3)), u]
        for i, (a, b) in enumerate(itertools.pairwise(ends)):
            yield a, b, (first + i) % 2 == 0, self.pieces[0]

    def value(self, z: Array) -> Near:
        y, e = self.pieces[0].value(np.clip(z, -FAR, FAR))
        return y, np.where(np.abs(z) < FAR, e, 2.0)

    def flat(self, l: Array, u: Array) -> Array:
        return (u - l > 6) | (np.maximum(np.abs(l), np.abs(u)) >= FAR)

    def leaves(self, l: Array, u: Array) -> Array:
        return np.zeros(l.shape, dtype=bool)

    def points(self, l: Array, u: Array, slope: Array, above: bool) -> Pairs:
        flat, side = self.flat(l, u), 1.0 if above else -1.0
        pairs = super().points(np.where(flat, 0.0, l), np.where(flat, 0.0, u), slope, above)
        return [(np.where(flat, side, p), np.where(flat, (l, u)[i % 2], q)) for i, (p, q) in enumerate(pairs)]


def touching(piece: Piece, a: Array, b: Array, slope: Array, bowl: bool | Array, sign: float) -> tuple[Array, Array]:
    """Values at a and b of a line below the function (sign 1) or above it (sign -1) on [a, b]: a tangent where it is
    curved like a bowl, about where it has that slope, else the chord."""
    values = []
    if np.all(bowl):
        values = [np.zeros_like(a), np.zeros_like(b)]
    else:
        values = [y - sign * e for y, e in map(piece.value, (a, b))]
    if np.any(bowl):
        t = np.clip(np.nan_to_num(touch(piece, slope, a, b, bowl, sign)), a, b)
        (y, e), (rate, wrong) = piece.value(t), piece.slope(t)
        for i, z in enumerate((a, b)):
            rise = rate * (z - t)
            error = e + wrong * np.abs(z - t) + 2.0**-50 * (np.abs(y) + np.abs(rise)) + TINY
            values[i] = np.where(bowl, y + rise - sign * error, values[i])
    return values[0], values[1]


def touch(piece: Piece, m: Array, a: Array, b: Array, bowl: bool | Array, sign: float) -> Array:
    """About where the derivative is m, in [a, b] or beyond."""
    if piece.touch is not None:
        return piece.touch(m)
    low, high = np.broadcast_to(a, m.shape), np.broadcast_to(b, m.shape)
    for _ in range(STEPS):
        middle = (low + high) / 2
        before = sign * piece.slope(middle)[0] < sign * m
        low, high = np.where(before, middle, low), np.where(before, high, middle)
    return high


def reach(m: Array) -> Array:
    """m where a logarithm or a root of it exists."""
    return np.maximum(m, 2.0**-500)


def once(
    convex: bool, value: Function, slope: Function, touch: Callable[[Array], Array] | None, **more: object
) -> Curve:
    return Curve((Piece(convex, value, slope, touch),), **more)  # type: ignore[arg-type]


def s_shaped(value: Function, slope: Function, away: Callable[[Array], Array]) -> Curve:
    """Odd but for a constant, convex below zero. away: about how far from zero the derivative is m."""
    below = Piece(True, value, slope, lambda m: -away(m))
    return Curve((below, Piece(False, value, slope, away)), (0.0,), rising=True)


# --- The functions. ---
def sigmoid_touch(m: Array) -> Array:
    root = np.sqrt(np.clip(1 - 4 * m, 0, 1 - 2.0**-40))
    return np.log((1 + root) / (1 - root))


def tanh_slope(z: Array) -> Near:
    y, e = elementary.bell(2 * z)
    return 4 * y, 4 * e


def softplus(z: Array) -> Near:
    y, e = elementary.log1p(elementary.exp(-np.abs(z)))
    return np.maximum(z, 0) + y, e + CLOSE * (np.maximum(z, 0) + y)


def gelu(z: Array) -> Near:
    """z times the normal distribution function."""
    gate, _ = elementary.erf(z * math.sqrt(0.5))
    return z / 2 * (1 + gate), np.abs(z) * (4 * CLOSE) + TINY


def gelu_slope(z: Array) -> Near:
    gate, _ = elementary.erf(z * math.sqrt(0.5))
    return (1 + gate) / 2 + z * elementary.exp(-(z * z) / 2)[0] / math.sqrt(2 * math.pi), np.full_like(z, 8 * CLOSE)


def silu(z: Array) -> Near:
    return z * elementary.logistic(z)[0], np.abs(z) * (8 * CLOSE) + TINY


def silu_slope(z: Array) -> Near:
    gate, rest = elementary.logistic(z)[0], elementary.bell(z)[0]
    return gate + z * rest, (1 + np.abs(z * rest)) * (8 * CLOSE)


def sine(z: Array) -> Near:
    return elementary.sine(z)


def cosine(z: Array) -> Near:
    return elementary.sine(z, 1)


def minus_sine(z: Array) -> Near:
    return elementary.sine(z, 2)


def elu(a: float) -> Curve:
    """z for z > 0, a (exp(z) - 1) below."""

    def below(z: Array) -> Near:
        y, _ = elementary.exp(z)
        return a * (y - 1), np.full_like(y, 4 * a * CLOSE)

    def slope(z: Array) -> Near:
        y, e = elementary.exp(z)
        return a * y, 2 * a * e

    bend = Piece(True, below, slope, lambda m: np.log(reach(m / a)))
    return Curve((bend, LINE), (0.0,), rising=True)


def power(n: int) -> Curve:
    """z to a whole power, at least 2."""

    def raised(z: Array, k: int) -> Array:
        return functools.reduce(lambda y, _: y * z, range(k - 1), z)

    def root(m: Array) -> Array:
        return np.power(reach(m / n), 1 / (n - 1))

    value, slope = (relative(n * 2.0**-52, f) for f in (lambda z: raised(z, n), lambda z: n * raised(z, n - 1)))
    side = LARGE ** (2 / n)
    if n == 2:
        return once(True, value, slope, lambda m: m / 2, domain=(-side, side))
    left = Piece(n % 2 == 0, value, slope, (lambda m: -root(-m)) if n % 2 == 0 else (lambda m: -root(m)))
    return Curve((left, Piece(True, value, slope, root)), (0.0,), (-side, side), n % 2 == 1)


def softsign_slope(z: Array) -> Array:
    return 1 / ((1 + np.abs(z)) * (1 + np.abs(z)))


LINE = Piece(True, relative(0.0, lambda z: z), relative(0.0, np.ones_like), lambda m: 0 * m)
NOTHING = Piece(True, relative(0.0, lambda z: 0 * z), relative(0.0, lambda z: 0 * z), lambda m: 0 * m)
SWISH = Piece(
    True,
    lambda z: (z * (z + 3) / 6, np.full_like(z, CLOSE)),
    lambda z: ((2 * z + 3) / 6, np.full_like(z, CLOSE)),
    lambda m: (6 * m - 3) / 2,
)
ROOT_TWO, SILU_BEND = math.sqrt(2), 2.399357280515468  # where these functions turn from concave to convex

CURVES: dict[str, Curve] = {
    "Sigmoid": s_shaped(elementary.logistic, elementary.bell, sigmoid_touch),
    "Tanh": s_shaped(elementary.tanh, tanh_slope, lambda m: sigmoid_touch(m / 4) / 2),
    "Erf": s_shaped(
        elementary.erf, elementary.erf_slope, lambda m: np.sqrt(np.maximum(-np.log(reach(m * 0.886)), 0.0))
    ),
    "Atan": s_shaped(
        elementary.atan,
        relative(2.0**-50, lambda z: 1 / (1 + z * z)),
        lambda m: np.sqrt(np.maximum(1 / reach(m) - 1, 0)),
    ),
    "Softsign": s_shaped(
        relative(2.0**-50, lambda z: z / (1 + np.abs(z))),
        relative(2.0**-50, softsign_slope),
        lambda m: np.maximum(1 / np.sqrt(reach(m)) - 1, 0),
    ),
    "Exp": once(True, elementary.exp, elementary.exp, lambda m: np.log(reach(m)), domain=(-LARGE, 100.0), rising=True),
    "Log": once(False, elementary.log, relative(2.0**-50, np.reciprocal), lambda m: 1 / reach(m), domain=ABOVE_ZERO,
                rising=True),
    "Sqrt": once(False, relative(2.0**-52, np.sqrt), relative(2.0**-50, lambda z: 0.5 / np.sqrt(z)),
                 lambda m: np.square(0.5 / reach(m)), domain=ABOVE_ZERO, rising=True),
    "Reciprocal": once(True, relative(2.0**-52, np.reciprocal), relative(2.0**-50, lambda z: -1 / (z * z)),
                       lambda m: 1 / np.sqrt(reach(-m)), domain=ABOVE_ZERO),
    "Softplus": once(True, softplus, elementary.logistic, lambda m: np.log(reach(m) / reach(1 - m)), rising=True),
    "Gelu": Curve(tuple(Piece(c, gelu, gelu_slope) for c in (False, True, False)), (-ROOT_TWO, ROOT_TWO)),
    "Silu": Curve(tuple(Piece(c, silu, silu_slope) for c in (False, True, False)), (-SILU_BEND, SILU_BEND)),
    "HardSwish": Curve((NOTHING, SWISH, LINE), (-3.0, 3.0)),
    "Sin": Wave((Piece(True, sine, cosine),)),
    "Cos": Wave((Piece(True, cosine, minus_sine),)),
}  # fmt: skip


@functools.cache
def curve(op: str, parameter: float) -> Curve | None:
    """The function of an operator; None for those that are not smooth. parameter: of "Elu" and "Power"."""
    if op == "Power":
        return power(int(parameter))
    return elu(parameter) if op == "Elu" else CURVES.get(op)
