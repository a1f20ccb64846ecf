"""Certificates of batches: what is VERIFIED has been accepted, with the margin that the checker finds in the file."""

from __future__ import annotations

import gzip
import math
from dataclasses import replace
from pathlib import Path

import pytest

from verifier.batch import evidence as batch_evidence
from verifier.batch.cascade import cascade
from verifier.batch.evidence import Evidence
from verifier.batch.problem import Problem
from verifier.batch.records import FALSIFIED, UNKNOWN, VERIFIED, Case, Record
from verifier.certificate.checker import check
from verifier.certificate.many import Together
from verifier.certified import Certified, verify_certified
from verifier.data import load_dataset
from verifier.errors import CertificateError
from verifier.load import Model, load
from verifier.spec.property import Property
from verifier.strategy import Settings

MODEL = Path(__file__).parents[2] / "models" / "digits_mlp.pt"
CASES = [Case(index, eps) for eps in ("0.02", "0.05") for index in range(12)]


@pytest.fixture(scope="module")
def model() -> Model:
    return load(str(MODEL))


def evidence(model: Model, folder: Path | None = None, norm: str = "linf") -> Evidence:
    return Evidence(Problem(model, load_dataset("digits"), norm), model, folder)


def records(made: Evidence, cases: list[Case], method: str = "auto") -> dict[Case, Record]:
    parts = cascade(made.problem, cases, method, math.inf, made.stages(method))
    return {record.case: record for part in parts for record in made.of_bounds(part)}


def test_files_hold_what_records_say(model: Model, tmp_path: Path) -> None:
    """Of two radii in one batch; the same verdicts as without a folder."""
    found = records(evidence(model, tmp_path), CASES)
    proved = [record for record in found.values() if record.verdict == VERIFIED]
    assert len(proved) > 12 and all(record.certified and record.certificate for record in proved)
    assert not any(record.certified for record in found.values() if record.verdict != VERIFIED)
    onnx = (tmp_path / "model.onnx").read_bytes()
    for record in proved:
        content = (tmp_path / str(record.certificate)).read_bytes()
        statement = gzip.decompress((tmp_path / f"{record.index}_{record.eps}.vnnlib.gz").read_bytes())
        accepted = check(content, onnx, statement)
        assert accepted.margin == pytest.approx(record.proved, abs=1e-6) and record.unstable
    assert len(list(tmp_path.iterdir())) == 1 + 2 * len(proved)
    bare = records(evidence(model), CASES)
    assert {case: record.verdict for case, record in bare.items()} == {c: r.verdict for c, r in found.items()}
    assert all(r.certificate is None and r.certified == (r.verdict == VERIFIED) for r in bare.values())


def test_what_the_checker_refuses_is_unknown(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first certificate of every batch is checked from its bytes."""

    def refused(self: Together, content: bytes, statement: bytes) -> None:
        raise CertificateError("no")

    monkeypatch.setattr(Together, "checked", refused)
    found = records(evidence(model), CASES[:12])
    verdicts = [found[case].verdict for case in CASES[:12]]
    assert verdicts.count(UNKNOWN) == 1 and verdicts.count(VERIFIED) > 6
    assert [record.reason for record in found.values() if record.verdict == UNKNOWN] == ["no"]


@pytest.mark.parametrize(("method", "norm", "eps"), [("interval", "linf", "0.005"), ("crown", "l2", "0.1")])
def test_other_methods_and_norms_are_certified_as_well(model: Model, method: str, norm: str, eps: str) -> None:
    found = records(evidence(model, norm=norm), [Case(index, eps) for index in range(4)], method)
    proved = [record for record in found.values() if record.verdict == VERIFIED]
    assert proved and all(record.certified for record in proved)


def test_bounds_that_the_checker_does_not_reach_leave_no_verdict(model: Model) -> None:
    """As if another method had proved what is false."""
    made = evidence(model)
    [record] = records(made, [Case(0, "0.3")]).values()
    assert record.verdict in (UNKNOWN, FALSIFIED)
    [claimed] = made.of_bounds([replace(record, verdict=VERIFIED)])
    assert claimed.verdict == UNKNOWN and "refuses" in claimed.reason and not claimed.certified


def test_a_search_is_certified(model: Model, tmp_path: Path) -> None:
    made = evidence(model, tmp_path)
    case = Case(0, "0.08")  # beyond what the checker's bounds reach
    assert records(made, [case])[case].verdict == UNKNOWN
    record = made.of_search(case, Settings(timeout=30))
    assert record.verdict == VERIFIED and record.certified and (tmp_path / str(record.certificate)).is_file()
    assert "attack" not in record.stages


@pytest.mark.parametrize(("found", "asked"), [(0.5, True), (0.1, False), (None, False)])
def test_float32_is_asked_for_where_a_proof_is_near(
    model: Model, found: float | None, asked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nearer than a counterexample: the hunt saw margins of `found`, bounds reach -0.2."""
    hunted = Record(0, "0.08", 0, 0, UNKNOWN, "hunt", 0.1, proved=-0.2, found=found)
    seen: list[Settings] = []

    def certified(subject: Model, prop: Property, settings: Settings) -> Certified:
        seen.append(settings)
        return verify_certified(subject, prop, settings)

    monkeypatch.setattr(batch_evidence, "search", lambda *_: hunted)
    monkeypatch.setattr(batch_evidence, "verify_certified", certified)
    record = evidence(model).of_search(Case(0, "0.08"), Settings(timeout=30))
    assert record.verdict == VERIFIED and [settings.float32 for settings in seen] == [asked]
