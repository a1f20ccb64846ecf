"""Branch and bound against brute force, with the threshold set just below and just above the true worst margin."""

import math
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import brute_force
import pytest
import torch
from nets import Case, mlp, random_case

from verifier.bounds.crown import Crown
from verifier.search import inputs, loop
from verifier.search.bab import BranchAndBound
from verifier.search.rounds import Rounds
from verifier.search.segments import SegmentEvaluator
from verifier.search.task import Outcome, Task
from verifier.spec.property import HalfSpaces, Property
from verifier.types import Box

SPLITS = {
    "neurons": BranchAndBound(input_limit=0, trial_limit=0),
    "inputs": BranchAndBound(input_limit=10**6),
    "both in turns": BranchAndBound(input_limit=0),
}


def shifted(case: Case, margin: float) -> Property:
    """The case's property with constants that make its worst margin the given one."""
    gap = margin - brute_force.worst(case.graph, case.prop).margin
    return replace(case.prop, unsafe=tuple(HalfSpaces(s.C, s.d + gap) for s in case.prop.unsafe))


def search(
    case: Case, prop: Property, method: BranchAndBound, seconds: float = 30.0, wish: float = 0.0
) -> tuple[Outcome, list[float]]:
    """The outcome, and the margins of the points that the search proposed."""
    margins: list[float] = []

    def judge(points: torch.Tensor) -> bool:
        box = prop.region.box()
        assert ((points >= box.lower) & (points <= box.upper)).all()
        margins.extend(prop.margin(case.graph(points)).tolist())
        return min(margins) <= 0

    box = prop.region.box()
    nodes = Crown()(case.graph, box, prop.rows[0].unsqueeze(0)).nodes
    sets, deadline = dict(enumerate(prop.unsafe)), time.monotonic() + seconds
    task = Task(case.graph, box, sets, nodes, 0.0, deadline, judge, price=lambda nodes, unsafe: wish)
    return method(task), margins


def alone(case: Case, **options: Any) -> Outcome:
    """What one search by neurons makes of margins of 0.01, with these options of the task."""
    prop, until = shifted(case, 1e-2), time.monotonic() + 30
    box, sets = prop.region.box(), dict(enumerate(prop.unsafe))
    nodes = Crown()(case.graph, box, prop.rows[0].unsqueeze(0)).nodes
    task = replace(Task(case.graph, box, sets, nodes, 0.0, until, lambda points: False), **options)
    splits = Rounds(case.graph, box, nodes, until).next(list(sets.values()), task.wish, 16, 8)
    return loop.Loop(task, splits, 512, 1 << 31).run(None)


def test_what_time_leaves_of_unsplittable_subdomains_is_open_and_not_given_up() -> None:
    """A later round of the search may still decide it."""
    graph = mlp(torch.Generator().manual_seed(0), (2, 1))  # nothing to split
    box = Box(torch.zeros(1, 2).double(), torch.ones(1, 2).double())
    unsafe = {0: HalfSpaces(torch.ones(1, 1).double(), torch.zeros(1).double())}
    task = Task(graph, box, unsafe, {}, 100.0, time.monotonic() - 1, lambda points: False)
    outcome = SPLITS["neurons"](task)
    assert outcome.open == 1 and outcome.stuck == 0 and not outcome.decided(100.0)


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("seed", range(20))
def test_a_safe_margin_is_proved(seed: int, split: str) -> None:
    case = random_case(seed, most=7)
    outcome, _ = search(case, shifted(case, 1e-2), SPLITS[split])
    assert not outcome.found and outcome.stuck == 0
    assert all(bound > 0 for bound in outcome.proved.values())
    assert min(outcome.proved.values()) <= 1e-2 + 1e-9  # no bound may exceed the true worst margin


