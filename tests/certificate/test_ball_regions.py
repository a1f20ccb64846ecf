"""Bounds over the meeting of a box and an l1 or l2 ball: against points of it, and against a second solver."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from certified import ARITHMETICS, Files, bounds, flat_proof, row_bounds
from nets import mlp
from scipy.optimize import linprog, minimize

from verifier.attack.exact import exact_output
from verifier.certificate import checker
from verifier.certificate.balls import rounded, share
from verifier.certificate.checker import Refused
from verifier.certificate.properties import Ball, read_property
from verifier.certificate.statement import vnnlib
from verifier.certificate.writer import write
from verifier.graph import GraphBuilder
from verifier.ops.affine import Linear
from verifier.spec.property import HalfSpaces, Property, exact
from verifier.spec.robustness import ball

NORMS = {1: "l1", 2: "l2"}


def ball_files(seed: int, norm: int, linear: bool = False, inputs: int = 5) -> Files:
    """A small net and the meeting of a ball with the data range, one unsafe set a row."""
    draw, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    graph = mlp(generator, (inputs, 9, 7, 2))
    if linear:
        builder = GraphBuilder((inputs,))
        builder.add(Linear(torch.randn(2, inputs, generator=generator), torch.randn(2, generator=generator)), 0)
        graph = builder.finish()
    x = draw.choice([0.0, 1.0, 0.1, 0.5, 0.9], inputs).astype(np.float32)
    region = ball(x, Fraction(str(draw.choice([0.05, 0.3, 0.8, 1.7]))), NORMS[norm])
    sets = [HalfSpaces(row[None], torch.zeros(1).double()) for row in torch.eye(2).double()]
    prop = Property(region, tuple(sets))
    return Files(graph, prop, Files.of(graph, prop).model, vnnlib(prop).encode())


def points(files: Files, norm: int, count: int, draw: np.random.Generator) -> list[np.ndarray]:
    """Exact points of the region, many of them on its border."""
    region, found = files.prop.region, []
    lower, upper = (np.array(side, dtype=object) for side in (region.lower, region.upper))
    centre = np.array([files.statements[0].region.ball.centre[i] for i in range(lower.size)], dtype=object)  # type: ignore[union-attr]
    limit = files.statements[0].region.ball.limit  # type: ignore[union-attr]
    while len(found) < count:
        way = exact(draw.standard_normal(lower.size) * draw.choice([0.0, 0.2, 1.0], lower.size))
        size = sum(abs(w) ** norm for w in way)
        if size:
            scale = Fraction(float(limit / size) ** (1 / norm)) * Fraction(999999, 1000000)
            x = np.minimum(np.maximum(centre + way * scale, lower), upper)
            assert sum(abs(w) ** norm for w in x - centre) <= limit
            found.append(x)
    return found


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("seed", range(10))
def test_bounds_hold_at_points_of_the_ball(seed: int, norm: int) -> None:
    """Evaluated exactly, without any tolerance; and the ball makes the first layer's bounds no wider."""
    files, draw = ball_files(seed, norm), np.random.default_rng(seed)
    outputs = [exact_output(files.graph, x) for x in points(files, norm, 40, draw)]
    found = []
    for arithmetic in ARITHMETICS:
        analysis = files.analysis(arithmetic)
        lows = [row_bounds(analysis, s)[0] for s in files.statements]
        assert all(low <= y[i] for y in outputs for i, low in enumerate(lows))
        found.append([float(low) for low in lows])
        first, box = analysis.network.activations[0], files.analysis(arithmetic, ball=False)
        tight, loose = (bounds(a, files.statements[0]).z[first] for a in (analysis, box))
        assert (tight[0] >= loose[0]).all() and (tight[1] <= loose[1]).all()
    assert found[0] == pytest.approx(found[1], abs=1e-8)


def least(c: np.ndarray, files: Files, norm: int) -> float:
    """The least value of c . x over the region, by a linear program or by sequential quadratic programming."""
    region = files.statements[0].region
    lower, upper = (np.array([float(x) for x in side]) for side in (region.lower, region.upper))
    assert region.ball is not None
    centre, limit = np.array([float(region.ball.centre[i]) for i in range(len(c))]), float(region.ball.limit)
    if norm == 1:  # x = centre + a - b
        ways = [(0, way) for way in (*(upper - centre), *(centre - lower))]
        moved = linprog(np.concatenate((c, -c)), np.ones((1, 2 * len(c))), [limit], bounds=ways)
        return float(c @ centre + moved.fun)
    ball = {"type": "ineq", "fun": lambda x: limit - ((x - centre) ** 2).sum(), "jac": lambda x: -2 * (x - centre)}
    box = list(zip(lower, upper, strict=True))
    done = minimize(lambda x: c @ x, centre, jac=lambda x: c, bounds=box, constraints=[ball], options={"ftol": 1e-14})
    return float(done.fun)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("seed", range(12))
