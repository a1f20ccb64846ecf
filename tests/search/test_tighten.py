"""Tightened bounds and reduced networks against samples of the network itself."""

import math
import time

import pytest
import torch
from nets import random_case, samples

from verifier.bounds.crown import Crown
from verifier.ops.base import Activation
from verifier.search.domain import outward
from verifier.search.evaluator import Evaluator, GraphEvaluator, paid
from verifier.search.reduced import ReducedEvaluator, forms, stable_lines
from verifier.search.tighten import Tightening
from verifier.search.units import Units

SEEDS = range(24)


def reduced(seed: int) -> tuple[GraphEvaluator, ReducedEvaluator]:
    """Both evaluators of a case, over the same units."""
    case = random_case(seed, most=12)
    box = case.prop.region.box()
    nodes = Crown()(case.graph, box, case.C.unsqueeze(0)).nodes
    units, rows, lines = Units.none(case.graph), None, {}
    for index, node in enumerate(case.graph.nodes):
        if isinstance(node.op, Activation):
            z = nodes[node.inputs[0]]
            positions = node.op.unstable(z).flatten().nonzero().squeeze(1)
            own = forms(case.graph, node.inputs[0], positions, lines, units)
            rows = own if rows is None else rows.then(own)
            units = units.then(case.graph, index, z)
            lines[index] = stable_lines(node.op, z, positions)
    output = forms(case.graph, case.graph.output, torch.arange(case.graph.output_shape[0]), lines, units)
    network = ReducedEvaluator.of(box, units, output if rows is None else rows.then(output))
    return GraphEvaluator.of(case.graph, box, nodes, units), network


@pytest.mark.parametrize("seed", SEEDS)
def test_the_reduced_network_is_bounded_like_the_whole_one(seed: int) -> None:
    """Any lines and multipliers give the same bound, coefficients and values either way."""
    whole, network = reduced(seed)
    units, generator = network.units, torch.Generator().manual_seed(seed)
    n = 5
    l, u = units.lower.expand(n, -1), units.upper.expand(n, -1)
    alpha = torch.rand(n, units.parameters, len(units), generator=generator, dtype=torch.float64)
    gamma = torch.randn(n, len(units), generator=generator, dtype=torch.float64)
    c = torch.randn(n, whole.graph.output_shape[0], generator=generator, dtype=torch.float64)

    def evaluate(evaluator: Evaluator) -> list[torch.Tensor]:
        back = evaluator.backward(units.relaxed(l, u).at(alpha), gamma, paid(gamma, l, u), c)
        return [back.bound, back.v, *evaluator.forward(back), evaluator.points(back.x)]

    for one, other in zip(evaluate(whole), evaluate(network), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("seed", SEEDS)
def test_tightened_bounds_contain_samples_and_never_widen(seed: int) -> None:
    case = random_case(seed, most=12)
    box = case.prop.region.box()
    nodes = Crown()(case.graph, box, case.C.unsqueeze(0)).nodes
    better, _ = Tightening(rounds=3, seconds=math.inf)(case.graph, box, nodes, time.monotonic() + 60)
    values = case.graph.values(samples(box.lower, box.upper, 2000)[0])
    for index, z in better.items():
        assert (z.lower >= nodes[index].lower).all() and (z.upper <= nodes[index].upper).all()
        assert (values[index] >= z.lower - 1e-9).all() and (values[index] <= z.upper + 1e-9).all()


def test_rounding_outward_never_cuts_anything_off() -> None:
    values = torch.randn(10_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    low, high = outward(values, -math.inf), outward(values, math.inf)
    assert (low.double() <= values).all() and (values <= high.double()).all()
    assert ((high - low) <= 1e-6 * values.abs()).all()
