"""Functions whose least value is known, written so that bounds do not see it, of many inputs, on boxes and balls.

The plain function is linear, or never falls along any input (its weights are not negative), so that it is least at a
known point. What hides that computes nothing: a network less the same network in other numbers, and mixtures of values
that the next layer takes apart again. Signs of inputs are turned at random.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

import numpy as np
import torch
from puzzles import Layers, Puzzle, output
from valleys import block_diagonal, coarse

from verifier.spec.property import HalfSpaces, Property, Region, exact
from verifier.spec.robustness import ball

TRIPLES = ((3, 4), (1, 2, 2), (2, 3, 6), (4, 4, 7), (1, 4, 8), (2, 4, 5, 6), (1, 1, 3, 5))  # the squares add up to one
GAPS = (1e-1, 1e-2, 1e-3, 1e-5, 1e-7)


@dataclass(frozen=True, eq=False)
class Ball(Puzzle):
    """A puzzle about a ball in some norm, beside its box."""

    region: Region

    @property
    def prop(self) -> Property:
        unsafe = HalfSpaces(torch.ones(1, 1, dtype=torch.float64), torch.tensor([self.shift], dtype=torch.float64))
        return Property(self.region, (unsafe,))


# --- Plain functions. -------------------------------------------------------------------------------------------------
def rising(draw: np.random.Generator, inputs: int, depth: int) -> Layers:
    """A network that never falls along an input: least at the lower corner of a box."""
    sizes = (inputs, *draw.integers(2, 6, depth), 1)
    return [(np.abs(coarse(draw, n, m)) * (draw.random((n, m)) < 0.7), coarse(draw, n)) for m, n in pairwise(sizes)]


def passed_on(weight: np.ndarray, depth: int) -> Layers:
    """A linear function (1, inputs) behind so many layers of ReLUs, each of which hands z on as relu(z) - relu(-z)."""
    both, back = np.array([[1.0], [-1.0]]), np.array([[1.0, -1.0]])
    eye = np.eye(weight.shape[1])
    first = np.kron(both, eye)
    middle = [np.kron(both @ back, eye)] * (depth - 1)
    parts = [first, *middle, weight @ np.kron(back, eye)] if depth else [weight]
    return [(part, np.zeros(len(part))) for part in parts]


# --- Disguises. -------------------------------------------------------------------------------------------------------
def beside(one: Layers, two: Layers) -> Layers:
    """The sum of two networks of the same inputs and depth."""
    made: Layers = []
    for i, ((A, a), (B, b)) in enumerate(zip(one, two, strict=True)):
        last = i == len(one) - 1
        weight = (
            np.hstack((A, B))
            if last and i
            else A + B
            if last
            else np.vstack((A, B))
            if not i
            else block_diagonal([A, B])
        )
        made.append((weight, a + b if last else np.append(a, b)))
    return made


def nothing(draw: np.random.Generator, inputs: int, depth: int) -> Layers:
    """A network less the same one with its neurons scaled by powers of two, in another order, some of them halved."""
    sizes = (inputs, *draw.integers(2, 6, depth), 1)
    one = [(coarse(draw, n, m), coarse(draw, n)) for m, n in pairwise(sizes)]
    two = [(weight.copy(), bias.copy()) for weight, bias in one]
    for i in range(depth):
        (weight, bias), (after, c) = two[i], two[i + 1]
        order = np.repeat(np.arange(len(bias)), draw.integers(1, 3, len(bias)))
        share = 1.0 / np.bincount(order)[order]  # 1 or 1/2
        factor = 2.0 ** draw.integers(-6, 7, len(order))
        order, share = (x[place] for place in [draw.permutation(len(order))] for x in (order, share))
        two[i] = weight[order] * factor[:, None], bias[order] * factor
        two[i + 1] = after[:, order] * (share / factor), c
    return beside(one, [*two[:-1], (-two[-1][0], -two[-1][1])])


def mixed(draw: np.random.Generator, layers: Layers) -> Layers:
    """One more layer of ReLUs in front: sums of the inputs, which the first layer takes apart again."""
    weight, bias = layers[0]
    n = weight.shape[1]
    some = draw.random((n, n)) < 2 / n  # few, so that float32 holds all numbers
    below = np.tril(draw.integers(-1, 2, (n, n)) * some, -1) + np.eye(n)  # as is its inverse, of whole numbers
    back = np.rint(np.linalg.inv(below))
    shift = coarse(draw, n)
    assert (below @ back == np.eye(n)).all()
    front = np.vstack((below, -below)), np.concatenate((shift, -shift))
    back = weight @ back
    return [front, (np.hstack((back, -back)), bias - back @ shift), *layers[1:]]


def turned(
    draw: np.random.Generator, layers: Layers, low: np.ndarray, high: np.ndarray, place: np.ndarray
) -> tuple[Layers, np.ndarray, np.ndarray, np.ndarray]:
    """With the signs of some inputs changed, and their intervals."""
    sign = draw.choice([-1, 1], len(low))
    (weight, bias), *rest = layers
    lower, upper = np.where(sign > 0, low, -high), np.where(sign > 0, high, -low)
    return [(weight * sign, bias), *rest], lower, upper, place * sign


def hidden(draw: np.random.Generator, layers: Layers, inputs: int) -> Layers:
    """Under one disguise or several."""
    for _ in range(int(draw.integers(0, 3))):
        layers = beside(layers, nothing(draw, inputs, len(layers) - 1)) if len(layers) > 1 else layers
    return mixed(draw, layers) if len(layers) == 1 or draw.random() < 0.5 else layers


# --- Families. --------------------------------------------------------------------------------------------------------
def shifted(draw: np.random.Generator, seed: int, value: Fraction) -> float:
    """What makes a least value a margin of one of several sizes, or one float beside zero; above it for even seeds."""
    sign = 1 if seed % 2 == 0 else -1
    gap = Fraction(GAPS[seed // 2 % len(GAPS)]) * sign
    if draw.random() < 0.2:
        nearest = float(-value)
        return math.nextafter(nearest, math.inf * sign)
    return float(gap - value)


def corner(seed: int) -> Puzzle:
    """Functions that never fall along any input, up to 24 of these, on boxes of any widths."""
    draw = np.random.default_rng([seed, 7])
    inputs, depth = int(draw.choice([1, 2, 2, 4, 8, 24])), int(draw.integers(1, 3))
    middle, reach = exact(coarse(draw, inputs)), exact(np.abs(coarse(draw, inputs, most=16)))
    layers, low, high, place = turned(draw, rising(draw, inputs, depth), middle - reach, middle + reach, middle - reach)
    value = output(layers, place)[0]
    layers = hidden(draw, layers, inputs)
    assert output(layers, place)[0] == value, "the network was changed"
    shift = shifted(draw, seed, value)
    return Puzzle(layers, low, high, shift, value + Fraction(shift) > 0, place)


def sphere(seed: int) -> Puzzle:
    """Linear functions on balls in all norms, whose least value is rational."""
    draw = np.random.default_rng([seed, 8])
    weights = np.array(TRIPLES[int(draw.integers(len(TRIPLES)))]) / 4.0
    weights = draw.permutation(weights) * draw.choice([-1, 1], len(weights))
    if draw.random() < 0.5:  # inputs that do not count
        weights = np.append(weights, np.zeros(int(draw.integers(1, 8))))
    norm, eps = ("linf", "l2", "l1")[seed // 2 % 3], Fraction(int(draw.integers(1, 17)), 16)
    centre, w = exact(coarse(draw, len(weights))), exact(weights)
    step = {
        "linf": lambda: np.array([Fraction(int(np.sign(x))) for x in weights], dtype=object),
        "l2": lambda: w / Fraction(math.isqrt(int(16 * (w @ w)))) * 4,
        "l1": lambda: np.array(
            [Fraction(int(i == np.abs(weights).argmax())) * int(np.sign(x)) for i, x in enumerate(weights)],
            dtype=object,
        ),
    }[norm]()
    place = centre - step * eps
    layers = hidden(draw, passed_on(weights[None], int(draw.integers(0, 3))), len(weights))
    value = output(layers, place)[0]
    assert value == w @ place, "the network was changed"
    region = ball(centre.astype(np.float64), eps, norm, None, None)
    shift = shifted(draw, seed, value)
    return Ball(layers, region.lower, region.upper, shift, value + Fraction(shift) > 0, place, region)


DISGUISED: dict[str, Callable[[int], Puzzle]] = {"corner": corner, "sphere": sphere}
