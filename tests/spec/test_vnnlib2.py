"""VNN-LIB 2.0 says the same as version 1.0, and what goes beyond one network and a box is refused."""

from __future__ import annotations

import re
import sys
from fractions import Fraction
from pathlib import Path

import pytest

from verifier.errors import SpecificationError
from verifier.spec.property import Property
from verifier.spec.vnnlib import parse, read_vnnlib

HEAD = """; a comment
(vnnlib-version <2.0>)
(declare-network f
  (declare-input X float32 [1,2])
  (declare-output Out float32 [2,1])
)
"""
BOX = "(assert (and (>= X[0,0] 0.0) (<= X[0,0] 0.1) (>= X[0,1] -1.0) (<= X[0,1] 1.0)))\n"
OLD = (
    "(declare-const X_0 Real) (declare-const X_1 Real) (declare-const Y_0 Real) (declare-const Y_1 Real)"
    "(assert (and (>= X_0 0.0) (<= X_0 0.1) (>= X_1 -1.0) (<= X_1 1.0)))"
)


@pytest.fixture
def package() -> None:
    pytest.importorskip("vnnlib", reason="the package vnnlib is not installed: pip install 'verifier[vnnlib2]'")


def said(properties: tuple[Property, ...]) -> list:
    """Boxes and unsafe sets as plain numbers."""
    return [
        (p.region.lower.tolist(), p.region.upper.tolist(), [(s.C.tolist(), s.d.tolist()) for s in p.unsafe])
        for p in properties
    ]


SAME = {
    "<=": ("(<= Out[0,0] -2.5)", "(<= Y_0 -2.5)"),
    "two outputs": ("(>= Out[0,0] Out[1,0])", "(>= Y_0 Y_1)"),
    "sums": (
        "(<= (+ (* 2.0 Out[0,0]) (- Out[1,0]) 1.0) (- 4.0 Out[0,0] 0.1))",
        "(<= (+ (* 2.0 Y_0) (- Y_1) 1.0) (- 4.0 Y_0 0.1))",
    ),
    "nesting": (
        "(or (and (<= X[0,0] 0.05) (<= Out[0,0] 1.0)) (or (<= Out[1,0] 2.0) (<= Out[1,0] 3.0)))",
        "(or (and (<= X_0 0.05) (<= Y_0 1.0)) (or (<= Y_1 2.0) (<= Y_1 3.0)))",
    ),
    "equal": ("(== Out[0,0] 0.25)", "(and (<= Y_0 0.25) (>= Y_0 0.25))"),
}


@pytest.mark.parametrize("case", SAME)
def test_both_versions_say_the_same(case: str, package: None) -> None:
    new, old = SAME[case]
    found = parse(f"{HEAD}{BOX}(assert {new})").properties((2,), 2)
    assert said(found) == said(parse(f"{OLD}(assert {old})").properties((2,), 2))
    assert found[-1].region.upper[0] == Fraction(1, 10)


def test_a_file(package: None, tmp_path: Path) -> None:
    (tmp_path / "p.vnnlib").write_text(f"{HEAD}{BOX}(assert (<= Out[0,0] 0.0))")
    [prop] = read_vnnlib(tmp_path / "p.vnnlib", (1, 2), 2)
    assert prop.region.shape == (1, 2)


def test_names_and_comments(package: None) -> None:
    text = f"{HEAD}{BOX}(assert (<= Out[0,0] 0.0)) ; \u00e9t\u00e9"
    query = parse(text)
    assert query.network == "f" and (query.inputs, query.outputs) == (2, 2)
    assert [(v.name, v.kind, v.shape) for v in query.variables] == [
        ("X", "float32", (1, 2)), ("Out", "float32", (2, 1)),
    ]  # fmt: skip
    query = parse(
        text.replace("float32", "real").replace("Out[0,0] 0", "Out 0").replace("Out real [2,1]", "Out real []")
    )
    assert [(v.name, v.kind, v.shape) for v in query.variables] == [("X", "real", (1, 2)), ("Out", "real", ())]


