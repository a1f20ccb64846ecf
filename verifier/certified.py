"""Answers that carry a certificate, which the checker has accepted."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from verifier.certificate.claim import Certificate, certificate
from verifier.certificate.statement import vnnlib
from verifier.errors import CertificateError, ModelError, SpecificationError
from verifier.proof import Proof
from verifier.spec.property import Property
from verifier.strategy import Settings, Subject, verify
from verifier.verdict import Result, Verdict

ATTEMPTS = 5
MORE = 4.0  # how much further than the last shortfall the next search must go
MOST = 0.5  # of the least margin found: more than that may not be there to be proved


class CertifiableSubject(Subject, Protocol):
    """A subject that is also an ONNX model (see `verifier.load.Model`)."""

    def onnx(self) -> bytes: ...


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
) -> Certified:
    """`strategy.verify`, whose VERIFIED counts once a certificate is accepted; else it is UNKNOWN, with the reason.

    The certificate is about `subject.onnx()` and the property as VNN-LIB text. Raises what `verify` raises.
    """

    def search(settings: Settings) -> tuple[Result, Sequence[tuple[Property, Proof | None]]]:
        result = verify(subject, prop, settings, progress)
        return result, [(prop, result.proof)]

    try:
        statement = vnnlib(prop).encode()
    except SpecificationError as error:
        return _without(verify(subject, prop, settings, progress), str(error))
    return with_certificate(subject, statement, search, settings or Settings())


def with_certificate(
    subject: CertifiableSubject,
    statement: bytes,
    search: Callable[[Settings], tuple[Result, Sequence[tuple[Property, Proof | None]]]],
    settings: Settings,
) -> Certified:
    """Search until the certificate of what was found is accepted: again with more slack where a leaf proves too little.

    search: the result, and for every property of the statement the proof. statement: VNN-LIB 1.0. A certificate may be
    mended for as long again as the timeout.
    """
    began, slack, spent = time.monotonic(), 0.0, 0.0
    settings = replace(settings, proof=True)
    best: Certified | None = None
    refused: Certified | None = None
    for attempt in range(ATTEMPTS):
        elapsed = time.monotonic() - began
        left = settings.timeout - elapsed
        if attempt and left < (elapsed if best else 0):
            break  # what is at hand is worth more than another search
        result, proved = search(replace(settings, timeout=left, slack=slack))
        if result.verdict is not Verdict.VERIFIED:
            return best or refused or Certified(result, None, spent)
        writing = time.monotonic()
        found = _written(subject, statement, proved, writing + settings.timeout)
        spent += time.monotonic() - writing
        if isinstance(found, Certificate):
            accepted, short = found.accepted, found.missing
            best = Certified(replace(result, semantics=accepted.semantics, proved=accepted.margin), found, spent)
        else:
            short = None if found.bound is None else -found.bound
            refused = _without(result, str(found), spent)
        if short is None or (best and attempt):
            break
        slack = min(slack + MORE * max(short, 1e-9 * abs(result.found)), MOST * abs(result.found))
    answer = best or refused
    assert answer is not None  # the first search ends in one or the other
    return answer


def _written(
    subject: CertifiableSubject, statement: bytes, proved: Sequence[tuple[Property, Proof | None]], deadline: float
) -> Certificate | CertificateError:
    """The certificate, or why there is none."""
    proofs = [(prop, proof) for prop, proof in proved if proof is not None]
    if len(proofs) < len(proved):
        return CertificateError("the method leaves no proof behind")
    try:
        return certificate(subject.onnx(), statement, proofs, deadline)
    except CertificateError as error:
        return error
    except ModelError as error:
        return CertificateError(str(error))


def _without(result: Result, reason: str, seconds: float = 0.0) -> Certified:
    """A result that is not VERIFIED for want of a certificate."""
    if result.verdict is Verdict.VERIFIED:
        reason = f"bounds say that it is verified, but no certificate could be written: {reason}"
        result = replace(result, verdict=Verdict.UNKNOWN, reason=reason)
    return Certified(result, None, seconds)
