"""Bounds by linear programs."""

import time
from dataclasses import dataclass

import pytest
import torch
from nets import mlp, random_case, samples

from verifier.bounds import lp
from verifier.bounds.crown import Crown
from verifier.bounds.lp import LpBounds
from verifier.program import Solution, Status
from verifier.types import Ball, Box


def small_net() -> tuple:
    generator = torch.Generator().manual_seed(4)
    graph = mlp(generator, (3, 5, 4, 2))
    center = torch.rand(2, 3, generator=generator, dtype=torch.float64)
    return graph, Box(center - 0.4, center + 0.4), torch.eye(2, dtype=torch.float64).unsqueeze(0)


def test_every_solver_gives_the_same_bounds() -> None:
    graph, box, C = small_net()
    reference = LpBounds()(graph, box, C)
    for name in ("cvxpy", "pulp", "scipy"):
        bounds = LpBounds(solver=name)(graph, box, C)
        torch.testing.assert_close(bounds.lower, reference.lower, atol=1e-6, rtol=0)
        torch.testing.assert_close(bounds.upper, reference.upper, atol=1e-6, rtol=0)


@pytest.mark.parametrize("seed", [1, 4, 5])
def test_integer_bounds_are_attained(seed: int) -> None:
    """With binary columns the bounds of the rows are exact: some point of the box comes close to each."""
    case = random_case(seed, most=6)
    box, C = case.prop.region.box(), case.C.unsqueeze(0)
    exact, relaxed = LpBounds(integer=True)(case.graph, box, C), LpBounds()(case.graph, box, C)
    assert (exact.lower >= relaxed.lower - 1e-9).all() and (exact.upper <= relaxed.upper + 1e-9).all()
    rows = case.graph(samples(box.lower, box.upper, 40_000)[0]) @ case.C.T
    spread = (exact.upper - exact.lower)[0]
    assert (rows.amin(0) >= exact.lower[0] - 1e-7).all() and (rows.amax(0) <= exact.upper[0] + 1e-7).all()
    assert (rows.amin(0) - exact.lower[0] <= 0.05 * spread).all()
    assert (exact.upper[0] - rows.amax(0) <= 0.05 * spread).all()


def test_bounds_over_an_l1_ball_are_tighter_than_over_its_box() -> None:
    graph, box, C = small_net()
    origin, eps = box.center, torch.full((2,), 0.4, dtype=torch.float64)
    ball = Ball(box.lower, box.upper, origin, eps, 1)
    bounds, loose, crown = LpBounds()(graph, ball, C), LpBounds()(graph, box, C), Crown()(graph, ball, C)
    assert (bounds.lower > loose.lower + 1e-3).any() and (bounds.lower >= loose.lower - 1e-9).all()
    assert (bounds.lower >= crown.lower).all()
    x = ball.project(origin + torch.randn(2000, 2, 3, generator=torch.Generator().manual_seed(0)).double()[0])
    assert (bounds.lower <= graph(x) + 1e-9).all() and (graph(x) <= bounds.upper + 1e-9).all()


def test_after_the_deadline_the_bounds_are_those_of_crown() -> None:
    graph, box, C = small_net()
    bounds, crown = LpBounds(deadline=0.0)(graph, box, C), Crown()(graph, box, C)
    torch.testing.assert_close(bounds.lower, crown.lower, atol=1e-12, rtol=0)
    torch.testing.assert_close(bounds.upper, crown.upper, atol=1e-12, rtol=0)


def test_the_deadline_is_kept_within_a_layer() -> None:
    """Hundreds of unstable neurons, each solved in time, must not add up."""
    graph = mlp(torch.Generator().manual_seed(0), (10, 300, 300, 2))
    box = Box(torch.zeros(1, 10, dtype=torch.float64), torch.ones(1, 10, dtype=torch.float64))
    began = time.monotonic()
    LpBounds(deadline=began + 0.3)(graph, box, torch.eye(2, dtype=torch.float64).unsqueeze(0))
    assert time.monotonic() - began < 1.5


def test_a_far_deadline_changes_nothing() -> None:
    graph, box, C = small_net()
    free, limited = (
        LpBounds()(graph, box, C),
        LpBounds(deadline=time.monotonic() + 1000, neuron_seconds=10)(graph, box, C),
    )
    torch.testing.assert_close(limited.lower, free.lower, atol=1e-9, rtol=0)
    torch.testing.assert_close(limited.upper, free.upper, atol=1e-9, rtol=0)


@dataclass(frozen=True)
class Lying:
    """A solver that gives one answer to everything."""

    answer: Solution

    def minimise_many(self, program, costs, options=None) -> list[Solution]:
        return [self.answer for _ in costs]


@pytest.mark.parametrize(
    "answer",
    [
        Solution(Status.INFEASIBLE, bound=float("inf"), objective=float("inf")),
        Solution(Status.FAILED),
        Solution(Status.TIME_LIMIT),
        Solution(Status.OPTIMAL, objective=5.0, bound=5.0),  # no multipliers that prove it
    ],
    ids=lambda answer: answer.status.name,
)
def test_a_solver_that_proves_nothing_changes_nothing(answer: Solution, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of the network satisfy the program: a solver that says "infeasible" is wrong, and proves nothing."""
    graph, box, C = small_net()
    crown = Crown()(graph, box, C)
    monkeypatch.setattr(lp, "get", lambda name: Lying(answer))
    bounds = LpBounds()(graph, box, C)
    torch.testing.assert_close(bounds.lower, crown.lower, atol=1e-12, rtol=0)
    torch.testing.assert_close(bounds.upper, crown.upper, atol=1e-12, rtol=0)
    for node, z in crown.nodes.items():
        torch.testing.assert_close(bounds.nodes[node].lower, z.lower, atol=1e-12, rtol=0)
        torch.testing.assert_close(bounds.nodes[node].upper, z.upper, atol=1e-12, rtol=0)
