"""The batched cascade against brute force and against the answers of `strategy.verify`, one by one."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import brute_force
import pytest
import torch
from nets import ACTIVATIONS, Native, conv, mlp, residual

from verifier.batch.cascade import cascade
from verifier.batch.problem import Batch, Problem, lead_rows
from verifier.batch.records import FALSIFIED, UNKNOWN, VERIFIED, Case, Record, decoded
from verifier.batch.remainder import search
from verifier.data import Dataset, load_dataset
from verifier.graph import GraphBuilder
from verifier.load import load
from verifier.ops.affine import Linear
from verifier.ops.relu import ReLU
from verifier.spec.property import exact
from verifier.strategy import Question, Settings, verify

ROOT = Path(__file__).parents[2]


def answers(problem: Problem, cases: list[Case], method: str = "auto") -> dict[Case, Record]:
    """All that the cascade and, for what it leaves open, the search say."""
    parts = cascade(problem, cases, method, time.monotonic() + 60)
    found = [record for part in parts for record in part]
    assert sorted(record.case for record in found) == sorted(cases)
    if method == "auto":
        left = [search(problem, record.case, Settings()) for record in found if record.verdict == UNKNOWN]
        found = [record for record in found if record.verdict != UNKNOWN] + left
    return {record.case: record for record in found}


def tiny(seed: int) -> tuple[Problem, list[Case]]:
    """A random network with 8 inputs of random labels at random radii."""
    generator = torch.Generator().manual_seed(seed)
    activation = ACTIVATIONS[seed % len(ACTIVATIONS)]
    kind = seed % 3
    if kind == 0:
        graph = mlp(generator, (3, 5, 4, 3), activation)
    elif kind == 1:
        graph = residual(generator, 3, 4, 3, activation)
    else:
        graph = mlp(generator, (2, 6, 2), activation)
    x = torch.rand(8, *graph.input_shape, generator=generator)
    labels = graph.to(torch.float32)(x).argmax(1)
    labels[0] = (labels[0] + 1) % graph.output_shape[0]
    data = Dataset("tiny", x, labels, graph.output_shape[0])
    return Problem(Native(graph), data), [Case(i, eps) for i in range(8) for eps in ("0.02", "0.15")]


@pytest.mark.parametrize("seed", range(9))
def test_verdicts_agree_with_brute_force(seed: int) -> None:
    problem, cases = tiny(seed)
    for case, record in answers(problem, cases).items():
        truth = brute_force.worst(problem.subject.graph, problem.property(case)).margin
        assert record.verdict == (VERIFIED if truth > 0 else FALSIFIED), (case, truth)
        assert record.proved is None or record.proved <= truth + 1e-7
        assert record.found is None or record.found >= truth - 1e-5


def test_every_counterexample_is_one_and_lies_in_its_ball() -> None:
    kinds = set()
    for seed in range(4):
        problem, cases = tiny(seed)
        for record in answers(problem, cases).values():
            if record.verdict == FALSIFIED:
                x = problem.data.images[record.index].numpy()
                point = x if record.point is None else decoded(record.point, x.shape)
                assert abs(exact(point) - exact(x)).max() <= Fraction(record.eps)
                assert problem.subject.native(point[None])[0].argmax() != record.label
                kinds.add(record.point is None)
    assert kinds == {True, False}


@pytest.mark.parametrize(("name", "eps", "count"), [("digits_mlp", "0.04", 16), ("digits_conv", "0.06", 16)])
def test_verdicts_are_those_of_verify(name: str, eps: str, count: int) -> None:
    model, data = load(ROOT / "models" / f"{name}.pt"), load_dataset("digits")
    problem = Problem(model, data)
    found = answers(problem, [Case(i, eps) for i in range(count)])
    for case, record in found.items():
        assert record.verdict == verify(model, problem.property(case)).verdict.name
    assert {record.verdict for record in found.values()} == {VERIFIED, FALSIFIED}


@pytest.mark.parametrize("norm", ["l2", "l1"])
def test_other_norms_are_decided_as_verify_does(norm: str) -> None:
    model, data = load(ROOT / "models" / "digits_mlp.pt"), load_dataset("digits")
    problem = Problem(model, data, norm)
    for case, record in answers(problem, [Case(i, "0.4") for i in range(6)], "crown").items():
        single = verify(model, problem.property(case), Settings(method="crown"))
        assert record.verdict == single.verdict.name
        if record.stage == "crown":
            assert record.proved == pytest.approx(single.proved, rel=1e-6)


@pytest.mark.parametrize("method", ["interval", "crown", "alpha"])
def test_one_method_alone_proves_what_it_proves_for_one_input(method: str) -> None:
    model, data = load(ROOT / "models" / "digits_conv.pt"), load_dataset("digits")
    problem, cases = Problem(model, data), [Case(i, "0.05") for i in range(9)]
    for case, record in answers(problem, cases, method).items():
        single = verify(model, problem.property(case), Settings(method=method))
        assert set(record.stages) <= {"predict", method}
        assert record.verdict == single.verdict.name or (method == "alpha" and record.verdict == UNKNOWN)
        if method != "alpha" and record.stage == method:
            assert record.proved == pytest.approx(single.proved, rel=1e-6)


def test_the_company_of_a_case_does_not_change_its_bounds() -> None:
    model, data = load(ROOT / "models" / "digits_conv.pt"), load_dataset("digits")
    problem, cases = Problem(model, data), [Case(i, eps) for i in range(10) for eps in ("0.01", "0.08")]
    together = answers(problem, cases, "crown")
    for case in cases:
        alone = answers(problem, [case], "crown")[case]
        assert together[case].verdict == alone.verdict
        assert together[case].unstable == alone.unstable
        if alone.proved is not None:
            assert together[case].proved == pytest.approx(alone.proved, rel=1e-9)


def test_a_network_that_answers_nan_is_never_verified() -> None:
    generator = torch.Generator().manual_seed(0)
    graph = mlp(generator, (3, 4, 3))
    huge = replace(graph.nodes[1].op, weight=graph.nodes[1].op.weight * 1e300 * 1e8)  # type: ignore[attr-defined]
    nodes = (graph.nodes[0], replace(graph.nodes[1], op=huge), *graph.nodes[2:])
    data = Dataset("tiny", torch.rand(4, 3, generator=generator), torch.zeros(4, dtype=torch.long), 3)
    problem = Problem(Native(replace(graph, nodes=nodes)), data)
    for part in cascade(problem, [Case(i, "0.1") for i in range(4)], "auto", math.inf):
        assert all(record.verdict != VERIFIED for record in part)


def test_nothing_is_begun_after_the_deadline() -> None:
    problem, cases = tiny(0)
    [part] = cascade(problem, cases, "auto", -math.inf)
    assert {record.verdict for record in part} == {UNKNOWN}
    assert {record.case for record in part} == set(cases)


def test_lead_rows_leave_out_the_label() -> None:
    rows = lead_rows(torch.tensor([0, 2]), 3)
    assert rows.tolist() == [[[1, -1, 0], [1, 0, -1]], [[-1, 0, 1], [0, -1, 1]]]


def test_convolutions_and_dense_layers_agree_with_brute_force() -> None:
    generator = torch.Generator().manual_seed(5)
    graph = conv(generator, 3)
    x = torch.rand(3, 1, 4, 4, generator=generator)
    data = Dataset("tiny", x, graph.to(torch.float32)(x).argmax(1), 3)
    problem = Problem(Native(graph), data)
    for case, record in answers(problem, [Case(i, "0.05") for i in range(3)]).items():
        truth = brute_force.worst(graph, problem.property(case)).margin
        assert record.verdict == (VERIFIED if truth > 0 else FALSIFIED)


def test_what_rounding_may_do_counts_in_the_network_as_loaded() -> None:
    """Merging twin neurons cancels their constant of 1e12; the network as loaded computes with it."""
    builder = GraphBuilder((2,))
    first = builder.add(Linear(torch.ones(2, 2, dtype=torch.float64), torch.full((2,), 1e12, dtype=torch.float64)), 0)
    outer = torch.tensor([[1.0, -1.0], [0.0, 0.0]], dtype=torch.float64)
    builder.add(Linear(outer, torch.tensor([0.01, 0.0], dtype=torch.float64)), builder.add(ReLU(), first))
    graph = builder.finish()
    problem = Problem(Native(graph), Dataset("twins", torch.full((1, 2), 0.5), torch.tensor([0]), 2))
    assert sum(node.size for node in problem.graph.nodes) < sum(node.size for node in problem.loaded.nodes)
    prop = problem.property(Case(0, "0.1"))
    alone = Question(problem.subject, prop, Settings(), math.inf, problem.graph, torch.full((1,), -math.inf))
    allowed = float(Batch(problem, [Case(0, "0.1")]).allowance)
    assert allowed >= alone.allowance > 1e-5


def test_errors_are_those_of_every_input_alone() -> None:
    model, data = load(ROOT / "models" / "digits_conv.pt"), load_dataset("digits")
    problem, cases = Problem(model, data), [Case(i, eps) for i in range(4) for eps in ("0.01", "0.2")]
    together = Batch(problem, cases).allowance
    alone = torch.cat([Batch(problem, [case]).allowance for case in cases])
    assert together.shape == (8, 1) and torch.allclose(together, alone, rtol=1e-9, atol=0)
    assert bool((together[::2] < together[1::2]).all())
