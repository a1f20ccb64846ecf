"""Losses against formulas worked out by hand, sampling and finite differences."""

import itertools

import numpy as np
import pytest
import torch
from by_hand import EPS, ByHand, X, Y, ball, batch, start_points, two_layers, value
from torch import nn
from torch.nn import functional as F

from verifier.errors import InputError, ModelError
from verifier.train.adversary import Adversary
from verifier.train.batch import Batch
from verifier.train.losses import METHODS
from verifier.train.losses.crown_ibp import CrownIbp
from verifier.train.losses.dual import Dual
from verifier.train.losses.expressive import MtlIbp
from verifier.train.losses.fgsm import Fgsm
from verifier.train.losses.gradient_norm import GradientNorm
from verifier.train.losses.ibp import Ibp
from verifier.train.losses.linear import LinearRobust
from verifier.train.losses.noise import Noise
from verifier.train.losses.pgd import Pgd
from verifier.train.losses.sabr import Sabr
from verifier.train.losses.self_training import SelfTraining
from verifier.train.losses.stability import Stability
from verifier.train.losses.standard import Standard
from verifier.train.losses.trades import Trades
from verifier.train.losses.tulip import Tulip
from verifier.train.network import live_graph
from verifier.zoo import build


def test_gradient_norms_and_tulip_are_their_formulas():
    net = two_layers()
    hand = ByHand(net)
    gradient = hand.loss_gradient(X, Y)
    one, two = np.abs(gradient).sum(1), np.sqrt((gradient**2).sum(1))
    loss = hand.loss(X, Y)
    assert value(GradientNorm(1, 0.7), net, batch()) == pytest.approx((loss + 0.7 * EPS * one).mean())
    assert value(GradientNorm(2), net, batch()) == pytest.approx((loss + EPS * two).mean())
    expected = (loss + 2.0 * EPS * one).mean() + 0.3 * one.max()
    assert value(Tulip(1, 2.0, 0.3), net, batch()) == pytest.approx(expected)
    assert value(Standard(), net, batch()) == pytest.approx(loss.mean())


def test_adversarial_losses_are_their_formulas():
    """One step of 1.25 radii; three steps that shrink from 0.5 radii to a quarter of that."""
    net = two_layers()
    hand = ByHand(net)
    assert value(Fgsm(), net, batch()) == pytest.approx(hand.loss(hand.attacked(EPS, (1.25,)), Y).mean())
    points = hand.attacked(EPS, (0.5, 0.3125, 0.125))
    assert value(Pgd(steps=3, step_size=0.5), net, batch()) == pytest.approx(hand.loss(points, Y).mean())


def test_trades_is_its_formula():
    net = two_layers()
    hand = ByHand(net)
    low, high = ball(EPS)
    points = start_points(low, high)
    # The gradient of KL(p || q) in the logits of q is q - p.
    p = hand.log_p(X)
    direction = np.sign(hand.pull_back(points, np.exp(hand.log_p(points)) - np.exp(p)))
    points = np.clip(points + 0.5 * EPS * direction, low, high)
    divergence = (np.exp(p) * (p - hand.log_p(points))).sum(1).mean()
    expected = hand.loss(X, Y).mean() + 4.0 * divergence
    assert value(Trades(4.0, steps=1, step_size=0.5), net, batch()) == pytest.approx(expected)


def test_noise_and_stability_are_their_formulas():
    net = two_layers()
    hand = ByHand(net)
    noise = torch.randn(X.shape, generator=torch.Generator().manual_seed(3)).double().numpy()
    assert value(Noise(0.3), net, batch()) == pytest.approx(hand.loss(X + 0.3 * noise, Y).mean())
    half = batch(progress=0.5)
    assert value(Noise(0.3), net, half) == pytest.approx(hand.loss(X + 0.15 * noise, Y).mean())
    p, q = hand.log_p(X), hand.log_p(X + 0.3 * noise)
    expected = hand.loss(X, Y).mean() + 2.0 * (np.exp(p) * (p - q)).sum(1).mean()
    assert value(Stability(0.3, 2.0), net, batch()) == pytest.approx(expected)


