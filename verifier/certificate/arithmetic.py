"""The two arithmetics of the stand-alone checker. Both are rigorous and without tolerance; they need only numpy.

Exact: integers times a power of two, matrix products by limbs so small that float64 multiplies and adds them without
rounding. Rounded: float64 with a bound on every rounding error.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np

if __package__:
    from verifier.certificate.reading import UNIT, Array, Refused, Weight, need
else:  # run as a file, with reading.py beside it
    from reading import UNIT, Array, Refused, Weight, need  # type: ignore

TINY, MORE = 2.0**-1000, 1 + 2.0**-20  # MORE covers the rounding of sums of nonnegative terms
Number = Any  # a float64 array, taken exactly, or a pair that stands for such an array in an arithmetic
Bilinear = Callable[[Array, Array], Array]
BITS = np.frompyfunc(int.bit_length, 1, 1)


class TooWide(Refused):
    """Exact arithmetic would take too many digits."""


def limbs(x: Array, bits: int) -> tuple[list[Array], int]:
    """x as sum_i piece_i 2^(low + i bits), pieces integers below 2^bits in magnitude; and low."""
    need(np.isfinite(x).all(), "a number is NaN or infinite")
    mantissa, exponent = np.frexp(x)
    whole = (mantissa * 2.0**53).astype(np.int64)
    last = np.frexp((whole & -whole).astype(np.float64))[1] - 54 + exponent
    low, top = int(last.min(where=whole != 0, initial=2000)), int(exponent.max(where=whole != 0, initial=-2000))
    pieces = []
    for shift in reversed(range(low, top, bits)):
        pieces.append(np.trunc(np.ldexp(x, -shift)))
        x = x - np.ldexp(pieces[-1], shift)
    return (pieces[::-1], low) if pieces else ([np.zeros_like(x)], 0)


class Exact:
    """Pairs (integers, exponent) stand for integers * 2^exponent; only multipliers and bounds are rounded, safely."""

    name, keeps = "exact arithmetic", 52  # keeps: bits of a multiplier or bound, no fewer than float64 has

    def __init__(self) -> None:
        self.limbs = functools.cache(lambda weight, bits: limbs(weight.array, bits))

    def number(self, x: Number) -> tuple[Any, int]:
        if isinstance(x, tuple):
            return x
        pieces, low = limbs(x, 60)
        return sum(p.astype(np.int64).astype(object) << 60 * i for i, p in enumerate(pieces)), low

    def total(self, parts: list[Number]) -> Number:
        numbers = [self.number(part) for part in parts]
        low = min(e for _, e in numbers)
        return sum(i << (e - low) for i, e in numbers), low

    def product(self, f: Bilinear, x: Array, weight: Weight, terms: int) -> Number:
        """f(x, weight) for a bilinear f whose values are sums of at most `terms` products."""
        bits = (49 - terms.bit_length()) // 2
        (xs, low), (ws, base) = limbs(x, bits), self.limbs(weight, bits)
        if min(len(xs), len(ws)) > 8 or bits <= 4:
            raise TooWide("numbers of too different sizes meet in one op")
        result: Any = 0
        for k in range(len(xs) + len(ws) - 1):  # sums of 8 products of limbs stay below 2^52: float64 is exact
            group: Any = sum(f(xs[i], ws[k - i]) for i in range(len(xs)) if 0 <= k - i < len(ws))
            result = result + (group.astype(np.int64).astype(object) << k * bits)
        return result, low + base

    def least(self, v: Number, s: Array, pairs: list[tuple[Array, Array]]) -> Number:
        """By row, sum_j min over pairs (p, q) of v_j p_j - s_j q_j."""
        (v, ve), (s, se) = self.number(v), self.number(s)
        v, s = v << max(ve - se, 0), s << max(se - ve, 0)
        points, scale = self.number(np.stack(np.broadcast_arrays(*itertools.chain(*pairs))))
        terms = [v * points[i] - s * points[i + 1] for i in range(0, len(points), 2)]
        return functools.reduce(np.minimum, terms).sum(axis=1), min(ve, se) + scale

    def near(self, v: Number) -> Array:
        return self.floor(v[0], v[1], 0) if isinstance(v, tuple) else v

    def down(self, v: Number) -> Array:
        """Floats of few bits that are not above v."""
        whole, low = self.number(v)
        return self.floor(whole, low, max(0, -1000 - low))

    def floor(self, whole: Array, low: int, least: int) -> Array:
        """Floats of few bits that are not above whole * 2^low, multiples of 2^(low + least)."""
        shift = np.maximum(BITS(whole).astype(np.int64) - self.keeps, least)
        return np.ldexp((whole >> shift.astype(object)).astype(np.float64), low + shift)

    def multiplier(self, s: Array, reach: Array) -> Array:
        """s rounded such that |change| * reach is small beside the greatest |s| * reach of the row."""
        greatest = (np.abs(s) * reach).max(axis=1, keepdims=True)
        step = np.frexp(np.divide(greatest, reach, out=np.zeros_like(s), where=reach > 0))[1] - self.keeps
        return np.where((reach > 0) & (greatest > 0), np.ldexp(np.rint(np.ldexp(s, -step)), step), 0.0)

    def enclosed(self, v: Number, shape: tuple[int, ...]) -> tuple[Array, Array]:
        """Floats (shape), and how far v may be from them."""
        near = np.broadcast_to(self.near(v), shape)
        return near, np.abs(near) * 2.0**-50 + TINY

    def fractions(self, v: Number) -> list[Fraction]:
        return [int(i) * Fraction(2) ** v[1] for i in v[0]]


class Rounded:
    """Pairs (float64 array, bound of its error)."""

    name = "outward-rounded float64"

    def number(self, x: Number) -> tuple[Array, Any]:
        return x if isinstance(x, tuple) else (x, 0.0)

    def total(self, parts: list[Number]) -> Number:
        values, errors = zip(*map(self.number, parts), strict=True)
        mass = sum(np.abs(v) for v in values)
        return sum(values), (sum(errors) + len(parts) * UNIT * mass) * MORE + TINY

    def product(self, f: Bilinear, x: Array, weight: Weight, terms: int) -> Number:
        w = weight.array
        return f(x, w), f(np.abs(x), np.abs(w)) * ((terms + 2) * UNIT * MORE) + TINY * terms

    def least(self, v: Number, s: Array, pairs: list[tuple[Array, Array]]) -> Number:
        v, error = self.number(v)
        if s is v:  # all pairs are (z, z)
            p = functools.reduce(np.maximum, [np.abs(p) for p, _ in pairs])
            return np.zeros(len(v)), ((error * p).sum(axis=1) + TINY * v.shape[1]) * MORE
        low = functools.reduce(np.minimum, [v * p - s * q for p, q in pairs])
        p, q = (functools.reduce(np.maximum, map(np.abs, side)) for side in zip(*pairs, strict=True))
        mass = (low.shape[1] + 8) * UNIT * (np.abs(v) * p + np.abs(s) * q) + error * p
        return low.sum(axis=1), (mass.sum(axis=1) + TINY * low.shape[1]) * MORE

    def near(self, v: Number) -> Array:
        return self.number(v)[0]

    def down(self, v: Number) -> Array:
        value, error = self.number(v)
        return np.nextafter(value - error, -math.inf)

    def multiplier(self, s: Array, reach: Array) -> Array:
        return s

    def enclosed(self, v: Number, shape: tuple[int, ...]) -> tuple[Array, Array]:
        value, error = self.number(v)
        return np.broadcast_to(value, shape), np.broadcast_to(error, shape)

    def fractions(self, v: Number) -> list[Fraction]:
        return [Fraction(x) for x in self.down(v).tolist()]  # NaN and infinity raise


def clipped(lower: Array, upper: Array, constant: Array, A: Array, error: Array) -> tuple[Array, Array, Array]:
    """Lower bounds (n,) over boxes (n, k) of constant + A' x, |A' - A| <= error; what of the boxes these leave open."""
    reach = np.maximum(np.abs(lower), np.abs(upper))
    wrong = error * reach
    least = np.minimum(A * lower, A * upper) - wrong
    mass = np.abs(constant)[:, None] + (np.abs(A) * reach + wrong).sum(axis=1, keepdims=True)
    slack = mass * ((A.shape[1] + 16) * UNIT * MORE) + TINY
    bound = constant[:, None] + least.sum(axis=1, keepdims=True) - slack
    limit = (least + wrong - bound) / A  # beyond it, A x alone outweighs the rest
    limit = limit + np.sign(A) * (np.abs(limit) * 2.0**-50 + TINY)
    upper = np.where(A > 0, np.fmin(upper, limit), upper)
    return bound[:, 0], np.where(A < 0, np.fmax(lower, limit), lower), upper
