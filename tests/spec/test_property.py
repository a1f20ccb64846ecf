"""Regions in exact numbers and unsafe sets."""

from fractions import Fraction

import numpy as np
import pytest
import torch

from verifier.errors import SpecificationError
from verifier.spec.property import HalfSpaces, Property, Region, exact, round_down
from verifier.spec.robustness import ball
from verifier.types import Ball

TENTH = Fraction(1, 10)
UP, DOWN = np.float64(np.inf), np.float64(-np.inf)


def box_region(lower: list, upper: list) -> Region:
    return Region(exact(np.array(lower)), exact(np.array(upper)))


def test_contains_has_no_tolerance_at_the_border() -> None:
    region = Region(np.array([Fraction(0)], dtype=object), np.array([TENTH], dtype=object))
    above, below = np.float64(0.1), np.nextafter(np.float64(0.1), DOWN)  # 0.1 in float64 exceeds one tenth
    assert Fraction(float(above)) > TENTH > Fraction(float(below))
    assert region.contains(np.array([below])) and not region.contains(np.array([above]))
    assert region.contains(np.array([0.0])) and not region.contains(np.array([-5e-324]))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_contains_rejects_what_is_not_finite(bad: float) -> None:
    assert not box_region([-1.0], [1.0]).contains(np.array([bad]))


def test_contains_rejects_another_shape() -> None:
    assert not box_region([0.0, 0.0], [1.0, 1.0]).contains(np.array([0.5]))


@pytest.mark.parametrize(("norm", "inside", "outside"), [
    ("l2", [0.75, 1.0], [0.75, np.nextafter(1.0, UP)]),  # 3-4-5 triangles: exactly on the sphere
    ("l1", [0.5, 0.75], [np.nextafter(0.5, UP), 0.75]),
    ("linf", [1.25, -1.25], [1.25, np.nextafter(-1.25, DOWN)]),
])  # fmt: skip
def test_contains_is_exact_on_the_sphere(norm: str, inside: list, outside: list) -> None:
    region = ball(np.zeros(2, np.float32), Fraction(5, 4), norm, None, None)
    assert region.contains(np.array(inside)) and not region.contains(np.array(outside))


def test_a_ball_ends_at_the_data_range() -> None:
    region = ball(np.array([0.0, 0.5], np.float32), Fraction(1, 4), "l2")
    assert region.contains(np.array([0.0, 0.75])) and not region.contains(np.array([-0.125, 0.5]))


