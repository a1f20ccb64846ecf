"""Networks as programs: relaxations, starts, objectives, disjunctions."""

from __future__ import annotations

from fractions import Fraction

import brute_force
import numpy as np
import pytest
import torch
from nets import Native, mlp, random_case, residual

from verifier import solvers
from verifier.attack.replay import replay
from verifier.bounds.crown import Crown
from verifier.bounds.interval import IntervalBounds
from verifier.encoding import OBJECTIVES, Encoding, encode
from verifier.errors import SpecificationError
from verifier.graph import Graph
from verifier.ops.smooth import Sigmoid, Tanh
from verifier.program import Solution, Status, violation
from verifier.spec.property import HalfSpaces, Property, Region, exact
from verifier.spec.robustness import local_robustness

SEEDS = range(12)


def encoded(graph: Graph, prop: Property, integer: bool = True, objective: str = "margin") -> Encoding:
    box, C = prop.region.box(), prop.rows[0].unsqueeze(0)
    return encode(graph, box, Crown()(graph, box, C).nodes, prop, integer, objective)


def solved(encoding: Encoding) -> Solution:
    return solvers.get("highs").solve(encoding.program)


def random_points(region: Region, count: int, seed: int = 0) -> np.ndarray:
    box, generator = region.box(), torch.Generator().manual_seed(seed)
    spread = torch.rand(count, *region.shape, generator=generator, dtype=torch.float64)
    spread[::2] = spread[::2].round()
    return box.project(box.lower + spread * (box.upper - box.lower)).numpy()


@pytest.mark.parametrize("seed", SEEDS)
def test_the_triangle_lies_below_the_milp(seed: int) -> None:
    case = random_case(seed, most=7)
    relaxed, integer = encoded(case.graph, case.prop, integer=False), encoded(case.graph, case.prop)
    assert not relaxed.program.is_milp and not relaxed.exact and integer.exact
    assert solved(relaxed).objective <= solved(integer).objective + 1e-9


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("integer", [True, False])
def test_a_run_of_the_network_satisfies_the_program(seed: int, integer: bool) -> None:
    case = random_case(seed)
    encoding = encoded(case.graph, case.prop, integer)
    for point in random_points(case.prop.region, 20):
        start = encoding.start(point)
        assert violation(encoding.program, start) <= 1e-9
        margin = float(case.prop.margin(case.graph(torch.from_numpy(point).unsqueeze(0))))
        assert encoding.program.objective(start) == pytest.approx(margin, abs=1e-9)
        np.testing.assert_array_equal(encoding.input(start), point)


def test_a_point_off_the_network_violates_the_program() -> None:
    case = random_case(10)
    encoding = encoded(case.graph, case.prop)
    start = encoding.start(random_points(case.prop.region, 2)[1])
    start[case.graph.nodes[0].size] += 1e-3  # the first column behind the inputs
    assert violation(encoding.program, start) > 1e-4


@pytest.mark.parametrize("seed", range(24))
def test_feasibility_is_the_sign_of_the_worst_margin(seed: int) -> None:
    case = random_case(seed, most=7)
    truth = brute_force.worst(case.graph, case.prop).margin
    assert abs(truth) > 1e-6, "choose another seed: this one is too close to call"
    answer = solved(encoded(case.graph, case.prop, objective="feasibility"))
    assert answer.status is (Status.INFEASIBLE if truth > 0 else Status.OPTIMAL)
    if answer.x is not None:
        point = torch.from_numpy(encoded(case.graph, case.prop).input(answer.x)).unsqueeze(0)
        assert float(case.prop.margin(case.graph(point))) <= 1e-6


def robustness(seed: int, norm: str, eps: str = "0.6", target: int | None = None) -> tuple[Graph, Property]:
    generator = torch.Generator().manual_seed(seed)
    graph = residual(generator, 2, 4, 3)
    x = (0.25 + torch.rand(2, generator=generator) / 2).numpy()
    label = int(graph(torch.from_numpy(x).double().unsqueeze(0)).argmax())
    other = None if target is None else (label + target) % 3
    return graph, local_robustness(x, label, eps, norm, other, classes=3, lower=None, upper=None)


@pytest.mark.parametrize("norm", ["linf", "l1"])
@pytest.mark.parametrize("seed", range(4))
def test_the_closest_adversarial_example_by_bisection(seed: int, norm: str) -> None:
    graph, prop = robustness(seed, norm, "1.5")
    answer = solved(encoded(graph, prop, objective="distance"))

    def reachable(eps: float) -> bool:
        origin = prop.region.origin.astype(np.float32)
        label = int(prop.about[-1])
        smaller = local_robustness(origin, label, Fraction(eps), norm, classes=3, lower=None, upper=None)
        return solved(encoded(graph, smaller)).objective <= 0

    if not reachable(1.5):
        assert answer.status is Status.INFEASIBLE
        return
    low, high = 0.0, 1.5
    while high - low > 1e-5:
        middle = (low + high) / 2
        low, high = (low, middle) if reachable(middle) else (middle, high)
    assert answer.objective == pytest.approx(high, abs=3e-5)
    encoding = encoded(graph, prop, objective="distance")
    step = encoding.input(answer.x) - prop.region.origin.astype(float)
    assert np.linalg.norm(step, np.inf if norm == "linf" else 1) == pytest.approx(answer.objective, abs=1e-6)


