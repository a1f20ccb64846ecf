"""Starts that differ in hidden neurons, against random ones where these see a flat network, and their regions."""

import pytest
import torch
from torch import nn

from verifier.attack.diversify import Diversification
from verifier.attack.pgd import Pgd
from verifier.load import from_module
from verifier.types import Ball, Box

INPUTS = 64


def plateau(seed: int) -> nn.Sequential:
    """1 - relu(w . x - 0.8 |w|_1) for random signs w: flat but for the inputs near one corner of [-1, 1]^64."""
    net = nn.Sequential(nn.Linear(INPUTS, 1), nn.ReLU(), nn.Linear(1, 1))
    signs = torch.randint(0, 2, (1, INPUTS), generator=torch.Generator().manual_seed(seed)) * 2.0 - 1
    with torch.no_grad():
        net[0].weight.copy_(signs)
        net[0].bias.fill_(-0.8 * INPUTS)
        net[2].weight.fill_(-1.0)
        net[2].bias.fill_(1.0)
    return net


@pytest.mark.parametrize("seed", range(4))
def test_a_flat_network_gives_way(seed: int) -> None:
    graph = from_module(plateau(seed), (INPUTS,)).to(torch.float32)
    region = Box(-torch.ones(1, INPUTS), torch.ones(1, INPUTS))
    attack = Pgd(steps=20, restarts=16, seed=seed)
    assert float(attack(graph, region, torch.flatten).margin) == 1.0  # from random points
    start = Diversification(seed=seed)(graph, region.select(torch.zeros(16, dtype=torch.long)))
    found = attack(graph, region, torch.flatten, start)
    assert float(found.margin) <= 0 and float(graph(found.point)) == float(found.margin)


@pytest.mark.parametrize("norm", [1, 2])
def test_points_are_in_their_region_and_fixed_by_the_seed(norm: int) -> None:
    graph = from_module(plateau(0), (INPUTS,)).to(torch.float32)
    origin = torch.zeros(8, INPUTS)
    ball = Ball(-torch.ones(8, INPUTS), torch.ones(8, INPUTS), origin, torch.full((8,), 2.0), norm)
    points = Diversification(seed=3)(graph, ball)
    assert points.shape == (8, INPUTS) and (points.abs() <= 1).all()
    assert (torch.linalg.vector_norm(points, ord=norm, dim=1) <= 2 + 1e-5).all()
    assert torch.equal(points, Diversification(seed=3)(graph, ball))
    assert not torch.equal(points, Diversification(seed=4)(graph, ball))


def test_without_activations_points_are_random() -> None:
    graph = from_module(nn.Linear(3, 2), (3,)).to(torch.float32)
    region = Box(torch.zeros(5, 3), torch.ones(5, 3))
    points = Diversification()(graph, region)
    assert ((points >= 0) & (points <= 1)).all() and len({tuple(x) for x in points.tolist()}) == 5
