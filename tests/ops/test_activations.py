"""Every activation: its pieces, its range and its lines, against samples and autograd."""

import math

import pytest
import torch
from torch import Tensor

from verifier.ops.base import Activation, PiecewiseLinear
from verifier.ops.curved import Curved
from verifier.ops.exponential import Elu, Exp, Log, Softplus
from verifier.ops.gates import Gelu, HardSwish, Silu
from verifier.ops.powers import Power, Reciprocal, Sqrt, Square
from verifier.ops.registry import OPS
from verifier.ops.relu import Abs, Clip, LeakyReLU, ReLU
from verifier.ops.smooth import Atan, Erf, Sigmoid, Softsign, Tanh
from verifier.ops.waves import Sin
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
    ("cube", Power(3)),
    ("fourth power", Power(4)),
    ("square", Square()),
    ("exp", Exp()),
    ("log", Log()),
    ("sqrt", Sqrt()),
    ("reciprocal", Reciprocal()),
    ("softplus", Softplus()),
    ("elu", Elu(1.0)),
    ("steep elu", Elu(1.75)),
    ("gelu", Gelu()),
    ("silu", Silu()),
    ("hard swish", HardSwish()),
    ("sin", Sin()),
    ("cos", Sin(cosine=True)),
    ("erf", Erf()),
    ("atan", Atan()),
    ("softsign", Softsign()),
]


@pytest.fixture(params=CASES, ids=lambda case: case[0])
def op(request: pytest.FixtureRequest) -> Activation:
    return request.param[1]


def intervals(op: Activation) -> Interval:
    """Intervals of all widths and positions in the domain, points and touching ends among them, shape (1, n)."""
    torch.manual_seed(0)
    ends = torch.cat((torch.tensor([-30.0, -6, -1, -0.5, 0, 0.25, 0.5, 1, 6, 30]), 3 * torch.randn(25))).double()
    if isinstance(op, Curved) and op.domain[0] == 0:
        ends = ends.abs() + 0.01
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
    z = intervals(op)
    points = samples(z, 2001)
    if isinstance(op, PiecewiseLinear):
        inside = [torch.full_like(z.lower, p).maximum(z.lower).minimum(z.upper) for p in op.breakpoints]
        points = torch.cat((points, *inside))
    elif isinstance(op, Curved):
        turns = (
            [2 * math.pi * k + s * math.pi / 2 - op.phase for k in range(-6, 6) for s in (-1, 1)]
            if isinstance(op, Sin)
            else op.turns
        )
        points = torch.cat((points, *(z.lower.clamp(min=turn).minimum(z.upper) for turn in turns)))
    values, bounds = op.forward(points), op.interval(z)
    torch.testing.assert_close(bounds.lower[0], values.amin(0), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(bounds.upper[0], values.amax(0), rtol=1e-12, atol=1e-12)


def test_lines_are_valid_for_every_alpha(op: Activation) -> None:
    z = intervals(op)
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
        size = 1 + values.abs().amax(0)
        assert float(((below - values) / size).max()) <= 1e-12
        assert float(((values - above) / size).max()) <= 1e-12


def test_where_the_op_is_stable_its_lines_are_exact(op: Activation) -> None:
    z = intervals(op)
    stable = ~op.unstable(z)[0]
    lines = op.relax(z, op.initial(z, "adaptive"))
    points = samples(z)
    for slope, offset in ((lines.lower_slope, lines.lower_offset), (lines.upper_slope, lines.upper_offset)):
        line = slope * points + (0 if offset is None else offset)
        torch.testing.assert_close(line[:, stable], op.forward(points)[:, stable], rtol=1e-11, atol=1e-11)
    assert bool(stable.any())


def test_slopes_are_derivatives_and_no_secant_is_steeper(op: Activation) -> None:
    z = intervals(op)
    points = samples(z, 301)
    rise, run = op.forward(points).diff(dim=0).abs(), points.diff(dim=0)
    allowed = op.steepest(z) * run + 1e-12 * (1 + op.forward(points[1:]).abs())
    assert bool((rise <= allowed).all())
    if not isinstance(op, PiecewiseLinear):
        x = points[:, z.lower[0] != z.upper[0]].flatten().add(1e-3).requires_grad_()  # beside the kinks
        (expected,) = torch.autograd.grad(op.forward(x).sum(), x)
        torch.testing.assert_close(op.slope(x), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("op", [Log(), Sqrt(), Reciprocal()], ids=lambda op: type(op).__name__)
def test_beyond_the_domain_nothing_is_claimed(op: Curved) -> None:
    z = Interval(torch.tensor([[-1.0, 0.0, 1.0]]).double(), torch.tensor([[1.0, 1.0, 2.0]]).double())
    lines, bounds = op.relax(z, op.initial(z, "adaptive")), op.interval(z)
    assert bounds.lower.isneginf().tolist() == [[True, True, False]] == bounds.upper.isposinf().tolist()
    assert lines.lower_offset.isneginf().tolist() == [[True, True, False]] == lines.upper_offset.isposinf().tolist()
    assert not bool(lines.lower_slope.isnan().any() or lines.upper_slope.isnan().any())


@pytest.mark.parametrize("op", [Sin(), Sin(cosine=True)], ids=["sin", "cos"])
def test_waves_over_a_period_or_far_away_lie_between_minus_one_and_one(op: Sin) -> None:
    z = Interval(torch.tensor([[-1.0, 5000.0]]).double(), torch.tensor([[6.0, 5000.5]]).double())
    lines, bounds = op.relax(z, op.initial(z, "adaptive")), op.interval(z)
    assert bounds.lower.tolist() == lines.lower_offset.tolist() == [[-1.0, -1.0]]
    assert bounds.upper.tolist() == lines.upper_offset.tolist() == [[1.0, 1.0]]
    assert lines.lower_slope.tolist() == lines.upper_slope.tolist() == [[0.0, 0.0]]
