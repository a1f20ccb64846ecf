"""The long attack of a second search finds what a first search without time leaves open."""

from __future__ import annotations

import torch
from nets import Native, mlp

from verifier.batch.cascade import Problem, search
from verifier.batch.records import FALSIFIED, Case
from verifier.data import Dataset
from verifier.strategy import Settings


def test_a_thorough_search_attacks_before_it_splits() -> None:
    generator = torch.Generator().manual_seed(0)
    graph = mlp(generator, (30, 20, 20, 3))
    x = torch.rand(8, 30, generator=generator)
    labels = graph.to(torch.float32)(x).argmax(1)
    problem = Problem(Native(graph), Dataset("tiny", x, labels, 3))
    broken = [search(problem, Case(i, "0.3"), Settings(timeout=20), thorough=True) for i in range(8)]
    assert any(record.stage == "hunt" and record.verdict == FALSIFIED and record.point for record in broken)
    for record in broken:
        assert record.verdict == search(problem, record.case, Settings(timeout=60)).verdict
