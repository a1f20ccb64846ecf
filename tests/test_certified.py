"""Answers with certificates, on claims with little room: what is VERIFIED the checker accepts in exact arithmetic."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

import brute_force
import numpy as np
import pytest
import torch
from nets import Case, Native, mlp, random_case
from test_simplify import with_copies

from verifier import certified, strategy
from verifier.certificate.checker import check
from verifier.certificate.claim import Certificate, certificate
from verifier.certificate.nodes import Refused
from verifier.certificate.statement import vnnlib
from verifier.certified import verify_certified
from verifier.errors import CertificateError
from verifier.graph import Graph, GraphBuilder
from verifier.load import load
from verifier.load.export import onnx_bytes
from verifier.ops.affine import Linear
from verifier.ops.relu import ReLU
from verifier.proof import Proof
from verifier.search import bab
from verifier.search.bab import BranchAndBound
from verifier.spec.property import HalfSpaces, Property, Region, exact
from verifier.spec.robustness import ball
from verifier.strategy import Settings
from verifier.verdict import Result, Verdict

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


def proved_for(price: float, case: Case, prop: Property) -> tuple[Result, bool]:
    """What a search for a proof finds that is told this price of float32, and whether it asked for it."""
    asked: list[int] = []

    def priced(*about: object) -> float:
        asked.append(len(about))
        return price

    settings = Settings(method="bab", timeout=30, proof=True, price=priced)
    return strategy.verify(Subject(case.graph), prop, settings), bool(asked)


def test_a_search_proves_what_float32_costs_beyond_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strategy.stages, "BranchAndBound", lambda: SPLITS["neurons"])
    paid = 0
    for seed in range(12):
        case = random_case(seed, most=7)
        result, asked = proved_for(2e-3, case, claim(case.graph, case.prop, 0.01))
        assert result.proved > 2e-3 * asked
        paid += asked
    assert paid > 2


def test_what_crown_proves_too_slimly_for_float32_is_searched_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """One search, whose answer is CROWN's where it finds no better one."""
    monkeypatch.setattr(strategy.stages, "BranchAndBound", lambda: SPLITS["neurons"])
    for module in (strategy.stages, strategy.cascade):
        monkeypatch.setattr(module, "few_inputs", lambda question: False)
    monkeypatch.setattr(strategy.question, "WORTHWHILE", math.inf)
    monkeypatch.setattr(strategy.stages, "SPARE", 0.2)
    slim = better = 0
    for seed in range(12):
        case = random_case(seed, most=7)
        subject, prop = Subject(case.graph), claim(case.graph, case.prop, 100.0)
        loose = strategy.verify(subject, prop, Settings(method="crown")).proved
        prop = replace(prop, unsafe=tuple(HalfSpaces(s.C, s.d + 0.1 - loose) for s in prop.unsafe))
        if strategy.verify(subject, prop, Settings(method="interval")).verdict is Verdict.VERIFIED:
            continue
        for price in (0.1, 1e3):
            settings = Settings(timeout=30, proof=True, price=lambda *about, price=price: price)
            found = strategy.verify(subject, prop, settings)
            assert found.verdict is Verdict.VERIFIED and found.stages[-1].name == "bab"
            assert strategy.verify(subject, prop, replace(settings, float32=False)).stages[-1].name == "crown"
            slim, better = slim + 1, better + (found.proved > 0.1)
    assert slim > 4 and better


def test_bounds_that_the_checker_does_not_repeat_say_nothing_about_a_searchs_slack(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slacks = list[float]()

    def search(*args) -> Result:
        slacks.append(args[2].slack)
        return strategy.verify(*args)

    def refused(*args) -> Certificate:
        if len(slacks) == 1:
            raise CertificateError("leaf 0 of set 0 is not proved", -5.0)
        return certificate(*args)

    monkeypatch.setattr(certified, "verify", search)
    monkeypatch.setattr("verifier.certificate.claim.certificate", refused)
    case = random_case(0, most=7)
    prop = claim(case.graph, case.prop, 1000.0)
    found = verify_certified(Subject(case.graph), prop, Settings(timeout=60, device="cpu"))
    assert found.result.verdict is Verdict.VERIFIED and found.certificate is not None
    assert len(slacks) == 2 and 0 < slacks[1] < 1e-3


def test_a_price_that_cannot_be_paid_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strategy.stages, "BranchAndBound", lambda: SPLITS["neurons"])
    monkeypatch.setattr(strategy.question, "WORTHWHILE", math.inf)
    monkeypatch.setattr(bab, "PATIENCE", 0.01)
    given_up = 0
    for seed in range(4):
        case = random_case(seed, most=7)
        result, asked = proved_for(1e3, case, claim(case.graph, case.prop, 0.01))
        assert result.verdict is Verdict.VERIFIED and result.proved < 1e3
        given_up += asked
    assert given_up


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("seed", range(15))
def test_a_narrow_claim_is_certified(seed: int, split: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strategy.stages, "BranchAndBound", lambda: SPLITS[split])
    case = random_case(seed, most=7)
    prop = claim(case.graph, case.prop, 1e-2)
    found = verify_certified(Subject(case.graph), prop, Settings(timeout=30, device="cpu"))
    assert found.result.verdict is Verdict.VERIFIED and found.certificate is not None, found.result.reason
    proved = found.certificate
    assert proved.model == onnx_bytes(case.graph) and proved.statement == vnnlib(prop).encode()
    assert proved.accepted.semantics.startswith("float32")
    accepted = check(proved.content, proved.model, proved.statement, "exact")
    assert 0 <= accepted.margin <= 1e-2 + 1e-9


