"""VNN-LIB 1.0: facts by hand, random formulas against brute force, malformed texts, and the benchmarks' own files."""

from __future__ import annotations

import gzip
import os
import random
import re
from fractions import Fraction
from pathlib import Path

import numpy as np
import onnx
import pytest

from verifier.errors import InputError, SpecificationError
from verifier.spec.property import Property
from verifier.spec.vnnlib import Query, parse, read_query, read_vnnlib

BENCHMARKS = Path(os.environ.get("VERIFIER_DATA", Path(__file__).parents[3] / "shared" / "data")).parent / "benchmarks"
FILES = sorted(BENCHMARKS.glob("vnncomp/*/vnnlib/*.vnnlib.gz"))
HEAD = "(declare-const X_0 Real)\n(declare-const X_1 Real)\n(declare-const Y_0 Real)\n(declare-const Y_1 Real)\n"
BOX = "(assert (>= X_0 0)) (assert (<= X_0 1)) (assert (>= X_1 -1)) (assert (<= X_1 1))\n"


def properties(assertions: str, box: str = BOX) -> tuple[Property, ...]:
    return parse(HEAD + box + assertions).properties((2,), 2)


def rows(prop: Property) -> list[list[list[float]]]:
    """The unsafe sets as [C | d] rows."""
    return [[[*c, b] for c, b in zip(s.C.tolist(), s.d.tolist(), strict=True)] for s in prop.unsafe]


def test_one_box_and_one_half_space() -> None:
    [prop] = properties("(assert (<= Y_0 -2.5))")
    assert prop.region.lower.tolist() == [0, -1] and prop.region.upper.tolist() == [1, 1]
    assert rows(prop) == [[[1, 0, 2.5]]]


def test_a_conjunction_is_one_set_and_a_disjunction_several() -> None:
    [prop] = properties("(assert (>= Y_0 1)) (assert (<= Y_1 Y_0))")
    assert rows(prop) == [[[-1, 0, 1], [-1, 1, 0]]]
    [prop] = properties("(assert (or (and (>= Y_0 1) (<= Y_1 Y_0)) (<= Y_1 3)))")
    assert rows(prop) == [[[-1, 0, 1], [-1, 1, 0]], [[0, 1, -3]]]


def test_an_and_of_ors_is_multiplied_out() -> None:
    [prop] = properties("(assert (and (or (<= Y_0 1) (<= Y_0 2)) (or (<= Y_1 3) (<= Y_1 4))))")
    assert [[row[2] for row in s] for s in rows(prop)] == [[-1, -3], [-1, -4], [-2, -3], [-2, -4]]


def test_linear_terms_on_both_sides() -> None:
    [prop] = properties("(assert (<= (+ (* 2 Y_0) (- Y_1) 1) (- (* Y_1 (- 3) 2) 4 Y_0)))")
    assert rows(prop) == [[[3, 5, 5]]]  # 2 y0 - y1 + 1 <= -6 y1 - 4 - y0


def test_numbers_in_every_notation() -> None:
    [prop] = properties("(assert (and (<= Y_0 +.5) (<= Y_0 5.e-1) (<= Y_0 0.05E+1) (<= Y_0 -2) (>= Y_0 -0.0)))")
    assert rows(prop) == [[[1, 0, -0.5], [1, 0, -0.5], [1, 0, -0.5], [1, 0, 2], [-1, 0, 0]]]


def test_comments_and_odd_layout() -> None:
    text = f"; a comment (assert (<= Y_0 9))\r\n{HEAD};;\n{BOX}(assert(<=Y_0 1));end".replace("(<=Y_0", "(<= Y_0")
    [prop] = parse(text.replace("\n", "\r\n")).properties((2,), 2)
    assert rows(prop) == [[[1, 0, -1]]]


def test_decimals_of_the_box_are_exact() -> None:
    [prop] = properties("(assert (<= Y_0 0))", BOX + "(assert (<= X_0 0.1)) (assert (>= X_1 -1e-30))")
    assert prop.region.upper[0] == Fraction(1, 10) and prop.region.lower[1] == Fraction(-1, 10**30)
    assert not prop.region.contains(np.array([0.1, 0.0]))  # the float 0.1 lies above one tenth