def random_values(seed: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return generator.random(50).astype(np.float32)


@pytest.mark.parametrize("eps", ["0.1", "1/3", "0", "1e-9", "0.7"])
def test_the_box_is_rounded_outwards_by_less_than_one_number(eps: str) -> None:
    region = ball(random_values(0), Fraction(eps))
    box = region.box()
    for side, limit, sign in ((box.lower, region.lower, -1), (box.upper, region.upper, 1)):
        for value, wanted in zip(side[0].tolist(), limit, strict=True):
            assert sign * (Fraction(value) - wanted) >= 0
            assert sign * (Fraction(float(np.nextafter(value, -sign * np.inf))) - wanted) < 0


@pytest.mark.parametrize("norm", ["l2", "l1"])
@pytest.mark.parametrize("eps", ["0.1", "1/3", "0", "2"])
def test_the_ball_of_the_box_contains_the_region(norm: str, eps: str) -> None:
    """Also around a centre that is no float64."""
    origin = exact(random_values(1)) + Fraction(1, 3 * 2**60)
    lower, upper = origin - Fraction(eps), origin + Fraction(eps)
    region = Region(lower, upper, origin, Fraction(eps), {"l2": 2, "l1": 1}[norm])
    found = region.box()
    assert isinstance(found, Ball) and found.norm == region.norm
    drift = sum(abs(exact(found.origin[0].numpy()) - origin))
    assert Fraction(float(found.eps)) >= Fraction(eps) + drift
    assert (found.lower <= found.origin).all() and (found.origin <= found.upper).all()
    assert all(Fraction(v) <= w for v, w in zip(found.lower[0].tolist(), lower, strict=True))
    assert all(Fraction(v) >= w for v, w in zip(found.upper[0].tolist(), upper, strict=True))


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("eps", ["0.1", "1/3", "0", "0.001", "1"])
def test_float32_points_of_the_inner_box_lie_inside_exactly(norm: str, eps: str) -> None:
    region = ball(random_values(2), Fraction(eps), norm)
    inner = region.inner_box()
    assert inner.lower.dtype == torch.float32
    generator = torch.Generator().manual_seed(0)
    assert region.contains(inner.lower[0].numpy()) or norm != "linf"
    assert region.contains(inner.upper[0].numpy()) or norm != "linf"
    for _ in range(50):
        far = inner.project(torch.rand(1, 50, generator=generator) * 4 - 2)
        near = inner.project(inner.center + torch.randn(1, 50, generator=generator) * 0.01)
        assert region.contains(near[0].numpy()) and region.contains(far[0].numpy())


def test_the_inner_box_is_as_large_as_float32_allows() -> None:
    region = box_region([0.1], [0.2])
    inner = region.inner_box()
    low, high = inner.lower.numpy()[0, 0], inner.upper.numpy()[0, 0]
    assert Fraction(float(low)) >= region.lower[0] > Fraction(float(np.nextafter(low, np.float32(-1))))
    assert Fraction(float(high)) <= region.upper[0] < Fraction(float(np.nextafter(high, np.float32(1))))


def test_round_down() -> None:
    values = np.array([TENTH, -TENTH, Fraction(1, 2), Fraction(1, 3)], dtype=object)
    for dtype in (np.float32, np.float64):
        down = round_down(values, dtype)
        assert down.dtype == dtype
        for number, value in zip(down, values, strict=True):
            assert Fraction(float(number)) <= value < Fraction(float(np.nextafter(number, dtype(9))))


@pytest.mark.parametrize("seed", range(5))
def test_the_sides_and_the_admission_of_inputs_are_those_of_the_exact_point(seed: int) -> None:
    """Fixed inputs, ends that no float equals, and candidates at, inside and just outside of the ends."""
    rng = np.random.default_rng(seed)
    lower = np.array([Fraction(int(k), 10) for k in rng.integers(-9, 9, 40)], dtype=object)
    width = np.array([Fraction(int(k), 30) for k in rng.integers(0, 4, 40)], dtype=object)
    region = Region(lower, lower + width)
    ends = [side.astype(np.float64).astype(np.float32) for side in (lower, lower + width)]
    steps = (np.float32(-np.inf), np.float32(np.inf))
    near = [end for e in ends for end in (e, *(np.nextafter(e, step) for step in steps))]
    for x in [*near, (ends[0] + ends[1]) / 2, np.float32(rng.uniform(-1, 1, 40))]:
        point = region.point(x)
        low, high = region.sides(x)
        np.testing.assert_array_equal(low, round_down(point))
        np.testing.assert_array_equal(high, -round_down(-point))
        fits = [np.float32(float(p)) == v for p, v in zip(point, x, strict=True)]
        assert region.admits(x) == all(fits)
        for i in range(40):
            one = Region(region.lower[i : i + 1], region.upper[i : i + 1])
            assert one.admits(x[i : i + 1]) == fits[i]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_round_down_gives_the_greatest_float_that_does_not_exceed(dtype: type) -> None:
    rng = np.random.default_rng(0)
    values = [
        Fraction(int(a), int(b))
        for a, b in zip(rng.integers(-(10**12), 10**12, 200), rng.integers(1, 10**9, 200), strict=True)
    ]
    found = round_down(np.array([*values, Fraction(1, 4)], dtype=object), dtype)
    assert found.dtype == dtype
    for value, number in zip([*values, Fraction(1, 4)], found, strict=True):
        assert Fraction(float(number)) <= value < Fraction(float(np.nextafter(number, dtype(np.inf))))


def test_exact_keeps_every_bit() -> None:
    values = np.array([[0.1, 1e-320], [-3.0, 2.0**1000]])
    found = exact(values)
    assert found.shape == (2, 2) and found[0, 0] == Fraction(0.1) != TENTH
    assert (found.astype(float) == values).all()


def test_an_empty_region_is_refused() -> None:
    with pytest.raises(SpecificationError, match=r"empty: at index \(1,\) the lower bound 3.0 exceeds"):
        box_region([0.0, 3.0], [1.0, 2.0])


def unsafe(rows: list, d: list) -> HalfSpaces:
    return HalfSpaces(torch.tensor(rows, dtype=torch.float64), torch.tensor(d, dtype=torch.float64))


def test_margins_by_hand() -> None:
    both, single = unsafe([[1.0, 0.0], [0.0, 1.0]], [0.0, -1.0]), unsafe([[-1.0, -1.0]], [3.0])
    outputs = torch.tensor([[2.0, 5.0], [-1.0, 0.5]], dtype=torch.float64)
    assert both.margin(outputs).tolist() == [4.0, -0.5]
    assert single.margin(outputs).tolist() == [-4.0, 3.5]
    prop = Property(box_region([0.0], [1.0]), (both, single))
    assert prop.margin(outputs).tolist() == [-4.0, -0.5]
    C, d, sets = prop.rows
    assert C.shape == (3, 2) and d.tolist() == [0.0, -1.0, 3.0] and sets.tolist() == [0, 0, 1]


def test_a_margin_of_nan_is_nan() -> None:
    both = unsafe([[1.0, 0.0], [0.0, 1.0]], [0.0, 0.0])
    prop = Property(box_region([0.0], [1.0]), (both, unsafe([[1.0, 0.0]], [0.0])))
    outputs = torch.tensor([[torch.nan, -1.0], [-1.0, torch.nan]], dtype=torch.float64)
    assert torch.isnan(prop.margin(outputs)).all()


@pytest.mark.parametrize(("rows", "d", "message"), [
    ([[1.0, 0.0]], [0.0, 1.0], "at least one half-space"),
    ([1.0, 0.0], [0.0], "at least one half-space"),
    ([[1.0, float("nan")]], [0.0], "NaN or infinite"),
    ([[1.0, 0.0]], [float("inf")], "NaN or infinite"),
])  # fmt: skip
def test_malformed_half_spaces(rows: list, d: list, message: str) -> None:
    with pytest.raises(SpecificationError, match=message):
        unsafe(rows, d)


def test_an_empty_conjunction_is_refused() -> None:
    with pytest.raises(SpecificationError, match="at least one"):
        HalfSpaces(torch.zeros(0, 2), torch.zeros(0))


def test_check_fits() -> None:
    prop = Property(box_region([0.0], [1.0]), (unsafe([[1.0, 0.0]], [0.0]),))
    prop.check_fits((1,), 2)
    with pytest.raises(SpecificationError, match="inputs of shape"):
        prop.check_fits((2,), 2)
    with pytest.raises(SpecificationError, match="2 outputs, the network has 3"):
        prop.check_fits((1,), 3)
