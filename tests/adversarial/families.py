"""Families of puzzles, by seed: each misleads floating point, solvers or attacks in a way of its own."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise

import numpy as np
from puzzles import Layers, Puzzle, output
from valleys import absorbed, coarse, doubled, least, lifted, rescaled, valley

from verifier.spec.property import exact

# Zeros, subnormals, numbers that float32 absorbs or that overflow in products; ends of intervals.
STRANGE = (0.0, -0.0, 2.0**-149, -(2.0**-149), 2.0**-130, 2.0**-126, 0.1, -0.1, 1.0, -1.0, 3.0, -0.75, 2.0**24,
           -(2.0**60), 2.0**90)  # fmt: skip
ENDS = (*map(Fraction, ("0", "1/10", "-1/3", "1", "-1")), Fraction(2) ** -149, Fraction(-(2**100)), Fraction(2**30))


def claim(layers: Layers, value: Fraction, place: np.ndarray, margin: float) -> Puzzle:
    """The claim about the box [-1, 1] that a network of this least value has, but for rounding, this margin."""
    shift = float(Fraction(margin) - value)
    one = np.full(len(place), Fraction(1), dtype=object)
    puzzle = Puzzle(layers, -one, one, shift, value + Fraction(shift) > 0, place)
    assert puzzle.margin(place) == value + Fraction(shift), "the network was changed"
    return puzzle


def drawn(seed: int, sizes: Sequence[float]) -> tuple[np.random.Generator, float]:
    """The random numbers of case `seed`, and its margin: of one of these sizes, safe for even seeds."""
    return np.random.default_rng(seed), sizes[seed // 2 % len(sizes)] * (1 if seed % 2 == 0 else -1)


def scaled(seed: int) -> Puzzle:
    """Layers and neurons rescaled by powers of two up to 2^40."""
    draw, margin = drawn(seed, (1e-2, 1e-4, 1e-6))
    layers, *known = valley(draw, [1.0] * int(draw.integers(1, 4)))
    return claim(rescaled(draw, doubled(draw, layers), 40), *known, margin)


def huge(seed: int) -> Puzzle:
    """Rescaled up to 2^126: values that float32 cannot hold, though it may hold the weights."""
    draw, margin = drawn(seed, (1e-2, 1e-4, 1e-6))
    layers, *known = valley(draw, [1.0] * int(draw.integers(1, 4)))
    return claim(rescaled(draw, layers, 126), *known, margin)


def absorbing(seed: int) -> Puzzle:
    """Constants from 2^4 to 2^57, more than 1e17, added and taken back."""
    draw, margin = drawn(seed, (1e-1, 1e-3, 1e-6))
    layers, *known = valley(draw, [1.0] * int(draw.integers(1, 4)))
    for _ in range(int(draw.integers(1, 3))):
        constant = float(np.float32(2.0 ** draw.uniform(4, 57)))
        layers = (absorbed, lifted)[int(draw.integers(2))](draw, layers, constant)
    return claim(layers, *known, margin)


def tiny(seed: int) -> Puzzle:
    """A part whose weights are down to 1e-12 of the others', which decides."""
    draw, share = drawn(seed, (0.5, 1e-1, 1e-2))
    scales = [1.0, *np.exp2(-draw.integers(10, 41, int(draw.integers(1, 3))).astype(np.float64))]
    layers, *known = valley(draw, scales)
    return claim(layers, *known, share * min(scales))


def close(seed: int) -> Puzzle:
    """Margins from 1e-5 down to 1e-12."""
    draw, margin = drawn(seed, [10.0**-k for k in range(5, 13)])
    layers, *known = valley(draw, [1.0] * int(draw.integers(1, 4)), hidden=(3,) if seed % 3 else (3, 2))
    return claim(layers, *known, margin)


