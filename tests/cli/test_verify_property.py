"""`verify --property` on a network known by hand (see conftest): y0 and y1 are relu(x0), relu(x1)."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

Run = Callable[..., tuple[int, str, str]]

HEAD = "".join(f"(declare-const {name} Real)\n" for name in ("X_0", "X_1", "X_2", "X_3", "Y_0", "Y_1", "Y_2"))
BOX = "".join(f"(assert (>= X_{i} 0)) (assert (<= X_{i} 1))\n" for i in range(4))
SAFE = HEAD + BOX + "(assert (<= Y_0 -0.5))"  # relu is never negative
BROKEN = HEAD + BOX + "(assert (>= Y_1 0.75))"  # x1 = 1 does it
TWO = HEAD + BOX + "(assert (or (and (<= X_1 0.25) (>= Y_1 {})) (and (>= X_1 0.5) (<= Y_1 {}))))"


@pytest.fixture
def ask(run: Run, folder: Path) -> Run:
    """Write a property and ask for it."""

    def call(text: str, *argv: object) -> tuple[int, str, str]:
        (folder / "p.vnnlib").write_text(text)
        return run("verify", "known.onnx", "--property", "p.vnnlib", *argv)

    return call


def test_a_property_that_holds(ask: Run) -> None:
    code, out, err = ask(SAFE)
    assert (code, err) == (0, "")
    assert out.startswith("VERIFIED: no input that p.vnnlib allows has a forbidden output; the margin is at least 0.")
    assert float(re.search(r"at least ([0-9.]+) in float32 ", out)[1]) <= 0.5  # type: ignore[index]


def test_a_property_that_is_broken(ask: Run, folder: Path) -> None:
    code, out, err = ask(BROKEN)
    assert (code, err) == (1, "")
    assert out.startswith("FALSIFIED: an input that p.vnnlib allows has a forbidden output")
    values = dict(re.findall(r"^([XY]_\d) +(\S+)$", out, re.MULTILINE))
    assert len(values) == 7 and float(values["X_1"]) >= 0.75 and values["Y_1"] == values["X_1"]
    [file] = (folder / "verify_out").iterdir()
    assert f"written: verify_out/{file.name}" in out and file.read_text().startswith("((X_0 ")


def test_json_gives_the_counterexample_flat(ask: Run, folder: Path) -> None:
    code, out, err = ask(BROKEN, "--json")
    record = json.loads(out)
    assert (code, err, record["verdict"], record["property"]) == (1, "", "FALSIFIED", "p.vnnlib")
    x, y = record["counterexample"], record["outputs"]
    assert len(x) == 4 and len(y) == 3 and y[1] == x[1] >= 0.75
    assert len(record["cases"]) == 1 and not (folder / "verify_out").exists()


@pytest.mark.parametrize(
    ("high", "low", "code", "verdicts"),
    [
        (0.3, 0.4, 0, ["VERIFIED", "VERIFIED"]),
        (0.2, 0.4, 1, ["FALSIFIED"]),
        (0.3, 0.6, 1, ["VERIFIED", "FALSIFIED"]),
    ],
)
def test_every_box_must_hold(ask: Run, high: float, low: float, code: int, verdicts: list[str]) -> None:
    got, out, _ = ask(TWO.format(high, low), "--json")
    record = json.loads(out)
    assert (got, [case["verdict"] for case in record["cases"]]) == (code, verdicts)
    if code == 0:
        assert 0 < record["margin_proved"] <= 0.05 + 1e-9  # 0.3 - 0.25, the lesser of both boxes' margins


def test_an_open_question(ask: Run) -> None:
    # Each of the two half-spaces can be reached; that both cannot takes a combination of them.
    text = HEAD + BOX + "(assert (>= (- Y_0 Y_1) 0.9)) (assert (>= (- Y_1 Y_0) 0.9))"
    code, out, _ = ask(text, "--method", "interval")
    assert code == 3
    assert out.startswith("UNKNOWN: it is open whether no input that p.vnnlib allows has a forbidden output: ")


def test_a_gzipped_property(run: Run, folder: Path) -> None:
    (folder / "p.vnnlib.gz").write_bytes(gzip.compress(SAFE.encode()))
    code, out, _ = run("verify", "known.onnx", "--property", "p.vnnlib.gz", "--quiet")
    assert (code, out.count("\n")) == (0, 1)


def test_the_competitions_result_file(ask: Run, folder: Path) -> None:
    assert ask(SAFE, "--result", "r.txt")[0] == 0
    assert (folder / "r.txt").read_text() == "unsat\n"
    assert ask(BROKEN, "--result", "r.txt")[0] == 1
    assert not (folder / "verify_out").exists()
    word, counterexample = (folder / "r.txt").read_text().split("\n", 1)
    assert word == "sat"
    assert re.fullmatch(r"\((\([XY]_\d \S+\)\n){6}\(Y_2 \S+\)\)\n", counterexample)
    values = {name: float(value) for name, value in re.findall(r"\(([XY]_\d) ([^\s)]+)\)", counterexample)}
    x = np.array([values[f"X_{i}"] for i in range(4)])
    assert (x >= 0).all() and (x <= 1).all() and (x == x.astype(np.float32)).all()
    session = onnxruntime.InferenceSession("known.onnx", providers=["CPUExecutionProvider"])
    [y] = session.run(None, {"x": x.astype(np.float32).reshape(1, 1, 2, 2)})
    assert y.ravel().tolist() == [values[f"Y_{i}"] for i in range(3)]
    assert y[0, 1] >= 0.75


# VNN-LIB 2.0, chapter "Solver Command-line Interface".

TENSORS = "(declare-network f (declare-input Pic {0} [1,2,2]) (declare-output Out {0} [3]))\n"
BOX_2 = "".join(f"(assert (>= Pic[0,{i},{j}] 0.0)) (assert (<= Pic[0,{i},{j}] 1.0))\n" for i in (0, 1) for j in (0, 1))
HEAD_2 = "(vnnlib-version <2.0>)\n" + TENSORS.format("float32") + BOX_2
STANDARD = ("q.vnnlib", "--network", "f=known.onnx")


@pytest.fixture
def query(folder: Path) -> Path:
    """q.vnnlib (and .gz), of version 2.0, which is broken; safe.vnnlib, which is not; old.vnnlib, of version 1.0."""
    pytest.importorskip("vnnlib", reason="the package vnnlib is not installed: pip install 'verifier[vnnlib2]'")
    (folder / "q.vnnlib").write_text(HEAD_2 + "(assert (>= Out[1] 0.75))")
    (folder / "q.vnnlib.gz").write_bytes(gzip.compress((folder / "q.vnnlib").read_bytes()))
    (folder / "safe.vnnlib").write_text(HEAD_2.replace("float32", "real") + "(assert (<= Out[0] -0.5))")
    (folder / "old.vnnlib").write_text(BROKEN)
    return folder


@pytest.mark.parametrize(
    ("file", "heads"),
    [
        ("q.vnnlib", ("Pic float32 [1,2,2]", "Out float32 [3]")),
        ("q.vnnlib.gz", ("Pic float32 [1,2,2]", "Out float32 [3]")),
        ("old.vnnlib", ("X real [4]", "Y real [3]")),  # a file of version 1.0 takes any name for its network
    ],
)
def test_an_assignment_in_the_standards_form(run: Run, query: Path, file: str, heads: tuple[str, str]) -> None:
    code, out, err = run("verify", file, "--network", "f=known.onnx", "--timeout", "30")
    word, first, *lines = out.splitlines()
    x, second, y = [float(line) for line in lines[:4]], lines[4], [float(line) for line in lines[5:]]
    assert (code, word, (first, second), len(y)) == (1, "sat", heads, 3)
    assert y[:2] == x[:2] and y[1] >= 0.75 and all(0 <= value <= 1 for value in x)
    assert err.startswith("FALSIFIED: ") and not (query / "verify_out").exists()


def test_the_other_words_of_the_standard(run: Run, query: Path) -> None:
    safe = ("safe.vnnlib", "--network", "f=known.onnx")
    assert run("verify", *safe, "--quiet") == (0, "unsat\n", "")
    code, out, err = run("verify", *safe, "--timeout", "1e-9")
    assert (code, out) == (3, "timed-out\n") and err.startswith("UNKNOWN: ")
    text = HEAD_2 + "(assert (>= (- Out[0] Out[1]) 0.9)) (assert (>= (- Out[1] Out[0]) 0.9))"
    (query / "open.vnnlib").write_text(text)
    argv = ("open.vnnlib", "--network", "f=known.onnx", "--method", "interval", "--quiet")
    assert run("verify", *argv) == (3, "unknown\n", "")


def test_the_standards_form_keeps_our_options(run: Run, query: Path) -> None:
    code, out, _ = run("verify", *STANDARD, "--json", "--result", "r.txt", "--out", "found")
    record = json.loads(out)
    assert (code, record["verdict"], record["property"], record["model"]) == (1, "FALSIFIED", "q.vnnlib", "known.onnx")
    assert (query / "r.txt").read_text().startswith("sat\n((X_0 ")
    assert (query / "found" / "known_q.counterexample").is_file() and len(record["files"]) == 2


PROPERTY = ("known.onnx", "--property", "p.vnnlib")
REFUSED = {
    "with eps": ((*PROPERTY, "--eps", "0.1"), "--eps"),
    "with target": ((*PROPERTY, "--target", "1"), "--target goes with --eps"),
    "with norm": ((*PROPERTY, "--norm", "linf"), "--norm goes with --eps"),
    "with data set": ((*PROPERTY, "--dataset", "data.npz"), "--dataset goes with --eps"),
    "with index": ((*PROPERTY, "--index", "0"), "--index goes with --eps"),
    "with input": ((*PROPERTY, "--input", "x.npy"), "--input goes with --eps"),
    "with label": ((*PROPERTY, "--label", "0"), "--label goes with --eps"),
    "neither": (("known.onnx",), "--eps --property"),
    "no network": (("q.vnnlib",), "q.vnnlib: give the network that the file is about: --network NAME=FILE"),
    "no network, gzip": (("q.vnnlib.gz", "--eps", "1"), "--network NAME=FILE"),
    "another network": (("q.vnnlib", "--network", "g=known.onnx"), "declares no network 'g' (declared: f)"),
    "one network too many": ((*STANDARD, "--network", "g=known.onnx"), "declares no network 'g'"),
    "a network twice": ((*STANDARD, "--network", "f=known.onnx"), "names 'f' twice"),
    "networks for version 1.0": (("p.vnnlib", "--network", "f=known.onnx", "--network", "g=x"), "is about one network"),
    "two networks": (("two.vnnlib", "--network", "f=known.onnx", "--network", "g=known.onnx"), "2 networks (f, g)"),
    "no name": (("q.vnnlib", "--network", "known.onnx"), "must be NAME=FILE"),
    "no file": (("q.vnnlib", "--network", "f="), "must be NAME=FILE"),
    "missing network": (("q.vnnlib", "--network", "f=nowhere.onnx"), "nowhere.onnx"),
    "network and eps": ((*STANDARD, "--eps", "0.1"), "--eps"),
    "network and property": ((*STANDARD, "--property", "p.vnnlib"), "--property"),
    "network and index": ((*STANDARD, "--index", "1"), "--index goes with --eps"),
    "network of another size": (("q.vnnlib", "--network", "f=single.onnx"), "states 3 outputs, the network has 1"),
    "model as query": (("known.onnx", "--network", "f=known.onnx"), "known.onnx: line 1, column 1"),
    "result without property": (("known.onnx", "--eps", "0.1", "--result", "r.txt"), "--result goes with --property"),
    "missing file": (("known.onnx", "--property", "nowhere.vnnlib"), "nowhere.vnnlib"),
    "wrong sizes": (("single.onnx", "--property", "p.vnnlib"), "states 3 outputs, the network has 1"),
    "malformed": (("known.onnx", "--property", "strict.vnnlib"), "strict.vnnlib: line 8, column 10: strict inequality"),
    "a model instead": (("known.onnx", "--property", "known.onnx"), "known.onnx: line 1, column 1"),
    "result in a folder": ((*PROPERTY, "--result", "."), "cannot be written"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input(case: str, run: Run, folder: Path, query: Path) -> None:
    (folder / "p.vnnlib").write_text(SAFE)
    second = TENSORS.format("real").replace(" f ", " g ").replace("Pic", "A").replace("Out", "B")
    (folder / "two.vnnlib").write_text(HEAD_2.replace(BOX_2, second + BOX_2))
    (folder / "strict.vnnlib").write_text(HEAD + "(assert (< Y_0 0))")
    argv, named = REFUSED[case]
    code, out, err = run("verify", *argv, "--quiet")
    assert code == 2 and named in err
    assert err.startswith("verifier: error: ") and err.count("\n") == 1 and len(err) < 400
    assert out == "" or case == "result in a folder"
