"""The checker's enclosures of smooth functions, and lines around them, against many digits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mpmath
import numpy as np
import pytest

from verifier.certificate import elementary
from verifier.certificate.curves import CURVES, LARGE, Curve, curve

Digits = Callable[[Any], Any]
mpf = mpmath.mpf

FUNCTIONS: dict[tuple[str, float], Digits] = {
    ("Sigmoid", 0.0): lambda z: 1 / (1 + mpmath.exp(-z)),
    ("Tanh", 0.0): mpmath.tanh,
    ("Erf", 0.0): mpmath.erf,
    ("Atan", 0.0): mpmath.atan,
    ("Softsign", 0.0): lambda z: z / (1 + abs(z)),
    ("Exp", 0.0): mpmath.exp,
    ("Log", 0.0): mpmath.log,
    ("Sqrt", 0.0): mpmath.sqrt,
    ("Reciprocal", 0.0): lambda z: 1 / z,
    ("Softplus", 0.0): lambda z: mpmath.log1p(mpmath.exp(z)),
    ("Gelu", 0.0): lambda z: z * mpmath.ncdf(z),
    ("Silu", 0.0): lambda z: z / (1 + mpmath.exp(-z)),
    ("HardSwish", 0.0): lambda z: z * min(max(z + 3, mpf(0)), mpf(6)) / 6,
    ("Sin", 0.0): mpmath.sin,
    ("Cos", 0.0): mpmath.cos,
    ("Elu", 1.0): lambda z: z if z > 0 else mpmath.expm1(z),
    ("Elu", 1.75): lambda z: z if z > 0 else 1.75 * mpmath.expm1(z),
    ("Power", 2.0): lambda z: z**2,
    ("Power", 3.0): lambda z: z**3,
    ("Power", 4.0): lambda z: z**4,
    ("Power", 7.0): lambda z: z**7,
}
ELEMENTARY: dict[str, tuple[Callable[[np.ndarray], elementary.Near], Digits, float, float]] = {
    "exp": (elementary.exp, mpmath.exp, -800, 700),
    "log": (elementary.log, mpmath.log, 5e-324, 1e300),
    "log1p": (lambda t: elementary.log1p((t, 0 * t)), mpmath.log1p, 0, 1),
    "logistic": (elementary.logistic, FUNCTIONS["Sigmoid", 0.0], -800, 800),
    "bell": (elementary.bell, lambda z: mpmath.exp(-z) / (1 + mpmath.exp(-z)) ** 2, -800, 800),
    "tanh": (elementary.tanh, mpmath.tanh, -400, 400),
    "sine": (elementary.sine, mpmath.sin, -1024, 1024),
    "cosine": (lambda z: elementary.sine(z, 1), mpmath.cos, -1024, 1024),
    "erf": (elementary.erf, mpmath.erf, -40, 40),
    "erf_slope": (elementary.erf_slope, lambda z: mpmath.exp(-z * z) * 2 / mpmath.sqrt(mpmath.pi), -40, 40),
    "atan": (elementary.atan, mpmath.atan, -1e300, 1e300),
}
POINTS = (0, 1e-300, 1e-16, 1e-8, 0.0625, 0.125, 0.75, 1, 1.2784645, 2, 3, 6, 20)  # and the same below zero
WIDTHS = (1e-16, 1e-12, 1e-6, 0.01, 0.5, 3, 20)


def exact(z: np.ndarray, function: Digits) -> np.ndarray:
    return np.vectorize(lambda x: function(mpf(float(x))), otypes=[object])(z)


@pytest.mark.parametrize("name", ELEMENTARY)
def test_the_error_of_an_elementary_function_is_what_it_says(name: str) -> None:
    function, digits, low, high = ELEMENTARY[name]
    draw = np.random.default_rng(0)
    z = np.concatenate((draw.uniform(max(low, -1e4), min(high, 1e4), 300), draw.normal(size=300) * 3,
                        10 ** draw.uniform(-320, 3, 100), POINTS, np.arange(0, 8, 0.0625), [low, high]))  # fmt: skip
    z = np.concatenate((z, -z))
    z = np.concatenate((z, np.nextafter(z, np.inf)))
    z = z[(z >= low) & (z <= high)]
    y, error = function(z)
    with mpmath.workdps(60):
        off = np.abs(exact(y, lambda x: x) - exact(z, digits))
        assert (off <= exact(error, lambda x: x)).all()
    assert (error <= 2.0**-44 * (1 + np.abs(y))).all()


def intervals(one: Curve) -> tuple[np.ndarray, np.ndarray]:
    """Around the cuts, turns and ends of the domain, of many widths, and points."""
    draw = np.random.default_rng(1)
    middles = np.array([x for p in (*POINTS, *one.cuts, 0.7517915246935645, np.pi / 2, np.pi) for x in (p, -p)])
    middles = np.concatenate((middles, draw.normal(size=20) * 3))
    widths = np.array([0, *WIDTHS])
    share = draw.random((len(middles), len(widths)))
    l, u = middles[:, None] - share * widths, middles[:, None] + (1 - share) * widths
    l, u = np.minimum(l, u).ravel()[None], np.maximum(l, u).ravel()[None]
    low, high = one.domain
    inside = (u > low) & (l < high)
    return np.maximum(l, low)[inside][None], np.minimum(u, high)[inside][None]


@pytest.mark.parametrize("key", FUNCTIONS, ids=str)
def test_lines_hold_and_are_close(key: tuple[str, float]) -> None:
    one, digits = curve(*key), FUNCTIONS[key]
    assert one is not None
    l, u = intervals(one)
    draw = np.random.default_rng(2)
    shares = np.concatenate((np.linspace(0, 1, 5), draw.random(3)))
    inner = np.stack([np.clip(p, l, u) for p in (*one.cuts, 0.0, -0.7517915246935645, -1.2784645427610738, -1.5)])
    z = np.concatenate((np.clip(l + shares[:, None, None] * (u - l), l, u), inner))
    slopes, _, _ = one.slopes(l, u)
    with mpmath.workdps(40):
        points, values = exact(z, lambda x: x), exact(z, digits)
        for slope in (*slopes[::2], np.zeros_like(l), draw.normal(size=l.shape) * 10 ** draw.uniform(-1, 6, l.shape)):
            m = exact(slope, lambda x: x)
            for above, least in ((False, np.minimum), (True, np.maximum)):
                pairs = one.points(l, u, slope, above)
                bound = least.reduce([exact(p, lambda x: x) - m * exact(q, lambda x: x) for p, q in pairs])
                best = least.reduce(values - m * points)
                assert ((bound >= best) if above else (bound <= best)).all()
    low, high = one.range(l, u)
    assert (low <= values.min(0)).all() and (high >= values.max(0)).all()
    narrow = (u - l < 1e-6) & (np.abs(l) < 4)
    near = np.asarray(values.max(0) - values.min(0), dtype=float) + 1e-12 * (1 + np.abs(high))
    assert (high - low <= 2 * near)[narrow].all()


def test_every_function_is_tested() -> None:
    assert {op for op, _ in FUNCTIONS} == {*CURVES, "Elu", "Power"}


@pytest.mark.parametrize("key", [("Log", 0.0), ("Sqrt", 0.0), ("Reciprocal", 0.0), ("Exp", 0.0), ("Power", 3.0)])
def test_what_leaves_the_domain_is_flagged_and_bounded_as_a_constant_beyond(key: tuple[str, float]) -> None:
    one = curve(*key)
    assert one is not None
    low, high = one.domain
    l, u = np.array([[low - 1 - abs(low), -LARGE * 4, high / 2]]), np.array([[low + 1, low + 1, high * 2]])
    assert one.leaves(l, u).all() and not one.leaves(np.array([[low]]), np.array([[high]])).any()
    z = np.clip(np.linspace(0, 1, 20)[:, None, None] * (u - l) + l, l, u)
    y, error = one.value(np.clip(z, low, high))
    for slope in (np.zeros_like(l), np.ones_like(l), -np.ones_like(l)):
        for above in (False, True):
            for p, q in one.points(l, u, slope, above):
                assert np.isfinite(p).all() and np.isfinite(q).all()
            ends = [p - slope * q for p, q in one.points(l, u, slope, above)]
            off = 1e-9 * (np.abs(y) + np.abs(z))
            if above:
                assert (y - slope * z <= np.maximum.reduce(ends) + error + off).all()
            else:
                assert (y - slope * z >= np.minimum.reduce(ends) - error - off).all()


def test_what_is_no_number_stays_none() -> None:
    nan = np.full((1, 1), np.nan)
    for key in FUNCTIONS:
        one = curve(*key)
        assert one is not None
        with np.errstate(all="ignore"):
            low, high = one.range(nan, nan)
        assert not (low > -np.inf).any() and not (high < np.inf).any()