def needle(seed: int) -> Puzzle:
    """A positive network minus K relu(1 - |x - c|_1 / w): a counterexample near the border that is hard to meet."""
    draw, margin = drawn(seed, (1e-1, 1e-3, 1e-5))
    size, width = int(draw.integers(2, 5)), 2.0 ** -int(draw.integers(2, 9))
    base, value, _ = valley(draw, [1.0] * size, hidden=(3,), extra=0)
    c = coarse(draw, size, most=16)
    c[int(draw.integers(size))] = 1 - 2.0**-9
    point = exact(c)
    # Units: those of the base, then |x - c| by two neurons for each input; then the base's value and the needle.
    (weight, bias), (row, constant) = base
    first = (np.vstack((weight, np.eye(size), -np.eye(size))), np.concatenate((bias, -c, c)))
    lift = float(math.ceil(2 - value))  # keeps the base's value positive, so that ReLU lets it pass
    second = (
        np.vstack((np.append(row, np.zeros((1, 2 * size)), axis=1), np.append(0 * row, np.full(2 * size, -1 / width)))),
        np.array([constant[0] + lift, 1.0]),
    )
    if margin > 0:
        height = float(np.float32(float(value) + lift - margin))
        value_there = value + Fraction(lift) - Fraction(height)  # a lower bound
        layers = [first, second, (np.array([[1.0, -height]]), np.zeros(1))]
        return replace(claim_within(layers, point), safe=value_there > 0)
    height = float(np.float32(float(output(base, point)[0]) + lift - margin))
    return claim_within([first, second, (np.array([[1.0, -height]]), np.zeros(1))], point)


def claim_within(layers: Layers, point: np.ndarray) -> Puzzle:
    """The claim that a network is positive on [-1, 1], which a point may refute."""
    one = np.full(len(point), Fraction(1), dtype=object)
    return Puzzle(layers, -one, one, 0.0, output(layers, point)[0] > 0, point)


def single_only(seed: int) -> Puzzle:
    """Even seeds: above zero in real arithmetic, below where float32 absorbs x; odd seeds: the other way round."""
    draw, gap = drawn(seed, (1e-1, 1e-3, 1e-6))
    size = int(draw.integers(1, 4))
    constant = float(np.float32(2.0 ** draw.integers(25, 57)))
    # relu(relu(x + L) - L) - relu(x) is 0; in float32 it is -x.
    eye, none = np.eye(size), np.zeros((size, size))
    first = (np.vstack((eye, eye)), np.repeat([constant, 0.0], size))
    second = (np.block([[eye, none], [none, eye]]), np.repeat([-constant, 0.0], size))
    weights = draw.integers(8, 17, size) / 16
    row = np.concatenate((weights, -weights))[None]
    layers = [first, second, (row if gap > 0 else -row, np.zeros(1))]
    low, high = exact(draw.integers(4, 8, size) / 16), exact(draw.integers(8, 16, size) / 16)
    return Puzzle(layers, low, high, gap, gap > 0, high)


def edge(seed: int) -> Puzzle:
    """Zeros of both signs, subnormals, overflow, points for boxes, dead neurons, decimals, and equality."""
    draw = np.random.default_rng(seed)
    sizes = (1, *draw.integers(1, 4, int(draw.integers(1, 4))), 1)
    pool = np.array(STRANGE[: int(draw.integers(3, len(STRANGE) + 1))] if draw.random() < 0.5 else STRANGE[6:12])
    layers = []
    for n, m in pairwise(sizes):
        weight, bias = (np.float32(draw.choice(pool, shape)).astype(np.float64) for shape in ((m, n), (m,)))
        layers.append((weight, bias * (draw.random() < 0.7)))
    one, two = (ENDS[int(draw.integers(len(ENDS) if draw.random() < 0.3 else 5))] for _ in "ab")
    low, high = sorted((one, one if draw.random() < 0.3 else two))
    value, place = least(layers, low, high)
    shift = float(-value)
    kind = int(draw.integers(3))  # equality, or one step to either side of it
    shift = shift if kind == 0 else math.nextafter(shift, math.inf if kind == 1 else -math.inf)
    low, high, place = (np.array([x], dtype=object) for x in (low, high, place))
    return Puzzle(layers, low, high, shift, value + Fraction(shift) > 0, place)


FAMILIES: dict[str, Callable[[int], Puzzle]] = {
    "scaled": scaled,
    "huge": huge,
    "absorbing": absorbing,
    "tiny": tiny,
    "close": close,
    "needle": needle,
    "single_only": single_only,
    "edge": edge,
}
