"""Networks whose least value is known exactly, and ways of rewriting them that leave the function as it is.

A valley is a sum of deep networks of one input each, whose least value is found exactly at a rational point, and of
neurons that are off at that point. Rewritten, it is rescaled, or lifted by constants that absorb its values in floating
point (Zombori et al. 2021), or some of its parts are tiny.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise

import numpy as np
from puzzles import Layers

from verifier.spec.property import exact


def coarse(draw: np.random.Generator, *shape: int, most: int = 24) -> np.ndarray:
    """Multiples of 1/16 of size 1.5 at most."""
    return draw.integers(-most, most + 1, shape) / 16


def least(layers: Layers, low: Fraction, high: Fraction) -> tuple[Fraction, Fraction]:
    """The exact minimum on [low, high] of a network of one input and one output, and where it is reached."""
    points = [low, high]
    values = [np.array([x], dtype=object) for x in points]
    for i, (weight, bias) in enumerate(layers):
        if i:
            points, values = bent(points, values)
            values = [np.maximum(v, Fraction(0)) for v in values]
        values = [exact(weight) @ v + exact(bias) for v in values]
    return min((v[0], x) for v, x in zip(values, points, strict=True))


def bent(points: list[Fraction], values: list[np.ndarray]) -> tuple[list[Fraction], list[np.ndarray]]:
    """The points between which values are linear, with those where one of them is zero."""
    more = dict(zip(points, values, strict=True))
    for (a, u), (b, v) in pairwise(zip(points, values, strict=True)):
        for one, two in zip(u, v, strict=True):
            if one * two < 0:
                share = one / (one - two)
                more[a + share * (b - a)] = u + share * (v - u)
    return sorted(more), [more[x] for x in sorted(more)]


def valley(
    draw: np.random.Generator,
    scales: Sequence[float],
    hidden: Sequence[int] = (3, 2),
    extra: int = 2,
    mirror: bool = False,
) -> tuple[Layers, Fraction, np.ndarray]:
    """A network of len(scales) inputs in [-1, 1]; its least value, and where. scales: of each input's part.

    extra: how many neurons of all inputs are added that are off at that place. mirror: whether the first hidden neurons
    come in pairs that read the same but for the sign.
    """
    parts, lowest, total = [], [], Fraction(0)
    for scale in scales:
        sizes = (1, *hidden, 1)
        layers = [(coarse(draw, n, m), coarse(draw, n)) for m, n in pairwise(sizes)]
        if mirror:
            (weight, bias), (after, c), *rest = layers
            more = coarse(draw, *after.shape)
            both = (np.vstack((weight, -weight)), np.append(bias, -bias))
            layers = [both, (np.hstack((after, more)), c), *rest]
        where = int(draw.integers(len(layers)))
        layers[where] = (layers[where][0] * scale, layers[where][1] * scale)
        for later in range(where + 1, len(layers)):
            layers[later] = (layers[later][0], layers[later][1] * scale)
        value, x = least(layers, Fraction(-1), Fraction(1))
        parts.append(layers)
        lowest.append(x)
        total += value
    place = np.array(lowest, dtype=object)
    rows = coarse(draw, extra, len(scales))
    off = np.array([-math.ceil(16 * sum(exact(row) * place)) / 16 for row in rows])
    joined: Layers = []
    for depth in range(len(hidden) + 1):
        last = depth == len(hidden)
        blocks = [part[depth][0] for part in parts]
        if last:
            weight = np.concatenate([*blocks, np.abs(coarse(draw, 1, extra))], axis=1)
            joined.append((weight, np.array([sum(float(part[depth][1][0]) for part in parts)])))
        else:
            weight = block_diagonal([*blocks, rows if not depth else np.eye(extra)])
            if not depth:  # all extra neurons read all inputs
                weight = np.concatenate((block_diagonal(blocks), rows))
            bias = np.concatenate([*(part[depth][1] for part in parts), off if not depth else np.zeros(extra)])
            joined.append((weight, bias))
    return joined, total, place


def block_diagonal(blocks: Sequence[np.ndarray]) -> np.ndarray:
    height, width = (sum(block.shape[axis] for block in blocks) for axis in (0, 1))
    full, i, j = np.zeros((height, width)), 0, 0
    for block in blocks:
        full[i : i + block.shape[0], j : j + block.shape[1]] = block
        i, j = i + block.shape[0], j + block.shape[1]
    return full


def rescaled(draw: np.random.Generator, layers: Layers, most: int) -> Layers:
    """Hidden layers, or neurons on their own, times powers of two up to 2^most, which the next layer takes back."""
    changed = [(weight.copy(), bias.copy()) for weight, bias in layers]
    for (weight, bias), (after, _) in pairwise(changed):
        powers = draw.integers(-most, most + 1, len(bias) if draw.random() < 0.5 else 1)
        factor = np.broadcast_to(np.exp2(powers.astype(np.float64)), bias.shape)
        weight *= factor[:, None]
        bias *= factor
        after /= factor
    return changed


def absorbed(draw: np.random.Generator, layers: Layers, constant: float) -> Layers:
    """Two neurons of a constant value, which some neurons of the next layer add and subtract."""
    at = int(draw.integers(len(layers) - 1))
    (weight, bias), (after, c) = layers[at], layers[at + 1]
    sign = coarse(draw, len(c), 1, most=1) * 16
    first = (np.vstack((weight, np.zeros((2, weight.shape[1])))), np.append(bias, [constant, constant]))
    return [*layers[:at], first, (np.hstack((after, sign, -sign)), c), *layers[at + 2 :]]


def lifted(draw: np.random.Generator, layers: Layers, constant: float) -> Layers:
    """A layer before the first that adds a constant to every input, which the first takes back; constant: >= 1."""
    weight, bias = layers[0]
    size = weight.shape[1]
    before = (np.vstack((np.eye(size), np.zeros((1, size)))), np.full(size + 1, constant))
    return [before, (np.hstack((weight, -weight.sum(axis=1, keepdims=True))), bias), *layers[1:]]


def doubled(draw: np.random.Generator, layers: Layers) -> Layers:
    """A hidden neuron split in two that are each half of it, and one that is never on."""
    at = int(draw.integers(len(layers) - 1))
    (weight, bias), (after, c) = layers[at], layers[at + 1]
    i = int(draw.integers(len(bias)))
    both = (np.vstack((weight, weight[i], 0 * weight[i])), np.append(bias, [bias[i], -1.0]))
    after = np.hstack((after, after[:, [i]] / 2, np.full((len(c), 1), 1.5)))
    after[:, i] /= 2
    return [*layers[:at], both, (after, c), *layers[at + 2 :]]
