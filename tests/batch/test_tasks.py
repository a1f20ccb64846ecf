"""How long workers search: a short search is measured by what the processor does, not by what other processes leave."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from verifier.batch import remainder, tasks
from verifier.batch.certify import SHORT, Pass, Task
from verifier.batch.problem import Problem
from verifier.batch.records import UNKNOWN, Case, Record
from verifier.batch.tasks import Answering, Pace
from verifier.data import load_dataset
from verifier.load import load
from verifier.strategy import Settings

MODEL = Path(__file__).parents[2] / "models" / "digits_mlp.pt"


class Clocks:
    """Clocks that stand still but for what `work` adds."""

    def __init__(self) -> None:
        self.wall = self.processor = 100.0

    def monotonic(self) -> float:
        return self.wall

    def process_time(self) -> float:
        return self.processor

    def work(self, wall: float, processor: float) -> None:
        self.wall, self.processor = self.wall + wall, self.processor + processor


def test_a_pace_is_that_of_the_work_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    clocks, pace = Clocks(), Pace()
    monkeypatch.setattr(tasks, "time", clocks)
    assert pace.slowness == 1

    def parts() -> Iterator[list[Record]]:
        clocks.work(3, 1)
        yield []
        clocks.work(5, 1)

    for _ in pace.kept(parts()):
        clocks.work(1000, 0)  # the parent takes its time
    assert pace.slowness == 4
    list(pace.kept(iter(())))
    assert pace.slowness == 4


@pytest.mark.parametrize(("seconds", "limit"), [(1000.0, 4 * SHORT), (3 * SHORT, 3 * SHORT)])
def test_a_short_search_is_longer_on_a_busy_machine(
    seconds: float, limit: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits, seeds = [], []

    def search(problem: Problem, case: Case, settings: Settings) -> Record:
        limits.append(settings.timeout)
        seeds.append(settings.seed)
        return Record(case.index, case.eps, 0, 0, UNKNOWN, "", 0.0)

    monkeypatch.setattr(remainder, "search", search)
    problem = Problem(load(str(MODEL)), load_dataset("digits"))
    answer = Answering(problem, Settings(), "auto", pace=Pace(wall=400.0, processor=100.0))
    for kind in (Pass.SHORT, Pass.LONG):
        list(answer(Task((Case(0, "0.1"),), kind, seconds)))
    assert limits == pytest.approx([limit, seconds], rel=1e-3)
    assert seeds[0] != seeds[1]  # a second search hunts elsewhere
