"""Attacks against closed forms and exact membership."""

from fractions import Fraction

import pytest
import torch
from torch import nn

from verifier.attack.pgd import Fgsm, Pgd
from verifier.errors import InputError
from verifier.types import Ball, Box

SHAPE = (2, 3, 4)
BATCH = 3


def region_of(norm, eps, dtype=torch.float64, lower=-1e9, upper=1e9, seed=0):
    """The ball of radius eps around random points, intersected with [lower, upper]; another eps for each element."""
    generator = torch.Generator().manual_seed(seed)
    origin = torch.rand((BATCH, *SHAPE), generator=generator, dtype=dtype)
    radius = eps * torch.arange(1, BATCH + 1, dtype=dtype)
    wide = radius.view(-1, 1, 1, 1)
    low, high = (origin - wide).clamp(min=lower), (origin + wide).clamp(max=upper)
    return origin, radius, Box(low, high) if norm == "linf" else Ball(low, high, origin, radius, int(norm[1]))


def linear_model(dtype=torch.float64):
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(24, 5)).to(dtype)


def small_net(dtype=torch.float32):
    torch.manual_seed(1)
    return nn.Sequential(nn.Flatten(), nn.Linear(24, 20), nn.ReLU(), nn.Linear(20, 5)).to(dtype)


def margin(outputs):
    return outputs[:, 0] - outputs[:, 3] + 100.0  # never violated, so that no attack stops early


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize(
    "attack",
    [Fgsm(), Pgd(random_start=False), Pgd(seed=1), Pgd(steps=60, restarts=3)],
    ids=["fgsm", "centre", "random", "restarts"],
)
def test_optimum_of_a_linear_model_is_the_dual_norm(norm, attack):
    model = linear_model()
    origin, eps, region = region_of(norm, 0.3)
    weight = model[1].weight[0] - model[1].weight[3]
    dual = torch.linalg.vector_norm(weight, ord={"linf": 1, "l2": 2, "l1": torch.inf}[norm])
    expected = margin(model(origin)) - eps * dual
    found = attack(model, region, margin)
    torch.testing.assert_close(found.margin, expected, rtol=0, atol=2e-4)
    assert (found.margin >= expected - 1e-9).all()  # below the optimum would be outside of the region
    torch.testing.assert_close(margin(model(found.point)), found.margin)


@pytest.mark.parametrize("norm", ["l2", "l1"])
def test_optimum_of_a_linear_model_where_the_data_range_binds(norm):
    model = linear_model()
    origin, _, region = region_of(norm, 0.8, lower=0.0, upper=1.0)
    weight = (model[1].weight[0] - model[1].weight[3]).detach()
    offset = margin(model(origin)) - origin.flatten(1) @ weight
    optimum = region.minimum(weight.expand(BATCH, 1, -1).reshape(BATCH, 1, *SHAPE)).squeeze(1) + offset
    found = Pgd(steps=300, step_size=0.5)(model, region, margin)
    torch.testing.assert_close(found.margin, optimum, rtol=0, atol=5e-3)
    assert (found.margin >= optimum - 1e-9).all()


def test_a_box_of_any_widths():
    model = linear_model()
    generator = torch.Generator().manual_seed(2)
    lower, width = torch.rand((2, BATCH, *SHAPE), generator=generator, dtype=torch.float64)
    width[width < 0.3] = 0  # some coordinates are fixed
    region = Box(lower, lower + width)
    weight = model[1].weight[0] - model[1].weight[3]
    worst = torch.where(weight.view(SHAPE) > 0, region.lower, region.upper)
    for attack in (Fgsm(), Pgd()):
        torch.testing.assert_close(attack(model, region, margin).margin, margin(model(worst)))


def inside(region, point):
    """Exact membership, in rational arithmetic."""
    for i in range(region.batch):
        x, low, high = (t[i].flatten().tolist() for t in (point, region.lower, region.upper))
        if not all(lo <= v <= hi for lo, v, hi in zip(low, x, high, strict=True)):
            return False
        if isinstance(region, Ball):
            steps = [
                abs(Fraction(v) - Fraction(o)) for v, o in zip(x, region.origin[i].flatten().tolist(), strict=True)
            ]
            eps = Fraction(region.eps[i].item())
            if sum(s**region.norm for s in steps) > eps**region.norm:
                return False
    return True


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("bounded", [False, True])
def test_points_stay_in_the_region_exactly(norm, dtype, bounded):
    limits = {"lower": 0.0, "upper": 1.0} if bounded else {}
    for seed in range(20):
        region = region_of(norm, 0.4, dtype, seed=seed, **limits)[2]
        for attack in (Fgsm(), Pgd(steps=5, step_size=0.7, restarts=2, seed=seed)):
            found = attack(small_net(dtype), region, margin)
            assert found.point.dtype == dtype and found.point.shape == (BATCH, *SHAPE)
            assert inside(region, found.point)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_zero_radius_returns_the_only_point(norm):
    origin, _, region = region_of(norm, 0.0)
    assert torch.equal(Pgd(steps=3)(linear_model(), region, margin).point, origin)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_deterministic_given_the_seed(norm):
    region = region_of(norm, 0.2, torch.float32)[2]
    runs = []
    for seed in (5, 5, 6):
        torch.manual_seed(len(runs))  # the global generator must not matter
        runs.append(Pgd(steps=3, restarts=2, seed=seed)(small_net(), region, margin).point)
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