@pytest.mark.parametrize("split", SPLITS)
def test_what_a_search_reports_adds_up(split: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its seconds are those of the clock, its bounds those that were computed, counted where they are."""
    computed = [0]

    def counted(original: Callable[..., Any], batch: int) -> Callable[..., Any]:
        def bound(*args: Any) -> Any:
            computed[0] += len(args[batch])
            return original(*args)

        return bound

    monkeypatch.setattr(inputs, "symbolic_bounds", counted(inputs.symbolic_bounds, 3))
    monkeypatch.setattr(SegmentEvaluator, "backward", counted(SegmentEvaluator.backward, 4))
    case = random_case(4, most=12)
    began = time.monotonic()
    outcome, _ = search(case, shifted(case, 1e-2), SPLITS[split])
    took = time.monotonic() - began
    assert outcome.evaluations >= outcome.nodes >= 1
    assert {"bounding", "branching", "attack", "leaves", "overhead"} <= set(outcome.seconds)
    assert all(part >= 0 for part in outcome.seconds.values()) and sum(outcome.seconds.values()) <= took
    tightened = "tightening" in outcome.seconds  # whose bounds come on top
    assert computed[0] >= outcome.evaluations if tightened else computed[0] == outcome.evaluations


@pytest.mark.parametrize("jobs", [1, 2])
@pytest.mark.parametrize("seed", range(8))
def test_a_wish_out_of_reach_does_not_hold_up_what_is_proved(
    seed: int, jobs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bounds that close what is enough are those of the graph's precision, in every process."""
    monkeypatch.setattr(loop, "AGAIN", 0.0)
    monkeypatch.setattr(loop, "LEAST", 0.0)
    monkeypatch.setattr(loop, "ALONE", 0.0)
    case = random_case(seed, most=9)
    method = replace(SPLITS["neurons"], jobs=jobs)
    outcome, _ = search(case, shifted(case, 1e-2), method, wish=1.0)
    assert outcome.decided(0.0) and outcome.stuck == 0
    assert min(outcome.proved.values()) <= 1e-2 + 1e-9


@pytest.mark.parametrize("nearly", [2.0, 0.5])
@pytest.mark.parametrize("spare", [30.0, 0.0])
def test_a_search_goes_on_beyond_its_deadline_if_it_is_nearly_done_and_has_time_to_spare(
    spare: float, nearly: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Past its deadline from the start, it stands where it began: at less than twice what lacked, not at half of it."""
    monkeypatch.setattr(loop, "NEARLY", nearly)
    outcome = alone(random_case(1, most=9), deadline=time.monotonic(), spare=spare)
    assert outcome.decided(0.0) == (spare > 0 and nearly > 1)


@pytest.mark.parametrize("seed", [1, 3, 4, 7])
def test_a_wish_may_be_given_up_before_anything_is_proved(seed: int) -> None:
    outcome = alone(random_case(seed, most=9), wish=1.0, relent=time.monotonic())
    assert outcome.decided(0.0) and outcome.stuck == 0


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("seed", range(20))
def test_an_unsafe_margin_is_found(seed: int, split: str) -> None:
    case = random_case(seed, most=7)
    prop = shifted(case, -1e-2)
    outcome, margins = search(case, prop, SPLITS[split])
    assert outcome.found and min(margins) <= 0
    assert min(outcome.proved.values()) == -math.inf
    for k, bound in outcome.proved.items():  # a set that was proved before another fell is safe
        assert bound <= brute_force.worst(case.graph, replace(prop, unsafe=(prop.unsafe[k],))).margin + 1e-9


@pytest.mark.parametrize("split", SPLITS)
def test_the_time_limit_leaves_the_question_open(split: str) -> None:
    case = random_case(1, most=7)
    outcome, _ = search(case, shifted(case, 1e-9), SPLITS[split], seconds=0.0)
    if not all(bound > 0 for bound in outcome.proved.values()):
        assert not outcome.found and outcome.best <= 1e-9


def test_a_frontier_that_outgrows_its_memory_goes_depth_first() -> None:
    case = random_case(3, most=16)
    small = replace(SPLITS["neurons"], memory=1, batch=2, shortlist=1, steps=1)
    outcome, _ = search(case, shifted(case, 1e-3), small)
    assert all(bound > 0 for bound in outcome.proved.values())


@pytest.mark.parametrize("seed", [278, 287])
def test_units_without_influence_are_decided_and_leaves_stay_inside(seed: int) -> None:
    """278: the bound's coefficients vanish over undecided units. 287: the linear program's point lies on the border."""
    case = random_case(seed, most=12)
    for margin in (1e-3, -1e-3):
        outcome, _ = search(case, shifted(case, margin), SPLITS["neurons"])
        assert outcome.found == (margin < 0)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(500))
def test_five_hundred_networks(seed: int) -> None:
    case = random_case(seed, most=12)
    for margin in (1e-3, -1e-3):
        prop = shifted(case, margin)
        for method in SPLITS.values():
            outcome, _ = search(case, prop, method, seconds=120.0)  # a busy machine gives a tenth of them
            assert outcome.found == (margin < 0)
            assert margin < 0 or all(bound > 0 for bound in outcome.proved.values())


def test_the_better_kind_of_split_is_done_in_its_first_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Input splits that get nowhere cost a thirtieth of the time, and then neurons decide what they left."""
    case = random_case(3, most=7)
    asked: list[float] = []

    def hopeless(self: BranchAndBound, task: Task, progress: object) -> Outcome:
        asked.append(task.deadline - time.monotonic())
        return Outcome(dict.fromkeys(task.unsafe, -math.inf), -1.0, False, 1, 0, open=1)

    monkeypatch.setattr(BranchAndBound, "_by_inputs", hopeless)
    outcome, _ = search(case, shifted(case, 0.05), SPLITS["both in turns"], seconds=30.0)
    assert outcome.decided(0.0) and len(asked) == 1 and 0 < asked[0] <= 1.0
    assert outcome.nodes > 1
