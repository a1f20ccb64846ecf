"""Backward bounds by hand: the dual bound of the multipliers, balls, fixed slopes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from nets import mlp, residual
from torch import Tensor

from verifier.bounds.alpha import Alpha
from verifier.bounds.backward import concretise, pull_back
from verifier.bounds.crown import Crown, fixed_slopes, unsqueezed
from verifier.bounds.interval import IntervalBounds, is_exact, output_form
from verifier.graph import Graph
from verifier.ops.affine import Linear
from verifier.ops.base import Activation
from verifier.ops.patches import dense
from verifier.types import Ball, Box

HIDDEN = (2, 4)  # the nodes that hold pre-activations in an MLP of three layers: the odd ones; ReLUs stand at these


def net(seed: int) -> tuple[Graph, Box, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    graph = mlp(generator, (3, 6, 5, 3))
    center = torch.rand(1, 3, generator=generator, dtype=torch.float64)
    C = torch.randn(1, 4, 3, generator=generator, dtype=torch.float64)
    return graph, Box(center - 0.5, center + 0.5), C


def dual_bound(graph: Graph, box: Box, c: np.ndarray, s: list[np.ndarray], l: list, u: list) -> float:
    """Section 5 of the design, in plain loops: s[k] are the multipliers of z_k, the last being the row c itself."""
    layers = [node.op for node in graph.nodes if isinstance(node.op, Linear)]
    s = [*s, c]
    total = 0.0
    for k, layer in enumerate(layers):
        total += float(s[k] @ layer.bias.numpy())
    for k in range(len(layers) - 1):
        v = layers[k + 1].weight.numpy().T @ s[k + 1]
        for j in range(len(v)):
            corners = [l[k][j], u[k][j]] + ([0.0] if l[k][j] < 0 < u[k][j] else [])
            total += min(v[j] * max(z, 0.0) - s[k][j] * z for z in corners)
    v = layers[0].weight.numpy().T @ s[0]
    for vi, lo, hi in zip(v, box.lower[0].numpy(), box.upper[0].numpy(), strict=True):
        total += min(vi * lo, vi * hi)
    return total


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("rule", ["adaptive", "parallel"])
def test_multipliers_give_the_bound_as_a_dual(seed: int, rule: str) -> None:
    graph, box, C = net(seed)
    nodes = Crown(slopes=rule)(graph, box, C).nodes
    A = output_form(graph, C, 1)
    multipliers: dict = {}
    lines = fixed_slopes(graph, rule)(graph.output + 1, nodes)
    form, constant = pull_back(graph, {graph.output: A}, A.new_zeros(A.shape[:2]), lines, multipliers)
    primal = concretise(form, constant, box, {})
    assert sorted(multipliers) == list(HIDDEN)
    l, u = ([getattr(nodes[i - 1], side)[0].numpy() for i in HIDDEN] for side in ("lower", "upper"))
    for row in range(C.shape[1]):
        s = [dense(multipliers[i])[0, row].numpy() for i in HIDDEN]
        dual = dual_bound(graph, box, C[0, row].numpy(), s, l, u)
        assert dual == pytest.approx(float(primal[0, row]), abs=1e-9)
        # Any other multipliers give a valid bound too.
        generator = np.random.default_rng(seed)
        points = box.lower + torch.rand(500, 3, dtype=torch.float64) * (box.upper - box.lower)
        least = float((graph(points) @ C[0, row]).min())
        for _ in range(20):
            other = [x + generator.normal(size=x.shape) for x in s]
            assert dual_bound(graph, box, C[0, row].numpy(), other, l, u) <= least + 1e-9


def test_parallel_slopes_are_those_of_wong_and_kolter() -> None:
    """Both lines of an unstable ReLU have the slope u / (u - l), and the dual bound of one hidden layer by hand."""
    generator = torch.Generator().manual_seed(5)
    graph = mlp(generator, (2, 4, 2))
    box = Box(torch.full((1, 2), -1.0, dtype=torch.float64), torch.full((1, 2), 1.0, dtype=torch.float64))
    first, last = graph.nodes[1].op, graph.nodes[3].op
    assert isinstance(first, Linear) and isinstance(last, Linear)
    W1, b1, W2, b2 = first.weight.numpy(), first.bias.numpy(), last.weight.numpy(), last.bias.numpy()
    l, u = b1 - np.abs(W1).sum(1), b1 + np.abs(W1).sum(1)
    d = np.where(l >= 0, 1.0, np.where(u <= 0, 0.0, u / (u - l)))
    assert ((l < 0) & (u > 0)).any()
    for row in range(2):
        v = W2[row]
        nu = v * d
        by_hand = v @ (np.where((l < 0) & (u > 0), -d * l, 0.0) * (v < 0)) + nu @ b1 + b2[row] - np.abs(W1.T @ nu).sum()
        C = torch.eye(2, dtype=torch.float64)[row].view(1, 1, 2)
        interval = float(IntervalBounds()(graph, box, C).lower)
        expected = max(by_hand, interval)
        assert float(Crown(slopes="parallel")(graph, box, C).lower) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("norm", [1, 2])
@pytest.mark.parametrize("method", [IntervalBounds(), Crown(), Crown(slopes="parallel"), Alpha(steps=10)])
def test_bounds_over_balls_contain_samples(norm: int, method) -> None:
    generator = torch.Generator().manual_seed(norm)
    graph = residual(generator, 4, 5, 3)
    origin = torch.rand(2, 4, generator=generator, dtype=torch.float64)
    eps = torch.tensor([0.2, 0.7], dtype=torch.float64)
    reach = eps.view(2, 1)
    ball = Ball((origin - reach).clamp(min=0), (origin + reach).clamp(max=1), origin, eps, norm)
    C = torch.randn(2, 3, 3, generator=generator, dtype=torch.float64)
    bounds = method(graph, ball, C)
    box = method(graph, Box(ball.lower, ball.upper), C)
    for _ in range(300):
        x = ball.project(origin + reach * torch.randn(2, 4, generator=generator, dtype=torch.float64))
        rows = (C @ graph(x).unsqueeze(2)).squeeze(2)
        assert (bounds.lower <= rows + 1e-9).all() and (rows <= bounds.upper + 1e-9).all()
    if isinstance(method, Crown):
        assert (bounds.lower > box.lower + 1e-3).any(), "the ball's bounds must profit from the ball"


def test_crown_of_an_affine_network_over_a_ball_is_exact() -> None:
    graph = mlp(torch.Generator().manual_seed(0), (4, 2))
    origin = torch.full((1, 4), 0.5, dtype=torch.float64)
    ball = Ball(origin - 0.1, origin + 0.1, origin, torch.tensor([0.1], dtype=torch.float64), 2)
    op = graph.nodes[1].op
    assert isinstance(op, Linear)
    value = float(graph(origin)[0, 0])
    norm = float(op.weight[0].norm())
    bounds = Crown()(graph, ball, torch.tensor([[[1.0, 0.0]]], dtype=torch.float64))
    assert float(bounds.lower) == pytest.approx(value - 0.1 * norm, abs=1e-12)
    assert float(bounds.upper) == pytest.approx(value + 0.1 * norm, abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_relaxations_are_valid_for_every_parameter(seed: int) -> None:
    """Bounds by lines with random alpha contain samples."""
    graph, box, C = net(seed)
    nodes = IntervalBounds()(graph, box, C).nodes
    generator = torch.Generator().manual_seed(seed)
    lines = {}
    for index, node in enumerate(graph.nodes):
        if isinstance(node.op, Activation):
            z = unsqueezed(nodes[node.inputs[0]])
            lines[index] = node.op.relax(z, torch.rand(1, 1, 4, *node.shape, generator=generator, dtype=torch.float64))
    A = output_form(graph, C, 1)
    form, constant = pull_back(graph, {graph.output: A}, A.new_zeros(A.shape[:2]), lines)
    points = box.lower + torch.rand(2000, 3, generator=generator, dtype=torch.float64) * (box.upper - box.lower)
    assert (concretise(form, constant, box, {})[0] <= (graph(points) @ C[0].T).amin(0) + 1e-9).all()


def test_crown_refines_exactly_the_neurons_that_intervals_leave_loose() -> None:
    """The first layer of a box is exact already; the second profits, and over a ball both do."""
    graph, box, C = net(1)
    interval, crown = IntervalBounds()(graph, box, C).nodes, Crown()(graph, box, C).nodes
    assert torch.equal(crown[1].lower, interval[1].lower) and (crown[3].lower > interval[3].lower + 1e-3).any()
    assert is_exact(graph, box) == [True, True, True, False, False, False]
    ball = Ball(box.lower, box.upper, box.center, torch.full((1,), 0.5, dtype=torch.float64), 2)
    assert is_exact(graph, ball) == [False] * 6
    assert (Crown()(graph, ball, C).nodes[1].lower > interval[1].lower + 1e-3).any()


def test_alpha_improves_on_crown_and_stops_when_told() -> None:
    graph, box, C = net(1)
    crown, alpha = Crown()(graph, box, C), Alpha(steps=40)(graph, box, C)
    assert (alpha.lower > crown.lower + 1e-4).any()
    assert torch.equal(Alpha(steps=40, deadline=0.0)(graph, box, C).lower, crown.lower)
    assert torch.equal(Alpha(steps=40, enough=-1e9)(graph, box, C).lower, crown.lower)
    assert torch.equal(Alpha(steps=0)(graph, box, C).lower, crown.lower)


def test_alpha_keeps_what_it_had_when_the_optimisation_meets_nan() -> None:
    graph, box, C = net(1)
    nodes = Crown()(graph, box, C).nodes
    lower = torch.full((1, 4), -7.0, dtype=torch.float64)
    poisoned = Box(torch.full_like(box.lower, torch.nan), box.upper)
    found, _ = Alpha(steps=3).improve(graph, poisoned, C, nodes, lower)
    assert torch.equal(found, lower)


@pytest.mark.parametrize("intermediate", [False, True])
def test_alpha_bounds_carry_no_gradients(intermediate: bool) -> None:
    graph, box, C = net(2)
    bounds = Alpha(steps=2, intermediate=intermediate)(graph, box, C)
    assert not bounds.lower.requires_grad and not any(z.lower.requires_grad for z in bounds.nodes.values())