def test_restarts_find_the_deeper_valley():
    """Two valleys; from a start in the shallow one, gradient descent cannot leave it."""
    region = Box(torch.full((1, 1), -1.0), torch.full((1, 1), 1.0))

    def valleys(x):  # 0.5 at x = -0.8, 0.1 at x = 0.8, a ridge of 0.9 between them
        return torch.minimum((x + 0.8).abs() / 2 + 0.5, (x - 0.8).abs() + 0.1).squeeze(1)

    def run(restarts, seed):
        return Pgd(steps=50, step_size=0.05, restarts=restarts, seed=seed)(lambda x: x, region, valleys).margin.item()

    assert max(run(1, seed) for seed in range(10)) > 0.4
    assert max(run(10, seed) for seed in range(10)) < 0.2


def test_every_element_has_its_own_objective():
    model, region = small_net(), region_of("linf", 0.1, torch.float32)[2]
    labels = torch.tensor([0, 2, 4])

    def objective(outputs):
        return outputs.gather(1, labels.unsqueeze(1)).squeeze(1) + 100

    folded = Pgd(steps=10, restarts=3)(model, region, objective)
    torch.testing.assert_close(objective(model(folded.point)), folded.margin)


def test_stops_once_every_element_is_violated():
    calls = []

    def forward(x):
        calls.append(len(x))
        return x.flatten(1)

    region = region_of("linf", 0.1)[2]
    found = Pgd(steps=30, restarts=2)(forward, region, lambda y: y[:, 0] - 1e6)
    assert calls == [2 * BATCH] and (found.margin <= 0).all()
    calls.clear()
    Pgd(steps=30)(forward, region, lambda y: y[:, 0] + torch.tensor([0, 0, 1e6]) - 1e3)
    assert len(calls) == 31  # one element is still safe


def test_nan_is_never_a_success():
    region = region_of("linf", 0.1)[2]
    found = Pgd(steps=3)(lambda x: x.flatten(1) * torch.nan, region, margin)
    assert (found.margin == torch.inf).all() and inside(region, found.point)


@pytest.mark.parametrize(("norm", "dual"), [("linf", 2), ("l2", 2**0.5), ("l1", 1)])
def test_a_nan_gradient_in_one_coordinate_does_not_stop_the_others(norm, dual):
    origin, eps, region = region_of(norm, 0.1)

    def forward(x):  # the square root's slope at zero is infinite, and zero times that is NaN
        return x.flatten(1) + (x.flatten(1)[:, 5:6] * 0).sqrt() * 0

    found = Pgd(random_start=False)(forward, region, margin)
    torch.testing.assert_close(found.margin, margin(origin.flatten(1)) - eps * dual, rtol=0, atol=1e-5)
    assert inside(region, found.point)


def test_works_where_gradients_are_switched_off():
    region = region_of("l2", 0.1)[2]
    with torch.no_grad():
        inner = Pgd(steps=3)(linear_model(), region, margin)
    outer = Pgd(steps=3)(linear_model(), region, margin)
    assert torch.equal(inner.point, outer.point)
    assert not outer.point.requires_grad and not outer.margin.requires_grad


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_cuda_agrees_with_the_cpu(norm):
    region = region_of(norm, 0.1)[2]
    cpu = Pgd(steps=10)(linear_model(), region, margin)
    gpu = Pgd(steps=10)(linear_model().cuda(), region.to("cuda"), margin)
    torch.testing.assert_close(gpu.margin.cpu(), cpu.margin)


@pytest.mark.parametrize(
    "options",
    [
        {"steps": 0},
        {"restarts": 0},
        {"step_size": 0.0},
        {"step_size": float("nan")},
        {"step_size": float("inf")},
        {"restarts": 2, "random_start": False},
    ],
)
def test_options_out_of_range(options):
    with pytest.raises(InputError, match="PGD"):
        Pgd(**options)
