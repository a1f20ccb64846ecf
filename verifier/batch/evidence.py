"""Certificates of a batch: a VERIFIED counts once the checker has accepted one."""

from __future__ import annotations

import gzip
import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import groupby
from pathlib import Path

import numpy as np
import torch

from verifier.batch.cascade import STAGES, Stage
from verifier.batch.journal import save, save_all
from verifier.batch.problem import Batch, Problem
from verifier.batch.records import FALSIFIED, UNKNOWN, VERIFIED, Case, Record, Run, encoded
from verifier.batch.remainder import HUNT, search
from verifier.certificate.claim import certificate
from verifier.certificate.many import Claims, Together, Way
from verifier.certificate.statement import vnnlib
from verifier.certified import verify_certified
from verifier.errors import CertificateError, InputError, ModelError, SpecificationError
from verifier.load import Model
from verifier.proof import Leaf, Proof
from verifier.spec.robustness import parse_eps
from verifier.strategy import Settings

MODEL, ABOUT = "model.onnx", "run.json"
PROBE = 4  # cases that tell whether bounds by intervals alone are worth trying on the others
Files = tuple[bytes, bytes]  # a certificate, and the statement that it is about


@dataclass(frozen=True)
class Flat:
    """That the checker's bounds prove claim number `place`. margin: the least lower bound."""

    claims: Claims
    place: int
    way: Way
    margin: float


