"""Parallel lines: valid on samples, no looser than intervals, and those of Wong and Kolter on ReLU networks."""

from __future__ import annotations

import pytest
import torch
from nets import ACTIVATIONS, mlp

from verifier.bounds.crown import Crown
from verifier.bounds.interval import IntervalBounds
from verifier.bounds.parallel import Parallel, fits, parallel_lines
from verifier.ops.base import PiecewiseLinear
from verifier.ops.relu import ReLU
from verifier.ops.smooth import Sigmoid
from verifier.types import Ball, Box, Interval


@pytest.mark.parametrize("activation", ACTIVATIONS[3:], ids=lambda act: type(act()).__name__)
def test_lines_enclose_the_activation(activation) -> None:
    op = activation()
    assert isinstance(op, PiecewiseLinear)
    generator = torch.Generator().manual_seed(0)
    ends = 3 * torch.randn(2, 500, generator=generator, dtype=torch.float64)
    ends[:, :100] = ends[:1, :100]  # a single point
    z = Interval(ends.amin(0), ends.amax(0))
    lines = parallel_lines(op, z)
    assert lines.lower_offset is not None and lines.upper_offset is not None
    for share in torch.linspace(0, 1, 41, dtype=torch.float64):
        point = z.lower + share * (z.upper - z.lower)
        value = op.forward(point) - lines.lower_slope * point
        assert (lines.lower_offset <= value + 1e-12).all() and (value <= lines.upper_offset + 1e-12).all()


@pytest.mark.parametrize("ball", [False, True])
@pytest.mark.parametrize("activation", ACTIVATIONS[3:], ids=lambda act: type(act()).__name__)
def test_bounds_contain_samples_and_are_never_below_the_intervals(activation, ball: bool) -> None:
    generator = torch.Generator().manual_seed(1)
    graph = mlp(generator, (4, 12, 10, 3), activation)
    x = torch.rand(5, 4, generator=generator, dtype=torch.float64)
    box = Ball(x - 0.3, x + 0.3, x, torch.full((5,), 0.3).double(), 2) if ball else Box(x - 0.3, x + 0.3)
    C = torch.randn(5, 2, 3, generator=generator, dtype=torch.float64)
    bounds, intervals = Parallel()(graph, box, C), IntervalBounds()(graph, box, C)
    assert (bounds.lower >= intervals.lower - 1e-9).all() and (bounds.upper <= intervals.upper + 1e-9).all()
    for _ in range(200):
        point = box.project(x + 0.6 * torch.rand(x.shape, generator=generator, dtype=torch.float64) - 0.3)
        values = graph.values(point)
        y = (C @ values[-1].unsqueeze(2)).squeeze(2)
        assert (bounds.lower <= y + 1e-9).all() and (y <= bounds.upper + 1e-9).all()
        for node, z in bounds.nodes.items():
            assert (z.lower <= values[node] + 1e-9).all() and (values[node] <= z.upper + 1e-9).all()


def test_relu_networks_get_the_hidden_bounds_of_wong_and_kolter() -> None:
    generator = torch.Generator().manual_seed(2)
    graph = mlp(generator, (4, 12, 10, 3), ReLU)
    x = torch.rand(6, 4, generator=generator, dtype=torch.float64)
    C = torch.eye(3, dtype=torch.float64).unsqueeze(0)
    box = Box(x - 0.2, x + 0.2)
    ours, theirs = Parallel()(graph, box, C), Crown(slopes="parallel")(graph, box, C)
    for node, z in theirs.nodes.items():
        assert torch.allclose(ours.nodes[node].lower, z.lower) and torch.allclose(ours.nodes[node].upper, z.upper)


def test_rows_in_chunks_are_the_same_rows() -> None:
    generator = torch.Generator().manual_seed(3)
    graph = mlp(generator, (4, 12, 10, 3), ReLU)
    x = torch.rand(6, 4, generator=generator, dtype=torch.float64)
    C = torch.eye(3, dtype=torch.float64).unsqueeze(0)
    whole, parts = (Parallel(memory=memory)(graph, Box(x - 0.2, x + 0.2), C) for memory in (1 << 30, 1))
    assert torch.allclose(whole.lower, parts.lower)


def test_smooth_networks_are_not_for_it() -> None:
    generator = torch.Generator().manual_seed(4)
    assert fits(mlp(generator, (2, 3, 2), ReLU)) and not fits(mlp(generator, (2, 3, 2), Sigmoid))
