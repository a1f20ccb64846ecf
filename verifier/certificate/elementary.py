"""Elementary functions with proved errors. One part of the stand-alone checker; it needs only numpy.

Each takes float64 numbers and returns pairs (y, e): the exact value lies within e of y. Only operations that IEEE 754
rounds correctly are used: sums, products, quotients and square roots, each within UNIT of its result. An error of
CLOSE, relative, is 32 of these, and more than what the few that count here can add up to.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np

Array = np.ndarray
Near = tuple[Array, Array]

CLOSE, TINY = 2.0**-48, 2.0**-1000  # TINY is more than underflow takes away
BITS = 200  # of numbers that constants are computed from
LOG2 = Fraction("0.69314718055994530941723212145817656807550013436025525412068000949339362196969")
PI = Fraction("3.14159265358979323846264338327950288419716939937510582097494459230781640628620")
FAR = 1024.0  # beyond it sine and cosine are not computed


def halves(constant: Fraction) -> tuple[float, float]:
    """A number in two parts, of which the first has 40 bits: products with integers below 2^13 are exact."""
    high = math.ldexp(math.floor(constant * 2**40), -40)
    return high, float(constant - Fraction(high))


def about(y: Array) -> Array:
    """What rounding makes of it at most."""
    return np.abs(y) * CLOSE + TINY


def exp(z: Array) -> Near:
    """Of z <= 700."""
    x, (high, low) = np.maximum(z, -700.0), halves(LOG2)
    k = np.rint(x / math.log(2))
    r = (x - k * high) - k * low  # within 2^-53 of it, and at most 0.35: its series has 18 terms
    series = functools.reduce(lambda total, i: 1 + r / i * total, range(18, 0, -1), np.ones_like(r))
    y = np.ldexp(series, k.astype(np.int64))
    return y, y * np.where(z < -700, 1.0, CLOSE)


def twice_artanh(s: Array) -> Array:
    """log((1 + s) / (1 - s)) where |s| <= 1/3: what is left out is less than 2^-60 of it."""
    square = s * s
    return 2 * s * functools.reduce(lambda total, n: 1 / (2 * n + 1) + square * total, range(19, -1, -1), square * 0)


def log(z: Array) -> Near:
    """Of z > 0."""
    m, k = np.frexp(z)
    small = m < math.sqrt(0.5)
    m, k = np.where(small, 2 * m, m), k - small
    high, low = halves(LOG2)
    y = k * high + (k * low + twice_artanh((m - 1) / (m + 1)))  # m - 1 is exact; little cancels
    return y, about(y)


def log1p(t: Near) -> Near:
    """log(1 + t) of t in [0, 1]."""
    y = twice_artanh(t[0] / (2 + t[0]))
    return y, about(y) + t[1]


def logistic(z: Array) -> Near:
    """1 / (1 + exp(-z))."""
    t, e = exp(-np.abs(z))
    y = np.where(z < 0, t, 1.0) / (1 + t)
    return y, 3 * about(y) + np.where(z < 0, 2 * e, e)


def bell(z: Array) -> Near:
    """The derivative of the logistic function."""
    t, e = exp(-np.abs(z))
    return t / ((1 + t) * (1 + t)), 4 * e


def tanh(z: Array) -> Near:
    t, e = exp(-2 * np.abs(z))
    return np.copysign((1 - t) / (1 + t), z), 4 * e + CLOSE


def sine(z: Array, quarter: int = 0) -> Near:
    """sin(z + quarter pi / 2) where |z| <= FAR."""
    high, low = halves(PI / 2)
    k = np.rint(z / (math.pi / 2))
    r = (z - k * high) - k * low  # within 2^-52 of it, and at most 0.79
    w, turn = r * r, (k.astype(np.int64) + quarter) % 4

    def alternating(first: int) -> Array:
        return functools.reduce(
            lambda total, n: 1 - w / (n * (n + 1)) * total, range(first + 20, first, -2), 1.0 + 0 * w
        )

    y = np.where(turn % 2 == 1, alternating(-1), r * alternating(0))
    return np.where(turn < 2, y, -y), np.full_like(y, CLOSE)


@functools.cache
def erf_table() -> Array:
    """The Taylor coefficients (15, 49) of the error function at 0, 1/8, ..., 6; what is left out within 1/16 of these
    is less than 2^-70 (by Cramer's bound of Hermite's polynomials)."""
    one = 1 << BITS
    root = math.isqrt(math.floor(PI * one * one))
    columns = []
    for i in range(49):
        power, value, n = one * i // 8, 0, 0
        while power:  # of exp(-x^2) integrated term by term; rounding errs by a few units of 2^-BITS a term
            value, n = value + power // (2 * n + 1), n + 1
            power = -power * i * i // (64 * n) if abs(power) > 1 else 0
        term, bell, n = one, 0, 0
        while term:
            bell, n = bell + term, n + 1
            term = -term * i * i // (64 * n) if abs(term) > 1 else 0
        rates, c = [Fraction(bell, one)], Fraction(i, 8)
        for n in range(13):
            rates.append(-2 * c * rates[n] - 2 * n * (rates[n - 1] if n else 0))
        scale = Fraction(2 * one, root)
        taylor = [Fraction(value, one)] + [rate / math.factorial(n + 1) for n, rate in enumerate(rates)]
        columns.append([float(scale * t) for t in taylor])
    return np.array(columns).T


def erf(z: Array) -> Near:
    """The error function, which is 1 but for 2^-55 beyond 6."""
    x = np.minimum(np.abs(z), 6.0)
    i = np.rint(8 * np.nan_to_num(x)).astype(np.int64)
    h = x - i / 8
    y = functools.reduce(lambda total, row: row[i] + h * total, reversed(erf_table()), np.zeros_like(h))
    return np.copysign(y, z), about(y)


def erf_slope(z: Array) -> Near:
    """Its derivative."""
    y = exp(-(z * z))[0] * (2 / math.sqrt(math.pi))
    return y, np.full_like(y, CLOSE)


@functools.cache
def atan_table() -> Array:
    """The arc tangents of 0, 1/8, ..., 1."""
    found = []
    for i in range(8):
        power, value, n = (1 << BITS) * i // 8, 0, 1
        while power:
            value, n = value + power // n, n + 2
            power = -power * i * i // 64 if abs(power) > 1 else 0
        found.append(math.ldexp(float(Fraction(value, 1 << 64)), 64 - BITS))
    return np.array([*found, math.pi / 4])


def atan(z: Array) -> Near:
    x = np.abs(z)
    x = np.where(x > 1, 1 / np.maximum(x, 1.0), x)
    i = np.rint(8 * np.nan_to_num(x)).astype(np.int64)
    t = (x - i / 8) / (1 + x * (i / 8))  # at most 1/16
    series = functools.reduce(lambda total, n: 1 / (2 * n + 1) - t * t * total, range(10, -1, -1), 0 * t)
    y = atan_table()[i] + t * series
    y = np.where(np.abs(z) > 1, math.pi / 2 - y, y)
    return np.copysign(y, z), about(y)


def relative(error: float, function: Callable[[Array], Array]) -> Callable[[Array], Near]:
    """A function of a few roundings, within `error` of its value."""

    def near(z: Array) -> Near:
        y = function(z)
        return y, np.abs(y) * error + TINY

    return near
