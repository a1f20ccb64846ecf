"""Networks of two inputs, cut into the polygons on which they are affine: where they are unsafe is known exactly.

So is the distance from an input to the nearest unsafe one, in every norm: a claim about a ball is true exactly when its
radius is smaller. Radii are then put just below, at, and just above that distance.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from valleys import absorbed, doubled, rescaled

from verifier.graph import Graph, GraphBuilder
from verifier.ops.affine import Linear
from verifier.ops.base import PiecewiseLinear
from verifier.ops.relu import Abs, Clip, LeakyReLU, ReLU
from verifier.spec.property import exact

Point = tuple[Fraction, Fraction]
Polygon = list[Point]  # the corners, in order; a segment has two, a point one
ZERO, ONE = Fraction(0), Fraction(1)
SQUARE: Polygon = [(ZERO, ZERO), (ONE, ZERO), (ONE, ONE), (ZERO, ONE)]
Layers = list[tuple[np.ndarray, np.ndarray]]
NORMS = ("linf", "l2", "l1")


@dataclass(frozen=True)
class Form:
    """a x + b y + c."""

    a: Fraction
    b: Fraction
    c: Fraction

    def __call__(self, point: Point) -> Fraction:
        return self.a * point[0] + self.b * point[1] + self.c

    def __sub__(self, other: Form) -> Form:
        return Form(self.a - other.a, self.b - other.b, self.c - other.c)

    def shifted(self, constant: Fraction) -> Form:
        return Form(self.a, self.b, self.c + constant)

    def scaled(self, factor: Fraction) -> Form:
        return Form(factor * self.a, factor * self.b, factor * self.c)


def below(polygon: Polygon, form: Form) -> Polygon:
    """The part of a convex polygon where a form is at most zero (Sutherland and Hodgman 1974)."""
    values = [form(corner) for corner in polygon]
    kept: Polygon = []
    for i, (corner, value) in enumerate(zip(polygon, values, strict=True)):
        if value <= 0:
            kept.append(corner)
        after, other = polygon[(i + 1) % len(polygon)], values[(i + 1) % len(polygon)]
        if value * other < 0:
            t = value / (value - other)
            kept.append((corner[0] + t * (after[0] - corner[0]), corner[1] + t * (after[1] - corner[1])))
    return list(dict.fromkeys(kept))


def pieces(op: PiecewiseLinear, polygon: Polygon, form: Form) -> Iterator[tuple[Polygon, Form]]:
    """The parts of a polygon on which an activation of a form is affine, with that form."""
    bends = [Fraction(b) for b in op.breakpoints]
    ends: list[Fraction | None] = [None, *bends, None]
    for (left, right), slope in zip(pairwise(ends), op.slopes, strict=True):
        part = polygon
        if left is not None:
            part = below(part, form.scaled(-ONE).shifted(left))
        if right is not None:
            part = below(part, form.shifted(-right))
        if part:
            bend = left if left is not None else bends[0]
            value = Fraction(float(op.forward(torch.tensor(float(bend), dtype=torch.float64))))
            yield part, form.shifted(-bend).scaled(Fraction(slope)).shifted(value)


@dataclass(frozen=True, eq=False)
class Network:
    """Dense layers with an activation between any two, of two inputs in [0, 1]."""

    layers: Layers
    op: PiecewiseLinear

    @cached_property
    def graph(self) -> Graph:
        builder, x = GraphBuilder((2,)), 0
        for i, (weight, bias) in enumerate(self.layers):
            x = builder.add(self.op, x) if i else x
            x = builder.add(Linear(torch.from_numpy(weight), torch.from_numpy(bias)), x)
        return builder.finish()

    @property
    def classes(self) -> int:
        return len(self.layers[-1][1])

    @cached_property
    def cells(self) -> list[tuple[Polygon, list[Form]]]:
        """The polygons on which the network is affine, with the outputs."""
        cells = [(SQUARE, [Form(ONE, ZERO, ZERO), Form(ZERO, ONE, ZERO)])]
        for i, (weight, bias) in enumerate(self.layers):
            cells = [each for cell in cells for each in (self._activated(*cell) if i else [cell])]
            W, b = exact(weight), exact(bias)
            cells = [(polygon, [_sum(row, forms, c) for row, c in zip(W, b, strict=True)]) for polygon, forms in cells]
        return cells

    def _activated(self, polygon: Polygon, forms: list[Form]) -> list[tuple[Polygon, list[Form]]]:
        parts: list[tuple[Polygon, list[Form]]] = [(polygon, [])]
        for form in forms:
            parts = [(small, [*done, new]) for part, done in parts for small, new in pieces(self.op, part, form)]
        return parts

    def output(self, point: Sequence[Fraction]) -> np.ndarray:
        """The exact scores at a point."""
        values = np.array(point, dtype=object)
        for i, (weight, bias) in enumerate(self.layers):
            values = np.array([_value(self.op, v) for v in values], dtype=object) if i else values
            values = exact(weight) @ values + exact(bias)
        return values


@dataclass(frozen=True, eq=False)
class Plane:
    """A network, an input (float32) and its class. target: a class that it must not become; None: any other."""

    network: Network
    x: np.ndarray
    label: int
    target: int | None

    @cached_property
    def unsafe(self) -> list[Polygon]:
        """Where the prediction is, or ties with, what it must not be."""
        found = []
        for polygon, y in self.network.cells:
            others = [k for k in range(len(y)) if k != (self.label if self.target is None else self.target)]
            if self.target is None:
                sets = [[y[self.label] - y[k]] for k in others]
            else:
                sets = [[y[k] - y[self.target] for k in others]]
            for rows in sets:
                part = polygon
                for row in rows:
                    part = below(part, row)
                found += [part] if part else []
        return found

    def nearest(self, norm: str) -> tuple[Fraction, Point] | None:
        """The distance (l2: its square) from x to the nearest unsafe point, and that point, if there is one."""
        centre = tuple(exact(self.x))
        found = [
            (_size(point, centre, norm), point) for part in self.unsafe for point in candidates(part, centre, norm)
        ]
        return min(found, default=None)

    def safe(self, eps: Fraction, norm: str) -> bool:
        """Whether no unsafe point lies within distance eps."""
        found = self.nearest(norm)
        return found is None or (eps**2 if norm == "l2" else eps) < found[0]

    def margin(self, point: Sequence[Fraction]) -> Fraction:
        """The exact margin at a point."""
        return worst(self.network.output(point), self.label, self.target)


def worst(values: np.ndarray, label: int, target: int | None) -> Any:
    """The margin of scores: at most zero where they are unsafe."""
    others = [v for k, v in enumerate(values) if k != (label if target is None else target)]
    return values[label] - max(others) if target is None else max(others) - values[target]


def _sum(row: np.ndarray, forms: list[Form], constant: Fraction) -> Form:
    parts = [form.scaled(w) for w, form in zip(row, forms, strict=True)]
    return Form(*(sum((getattr(part, name) for part in parts), ZERO) for name in "abc")).shifted(constant)


def _value(op: PiecewiseLinear, z: Fraction) -> Fraction:
    """An activation at a number, by its definition."""
    if isinstance(op, Clip):
        return min(max(z, Fraction(op.low)), Fraction(op.high))
    left = {ReLU: 0.0, Abs: -1.0}.get(type(op), getattr(op, "slope", 0.0))
    return z if z > 0 else Fraction(left) * z


# --- Distances. -------------------------------------------------------------------------------------------------------
def _size(point: Point, centre: Sequence[Fraction], norm: str) -> Fraction:
    dx, dy = abs(point[0] - centre[0]), abs(point[1] - centre[1])
    return {"linf": max(dx, dy), "l1": dx + dy, "l2": dx * dx + dy * dy}[norm]


def candidates(polygon: Polygon, centre: Sequence[Fraction], norm: str) -> Iterator[Point]:
    """Points of a polygon of which one is the nearest to the centre: corners, the centre itself, points of the edges.

    Along an edge the distance is least where its gradient is orthogonal to it (l2), or at a bend of the norm.
    """
    yield from polygon
    x, y = centre
    edges = [(p, q) for p, q in zip(polygon, [*polygon[1:], polygon[0]], strict=True) if p != q]
    sides = [(q[0] - p[0]) * (y - p[1]) - (q[1] - p[1]) * (x - p[0]) for p, q in edges]
    if len(polygon) > 2 and (all(s >= 0 for s in sides) or all(s <= 0 for s in sides)):
        yield x, y
    for p, q in edges:
        dx, dy = q[0] - p[0], q[1] - p[1]
        if norm == "l2":
            turns = [Form(dx, dy, -dx * x - dy * y)]
        elif norm == "l1":
            turns = [Form(ONE, ZERO, -x), Form(ZERO, ONE, -y)]
        else:
            turns = [Form(ONE, ONE, -x - y), Form(ONE, -ONE, y - x)]
        for turn in turns:
            before, after = turn(p), turn(q)
            if before * after < 0:
                t = before / (before - after)
                yield p[0] + t * dx, p[1] + t * dy


# --- Cases. -----------------------------------------------------------------------------------------------------------
OPS = (ReLU(), ReLU(), ReLU(), ReLU(), LeakyReLU(0.125), LeakyReLU(-0.5), Abs(), Clip(-0.25, 1.0))


def network(draw: np.random.Generator) -> Network:
    """Weights on a grid or not; with ReLU, neurons rescaled, repeated, or beside constants that absorb them."""
    sizes = [2, *(int(n) for n in draw.integers(2, 6, int(draw.integers(1, 3)))), int(draw.integers(2, 5))]
    grid = draw.random() < 0.5

    def numbers(*shape: int) -> np.ndarray:
        drawn = draw.integers(-16, 17, shape) / 8 if grid else draw.normal(size=shape).astype(np.float32)
        return np.asarray(drawn, dtype=np.float64)

    layers = [(numbers(n, m), numbers(n) / 2) for m, n in pairwise(sizes)]
    op = OPS[int(draw.integers(len(OPS)))]
    if isinstance(op, ReLU):
        change = draw.random()
        if change < 0.2:
            layers = doubled(draw, layers)
        elif change < 0.4:
            layers = rescaled(draw, layers, 30)
        elif change < 0.5:
            layers = absorbed(draw, layers, 2.0 ** int(draw.integers(4, 40)))
    # At a point inside, all scores are nearly the same: some border of the classes is close to it.
    weight, bias = layers[-1]
    scores = Network(layers, op).output(exact(draw.integers(16, 49, 2) / 64)).astype(np.float32)
    moved = (bias - np.rint(scores * 64) / 64).astype(np.float32).astype(np.float64)
    return Network([*layers[:-1], (weight, moved)], op)


def plane(seed: int) -> Plane:
    """Case `seed`."""
    draw = np.random.default_rng([seed, 2])
    return question(network(draw), draw)


def question(net: Network, draw: np.random.Generator, aimed: bool = True) -> Plane:
    """About a point. aimed: there may be a target."""
    x = (draw.integers(0, 65, 2) / 64 if draw.random() < 0.5 else draw.random(2)).astype(np.float32)
    label = int(np.argmax(net.output(exact(x))))
    others = [k for k in range(net.classes) if k != label]
    return Plane(net, x, label, int(draw.choice(others)) if aimed and draw.random() < 0.4 else None)


def radii(one: Plane, norm: str, draw: np.random.Generator) -> list[Fraction]:
    """Radii at the distance to the nearest unsafe point, or as near as float64 tells, and a little off."""
    found = one.nearest(norm)
    if found is None:
        return [Fraction(1, 10), Fraction(2)]
    root = found[0] if norm != "l2" else Fraction(float(found[0]) ** 0.5)
    gap = Fraction(10.0 ** -float(draw.uniform(0.3, 13)))
    decimal = Fraction(f"{float(root):.{int(draw.integers(2, 17))}g}")
    return [eps for eps in (root, root * (1 - gap), root * (1 + gap), decimal) if 0 <= eps <= 3]
