"""Exact arithmetic of the stand-alone checker: integers times a power of two."""

from __future__ import annotations

import functools
import math
from fractions import Fraction
from typing import Any

import numpy as np

if __package__:
    from verifier.certificate.arithmetic import MORE, TINY, Bilinear, Extra, Number, Pairs, Prepared, whole
    from verifier.certificate.balls import Round, share
    from verifier.certificate.nodes import Array, Node, Refused, Weight, need
else:  # run as a file, with the others beside it
    from arithmetic import MORE, TINY, Bilinear, Extra, Number, Pairs, Prepared, whole  # type: ignore
    from balls import Round, share  # type: ignore
    from nodes import Array, Node, Refused, Weight, need  # type: ignore

BITS = np.frompyfunc(int.bit_length, 1, 1)
ROOTS = np.frompyfunc(lambda x: math.isqrt(x) + 1, 1, 1)  # not below the square root


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
    unit, loss, fuses, mirrors = 0.0, 0.0, False, False

    def __init__(self, additions: int = 0) -> None:
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

    def interval(self, node: Node, l: Array, u: Array, low: Array, high: Array, mass: Array) -> tuple[Array, Array]:
        """Bounds of the values of an affine op with constants in [low, high]."""
        sides = []
        for ends, constants in (((l, u), low), ((-u, -l), -high)):
            pairs = zip(ends, node.weight.signed, strict=True)
            parts = [self.product(node.forward, x, weight, node.shape[2]) for x, weight in pairs]
            sides.append(self.down(self.total([*parts, constants])))
        return sides[0], -sides[1]

    def offset(self, pairs: Pairs, slope: Array) -> Array:
        """Numbers not above the least p - slope q of pairs (p, q)."""
        (s, se), found = self.number(slope), []
        for p, q in pairs:
            (p, q), scale = self.number(np.stack(np.broadcast_arrays(p, q)))
            found.append(self.total([(p, scale), (-(s * q), se + scale)]))
        low = min(e for _, e in found)
        return self.down((functools.reduce(np.minimum, [i << (e - low) for i, e in found]), low))

    def plain(self, low: Array, high: Array, reach: Array) -> Prepared:
        """What numbers in [low, high] cost, of whose multiples with |x| <= reach the sum is pulled back."""
        return Prepared(None, None, low, high, reach)

    def activation(self, below: Array, above: Array, low: Array, high: Array, reach: Array, constants: Any) -> Prepared:
        """What an activation costs."""
        return Prepared(below, above, low, high, reach)

    def least(self, v: Number, at: Prepared, both: bool = False) -> Number:
        """What coefficients v (rows, n), those of every region end to end, cost: (rows,), negative if they do."""
        (v, ve), (ends, e) = self.number(v), self.number(np.stack(np.broadcast_arrays(at.low, at.high))[:, :, None])
        v = v.reshape(ends.shape[1], -1, ends.shape[3])
        return (np.where(v >= 0, *ends) * v).sum(axis=2).ravel(), ve + e

    def through(self, v: Number, at: Prepared, extra: Extra | None = None, both: bool = False) -> tuple[Number, Array]:
        """What coefficients v cost, and what they become."""
        if at.above is None and isinstance(v, Array):
            return self.least(v, at), v
        (near, wrong), n = self.near(v), at.low.shape[1]
        x, slope = near, np.ones((1, 1))
        assert at.reach is not None
        reach = np.broadcast_to(at.reach[:, None], (len(at.reach), len(x) // len(at.reach), n)).reshape(-1, n)
        if at.below is not None and at.above is not None:
            cubic = near.reshape(len(at.above), -1, n)
            slope = np.where(cubic >= 0, at.below[:, None], at.above[:, None]).reshape(-1, n)
            x = near * slope
        lost = wrong * np.abs(slope) + np.where(whole(slope), 0.0, np.abs(x) * 2.0**-50 + TINY)
        if extra is not None:
            x[extra.rows, extra.positions] += extra.numbers
        s = self.multiplier(x, reach)
        lost = lost + np.abs(x - s)
        costs = [self.least(v if at.above is not None else s, at)]
        if extra is not None:
            lost[extra.rows, extra.positions] = 0
            costs.append(self.added(v, s, extra))
        cost = (lost * reach).sum(axis=1) * -MORE
        return self.total([*costs, np.where(cost < 0, cost - TINY, cost)]), s

    def added(self, v: Number, s: Array, extra: Extra) -> Number:
        """What is paid by row where something is added to multipliers."""
        at = extra.rows, extra.positions
        (v, ve), (t, te) = self.number(v), self.number(s[at])
        pairs, e = self.number(np.where(v[at] >= 0, extra.below, extra.above))
        v, t = v[at] << max(ve - te, 0), t << max(te - ve, 0)
        cost = np.zeros(len(s), dtype=object)
        np.add.at(cost, extra.rows, (v * pairs[:, 0] - t * pairs[:, 1]).min(axis=0))
        return cost, min(ve, te) + e

    def below_zero(self, v: Number, positions: Array, shares: Array) -> Number:
        """Shares (regions, k) of what coefficients v are below zero at positions (k,)."""
        (v, e), (t, te) = self.number(v), self.number(shares[:, None])
        part = np.minimum(v[:, positions], 0).reshape(len(shares), -1, len(positions))
        return (part * t).reshape(len(v), -1), e + te

    def sum(self, parts: list[Number], reach: Array) -> tuple[Number, Array]:
        """Coefficients of a node that several read, and what rounding them costs."""
        return self.total(parts), np.zeros(1)

    def in_ball(self, v: Number, box: Prepared, ball: Round, centre: Prepared, reach: Array) -> Number:
        """The least value of coefficients v over the meeting of boxes and a ball. reach: of the boxes."""
        near, shape = self.near(v)[0], (len(reach), -1, reach.shape[1])
        part = share(near.reshape(shape), box.low, box.high, ball)
        q = self.multiplier(part.reshape(near.shape), np.broadcast_to(reach[:, None], part.shape).reshape(near.shape))
        (i, e), (radius, re) = self.number(q), self.number(np.array([ball.radius]))
        if ball.norm == 1:
            size = np.abs(i).max(axis=1)
        else:
            size, e = ROOTS((i * i).sum(axis=1) << 120), e - 60
        return self.total([self.least(self.total([v, -q]), box), self.least(q, centre), (-size * radius[0], e + re)])

    def linear(self, constant: Number, v: Number, reach: Array) -> tuple[Array, Array]:
        """Floats c and A (rows, n) such that c + A . x is not above constant + v . x where |x| <= reach."""
        near, wrong = self.near(v)
        cost = (wrong.reshape(len(reach), -1, reach.shape[1]) * reach[:, None]).sum(axis=2).ravel() * -MORE
        return self.down(self.total([constant, cost])), near

    def near(self, v: Number) -> tuple[Array, Array]:
        """Floats, and how far v may be from them, towards zero or not: the signs are the same."""
        return (v, np.zeros_like(v)) if isinstance(v, Array) else self.floor(*v)

    def down(self, v: Number) -> Array:
        """Floats of few bits that are not above v; NaN where it is too large."""
        floats = self.floor(*self.number(v))[0]
        return np.where(np.isfinite(floats), floats, np.nan)

    def floor(self, whole: Array, low: int) -> tuple[Array, Array]:
        """Floats of few bits that are not above whole * 2^low, multiples of TINY; and how far below."""
        shift = np.maximum(BITS(whole).astype(np.int64) - self.keeps, max(0, -1000 - low))
        floats = np.ldexp((whole >> shift.astype(object)).astype(np.float64), low + shift)
        return floats, np.where(shift > 0, np.ldexp(1.0, low + shift), 0.0)

    def multiplier(self, s: Array, reach: Array) -> Array:
        """s rounded such that |change| * reach is small beside the greatest |s| * reach of the row."""
        greatest = (np.abs(s) * reach).max(axis=1, keepdims=True)
        step = np.frexp(np.divide(greatest, reach, out=np.zeros_like(s), where=reach > 0))[1] - self.keeps
        return np.where((reach > 0) & (greatest > 0), np.ldexp(np.rint(np.ldexp(s, -step)), step), 0.0)

    def fractions(self, v: Number) -> list[Fraction]:
        whole, low = self.number(v)
        return [int(i) * Fraction(2) ** low for i in whole]
