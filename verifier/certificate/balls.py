"""Least values of linear forms over the meeting of a box and a ball; like `checker.py` it needs only numpy and onnx.

For any split v = p + q, v . x >= p . x over the box + q . x over the ball, and the latter is q . centre - radius |q| in
the dual norm. The best split is a water line: the form pulls x as far as it goes, coordinates one by one come to the
sides of the box, and q is what is left of v there (2-norm: in proportion to the way; 1-norm: a height that all share).
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import NamedTuple

import numpy as np

if __package__:
    from verifier.certificate.nodes import Array, need
    from verifier.certificate.properties import Ball
else:  # run as a file, with the others beside it
    from nodes import Array, need  # type: ignore
    from properties import Ball  # type: ignore


class Round(NamedTuple):
    """A ball in float64: the radius from above, and by input (1, n) what holds the centre, and whether it counts."""

    norm: int
    radius: float
    low: Array
    high: Array
    counts: Array


def rounded(ball: Ball, inputs: int) -> Round:
    """The least such numbers."""
    low, high, counts = np.zeros((1, inputs)), np.zeros((1, inputs)), np.zeros((1, inputs), dtype=bool)
    for i, x in ball.centre.items():
        near = float(x)
        low[0, i] = math.nextafter(near, -math.inf) if near > x else near
        high[0, i] = math.nextafter(near, math.inf) if near < x else near
        counts[0, i] = True
    root = ball.limit
    if ball.norm == 2:  # not below the square root, by little
        shift = 64 + max(0, ball.limit.denominator.bit_length() - ball.limit.numerator.bit_length())
        whole = math.ceil(ball.limit * 4**shift)
        root = Fraction(math.isqrt(whole - 1) + 1 if whole else 0, 2**shift)
    radius = float(root)
    radius = radius if root <= radius else math.nextafter(radius, math.inf)
    need(math.isfinite(radius), "a ball is too large")
    return Round(ball.norm, radius, low, high, counts)


def share(v: Array, lower: Array, upper: Array, ball: Round) -> Array:
    """The part q of forms v (m, k, n) that the ball pays, where boxes (m or 1, n) pay the rest; about the best."""
    centre = (ball.low + ball.high) / 2
    down, up = (np.maximum(way, 0)[:, None] for way in (centre - lower, upper - centre))
    way = np.where(ball.counts, np.where(v >= 0, down, up), 0)  # as far as the box lets the form pull x
    size = np.where(ball.counts, np.abs(v), 0)
    if ball.norm == 1:
        order = np.argsort(-size, axis=2)
        used = np.cumsum(np.take_along_axis(way, order, 2), axis=2)
        last = np.argmax(used >= ball.radius, axis=2)[..., None]  # the first that does not get to the side
        level = np.take_along_axis(np.take_along_axis(size, order, 2), last, 2)
        line = np.where(used[..., -1:] >= ball.radius, level, 0)
        return np.sign(v) * np.minimum(size, line)
    ratio = np.divide(size, way, out=np.full_like(size, math.inf), where=way > 0)
    order = np.argsort(-ratio, axis=2)  # those first that come to the side first
    ratio, ways, sizes = (np.take_along_axis(x, order, 2) for x in (ratio, way, size))
    squares = np.cumsum((ways**2), axis=2)
    free = np.cumsum((sizes**2)[..., ::-1], axis=2)[..., ::-1]
    # Where the first i are at the sides, the others go size / line, as far as the ball lets them.
    left = np.maximum(ball.radius**2 - (squares - ways**2), 0)
    line = np.sqrt(np.divide(free, left, out=np.full_like(free, math.inf), where=left > 0))
    first = np.argmax(line >= ratio, axis=2)[..., None]
    line = np.where(squares[..., -1:] > ball.radius**2, np.take_along_axis(line, first, 2), 0)
    return np.sign(v) * np.where(line > 0, np.fmin(size, way * line), 0)
