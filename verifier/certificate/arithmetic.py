"""What the two arithmetics of the stand-alone checker share. Both are rigorous and without tolerance.

Exact (exact.py): integers times a power of two, matrix products by limbs so small that float64 multiplies and adds them
without rounding. Rounded (rounded.py): float64; what its rounding may lose is paid in advance, by numbers that do not
depend on the rows that are pulled back, so that a pull takes a few operations on arrays only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

if __package__:
    from verifier.certificate.nodes import UNIT, Array
else:  # run as a file, with nodes.py beside it
    from nodes import UNIT, Array  # type: ignore

TINY, MORE = 2.0**-1000, 1 + 2.0**-20  # MORE covers the rounding of sums of nonnegative terms
Number = Any  # a float64 array, or a pair that stands for such an array in exact arithmetic
Pairs = list[tuple[Array, Array]]
Bilinear = Callable[[Array, Array], Array]


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

    def at(self, regions: Array, columns: Array | None = None) -> Prepared:
        """Of some regions only, and some columns."""
        part = self if columns is None else [x if x is None else x[:, columns] for x in self]
        made: list[Any] = [x if x is None or len(x) == 1 else x[regions] for x in part]
        return Prepared(*made)

    def seen(self, regions: Array, columns: Array) -> Prepared:
        """Of some regions, each at columns (regions, k) of its own."""
        made: list[Any] = [x if x is None else picked(x, regions, columns) for x in self]
        return Prepared(*made)

    def changed(self, columns: Array, part: Prepared) -> Prepared:
        """With what `part` says of some columns."""
        made: list[Any] = []
        for whole, new in zip(self, part, strict=True):
            made.append(None if whole is None else np.repeat(whole, len(part.high) // len(whole), axis=0))
            if whole is not None:
                made[-1][:, columns] = new
        return Prepared(*made)


def picked(x: Array, regions: Array, columns: Array) -> Array:
    """What x (regions, n), or (1, n) where all share it, holds at columns (m, k) of regions (m,)."""
    return x.take(columns if len(x) == 1 else columns + regions[:, None] * x.shape[1])


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


def whole(x: Array) -> Array:
    """Where multiplying by a number does not round."""
    return (x == 0) | (np.abs(x) == 1)


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
