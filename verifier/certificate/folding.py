"""Constants that are computed from constants, by exact fractions. One part of the stand-alone checker."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np

if __package__:
    from verifier.certificate.nodes import UNIT, Array, need
else:  # run as a file, with nodes.py beside it
    from nodes import UNIT, Array, need  # type: ignore

MOST_PRODUCTS = 1 << 18
OFF = 4 * UNIT


class Near(np.ndarray):
    """Constants that float64 does not hold: their true values are within OFF of these, relatively."""


def power(x: Fraction, y: Fraction) -> Fraction:
    """x^y, for exponents that are halves of whole numbers; within UNIT of it."""
    need(y.denominator <= 2 and abs(y) <= 8 and (x > 0 or (y.denominator == 1 and y > 0)), "a power of constants")
    if y.denominator == 1:
        return x**y.numerator
    whole = x ** abs(y.numerator)
    shift = 2 * (64 + max(0, whole.denominator.bit_length() - whole.numerator.bit_length()))
    root = Fraction(math.isqrt((whole.numerator << 2 * shift) // whole.denominator), 1 << shift)
    if root * root != whole:
        root += Fraction(1, 1 << (shift + 1))  # then no float64 number equals it
    return root if y > 0 else 1 / root


POWERS: Any = np.frompyfunc(power, 2, 1)
FOLDED: dict[str, Callable[..., Any]] = {
    "Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Div": np.divide, "Neg": np.negative, "MatMul": np.matmul,
    "Pow": POWERS,
    "Sqrt": lambda x: POWERS(x, Fraction(1, 2)),
    "Reciprocal": lambda x: Fraction(1) / x,
}  # fmt: skip


def folded(op: str, inputs: list[Array]) -> Array:
    """What an operator makes of constants, as `Near` where float64 does not hold all of it."""
    finite = all(np.isfinite(x).all() and x.dtype.kind in "fi" for x in inputs)
    size = math.prod(x.size for x in inputs) if op == "MatMul" else max(x.size for x in inputs)
    need(finite and size < MOST_PRODUCTS, f"{op} on these constants is not supported")
    exact = FOLDED[op](*(np.frompyfunc(Fraction, 1, 1)(x.astype(np.float64).astype(object)) for x in inputs))
    found = np.asarray(exact).astype(np.float64)
    need(np.isfinite(found).all() and (np.abs(found) > 2.0**-900)[found != 0].all(), "a constant is too large or small")
    return found if bool(np.all(found == exact)) else found.view(Near)
