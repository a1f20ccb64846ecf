"""Answers with certificates, on claims with little room: what is VERIFIED the checker accepts in exact arithmetic."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import brute_force
import pytest
import torch
from nets import Native, random_case
from test_simplify import with_copies

from verifier import strategy
from verifier.certificate.checker import check
from verifier.certificate.statement import vnnlib
from verifier.certified import verify_certified
from verifier.graph import Graph
from verifier.load import load
from verifier.load.export import onnx_bytes
from verifier.search.bab import BranchAndBound
from verifier.spec.property import HalfSpaces, Property, Region, exact
from verifier.spec.robustness import ball
from verifier.strategy import Settings
from verifier.verdict import Verdict

SPLITS = {"neurons": BranchAndBound(input_limit=0, trial_limit=0), "inputs": BranchAndBound(input_limit=10**6)}
MODELS = Path(__file__).parents[1] / "models"


@dataclass(frozen=True, eq=False)
class Subject(Native):
    def onnx(self) -> bytes:
        return onnx_bytes(self.graph)


def claim(graph: Graph, prop: Property, margin: float) -> Property:
    """The property with constants that make its worst margin the given one."""
    gap = margin - brute_force.worst(graph, prop).margin
    return replace(prop, unsafe=tuple(HalfSpaces(s.C, s.d + gap) for s in prop.unsafe))


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("seed", range(15))
def test_a_narrow_claim_is_certified(seed: int, split: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strategy, "BranchAndBound", lambda: SPLITS[split])
    case = random_case(seed, most=7)
    prop = claim(case.graph, case.prop, 1e-2)
    found = verify_certified(Subject(case.graph), prop, Settings(timeout=30, device="cpu"))
    assert found.result.verdict is Verdict.VERIFIED and found.certificate is not None, found.result.reason
    proved = found.certificate
    assert proved.model == onnx_bytes(case.graph) and proved.statement == vnnlib(prop).encode()
    assert proved.accepted.semantics.startswith("float32")
    accepted = check(proved.content, proved.model, proved.statement, "exact")
    assert 0 <= accepted.margin <= 1e-2 + 1e-9


@pytest.mark.parametrize("seed", range(6))
def test_a_false_claim_has_no_certificate(seed: int) -> None:
    case = random_case(seed, most=7)
    prop = claim(case.graph, case.prop, -1e-4)
    found = verify_certified(Subject(case.graph), prop, Settings(timeout=5, device="cpu"))
    assert found.certificate is None and found.result.verdict is not Verdict.VERIFIED


def test_merged_networks_are_certified_in_real_arithmetic() -> None:
    graph = with_copies(0)
    region = Region(*(exact(torch.full((4,), side).numpy()) for side in (-0.5, 0.5)))
    unsafe = HalfSpaces(torch.tensor([[1.0, -1.0, 0.0]], dtype=torch.float64), torch.zeros(1, dtype=torch.float64))
    prop = Property(region, (unsafe,))
    points = torch.rand(2000, 4, dtype=torch.float64) - 0.5
    least = float(unsafe.margin(graph(points)).min())
    prop = Property(region, (HalfSpaces(unsafe.C, unsafe.d - least + 1.0),))
    found = verify_certified(Subject(graph), prop, Settings(timeout=30, device="cpu"))
    assert found.certificate is not None and found.certificate.accepted.semantics == "real"
    proved = found.certificate
    assert check(proved.content, proved.model, proved.statement, "exact").semantics == "real"


def test_what_leaves_no_proof_is_unknown_and_says_why() -> None:
    case = random_case(0, most=7)
    x = torch.full(case.graph.input_shape, 0.5).numpy()
    prop = Property(ball(x, exact([1e-3])[0], "l2"), claim(case.graph, case.prop, 100.0).unsafe)
    found = verify_certified(Subject(case.graph), prop, Settings(timeout=5, device="cpu"))
    assert found.result.verdict is Verdict.UNKNOWN and "l2" in found.result.reason


def test_a_model_file_is_its_own_statement() -> None:
    """An ONNX export is the same whenever it is made, so that a certificate about it stays checkable."""
    model = load(MODELS / "digits_mlp.pt")
    assert model.stored is None and model.onnx() == load(MODELS / "digits_mlp.pt").onnx()
