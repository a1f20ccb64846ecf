"""Input sets: minima against a convex solver, projections."""

import cvxpy as cp
import numpy as np
import pytest
import torch

from verifier.types import Ball, Box, Interval, same_layout


def random_ball(seed: int, norm: int, eps: float, size: int = 6) -> Ball:
    """A ball around a point of [0, 1], cut off by the data range [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    origin = torch.rand(1, size, generator=generator, dtype=torch.float64)
    lower, upper = (origin - eps).clamp(min=0), (origin + eps).clamp(max=1)
    return Ball(lower, upper, origin, torch.tensor([eps], dtype=torch.float64), norm)


def distance(ball: Ball, x: torch.Tensor) -> torch.Tensor:
    return torch.linalg.vector_norm((x - ball.origin).flatten(1), ord=ball.norm, dim=1)


@pytest.mark.parametrize("norm", [1, 2])
@pytest.mark.parametrize("eps", [0.05, 0.4, 1.2, 30.0])
def test_ball_minimum_equals_a_convex_solver(norm: int, eps: float) -> None:
    for seed in range(4):
        ball = random_ball(seed, norm, eps)
        A = torch.randn(1, 3, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        A[0, 1, :3] = 0.0
        found = ball.minimum(A)[0].numpy()
        for row, value in zip(A[0].numpy(), found, strict=True):
            x = cp.Variable(6)
            near = cp.norm(x - ball.origin[0].numpy(), norm) <= eps
            problem = cp.Problem(cp.Minimize(row @ x), [near, x >= ball.lower[0].numpy(), x <= ball.upper[0].numpy()])
            truth = problem.solve(solver=cp.CLARABEL, tol_gap_abs=1e-9, tol_gap_rel=1e-9, tol_feas=1e-9)
            assert value == pytest.approx(truth, abs=1e-7)


@pytest.mark.parametrize("norm", [1, 2])
def test_ball_minimum_of_zero_coefficients_and_of_a_point(norm: int) -> None:
    ball = random_ball(0, norm, 0.3)
    assert ball.minimum(torch.zeros(1, 2, 6, dtype=torch.float64)).tolist() == [[0.0, 0.0]]
    point = Ball(ball.origin, ball.origin, ball.origin, torch.zeros(1, dtype=torch.float64), norm)
    A = torch.randn(1, 2, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    torch.testing.assert_close(point.minimum(A), (A * ball.origin).sum(2), atol=1e-12, rtol=0)


@pytest.mark.parametrize("norm", [1, 2])
def test_ball_minimum_of_nan_is_nan(norm: int) -> None:
    A = torch.full((1, 1, 6), torch.nan, dtype=torch.float64)
    assert torch.isnan(random_ball(0, norm, 0.3).minimum(A)).all()


def test_box_minimum_by_hand() -> None:
    box = Box(torch.tensor([[-1.0, 2.0]]), torch.tensor([[1.0, 5.0]]))
    assert box.minimum(torch.tensor([[[3.0, -2.0], [0.0, 1.0]]])).tolist() == [[-13.0, 2.0]]


@pytest.mark.parametrize("norm", [1, 2])
@pytest.mark.parametrize("eps", [0.05, 0.6, 2.0])
def test_projection_on_a_ball_stays_inside_and_is_idempotent(norm: int, eps: float) -> None:
    for seed in range(10):
        ball = random_ball(seed, norm, eps)
        x = ball.origin + 2 * torch.randn(1, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        once = ball.project(x)
        assert (distance(ball, once) <= eps * (1 + 1e-12)).all()
        assert (once >= ball.lower).all() and (once <= ball.upper).all()
        torch.testing.assert_close(ball.project(once), once, atol=1e-12, rtol=0)
        inside = ball.origin + 0.3 * (once - ball.origin)
        torch.testing.assert_close(ball.project(inside), inside, atol=1e-15, rtol=0)


@pytest.mark.parametrize("norm", [1, 2])
def test_projection_on_a_ball_inside_the_range_is_the_nearest_point(norm: int) -> None:
    origin = torch.full((1, 4), 0.5, dtype=torch.float64)
    ball = Ball(origin - 0.2, origin + 0.2, origin, torch.tensor([0.2], dtype=torch.float64), norm)
    x = np.array([0.9, 0.45, 0.2, 0.55])
    clipped = np.clip(x, 0.3, 0.7)
    y = cp.Variable(4)
    cp.Problem(cp.Minimize(cp.sum_squares(y - clipped)), [cp.norm(y - 0.5, norm) <= 0.2]).solve(solver=cp.CLARABEL)
    np.testing.assert_allclose(ball.project(torch.from_numpy(x).unsqueeze(0))[0].numpy(), y.value, atol=1e-5)


def test_projection_on_a_box_clips() -> None:
    box = Box(torch.zeros(1, 3), torch.ones(1, 3))
    assert box.project(torch.tensor([[-1.0, 0.5, 2.0]])).tolist() == [[0.0, 0.5, 1.0]]


def test_select_and_to_treat_every_tensor() -> None:
    balls = Ball(*(torch.zeros(3, 2) + k for k in range(3)), torch.tensor([0.1, 0.2, 0.3]), 2)
    one = balls.select(torch.tensor([2]))
    assert one.batch == 1 and one.norm == 2 and one.eps.tolist() == pytest.approx([0.3])
    assert all(t.dtype == torch.float64 for t in vars(one.to(torch.float64)).values() if isinstance(t, torch.Tensor))


def test_center_and_radius() -> None:
    z = Interval(torch.tensor([[1.0, -2.0]]), torch.tensor([[3.0, -2.0]]))
    assert z.center.tolist() == [[2.0, -2.0]] and z.radius.tolist() == [[1.0, 0.0]]


@pytest.mark.parametrize(
    ("given", "wanted", "same"),
    [
        ((1, 28, 28), (28, 28), True),
        ((28, 28, 1), (1, 28, 28), True),  # one channel, wherever it stands
        ((784,), (1, 28, 28), True),
        ((32, 32, 3), (3072,), True),
        ((32, 32, 3), (3, 32, 32), False),
        ((2, 100), (100, 2), False),
        ((784,), (1, 28, 29), False),
        ((3, 1, 1), (1, 3), True),
    ],
)
def test_layouts_that_hold_the_same_values_in_the_same_order(given, wanted, same) -> None:
    assert same_layout(given, wanted) is same_layout(wanted, given) is same