def test_an_unsafe_set_only_grows_when_it_is_rounded() -> None:
    for relation, sign in (("<=", 1), (">=", -1)):
        for text in ("0.1", "-0.1", "0.3", "3.991125645861615", "1e-320"):
            [prop] = properties(f"(assert ({relation} Y_0 {text}))")
            [[[slope, _, d]]] = rows(prop)
            assert slope == sign
            assert -sign * Fraction(text) >= Fraction(d)  # C y + d <= 0 holds wherever the exact relation does
            assert abs(Fraction(d) + sign * Fraction(text)) <= Fraction(1, 10**15)


def test_coefficients_are_exact_up_to_a_factor() -> None:
    [prop] = properties("(assert (<= (+ (* 0.1 Y_0) (* -0.3 Y_1)) 0.7))")
    assert rows(prop) == [[[1, -3, -7]]]
    [prop] = properties("(assert (<= (* 0.5 Y_0) (* 0.25 Y_1)))")
    assert rows(prop) == [[[0.5, -0.25, 0]]]


def test_several_boxes_keep_their_own_unsafe_sets() -> None:
    found = properties(
        "(assert (or (and (<= X_0 0.25) (<= Y_0 1)) (and (>= X_0 0.5) (<= Y_0 2)) (and (<= X_0 0.25) (<= Y_0 3))))"
    )
    assert [(list(p.region.lower), list(p.region.upper)) for p in found] == [
        ([0, -1], [Fraction(1, 4), 1]),
        ([Fraction(1, 2), -1], [1, 1]),
    ]
    assert [rows(p) for p in found] == [[[[1, 0, -1]], [[1, 0, -3]]], [[[1, 0, -2]]]]
    assert "input box 2 of 2" in found[1].about


def test_of_several_boxes_empty_ones_ask_nothing() -> None:
    found = properties("(assert (or (<= X_0 0.25) (>= X_0 2))) (assert (<= Y_0 0))")
    assert [list(p.region.upper) for p in found] == [[Fraction(1, 4), 1]]


def test_assertions_about_numbers_alone() -> None:
    [prop] = properties("(assert (or (and (<= 2 1) (<= Y_0 1)) (and (<= 1 1) (<= Y_0 2))))")
    assert rows(prop) == [[[1, 0, -2]]]


def test_without_an_output_assertion_every_output_is_forbidden() -> None:
    [prop] = properties("")
    assert rows(prop) == [[[0, 0, 0]]]


def test_a_box_may_lie_in_an_image() -> None:
    [prop] = parse(HEAD + BOX + "(assert (<= Y_0 0))").properties((1, 2, 1))
    assert prop.region.shape == (1, 2, 1)
    assert prop.region.lower[0, 1, 0] == -1


# Random formulas, evaluated here from the tree they were written from.


class Written:
    """A random formula: its text, and its truth at exact points x and y."""

    def __init__(self, rng: random.Random, depth: int, letters: str) -> None:
        self.kind = rng.choice(["and", "or"]) if depth and rng.random() < 0.8 else rng.choice(["<=", ">="])
        if self.kind in ("and", "or"):
            letters_of = [rng.choice("XY") if letters == "XY" else letters for _ in range(rng.randint(1, 3))]
            self.parts = [Written(rng, depth - 1, "XY" if rng.random() < 0.5 else own) for own in letters_of]
            self.text = f"({self.kind} {' '.join(part.text for part in self.parts)})"
            return
        letter = rng.choice(letters)
        self.names = [f"{letter}_{rng.randint(0, 1)}"] if letter == "X" else ["Y_0", "Y_1"]
        self.slopes = [Fraction(rng.choice([-3, -2, -1, 1, 2, 3])) for _ in self.names]
        self.constant = Fraction(rng.randint(-8, 8), 4)
        terms = " ".join(f"(* {a} {name})" for a, name in zip(self.slopes, self.names, strict=True))
        self.text = f"({self.kind} (+ {terms}) {float(self.constant)})"

    def holds(self, values: dict[str, Fraction]) -> bool:
        if self.kind in ("and", "or"):
            return (all if self.kind == "and" else any)(part.holds(values) for part in self.parts)
        left = sum(a * values[name] for a, name in zip(self.slopes, self.names, strict=True))
        return left <= self.constant if self.kind == "<=" else left >= self.constant


