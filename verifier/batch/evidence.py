"""Certificates of a batch: a VERIFIED counts once the checker has accepted a file that is stored."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from pathlib import Path

from verifier.batch.journal import save
from verifier.batch.problem import Problem
from verifier.batch.records import FALSIFIED, UNKNOWN, VERIFIED, Case, Record, encoded
from verifier.batch.remainder import HUNT, search
from verifier.certificate.claim import Certificate, certificate
from verifier.certificate.statement import vnnlib
from verifier.certified import GRACE, verify_certified
from verifier.errors import CertificateError, ModelError, SpecificationError
from verifier.load import Model
from verifier.proof import Leaf, Proof
from verifier.strategy import Settings

MODEL = "model.onnx"


@dataclass(frozen=True)
class Evidence:
    """Writes certificates, and the files that they are about, into a folder. model: that of the problem."""

    problem: Problem
    model: Model
    folder: Path

    def of_bound(self, record: Record) -> Record:
        """A VERIFIED record with its certificate, or UNKNOWN with the reason why bounds alone give none.

        What bounds have proved the checker can prove with bounds of its own: the certificate is one leaf a class.
        """
        began = time.monotonic()
        prop = self.problem.property(record.case)
        try:
            proofs = [(prop, Proof([Leaf() for _ in prop.unsafe]))]
            found = certificate(self.model.onnx(), vnnlib(prop).encode(), proofs)
        except (CertificateError, ModelError, SpecificationError) as error:
            return self._spent(replace(record, verdict=UNKNOWN, reason=str(error)), began)
        return self._spent(self._with(record, found), began)

    def of_search(self, case: Case, settings: Settings) -> Record:
        """The record of one case by a search that leaves a certificate. What is broken before needs none."""
        hunted = search(self.problem, case, settings, HUNT)
        left = settings.timeout - hunted.seconds
        if hunted.verdict == FALSIFIED or left <= 0:
            return hunted if hunted.verdict == FALSIFIED else replace(hunted, verdict=UNKNOWN)
        settings = replace(settings, timeout=left / (1 + GRACE))
        certified = verify_certified(self.model, self.problem.property(case), settings)
        result, stages = certified.result, dict(hunted.stages)
        for stage in result.stages:
            stages[stage.name] = stages.get(stage.name, 0.0) + stage.seconds
        point = result.counterexample
        record = Record(
            index=case.index,
            eps=case.eps,
            label=int(self.problem.data.labels[case.index]),
            prediction=-1,
            verdict=result.verdict.name,
            stage=result.stage,
            seconds=sum(stages.values()),
            proved=result.proved if math.isfinite(result.proved) else None,
            found=result.found if math.isfinite(result.found) else None,
            reason=result.reason,
            stages=stages,
            point=encoded(point) if result.verdict.name == FALSIFIED and point is not None else None,
        )
        return record if certified.certificate is None else self._with(record, certified.certificate)

    def _with(self, record: Record, found: Certificate) -> Record:
        """The record with the name of its certificate, once that is stored with the files that it is about."""
        if not (self.folder / MODEL).exists():
            save(self.folder, MODEL, found.model)
        stem = f"{record.index}_{record.eps.replace('/', 'over')}"
        save(self.folder, f"{stem}.vnnlib", found.statement)
        name = save(self.folder, f"{stem}.cert", found.content)
        return replace(record, verdict=VERIFIED, certificate=name, proved=float(found.accepted.margin))

    @staticmethod
    def _spent(record: Record, began: float) -> Record:
        """The record with the time that its certificate took."""
        spent = time.monotonic() - began
        stages = {**record.stages, "certificate": spent}
        return replace(record, stages=stages, seconds=record.seconds + spent)
