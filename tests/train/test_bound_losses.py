"""Losses by bounds against brute force, the bounds of `bounds/`, and formulas worked out by hand."""

import numpy as np
import pytest
import torch
from by_hand import EPS, ByHand, X, Y, ball, batch, cross_entropy, two_layers, value
from torch.nn import functional as F

from verifier.bounds.crown import Crown
from verifier.bounds.interval import IntervalBounds
from verifier.train.adversary import Adversary
from verifier.train.batch import Batch
from verifier.train.intervals import interval_pass, label_rows, worst_logits
from verifier.train.losses.crown_ibp import CrownIbp, backward_loss, fused_loss
from verifier.train.losses.dual import Dual, projected_bounds
from verifier.train.losses.expressive import CcIbp, ExpIbp, MtlIbp
from verifier.train.losses.ibp import Ibp
from verifier.train.losses.pgd import Pgd
from verifier.train.losses.sabr import Sabr
from verifier.train.network import live_graph

CERTIFIED = {"ibp": Ibp(), "crown_ibp": CrownIbp(1.0, fusion=False), "fused": CrownIbp(1.0), "dual": Dual()}


@pytest.fixture
def hand():
    return ByHand(two_layers())


def test_ibp_loss_is_brute_force_interval_arithmetic(hand):
    worst = cross_entropy(hand.leads(*ball(EPS))[1], Y).mean()
    natural = hand.loss(X, Y).mean()
    assert value(Ibp(), two_layers(), batch()) == pytest.approx(worst)
    half = 0.75 * natural + 0.25 * worst
    assert value(Ibp(1.0, 0.5), two_layers(), batch(progress=0.5)) == pytest.approx(half)


def test_crown_ibp_is_its_formula(hand):
    """Lines on interval bounds, below with the slope that fits the larger side; mixed with clean and interval loss."""
    low, high = ball(EPS)
    worst = hand.linear_leads(low, high, lambda l, u: float(u > -l))
    backward, intervals = (cross_entropy(z, Y).mean() for z in (worst, hand.leads(low, high)[1]))
    assert value(CrownIbp(1.0, fusion=False), two_layers(), batch()) == pytest.approx(backward)
    # Half way, beta is (1 + 0.2) / 2 and kappa (0.8 + 0.4) / 2.
    expected = 0.6 * hand.loss(X, Y).mean() + 0.4 * (0.6 * backward + 0.4 * intervals)
    mixed = CrownIbp(0.2, natural_start=0.8, natural_end=0.4, fusion=False)
    assert value(mixed, two_layers(), batch(progress=0.5)) == pytest.approx(expected)


def test_loss_fusion_is_its_formula(hand):
    """With two classes the sum is 1 + exp(lead of the other): its chord at the linear bound of the lead."""
    low, high = ball(EPS)
    least, most = hand.leads(low, high)
    other = np.arange(len(Y)), 1 - Y
    l, u, lead = least[other], most[other], hand.linear_leads(low, high, lambda l, u: float(u > -l))[other]
    chord = np.exp(l) + (np.exp(u) - np.exp(l)) / (u - l) * (lead - l)
    expected = np.log(1 + np.minimum(chord, np.exp(u))).mean()
    assert value(CrownIbp(1.0), two_layers(), batch()) == pytest.approx(expected)


def test_the_dual_loss_is_its_formula(hand):
    """One hidden layer has interval bounds exactly; both lines of a neuron have the slope of the upper one."""
    worst = hand.linear_leads(*ball(EPS), lambda l, u: u / (u - l))
    dual = cross_entropy(worst, Y).mean()
    assert value(Dual(), two_layers(), batch()) == pytest.approx(dual)
    expected = 0.3 * hand.loss(X, Y).mean() + 0.7 * dual
    assert value(Dual(natural=0.3), two_layers(), batch()) == pytest.approx(expected)


def test_sabr_is_its_formula(hand):
    """The attack moves the centre within 0.06; the box of radius 0.04 around it is bounded by intervals."""
    centre = hand.attacked(0.06, (1.0,))
    worst = hand.leads(*ball(0.04, centre))[1]
    expected = cross_entropy(worst, Y).mean()
    assert value(Sabr(0.4), two_layers(), batch()) == pytest.approx(expected)


