"""What the cascade leaves open, one case at a time: an attack that does not let go, then branch and bound."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping

import torch

from verifier.batch.hunting import hunt
from verifier.batch.problem import Problem
from verifier.batch.records import FALSIFIED, UNKNOWN, VERIFIED, Case, Record, encoded
from verifier.errors import SolverError, SpecificationError
from verifier.strategy import STAGES, Question, Settings, Stage

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
