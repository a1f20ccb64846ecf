"""The two arithmetics of the stand-alone checker. Both are rigorous and without tolerance; they need only numpy.

Exact: integers times a power of two, matrix products by limbs so small that float64 multiplies and adds them without
rounding. Rounded: float64; what its rounding may lose is paid in advance, by numbers that do not depend on the rows
that are pulled back, so that a pull takes a few operations on arrays only.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

if __package__:
    from verifier.certificate.balls import Round, share
    from verifier.certificate.reading import UNIT, Array, Node, Refused, Weight, need
else:  # run as a file, with reading.py beside it
    from balls import Round, share  # type: ignore
    from reading import UNIT, Array, Node, Refused, Weight, need  # type: ignore

TINY, MORE = 2.0**-1000, 1 + 2.0**-20  # MORE covers the rounding of sums of nonnegative terms
Number = Any  # a float64 array, or a pair that stands for such an array in exact arithmetic
Pairs = list[tuple[Array, Array]]
Bilinear = Callable[[Array, Array], Array]
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


class Prepared(NamedTuple):
    """What pulls pay at a node, arrays (regions, n), or (1, n) where all regions share them; None: not needed.

    Coefficients v of an activation become v * below where v >= 0, v * above elsewhere, which costs
    sum_j (v_j low_j where v_j >= 0, v_j high_j elsewhere). Other nodes only cost. reach: of the activation's inputs.
    `Rounded` holds differences to above and high in the place of below and low.
    """

    below: Array | None
    above: Array | None
    low: Array
    high: Array
    reach: Array | None = None

    def at(self, regions: Array) -> Prepared:
        """Of some regions only."""
        made: list[Any] = [x if x is None or len(x) == 1 else x[regions] for x in self]
        return Prepared(*made)

    def changed(self, columns: Array, part: Prepared) -> Prepared:
        """With what `part` says of some columns."""
        made: list[Any] = []
        for whole, new in zip(self, part, strict=True):
            made.append(None if whole is None else np.repeat(whole, len(part.high) // len(whole), axis=0))
            if whole is not None:
                made[-1][:, columns] = new
        return Prepared(*made)


class Extra(NamedTuple):
    """What is added to multipliers of an activation, at rows and positions, and what is paid there: for pairs (p, q) of
    below where v >= 0, of above elsewhere, the least of v p - s q, and (by `Rounded`) the least of s times constants.

    below, above: (pairs, 2, n), constants: (2, n).
    """

    rows: Array
    positions: Array
    numbers: Array
    below: Array
    above: Array
    constants: Array


class Exact:
    """Pairs (integers, exponent) stand for integers * 2^exponent; only multipliers and bounds are rounded, safely."""

    name, keeps = "exact arithmetic", 52  # keeps: bits of a multiplier or bound, no fewer than float64 has
    unit, loss, fuses = 0.0, 0.0, False

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
            pairs = zip(ends, node.weights[1:], strict=True)
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

    def least(self, v: Number, at: Prepared) -> Number:
        """What coefficients v (rows, n), those of every region end to end, cost: (rows,), negative if they do."""
        (v, ve), (ends, e) = self.number(v), self.number(np.stack(np.broadcast_arrays(at.low, at.high))[:, :, None])
        v = v.reshape(ends.shape[1], -1, ends.shape[3])
        return (np.where(v >= 0, *ends) * v).sum(axis=2).ravel(), ve + e

    def through(self, v: Number, at: Prepared, extra: Extra | None = None) -> tuple[Number, Array]:
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
        if isinstance(v, Array):
            return v, np.zeros_like(v)
        return self.floor(v[0], v[1], 0)

    def down(self, v: Number) -> Array:
        """Floats of few bits that are not above v."""
        whole, low = self.number(v)
        return self.floor(whole, low, max(0, -1000 - low))[0]

    def floor(self, whole: Array, low: int, least: int) -> tuple[Array, Array]:
        """Floats of few bits that are not above whole * 2^low, multiples of 2^(low + least); and how far below."""
        shift = np.maximum(BITS(whole).astype(np.int64) - self.keeps, least)
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


class Rounded:
    """Numbers are float64 arrays.

    With u = 2^-53, sums of n products are off by at most (n + 1) u / (1 - (n + 1) u) times the sum of the products'
    magnitudes, in any order (Higham 2002, section 3.1), and by underflow, which `Domains.slack` pays. additions: how
    many numbers are added up at most. Coefficients v are what they were computed to be: that the sum which is pulled on
    is another, by rounding, is paid with the constants of the op that computed them (see `Analysis.constants`).
    """

    name = "outward-rounded float64"
    unit, fuses = UNIT * MORE, True

    def __init__(self, additions: int = 0) -> None:
        self.loss = (additions + 16) * UNIT * MORE

    def number(self, x: Number) -> Number:
        return x

    def total(self, parts: list[Number]) -> Number:
        return sum(parts)

    def product(self, f: Bilinear, x: Array, weight: Weight, terms: int) -> Number:
        result = f(x, weight.array)
        need(math.isfinite(result.sum()), "numbers are too large for rounded arithmetic")
        return result

    def interval(self, node: Node, l: Array, u: Array, low: Array, high: Array, mass: Array) -> tuple[Array, Array]:
        centre = (l + u) / 2
        radius = np.maximum(u - centre, centre - l) * (1 + 4 * UNIT)
        y, r = node.forward(centre, node.weights[0].array), node.forward(radius, node.magnitude)
        b = np.maximum(np.abs(low), np.abs(high))
        r = r + ((4 * node.shape[2] + 32) * UNIT * (mass + r + b) * MORE + TINY * node.shape[2])
        return y - r + low, y + r + high

    def offset(self, pairs: Pairs, slope: Array) -> Array:
        simple, found = whole(slope), []
        for p, q in pairs:
            moved = slope * q
            value = p - moved
            found.append(value - (2 * UNIT * (np.abs(value) + np.abs(moved)) + TINY) * ~simple)
        return functools.reduce(np.minimum, found)

    def plain(self, low: Array, high: Array, reach: Array) -> Prepared:
        return self.padded(None, None, low, high, 4 * self.loss * (np.abs(low) + np.abs(high)))

    def activation(self, below: Array, above: Array, low: Array, high: Array, reach: Array, constants: Any) -> Prepared:
        """constants: what is added to the activation's inputs, in intervals; paid here if given."""
        mass, rise = np.abs(low) + np.abs(high), below - above
        if constants is not None:
            most = np.maximum(*map(np.abs, constants))
            least, greatest = constants
            if min(below.min(), above.min()) >= 0:
                low, high = low + below * least, high + above * greatest
            else:
                low = low + np.minimum(below * least, below * greatest)
                high = high + np.maximum(above * least, above * greatest)
            mass, reach = mass + (np.abs(below) + np.abs(above)) * most, reach + most
        moved = (rise != 0) | ~whole(above)  # where multipliers are rounded
        turned = 8 * UNIT * (np.abs(above) + np.abs(rise)) * reach * moved
        return self.padded(rise, above, low, high, 4 * self.loss * mass + turned)

    def padded(self, rise: Array | None, above: Array | None, low: Array, high: Array, pad: Array) -> Prepared:
        return Prepared(rise, above, (low - pad) - (high + pad), high + pad)

    def least(self, v: Number, at: Prepared) -> Number:
        v = v.reshape(len(at.high), -1, at.high.shape[1])
        return dots(v, at.high) + dots(np.maximum(v, 0), at.low)

    def through(self, v: Number, at: Prepared, extra: Extra | None = None) -> tuple[Number, Array]:
        if at.below is None or at.above is None:
            return self.least(v, at), v
        v = v.reshape(len(at.high), -1, at.high.shape[1])
        positive = np.maximum(v, 0)
        cost = dots(v, at.high) + dots(positive, at.low)
        s = v * at.above[:, None]
        positive *= at.below[:, None]
        s += positive
        s = s.reshape(-1, s.shape[2])
        if extra is not None:
            s[extra.rows, extra.positions] += extra.numbers
            cost = cost + self.added(v.reshape(s.shape), s, extra)
        return cost, s

    def added(self, v: Array, s: Array, extra: Extra) -> Array:
        at = extra.rows, extra.positions
        pairs = np.where(v[at] >= 0, extra.below, extra.above)
        one, two, three = v[at] * pairs[:, 0], s[at] * pairs[:, 1], s[at] * extra.constants
        mass = np.abs(one).max(axis=0) + np.abs(two).max(axis=0) + np.abs(three).max(axis=0)
        paid = (one - two).min(axis=0) + three.min(axis=0) - (8 * UNIT + 2 * self.loss) * mass - TINY
        return np.bincount(extra.rows, paid, len(s))

    def sum(self, parts: list[Number], reach: Array) -> tuple[Number, Array]:
        mass = sum(np.abs(part) for part in parts)
        cost = dots(mass.reshape(len(reach), -1, reach.shape[1]), reach)
        return sum(parts), cost * (-UNIT * MORE * (len(parts) + 2))

    def in_ball(self, v: Number, box: Prepared, ball: Round, centre: Prepared, reach: Array) -> Number:
        rows = v.reshape(len(reach), -1, reach.shape[1])
        q = share(rows, box.high + box.low, box.high, ball)
        p = rows - q
        norm = np.abs(q).max(axis=2) if ball.norm == 1 else np.sqrt((q * q).sum(axis=2))
        lost = dots(np.abs(p), reach) * (2 * UNIT * MORE)  # as p is rounded
        paid = (norm.ravel() + TINY) * (ball.radius * (1 + 8 * self.loss)) + lost
        return self.least(p, box) + self.least(q, centre) - paid - TINY

    def linear(self, constant: Number, v: Number, reach: Array) -> tuple[Array, Array]:
        return self.down(constant), v

    def down(self, v: Number) -> Array:
        return np.where(np.isfinite(v), v, np.nan)

    def fractions(self, v: Number) -> list[Fraction]:
        return [Fraction(x) for x in v.tolist()]  # NaN and infinity raise