def unsafe(found: tuple[Property, ...], x: list[Fraction], y: list[Fraction]) -> bool:
    """Whether the point lies in some box and one of its unsafe sets, exactly."""

    def below(row: list[float]) -> bool:
        return Fraction(row[0]) * y[0] + Fraction(row[1]) * y[1] + Fraction(row[2]) <= 0

    for prop in found:
        inside = all(low <= v <= high for low, v, high in zip(prop.region.lower, x, prop.region.upper, strict=True))
        if inside and any(all(map(below, s)) for s in rows(prop)):
            return True
    return False


@pytest.mark.parametrize("seed", range(60))
def test_normal_form_agrees_with_brute_force(seed: int) -> None:
    rng = random.Random(seed)
    formulas = [Written(rng, 3, "XY") for _ in range(rng.randint(1, 3))]
    query = parse(HEAD + BOX + "".join(f"(assert {formula.text})\n" for formula in formulas))
    try:
        found = query.properties((2,), 2)
    except SpecificationError as error:
        assert "empty" in str(error) or "contradict" in str(error)
        found = ()
    seen = set()
    for _ in range(200):
        x, y = ([Fraction(rng.randint(-6, 6), 4) for _ in range(2)] for _ in range(2))
        values = {"X_0": x[0], "X_1": x[1], "Y_0": y[0], "Y_1": y[1]}
        truth = 0 <= x[0] <= 1 and abs(x[1]) <= 1 and all(formula.holds(values) for formula in formulas)
        assert unsafe(found, x, y) == truth
        assert query.holds(np.array(x, dtype=float), np.array(y, dtype=float)) == truth
        seen.add(truth)
    assert False in seen


def test_random_formulas_are_true_somewhere() -> None:
    """Otherwise the comparison above would compare nothing."""
    hits = 0
    for seed in range(60):
        rng = random.Random(seed)
        formulas = [Written(rng, 3, "XY") for _ in range(rng.randint(1, 3))]
        for _ in range(200):
            x, y = ([Fraction(rng.randint(-6, 6), 4) for _ in range(2)] for _ in range(2))
            values = {"X_0": x[0], "X_1": x[1], "Y_0": y[0], "Y_1": y[1]}
            hits += all(formula.holds(values) for formula in formulas)
    assert hits > 1000


def test_a_counterexample_is_checked_against_the_exact_decimals() -> None:
    query = parse(HEAD + BOX + "(assert (<= Y_0 0.1))")
    y = np.array([0.1, 0.0])  # the float 0.1 lies above one tenth
    assert not query.holds(np.zeros(2), y)
    assert query.holds(np.zeros(2), np.nextafter(y, -1))
    assert not query.holds(np.array([2.0, 0.0]), np.zeros(2))
    assert not query.holds(np.zeros(2), np.array([np.nan, 0.0]))
    assert not query.holds(np.zeros(2), np.array([-np.inf, 0.0]))