def test_expressive_losses_are_their_formulas(hand):
    points, worst = hand.attacked(EPS, (1.0,)), hand.leads(*ball(EPS))[1]
    adversarial, certified = hand.loss(points, Y), cross_entropy(worst, Y)
    logits = hand.logits(points)
    relative = logits - logits[np.arange(len(Y)), Y][:, None]
    expected = {
        MtlIbp: (0.7 * adversarial + 0.3 * certified).mean(),
        CcIbp: cross_entropy(0.7 * relative + 0.3 * worst, Y).mean(),
        ExpIbp: (adversarial**0.7 * certified**0.3).mean(),
    }
    for loss, number in expected.items():
        assert value(loss(0.3), two_layers(), batch()) == pytest.approx(number)
    assert len({round(number, 6) for number in expected.values()}) == 3


def test_fast_intervals_are_those_of_bounds(trained):
    net, x, y = trained
    graph, box = live_graph(net, x), Batch(x, y, 0.05).ball(0.05)
    C = label_rows(y, 10, x)
    reference = IntervalBounds()(graph, box, C)
    assert torch.allclose(worst_logits(graph, box, y), -reference.lower, rtol=1e-12, atol=1e-12)
    values = interval_pass(graph, box)
    for index, z in reference.nodes.items():
        assert torch.allclose(values[index].lower, z.lower, rtol=1e-12, atol=1e-12)
        assert torch.allclose(values[index].upper, z.upper, rtol=1e-12, atol=1e-12)


def test_the_dual_loss_is_the_dual_bound(trained):
    net, x, y = trained
    graph, box = live_graph(net, x), Batch(x, y, 0.05).ball(0.05)
    lower = Crown(slopes="parallel")(graph, box, label_rows(y, 10, x)).lower
    assert value(Dual(), net, Batch(x, y, 0.05)) == pytest.approx(F.cross_entropy(-lower, y).item())


def test_projections_estimate_the_dual_bounds(trained):
    net, x, y = trained
    graph, box = live_graph(net, x), Batch(x, y, 0.05).ball(0.05)
    exact = Crown(slopes="parallel")(graph, box, label_rows(y, 10, x)).nodes
    estimate = projected_bounds(graph, box, 400, torch.Generator().manual_seed(0))
    assert estimate.keys() == exact.keys()
    for index, z in exact.items():
        unstable = (z.lower < 0) & (z.upper > 0)  # the others keep their intervals
        widths = [(b.upper - b.lower)[unstable].mean().item() for b in (estimate[index], z)]
        assert widths[0] == pytest.approx(widths[1], rel=0.1)


@pytest.mark.parametrize("name", CERTIFIED)
def test_certified_losses_bound_the_attack_on_every_batch(trained, name):
    net, x, y = trained
    for eps in (0.01, 0.05, 0.2):
        for start in range(0, 40, 10):
            part = Batch(x[start : start + 10], y[start : start + 10], eps)
            graph = live_graph(net, part.x)
            attacked = F.cross_entropy(graph(Adversary(10, 0.3)(graph, part, part.ball(eps))), part.y)
            assert CERTIFIED[name](graph, part).item() >= attacked.item() - 1e-9


def test_backward_bounds_improve_on_intervals(trained):
    net, x, y = trained
    data = Batch(x, y, 0.05)
    graph, box = live_graph(net, x), data.ball(0.05)
    values = interval_pass(graph, box)
    assert fused_loss(graph, box, y, values).item() <= value(Ibp(), net, data) + 1e-9
    assert backward_loss(graph, box, y, values).item() <= value(Ibp(), net, data) + 1e-9


def test_the_ends_of_the_expressive_losses(trained):
    net, x, y = trained

    def of(loss):
        return value(loss, net, Batch(x, y, 0.05, generator=torch.Generator().manual_seed(0)))

    attack = {"steps": 2, "step_size": 0.5}
    for kind in (MtlIbp, CcIbp, ExpIbp):
        assert of(kind(1.0, **attack)) == pytest.approx(of(Ibp()))
        assert of(kind(0.0, **attack)) == pytest.approx(of(Pgd(**attack)))
        assert of(Pgd(**attack)) < of(kind(0.3, **attack)) < of(Ibp())
    assert of(Sabr(1.0)) == pytest.approx(of(Ibp()))
    assert of(Sabr(0.1)) < of(Sabr(0.5)) < of(Ibp())
