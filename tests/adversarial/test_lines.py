"""Networks of many operators whose margins are known exactly, often close to zero: no wrong verdict by any way.

The pieces hide values behind constants that absorb them, cancel them, scale them, repeat them or tie them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lines import ONE, ZERO, Course, Net, larger

from verifier.certified import verify_certified
from verifier.load import load
from verifier.spec.property import HalfSpaces, Property, Region, exact
from verifier.strategy import Settings, verify
from verifier.verdict import Result, Verdict

Build = Callable[[list[Fraction], list[Fraction]], tuple[Net, str]]
SAMPLE, MANY = 16, 1000
HUGE = (2.0**20, 2.0**30, 1e8, 1e10, 1e17, -1e17, 2.0**60, 1e25)
SHAPES = ((1, 2), (1, 3), (1, 1, 3, 3), (1, 2, 2, 2))
WAYS = ("certified", "auto", "interval", "crown", "alpha", "bab", "lp", "milp")
MOST = 24  # values of a node
PARTS = 32  # points of the segment that are run


def pick(draw: np.random.Generator, *choices: Any) -> Any:
    return choices[int(draw.integers(len(choices)))]


def piece(net: Net, draw: np.random.Generator, x: str) -> str:
    """One more piece of a network."""
    shape = net.course[x].shape
    flat, channels, K = len(shape) == 2, shape[1], pick(draw, *HUGE)
    weight = (lambda *s: draw.integers(-8, 9, s) / 8) if draw.random() < 0.5 else (lambda *s: draw.normal(size=s))
    kind = int(draw.integers(15)) % 12  # more of the plain pieces
    if kind < 2 and flat:
        count, by = int(draw.integers(1, 5)), pick(draw, {}, {"alpha": 0.1, "beta": -2.0})
        return net.dense(x, weight(count, channels), weight(count), **by)
    if kind < 2:
        choice, size = int(draw.integers(4)), min(2, *shape[2:])
        if choice == 0:
            return net.mean_pool(x, size)
        if choice == 1:
            return net.max_pool(x, size)
        return net.conv(x, weight(2, channels, size, size), weight(2), pad=choice - 2)
    if kind < 5:
        return net.relu(x)
    if kind == 5:
        low = pick(draw, 0.0, -1.0)
        return pick(
            draw, net.leaky(x, pick(draw, 0.01, -0.7, 1.5, 3e-8)), net.clip(x, low, low + pick(draw, 1e-6, 6.0))
        )
    if kind == 6:  # absorbed: x + K - K
        up = net.with_constant("Add", x, K, first=bool(draw.integers(2)))
        up = net.with_constant("Add", up, pick(draw, 0.5, 1e-3)) if draw.random() < 0.3 else up
        return net.with_constant("Sub", up, K) if draw.random() < 0.5 else net.with_constant("Add", up, -K)
    if kind == 7:  # cancelled: (x + relu(K x)) - relu(K x)
        big = net.relu(net.with_constant("Mul", x, K))
        return net.combined("Sub", net.combined("Add", big, x), big)
    if kind == 8:
        e = pick(draw, 2.0**40, 2.0**-100, 1e-12, 1e12, 1e-30, 3.0)
        return net.with_constant(
            pick(draw, "Mul", "Div"), net.relu(net.with_constant("Mul", x, e)), pick(draw, e, 1 / e)
        )
    if kind == 9:  # relu(x) - relu(-x), or a tie
        turned = net.with_constant("Sub", x, 0.0, first=True)
        if draw.random() < 0.5:
            return net.combined("Sub", net.relu(x), net.relu(turned))
        return net.combined("Max", x, pick(draw, x, turned, net.with_constant("Mul", x, 1 + 2.0**-23)))
    if kind == 10:
        roots = 2.0 ** draw.integers(-20, 4, channels)
        return net.norm(x, weight(channels), weight(channels), weight(channels) * pick(draw, 1, 1e3, 1e8), roots)
    if flat:
        order = draw.integers(0, channels, int(draw.integers(1, 5)))
        gathered = net.moved("Gather", x, lambda v: v[:, order], net.store(order, np.int64), axis=1)
        return pick(draw, gathered, net.concat(x, gathered))
    return net.moved("Transpose", x, lambda v: v.transpose(0, 1, 3, 2), perm=[0, 1, 3, 2])


@dataclass(frozen=True, eq=False)
class Case:
    """A network with a property. build: makes it for a segment of inputs. least: the exact margin, and the parameter of
    the segment between the ends where it is that."""

    seed: int
    build: Build
    content: bytes
    prop: Property
    least: tuple[Fraction, Fraction]
    ends: tuple[list[Fraction], list[Fraction]]

    def margin(self, point: np.ndarray) -> Fraction:
        """The exact margin at a point of Fractions."""
        net, output = self.build(list(point.flat), list(point.flat))
        return set_margin(self.prop, net.course[output].values[0].ravel())


def set_margin(prop: Property, outputs: np.ndarray) -> Fraction:
    """The exact margin of outputs."""
    return min(max(exact(s.C.numpy()) @ outputs + exact(s.d.numpy())) for s in prop.unsafe)


def network(seed: int, shape: tuple[int, ...], lower: list[Fraction], upper: list[Fraction]) -> tuple[Net, str]:
    draw, net, x = np.random.default_rng(seed), Net(shape, lower, upper), "x"
    for _ in range(int(draw.integers(2, 7))):
        y = piece(net, draw, x)
        x = y if net.course[y].values[0].size <= MOST else x
    if len(net.course[x].shape) > 2:
        x = net.moved("Flatten", x, lambda v: v.reshape(1, -1))
    outputs = int(draw.integers(1, 4))
    return net, net.dense(x, draw.normal(size=(outputs, net.course[x].shape[1])), draw.normal(size=outputs))


def least(course: Course, C: np.ndarray, d: np.ndarray) -> tuple[Fraction, Fraction]:
    """The least of max(C y + d) on the segment, and where."""
    rows = [
        course.linear(lambda y, c=c, e=e: np.atleast_1d(y.ravel() @ c + e))
        for c, e in zip(exact(C), exact(d), strict=True)
    ]
    best = rows[0]
    for row in rows[1:]:
        best = larger(best, row)
    return min(zip(best.values.ravel(), best.at, strict=True))


def segment(draw: np.random.Generator) -> tuple[Fraction, Fraction]:
    """The ends of the input that moves: floats, decimals, one unit apart, subnormal, or far away."""
    start = pick(draw, Fraction(int(draw.integers(-20, 21)), 10), Fraction(float(np.float32(draw.normal()))))
    single = np.float32(float(start))
    beside = Fraction(float(np.nextafter(single, np.float32(9)))), Fraction(float(np.float32(1e-40)))
    far = Fraction(float(np.float32(1e20)))
    wide = start, start + Fraction(float(np.float32(abs(draw.normal()) + 0.01)))
    return pick(draw, wide, wide, wide, (Fraction(float(single)), beside[0]), (ZERO, beside[1]), (-far, far))


def case(seed: int) -> Case | None:
    """Case `seed`; None where values are too large for float32, or too many."""
    draw = np.random.default_rng([seed, 1])
    shape = pick(draw, *SHAPES)
    whole = 10 if seed % 3 == 0 else 8  # tenths are no floats: boxes around them have a width
    lower = [Fraction(int(draw.integers(-8, 9)), whole) for _ in range(int(np.prod(shape)))]
    upper, free = list(lower), int(draw.integers(len(lower)))
    lower[free], upper[free] = segment(draw)
    build = partial(network, seed, shape)
    net, output = build(lower, upper)
    course = net.course[output]
    scale = float(max(abs(course.values.ravel())))
    if not 1e-30 < scale < 1e35 or len(course.at) > 300:
        return None
    gap = 10.0 ** draw.uniform(-13, -1) * pick(draw, 1, -1) * pick(draw, 1.0, scale)
    sets = []
    for k in range(int(draw.integers(1, 4))):
        C = draw.integers(-2, 3, (int(draw.integers(1, 3)), course.shape[1])).astype(float)
        C[~C.any(axis=1), 0] = 1
        base = draw.integers(-2, 3, len(C)).astype(float)
        room = abs(gap) * pick(draw, 1, 10) + pick(draw, 0, scale) if k else gap
        sets.append((C, base + float(room - float(least(course, C, base)[0]))))
    low, high = (np.array(side, dtype=object).reshape(shape[1:]) for side in (lower, upper))
    prop = Property(Region(low, high), tuple(HalfSpaces(torch.from_numpy(C), torch.from_numpy(d)) for C, d in sets))
    lowest = min(least(course, C, d) for C, d in sets)
    return Case(seed, build, net.content(output), prop, lowest, (lower, upper))


def judge(one: Case, way: str, folder: Path, timeout: float = 0.5) -> Result:
    """The result by one way; fails when it is wrong."""
    path = folder / "net.onnx"
    path.write_bytes(one.content)
    model, settings = load(path), Settings(method="auto" if way == "certified" else way, timeout=timeout, device="cpu")
    if way == "certified":
        result = verify_certified(model, one.prop, settings).result
    else:
        result = verify(model, one.prop, settings)
    if result.verdict is Verdict.VERIFIED and not result.solver_word:
        assert one.least[0] > 0, f"{one.seed}: a false claim is VERIFIED by {way}"
    if result.certified and "float32" in result.semantics:
        shares = [one.least[1], *(Fraction(i, PARTS) for i in range(PARTS + 1))]
        points = [[float(a * (ONE - t) + b * t) for a, b in zip(*one.ends, strict=True)] for t in shares]
        xs = np.array(points).astype(np.float32).reshape(-1, *one.prop.region.shape)
        for x, y in zip(xs, model.native(xs), strict=True):
            broken = not np.isfinite(y).all() or set_margin(one.prop, exact(y.ravel())) <= 0
            assert not (one.prop.region.admits(x) and broken), f"{one.seed}: false in float32"
    if result.verdict is Verdict.FALSIFIED:
        x = result.counterexample
        assert x is not None and one.prop.region.admits(x)
        assert one.least[0] <= 0, f"{one.seed}: a true claim is FALSIFIED by {way}"
        assert one.margin(one.prop.region.point(x)) <= 0, f"{one.seed}: safe in real arithmetic"
        assert set_margin(one.prop, exact(model.native(x[None])[0].ravel())) <= 0, f"{one.seed}: safe in float32"
    return result


def test_verdicts_on_segments_are_right(tmp_path: Path) -> None:
    answers: Counter[str] = Counter()
    for seed in range(SAMPLE):
        one = case(seed)
        if one is not None:
            for way in ("certified", "auto"):
                answers[judge(one, way, tmp_path).verdict.name] += 1
    assert answers["VERIFIED"] and answers["FALSIFIED"], answers


@pytest.mark.parametrize("seed", range(5))
def test_the_exact_values_are_those_that_run(seed: int, tmp_path: Path) -> None:
    """With constants and segments of moderate size, up to rounding in float32."""
    draw = np.random.default_rng(seed)
    lower = [Fraction(int(n), 8) for n in draw.integers(-8, 9, 9)]
    net = Net((1, 1, 3, 3), lower, lower)
    x = net.max_pool(net.conv("x", draw.normal(size=(2, 1, 2, 2)), draw.normal(size=2), pad=1), 2)
    x = net.norm(x, draw.normal(size=2), draw.normal(size=2), draw.normal(size=2), np.array([2.0, 0.5]))
    x = net.mean_pool(net.combined("Max", net.leaky(x, 0.3), net.clip(x, -1, 0.5)), 2)
    x = net.moved("Flatten", x, lambda v: v.reshape(1, -1))
    x = net.dense(net.concat(x, net.with_constant("Div", x, 3.0)), draw.normal(size=(2, 16)), draw.normal(size=2), 0.5)
    (tmp_path / "net.onnx").write_bytes(net.content(x))
    model = load(tmp_path / "net.onnx")
    point = np.array([float(v) for v in lower], np.float32).reshape(1, 1, 3, 3)
    expected = net.course[x].values[0].astype(float)
    assert np.allclose(model.native(point), expected, rtol=1e-4, atol=1e-4)
    assert np.allclose(model.graph.stated(torch.from_numpy(point).double()).numpy(), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.long
@pytest.mark.parametrize("way", WAYS)
def test_verdicts_on_many_segments_are_right(way: str, tmp_path: Path) -> None:
    for seed in range(MANY):
        one = case(seed)
        if one is not None:
            judge(one, way, tmp_path, timeout=5)


def test_constants_that_merging_would_round_away(tmp_path: Path) -> None:
    """x + 1e25 + 1/2 - 1e25 is x + 1/2, which float64 cannot see once the constants are one; float32 runs give zero."""
    net = Net((1, 1), [ONE], [2 * ONE])
    x = "x"
    for constant in (1e25, 0.5, -1e25):
        x = net.with_constant("Add", x, constant)
    (tmp_path / "net.onnx").write_bytes(net.content(x))
    claim = HalfSpaces(torch.ones(1, 1, dtype=torch.float64), torch.tensor([-1.25], dtype=torch.float64))
    prop = Property(Region(exact(np.array([1.0])), exact(np.array([2.0]))), (claim,))  # above 1.25: true by 0.25
    for way in ("interval", "crown", "bab", "auto"):
        assert verify(load(tmp_path / "net.onnx"), prop, Settings(method=way, timeout=0.5)).verdict is Verdict.UNKNOWN


def test_a_set_that_states_a_row_twice(tmp_path: Path) -> None:
    """Beside one that states it once: the cases of the statement are told apart by more than what they say."""
    net = Net((1, 1), [ONE], [2 * ONE])
    output = net.dense(net.relu("x"), np.array([[1.0]]), np.zeros(1))
    (tmp_path / "net.onnx").write_bytes(net.content(output))
    row = torch.ones(1, 1, dtype=torch.float64)
    sets = tuple(HalfSpaces(row.repeat(n, 1), torch.full((n,), -0.5, dtype=torch.float64)) for n in (2, 1))
    prop = Property(Region(exact(np.array([1.0])), exact(np.array([2.0]))), sets)
    assert verify_certified(load(tmp_path / "net.onnx"), prop, Settings(timeout=20)).result.certified