def whole(x: Array) -> Array:
    """Where multiplying by a number does not round."""
    return (x == 0) | (np.abs(x) == 1)


def dots(v: Array, x: Array) -> Array:
    """Products of rows (m, k, n) with vectors (m, n), end to end (m k,)."""
    return np.matmul(v, x[:, :, None]).ravel()


def clipped(lower: Array, upper: Array, constant: Array, A: Array) -> tuple[Array, Array, Array]:
    """Lower bounds (n,) over boxes (n, k) of constant + A x; what of the boxes these leave open."""
    reach = np.maximum(np.abs(lower), np.abs(upper))
    least = np.minimum(A * lower, A * upper)
    mass = np.abs(constant)[:, None] + (np.abs(A) * reach).sum(axis=1, keepdims=True)
    slack = mass * ((A.shape[1] + 16) * UNIT * MORE) + TINY
    bound = constant[:, None] + least.sum(axis=1, keepdims=True) - slack
    limit = (least - bound) / A  # beyond it, A x alone outweighs the rest
    limit = limit + np.sign(A) * (np.abs(limit) * 2.0**-50 + TINY)
    upper = np.where(A > 0, np.fmin(upper, limit), upper)
    return bound[:, 0], np.where(A < 0, np.fmax(lower, limit), lower), upper
