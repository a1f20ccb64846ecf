"""Certificates that the search wrote, of each kind that there is, and false claims close to what they prove."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from functools import cache
from itertools import pairwise

import numpy as np
import rarities
import torch
from claims import NEAR, Claim, Victim, attacked, certified, farthest, question, victim, violated
from families import claim
from puzzles import Layers, Subject, network, output
from valleys import coarse, valley

from verifier.batch.query import certified_answer
from verifier.certificate.statement import vnnlib
from verifier.graph import GraphBuilder
from verifier.load.export import onnx_bytes
from verifier.ops.affine import Linear
from verifier.ops.convolution import Conv2d
from verifier.ops.relu import ReLU
from verifier.ops.shape import Reshape
from verifier.spec.property import HalfSpaces, Property, Region, exact
from verifier.spec.robustness import ball
from verifier.spec.vnnlib import parse
from verifier.strategy import Settings


def halved(seed: int) -> Victim:
    """Split inputs, bounds computed anew in every part."""
    draw, gap = np.random.default_rng(seed), 2.0**-9
    puzzle = claim(*valley(draw, [1.0] * 3, hidden=(4, 3)), gap)
    return victim(puzzle.layers, puzzle.prop, puzzle.lowest, gap)


def mirrored(seed: int) -> Victim:
    """ReLUs that read the same number but for its sign, which are analysed as one."""
    draw, gap = np.random.default_rng(seed), 2.0**-5
    puzzle = claim(*valley(draw, [1.0, 1.0], hidden=(3,), mirror=True), gap)
    return victim(puzzle.layers, puzzle.prop, puzzle.lowest, gap)


def conjoined(seed: int) -> Victim:
    """Two half-spaces at once, g + x and g - x: only their sum is bounded well."""
    draw, gap = np.random.default_rng(seed), 2.0**-7
    layers, value, place = valley(draw, [1.0, 1.0], hidden=(4,))
    (weight, bias), (row, constant) = layers
    first = (np.vstack((weight, [[1.0, 0.0]])), np.append(bias, 1.0))  # 1 + x_0, which ReLU lets pass
    last = (np.hstack((np.vstack((row, row)), [[1.0], [-1.0]])), np.append(constant - 1, constant + 1))
    one = np.full(2, Fraction(1), dtype=object)
    d = np.full(2, float(Fraction(gap) - value))
    prop = question(-one, one, [(np.eye(2), d)])
    reach = abs(float(place[0]))  # how far the margin at the place is above the gap
    return victim([first, last], prop, place, gap + reach)


def split(seed: int) -> Victim:
    """Split neurons, with slopes, planes above ReLUs, and lemmas that rest on splits of their own, with multipliers."""
    draw, gap = np.random.default_rng(seed), 2.0**-5
    sizes = (60, 6, 4, 1)
    layers = [(coarse(draw, n, m), coarse(draw, n)) for m, n in pairwise(sizes)]
    return attacked(layers, Fraction(1, 4), gap, ("kind.0", "share.p0", "kind.a1", "extra.a1", "finer"))


def convolved(seed: int) -> Victim:
    """Two convolutions, whose neurons are bounded by windows; every map is a dense layer to who attacks them."""
    draw, shape, layers = np.random.default_rng(seed), (1, 4, 4), Layers()
    builder = GraphBuilder((16,))
    x = builder.add(Reshape(shape), 0)
    for channels in (3, 2):
        kernel, bias = coarse(draw, channels, shape[0], 2, 2), coarse(draw, channels)
        conv = Conv2d(torch.from_numpy(kernel), torch.from_numpy(bias), (1, 1), (0, 0), (1, 1), 1)
        x = builder.add(ReLU(), builder.add(conv, x))
        every = torch.eye(math.prod(shape), dtype=torch.float64).reshape(-1, *shape)
        maps = replace(conv, bias=None).forward(every)
        shape = (channels, *maps.shape[2:])
        layers.append((maps.flatten(1).T.numpy(), np.repeat(bias, math.prod(shape[1:]))))
    layers.append((coarse(draw, 1, 8), np.zeros(1)))
    last = Linear(*(torch.from_numpy(part) for part in layers[-1]))
    builder.add(last, builder.add(Reshape((8,)), x))
    return attacked(layers, Fraction(1, 4), 0.5, ("kind.0",), Subject(builder.finish()))


def balled(norm: int) -> Victim:
    """An l1 or l2 ball; the false claims are about its box, or a larger ball, too."""
    draw, gap, word = np.random.default_rng([norm, 5]), 2.0**-4, f"l{norm}"
    layers = [(coarse(draw, n, m), coarse(draw, n)) for m, n in pairwise((4, 8, 6, 1))]
    origin = coarse(draw, 4)

    def claimed(region: Region, d: float) -> Property:
        return Property(
            region, (HalfSpaces(torch.ones(1, 1, dtype=torch.float64), torch.tensor([d], dtype=torch.float64)),)
        )

    region = ball(origin, Fraction(1, 2), word, None, None)
    steps = np.concatenate((draw.normal(size=(2000, 4)), np.eye(4), -np.eye(4)))
    steps *= 0.4999 / np.linalg.norm(steps, norm, axis=1, keepdims=True)
    point = min((exact(origin + step) for step in steps), key=lambda x: output(layers, x)[0])
    assert region.contains(point)
    d = float(Fraction(gap) - output(layers, point)[0])
    certificate = certified(Subject(network(layers)), claimed(region, d))
    below = -(gap + NEAR)
    *others, (weight, bias) = layers
    lowered: Layers = [*others, (weight, bias + below)]
    box, large = Region(region.lower, region.upper), ball(origin, Fraction(64), word, None, None)
    false = []
    for name, net, prop, places in (
        ("the half-space moved", layers, claimed(region, d + below), [point]),
        ("another network", lowered, claimed(region, d), [point]),
        ("a larger ball", layers, claimed(large, d), [exact(origin + 120 * step) for step in steps[:500]]),
        ("the box without the ball", layers, claimed(box, d), [farthest(layers, claimed(box, d))]),
    ):
        if any(violated(net, prop, place) and prop.region.contains(place) for place in places):
            false.append(Claim(name, onnx_bytes(network(net)), vnnlib(prop).encode()))
    assert len(false) >= 3
    return Victim(certificate, false)


def regional(seed: int) -> Victim:
    """Two boxes with a set each: lemmas and slopes by box. The false claims exchange the sets, or move one of them."""
    draw, gap = np.random.default_rng(seed), 2.0**-6
    layers, low, place = valley(draw, [1.0, 1.0], hidden=(4, 3))
    one, half = np.full(2, Fraction(1), dtype=object), np.array([place[0] / 2, Fraction(1)], dtype=object)
    other = exact(np.array([-1.0, 1.0])) if place[0] > 0 else one
    near = (np.minimum(place, half), one) if place[0] > 0 else (-one, np.maximum(half, place))
    value = output(layers, other)[0]

    def claims(*gaps: Fraction) -> list[Property]:
        tight = question(*near, [(np.ones((1, 1)), np.array([float(gaps[0] - low)]))])
        return [tight, question(other, other, [(np.ones((1, 1)), np.array([float(gaps[1] - value)]))])]

    subject = Subject(network(layers))
    text = vnnlib(*claims(Fraction(gap), Fraction(gap))).encode()
    found = certified_answer(subject, parse(text.decode()), text, Settings(timeout=120, device="cpu"))[1].certificate
    assert found is not None
    below = -Fraction(NEAR)
    false = []
    for name, gaps in (("the first moved", (below, Fraction(gap))), ("the second moved", (Fraction(gap), below))):
        false.append(Claim(name, subject.onnx(), vnnlib(*claims(*gaps)).encode()))
    return Victim(found, false)


SOURCES: dict[str, tuple[Callable[[int], Victim], Sequence[int]]] = {
    "halved": (halved, (0, 1)),
    "mirrored": (mirrored, (0, 1)),
    "conjoined": (conjoined, (0, 1)),
    "split": (split, (22,)),
    "convolved": (convolved, (1,)),
    "balled": (balled, (1, 2)),
    "regional": (regional, (0,)),
    **rarities.SOURCES,
}


@cache
def victims() -> dict[str, Victim]:
    return {f"{name}-{seed}": make(seed) for name, (make, seeds) in SOURCES.items() for seed in seeds}
