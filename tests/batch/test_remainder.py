"""What a case costs that the cascade has left open: the hunt finds what branch and bound would find later."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch
from nets import Native, mlp

from verifier.attack.hunt import Hunt
from verifier.attack.pgd import AttackResult
from verifier.batch import hunting, remainder
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


def test_a_hunt_that_gains_no_more_begins_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    graph = mlp(generator, (30, 20, 20, 3))
    x = torch.rand(8, 30, generator=generator)
    problem = Problem(Native(graph), Dataset("tiny", x, graph.to(torch.float32)(x).argmax(1), 3))
    begun = []

    @dataclass(frozen=True)
    class Unlucky:
        """Finds nothing but the centre, until the fourth seed."""

        seed: int

        def __call__(self, *args) -> Iterator[AttackResult]:
            begun.append(self.seed)
            while self.seed < 4:
                yield AttackResult(args[1].project(args[1].center), torch.tensor([1e-3]))
            yield from Hunt(seed=self.seed)(*args)

    hunted = [search(problem, Case(i, "0.3"), Settings(timeout=200), remainder.HUNT) for i in range(8)]
    [first, *_] = [record.case for record in hunted if record.stage == "hunt" and record.verdict == FALSIFIED]
    monkeypatch.setattr(hunting, "Hunt", Unlucky)
    monkeypatch.setattr(hunting, "NEAR", 0.0)  # no descents by linear programs
    found = search(problem, first, Settings(timeout=200), remainder.HUNT)
    assert found.verdict == FALSIFIED and found.stage == "hunt" and set(begun) == {0, 1, 2, 3, 4}
