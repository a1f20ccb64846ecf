"""`verify`: its verdicts against brute force, and what it must never say."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from fractions import Fraction

import brute_force
import numpy as np
import pytest
import torch
from nets import Native, linear, mlp, random_case, residual, samples

from verifier import solvers, strategy
from verifier.attack.pgd import Pgd
from verifier.attack.replay import replay
from verifier.bounds.alpha import Alpha
from verifier.bounds.balance import balanced
from verifier.bounds.interval import propagate
from verifier.encoding import Encoding
from verifier.errors import InputError, SolverError, SolverUnavailableError, SpecificationError
from verifier.graph import Graph, GraphBuilder
from verifier.ops.affine import Linear
from verifier.ops.powers import Square
from verifier.ops.product import QuarterDifference, SumDifference
from verifier.ops.relu import ReLU
from verifier.program import Solution, SolveOptions, Status
from verifier.spec.property import HalfSpaces, Property, Region, exact
from verifier.spec.robustness import ball, local_robustness
from verifier.strategy import METHODS, Settings, verify
from verifier.types import Bounds, Interval
from verifier.verdict import Result, Verdict

CLEAR = 1e-5  # margins closer to zero may be left open


def answer(graph: Graph, prop: Property, method: str = "auto", **settings) -> Result:
    return verify(Native(graph), prop, Settings(method=method, device="cpu", **settings))


def check_counterexample(graph: Graph, prop: Property, result: Result) -> None:
    assert result.counterexample is not None and result.counterexample.dtype == np.float32
    assert prop.region.contains(result.counterexample)
    assert replay(Native(graph).native, graph, prop, result.counterexample).accepted
    assert result.found <= 0


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("seed", range(12))
def test_verdicts_agree_with_brute_force(seed: int, method: str) -> None:
    case = random_case(seed, most=7)
    truth = brute_force.worst(case.graph, case.prop).margin
    result = answer(case.graph, case.prop, method)
    assert result.proved <= truth + 1e-6 and result.found >= truth - 1e-6
    if result.verdict is Verdict.VERIFIED:
        assert truth > 0 and result.proved > 0
    elif result.verdict is Verdict.FALSIFIED:
        assert truth <= 0
        check_counterexample(case.graph, case.prop, result)
    else:
        assert result.reason and result.counterexample is None
    if method == "milp" and truth > CLEAR:
        assert result.verdict is Verdict.VERIFIED
    if method in ("auto", "milp") and truth < -CLEAR:
        assert result.verdict is Verdict.FALSIFIED


@pytest.mark.parametrize("solver", ["highs", "cvxpy", "pulp", "scipy"])
@pytest.mark.parametrize("method", ["lp", "milp"])
def test_solvers_agree(method: str, solver: str) -> None:
    for seed in (0, 4, 10):
        case = random_case(seed, most=7)
        reference = answer(case.graph, case.prop, method)
        result = answer(case.graph, case.prop, method, solver=solver)
        assert result.verdict is reference.verdict


def robustness(seed: int, norm: str, target: int | None, eps: str = "0.1") -> tuple[Graph, Property]:
    generator = torch.Generator().manual_seed(seed)
    graph = residual(generator, 3, 5, 3)
    x = torch.rand(3, generator=generator).numpy()
    label = int(graph(torch.from_numpy(x).double().unsqueeze(0)).argmax())
    other = None if target is None else (label + target) % 3
    return graph, local_robustness(x, label, eps, norm, other, classes=3)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("target", [None, 1])
@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_no_sample_contradicts_a_verdict(norm: str, target: int | None, method: str) -> None:
    verdicts = set()
    for seed in range(6):
        graph, prop = robustness(seed, norm, target, "0.25")
        if norm == "l2" and method in ("lp", "milp"):
            # The centre alone may settle it; otherwise the method is refused.
            if answer(graph, prop).verdict is not Verdict.FALSIFIED:
                with pytest.raises(SpecificationError, match="l2 ball has no linear encoding"):
                    answer(graph, prop, method)
            continue
        result = answer(graph, prop, method)
        verdicts.add(result.verdict)
        box = prop.region.box()
        points = samples(box.lower, box.upper, 3000)[0]
        if norm != "linf":
            points = box.select(torch.zeros(len(points), dtype=torch.long)).project(points)
        least = float(prop.margin(graph(points)).min())
        assert result.proved <= least + 1e-9
        if result.verdict is Verdict.VERIFIED:
            assert least > 0
        if result.verdict is Verdict.FALSIFIED:
            check_counterexample(graph, prop, result)
    if method == "auto":
        assert {Verdict.VERIFIED, Verdict.FALSIFIED} <= verdicts


def open_question(region: Region, sizes: tuple[int, ...]) -> tuple[Graph, Property]:
    """A claim just below the least margin that attacks find, which bounds are far from proving."""
    graph = mlp(torch.Generator().manual_seed(0), sizes)
    row = torch.tensor([[1.0, -1.0]], dtype=torch.float64)
    # The attack stops at a margin below zero, hence the thousand.
    least = float(Pgd(restarts=20)(graph, region.box(), lambda y: y[:, 0] - y[:, 1] + 1000).margin) - 1000
    proved = float(Alpha()(graph, region.box(), row.unsqueeze(0)).lower)
    claim = least - 0.05 * (least - proved)
    return graph, Property(region, (HalfSpaces(row, torch.tensor([-claim], dtype=torch.float64)),))


WITHOUT_SEARCH = ("predict", "interval", "attack", "crown", "restarts", "milp")


def test_auto_passes_over_what_it_cannot_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """An l2 ball has no MILP: the cascade says so and answers by what it has."""
    monkeypatch.setattr(strategy.cascade, "CASCADE", WITHOUT_SEARCH)
    graph, prop = open_question(ball(np.full(4, 0.5, np.float32), Fraction(1, 2), "l2"), (4, 30, 30, 2))
    result = answer(graph, prop)
    assert result.verdict is Verdict.UNKNOWN and "the best bound" in result.reason
    assert result.stages[-1].name == "milp" and "passed over: an l2 ball" in result.stages[-1].remark


@dataclass(frozen=True)
class Says:
    """A bound method that returns one number everywhere."""

    value: float

    def __call__(self, graph: Graph, box: Interval, C: torch.Tensor) -> Bounds:
        bounds = torch.full(C.shape[:2], self.value, dtype=torch.float64)
        return Bounds(bounds, bounds, {})


@pytest.mark.parametrize("value", [math.nan, -math.inf, 0.0, -1.0, 1e-300])
def test_a_bound_that_is_not_above_rounding_proves_nothing(value: float, monkeypatch: pytest.MonkeyPatch) -> None:
    graph, prop = robustness(0, "linf", None, "0.01")
    monkeypatch.setitem(strategy.STAGES, "crown", strategy.bound_stage(lambda question: Says(value)))
    assert answer(graph, prop, "crown").verdict is Verdict.UNKNOWN


def test_a_bound_that_is_nan_does_not_replace_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    graph, prop = robustness(0, "linf", None, "0.25")
    for name in ("crown", "alpha"):
        monkeypatch.setitem(strategy.STAGES, name, strategy.bound_stage(lambda question: Says(math.nan)))
    monkeypatch.setattr(strategy.cascade, "CASCADE", ("interval", "crown", "alpha"))
    result, interval = answer(graph, prop), answer(graph, prop, "interval")
    assert result.verdict is Verdict.UNKNOWN and result.proved == interval.proved > -math.inf


@pytest.mark.parametrize("method", METHODS)
def test_overflowing_weights_prove_nothing(method: str) -> None:
    """Values around 1e400 are infinite in float64: every comparison has to reject them."""
    builder = GraphBuilder((2,))
    x = builder.add(Linear(torch.full((2, 2), 1e200, dtype=torch.float64), None), 0)
    x = builder.add(Linear(torch.full((2, 2), 1e200, dtype=torch.float64), None), builder.add(ReLU(), x))
    builder.add(Linear(torch.tensor([[1e30, 1.0], [1.0, 1.0]], dtype=torch.float64), None), builder.add(ReLU(), x))
    graph = builder.finish()
    prop = local_robustness(np.array([0.5, 0.5], dtype=np.float32), 0, "0.1", classes=2)
    if method in ("lp", "milp"):
        with pytest.raises(SolverError, match="holds a NaN"):
            answer(graph, prop, method)
    else:
        assert answer(graph, prop, method).verdict is Verdict.UNKNOWN


@pytest.mark.parametrize("method", METHODS)
def test_eps_zero_is_a_question_about_one_point(method: str) -> None:
    graph, prop = robustness(3, "linf", None, "0")
    assert answer(graph, prop, method).verdict is Verdict.VERIFIED
    x, label = prop.region.origin.astype(np.float32), int(prop.about[-1])
    wrong = local_robustness(x, (label + 1) % 3, "0", classes=3)
    result = answer(graph, wrong, method)
    assert result.verdict is Verdict.FALSIFIED and result.stage == "predict"
    np.testing.assert_array_equal(result.counterexample, x)


def test_ties_count_against_the_claim() -> None:
    builder = GraphBuilder((1,))
    builder.add(Linear(torch.ones(2, 1), None), 0)
    prop = local_robustness(np.array([0.5], dtype=np.float32), 0, "0", classes=2)
    result = answer(builder.finish(), prop)
    assert result.verdict is not Verdict.VERIFIED and result.found == 0.0


def test_no_time_is_unknown_and_says_so() -> None:
    graph, prop = robustness(0, "linf", None, "0.05")
    for method in METHODS:
        result = answer(graph, prop, method, timeout=1e-9)
        assert result.verdict is Verdict.UNKNOWN and "time limit" in result.reason


def test_a_timeout_in_the_milp_is_unknown_in_time() -> None:
    """Sixty neurons twice over the whole range, and a claim just below what attacks find: seconds do not suffice."""
    graph, prop = open_question(Region(exact(np.zeros(10)), exact(np.ones(10))), (10, 60, 60, 2))
    result = answer(graph, prop, "milp", timeout=2.0)
    assert result.verdict is Verdict.UNKNOWN and result.reason == "the time limit of 2 s was reached"
    assert result.stages[-1].name == "milp" and 1.5 < result.seconds < 4.0


def test_a_program_that_is_written_too_late_is_not_solved(monkeypatch: pytest.MonkeyPatch) -> None:
    graph, prop = open_question(Region(exact(np.zeros(10)), exact(np.ones(10))), (10, 60, 60, 2))
    encode = strategy.stages.encode

    def slow(*args: object) -> Encoding:
        time.sleep(0.3)
        return encode(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(strategy.stages, "encode", slow)
    result = answer(graph, prop, "milp", timeout=0.2)
    assert result.verdict is Verdict.UNKNOWN and "time limit" in result.reason


def test_milp_alone_rests_on_the_solvers_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strategy.cascade, "CASCADE", WITHOUT_SEARCH)
    for seed in range(40):
        case = random_case(seed, most=7)
        if answer(case.graph, case.prop, "lp").verdict is Verdict.UNKNOWN:
            result = answer(case.graph, case.prop, "milp")
            if result.verdict is Verdict.VERIFIED:
                assert result.solver_word and result.label == "VERIFIED (solver, uncertified)"
                cautious = answer(case.graph, case.prop)
                assert cautious.verdict is Verdict.UNKNOWN and "a solver's word is no proof" in cautious.reason
                assert not cautious.solver_word
                return
    pytest.fail("no seed needs the MILP: choose others")


def test_a_proof_by_bounds_is_no_solvers_word() -> None:
    graph, prop = robustness(3, "linf", None, "0")
    result = answer(graph, prop, "milp")
    assert result.label == "VERIFIED (uncertified)" and not result.solver_word


@dataclass
class Claims:
    """A solver that answers every MILP alike and lets HiGHS do the rest."""

    answer: Solution

    def solve(self, program, options: SolveOptions | None = None, start=None) -> Solution:
        return self.answer


@pytest.mark.parametrize(
    "lie",
    [
        Solution(Status.INFEASIBLE, math.inf, math.inf),
        Solution(Status.OPTIMAL, math.nan, math.nan),
        Solution(Status.FAILED),
        Solution(Status.TIME_LIMIT),
    ],
    ids=lambda lie: lie.status.name,
)
@pytest.mark.parametrize("method", ["auto", "milp"])
def test_impossible_answers_of_a_solver_are_no_claim(lie: Solution, method: str, monkeypatch) -> None:
    """Some margin always exists, so that "infeasible" is an error of the solver, and NaN is no bound."""
    case = unsafe_case()
    monkeypatch.setattr(solvers, "get", lambda name: Claims(lie))
    monkeypatch.setattr(strategy.cascade, "CASCADE", ("interval", "milp"))
    assert answer(case.graph, case.prop, method).verdict is Verdict.UNKNOWN


def test_a_false_claim_of_a_solver_never_verifies_in_auto(monkeypatch) -> None:
    case = unsafe_case()
    monkeypatch.setattr(solvers, "get", lambda name: Claims(Solution(Status.OPTIMAL, 5.0, 5.0)))
    monkeypatch.setattr(strategy.cascade, "CASCADE", ("interval", "milp"))
    assert answer(case.graph, case.prop).verdict is Verdict.UNKNOWN
    assert answer(case.graph, case.prop, "milp").label == "VERIFIED (solver, uncertified)"


def unsafe_case():
    """A case whose centre is safe although some input is not."""
    for seed in range(60):
        case = random_case(seed, most=7)
        box = case.prop.region.box()
        if float(case.prop.margin(case.graph(box.center))) > 0 > brute_force.worst(case.graph, case.prop).margin:
            return case
    raise AssertionError("choose other seeds")


@pytest.mark.parametrize("small", [1e-8, 1e-12, 1e-20])
@pytest.mark.parametrize("method", METHODS)
def test_badly_scaled_weights_never_verify_wrongly(small: float, method: str) -> None:
    """relu(small x), then a factor 1 / small: the output is x, so that `x > 0.25` fails at x = 0.2."""
    builder = GraphBuilder((1,))
    x = builder.add(Linear(torch.tensor([[small], [-small]], dtype=torch.float64), None), 0)
    x = builder.add(Linear(torch.tensor([[1 / small, -1 / small]], dtype=torch.float64), None), builder.add(ReLU(), x))
    graph = builder.finish()
    region = Region(exact(np.array([-1.0])), exact(np.array([1.0])))
    row = torch.ones(1, 1, dtype=torch.float64)
    for threshold, safe in ((-0.25, False), (0.999, False), (1.001, True), (1.5, True)):
        prop = Property(region, (HalfSpaces(row, torch.tensor([threshold], dtype=torch.float64)),), "y > -threshold")
        result = answer(graph, prop, method)
        assert result.verdict is not (Verdict.FALSIFIED if safe else Verdict.VERIFIED)
        if method == "auto" and not safe:
            check_counterexample(graph, prop, result)


def scaled(graph: Graph, factors: list[float]) -> Graph:
    """An MLP with the neurons of hidden layer k times factors[k], which the next layer takes back."""
    layers = [node.op for node in graph.nodes if isinstance(node.op, Linear)]
    builder, x, before = GraphBuilder(graph.input_shape), 0, 1.0
    for layer, factor in zip(layers, [*factors, 1.0], strict=True):
        x = builder.add(Linear(layer.weight * factor / before, layer.bias * factor), builder.add(ReLU(), x) if x else x)
        before = factor
    return builder.finish()


def permuted(graph: Graph, seed: int) -> Graph:
    """An MLP with the neurons of every hidden layer in another order."""
    layers = [node.op for node in graph.nodes if isinstance(node.op, Linear)]
    generator = torch.Generator().manual_seed(seed)
    builder, x, before = GraphBuilder(graph.input_shape), 0, torch.arange(graph.input_shape[0])
    for k, layer in enumerate(layers):
        order = torch.arange(len(layer.bias))
        if k < len(layers) - 1:
            order = torch.randperm(len(order), generator=generator)
        op = Linear(layer.weight[order][:, before], layer.bias[order])
        x = builder.add(op, builder.add(ReLU(), x) if x else x)
        before = order
    return builder.finish()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("seed", range(3))
def test_powers_of_two_and_permutations_change_nothing(seed: int, method: str) -> None:
    generator = torch.Generator().manual_seed(seed)
    graph = mlp(generator, (3, 6, 5, 3))
    x = torch.rand(3, generator=generator).numpy()
    label = int(graph(torch.from_numpy(x).double().unsqueeze(0)).argmax())
    prop = local_robustness(x, label, "0.1", classes=3)
    reference = answer(graph, prop, method)
    twins = [scaled(graph, [2.0**k, 2.0**-k]) for k in (-30, -3, 5, 40)] + [permuted(graph, s) for s in range(2)]
    for twin in twins:
        torch.testing.assert_close(twin(torch.ones(1, 3).double()), graph(torch.ones(1, 3).double()))
        result = answer(twin, prop, method)
        assert result.verdict is reference.verdict
        # A cascade may stop in another stage once rounding differs; single methods give the same number.
        if method not in ("auto", "milp", "alpha"):
            assert result.proved == pytest.approx(reference.proved, abs=1e-7)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"method": "magic"}, InputError, "unknown method 'magic'.*auto, interval"),
        ({"timeout": 0.0}, InputError, "timeout must be a positive"),
        ({"timeout": math.nan}, InputError, "timeout must be a positive"),
        ({"solver": "abacus"}, SolverUnavailableError, "abacus.*highs"),
        ({"device": "abacus"}, InputError, "unknown device 'abacus'"),
    ],
)
def test_impossible_settings(settings: dict, error: type[Exception], message: str) -> None:
    graph, prop = robustness(0, "linf", None)
    with pytest.raises(error, match=message):
        verify(Native(graph), prop, Settings(**settings))


@pytest.mark.skipif(torch.cuda.is_available(), reason="CUDA is there")
def test_cuda_where_there_is_none() -> None:
    graph, prop = robustness(0, "linf", None)
    with pytest.raises(InputError, match="not available here: use --device cpu"):
        verify(Native(graph), prop, Settings(device="cuda"))


def test_a_property_of_another_network() -> None:
    graph, _ = robustness(0, "linf", None)
    with pytest.raises(SpecificationError, match=r"inputs of shape \(2,\), the network reads \(3,\)"):
        answer(graph, local_robustness(np.zeros(2, np.float32), 0, "0.1", classes=3))
    with pytest.raises(SpecificationError, match="about 4 outputs, the network has 3"):
        answer(graph, local_robustness(np.zeros(3, np.float32), 0, "0.1", classes=4))


def test_progress_and_reports_name_the_stages() -> None:
    graph, prop = robustness(3, "linf", None, "0")
    lines: list[str] = []
    result = verify(Native(graph), prop, Settings(device="cpu"), lines.append)
    assert [line.split()[0] for line in lines] == [stage.name for stage in result.stages]
    assert result.stage == result.stages[-1].name and result.about == prop.about
    assert sum(stage.seconds for stage in result.stages) <= result.seconds


def test_a_wide_layer_is_linear_in_its_weights() -> None:
    """A network without activations is decided exactly, whatever the method."""
    builder = GraphBuilder((2,))
    builder.add(linear(torch.Generator().manual_seed(0), 2, 2), 0)
    graph = builder.finish()
    op = graph.nodes[1].op
    assert isinstance(op, Linear) and op.bias is not None
    row = (op.weight[0] - op.weight[1]).numpy()
    shift = float(op.bias[0] - op.bias[1])
    x = np.array([0.5, 0.5], dtype=np.float32)
    center = float(row @ x) + shift
    label = 0 if center > 0 else 1
    radius = abs(center) / np.abs(row).sum()
    assert 0.01 < radius < 0.5
    for method in METHODS:
        for factor, verdict in ((0.99, Verdict.VERIFIED), (1.01, Verdict.FALSIFIED)):
            prop = local_robustness(x, label, Fraction(radius * factor), classes=2)
            found = answer(graph, prop, method).verdict
            assert found is verdict or (verdict is Verdict.FALSIFIED and method not in ("auto", "milp"))
            assert found is not (Verdict.VERIFIED if verdict is Verdict.FALSIFIED else Verdict.FALSIFIED)


def test_bounds_of_scaled_factors_say_nothing_of_the_unscaled_ones() -> None:
    """A factor 256 times wider than the other is scaled by a sixteenth: bounds of its sums hold in that form alone."""
    builder = GraphBuilder((2,))
    wide = builder.add(Linear(torch.tensor([[256.0, 0.0]]), torch.zeros(1)), 0)
    narrow = builder.add(Linear(torch.tensor([[0.0, 1.0]]), torch.zeros(1)), 0)
    both = builder.add(SumDifference(torch.ones(1)), wide, narrow)
    builder.add(QuarterDifference(), builder.add(Square(), both))
    graph = builder.finish().to(torch.float64)
    box = Region(exact(-np.ones(2)), exact(np.ones(2))).box()
    analysed = balanced(graph, box)
    _, known = propagate(analysed, box)
    _, plain = propagate(graph, box)
    found = strategy.question._transferred(known, analysed, graph)
    assert found is not None and strategy.question._transferred(known, analysed, analysed) == known
    for node, z in found.items():
        assert (z.lower <= plain[node].lower).all() and (z.upper >= plain[node].upper).all()
        assert (known[node].upper < plain[node].upper).all()
