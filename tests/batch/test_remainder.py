"""What a case costs that the cascade has left open: the hunt finds what branch and bound would find later."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pytest
import torch
from nets import Native, mlp

from verifier.attack.hunt import Hunt, Pack
from verifier.attack.pgd import AttackResult, Forward, Objective
from verifier.batch import hunting, remainder
from verifier.batch.problem import Problem
from verifier.batch.records import FALSIFIED, UNKNOWN, Case
from verifier.batch.remainder import search
from verifier.data import Dataset
from verifier.strategy import Settings, verify
from verifier.types import Box


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


@dataclass
class Stuck:
    """Rounds that find a corner and say that its margins are all the same."""

    corner: torch.Tensor
    margin: float
    count: int

    def round(self) -> AttackResult:
        return AttackResult(self.corner.repeat_interleave(self.count, 0), torch.full((self.count,), self.margin))

    def keep(self, places: Sequence[int]) -> None:
        self.count = len(places)


@dataclass(frozen=True)
class Unlucky:
    """Finds nothing but a corner, until the seed `lucky`. margins: what it says of this corner, by seed."""

    margins: tuple[float, ...]
    lucky: int | None
    begun: list[int]
    seed: int = -1

    def __call__(self, forward: Forward, region: Box, objectives: Sequence[Objective]) -> Stuck | Pack:
        self.begun.append(self.seed)
        if self.seed == self.lucky:
            return Hunt(seed=self.seed)(forward, region, objectives)
        return Stuck(region.lower, self.margins[self.seed], len(objectives))


@pytest.mark.parametrize(
    ("margins", "lucky", "seeds"),
    [
        ((1e-3, 8e-4, 7e-4), 3, {0, 1, 2, 3}),  # every hunt comes nearer, the last one is lucky
        ((1e-3, 1e-3), None, {0, 1}),  # two agree
        ((9.0,), None, {0}),  # far from zero
    ],
)
def test_hunts_begin_anew_near_zero_and_as_long_as_that_gains(
    monkeypatch: pytest.MonkeyPatch, margins: tuple[float, ...], lucky: int | None, seeds: set[int]
) -> None:
    generator = torch.Generator().manual_seed(0)
    graph = mlp(generator, (30, 20, 20, 3))
    x = torch.rand(8, 30, generator=generator)
    problem = Problem(Native(graph), Dataset("tiny", x, graph.to(torch.float32)(x).argmax(1), 3))
    hunted = [search(problem, Case(i, "0.3"), Settings(timeout=200), remainder.HUNT) for i in range(8)]
    [first, *_] = [record.case for record in hunted if record.stage == "hunt" and record.verdict == FALSIFIED]
    begun: list[int] = []
    monkeypatch.setattr(hunting, "Hunt", lambda seed: Unlucky(margins, lucky, begun, seed))
    monkeypatch.setattr(hunting, "applies", lambda *_: False)  # no descents by linear programs
    found = search(problem, first, Settings(timeout=200), remainder.HUNT)
    assert found.verdict == (UNKNOWN if lucky is None else FALSIFIED) and set(begun) == seeds
