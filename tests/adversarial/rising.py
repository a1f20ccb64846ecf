"""ONNX networks of many inputs and operators that never fall along an input: least and greatest at known corners.

So are sums and maxima of such, whatever is between. Mixtures of the inputs that are taken apart again hide it from
intervals. Values at a corner are rational and exact.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from functools import partial

import numpy as np
import torch
from lines import Net
from test_lines import Case, set_margin

from verifier.spec.property import HalfSpaces, Property, Region, exact

SHAPES = ((1, 3), (1, 6), (1, 20), (1, 1, 3, 3), (1, 2, 4, 4))
GAPS = (1e-1, 1e-2, 1e-4, 1e-6)


def positive(draw: np.random.Generator, *shape: int) -> np.ndarray:
    """Multiples of 1/8 from 0 to 1, a third of them zero."""
    return draw.integers(1, 9, shape) / 8 * (draw.random(shape) < 0.67)


def constants(draw: np.random.Generator, *shape: int) -> np.ndarray:
    return draw.integers(-8, 9, shape) / 8


def piece(net: Net, draw: np.random.Generator, x: str) -> str:
    """One more operator that never falls."""
    shape = net.course[x].shape
    channels, kind = shape[1], int(draw.integers(8))
    if kind == 0:
        up = net.norm(x, positive(draw, channels) + 0.125, constants(draw, channels), constants(draw, channels),
                      2.0 ** draw.integers(-12, 3, channels))  # fmt: skip
        return net.clip(up, -64.0, 64.0)
    if kind == 1:
        return net.leaky(x, float(draw.choice([0.125, 1.5, 2.0**-20])))
    if kind == 2:
        return net.clip(x, float(constants(draw)), 2.0)
    if kind == 3:
        return net.combined(str(draw.choice(["Add", "Max"])), x, net.relu(net.with_constant("Sub", x, constants(draw))))
    if kind == 4 and len(shape) == 2:
        return net.concat(x, net.relu(x)) if channels < 12 else net.relu(x)
    if len(shape) == 2:
        count = int(draw.integers(2, 6))
        return net.relu(net.dense(x, positive(draw, count, channels), constants(draw, count)))
    if kind == 4:
        return net.doubled(x, str(draw.choice(["nearest", "linear"]))) if shape[2] < 4 else net.mean_pool(x, 2)
    if kind == 5:
        return net.max_pool(x, 2) if shape[2] > 1 else net.relu(x)
    size = min(2, shape[2])
    return net.relu(net.conv(x, positive(draw, 2, channels, size, size), constants(draw, 2), pad=int(shape[2] < 3)))


def mixed(net: Net, draw: np.random.Generator, x: str) -> str:
    """The same values, by sums of them that are above and below zero."""
    shape = net.course[x].shape
    n = math.prod(shape)
    below = np.tril(draw.integers(-1, 2, (n, n)) * (draw.random((n, n)) < 3 / n), -1) + np.eye(n)
    back = np.rint(np.linalg.inv(below))
    assert (below @ back == np.eye(n)).all()
    flat = x if len(shape) == 2 else net.moved("Flatten", x, lambda v: v.reshape(1, -1))
    up = net.dense(flat, below)
    down = net.with_constant("Sub", up, 0.0, first=True)
    flat = net.dense(net.combined("Sub", net.relu(up), net.relu(down)), back)
    if len(shape) == 2:
        return flat
    return net.moved("Reshape", flat, lambda v: v.reshape(shape), net.store(shape, np.int64))


def network(seed: int, shape: tuple[int, ...], lower: list[Fraction], upper: list[Fraction]) -> tuple[Net, str]:
    """Network `seed`, with two outputs, for inputs on a segment."""
    draw, net = np.random.default_rng([seed, 9]), Net(shape, lower, upper)
    x = mixed(net, draw, "x") if draw.random() < 0.6 else "x"
    for _ in range(int(draw.integers(1, 4))):
        x = piece(net, draw, x)
    if len(net.course[x].shape) > 2:
        x = net.moved("Flatten", x, lambda v: v.reshape(1, -1))
    return net, net.dense(x, positive(draw, 2, net.course[x].shape[1]) + 0.125, constants(draw, 2))


def case(seed: int) -> Case:
    """Case `seed`: true for even ones. Sets are about one output or both, at the lower corner or the upper one."""
    draw = np.random.default_rng([seed, 10])
    shape = SHAPES[int(draw.integers(len(SHAPES)))]
    size, whole = math.prod(shape), int(draw.choice([8, 10]))  # tenths are no floats
    lower = [Fraction(int(n), whole) for n in draw.integers(-8, 9, size)]
    width = Fraction(int(draw.choice([0, 1, 4, 16])), int(draw.choice([16, 1 << 20])))
    upper = [x + width * int(k) for x, k in zip(lower, draw.integers(0, 4, size), strict=True)]
    build: Callable[..., tuple[Net, str]] = partial(network, seed, shape)
    low, high = (net.course[y].values[0].ravel() for net, y in (build(lower, lower), build(upper, upper)))
    top = bool(draw.integers(2))
    corner, sign = (high, -1.0) if top else (low, 1.0)
    gap = Fraction(float(draw.choice(GAPS))) * (1 if seed % 2 == 0 else -1)
    rows = [np.array([[sign, 0.0]]), np.array([[0.0, sign]]), sign * np.eye(2), np.array([[0.5 * sign, sign]])]
    sets = []
    for C in (rows[int(k)] for k in draw.permutation(4)[: int(draw.integers(1, 3))]):
        d = np.array([float(gap - exact(row) @ corner) for row in C])
        if draw.random() < 0.15:
            d = np.nextafter(d - float(gap), math.inf if gap > 0 else -math.inf)  # one step beside zero
        sets.append(HalfSpaces(torch.from_numpy(C), torch.from_numpy(d)))
        gap = abs(gap) * 4 if draw.random() < 0.5 else gap
    sides = (np.array(side, dtype=object).reshape(shape[1:]) for side in (lower, upper))
    prop = Property(Region(*sides), tuple(sets))
    least = set_margin(prop, corner), Fraction(int(top))
    net, y = build(lower, upper)
    return Case(seed, build, net.content(y), prop, least, (lower, upper))