@pytest.mark.parametrize("method", METHODS)
def test_gradients_are_finite_differences(trained, method):
    net, x, y = trained
    if method == "linear":
        torch.manual_seed(2)
        net = build("linear", x.shape[1:], 10).double()
    loss, h = METHODS[method](), 1e-6

    def at():
        data = Batch(x[:5], y[:5], 0.05, generator=torch.Generator().manual_seed(0), unlabelled=x[5:8])
        return loss(live_graph(net, data.x), data)

    parameters = list(net.parameters())
    gradients = torch.autograd.grad(at(), parameters)
    generator = torch.Generator().manual_seed(1)
    directions = [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in parameters]
    expected = sum((g * d).sum() for g, d in zip(gradients, directions, strict=True)).item()
    values = []
    with torch.no_grad():
        for step in (h, -2 * h, h):  # the last step returns to where it began
            for p, d in zip(parameters, directions, strict=True):
                p.add_(d, alpha=step)
            values.append(at().item())
    assert (values[0] - values[1]) / (2 * h) == pytest.approx(expected, rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_the_linear_loss_is_the_worst_of_the_ball(norm):
    torch.manual_seed(2)
    net = nn.Sequential(nn.Linear(4, 3)).double()
    x, y = torch.rand(5, 4, dtype=torch.float64), torch.tensor([0, 1, 2, 0, 1])
    data = Batch(x, y, EPS)
    worst = LinearRobust(norm).worst(live_graph(net, x), data)
    if norm == "l2":
        points = F.normalize(torch.randn(4000, 4, dtype=torch.float64), dim=1)
        slack = 0.01
    else:
        corners = itertools.product((-1.0, 1.0), repeat=4)
        points = torch.tensor(list(corners) if norm == "linf" else [*torch.eye(4).tolist(), *(-torch.eye(4)).tolist()])
        points, slack = points.double(), 1e-12
    with torch.no_grad():
        z = net(x.unsqueeze(1) + EPS * points)
        found = (z - z.gather(2, y.view(-1, 1, 1).expand(-1, z.shape[1], 1))).amax(1)
    assert (worst >= found - 1e-12).all()
    assert (worst <= found + slack).all()
    with pytest.raises(ModelError, match="one linear layer"):
        value(LinearRobust(), two_layers(), batch())


def test_self_training_labels_what_it_is_sure_of():
    net = two_layers()
    certainty = torch.from_numpy(np.exp(ByHand(net).log_p(X))).amax(1)
    plain = value(Trades(steps=0), net, batch())
    assert value(SelfTraining(steps=0), net, batch()) == plain
    sure = {"unlabelled": torch.from_numpy(X), "eps": 0.0}
    none = SelfTraining(confidence=float(certainty.max()) + 0.01, steps=0)
    assert value(none, net, batch(**sure)) == pytest.approx(value(Trades(steps=0), net, batch(eps=0.0)))
    one = SelfTraining(confidence=float(certainty.max()), steps=0, weight=3.0)
    i = int(certainty.argmax())
    guess = ByHand(net).log_p(X[i : i + 1]).argmax()
    added = 3.0 / 3 * ByHand(net).loss(X[i : i + 1], np.array([guess]))[0]
    assert value(one, net, batch(**sure)) == pytest.approx(value(Standard(), net, batch()) + added)


def test_lower_precision_stays_out_of_the_bounds(trained):
    net, x, y = trained
    single = build("conv_tiny", (1, 8, 8), 10)
    single.load_state_dict(net.state_dict())
    x = x.float()
    for loss in (Ibp(), CrownIbp(1.0), Dual()):
        assert value(loss, single, Batch(x, y, 0.05, autocast=True)) == value(loss, single, Batch(x, y, 0.05))
    rounded, full = (value(Standard(), single, Batch(x, y, 0.05, autocast=a)) for a in (True, False))
    assert rounded != full and rounded == pytest.approx(full, rel=0.05)


def test_the_attack_stays_inside_and_raises_the_loss(trained):
    net, x, y = trained
    data = Batch(x, y, 0.1)
    graph, box = live_graph(net, x), data.ball(0.1)
    losses = []
    for steps in (0, 1, 10):
        points = Adversary(steps, 0.5)(graph, data, box)
        assert ((points >= box.lower) & (points <= box.upper)).all() and not points.requires_grad
        losses.append(F.cross_entropy(graph(points), y).item())
    assert losses[0] < losses[1] < losses[2]


@pytest.mark.parametrize(
    "wrong",
    [lambda: Sabr(0.0), lambda: MtlIbp(1.5), lambda: GradientNorm(3), lambda: Tulip(0), lambda: Dual(-1),
     lambda: LinearRobust("l3"), lambda: Adversary(-1), lambda: Adversary(1, 0.0), lambda: Ibp(5.0),
     lambda: Ibp(natural_end=-1.0), lambda: CrownIbp(-3.0), lambda: CrownIbp(natural_start=1.5), lambda: Noise(-0.1),
     lambda: Stability(weight=-1.0), lambda: Trades(-6.0), lambda: Trades(steps=-1), lambda: Pgd(-1), lambda: Fgsm(0.0),
     lambda: Sabr(steps=-1), lambda: MtlIbp(step_size=0.0), lambda: GradientNorm(weight=-1.0),
     lambda: Tulip(lipschitz=-0.1), lambda: SelfTraining(confidence=2.0), lambda: SelfTraining(steps=-1)],
)  # fmt: skip
def test_options_out_of_range_are_refused(wrong):
    with pytest.raises(InputError):
        wrong()
