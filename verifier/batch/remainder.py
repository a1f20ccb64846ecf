"""What the cascade leaves open, one case at a time: an attack that does not let go, then branch and bound."""

from __future__ import annotations

import heapq
import math
import time
from collections.abc import Mapping, Sequence
from itertools import count

import torch

from verifier.attack.hunt import Hunt
from verifier.batch.problem import Problem
from verifier.batch.records import FALSIFIED, UNKNOWN, VERIFIED, Case, Record, encoded
from verifier.errors import SolverError, SpecificationError
from verifier.strategy import STAGES, Question, Settings, Stage

HUNT_SHARE = 0.1
PATIENCE, PROGRESS = 2, 0.1  # a hunt goes on while that many rounds take this share off the least margin


def hunt(question: Question) -> None:
    """Hunt in the open unsafe sets, mostly in the one that came nearest, for a share of the time.

    What cheap bounds and short attacks leave open is close to the limit on either side; a tree of splits seldom meets
    a needle. Where rounds gain no more a hunt begins anew from other points, as long as there is time.
    """
    until, sets = time.monotonic() + HUNT_SHARE * question.remaining, question.open_sets
    for seed in count(question.settings.seed):
        sets = _hunted(question, sets, seed, until)
        if not sets or question.decided or time.monotonic() >= until:
            return


def _hunted(question: Question, sets: Sequence[int], seed: int, until: float) -> list[int]:
    """Hunt in some sets until rounds gain no more; returns those where a proof is not nearer than a counterexample."""
    graph, region = question.graph.to(torch.float32), question.prop.region.inner_box().to(question.graph.device)
    attack, bounds = Hunt(seed=seed), question.set_bounds
    rounds = {k: attack(graph, region, question.prop.unsafe[k].margin) for k in sets}
    # The worst bounds first, all negative; then the least margin found, the less urgent the longer it was hunted.
    urgent = [(bounds[k], k) for k in rounds]
    found: dict[int, list[float]] = {k: [] for k in rounds}
    left: list[int] = []
    heapq.heapify(urgent)
    while urgent and not question.decided and time.monotonic() < until:
        _, k = heapq.heappop(urgent)
        points, margins = next(rounds[k])
        question.judge(points[0].cpu().numpy())
        found[k].append(float(margins[0]))
        margin, before = found[k][-1], found[k][-PATIENCE - 1 : -PATIENCE]
        if not margin < -bounds[k]:
            continue
        if before and margin > (1 - PROGRESS) * before[0]:
            left.append(k)
        else:
            heapq.heappush(urgent, (margin * len(found[k]), k))
    return left


HUNT = {"crown": STAGES["crown"], "hunt": hunt}
SEARCH = {**HUNT, "bab": STAGES["bab"], "milp": STAGES["milp"]}


def search(problem: Problem, case: Case, settings: Settings, stages: Mapping[str, Stage] = SEARCH) -> Record:
    """The record of one case that the cascade has left open, by the stages in their order."""
    began = time.monotonic()
    prop, graph = problem.property(case), problem.graph
    lower = torch.full((len(prop.rows[1]),), -math.inf, dtype=torch.float64)
    question = Question(problem.subject, prop, settings, began + settings.timeout, graph, lower)
    seconds: dict[str, float] = {}
    reason = ""
    for name, stage in stages.items():
        if question.decided or question.remaining <= 0:
            break
        started = time.monotonic()
        try:
            stage(question)
        except (SolverError, SpecificationError) as error:
            reason = f"{name} was passed over: {error}"
        seconds[name] = time.monotonic() - started
    if question.remaining <= 0:
        reason = f"the time limit of {settings.timeout:g} s was reached"
    best, point = min(question.set_bounds), question.counterexample
    verdict = FALSIFIED if point is not None else UNKNOWN if question.open_sets else VERIFIED
    return Record(
        index=case.index,
        eps=case.eps,
        label=int(problem.data.labels[case.index]),
        prediction=-1,
        verdict=verdict,
        stage=list(seconds)[-1],
        seconds=time.monotonic() - began,
        proved=best if math.isfinite(best) else None,
        found=question.found if math.isfinite(question.found) else None,
        reason=reason if verdict == UNKNOWN else "",
        stages=seconds,
        point=None if point is None else encoded(point),
    )
