"""A two-layer network whose losses, gradients and bounds are worked out here in numpy, term by term."""

import numpy as np
import torch
from torch import nn

from verifier.train.batch import Batch
from verifier.train.network import live_graph

EPS = 0.1
X = np.array([[0.6, 0.2], [0.3, 0.9], [0.5, 0.5]])
Y = np.array([0, 1, 1])


def two_layers():
    """x (2) -> 3 hidden -> 2 classes, float64. Around X some hidden neurons are stable and some are not."""
    net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2)).double()
    W1 = [[1.0, -2.0], [0.5, 1.0], [-1.0, 0.25]]
    values = (W1, [0.1, -0.2, 0.3], [[1.0, -1.0, 0.5], [-0.5, 2.0, 1.0]], [0.05, -0.1])
    for parameter, value in zip(net.parameters(), values, strict=True):
        parameter.data = torch.tensor(value, dtype=torch.float64)
    return net


def batch(seed=3, **fields):
    settings = {"x": torch.from_numpy(X), "y": torch.from_numpy(Y), "eps": EPS} | fields
    return Batch(**settings, generator=torch.Generator().manual_seed(seed))


def value(loss, net, data):
    return loss(live_graph(net, data.x), data).item()


def ball(radius, centre=X):
    return np.maximum(centre - radius, 0), np.minimum(centre + radius, 1)


def start_points(low, high, seed=3):
    """Where an attack on `batch(seed)` begins."""
    return low + (high - low) * torch.rand(low.shape, generator=torch.Generator().manual_seed(seed)).double().numpy()


def cross_entropy(logits, y):
    """Of every row."""
    return np.log(np.exp(logits).sum(1)) - logits[np.arange(len(y)), y]


def interval(rows, bias, low, high):
    """Interval arithmetic term by term."""
    least, most = [], []
    for row, constant in zip(rows, bias, strict=True):
        ends = [(w * l, w * h) for w, l, h in zip(row, low, high, strict=True)]
        least.append(constant + sum(map(min, ends)))
        most.append(constant + sum(map(max, ends)))
    return np.array(least), np.array(most)


class ByHand:
    """The network in numpy, with its own derivatives and bounds."""

    def __init__(self, net):
        self.W1, self.b1, self.W2, self.b2 = (p.detach().numpy() for p in net.parameters())

    def logits(self, x):
        return np.maximum(x @ self.W1.T + self.b1, 0) @ self.W2.T + self.b2

    def log_p(self, x):
        z = self.logits(x)
        return z - np.log(np.exp(z).sum(1, keepdims=True))

    def pull_back(self, x, upstream):
        """The gradient with respect to x of logits weighted by `upstream`."""
        active = x @ self.W1.T + self.b1 > 0
        return ((upstream @ self.W2) * active) @ self.W1

    def loss(self, x, y):
        return -self.log_p(x)[np.arange(len(y)), y]

    def loss_gradient(self, x, y):
        return self.pull_back(x, np.exp(self.log_p(x)) - np.eye(2)[y])

    def attacked(self, radius, steps):
        """Points after sign steps of these sizes, relative to the radius, from random ones in the balls around X."""
        low, high = ball(radius)
        x = start_points(low, high)
        for step in steps:
            x = np.clip(x + step * radius * np.sign(self.loss_gradient(x, Y)), low, high)
        return x

    def leads(self, low, high):
        """Interval bounds of every logit minus the label's over the boxes of the inputs X."""
        ends = []
        for l, h, y in zip(low, high, Y, strict=True):
            hidden = (np.maximum(end, 0) for end in interval(self.W1, self.b1, l, h))
            ends.append(interval(self.W2 - self.W2[y], self.b2 - self.b2[y], *hidden))
        return tuple(np.array(part) for part in zip(*ends, strict=True))

    def linear_leads(self, low, high, slope):
        """Upper bounds of every logit minus the label's by lines around each ReLU, whose bounds are intervals.

        slope(l, u): of the line below an unstable ReLU.
        """
        found = []
        for lo, hi, y in zip(low, high, Y, strict=True):
            least, most = interval(self.W1, self.b1, lo, hi)
            bounds = []
            for row, constant in zip(self.W2 - self.W2[y], self.b2 - self.b2[y], strict=True):
                form = np.zeros(2)
                for a, l, u, weights, bias in zip(row, least, most, self.W1, self.b1, strict=True):
                    if u <= 0:
                        continue
                    above = (1.0, 0.0) if l >= 0 else (u / (u - l), -l * u / (u - l))
                    line = above if a > 0 or l >= 0 else (slope(l, u), 0.0)
                    form = form + a * line[0] * weights
                    constant = constant + a * (line[0] * bias + line[1])
                bounds.append(constant + np.maximum(form * lo, form * hi).sum())
            found.append(bounds)
        return np.array(found)
