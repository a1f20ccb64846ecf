"""Splits of the input: which one is halved."""

import time

import pytest
import torch

from verifier.bounds.crown import Crown
from verifier.graph import GraphBuilder
from verifier.ops.affine import Linear
from verifier.ops.relu import Abs
from verifier.search.bab import BranchAndBound
from verifier.search.task import Task
from verifier.spec.property import HalfSpaces
from verifier.types import Box

FOLDS = 7


@pytest.mark.parametrize("place", range(4))
def test_the_one_input_that_matters_is_halved_time_and_again(place: int) -> None:
    """Folding an interval seven times, x -> |2 x - 1|, takes 2 ** 7 pieces; other inputs matter a hundredth of that."""
    doubled, moved = torch.ones(4), torch.full((4,), -0.3)
    doubled[place], moved[place] = 2.0, -1.0
    kept = torch.zeros(4)
    kept[place] = -1.0
    builder = GraphBuilder((4,))
    x = 0
    for fold in range(FOLDS):
        x = builder.add(Abs(), builder.add(Linear(doubled.diag(), kept if fold else moved), x))
    weights = torch.full((1, 4), 0.01)
    weights[0, place] = 1.0
    builder.add(Linear(weights, torch.tensor([0.05])), x)
    graph = builder.finish().to(torch.float64)
    box = Box(torch.zeros(1, 4).double(), torch.ones(1, 4).double())
    unsafe = {0: HalfSpaces(torch.ones(1, 1).double(), torch.zeros(1).double())}
    nodes = Crown()(graph, box, torch.ones(1, 1, 1).double()).nodes
    task = Task(graph, box, unsafe, nodes, 0.0, time.monotonic() + 60, lambda points: False)
    outcome = BranchAndBound(input_limit=10**6)(task)
    assert outcome.decided(0.0)
    assert outcome.nodes < 4 * 2**FOLDS