CASES = {
    "cut short": ("(assert (<= Y_0 0)", (6, 19), "expected ')', found the end"),
    "one parenthesis too many": ("(assert (<= Y_0 0)))", (6, 20), "expected '(', found ')'"),
    "no formula": ("(assert Y_0)", (6, 9), "expected '(', found 'Y_0'"),
    "a third side": ("(assert (<= Y_0 0 1))", (6, 19), "expected ')', found '1'"),
    "unknown command": ("\n  (check-sat)", (7, 4), "unknown command 'check-sat'"),
    "unknown relation": ("(assert (= Y_0 0))", (6, 10), "unknown relation '='"),
    "unknown operator": ("(assert (<= (/ Y_0 2) 0))", (6, 14), "unknown operator '/'"),
    "empty or": ("(assert (or))", (6, 12), "found ')'"),
    "strict": ("(assert (or (<= Y_0 0)\n  (< Y_1 0)))", (7, 4), "strict inequality '<'"),
    "unknown variable": ("(assert (<= Y_2 0))", (6, 13), "unknown variable Y_2"),
    "used before it is declared": ("(assert (<= Y_2 0))(declare-const Y_2 Real)", (6, 13), "unknown variable Y_2"),
    "declared twice": ("(declare-const X_0 Real)", (6, 16), "X_0 is declared twice"),
    "not real": ("(declare-const Y_2 Int)", (6, 20), "Real"),
    "odd name": ("(declare-const Z_0 Real)", (6, 16), "cannot declare 'Z_0'"),
    "product of variables": ("(assert (<= (* Y_0 2 Y_1) 0))", (6, 14), "non-linear"),
    "square of a sum": ("(assert (<= (* (+ Y_0 1) (- Y_0 1)) 0))", (6, 14), "non-linear"),
    "not a number": ("(assert (<= Y_0 1.2.3))", (6, 17), "found '1.2.3'"),
    "NaN": ("(assert (<= Y_0 nan))", (6, 17), "found 'nan'"),
    "exponent beyond all measure": ("(assert (<= Y_0 1e-400000000))", (6, 17), "out of range"),
    "digits beyond all measure": (f"(assert (<= Y_0 0.{'1' * 5000}))", (6, 17), "out of range"),
    "a product beyond all measure": (f"(assert (<= Y_0 (* {'1e999 ' * 50_000})))", (6, 18), "too many digits"),
    "a factor beyond all measure": (f"(assert (<= (* Y_0 {'1e-999 ' * 50_000}) 0))", (6, 14), "too many digits"),
    "deep sum": (f"(assert (<= {'(+ ' * 50_000}", (6, 614), "nested deeper"),
    "bound beyond float32": ("(assert (<= X_0 1e39))", (6, 10), "too large"),
    "threshold beyond float32": ("(assert (<= Y_0 1e300))", (6, 10), "too large"),
    "unicode digits": ("(assert (<= Y_0 \u0663))", (6, 17), "expected a number"),
    "input and output": ("(assert (<= Y_0 X_0))", (6, 10), "inputs and outputs"),
    "two inputs": ("(assert (<= X_0 X_1))", (6, 10), "between inputs"),
    "crossed bounds": ("(assert (>= X_1 2))", (2, 16), "X_1 has the lower bound 2.0 above the upper bound 1.0"),
    "too many digits": ("(assert (<= Y_0 (* 1.2345678901234567891 Y_1)))", (6, 10), "too many digits"),
    "version of later files": ("(vnnlib-version <2.0>)", (6, 2), "unknown command 'vnnlib-version'"),
    "deep": (f"(assert {'(and ' * 300}", (6, 1010), "nested deeper"),
    "binary": ("\x00\x01(", (6, 1), "'??'"),
}


@pytest.mark.parametrize("case", CASES)
def test_malformed(case: str) -> None:
    text, (line, column), reason = CASES[case]
    with pytest.raises(SpecificationError) as caught:
        parse(HEAD + BOX + text, "p.vnnlib").properties((2,), 2)
    message = str(caught.value)
    assert message.startswith(f"p.vnnlib: line {line}, column {column}: ")
    assert reason in message and "\n" not in message and len(message) < 200


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (HEAD + BOX.replace("(assert (<= X_1 1))", ""), "line 2, column 16: input X_1 is unbounded: it has no upper"),
        (HEAD + "(assert (<= Y_0 0))", "line 1, column 16: input X_0 is unbounded"),
        (HEAD.replace("X_0", "X_2") + BOX.replace("X_0", "X_2"), "input X_0 is not declared"),
        ("(declare-const X_0 Real)", "output Y_0 is not declared"),
        ("", "the file is empty"),
        ("; nothing but a comment\n", "the file is empty"),
        (HEAD + BOX + "(assert (<= 1 0))", "contradict"),
        (HEAD + BOX + "(assert (or (<= Y_0 0) (<= Y_0 1) (<= Y_0 2)))" * 12, "531,441 cases"),
        (HEAD + BOX + "(assert (or (<= Y_0 0) (<= Y_0 1) (<= Y_0 2)))" * 99, "more than 10^12 cases"),
        (HEAD + BOX + f"(assert (or {'(and ' + '(or (<= Y_0 0) (<= Y_1 1))' * 16 + ')'}{' (<= Y_0 9)' * 65_000}))",
         "130,536 cases"),
    ],
)  # fmt: skip
def test_faults_of_the_whole_file(text: str, reason: str) -> None:
    with pytest.raises(SpecificationError, match=r"^p\.vnnlib: ") as caught:
        parse(text, "p.vnnlib").properties((2,), 2)
    assert reason in str(caught.value)


