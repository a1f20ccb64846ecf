"""The cascade that answers one property: cheap stages first, each under what is left of the time."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import torch

from verifier import solvers
from verifier.bounds.balance import balanced
from verifier.errors import SolverError, SpecificationError
from verifier.proof import Proof
from verifier.search.record import Records
from verifier.simplify import simplified
from verifier.spec.property import Property
from verifier.strategy.question import Question, Subject
from verifier.strategy.settings import Settings
from verifier.strategy.stages import SOLVER_TOLERANCE, STAGES, few_inputs
from verifier.verdict import Result, StageReport, Verdict

CASCADE = ("predict", "interval", "attack", "forward", "crown", "restarts", "bab", "milp")
# The least margin that attacks find says how much a proof may leave to rounding, so they come first:
WITH_PROOF = ("predict", "attack", "interval", "forward", "crown", "restarts", "bab")
WITH_SLACK = ("predict", "attack", "bab")
ATTACKS = ("attack", "restarts")


def verify(
    subject: Subject, prop: Property, settings: Settings | None = None, progress: Callable[[str], None] | None = None
) -> Result:
    """Answer one property by the cascade, or by one method alone.

    progress: called with a line of text before each stage. Raises SpecificationError when property and network do not
    fit, InputError or SolverUnavailableError for impossible settings.
    """
    settings = settings or Settings()
    solvers.get(settings.solver)
    began = time.monotonic()
    prop.check_fits(subject.graph.input_shape, math.prod(subject.graph.output_shape))
    graph = simplified(subject.graph).to(torch.float64, settings.torch_device())
    graph = balanced(graph, prop.region.box().to(graph.device))
    lower = torch.full((len(prop.rows[1]),), -math.inf, dtype=torch.float64)
    question = Question(subject, prop, settings, began + settings.timeout, graph, lower, progress=progress)
    cascade = WITH_SLACK if settings.slack else WITH_PROOF if settings.proof else CASCADE
    names: tuple[str, ...] = cascade if settings.method == "auto" else ("predict", settings.method)
    if settings.attacked:
        names = tuple(name for name in names if name not in ATTACKS)
    if not few_inputs(question):
        names = tuple(name for name in names if name != "forward")
    reports: list[StageReport] = []
    for name in names:
        if question.decided or question.remaining <= 0:
            break
        if progress is not None:
            progress(f"{name} ({question.remaining:.1f} s left)")
        reports.append(_run(name, question))
    question.wish = 0.0
    return _result(question, tuple(reports), time.monotonic() - began)


def _run(name: str, question: Question) -> StageReport:
    """Run one stage and report it; in the cascade, a stage that cannot treat the question is passed over."""
    began, question.remark, question.search = time.monotonic(), "", None
    try:
        STAGES[name](question)
    except (SolverError, SpecificationError) as error:
        if question.settings.method != "auto":
            raise
        question.remark = f"passed over: {error}"
    best = min(question.set_bounds)
    margin = best if math.isfinite(best) else None
    return StageReport(name, time.monotonic() - began, margin, question.remark, question.search)


def _result(question: Question, stages: tuple[StageReport, ...], seconds: float) -> Result:
    """The verdict that the evidence allows."""
    claimed = {k: bound for k, bound in question.claims.items() if bound > SOLVER_TOLERANCE}
    by_solver = bool(question.open_sets) and all(k in claimed for k in question.open_sets)
    bounds, reason = question.set_bounds, ""
    if question.counterexample is not None:
        verdict = Verdict.FALSIFIED
    elif not question.open_sets:
        verdict = Verdict.VERIFIED
    elif by_solver and question.settings.method == "milp":
        verdict = Verdict.VERIFIED
        bounds = [claimed.get(k, bound) for k, bound in enumerate(bounds)]
    else:
        verdict, reason = Verdict.UNKNOWN, _reason(question, by_solver)
    return Result(
        verdict=verdict,
        about=question.prop.about,
        stage=stages[-1].name if stages else "",
        seconds=seconds,
        proved=min(bounds),
        found=question.found,
        stages=stages,
        counterexample=question.counterexample,
        outputs=question.outputs,
        reason=reason,
        solver_word=verdict is Verdict.VERIFIED and bool(question.open_sets),
        proof=_proof(question) if verdict is Verdict.VERIFIED else None,
    )


def _proof(question: Question) -> Proof | None:
    """What proves that every set is unreachable: a search's trees, or the best row bounded over the whole region."""
    records = question.records
    if records is None or question.open_sets:
        return None
    as_loaded = len(question.by_interval) == len(question.prop.unsafe)  # what the intervals were computed on
    if as_loaded:
        records = Records(question.subject.graph)
    for k in range(len(question.prop.unsafe)):
        rows = question.lower[question.sets == k]
        if k not in records.sets and bool(rows.max() > question.allowance):
            weights = torch.nn.functional.one_hot(rows.argmax(), len(rows))
            records.sets[k] = records.unsplit(weights, flat=k in question.by_interval), 0
    return records.proof(len(question.prop.unsafe), question.merged and not as_loaded)


def _reason(question: Question, by_solver: bool) -> str:
    """Why there is no verdict."""
    if by_solver:
        claim = f"{question.settings.solver} claims that no counterexample exists"
        return f"{claim}, but a solver's word is no proof; --method milp accepts it"
    if question.doubts:
        return question.doubts[-1]
    if question.remaining <= 0:
        return f"the time limit of {question.settings.timeout:g} s was reached"
    best = min(question.set_bounds)
    return f"the best bound that {question.settings.method} reaches is {best:.4g}, which is not above zero"
