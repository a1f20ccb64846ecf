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
    assert float(re.search(r"at least ([0-9.]+) in real", out)[1]) <= 0.5  # type: ignore[index]


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
    "result without property": (("known.onnx", "--eps", "0.1", "--result", "r.txt"), "--result goes with --property"),
    "missing file": (("known.onnx", "--property", "nowhere.vnnlib"), "nowhere.vnnlib"),
    "wrong sizes": (("single.onnx", "--property", "p.vnnlib"), "states 3 outputs, the network has 1"),
    "malformed": (("known.onnx", "--property", "strict.vnnlib"), "strict.vnnlib: line 8, column 10: strict inequality"),
    "a model instead": (("known.onnx", "--property", "known.onnx"), "known.onnx: line 1, column 1"),
    "result in a folder": ((*PROPERTY, "--result", "."), "cannot be written"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input(case: str, run: Run, folder: Path) -> None:
    (folder / "p.vnnlib").write_text(SAFE)
    (folder / "strict.vnnlib").write_text(HEAD + "(assert (< Y_0 0))")
    argv, named = REFUSED[case]
    code, out, err = run("verify", *argv, "--quiet")
    assert code == 2 and named in err
    assert err.startswith("verifier: error: ") and err.count("\n") == 1 and len(err) < 400
    assert out == "" or case == "result in a folder"