def test_linear_forms_have_their_least_value(seed: int, norm: int) -> None:
    """Of a network without activations the bound is the minimum."""
    files = ball_files(seed, norm, linear=True)
    for arithmetic in ARITHMETICS:
        analysis = files.analysis(arithmetic)
        layer = next(node for node in analysis.network.nodes if node.op == "affine")
        for i, s in enumerate(files.statements):
            truth = least(layer.weight.array[0][:, i], files, norm) + float(layer.bias[0, i])
            assert float(row_bounds(analysis, s)[0]) == pytest.approx(truth, abs=1e-6)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("seed", range(6))
def test_claims_about_balls(seed: int, norm: int) -> None:
    """Accepted as far as the bounds of the ball go, which is further than those of its box, and no further."""
    files = ball_files(seed, norm)
    low = [row_bounds(files.analysis(single=True), s)[0] for s in files.statements]
    for lift, accepted in ((1e-6, True), (-1e-6, False)):
        sets = tuple(
            HalfSpaces(s.C, torch.tensor([lift - float(bound)], dtype=torch.float64))
            for s, bound in zip(files.prop.unsafe, low, strict=True)
        )
        prop = Property(files.prop.region, sets)
        claim = Files(files.graph, prop, files.model, vnnlib(prop).encode())
        certificate = write(claim.model, claim.text, flat_proof(claim))
        for arithmetic in ("exact", "rounded"):
            if accepted:
                found = checker.check(certificate, claim.model, claim.text, arithmetic)
                assert found.margin == pytest.approx(lift, abs=2e-7)
            else:
                with pytest.raises(Refused, match="is not proved"):
                    checker.check(certificate, claim.model, claim.text, arithmetic)


def test_radii_are_rounded_up() -> None:
    for limit in (Fraction(1, 3), Fraction(2), Fraction(1, 10**40), Fraction(0), Fraction("0.25")):
        for norm in (1, 2):
            found = rounded(Ball(norm, {0: Fraction(1, 3)}, limit), 2)
            assert Fraction(found.radius) ** norm >= limit
            assert Fraction(found.radius) ** norm <= limit * (1 + Fraction(1, 2**50))
            assert Fraction(found.low[0, 0]) < Fraction(1, 3) < Fraction(found.high[0, 0]) and not found.counts[0, 1]


def test_what_is_nan_stays_nan() -> None:
    """The share of the ball may be anything, but does not hide NaN: the box pays v minus it."""
    v, side = np.array([[[np.nan, 1.0]]]), np.ones((1, 2))
    for norm in (1, 2):
        round = rounded(Ball(norm, {0: Fraction(0), 1: Fraction(0)}, Fraction(1)), 2)
        with np.errstate(all="ignore"):
            assert np.isnan((v - share(v, -side, side, round))[0, 0, 0])


@pytest.mark.parametrize(
    "ball",
    [
        "(<= (+ (abs (- X_0 0.5)) (abs (- X_0 0.5))) 1)",
        "(<= (+ (abs (- X_0 0.5)) (* (- X_1 0.5) (- X_1 0.5))) 1)",
        "(<= (+ (abs (- Y_0 0.5))) 1)",
        "(<= (+ (abs (- X_0 X_1))) 1)",
        "(<= (+ (abs (+ X_0 0.5))) 1)",
        "(<= (+ (abs (- X_0 0.5))) -1)",
        "(<= (+ (* (- X_0 0.5) (- X_0 0.25))) 1)",
        "(>= (+ (abs (- X_0 0.5))) 1)",
        "(or (<= (+ (abs (- X_0 0.5))) 1))",
    ],
)
def test_other_balls_are_refused(ball: str) -> None:
    files = ball_files(0, 1)
    text = "\n".join(line for line in files.text.decode().splitlines() if "abs" not in line)
    assert read_property(text, 5, 2)[0].region.ball is None
    with pytest.raises(Refused):
        read_property(f"{text}\n(assert {ball})", 5, 2)
    with pytest.raises(Refused, match="several"):
        read_property(f"{files.text.decode()}\n(assert (<= (+ (abs (- X_0 0.5))) 1))", 5, 2)


def test_a_ball_of_some_inputs_leaves_the_others_to_the_box() -> None:
    files = ball_files(0, 2)
    lines = [line for line in files.text.decode().splitlines() if "(* (- X_0" not in line]
    text = "\n".join([*lines, "(assert (<= (* (- X_1 0.5) (- X_1 0.5)) 0.01))"])
    region = read_property(text, 5, 2)[0].region
    assert region.ball is not None and list(region.ball.centre) == [1]
    v = np.array([[[1.0, 1.0, -1.0, 2.0, 0.0]]])
    q = share(v, np.full((1, 5), -1.0), np.full((1, 5), 2.0), rounded(region.ball, 5))
    assert q.tolist() == [[[0, 1, 0, 0, 0]]]
