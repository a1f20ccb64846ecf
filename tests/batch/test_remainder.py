"""What a case costs that the cascade has left open: the hunt finds what branch and bound would find later."""

from __future__ import annotations

import torch
from nets import Native, mlp

from verifier.batch.problem import Problem
from verifier.batch.records import FALSIFIED, Case
from verifier.batch.remainder import search
from verifier.data import Dataset
from verifier.strategy import Settings, verify


def test_a_search_hunts_before_it_splits_and_says_what_verify_says() -> None:
    generator = torch.Generator().manual_seed(0)
    graph = mlp(generator, (30, 20, 20, 3))
    x = torch.rand(8, 30, generator=generator)
    labels = graph.to(torch.float32)(x).argmax(1)
    problem = Problem(Native(graph), Dataset("tiny", x, labels, 3))
    found = [search(problem, Case(i, "0.3"), Settings(timeout=20)) for i in range(8)]
    assert any(record.stage == "hunt" and record.verdict == FALSIFIED and record.point for record in found)
    for record in found:
        assert record.verdict == verify(problem.subject, problem.property(record.case)).verdict.name