REFUSED = {
    "syntax": (HEAD + "(assert (<= Out[0,0] ))", "syntax error at line 7"),
    "undeclared": (HEAD + "(assert (<= Z[0] 1.0))", "line 7: Undeclared variable: 'Z'"),
    "index": (HEAD + "(assert (<= Out[5,0] 1.0))", "line 7: Index out of bounds"),
    "strict": (HEAD + BOX + "(assert (< Out[0,0] 1.0))", "line 8: strict inequalities"),
    "not equal": (HEAD + BOX + "(assert (!= Out[0,0] 1.0))", "line 8: strict inequalities and != are not supported"),
    "non-linear": (HEAD + BOX + "(assert (<= (* Out[0,0] Out[1,0]) 1.0))", "line 8: non-linear term"),
    "mixed": (HEAD + BOX + "(assert (<= Out[0,0] X[0,0]))", "line 8: a relation between inputs and outputs"),
    "unbounded": (HEAD + "(assert (<= Out[0,0] 1.0))", "p.vnnlib: input X[0,0] is unbounded"),
    "negative index": (HEAD + BOX + "(assert (<= Out[0,-1] 1.0))", "line 8: Out has a negative index"),
    "huge index": (HEAD + BOX + f"(assert (<= Out[{'9' * 30},0] 1.0))", "a number or an index is out of range"),
    "long number": (HEAD + BOX + f"(assert (<= Out[0,0] {'9' * 5000}.0))", "line 8, column 22: '9999"),
    "long product": (HEAD + BOX + f"(assert (<= Out[0,0] (* {('9' * 290 + '.0 ') * 5000})))", "too many digits"),
    "exponent": (HEAD + BOX + "(assert (<= Out[0,0] 1e999999999))", "syntax error at line 8, column 22"),
    "deep": (HEAD + BOX + "(assert " + "(and " * 100_000, "line 8, column 1004: nested deeper"),
    "deep term": (HEAD + BOX + "(assert (<= " + "(- " * 100_000, "nested deeper"),
    "not ASCII": (HEAD + BOX + "(assert (<= Out[0,0] \u0663))", "line 8, column 22: '\u0663' is no word"),
    "not text": (HEAD + BOX + "\0", "line 8, column 1: '?' is no word"),
    "no assertion": (HEAD, "syntax error at line 6"),
    "version": (HEAD.replace("2.0", "3.0") + BOX, "line 2: Incompatible VNNLib version"),
    "declared twice": (HEAD.replace("Out", "X") + BOX, "line 5: Duplicate variable declaration: 'X'"),
    "other floats": (HEAD.replace("X float32", "X float64") + BOX, "input X holds F64 numbers; networks are read in"),
    "huge tensor": (HEAD.replace("[1,2]", "[99999999,99999999]") + BOX, "input X has 9999999800000001 numbers"),
    "crossed": (HEAD + BOX + "(assert (>= X[0,1] 2.0))", "line 7: the input box is empty"),
    "two inputs": (HEAD.replace("(declare-out", "(declare-input Z float32 [1])(declare-out") + BOX, "2 inputs; one is"),
    "whole numbers": (HEAD.replace("X float32", "X int32") + "(assert (<= X[0,0] 1))", "input X holds I32 numbers"),
    "two networks": (
        HEAD + "(declare-network g (declare-input A float32 [1]) (declare-output B float32 [1]))" + BOX,
        "2 networks (f, g)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refusals(case: str, package: None) -> None:
    text, reason = REFUSED[case]
    with pytest.raises(SpecificationError, match=r"^p\.vnnlib: " + ".*" + re.escape(reason.removeprefix("p.vnnlib: "))):
        parse(text, "p.vnnlib").properties((2,), 2)


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vnnlib", None)
    with pytest.raises(SpecificationError, match="package vnnlib, which is not installed: pip install"):
        parse(HEAD, "p.vnnlib")
