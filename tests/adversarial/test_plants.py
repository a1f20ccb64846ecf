"""Faults planted where they are known exactly, chains with gain, ties and borders: no wrong verdict by any way."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from bare import model, node, statement

from verifier.batch.query import answer, certified_answer
from verifier.load import load
from verifier.spec.vnnlib import parse
from verifier.strategy import Settings
from verifier.verdict import Verdict

WAYS = ("certified", "auto", "crown", "bab", "milp")


class Plant(NamedTuple):
    """A model, a statement, and whether it is true of real values, and of those that float32 computes."""

    content: bytes
    text: str
    real: bool
    single: bool


def dense(layers: list[tuple[Any, Any]]) -> bytes:
    """Layers with ReLUs between them."""
    nodes, stored, x = [], {}, "x"
    for i, (weight, bias) in enumerate(layers):
        stored |= {f"w{i}": np.float32(weight), f"b{i}": np.float32(bias)}
        nodes += [node("Relu", [x], [f"a{i}"])] if i else []
        nodes.append(node("Gemm", [f"a{i}" if i else x, f"w{i}", f"b{i}"], [f"z{i}"], transB=1))
        x = f"z{i}"
    return model(nodes, [1, np.shape(layers[0][0])[1]], **stored)


def backdoor(width: float, share: float) -> Plant:
    """A network above zero but for a corner: there, a neuron that is on nowhere else takes `share` of all away."""
    draw = np.random.default_rng(0)
    weight, bias, last = (draw.integers(-8, 9, shape) / 8 for shape in ((8, 6), 8, 8))
    corner = draw.choice([-1.0, 1.0], 6)
    high = float(np.abs(last).sum() * (np.abs(weight).sum(1).max() + 1) + 1)
    value = float(last @ np.maximum(weight @ corner + bias, 0) + high)
    first = (np.vstack((weight, corner)), np.append(bias, width - 6))
    net = dense([first, ([[*last, -np.ceil(value * share / width)]], [high])])
    sides = [(x, x) if share < 1 else (-1, 1) for x in corner]  # what is left is not known but at the corner
    return Plant(net, statement(sides, "(<= Y_0 0)"), share < 1, share < 1)


def cancelled(constant: float, claimed: str, real: bool) -> Plant:
    """Twenty neurons, each there twice with weights of opposite signs, and a constant that float32 loses among them."""
    draw = np.random.default_rng(1)
    weight, bias, last = (draw.normal(size=shape).astype(np.float32) for shape in ((20, 5), 20, 20))
    last *= np.float32(1e4)
    layers = [(np.vstack((weight, weight)), np.append(bias, bias)), ([[*last, *-last]], [constant])]
    return Plant(dense(layers), statement([(-1, 1)] * 5, claimed), real, False)


def tents(depth: int, claimed: str, real: bool, sides: tuple[float, float]) -> Plant:
    """2 x - 4 relu(x - 1/2) of itself, so often: 2^depth pieces between 0 and 1."""
    nodes, x = [], "x"
    for i in range(depth):
        steps = (("Sub", x, "h", "s"), ("Relu", "s", "", "r"), ("Mul", "r", "f", "q"), ("Mul", x, "t", "d"),
                 ("Sub", "d", "q", "y"))  # fmt: skip
        for op, one, two, made in steps:
            names = [one if one == x else f"{one}{i}", f"{two}{i}" if two == "q" else two]
            nodes.append(node(op, [name for name in names if name], [f"{made}{i}"]))
        x = f"y{i}"
    return Plant(model(nodes, [1], h=0.5, f=4.0, t=2.0), statement([sides], claimed), real, real)


def tie() -> Plant:
    """Two classes that always score the same."""
    draw = np.random.default_rng(2)
    net = dense([(draw.normal(size=(5, 4)), draw.normal(size=5)), (np.vstack((np.eye(5), np.eye(1, 5))), np.zeros(6))])
    return Plant(net, statement([(-0.1, 0.1)] * 4, "(<= Y_0 Y_5)", outputs=6), False, False)


def border(below: bool) -> Plant:
    """x < c where x <= 0.1: true of the float32 number closest to 0.1, which is larger; not of the one below."""
    c = np.float32(0.1)
    net = model([node("Sub", ["x", "c"])], [1], c=np.nextafter(c, np.float32(0)) if below else c)
    return Plant(net, statement([(0, 0.1)], "(>= Y_0 0)"), not below, False)


def fan_in(off: float) -> Plant:
    """A sum of 2,000 weights, whose float32 value depends on the order."""
    signs = np.resize([1.0, -1.0], 2000)
    weight = np.float32(signs * np.random.default_rng(3).uniform(0.5, 1, 2000))
    total = float(sum(Fraction(float(w)) for w in weight))
    return Plant(
        dense([(weight[None], [0.0])]), statement([(1, 1)] * 2000, f"(<= Y_0 {total + off:.12f})"), off < 0, False
    )


SECOND = (1.25 / 16, 1.75 / 16)  # of four tents, on a falling piece: from 3/4 to 1/4
PLANTS = {
    "a backdoor": lambda: backdoor(2.0**-3, 1.01),
    "a narrow backdoor": lambda: backdoor(2.0**-12, 1.01),
    "a backdoor that is not enough": lambda: backdoor(2.0**-6, 0.5),
    "neurons that cancel": lambda: cancelled(1e-3, "(<= Y_0 0)", True),
    "neurons that cancel to zero": lambda: cancelled(0.0, "(<= Y_0 0)", False),
    "tents, at the top": lambda: tents(4, "(>= Y_0 1)", False, (0, 1)),
    "tents, a piece": lambda: tents(4, "(>= Y_0 0.750001)", True, SECOND),
    "tents, the end of a piece": lambda: tents(4, "(>= Y_0 0.75)", False, SECOND),
    "more tents, the end of a piece": lambda: tents(12, "(>= Y_0 0.75)", False, (1.25 / 4096, 1.75 / 4096)),
    "a tie": tie,
    "a decimal below its float": lambda: border(below=False),
    "a decimal above a float": lambda: border(below=True),
    "a long sum": lambda: fan_in(-1e-9),
    "a long sum, reached": lambda: fan_in(1e-9),
}


@pytest.mark.parametrize("name", PLANTS)
def test_verdicts_on_what_is_planted_are_right(name: str, tmp_path: Path) -> None:
    content, text, real, single = PLANTS[name]()
    (tmp_path / "net.onnx").write_bytes(content)
    subject, query = load(tmp_path / "net.onnx"), parse(text)
    for way in WAYS:
        settings = Settings(timeout=1, device="cpu", method="auto" if way == "certified" else way)
        if way == "certified":
            found, evidence = certified_answer(subject, query, text.encode(), settings)
            if evidence.certificate is not None:
                assert single or not evidence.certificate.accepted.semantics.startswith("float32")
        else:
            found = answer(subject, query, settings)
        assert found.result.verdict is not (Verdict.FALSIFIED if real else Verdict.VERIFIED), f"{name} by {way}"
