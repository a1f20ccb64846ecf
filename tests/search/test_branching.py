"""The choice of a unit against the children's bounds themselves."""

import math

import pytest
import torch
from nets import random_case

from verifier.bounds.crown import Crown
from verifier.search.ascent import bound
from verifier.search.branching import LITTLE, best_of, children
from verifier.search.evaluator import GraphEvaluator
from verifier.search.neurons import BELIEF, NeuronSplits, Promises
from verifier.search.rows import Rows
from verifier.search.units import Units


@pytest.mark.parametrize("seed", range(12))
def test_the_unit_with_the_largest_product_of_gains_is_split(seed: int) -> None:
    case = random_case(seed, most=12)
    box = case.prop.region.box()
    nodes = Crown()(case.graph, box, case.C.unsqueeze(0)).nodes
    units = Units.of(case.graph, nodes)
    rows = Rows.of(case.prop.unsafe, box.lower)
    search = NeuronSplits(GraphEvaluator.of(case.graph, box, nodes, units), rows, 0.0, steps=4, shortlist=3)
    open_, _ = search.bound(search.root(), math.inf)
    open_ = open_.select(open_.lower <= 0)
    if not len(units) or not len(open_):
        pytest.skip("nothing is left to split")

    def quick(domains):  # type: ignore[no-untyped-def]
        return bound(search.fast, search.fast_rows, domains).bound

    chosen, gains = best_of(units, open_, open_.shortlist, open_.score, 0.0, quick)
    for i in range(len(open_)):
        one, best = open_.select(torch.tensor([i])), -1.0
        for k, unit in enumerate(one.shortlist[0].tolist()):
            if one.score[0, k] > 0:
                low, high = quick(children(units, one, torch.tensor([unit]))).tolist()
                missing = -float(one.lower)
                shares = [min(max((side - float(one.lower)) / missing, LITTLE), 1.0) for side in (low, high)]
                product = math.sqrt(shares[0] * shares[1]) * missing
                assert float(gains[i, k]) == pytest.approx(product, rel=1e-2, abs=1e-5)
                best = max(best, product)
        place = one.shortlist[0].tolist().index(int(chosen[i]))
        assert float(gains[i, place]) == pytest.approx(best, rel=1e-2, abs=1e-5)


def test_promises_are_the_mean_shares_that_were_seen() -> None:
    promises = Promises(torch.zeros(2, 3, dtype=torch.float64))
    assert (promises.kept(torch.tensor([0, 1])) == 1).all()
    sets, units = torch.tensor([0, 0, 1]), torch.tensor([[0, 1], [0, 2], [1, 0]])
    score = torch.tensor([[2.0, 4.0], [1.0, 0.0], [1e-9, 5.0]], dtype=torch.float64)  # zero: was no candidate
    gains = torch.tensor([[1.0, 0.0], [0.25, 3.0], [1.0, 5.0]], dtype=torch.float64)
    promises.learn(sets, units, score, gains)
    most = 10.0  # of a share
    mean = lambda *shares: (sum(shares) + BELIEF) / (len(shares) + BELIEF)  # noqa: E731
    expected = [[mean(0.5, 0.25), mean(0.0), 1.0], [mean(1.0), mean(most), 1.0]]
    torch.testing.assert_close(promises.kept(torch.tensor([0, 1])), torch.tensor(expected, dtype=torch.float64))
