"""Replay: the paths by which a candidate is refused, each with a network made for it."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from nets import Native, mlp

from verifier.attack.replay import replay
from verifier.graph import Graph, GraphBuilder
from verifier.ops.affine import Linear
from verifier.ops.relu import ReLU
from verifier.ops.smooth import Tanh
from verifier.spec.property import HalfSpaces, Property, Region, exact
from verifier.strategy import Settings, verify
from verifier.verdict import Verdict


def line(weight: list[list[float]], bias: list[float]) -> Graph:
    """An affine network with these numbers, held in float64."""
    builder = GraphBuilder((len(weight[0]),))
    builder.add(Linear(torch.tensor(weight, dtype=torch.float64), torch.tensor(bias, dtype=torch.float64)), 0)
    return builder.finish()


def positive(low: list[float], high: list[float], shift: float = 0.0) -> Property:
    """`output + shift > 0` on a box."""
    unsafe = HalfSpaces(torch.ones(1, 1, dtype=torch.float64), torch.tensor([shift], dtype=torch.float64))
    return Property(Region(exact(np.array(low)), exact(np.array(high))), (unsafe,), "the output is positive")


def test_a_counterexample_is_accepted() -> None:
    graph, prop = line([[1.0]], [0.0]), positive([-1.0], [1.0])
    found = replay(Native(graph).native, graph, prop, np.array([-0.5], np.float32))
    assert found.accepted and found.inside and found.float32 and found.real is True
    assert found.margin == -0.5 and found.outputs.tolist() == [-0.5]


def test_a_safe_point_is_not() -> None:
    graph, prop = line([[1.0]], [0.0]), positive([-1.0], [1.0])
    found = replay(Native(graph).native, graph, prop, np.array([0.5], np.float32))
    assert not found.accepted and found.inside and not found.float32 and found.real is False


def test_a_violation_outside_the_region_is_not_a_counterexample() -> None:
    graph, prop = line([[1.0]], [0.0]), positive([-0.1], [1.0])
    outside = np.array([np.nextafter(np.float32(-0.1), np.float32(-1))], np.float32)
    assert float(outside[0]) < -0.1
    found = replay(Native(graph).native, graph, prop, outside)
    assert found.float32 and found.real is True and not found.inside and not found.accepted
    assert found.reason == "the candidate lies outside the allowed inputs"


def test_a_violation_in_float32_alone_is_a_doubt() -> None:
    """1 + x - 1 with x = 2^-30 rounds to 0 in float32; in exact arithmetic it is positive."""
    graph, prop = absorbing()
    tiny = 2.0**-30
    found = replay(Native(graph).native, graph, prop, np.array([tiny], np.float32))
    assert found.inside and found.float32 and found.real is False and not found.accepted
    assert found.reason == "a candidate violates in float32 and is safe in real arithmetic"
    result = verify(Native(graph), Property(Region(exact(np.array([tiny])), exact(np.array([tiny]))), prop.unsafe),
                    Settings(device="cpu", method="interval"))  # fmt: skip
    assert result.verdict is not Verdict.FALSIFIED


def test_a_violation_in_real_arithmetic_alone_is_a_doubt() -> None:
    """The same network negated and shifted by less than float32 sees: -(1 + x - 1) + 2^-40 at x = 2^-30."""
    negated = GraphBuilder((1,))
    x = negated.add(Linear(torch.ones(1, 1), torch.ones(1)), 0)
    negated.add(Linear(-torch.ones(1, 1), torch.ones(1)), negated.add(ReLU(), x))
    graph = negated.finish()
    shifted = positive([2.0**-30], [2.0**-30], shift=2.0**-40)
    found = replay(Native(graph).native, graph, shifted, np.array([2.0**-30], np.float32))
    assert not found.float32 and found.real is True and not found.accepted
    assert found.reason == "a candidate is safe in float32 and violates in real arithmetic"
    result = verify(Native(graph), shifted, Settings(device="cpu"))
    assert result.verdict is Verdict.UNKNOWN and result.reason == found.reason


def absorbing() -> tuple[Graph, Property]:
    builder = GraphBuilder((1,))
    x = builder.add(Linear(torch.ones(1, 1), torch.ones(1)), 0)
    builder.add(Linear(torch.ones(1, 1), -torch.ones(1)), builder.add(ReLU(), x))
    return builder.finish(), positive([0.0], [1.0])


def test_what_lies_within_rounding_of_zero_is_called_exactly() -> None:
    graph = line([[0.1, 0.2]], [-0.3])  # in float64 the sum is not exactly zero, and no enclosure says which side it is
    weight, bias = (t.flatten().tolist() for t in graph.nodes[1].op.tensors().values())
    exactly = sum(map(Fraction, weight + bias))
    found = replay(Native(graph).native, graph, positive([0.0, 0.0], [1.0, 1.0]), np.ones(2, np.float32))
    assert 0 < abs(exactly) < 1e-7
    assert found.float32 and found.real is (exactly <= 0)


def test_a_smooth_network_within_rounding_of_zero_is_too_close_to_call() -> None:
    builder = GraphBuilder((1,))
    builder.add(Tanh(), 0)
    graph = builder.finish()
    found = replay(Native(graph).native, graph, positive([0.0], [1.0]), np.zeros(1, np.float32))
    assert found.float32 and found.real is None and not found.accepted
    assert "too close to call" in found.reason


def test_an_original_that_answers_nan_accepts_nothing() -> None:
    graph, prop = line([[1.0]], [0.0]), positive([-1.0], [1.0])
    found = replay(lambda x: np.full((1, 1), np.nan, np.float32), graph, prop, np.array([-0.5], np.float32))
    assert found.real is True and not found.float32 and not found.accepted


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_candidate_that_is_not_finite_is_outside(value: float) -> None:
    graph, prop = line([[1.0]], [0.0]), positive([-1.0], [1.0])
    found = replay(Native(graph).native, graph, prop, np.array([value], np.float32))
    assert not found.inside and not found.accepted


def test_disjunctions_need_one_set_and_conjunctions_every_row() -> None:
    graph = line([[1.0], [-1.0]], [0.0, 0.0])
    eye, zero = torch.eye(2, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    region = Region(exact(np.array([-1.0])), exact(np.array([1.0])))
    either = Property(region, (HalfSpaces(eye[:1], zero), HalfSpaces(eye[1:], zero)))
    both = Property(region, (HalfSpaces(eye, torch.zeros(2).double()),))
    x = np.array([0.5], np.float32)
    assert replay(Native(graph).native, graph, either, x).accepted
    assert not replay(Native(graph).native, graph, both, x).accepted


def test_the_enclosure_decides_ordinary_networks() -> None:
    """On a network of ordinary size every point whose margin is above 1e-10 is decided."""
    graph = mlp(torch.Generator().manual_seed(0), (4, 20, 20, 1))
    prop = positive([0.0] * 4, [1.0] * 4)
    for seed in range(30):
        x = torch.rand(4, generator=torch.Generator().manual_seed(seed)).numpy()
        margin = float(graph(torch.from_numpy(x).double().unsqueeze(0)))
        assert abs(margin) > 1e-10
        assert replay(Native(graph).native, graph, prop, x).real is (margin < 0)


def test_an_input_fixed_at_a_decimal_stands_for_that_decimal() -> None:
    """No float equals 0.1: the network reads the float32 next to it, and the exact replay is at 0.1 itself."""
    graph = line([[1.0]], [0.0])
    tenth, near = np.array([Fraction(1, 10)], dtype=object), np.array([0.1], np.float32)
    below, above = np.nextafter(near, np.float32(0)), np.nextafter(near, np.float32(1))
    region = Region(tenth, tenth)
    assert region.inner_box().lower[0].numpy() == near and region.inner_box().upper[0].numpy() == near
    assert [region.admits(x) for x in (below, near, above)] == [False, True, False]
    # y <= 0.1 + 1e-9 holds at 0.1 and not at the float32, 0.1 + 1.5e-9; y <= 0.1 + 2e-9 holds at both.
    for slack, single in ((1e-9, False), (2e-9, True)):
        prop = Property(
            region, (HalfSpaces(torch.ones(1, 1).double(), torch.tensor([-0.1 - slack], dtype=torch.float64)),)
        )
        found = replay(Native(graph).native, graph, prop, near)
        assert (found.inside, found.float32, found.real) == (True, single, True)
