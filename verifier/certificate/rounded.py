"""Rounded arithmetic of the stand-alone checker: float64, with all that rounding may lose paid in advance."""

from __future__ import annotations

import functools
import math
from fractions import Fraction
from typing import Any

import numpy as np

if __package__:
    from verifier.certificate.arithmetic import MORE, TINY, Bilinear, Extra, Number, Pairs, Prepared, whole
    from verifier.certificate.balls import Round, share
    from verifier.certificate.nodes import UNIT, Array, Node, Weight, need
else:  # run as a file, with the others beside it
    from arithmetic import MORE, TINY, Bilinear, Extra, Number, Pairs, Prepared, whole  # type: ignore
    from balls import Round, share  # type: ignore
    from nodes import UNIT, Array, Node, Weight, need  # type: ignore


class Rounded:
    """Numbers are float64 arrays.

    With u = 2^-53, sums of n products are off by at most (n + 1) u / (1 - (n + 1) u) times the sum of the products'
    magnitudes, in any order (Higham 2002, section 3.1), and by underflow, which `Domains.slack` pays. additions: how
    many numbers are added up at most. Coefficients v are what they were computed to be: that the sum which is pulled on
    is another, by rounding, is paid with the constants of the op that computed them (see `Analysis.constants`).
    """

    name = "outward-rounded float64"
    unit, fuses, mirrors = UNIT * MORE, True, True

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
        y, r = node.forward(centre, node.weight.array), node.forward(radius, node.magnitude)
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
        return self.padded(None, None, low, high, np.abs(low) + np.abs(high))

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
        return self.padded(rise, above, low, high, mass, turned)

    def padded(
        self, rise: Array | None, above: Array | None, low: Array, high: Array, mass: Array, more: Any = 0.0
    ) -> Prepared:
        """TINY, as coefficients may be so large that what underflow takes from a part of tiny numbers counts."""
        pad = 4 * self.loss * (mass + TINY) + more
        return Prepared(rise, above, (low - pad) - (high + pad), high + pad)

    def least(self, v: Number, at: Prepared, both: bool = False) -> Number:
        """both: of v and of -v, whose parts below zero are those of v above zero less v. What is added up is at most
        three times what `pad` pays four times for.
        """
        v = v.reshape(len(at.high), -1, at.high.shape[1])
        one, two = dots(v, at.high), dots(np.maximum(v, 0), at.low)
        return np.stack((one + two, two - dots(v, at.low) - one)) if both else one + two

    def through(self, v: Number, at: Prepared, extra: Extra | None = None, both: bool = False) -> tuple[Number, Array]:
        if at.below is None or at.above is None:
            return self.least(v, at, both), v
        if both:  # the lines are parallel
            s = v.reshape(len(at.high), -1, at.high.shape[1]) * at.above[:, None]
            return self.least(v, at, both), s.reshape(-1, s.shape[2])
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

    def below_zero(self, v: Number, positions: Array, shares: Array) -> Number:
        """Shares (regions, k) of what coefficients v are below zero at positions (k,)."""
        part = np.minimum(v[:, positions], 0).reshape(len(shares), -1, len(positions))
        return (part * shares[:, None]).reshape(len(v), -1)

    def near(self, v: Number) -> tuple[Array, float]:
        return v, 0.0

    def sum(self, parts: list[Number], reach: Array) -> tuple[Number, Array]:
        mass = sum(np.abs(part) for part in parts)
        cost = dots(mass.reshape(len(reach), -1, reach.shape[1]), reach)
        return sum(parts), cost * (-UNIT * MORE * (len(parts) + 2))

    def in_ball(self, v: Number, box: Prepared, ball: Round, centre: Prepared, reach: Array) -> Number:
        rows = v.reshape(len(reach), -1, reach.shape[1])
        q = share(rows, box.high + box.low, box.high, ball)
        p = rows - q
        norm = np.abs(q).max(axis=2)
        if ball.norm == 2:  # squares of parts of the greatest, which do not underflow
            parts = np.divide(q, norm[..., None], out=np.zeros_like(q), where=norm[..., None] > 0)
            norm = norm * np.sqrt((parts * parts).sum(axis=2))
        lost = dots(np.abs(p), reach) * (2 * UNIT * MORE)  # as p is rounded
        paid = (norm.ravel() + TINY) * (ball.radius * (1 + 8 * self.loss)) + lost
        return self.least(p, box) + self.least(q, centre) - paid - TINY

    def linear(self, constant: Number, v: Number, reach: Array) -> tuple[Array, Array]:
        return self.down(constant), v

    def down(self, v: Number) -> Array:
        return np.where(np.isfinite(v), v, np.nan)

    def fractions(self, v: Number) -> list[Fraction]:
        return [Fraction(x) for x in v.tolist()]  # NaN and infinity raise


def dots(v: Array, x: Array) -> Array:
    """Products of rows (m, k, n) with vectors (m, n), end to end (m k,)."""
    return np.matmul(v, x[:, :, None]).ravel()
