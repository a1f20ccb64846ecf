"""Every activation: its pieces, its range and its lines, against samples and autograd."""

import math

import pytest
import torch
from torch import Tensor

from verifier.ops.base import Activation, PiecewiseLinear
from verifier.ops.registry import OPS
from verifier.ops.relu import Abs, Clip, LeakyReLU, ReLU
from verifier.ops.smooth import Sigmoid, Tanh
from verifier.types import Interval

CASES: list[tuple[str, Activation]] = [
    ("relu", ReLU()),
    ("leaky", LeakyReLU(0.1)),
    ("steep", LeakyReLU(3.0)),
    ("falling", LeakyReLU(-0.5)),
    ("abs", Abs()),
    ("clip", Clip(-1.0, 1.0)),
    ("relu6", Clip(0.0, 6.0)),
    ("narrow clip", Clip(0.25, 0.5)),
    ("sigmoid", Sigmoid()),
    ("tanh", Tanh()),
]


@pytest.fixture(params=CASES, ids=lambda case: case[0])
def op(request: pytest.FixtureRequest) -> Activation:
    return request.param[1]


def intervals() -> Interval:
    """Intervals of all widths and positions, points and touching ends among them, shape (1, n)."""
    torch.manual_seed(0)
    ends = torch.cat((torch.tensor([-30.0, -6, -1, -0.5, 0, 0.25, 0.5, 1, 6, 30]), 3 * torch.randn(25))).double()
    a, b = torch.meshgrid(ends, ends, indexing="ij")
    return Interval(torch.minimum(a, b).reshape(1, -1), torch.maximum(a, b).reshape(1, -1))


def samples(z: Interval, count: int = 201) -> Tensor:
    """Points of each interval, both ends included, shape (count, n)."""
    share = torch.linspace(0, 1, count, dtype=torch.float64).view(-1, 1)
    return torch.minimum(torch.maximum(z.lower + share * (z.upper - z.lower), z.lower), z.upper)


def test_every_activation_has_a_case() -> None:
    assert {type(op) for _, op in CASES} == {op for op in OPS if issubclass(op, Activation)}


def test_pieces_are_the_function(op: Activation) -> None:
    if not isinstance(op, PiecewiseLinear):
        pytest.skip("smooth")
    x = torch.linspace(-8, 8, 1601, dtype=torch.float64)
    value = op.forward(torch.tensor([-8.0], dtype=torch.float64)).expand_as(x)
    edges = (-8.0, *op.breakpoints, math.inf)
    for slope, start, end in zip(op.slopes, edges, edges[1:], strict=False):
        value = value + slope * (x.clamp(min=start, max=end) - start)
    torch.testing.assert_close(op.forward(x), value, rtol=1e-12, atol=1e-12)


def test_the_range_is_exact(op: Activation) -> None:
    z = intervals()
    points = samples(z, 2001)
    if isinstance(op, PiecewiseLinear):
        inside = [torch.full_like(z.lower, p).maximum(z.lower).minimum(z.upper) for p in op.breakpoints]
        points = torch.cat((points, *inside))
    values, bounds = op.forward(points), op.interval(z)
    torch.testing.assert_close(bounds.lower[0], values.amin(0), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(bounds.upper[0], values.amax(0), rtol=1e-12, atol=1e-12)


def test_lines_are_valid_for_every_alpha(op: Activation) -> None:
    z = intervals()
    points = samples(z)
    values = op.forward(points)
    choices = [op.initial(z, rule) for rule in ("adaptive", "parallel")]
    choices += [
        torch.rand(op.parameters, 1, z.lower.shape[1], dtype=torch.float64).round(decimals=1) for _ in range(20)
    ]
    for alpha in choices:
        assert alpha.shape[0] == op.parameters and bool(((alpha >= 0) & (alpha <= 1)).all())
        lines = op.relax(z, alpha)
        below = lines.lower_slope * points + (0 if lines.lower_offset is None else lines.lower_offset)
        above = lines.upper_slope * points + (0 if lines.upper_offset is None else lines.upper_offset)
        assert float((below - values).max()) <= 1e-12
        assert float((values - above).max()) <= 1e-12


def test_where_the_op_is_stable_its_lines_are_exact(op: Activation) -> None:
    z = intervals()
    stable = ~op.unstable(z)[0]
    lines = op.relax(z, op.initial(z, "adaptive"))
    points = samples(z)
    for slope, offset in ((lines.lower_slope, lines.lower_offset), (lines.upper_slope, lines.upper_offset)):
        line = slope * points + (0 if offset is None else offset)
        torch.testing.assert_close(line[:, stable], op.forward(points)[:, stable], rtol=1e-11, atol=1e-11)
    assert bool(stable.any())
