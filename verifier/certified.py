"""Answers that carry a certificate, which the checker has accepted."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

from verifier.certificate.statement import vnnlib
from verifier.errors import CertificateError, ModelError, SpecificationError
from verifier.proof import Proof
from verifier.spec.property import Property
from verifier.strategy import Settings, Subject, verify
from verifier.verdict import Result, StageReport, Verdict

if TYPE_CHECKING:
    from verifier.certificate.claim import Certificate

ATTEMPTS = 5
GRACE = 1.0  # of the time limit, what writing and checking may take beyond it
MORE = 4.0  # how much further than the last shortfall the next search must go
MOST = 0.5  # of the least margin found: more than that may not be there to be proved
LONGER = 2.0  # times what an answer about real arithmetic took (1 s at least): how long one about float32 is looked for


class CertifiableSubject(Subject, Protocol):
    """A subject that is also an ONNX model (see `verifier.load.Model`)."""

    def onnx(self) -> bytes: ...


Found = tuple[Result, Sequence[tuple[Property, Proof | None]]]
"""What a search finds, and for every property of the statement its proof, if it leaves one."""


@dataclass(frozen=True, eq=False)
class Certified:
    """A result, and the certificate behind it when it is VERIFIED. seconds: what writing and checking took."""

    result: Result
    certificate: Certificate | None
    seconds: float = 0.0


def verify_certified(
    subject: CertifiableSubject,
    prop: Property,
    settings: Settings | None = None,
    progress: Callable[[str], None] | None = None,
    comments: Sequence[str] = (),
) -> Certified:
    """`strategy.verify`, whose VERIFIED counts once a certificate is accepted; else it is UNKNOWN, with the reason.

    The certificate is about `subject.onnx()` and the property as VNN-LIB text, which begins with the comments. Raises
    what `verify` raises.
    """

    def search(settings: Settings) -> Found:
        result = verify(subject, prop, settings, progress)
        return result, [(prop, result.proof)]

    try:
        statement = vnnlib(prop, comments=comments).encode()
    except SpecificationError as error:
        return Certified(_without(verify(subject, prop, settings, progress), str(error)), None)
    return with_certificate(subject, statement, search, settings or Settings(), progress)


def with_certificate(
    subject: CertifiableSubject,
    statement: bytes,
    search: Callable[[Settings], Found],
    settings: Settings,
    progress: Callable[[str], None] | None = None,
) -> Certified:
    """Search until the certificate of what was found is accepted: again with more slack where a leaf proves too little.

    statement: VNN-LIB 1.0. Where a method leaves no proof behind, branch and bound looks for one. The searches end with
    the timeout; writing and checking may take `GRACE` times as long beyond it.
    """
    return _Certification(subject, statement, search, settings, progress).run()


@dataclass(eq=False)
class _Certification:
    """The loop of `with_certificate`. best: the last answer with a certificate. other: what to say without one.

    asked: the greatest price of float32 that a search has asked for.
    """

    subject: CertifiableSubject
    statement: bytes
    search: Callable[[Settings], Found]
    settings: Settings
    progress: Callable[[str], None] | None
    began: float = field(default_factory=time.monotonic)
    spent: float = 0.0
    stage: str = ""
    stages: tuple[StageReport, ...] = ()
    best: Certified | None = None
    other: Result | None = None
    asked: float = 0.0

    def run(self) -> Certified:
        settings = replace(self.settings, proof=True, price=self._price)
        for attempt in range(ATTEMPTS):
            elapsed = time.monotonic() - self.began
            left = settings.timeout - elapsed if attempt else settings.timeout
            if attempt and left <= (elapsed if self.best else 0):
                break  # what is at hand is worth more than another search
            limit = min(left, LONGER * max(elapsed, 1.0)) if self.best else left
            result, proved = self.search(replace(settings, timeout=limit))
            self.stages += result.stages
            self.stage = self.stage or result.stage
            if result.verdict is Verdict.FALSIFIED:
                return self._answer(result)
            if result.verdict is Verdict.UNKNOWN:
                self.other = self.other or result
                break
            if settings.method != "auto":
                settings = replace(settings, method="bab")  # for the next search: it can prove more than was found
            if any(proof is None for _, proof in proved):
                self.other = result if result.solver_word else _without(result, "the method leaves no proof behind")
                continue
            short = self._write(result, [(prop, proof) for prop, proof in proved if proof is not None])
            if short is None or (self.best and (attempt or not settings.float32)):
                break
            if self.best is None and all(stage.search is None for stage in result.stages):
                short = 0.0  # the checker's own bounds are weaker; what a search needs is not known
            more = min(settings.slack + MORE * max(short, 1e-9 * abs(result.found)), MOST * abs(result.found))
            settings = replace(settings, slack=more)
        if self.best is not None:
            return self.best
        assert self.other is not None  # the first search ends in one or the other
        return self._answer(self.other)

    def _price(self, *args: Any) -> float:
        """What float32 may cost a margin (see `Settings`); infinite where there will be no certificate."""
        from verifier.certificate.pricing import price  # imports onnx, for a tenth of a second

        try:
            found = price(self._model, *args)
        except ModelError:
            return math.inf
        self.asked = max(self.asked, found)
        return found

    @functools.cached_property
    def _model(self) -> bytes:
        """The model that the certificate is about. Raises ModelError."""
        return self.subject.onnx()

    def _answer(self, result: Result, certificate: Certificate | None = None) -> Certified:
        """The result of everything so far."""
        seconds = time.monotonic() - self.began
        result = replace(result, stage=self.stage, stages=self.stages, seconds=seconds)
        return Certified(result, certificate, self.spent)

    def _write(self, result: Result, proofs: Sequence[tuple[Property, Proof]]) -> float | None:
        """Write and check; returns how much a leaf lacks, None where that is not what is missing."""
        from verifier.certificate.claim import certificate  # imports onnx, for a tenth of a second

        began = time.monotonic()
        if self.progress is not None:
            self.progress("certificate")
        deadline = self.began + (1 + GRACE) * self.settings.timeout
        found: Certificate | CertificateError
        try:
            doubtful = not result.proved > self.asked
            found = certificate(self._model, self.statement, proofs, deadline, doubtful)
        except CertificateError as error:
            found = error
        except ModelError as error:
            found = CertificateError(str(error))
        seconds = time.monotonic() - began
        self.spent += seconds
        if isinstance(found, CertificateError):
            self.stages += (StageReport("certificate", seconds, None, f"refused: {found}"),)
            self.other = _without(result, str(found))
            return None if found.bound is None else -found.bound
        accepted = found.accepted
        size = f"{accepted.leaves} {'leaf' if accepted.leaves == 1 else 'leaves'}, {len(found.content)} bytes"
        self.stages += (StageReport("certificate", seconds, accepted.margin, f"{size}, {accepted.semantics}"),)
        certified = replace(result, certified=True, semantics=accepted.semantics, proved=accepted.margin)
        self.best = self._answer(replace(certified, solver_word=False), found)
        return found.missing


def _without(result: Result, reason: str) -> Result:
    """A result that is not VERIFIED for want of a certificate."""
    if result.verdict is not Verdict.VERIFIED:
        return result
    reason = f"bounds prove it, but there is no certificate: {reason}; --uncertified accepts bounds alone"
    return replace(result, verdict=Verdict.UNKNOWN, reason=reason)
