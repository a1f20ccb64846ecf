"""The initialisation and the regularisers of Shi et al. (2021)."""

import pytest
import torch
from torch import nn

from verifier.train.batch import Batch
from verifier.train.initialisation import initialise, regulariser
from verifier.train.network import live_graph


def test_interval_initialisation_keeps_widths():
    """Through many wide layers, mean interval widths neither explode nor vanish, as they do by default."""
    torch.manual_seed(0)
    net = nn.Sequential(*(layer for _ in range(6) for layer in (nn.Linear(400, 400), nn.ReLU())), nn.Linear(400, 2))
    box = Batch(torch.rand(20, 400), torch.zeros(20, dtype=torch.int64), 0.1)
    ratios = []
    for rule in ("default", "ibp"):
        initialise(net, rule)
        radius = torch.full((1, 400), 0.1)
        for layer in net[:-1:2]:
            radius = radius @ layer.weight.abs().t()
        ratios.append(radius.mean().item() / 0.1 * 0.5**6)  # a ReLU halves the width of a centred neuron
    assert 0.3 < ratios[1] < 3 and ratios[0] > 30
    assert regulariser(live_graph(net, box.x), box).item() >= 0


def test_regularisers_are_zero_when_all_is_balanced():
    net = nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 2)).double()
    net[0].weight.data, net[0].bias.data = torch.ones(2, 1).double(), torch.tensor([1.0, -2.0]).double()
    x, y = torch.full((4, 1), 0.5, dtype=torch.float64), torch.zeros(4, dtype=torch.int64)
    assert regulariser(live_graph(net, x), Batch(x, y, 0.1)).item() == pytest.approx(0, abs=1e-12)
    net[0].weight.data *= 5  # the widths grow to five times the input's: tightness (0.5 - 0.2) / 0.5
    net[0].bias.data = torch.tensor([-1.0, -4.0]).double()
    assert regulariser(live_graph(net, x), Batch(x, y, 0.1)).item() == pytest.approx(0.6)