def test_some_closest_adversarial_examples_exist() -> None:
    """So that the test above compares numbers."""
    found = [solved(encoded(*robustness(seed, "linf", "1.5"), objective="distance")).status for seed in range(4)]
    assert Status.OPTIMAL in found


@pytest.mark.parametrize("target", [None, 1])
def test_an_adversarial_example_of_the_milp_replays(target: int | None) -> None:
    accepted = 0
    for seed in range(6):
        graph, prop = robustness(seed, "linf", "1.5", target)
        encoding = encoded(graph, prop)
        answer = solved(encoding)
        if answer.objective < -1e-3:
            inner = prop.region.inner_box()
            point = inner.project(torch.from_numpy(encoding.input(answer.x).astype(np.float32)).unsqueeze(0))[0].numpy()
            assert replay(Native(graph).native, graph, prop, point).accepted
            accepted += 1
    assert accepted


def test_disjunctions_take_the_worst_set_and_conjunctions_all_rows() -> None:
    generator = torch.Generator().manual_seed(0)
    graph = mlp(generator, (2, 4, 2))
    region = Region(exact(np.zeros(2)), exact(np.ones(2)))
    rows = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]], dtype=torch.float64)
    zero = torch.zeros(1, dtype=torch.float64)
    single = [Property(region, (HalfSpaces(rows[i : i + 1], zero),)) for i in range(3)]
    alone = [brute_force.worst(graph, prop).margin for prop in single]
    either = Property(region, tuple(prop.unsafe[0] for prop in single))
    assert solved(encoded(graph, either)).objective == pytest.approx(min(alone), abs=1e-6)
    both = Property(region, (HalfSpaces(rows, torch.zeros(3).double()),))
    worst = solved(encoded(graph, both)).objective
    assert worst == pytest.approx(brute_force.worst(graph, both).margin, abs=1e-6)
    assert worst >= max(alone) - 1e-6


@pytest.mark.parametrize("activation", [Sigmoid, Tanh])
@pytest.mark.parametrize("integer", [True, False])
def test_programs_of_smooth_networks_contain_the_network(activation, integer: bool) -> None:
    graph = mlp(torch.Generator().manual_seed(2), (2, 5, 4, 3), activation)
    region = Region(exact(np.full(2, -1.0)), exact(np.full(2, 1.5)))
    C = torch.tensor([[1.0, -1.0, 0.0], [0.0, 1.0, -1.0]], dtype=torch.float64)
    prop = Property(region, tuple(HalfSpaces(row.unsqueeze(0), torch.zeros(1).double()) for row in C))
    encoding = encoded(graph, prop, integer)
    assert not encoding.exact, "lines around a smooth activation are a relaxation"
    points = random_points(region, 200)
    for point in points:
        assert violation(encoding.program, encoding.start(point)) <= 1e-9
    answer = solved(encoding)
    assert answer.bound <= float(prop.margin(graph(torch.from_numpy(points))).min()) + 1e-9
    crown = Crown()(graph, region.box(), C.unsqueeze(0)).lower[0]
    for one, bound in zip(prop.unsafe, crown.tolist(), strict=True):
        assert solved(encoded(graph, Property(region, (one,)), integer)).bound >= bound - 1e-9


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_l2_balls_are_refused(objective: str) -> None:
    graph, prop = robustness(0, "l2")
    with pytest.raises(SpecificationError, match=r"l2 ball has no linear encoding.*--norm"):
        encoded(graph, prop, objective=objective)


def test_distance_needs_a_ball_and_objectives_are_named() -> None:
    case = random_case(3)
    with pytest.raises(SpecificationError, match="needs an linf or l1 ball"):
        encoded(case.graph, case.prop, objective="distance")
    with pytest.raises(SpecificationError, match=r"unknown objective 'speed'.*feasibility, margin, distance"):
        encoded(case.graph, case.prop, objective="speed")


def test_l1_programs_hold_the_ball() -> None:
    graph, prop = robustness(1, "l1", "0.3")
    encoding = encoded(graph, prop)
    origin = prop.region.origin.astype(float)
    assert violation(encoding.program, encoding.start(origin + np.array([0.1, -0.19]))) <= 1e-9
    assert violation(encoding.program, encoding.start(origin + np.array([0.2, -0.2]))) > 0.05
    x = encoding.input(solved(encoding).x)
    assert np.abs(x - origin).sum() <= 0.3 + 1e-8


def test_wider_bounds_of_neurons_leave_the_optimum() -> None:
    case = random_case(1, most=7)
    box, C = case.prop.region.box(), case.C.unsqueeze(0)
    wide = encode(case.graph, box, IntervalBounds()(case.graph, box, C).nodes, case.prop)
    assert wide.program.integer.sum() >= encoded(case.graph, case.prop).program.integer.sum()
    assert solved(wide).objective == pytest.approx(solved(encoded(case.graph, case.prop)).objective, abs=1e-7)
