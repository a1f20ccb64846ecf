"""Numbers that are none, decimals that no float equals, boxes without points, and parts of the tool that lie."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from fractions import Fraction
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from corpora import onnx_model
from families import FAMILIES, claim_within
from puzzles import Puzzle, Subject, judged, network
from torch import Tensor

from verifier.bounds.alpha import Alpha
from verifier.bounds.crown import Crown
from verifier.bounds.interval import IntervalBounds
from verifier.bounds.lp import LpBounds
from verifier.certificate import checker
from verifier.certificate.checker import Refused
from verifier.certified import verify_certified
from verifier.errors import ModelError, SpecificationError, VerifierError
from verifier.load import load
from verifier.program import LinearProgram, Solution, SolveOptions, Status
from verifier.search import inputs
from verifier.solvers.highs import Highs
from verifier.spec.property import Region, exact
from verifier.spec.vnnlib import parse
from verifier.strategy import METHODS, Settings, verify
from verifier.types import Bounds
from verifier.verdict import Verdict

HOW = (*METHODS, "certified")
TENTH = "0.1"
NUMBERS = (math.nan, math.inf, -math.inf, 1e300, -1e300, 0.0)


# --- Weights. ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_no_numbers_prove_and_refute_nothing(value: float) -> None:
    for place in range(4):
        for method in METHODS:
            layers = [(np.eye(2), np.zeros(2)), (np.ones((1, 2)), np.ones(1))]
            layers[place // 2][place % 2].flat[0] = value
            prop = claim_within([(np.ones((1, 2)), np.ones(1))], exact(np.zeros(2))).prop
            try:
                result = verify(Subject(network(layers)), prop, Settings(method=method, timeout=0.5, device="cpu"))
            except VerifierError:
                continue
            assert result.verdict is Verdict.UNKNOWN, f"{method}: {result.verdict}"


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_files_with_weights_that_are_no_numbers_are_refused(value: float, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(onnx_model((1, 1), [("MatMul", ["x", np.full((1, 1), value, np.float32)], {})]))
    with pytest.raises(ModelError, match="NaN"):
        load(path)


@pytest.mark.parametrize("method", HOW)
def test_zeros_of_either_sign_are_the_same(method: str) -> None:
    for zero in (0.0, -0.0):
        layers = [(np.array([[zero], [1.0]]), np.array([zero, -zero])), (np.array([[zero, -zero]]), np.array([zero]))]
        tie = claim_within(layers, exact(np.array([zero])))
        assert not tie.safe and judged(tie, method) is not Verdict.VERIFIED
        above = replace(tie, shift=2.0**-149, safe=True)
        assert judged(above, method) is not Verdict.FALSIFIED


# --- Decimals and boxes. ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("method", HOW)
@pytest.mark.parametrize("sign", [1, -1])
def test_a_point_that_float32_does_not_hold(sign: int, method: str) -> None:
    """x - c at the tenth that the file means is -1.5e-9, and 0 where float32 reads x: neither alone decides."""
    near = float(np.float32(0.1))
    layers = [(np.full((1, 1), 1.0 * sign), np.array([-near * sign]))]
    tenth = np.array([Fraction(TENTH)], dtype=object)
    puzzle = Puzzle(layers, tenth, tenth, 1e-9 * sign, sign < 0, tenth)
    assert puzzle.safe == (puzzle.margin(tenth) > 0)
    single = Fraction(float(Subject(puzzle.graph).native(np.float32([[0.1]]))[0, 0])) + Fraction(puzzle.shift)
    assert (single <= 0) == puzzle.safe
    assert judged(puzzle, method) is not (Verdict.FALSIFIED if puzzle.safe else Verdict.VERIFIED)
    if not puzzle.safe:
        assert judged(puzzle, method) is Verdict.UNKNOWN


def test_empty_boxes_are_errors_and_prove_nothing() -> None:
    low, high = exact(np.array([0.5])), exact(np.array([0.25]))
    with pytest.raises(SpecificationError, match="empty"):
        Region(low, high)
    text = (
        "(declare-const X_0 Real)(declare-const Y_0 Real)(assert (>= X_0 0.5))(assert (<= X_0 0.25))(assert (<= Y_0 0))"
    )
    with pytest.raises(SpecificationError, match="empty"):
        parse(text).properties((1,), 1)
    puzzle = claim_within([(np.ones((1, 1)), np.array([8.0]))], exact(np.zeros(1)))
    certificate = verify_certified(puzzle.subject, puzzle.prop, Settings(device="cpu")).certificate
    assert certificate is not None
    with pytest.raises(Refused):
        checker.check(certificate.content, certificate.model, text.encode())


# --- Parts that lie. --------------------------------------------------------------------------------------------------
Poison = Callable[[Tensor], Tensor]
POISONS: dict[str, Poison] = {
    "nan": lambda x: torch.full_like(x, math.nan),
    "some nan": lambda x: torch.where(torch.arange(x.numel()).view(x.shape) % 2 == 0, math.nan, x),
    "a row of nan": lambda x: torch.cat((torch.full_like(x[..., :1], math.nan), x[..., 1:]), -1),
}


def misled(puzzle: Puzzle, method: str) -> Verdict:
    """The verdict about a false claim, or UNKNOWN for an error of ours."""
    try:
        return judged(puzzle, method, timeout=0.3)
    except VerifierError:
        return Verdict.UNKNOWN


@pytest.mark.parametrize(("method", "poison"), product(HOW, POISONS))
def test_nan_in_bounds_proves_no_false_claim(method: str, poison: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the rows' bounds or in those of hidden neurons, of every bound method."""
    spoil = POISONS[poison]
    for rows in (True, False):
        for cls in (IntervalBounds, Crown, Alpha, LpBounds):
            with monkeypatch.context() as patch:
                patch.setattr(cls, "__call__", spoiled(cls.__call__, spoil, rows))
                for seed in (1, 3):
                    assert misled(FAMILIES["close"](seed), method) is not Verdict.VERIFIED


