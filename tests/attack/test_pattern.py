"""Descents from piece to piece: exact where the network is convex, and down to needles that gradients miss."""

from __future__ import annotations

import math
import time
from dataclasses import replace

import pytest
import torch
from nets import ACTIVATIONS, Native, mlp
from torch import Tensor

from verifier import solvers
from verifier.attack.hunt import Hunt
from verifier.attack.pattern import PatternDescent, applies
from verifier.attack.pgd import Pgd
from verifier.batch.hunting import hunt
from verifier.bounds.crown import Crown
from verifier.encoding import encode
from verifier.graph import Graph, GraphBuilder
from verifier.ops.affine import Linear
from verifier.ops.relu import LeakyReLU, ReLU
from verifier.ops.smooth import Sigmoid
from verifier.spec.property import HalfSpaces, Property, Region, exact
from verifier.strategy import Question, Settings
from verifier.types import Ball, Box, Interval

DESCENT = PatternDescent(solvers.get("highs"))


def margin(outputs: Tensor) -> Tensor:
    return outputs[:, 0]


def cube(inputs: int) -> Box:
    return Box(-torch.ones(1, inputs, dtype=torch.float64), torch.ones(1, inputs, dtype=torch.float64))


def bounds(graph: Graph, box: Box) -> dict[int, Interval]:
    """Of what activations read."""
    row = torch.zeros(1, 1, *graph.output_shape, dtype=torch.float64)
    row[0, 0, 0] = 1
    with torch.no_grad():
        return dict(Crown()(graph, box, row).nodes)


def claim(graph: Graph, box: Box, above: float) -> Property:
    """That output 0 stays above a number."""
    region = Region(exact(box.lower[0].numpy()), exact(box.upper[0].numpy()))
    row = torch.nn.functional.one_hot(torch.tensor([0]), math.prod(graph.output_shape)).double()
    return Property(region, (HalfSpaces(row, torch.tensor([-above], dtype=torch.float64)),))


def least(graph: Graph, box: Box) -> float:
    """The least value of output 0, by an MILP."""
    encoding = encode(graph, box, bounds(graph, box), claim(graph, box, 0.0))
    solution = solvers.get("highs").solve(encoding.program)
    assert solution.x is not None
    return solution.objective


@pytest.mark.parametrize("activation", [ReLU, lambda: LeakyReLU(0.125)])
def test_a_convex_network_is_minimised_from_anywhere(activation) -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        builder = GraphBuilder((6,))
        first = Linear(torch.randn(20, 6, generator=generator), torch.randn(20, generator=generator))
        hidden = builder.add(activation(), builder.add(first, 0))
        builder.add(Linear(torch.rand(1, 20, generator=generator), torch.zeros(1)), hidden)
        graph, box = builder.finish(), cube(6)
        start = torch.rand(1, 6, generator=generator, dtype=torch.float64) * 2 - 1
        found = DESCENT(graph, box, margin, start, bounds(graph, box))
        assert float(found.margin) == pytest.approx(least(graph, box), abs=1e-7)


@pytest.mark.parametrize("activation", ACTIVATIONS[3:])
@pytest.mark.parametrize("rows", [400, 5])
def test_a_descent_stays_inside_and_never_ends_above_its_start(activation, rows: int) -> None:
    generator = torch.Generator().manual_seed(1)
    lower = 0
    for _ in range(5):
        graph, box = mlp(generator, (5, 12, 12, 1), activation), cube(5)
        start = torch.rand(1, 5, generator=generator, dtype=torch.float64) * 2 - 1
        found = replace(DESCENT, rows=rows)(graph, box, margin, start, bounds(graph, box))
        assert torch.equal(found.margin, margin(graph(found.point)))
        assert bool(((found.point >= box.lower) & (found.point <= box.upper)).all())
        assert found.margin <= margin(graph(start))
        lower += bool(found.margin < margin(graph(start)) - 1e-3)
    assert lower >= 4


def test_needles_that_gradients_miss_are_found() -> None:
    """The network's least margin is put a hair below zero."""
    generator, missed, fallen = torch.Generator().manual_seed(2), 0, 0
    for _ in range(5):
        graph, box = mlp(generator, (10, 12, 12, 1)), cube(10)
        prop = claim(graph, box, least(graph, box) + 1e-5)
        single, inner = graph.to(torch.float32), prop.region.inner_box()
        attacks = [Pgd(steps=40, restarts=32)(single, inner, prop.margin).margin]
        pack = Hunt()(single, inner, [prop.margin])
        attacks += [pack.round().margin for _ in range(5)]
        missed += min(map(float, attacks)) > 0
        lower = torch.full((1,), -1.0, dtype=torch.float64)
        question = Question(Native(graph), prop, Settings(), time.monotonic() + 100, graph, lower)
        question.know(bounds(graph, box))
        hunt(question)
        fallen += question.counterexample is not None
    assert missed >= 3 and fallen == 5


def test_a_late_descent_ends_where_it_begins() -> None:
    graph, box = mlp(torch.Generator().manual_seed(3), (4, 8, 1)), cube(4)
    start = torch.zeros(1, 4, dtype=torch.float64)
    found = replace(DESCENT, deadline=-math.inf)(graph, box, margin, start, bounds(graph, box))
    assert torch.equal(found.point, start) and torch.equal(found.margin, margin(graph(start)))


def test_where_patterns_are_polytopes() -> None:
    generator, box = torch.Generator().manual_seed(4), cube(4)
    graph, smooth = mlp(generator, (4, 8, 1)), mlp(generator, (4, 8, 1), Sigmoid)
    nodes = bounds(graph, box)
    ball = Ball(box.lower, box.upper, torch.zeros_like(box.lower), torch.ones(1, dtype=torch.float64), 2)
    assert applies(graph, box, nodes)
    assert not applies(graph, box, {}) and not applies(graph, ball, nodes)
    assert not applies(smooth, box, bounds(smooth, box))