@dataclass(frozen=True)
class Evidence:
    """Certifies answers. model: that of the problem. folder: for certificates and what they are about, if wanted.

    flat: by case, what the checker's bounds have proved and is not stored yet.
    """

    problem: Problem
    model: Model
    folder: Path | None = None
    flat: dict[Case, Flat] = field(default_factory=dict)

    @cached_property
    def together(self) -> Together:
        return Together(self.model.onnx())

    def stages(self, method: str) -> Mapping[str, Stage] | None:
        """The stages of the cascade where they are not those of the method: the checker's own bounds prove as much as
        others that would then have to be certified, and cost no more."""
        if method != "auto" or self.problem.norm != "linf":
            return None
        checked = {"certificate": self.bound}
        return {name: STAGES[name] for name in ("predict", "glance")} | checked | {"attack": STAGES["attack"]}

    def bound(self, batch: Batch) -> None:
        """A stage: the checker's bounds of the open cases."""
        margins, unstable = self.bounds([batch.cases[i] for i in batch.open])
        batch.improve(torch.from_numpy(margins))
        for position, counts in zip(batch.open, unstable, strict=True):
            batch.unstable[position] = counts

    def bounds(self, cases: Sequence[Case]) -> tuple[np.ndarray, list[tuple[int, ...]]]:
        """The checker's lower bounds (cases, classes - 1), and the counts of unstable neurons. Keeps what is proved."""
        margins: list[np.ndarray] = []
        unstable: list[tuple[int, ...]] = []
        for eps, group in groupby(cases, key=lambda case: case.eps):
            some = list(group)
            found, counts = self._at(eps, some)
            margins.append(found)
            unstable += counts
        return np.concatenate(margins), unstable

    def _at(self, eps: str, cases: list[Case]) -> tuple[np.ndarray, list[tuple[int, ...]]]:
        """The same for cases of one radius: by cheap ways where these prove some of the first, and by the best one."""
        data, index = self.problem.data, [case.index for case in cases]
        classes = math.prod(self.problem.subject.graph.output_shape)
        x, labels = data.images[index].flatten(1).numpy(), data.labels[index].tolist()
        claims = Claims.around(x, labels, parse_eps(eps), classes, (data.lower, data.upper))
        margins = np.full((len(cases), classes - 1), np.nan)
        unstable: list[tuple[int, ...]] = [()] * len(cases)
        *quick, full = self.together.ways
        for way in (*quick, full):
            left = np.nonzero(~(margins > 0).all(axis=1))[0]
            for some in (left,) if way == full else (left[:PROBE], left[PROBE:]):
                if not len(some):
                    continue
                margins[some], counts = self.together.bounds(claims.part(some), way)
                proved = (margins[some] > 0).all(axis=1)
                for i, own in zip(some.tolist(), counts.tolist(), strict=True):
                    unstable[i] = tuple(own)
                for i in some[proved].tolist():
                    self.flat[cases[i]] = Flat(claims, i, way, float(margins[i].min()))
                if not proved.any():
                    break
        return margins, unstable

    def of_bounds(self, records: list[Record]) -> list[Record]:
        """The records of the cascade, VERIFIED ones certified, or else UNKNOWN with the reason.

        What bounds have proved the checker can prove with bounds of its own: the certificate is one leaf a class. The
        first of them is written and read again.
        """
        began = time.monotonic()
        proved = [record.case for record in records if record.verdict == VERIFIED]
        if self.problem.norm == "linf" and (fresh := [case for case in proved if case not in self.flat]):
            self.bounds(fresh)
        files: dict[Case, Files] = {}
        found: dict[Case, float | str] = {}
        for case in proved:
            try:
                found[case] = self._margin(case, files, first=case == proved[0])
            except (CertificateError, ModelError, SpecificationError) as error:
                found[case] = str(error)
        self._store(files)
        spent = (time.monotonic() - began) / max(1, len(proved))
        return [self._with(record, found[record.case], spent) if record.case in found else record for record in records]

    def _with(self, record: Record, found: float | str, spent: float) -> Record:
        """The record with the margin of its certificate, or the reason why it has none; and the time that this took."""
        stages = {**record.stages, "certificate": record.stages.get("certificate", 0.0) + spent}
        record = replace(record, stages=stages, seconds=record.seconds + spent)
        if isinstance(found, str):
            return replace(record, verdict=UNKNOWN, reason=found)
        return replace(record, proved=found, certified=True, certificate=self._name(record.case))

    def _margin(self, case: Case, files: dict[Case, Files], first: bool) -> float:
        """The margin of a case that bounds have proved; adds its files where they are wanted.

        first: whether they are checked as they are. Raises what writing and checking raise.
        """
        flat = self.flat.pop(case, None)
        if flat is None:
            prop = self.problem.property(case)
            proofs = [(prop, Proof([Leaf() for _ in prop.unsafe]))]
            made = certificate(self.together.model, vnnlib(prop).encode(), proofs)
            files[case] = made.content, made.statement
            return float(made.accepted.margin)
        if first or self.folder is not None:
            files[case] = self.together.certificate(flat.claims, flat.place, flat.way)
        return float(self.together.checked(*files[case]).margin) if first else flat.margin

    def of_search(self, case: Case, settings: Settings) -> Record:
        """The record of one case by a search that leaves a certificate. What is broken before needs none.

        Where a proof is nearer than a counterexample, one that holds for float32 as well is cheap.
        """
        hunted = search(self.problem, case, settings, HUNT)
        left = settings.timeout - hunted.seconds
        if hunted.verdict == FALSIFIED or left <= 0:
            return hunted if hunted.verdict == FALSIFIED else replace(hunted, verdict=UNKNOWN)
        cheap = hunted.found is not None and hunted.proved is not None and hunted.found > -hunted.proved
        rest = replace(settings, timeout=left, attacked=True, float32=cheap)
        certified = verify_certified(self.model, self.problem.property(case), rest)
        result, stages = certified.result, dict(hunted.stages)
        for stage in result.stages:
            stages[stage.name] = stages.get(stage.name, 0.0) + stage.seconds
        point = result.counterexample
        proved = result.proved if hunted.proved is None else max(hunted.proved, result.proved)
        found = result.found if hunted.found is None else min(hunted.found, result.found)
        record = Record(
            index=case.index,
            eps=case.eps,
            label=int(self.problem.data.labels[case.index]),
            prediction=-1,
            verdict=result.verdict.name,
            stage=result.stage,
            seconds=sum(stages.values()),
            proved=proved if math.isfinite(proved) else None,
            found=found if math.isfinite(found) else None,
            reason=result.reason,
            stages=stages,
            point=encoded(point) if result.verdict.name == FALSIFIED and point is not None else None,
        )
        if certified.certificate is None:
            return record
        made = certified.certificate
        self._store({case: (made.content, made.statement)})
        return replace(record, proved=float(made.accepted.margin), certified=True, certificate=self._name(case))

    def _name(self, case: Case) -> str | None:
        """Of the file that holds the certificate of a case."""
        return None if self.folder is None else f"{stem(case)}.cert"

    def _store(self, files: Mapping[Case, Files]) -> None:
        """Store certificates with the files that they are about, if they are wanted."""
        if self.folder is None or not files:
            return
        if not (self.folder / MODEL).exists():
            save(self.folder, MODEL, self.together.model)
        named: dict[str, bytes] = {}
        for case, (content, statement) in files.items():
            named[f"{stem(case)}.vnnlib.gz"] = gzip.compress(statement, compresslevel=1, mtime=0)
            named[f"{stem(case)}.cert"] = content
        save_all(self.folder, named)


def take_folder(folder: Path, run: Run) -> None:
    """Say in a folder for certificates what they are about. Raises InputError if it holds those of other questions,
    whose files would have the same names.
    """
    told = ("model", "sha256", "arch", "dataset", "inputs", "norm", "method", "version")
    about = {"identity": run.identity, **{name: getattr(run, name) for name in told}}
    try:
        known = json.loads((folder / ABOUT).read_bytes()) if (folder / ABOUT).exists() else about
    except (OSError, ValueError) as error:
        raise InputError(f"{folder / ABOUT}: cannot be read ({error}); give another --certificates") from error
    if not isinstance(known, dict) or known.get("identity") != run.identity:
        other = "holds certificates about another model, data set, norm or method"
        raise InputError(f"{folder}: {other}; give another --certificates")
    save(folder, ABOUT, json.dumps(about, indent=1).encode() + b"\n")


def stem(case: Case) -> str:
    """What the files of a case are called, but for the endings."""
    return f"{case.index}_{case.eps.replace('/', 'over')}"