@pytest.mark.parametrize(("wanted", "searches"), [(True, 2), (False, 1)])
def test_a_float32_claim_is_searched_for_where_it_is_wanted(
    wanted: bool, searches: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here it is never reached: each certificate is about real arithmetic, and says how much float32 lacks."""
    limits = []

    def search(*args) -> Result:
        limits.append(args[2].timeout)
        return strategy.verify(*args)

    def real(*args) -> Certificate:
        found = certificate(*args)
        return replace(found, accepted=found.accepted._replace(semantics="real"), missing=1e-6)

    monkeypatch.setattr(certified, "verify", search)
    monkeypatch.setattr("verifier.certificate.claim.certificate", real)
    case = random_case(0, most=7)
    prop = claim(case.graph, case.prop, 1e-2)
    found = verify_certified(Subject(case.graph), prop, Settings(timeout=1000, device="cpu", float32=wanted))
    assert found.result.verdict is Verdict.VERIFIED and found.result.semantics == "real"
    assert len(limits) == searches and all(limit < 500 for limit in limits[1:])


@pytest.mark.parametrize("seed", range(6))
def test_a_false_claim_has_no_certificate(seed: int) -> None:
    case = random_case(seed, most=7)
    prop = claim(case.graph, case.prop, -1e-4)
    found = verify_certified(Subject(case.graph), prop, Settings(timeout=5, device="cpu"))
    assert found.certificate is None and found.result.verdict is not Verdict.VERIFIED


@pytest.mark.parametrize("method", ["interval", "crown", "alpha", "lp", "milp", "bab"])
def test_every_method_is_certified(method: str) -> None:
    """Where a method leaves no proof, or one that the checker does not accept, branch and bound finds one."""
    case = random_case(3, most=7)
    found = verify_certified(Subject(case.graph), claim(case.graph, case.prop, 50.0), Settings(method, device="cpu"))
    assert found.certificate is not None, found.result.reason
    assert found.result.certified and not found.result.solver_word and found.result.stage == method
    assert found.result.stages[-1].name == "certificate"
    assert found.result.proved == found.certificate.accepted.margin > 0


@pytest.mark.parametrize("method", ["crown", "alpha", "bab"])
def test_what_intervals_prove_better_is_certified_as_such(method: str) -> None:
    """On [-1, 1.5] CROWN's line below ReLU is z itself: relu(z) + 0.5 is at least 0.5 by intervals, -0.5 by lines."""
    builder = GraphBuilder((1,))
    read = builder.add(Linear(torch.ones(1, 1), torch.zeros(1)), 0)
    builder.add(Linear(torch.ones(1, 1), torch.full((1,), 0.5)), builder.add(ReLU(), read))
    region = Region(exact(np.full(1, -1.0)), exact(np.full(1, 1.5)))
    prop = Property(region, (HalfSpaces(torch.ones(1, 1).double(), torch.zeros(1).double()),))
    found = verify_certified(Subject(builder.finish()), prop, Settings(method=method, device="cpu"))
    assert found.certificate is not None and found.certificate.accepted.margin == pytest.approx(0.5, abs=1e-4)
    assert [stage.name for stage in found.result.stages].count("certificate") == 1


def test_a_solvers_word_stays_its_word_where_no_certificate_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    case = random_case(3, most=7)
    prop = claim(case.graph, case.prop, 50.0)

    def answer(subject: Subject, prop: Property, settings: Settings, progress: object) -> Result:
        word = settings.method == "milp"
        verdict, reason = (Verdict.VERIFIED, "") if word else (Verdict.UNKNOWN, "time")
        return Result(verdict, "", settings.method, 0.1, 1.0, 2.0, (), reason=reason, solver_word=word)

    monkeypatch.setattr(certified, "verify", answer)
    found = verify_certified(Subject(case.graph), prop, Settings("milp", device="cpu"))
    assert found.certificate is None and found.result.label == "VERIFIED (solver, uncertified)"


@pytest.mark.parametrize("norm", ["l1", "l2"])
@pytest.mark.parametrize("seed", range(6))
def test_balls_are_certified(seed: int, norm: str) -> None:
    """The claim lies between what holds in the ball, by sampling, and what holds in the box around it."""
    generator = torch.Generator().manual_seed(seed)
    graph = mlp(generator, (4, 6, 6, 3))
    region = ball(torch.rand(4, generator=generator).numpy(), exact([0.4])[0], norm)
    row, inner = torch.tensor([[1.0, -1.0, 0.5]], dtype=torch.float64), region.inner_box(torch.float64)
    points = inner.select(torch.zeros(4000, dtype=torch.long)).project(
        torch.rand(4000, 4, generator=generator).double()
    )
    values = graph(points) @ row.T
    least, spread = float(values.min()), float(values.max() - values.min())
    prop = Property(region, (HalfSpaces(row, torch.tensor([0.3 * spread - least]).double()),))
    found = verify_certified(Subject(graph), prop, Settings(timeout=30, device="cpu"))
    assert found.certificate is not None, found.result.reason
    proved = found.certificate
    accepted = check(proved.content, proved.model, proved.statement, "exact")
    assert accepted.semantics.startswith("float32") and 0 <= accepted.margin <= 0.3 * spread


def test_several_boxes_with_splits_of_neurons(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of two boxes needs a search, so that slopes and lemmas are by box; the statement is one file."""
    monkeypatch.setattr(strategy.stages, "BranchAndBound", lambda: SPLITS["neurons"])
    case = random_case(12, most=7)
    region = case.prop.region
    middle = (region.lower + region.upper) / 2
    halves = (Region(region.lower, middle), Region(middle, region.upper))
    props = [claim(case.graph, replace(case.prop, region=half), 1e-2) for half in halves]

    def search(settings: Settings) -> tuple[Result, list[tuple[Property, Proof | None]]]:
        results = [strategy.verify(Subject(case.graph), prop, settings) for prop in props]
        return results[-1], [(prop, result.proof) for prop, result in zip(props, results, strict=True)]

    statement = vnnlib(*props).encode()
    found = certified.with_certificate(Subject(case.graph), statement, search, Settings(timeout=30, device="cpu"))
    assert found.certificate is not None, found.result.reason
    accepted = check(found.certificate.content, found.certificate.model, statement, "exact")
    assert accepted.semantics.startswith("float32") and 0 <= accepted.margin <= 1e-2
    with pytest.raises(Refused):
        check(found.certificate.content, found.certificate.model, vnnlib(*props[::-1]).encode(), "exact")


def test_a_tree_that_takes_too_long_to_check_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    case = random_case(3, most=7)
    monkeypatch.setattr(certified, "GRACE", -1.0)
    found = verify_certified(Subject(case.graph), claim(case.graph, case.prop, 1e-2), Settings(timeout=5, device="cpu"))
    assert found.result.verdict is Verdict.UNKNOWN and "no time left to check" in found.result.reason


def test_merged_networks_are_certified() -> None:
    graph = with_copies(0)
    region = Region(*(exact(torch.full((4,), side).numpy()) for side in (-0.5, 0.5)))
    unsafe = HalfSpaces(torch.tensor([[1.0, -1.0, 0.0]], dtype=torch.float64), torch.zeros(1, dtype=torch.float64))
    prop = Property(region, (unsafe,))
    points = torch.rand(2000, 4, dtype=torch.float64) - 0.5
    least = float(unsafe.margin(graph(points)).min())
    prop = Property(region, (HalfSpaces(unsafe.C, unsafe.d - least + 1.0),))
    found = verify_certified(Subject(graph), prop, Settings(timeout=30, device="cpu"))
    assert found.certificate is not None and b'"merge":1' in found.certificate.content
    proved = found.certificate
    assert check(proved.content, proved.model, proved.statement, "exact").semantics.startswith("float32")


def test_what_has_no_certificate_is_unknown_and_says_why() -> None:
    """The weight 0.1 is no float32 number, and ONNX models hold float32 numbers."""
    builder = GraphBuilder((2,))
    builder.add(Linear(torch.tensor([[0.1, 1.0]], dtype=torch.float64), torch.ones(1, dtype=torch.float64)), 0)
    region = Region(*(exact(torch.full((2,), side).numpy()) for side in (0.0, 0.5)))
    prop = Property(region, (HalfSpaces(torch.ones(1, 1).double(), torch.zeros(1).double()),))
    found = verify_certified(Subject(builder.finish()), prop, Settings(timeout=5, device="cpu"))
    assert found.result.verdict is Verdict.UNKNOWN and found.certificate is None
    assert "no float32 numbers" in found.result.reason and "--uncertified" in found.result.reason


def test_a_model_file_is_its_own_statement() -> None:
    """An ONNX export is the same whenever it is made, so that a certificate about it stays checkable."""
    model = load(MODELS / "digits_mlp.pt")
    assert model.stored is None and model.onnx() == load(MODELS / "digits_mlp.pt").onnx()
