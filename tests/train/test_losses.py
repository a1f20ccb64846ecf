"""Losses against formulas worked out by hand, brute force, sampling and finite differences."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from verifier.bounds.crown import Crown
from verifier.bounds.interval import IntervalBounds
from verifier.data import load_dataset
from verifier.errors import InputError, ModelError
from verifier.train.adversary import Adversary
from verifier.train.batch import Batch
from verifier.train.intervals import interval_pass, label_rows, worst_logits
from verifier.train.losses import METHODS
from verifier.train.losses.crown_ibp import CrownIbp, backward_loss, fused_loss
from verifier.train.losses.dual import Dual, projected_bounds
from verifier.train.losses.expressive import CcIbp, ExpIbp, MtlIbp
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

EPS = 0.1
CERTIFIED = {"ibp": Ibp(), "crown_ibp": CrownIbp(1.0, fusion=False), "fused": CrownIbp(1.0), "dual": Dual()}


def two_layers():
    """x (2) -> 3 hidden -> 2 classes, float64, with the weights that the formulas below use."""
    net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2)).double()
    W1 = [[1.0, -2.0], [0.5, 1.0], [-1.0, 0.25]]
    values = (W1, [0.1, -0.2, 0.3], [[1.0, -1.0, 0.5], [-0.5, 2.0, 1.0]], [0.05, -0.1])
    for parameter, value in zip(net.parameters(), values, strict=True):
        parameter.data = torch.tensor(value, dtype=torch.float64)
    return net


X = np.array([[0.6, 0.2], [0.3, 0.9], [0.5, 0.5]])
Y = np.array([0, 1, 1])


class ByHand:
    """The two-layer network in numpy, with its own derivatives."""

    def __init__(self, net):
        self.W1, self.b1, self.W2, self.b2 = (p.detach().numpy() for p in net.parameters())

    def log_p(self, x):
        z = np.maximum(x @ self.W1.T + self.b1, 0) @ self.W2.T + self.b2
        return z - np.log(np.exp(z).sum(1, keepdims=True))

    def pull_back(self, x, upstream):
        """The gradient with respect to x of logits weighted by `upstream`."""
        active = x @ self.W1.T + self.b1 > 0
        return ((upstream @ self.W2) * active) @ self.W1

    def loss(self, x, y):
        return -self.log_p(x)[np.arange(len(y)), y]

    def loss_gradient(self, x, y):
        return self.pull_back(x, np.exp(self.log_p(x)) - np.eye(2)[y])


def batch(seed=3, **fields):
    settings = {"x": torch.from_numpy(X), "y": torch.from_numpy(Y), "eps": EPS} | fields
    return Batch(**settings, generator=torch.Generator().manual_seed(seed))


def value(loss, net, data):
    return loss(live_graph(net, data.x), data).item()


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


def test_trades_is_its_formula():
    net = two_layers()
    hand = ByHand(net)
    low, high = np.maximum(X - EPS, 0), np.minimum(X + EPS, 1)
    start = torch.rand(X.shape, generator=torch.Generator().manual_seed(3)).double().numpy()
    points = low + (high - low) * start
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


def interval_by_hand(rows, bias, low, high):
    """Interval arithmetic term by term."""
    least, most = [], []
    for row, constant in zip(rows, bias, strict=True):
        ends = [(w * l, w * h) for w, l, h in zip(row, low, high, strict=True)]
        least.append(constant + sum(map(min, ends)))
        most.append(constant + sum(map(max, ends)))
    return np.array(least), np.array(most)


def test_ibp_loss_is_brute_force_interval_arithmetic():
    net = two_layers()
    hand = ByHand(net)
    losses = []
    for x, y in zip(X, Y, strict=True):
        low, high = np.maximum(x - EPS, 0), np.minimum(x + EPS, 1)
        low, high = interval_by_hand(hand.W1, hand.b1, low, high)
        low, high = np.maximum(low, 0), np.maximum(high, 0)
        leads = hand.W2 - hand.W2[y]  # every logit minus the label's
        _, worst = interval_by_hand(leads, hand.b2 - hand.b2[y], low, high)
        losses.append(math.log(sum(math.exp(w) for w in worst)) - worst[y])
    assert value(Ibp(), net, batch()) == pytest.approx(np.mean(losses))
    natural = hand.loss(X, Y).mean()
    assert value(Ibp(1.0, 0.5), net, batch(progress=0.5)) == pytest.approx(0.75 * natural + 0.25 * np.mean(losses))


@pytest.fixture(scope="module")
def trained():
    """A conv net on digits after a little interval training, and its data: bounds are neither trivial nor loose."""
    torch.manual_seed(1)
    data = load_dataset("digits", "train")
    net = build("conv_tiny", data.shape, data.classes)
    optimiser = torch.optim.Adam(net.parameters(), 5e-3)
    for start in range(0, 1500, 60):
        x, y = data.images[start : start + 60], data.labels[start : start + 60]
        loss = MtlIbp(0.2)(live_graph(net, x), Batch(x, y, 0.02))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return net.double(), data.images[:40].double(), data.labels[:40]


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


METHODS_WITH_GRADIENTS = sorted(METHODS.keys() - {"linear"})


@pytest.mark.parametrize("method", METHODS_WITH_GRADIENTS)
def test_gradients_are_finite_differences(trained, method):
    net, x, y = trained
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
     lambda: LinearRobust("l3"), lambda: Adversary(-1), lambda: Adversary(1, 0.0)],
)  # fmt: skip
def test_options_out_of_range_are_refused(wrong):
    with pytest.raises(InputError):
        wrong()
