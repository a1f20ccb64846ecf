"""The network as matrices against the network as ops, on random dense, residual and convolutional networks."""

import pytest
import torch
from nets import random_case

from verifier.bounds.crown import Crown
from verifier.search import segments
from verifier.search.evaluator import Evaluator, GraphEvaluator, paid
from verifier.search.segments import SegmentEvaluator, for_graph
from verifier.search.units import Units


@pytest.mark.parametrize("seed", range(24))
@pytest.mark.parametrize("sparse", [0.0, 2.0], ids=["dense", "sparse"])
def test_matrices_are_bounded_like_the_ops(seed: int, sparse: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any lines and multipliers give the same bound, coefficients, values and points either way."""
    monkeypatch.setattr(segments, "SPARSE", sparse)  # the density below which matrices become sparse
    case = random_case(seed, most=12)
    box, graph = case.prop.region.box(), case.graph
    nodes = Crown()(graph, box, case.C.unsqueeze(0)).nodes
    units, generator, n = Units.of(graph, nodes), torch.Generator().manual_seed(seed), 5
    matrices = for_graph(graph, box, nodes, units)
    assert isinstance(matrices, SegmentEvaluator)
    l, u = units.lower.expand(n, -1), units.upper.expand(n, -1)
    alpha = torch.rand(n, units.parameters, len(units), generator=generator, dtype=torch.float64)
    gamma = torch.randn(n, len(units), generator=generator, dtype=torch.float64)
    c = torch.randn(n, graph.output_shape[0], generator=generator, dtype=torch.float64)

    def evaluate(evaluator: Evaluator) -> list[torch.Tensor]:
        back = evaluator.backward(units.relaxed(l, u).at(alpha), gamma, paid(gamma, l, u), c)
        return [back.bound, back.v, *evaluator.forward(back)[:2], evaluator.points(back.x)]

    for one, other in zip(evaluate(GraphEvaluator.of(graph, box, nodes, units)), evaluate(matrices), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_networks_too_large_for_matrices_keep_their_ops(monkeypatch: pytest.MonkeyPatch) -> None:
    case = random_case(2)
    nodes = Crown()(case.graph, case.prop.region.box(), case.C.unsqueeze(0)).nodes
    question = (case.graph, case.prop.region.box(), nodes, Units.of(case.graph, nodes))
    assert isinstance(for_graph(*question), SegmentEvaluator)
    monkeypatch.setattr(segments, "LARGEST", 0)
    assert isinstance(for_graph(*question), GraphEvaluator)
