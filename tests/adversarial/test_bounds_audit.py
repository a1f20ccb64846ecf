"""Bounds at the ends of what floats hold: beyond 2^1024, below 2^-1074, and where values of activations are cut off."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from bare import ARITHMETICS, Claim, answers, bare, chain, model, node, statement
from claims import Arrays
from forgery import about, packed

from verifier.certificate import checker
from verifier.certificate.analysis import Analysis
from verifier.certificate.checker import Refused
from verifier.certificate.exact import Exact
from verifier.certificate.nodes import Node
from verifier.certificate.reading import Network
from verifier.certificate.relaxation import relaxed
from verifier.certificate.rounded import Rounded

TINY = Fraction(2) ** -1000
POINT = {name: np.zeros(1) for name in ("kind.0", "position.0", "point.0")}  # a tree of one leaf
NO_SLOTS = {"slots": np.zeros((3, 0)), "codes": np.zeros((0, 0))}


def answer(claim: Claim, arrays: Arrays, arithmetic: str, recompute: bool = False) -> str:
    """What the checker says of a certificate with one leaf about one set of one row: "" when it accepts."""
    content, text = claim
    leaf = {**POINT, "weights.0": np.ones((1, 1)), "code.0": np.zeros(1), "extra.0": np.zeros(0)}
    header = {"semantics": "real", "merge": 0, "refine": [0], "recompute": [int(recompute)]}
    certificate = packed(about(header, content, text.encode()), {**NO_SLOTS, **leaf, **arrays})
    try:
        checker.check(certificate, content, text.encode(), arithmetic, sample=0)
    except Refused as error:
        return str(error)
    return ""


# --- Numbers that are too large. --------------------------------------------------------------------------------------
@pytest.mark.parametrize("arithmetic", ARITHMETICS)
def test_bounds_for_unsafe_inputs_beyond_what_floats_hold(arithmetic: str) -> None:
    """y = 1.6e38 relu(x) from 1.6e308 on; y - 1.7e308 + 2e37 x is at least 1e307, the sum of its parts is no float."""
    net = model([node("Relu", ["x"], ["a"]), node("Mul", ["a", "w"])], [1], w=1.6e38)
    stated = {"target.s0": np.zeros((4, 1)), "weights.s0": np.ones((1, 1)), "code.s0": np.zeros(1)}
    for side, true in ((1e270, False), (1.08e270, True)):
        claim = net, statement([(side, 1.1e270)], "(<= Y_0 1.7e308)")
        assert (answer(claim, {**stated, "extra.s0": np.array([2e37])}, arithmetic) == "") == true


@pytest.mark.parametrize("name", ["LeakyRelu", "PRelu"])
def test_slopes_that_lead_beyond_where_activations_are_cut(name: str) -> None:
    """-9e294 with a slope of 1e10 is -9e304; of values as large as that nothing is claimed."""
    step = node(name, ["x"], alpha=1e10) if name == "LeakyRelu" else node(name, ["x", "slope"])
    net = model([step], [1], slope=1e10)
    assert all(answers((net, statement([(-1e295, -9e294)], "(<= Y_0 -1e304)")), "real"))
    assert "" in answers((net, statement([(-1e285, -9e284)], "(<= Y_0 -1.01e295)")), "real")


# --- Numbers that are too small. --------------------------------------------------------------------------------------
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("arithmetic", ARITHMETICS)
def test_a_coefficient_between_floats_with_a_steep_line(arithmetic: str, recompute: bool) -> None:
    """y = 0.75 * 2^-1074 relu(x) at x = 1, where lines of slope 2^200 are stated."""
    steps = [node("Relu", ["x"], ["a"]), node("Mul", ["a", "w"], ["b"]), *chain("b", *[("Mul", "t")] * 8)]
    net = model(steps, [1], w=1.5 * 2.0**-75, t=2.0**-125)
    slots = {"slots": np.array([[0, 0], [0, 0], [0, 1]]), "codes": np.zeros((1, 2)), "code.0": np.ones(1)}
    lines = {**slots, "spans": np.full((2, 2), 2.0**200)}
    assert answer((net, statement([(1, 1)], "(<= Y_0 1e-265)")), lines, arithmetic, recompute)
    assert not answer((net, statement([(1, 1)], "(<= Y_0 -1e-235)")), lines, arithmetic, recompute)


def test_large_coefficients_of_tiny_inputs_that_cancel() -> None:
    """(-2^54 - 2 + 2^54 + 1) x = -x, of which a sum in float64 makes x; what is lost counts, though x is 2^-1030."""
    net, c = model([node("MatMul", ["x", "w"])], [1, 1], w=np.ones((1, 6), np.float32)), 2**947
    orders = ([-(2**54), -2, 2**54, 1, 0, 0], [0, 0, 1, 2**54, -2, -(2**54)], [-(2**54), 2**54, -2, 1, 0, 0])
    for numbers, true in (*((order, False) for order in orders), ([1, 2, 3, 4, 5, 6], True)):
        forms = " ".join(f"(* {number * c} Y_{i})" for i, number in enumerate(numbers))
        claim = net, statement([(2.0**-1030, 2.0**-1030)], f"(<= (+ {forms}) 0)", outputs=6)
        for recompute in (False, True):
            certificate, accepted = bare(claim, "real", recompute, False), True
            try:
                checker.check(certificate, claim[0], claim[1].encode(), "rounded", sample=0)
            except Refused:
                accepted = False
            assert accepted == true


def test_rounding_that_underflows_is_paid_with_constants() -> None:
    """Five sums of three products: coefficients of each input add up five, and lines of any slope may multiply them."""
    weight = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)
    network = Network(model([node("MatMul", ["x", "w"])], [1, 3], w=weight))
    for size in (2.0**-1040, 2.0**-1022, 2.0**-300, 1.0):
        box = (np.full((1, 3), -size), np.full((1, 3), size))
        low, high = Analysis(network, Rounded, False, {"refine": []}).bounds(box).constants[2]
        for i, column in enumerate(weight.T.tolist()):
            paid = Fraction(2) ** -53 * (5 + 1) * sum(abs(Fraction(x)) for x in column) * Fraction(size)
            assert Fraction(high[0, i]) >= paid and Fraction(low[0, i]) <= -paid


# --- One activation, by fractions. ------------------------------------------------------------------------------------
def drawn(draw: np.random.Generator, count: int, low: int, high: int) -> np.ndarray:
    """Numbers of either sign and any magnitude between powers of two."""
    return draw.choice([-1, 1], count) * np.ldexp(1 + draw.random(count), draw.integers(low, high, count))


def one_of(x: float) -> np.ndarray:
    return np.array([[x]], dtype=float)


@pytest.mark.parametrize("arithmetic", [Exact, Rounded])
@pytest.mark.parametrize("seed", range(2))
def test_what_an_activation_costs_at_every_magnitude(seed: int, arithmetic: type[Exact | Rounded]) -> None:
    """v act(z) >= cost + s z, but for TINY times the sizes of z and act(z)."""
    draw, checked = np.random.default_rng(seed), 0
    for _ in range(1500):
        left = float(draw.choice([0, 0, -1, 0.5, *drawn(draw, 1, -40, 128)]))
        act = Node("LeakyRelu" if left else "Relu", 1, breaks=(0.0,), parameters=(left, -1e300, 1e300))
        middle, steep = int(draw.choice([-1060, -1030, -1000, -300, 0, 300])), int(draw.choice([1, 500]))
        l, u = np.sort(drawn(draw, 2, max(middle - 20, -1074), middle + 20)).tolist()
        slopes = np.where(draw.random(2) < 0.3, draw.choice([0, 0.5, 1], 2), drawn(draw, 2, -3 * steep, steep))
        v = Fraction(float(drawn(draw, 1, *((990, 1020) if draw.random() < 0.5 else (-10, 10)))[0]))
        number = one_of(float(v))
        if arithmetic is Exact and draw.random() < 0.5:  # numbers that float64 does not hold
            v, low = Fraction(int(draw.integers(1, 50))), int(draw.integers(-1090, -1070))
            number, v = (np.array([[int(v)]], dtype=object), low), v * Fraction(2) ** low  # type: ignore[assignment]
        own = arithmetic(10)
        with np.errstate(all="ignore"):
            lines = relaxed(own, act, one_of(l), one_of(u), np.array([*map(one_of, slopes)]), None, False)
            try:
                cost, s = own.through(number, lines)
                total, slope = own.fractions(cost)[0], Fraction(float(s[0, 0]))
            except (Refused, ValueError, OverflowError):
                continue
        for z in (Fraction(l), Fraction(u), *([Fraction(0)] if l < 0 < u else [])):
            y = z if z >= 0 else Fraction(left) * z
            slack = TINY * (1 + abs(z) + abs(y) + Fraction(max(-l, u)))
            assert v * y >= total + slope * z - slack, (l, u, left, slopes)
        checked += 1
    assert checked > 1000