def test_sizes_other_than_the_networks() -> None:
    query = parse(HEAD + BOX, "p.vnnlib")
    with pytest.raises(SpecificationError, match=r"p\.vnnlib: states 2 inputs, the network reads 3"):
        query.properties((3, 1), 2)
    with pytest.raises(SpecificationError, match=r"p\.vnnlib: states 2 outputs, the network has 5"):
        query.properties((1, 2), 5)


def test_files(tmp_path: Path) -> None:
    text = (HEAD + BOX + "(assert (<= Y_0 0))").encode()
    plain, zipped = tmp_path / "p.vnnlib", tmp_path / "odd_name"
    plain.write_bytes(text)
    zipped.write_bytes(gzip.compress(text))
    assert [rows(p) for p in read_vnnlib(plain, (2,))] == [rows(p) for p in read_vnnlib(zipped, (2,), 2)]
    (tmp_path / "p.vnnlib.gz").write_bytes(text)  # the content tells, not the name
    assert read_query(tmp_path / "p.vnnlib.gz").inputs == 2
    zipped.write_bytes(b"\x1f\x8bno gzip")
    with pytest.raises(SpecificationError, match="odd_name: damaged or truncated gzip"):
        read_query(zipped)
    zipped.write_bytes(gzip.compress(text)[:40])
    with pytest.raises(SpecificationError, match="odd_name: damaged or truncated gzip"):
        read_query(zipped)
    for path in (tmp_path / "nowhere.vnnlib", tmp_path):
        with pytest.raises(InputError, match="cannot read the property"):
            read_query(path)


# The benchmarks' own files.


def sizes(path: Path) -> tuple[int, int]:
    """How many numbers the networks of this property's benchmark read and return, by onnx alone."""
    instances = (path.parents[1] / "instances.csv").read_text().splitlines()
    network = next(line.split(",")[0] for line in instances if line.split(",")[1] == f"vnnlib/{path.name}")
    graph = onnx.load_from_string(gzip.decompress((path.parents[1] / network).read_bytes())).graph
    stored = {tensor.name for tensor in graph.initializer}
    [entry] = [value for value in graph.input if value.name not in stored]
    counts = []
    for value in (entry, graph.output[0]):
        counts.append(int(np.prod([max(dim.dim_value, 1) for dim in value.type.tensor_type.shape.dim])))
    return counts[0], counts[1]


def check_file(path: Path) -> None:
    inputs, outputs = sizes(path)
    found = read_vnnlib(path, (inputs,), outputs)
    assert found and all(prop.unsafe for prop in found)
    for prop in found:
        assert prop.region.shape == (inputs,)
    # Every bound stands in the file as it is in the property.
    words = [word.strip("()") for word in gzip.decompress(path.read_bytes()).decode().split()]
    numbers = {Fraction(word) for word in words if re.fullmatch(r"-?[0-9]+(\.[0-9]+)?(e-?[0-9]+)?", word)}
    assert all(bound in numbers for prop in found for bound in (*prop.region.lower.flat, *prop.region.upper.flat))


needs_benchmarks = pytest.mark.skipif(not FILES, reason="the VNN-COMP benchmarks are not here: set VERIFIER_DATA")


@needs_benchmarks
@pytest.mark.parametrize("category", sorted({path.parents[1].name for path in FILES}))
def test_a_file_of_every_benchmark_fits_its_network(category: str) -> None:
    check_file(next(path for path in FILES if path.parents[1].name == category))


@needs_benchmarks
@pytest.mark.long
@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parents[1].name}/{path.name}")
def test_every_file_of_the_benchmarks_fits_its_network(path: Path) -> None:
    check_file(path)


def test_a_query_knows_its_name() -> None:
    query: Query = parse(HEAD, "some/where/p.vnnlib")
    assert (query.name, query.inputs, query.outputs) == ("p.vnnlib", 2, 2)
