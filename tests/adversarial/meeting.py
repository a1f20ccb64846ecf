"""Specifications whose unsafe sets meet what a network reaches in one vertex, or miss it there by little.

The two outputs rise strictly along every input, so that each is least at a known corner of a box only: a set that asks
for this least value, and for more or less of the other output than is there, is met at that vertex or nowhere. Values
at corners are finite decimals, which the texts state to the last digit, in several ways; floats hold few of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

import numpy as np
from lines import Net
from rising import constants, mixed, piece, positive

SHAPES = ((1, 2), (1, 3), (1, 6), (1, 1, 2, 2), (1, 1, 3, 3))
GAPS = (1e-1, 1e-2, 1e-4, 1e-6)
Corner = list[Fraction]


@dataclass(frozen=True, eq=False)
class Case:
    """A network, what is stated of it, whether that is true, and the boxes' lower and upper corners."""

    seed: int
    shape: tuple[int, ...]
    content: bytes
    text: str
    safe: bool
    boxes: list[tuple[Corner, Corner]]


def network(seed: int, shape: tuple[int, ...], lower: Corner, upper: Corner) -> tuple[Net, str]:
    """Network `seed` for inputs on a segment: pieces that never fall, and the inputs themselves."""
    draw, net = np.random.default_rng([seed, 11]), Net(shape, lower, upper)
    x = mixed(net, draw, "x") if draw.random() < 0.3 else "x"
    for _ in range(int(draw.integers(1, 4))):
        x = piece(net, draw, x)
    flat = [name if len(net.course[name].shape) == 2 else
            net.moved("Flatten", name, lambda v: v.reshape(1, -1)) for name in (x, "x")]  # fmt: skip
    x = net.concat(*flat)
    return net, net.dense(x, positive(draw, 2, net.course[x].shape[1]) + 0.125, constants(draw, 2))


def outputs(seed: int, shape: tuple[int, ...], corner: Corner) -> list[Fraction]:
    """The exact outputs at a point."""
    net, y = network(seed, shape, corner, corner)
    return list(net.course[y].values[0].ravel())


def decimal(x: Fraction) -> str:
    """All digits of a number whose denominator has no prime factors but two and five."""
    places = max(x.denominator.bit_length(), 1)
    digits = abs(x) * 10**places
    assert digits.denominator == 1
    whole, rest = divmod(int(digits), 10**places)
    return f"{'-' * (x < 0)}{whole}.{str(rest).zfill(places).rstrip('0') or '0'}"


def stated(draw: np.random.Generator, x: Fraction) -> str:
    """A number in one of the ways to write it."""
    text, kind = decimal(x), int(draw.integers(4))
    if kind == 0:
        return f"(- {text[1:]})" if x < 0 else f"(+ {text} 0.0)"
    return decimal(x * 1000) + "e-3" if kind == 1 else text


def relation(draw: np.random.Generator, term: str, upper: bool, x: Fraction) -> str:
    """That a term is at most (`upper`) or at least a number."""
    if draw.random() < 0.5:
        return f"({'<=' if upper else '>='} {term} {stated(draw, x)})"
    return f"({'>=' if upper else '<='} {stated(draw, x)} {term})"


def unsafe(draw: np.random.Generator, low: Sequence[Fraction], high: Sequence[Fraction], gap: Fraction) -> list[str]:
    """Half-spaces that no outputs between those at two corners meet at once if `gap` is above zero; else some do."""
    top, kind = bool(draw.integers(2)), int(draw.integers(5))
    one, two = high if top else low
    away = -gap if top else gap  # from the corner into what is reached
    sides = [relation(draw, "Y_0", not top, one), relation(draw, "Y_1", top, two + away)]
    if kind == 0:
        return [relation(draw, "Y_0", not top, one - away)]
    if kind == 1:
        return [relation(draw, "(+ Y_0 (* 2.0 Y_1))", not top, one + 2 * two - away)]
    if kind == 2:  # one value
        return [relation(draw, "Y_1", side, two - max(gap, Fraction(0)) * (-1 if top else 1)) for side in (True, False)]
    if kind == 3:
        return sides[::-1]
    return [*sides, relation(draw, "(- Y_0 Y_1)", bool(draw.integers(2)), one - two)]  # which the vertex meets


def case(seed: int) -> Case:
    """Case `seed`: true for even ones. Others have a set that is met, about half of them at the vertex alone."""
    draw = np.random.default_rng([seed, 12])
    shape = SHAPES[int(draw.integers(len(SHAPES)))]
    size, whole = math.prod(shape), int(draw.choice([8, 10]))
    lower = [Fraction(int(n), whole) for n in draw.integers(-8, 9, size)]
    width = Fraction(int(draw.choice([1, 4, 16])), int(draw.choice([16, 1000])))
    upper = [x + width * int(k) for x, k in zip(lower, draw.integers(1, 4, size), strict=True)]
    cuts = sorted(
        {lower[0] + (upper[0] - lower[0]) * Fraction(int(k), 20) for k in draw.integers(1, 20, draw.integers(3))}
    )
    ends = [lower[0], *cuts, upper[0]]
    boxes = [([a, *lower[1:]], [b, *upper[1:]]) for a, b in pairwise(ends)]
    sets = [k for k in range(len(boxes)) for _ in range(int(draw.integers(1, 3)))]
    met, cases = int(draw.integers(len(sets))), []
    net, y = network(seed, shape, *boxes[0])
    for number, k in enumerate(sets):
        low, high = boxes[k]
        gap = Fraction(float(draw.choice(GAPS))).limit_denominator(10**7)
        if seed % 2 and number == met:
            gap = draw.choice([Fraction(0), -gap])
        ranges = [
            relation(draw, f"X_{i}", side, x) for side in (True, False) for i, x in enumerate(high if side else low)
        ]
        parts = unsafe(draw, outputs(seed, shape, low), outputs(seed, shape, high), gap)
        draw.shuffle(ranges)
        cases.append((ranges, parts))
    names = [*(f"X_{i}" for i in range(size)), "Y_0", "Y_1"]
    text = [f"(declare-const {name} Real)" for name in names]
    if len(boxes) == 1:
        text += [f"(assert {one})" for one in cases[0][0]]
        text += [f"(assert (or {' '.join('(and ' + ' '.join(parts) + ')' for _, parts in cases)}))"]
    else:
        text += [f"(assert (or {' '.join('(and ' + ' '.join(ranges + parts) + ')' for ranges, parts in cases)}))"]
    return Case(seed, shape, net.content(y), "\n".join(text) + "\n", seed % 2 == 0, boxes)
