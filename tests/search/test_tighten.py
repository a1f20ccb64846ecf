"""Tightened bounds, and the matrices that come with them, against the network itself."""

import math
import time

import pytest
import torch
from nets import random_case, samples

from verifier.bounds.crown import Crown
from verifier.search import planes
from verifier.search.domain import outward
from verifier.search.evaluator import Evaluator, GraphEvaluator, paid
from verifier.search.tighten import Tightening

SEEDS = range(24)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_matrices_that_come_with_the_bounds_are_bounded_like_the_network(seed: int) -> None:
    """They are made layer by layer, each once its bounds were tightened; lines and multipliers give equal bounds."""
    case = random_case(seed, most=12)
    graph, box = case.graph, case.prop.region.box()
    nodes = Crown()(graph, box, case.C.unsqueeze(0)).nodes
    better, network = Tightening(rounds=2, seconds=math.inf)(graph, box, nodes, time.monotonic() + 60)
    assert network is not None
    units, generator, n = network.units, torch.Generator().manual_seed(seed), 5
    l, u = units.lower.expand(n, -1), units.upper.expand(n, -1)
    alpha = torch.rand(n, units.parameters, len(units), generator=generator, dtype=torch.float64)
    gamma = torch.randn(n, len(units), generator=generator, dtype=torch.float64)
    c = torch.randn(n, graph.output_shape[0], generator=generator, dtype=torch.float64)

    def evaluate(evaluator: Evaluator) -> list[torch.Tensor]:
        back = evaluator.backward(units.relaxed(l, u).at(alpha), gamma, paid(gamma, l, u), c)
        return [back.bound, back.v, *evaluator.forward(back)[:2], evaluator.points(back.x)]

    for one, other in zip(evaluate(GraphEvaluator.of(graph, box, better, units)), evaluate(network), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("sets", [None, 3, 512])
@pytest.mark.parametrize("seed", SEEDS)
def test_tightened_bounds_contain_samples_and_never_widen(
    seed: int, sets: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """sets: for how many rows planes are chosen, if they are."""
    monkeypatch.setattr(planes, "SETS", sets)
    case = random_case(seed, most=12)
    box = case.prop.region.box()
    nodes = Crown()(case.graph, box, case.C.unsqueeze(0)).nodes
    better, _ = Tightening(3, math.inf, planes=sets is not None)(case.graph, box, nodes, time.monotonic() + 60)
    values = case.graph.values(samples(box.lower, box.upper, 2000)[0])
    for index, z in better.items():
        assert (z.lower >= nodes[index].lower).all() and (z.upper <= nodes[index].upper).all()
        assert (values[index] >= z.lower - 1e-9).all() and (values[index] <= z.upper + 1e-9).all()


def test_rounding_outward_never_cuts_anything_off() -> None:
    values = torch.randn(10_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    low, high = outward(values, -math.inf), outward(values, math.inf)
    assert (low.double() <= values).all() and (values <= high.double()).all()
    assert ((high - low) <= 1e-6 * values.abs()).all()
