"""Bounds in their order and the MILP's optimum, against brute force over activation patterns."""

from itertools import pairwise

import brute_force
import pytest
import torch
from nets import Case, random_case

from verifier import solvers
from verifier.bounds.methods import METHODS
from verifier.encoding import encode

ORDER = ("interval", "crown", "alpha", "lp")


def check(case: Case) -> None:
    truth = brute_force.worst(case.graph, case.prop)
    box, (C, d, _) = case.prop.region.box(), case.prop.rows
    bounds = {name: METHODS[name]()(case.graph, box, C.unsqueeze(0)) for name in ORDER}
    for looser, tighter in pairwise(ORDER):
        assert (bounds[looser].lower <= bounds[tighter].lower + 1e-9).all(), (looser, tighter)
        assert (bounds[looser].upper >= bounds[tighter].upper - 1e-9).all(), (looser, tighter)
        for node, z in bounds[tighter].nodes.items():
            assert (bounds[looser].nodes[node].lower <= z.lower + 1e-9).all(), (looser, tighter, node)
            assert (bounds[looser].nodes[node].upper >= z.upper - 1e-9).all(), (looser, tighter, node)
    assert (bounds["lp"].lower[0] + d <= torch.from_numpy(truth.rows) + 1e-7).all()
    encoding = encode(case.graph, box, bounds["crown"].nodes, case.prop)
    for name in solvers.available():
        solution = solvers.get(name).solve(encoding.program)
        agreed = pytest.approx(truth.margin, abs=1e-6, rel=1e-6)
        assert solution.objective == agreed, name
        assert solution.bound == agreed, name
        point = torch.from_numpy(encoding.input(solution.x)).unsqueeze(0)
        assert float(case.prop.margin(case.graph(point))) == agreed, name


@pytest.mark.parametrize("seed", range(24))
def test_small_networks(seed: int) -> None:
    check(random_case(seed, most=7))


@pytest.mark.long
@pytest.mark.parametrize("seed", range(200))
def test_two_hundred_networks(seed: int) -> None:
    check(random_case(seed, most=16))


def test_all_four_solvers_take_part() -> None:
    assert set(solvers.available()) == {"highs", "cvxpy", "pulp", "scipy"}
