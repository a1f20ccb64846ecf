"""Ends that are cut off hold no input of the unsafe set; and cutting proves what the root's bound leaves open."""

import math

import pytest
import torch
from nets import random_case, samples
from torch import Tensor

from verifier.bounds.crown import Crown
from verifier.search.ascent import bound
from verifier.search.evaluator import GraphEvaluator
from verifier.search.neurons import NeuronSplits, Open
from verifier.search.rows import Rows
from verifier.search.shaving import Shaving
from verifier.search.units import Units

SEEDS = range(24)


class Case:
    """Sampled inputs of a random network: what its undecided neurons read, and values (2000,) of one row."""

    def __init__(self, seed: int) -> None:
        case = random_case(seed, most=12)
        box = case.prop.region.box()
        nodes = Crown()(case.graph, box, case.C.unsqueeze(0)).nodes
        self.units = Units.of(case.graph, nodes)
        self.evaluator = GraphEvaluator.of(case.graph, box, nodes, self.units)
        values = case.graph.values(samples(box.lower, box.upper, 2000)[0])
        self.C = case.C[:1].unsqueeze(0)
        self.values = values[-1].flatten(1) @ self.C[0, 0]
        read = [values[b.read].flatten(1)[:, b.positions] for b in self.units.blocks]
        self.z = torch.cat(read, 1) if read else values[0].new_zeros(len(self.values), 0)

    def root(self, level: Tensor) -> tuple[NeuronSplits, Open]:
        """The search for values of at most `level`, and its root."""
        splits = NeuronSplits(self.evaluator, Rows(self.C, -level.view(1, 1)), 0.0, 16, 8)
        return splits, splits.bound(splits.root(), math.inf)[0]

    def shaved(self, level: Tensor, times: int) -> tuple[Open, float]:
        """The root after some rounds of shaving, and what its multipliers prove in float64."""
        splits, root = self.root(level)
        for _ in range(times):
            Shaving()(splits.fast, splits.exact, splits.rows, root, 0.0, math.inf)
            root, _ = splits.bound(root, math.inf)
        double: Open = root.mapped(lambda t: t.double() if t.is_floating_point() else t)
        return root, float(bound(splits.exact, splits.rows, double).bound)


@pytest.mark.parametrize("share", [0.001, 0.05, 0.5])
@pytest.mark.parametrize("seed", SEEDS)
def test_unsafe_inputs_stay_within_the_shaved_bounds(seed: int, share: float) -> None:
    case = Case(seed)
    level = case.values.quantile(share)
    root, proved = case.shaved(level, 2)
    z = case.z[case.values <= level]
    assert len(z) and (z >= root.l - 1e-9).all() and (z <= root.u + 1e-9).all()
    assert not proved > 1e-9


def test_it_narrows_and_proves() -> None:
    """Levels between the root's bound and the least value seen: the root alone proves none of them."""
    narrower = proved = cases = 0
    for seed in SEEDS:
        case = Case(seed)
        most = case.values.max() + 1
        least = float(case.root(most)[1].lower) + float(most)
        gap = float(case.values.min()) - least
        if not len(case.units) or gap < 1e-3:
            continue
        cases += 1
        level = case.values.new_tensor(least + 0.2 * gap)
        before = case.root(level)[1]
        assert not float(before.lower) > 0
        after, bound_ = case.shaved(level, 3)
        narrower += bool((after.u - after.l).sum() < 0.99 * (before.u - before.l).sum())
        proved += bound_ > 0
    assert cases >= 8 and narrower >= cases // 2 and proved >= cases // 4, (cases, narrower, proved)