def spoiled(compute: Callable[..., Bounds], spoil: Poison, rows: bool) -> Callable[..., Bounds]:
    def call(*args: Any, **options: Any) -> Bounds:
        bounds = compute(*args, **options)
        if rows:
            return replace(bounds, lower=spoil(bounds.lower), upper=spoil(bounds.upper))
        nodes = {j: replace(z, lower=spoil(z.lower), upper=spoil(z.upper)) for j, z in bounds.nodes.items()}
        return replace(bounds, nodes=nodes)

    return call


@pytest.mark.parametrize("poison", POISONS)
def test_nan_in_the_bounds_of_subdomains_proves_no_false_claim(poison: str, monkeypatch: pytest.MonkeyPatch) -> None:
    compute, spoil = inputs.symbolic_bounds, POISONS[poison]

    def call(*args: Any) -> Any:
        found = compute(*args)
        return replace(found, linear=spoil(found.linear))

    monkeypatch.setattr(inputs, "symbolic_bounds", call)
    for seed in (1, 3, 5):
        assert misled(FAMILIES["close"](seed), "bab") is not Verdict.VERIFIED


def lies(draw: np.random.Generator, program: LinearProgram) -> Solution:
    """An answer without regard to the program."""
    m, n = program.matrix.shape

    def numbers(size: int) -> np.ndarray:
        values = draw.normal(size=size) * 10.0 ** draw.integers(-3, 4)
        if draw.random() < 0.5:
            values[int(draw.integers(size)) if size else 0 :] = draw.choice(NUMBERS)
        return values

    x = numbers(n) if draw.random() < 0.7 else None
    duals = numbers(m) if draw.random() < 0.7 else None
    value, bound = (float(draw.choice([*NUMBERS, 1.0, 1e-3])) for _ in "ab")
    statuses = [Status.OPTIMAL, Status.OPTIMAL, Status.INFEASIBLE, Status.CUTOFF, Status.TARGET, Status.TIME_LIMIT]
    return Solution(statuses[int(draw.integers(len(statuses)))], value, bound, x, duals)


@pytest.mark.parametrize("method", ["lp", "bab", "auto", "milp", "certified"])
def test_a_lying_solver_proves_no_false_claim(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither its multipliers nor its points nor its word; but `milp` passes its word on as such."""
    draw = np.random.default_rng(0)

    def answers(
        self: Highs, program: LinearProgram, costs: Iterable[np.ndarray], options: SolveOptions, start: Any
    ) -> Iterator[Solution]:
        for _ in costs:
            yield lies(draw, program)

    monkeypatch.setattr(Highs, "_answers", answers)
    for seed in range(1, 41, 2):
        assert misled(FAMILIES["close"](seed), method) is not Verdict.VERIFIED
