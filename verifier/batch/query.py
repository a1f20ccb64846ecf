"""The answer to a VNN-LIB query: its properties, one per input box, under one budget."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from verifier.batch.screen import Screen
from verifier.certificate.statement import vnnlib
from verifier.certified import CertifiableSubject, Certified, with_certificate
from verifier.proof import Proof
from verifier.spec.property import Property
from verifier.spec.vnnlib import Query
from verifier.strategy import Settings, Subject, verify
from verifier.verdict import Result, StageReport, Verdict

MANY = 8  # input boxes, at least, that are bounded together
SCREEN = "crown"
SCREEN_SHARE = 0.5  # of the time left, at most, for halves of many boxes together
FIRST_ROUND = 0.2  # of the time, spread evenly, so that a hard box does not keep an easy one from being broken


@dataclass(frozen=True, eq=False)
class Answer:
    """What holds for the whole query.

    cases: the results of the input boxes, as far as they were looked at; properties: what each is about. point: the
    counterexample in exact numbers, of the network's input shape; it lies in the box, and `result.counterexample` is
    what the network reads of it.
    """

    result: Result
    cases: tuple[Result, ...]
    point: np.ndarray | None = None
    properties: tuple[Property, ...] = ()


def certified_answer(
    subject: CertifiableSubject,
    query: Query,
    statement: bytes | None = None,
    settings: Settings | None = None,
    progress: Callable[[str], None] | None = None,
) -> tuple[Answer, Certified]:
    """`answer`, whose VERIFIED counts once a certificate is accepted; see `verifier.certified`.

    statement: what the query was read from, if that is VNN-LIB 1.0; else it is written anew.
    """
    properties = query.properties(subject.graph.input_shape, math.prod(subject.graph.output_shape))
    last: list[Answer] = []

    def search(settings: Settings) -> tuple[Result, list[tuple[Property, Proof | None]]]:
        last.append(answer(subject, query, settings, progress))
        proofs = zip(last[-1].properties, last[-1].cases, strict=True)
        return last[-1].result, [(prop, case.proof) for prop, case in proofs]

    text = vnnlib(*properties).encode() if statement is None else statement
    found = with_certificate(subject, text, search, settings or Settings())
    return replace(last[-1], result=found.result), found


def answer(
    subject: Subject, query: Query, settings: Settings | None = None, progress: Callable[[str], None] | None = None
) -> Answer:
    """VERIFIED when every property of the query is, FALSIFIED when one is.

    A counterexample must also satisfy the assertions as they are written, exactly. Raises what `strategy.verify` and
    `Query.properties` raise.
    """
    settings = settings or Settings()
    began = time.monotonic()
    deadline = began + settings.timeout
    properties = query.properties(subject.graph.input_shape, math.prod(subject.graph.output_shape))
    found = _screened(subject, properties, settings, deadline)
    if found and progress is not None:
        progress(f"{len(found)} of {len(properties)} input boxes proved together")
    todo = [k for k in range(len(properties)) if k not in found]
    for share in (FIRST_ROUND, 1.0) if len(properties) > 1 else (1.0,):
        out_of_time = []
        for position, k in enumerate(todo):
            budget = share * (deadline - time.monotonic()) / (len(todo) - position)
            if budget <= 0:
                break
            found[k] = _case(subject, query, properties[k], replace(settings, timeout=budget), progress)
            x = found[k].counterexample
            if x is not None:
                point = properties[k].region.point(x)
                return replace(_answer(query, properties, found, began, settings), point=point)
            if found[k].verdict is Verdict.UNKNOWN and found[k].seconds >= budget:
                out_of_time.append(k)
        todo = out_of_time
    return _answer(query, properties, found, began, settings)


def _screened(
    subject: Subject, properties: Sequence[Property], settings: Settings, deadline: float
) -> dict[int, Result]:
    """The results of what bounds of all input boxes together prove: none where these are few."""
    if len(properties) < MANY or settings.method != "auto" or settings.slack:
        return {}
    began = time.monotonic()
    screen = Screen(subject, properties, settings.torch_device())
    margins = screen.whole(deadline)
    if not settings.proof:  # what halves prove leaves no proof behind
        margins = screen.halved(margins, time.monotonic() + SCREEN_SHARE * (deadline - time.monotonic()))
    seconds = time.monotonic() - began
    proved = (margins > screen.allowance).nonzero().squeeze(1).tolist()
    about = f"{len(proved)} of {len(properties)} input boxes, together"
    report = StageReport(SCREEN, seconds, float(margins[proved].min()) if proved else None, about)
    return {
        k: Result(
            verdict=Verdict.VERIFIED,
            about=properties[k].about,
            stage=SCREEN,
            seconds=seconds,
            proved=float(margins[k]),
            found=math.inf,
            stages=(report,) if k == proved[0] else (),
            proof=screen.proof(k) if settings.proof else None,
        )
        for k in proved
    }


def _case(
    subject: Subject, query: Query, prop: Property, settings: Settings, progress: Callable[[str], None] | None
) -> Result:
    result = verify(subject, prop, settings, progress)
    if result.counterexample is None or result.outputs is None:
        return result
    if query.holds(prop.region.point(result.counterexample), result.outputs):
        return result
    reason = "a candidate violates the property only once the property's numbers are rounded to float64"
    return replace(result, verdict=Verdict.UNKNOWN, counterexample=None, outputs=None, reason=reason)


def _answer(
    query: Query, properties: Sequence[Property], found: dict[int, Result], began: float, settings: Settings
) -> Answer:
    """The verdict over all cases, carried by the one that decides it."""
    looked_at = tuple(properties[k] for k in sorted(found))
    cases = tuple(found[k] for k in sorted(found))
    seconds = time.monotonic() - began
    about = f"no input that {query.name} allows has a forbidden output"
    limit = f"the time limit of {settings.timeout:g} s was reached"
    if not cases:
        return Answer(Result(Verdict.UNKNOWN, about, "", seconds, -math.inf, math.inf, (), reason=limit), ())
    order = (Verdict.FALSIFIED, Verdict.UNKNOWN, Verdict.VERIFIED)
    # Of several cases with the same verdict, the longest one: it is the one that the answer waited for.
    decisive = min(cases, key=lambda case: (order.index(case.verdict), -case.seconds))
    complete = len(cases) == len(properties)
    verdict = decisive.verdict if complete or decisive.verdict is Verdict.FALSIFIED else Verdict.UNKNOWN
    late = verdict is Verdict.UNKNOWN and seconds >= settings.timeout
    result = replace(
        decisive,
        verdict=verdict,
        about=about,
        seconds=seconds,
        proved=min(case.proved for case in cases) if complete else -math.inf,
        found=min(case.found for case in cases),
        stages=_stages(found),
        reason=limit if late else decisive.reason,
        solver_word=verdict is Verdict.VERIFIED and any(case.solver_word for case in cases),
    )
    return Answer(result, cases, properties=looked_at)


def _stages(found: dict[int, Result]) -> tuple[StageReport, ...]:
    """The stages of all cases, named by their input box when there are several."""
    if len(found) == 1:
        [only] = found.values()
        return only.stages
    named = [
        (f"box {k + 1}: {stage.name}" if "together" not in stage.remark else stage.name, stage)
        for k in sorted(found)
        for stage in found[k].stages
    ]
    return tuple(replace(stage, name=name) for name, stage in named)
