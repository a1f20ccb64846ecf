"""`verify --certificate` and `verifier check` on a network known by hand (see conftest)."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

Run = Callable[..., tuple[int, str, str]]
BALL = ("known.onnx", "--dataset", "data.npz", "--eps")


def test_what_is_verified_is_accepted(run: Run, folder: Path) -> None:
    code, out, err = run("verify", *BALL, "0.2", "--certificate", "out/proof.cert")
    assert (code, err) == (0, "")
    assert "in float32 (any order, round to nearest) and real arithmetic, with a certificate" in out
    written = re.findall(r"^written: (.*)$", out, flags=re.MULTILINE)
    assert written == ["out/proof.vnnlib", "out/proof.cert"] and all(Path(file).is_file() for file in written)
    comments = [line for line in Path("out/proof.vnnlib").read_text().splitlines() if line.startswith(";")]
    assert comments == [
        "; inputs within linf distance 0.2 of data image 0 (label 0), from 0 to 1",
        f"; network known.onnx, sha256 {hashlib.sha256(Path('known.onnx').read_bytes()).hexdigest()}",
        "; the prediction stays 0",
    ]
    for arithmetic in ("auto", "exact", "rounded"):
        code, out, err = run("check", "out/proof.cert", "--model", "known.onnx", "--arithmetic", arithmetic)
        assert (code, err) == (0, "") and out.startswith("ACCEPTED: known.onnx has what out/proof.vnnlib states")
        assert out.count("sha256: ") == 2
    code, out, _ = run("check", "out/proof.cert", "--model", "known.onnx", "--json")
    record = json.loads(out)
    assert code == 0 and record["accepted"] and record["margin"] > 0


def test_a_certificate_is_the_default(run: Run, folder: Path) -> None:
    for extra, label, how in (((), "VERIFIED: ", "with"), (("--uncertified",), "VERIFIED (uncertified): ", "without")):
        code, out, err = run("verify", *BALL, "0.2", "-q", *extra)
        assert (code, err) == (0, "") and out.startswith(label) and f"arithmetic, {how} a certificate" in out
        record = json.loads(run("verify", *BALL, "0.2", "--json", *extra)[1])
        assert record["certified"] == (not extra) and record["certificate"] is None
    assert [file.name for file in folder.glob("*.cert")] == []
    code, out, err = run("verify", *BALL, "0.2", "--uncertified", "--certificate", "proof.cert")
    assert code == 2 and "not allowed with argument" in err


def test_what_is_not_verified_leaves_no_certificate(run: Run, folder: Path) -> None:
    code, out, _ = run("verify", *BALL, "0.3", "--certificate", "proof.cert")
    assert code == 1 and out.startswith("FALSIFIED") and not Path("proof.cert").exists()


def test_a_property_file_is_what_a_certificate_is_about(run: Run, folder: Path) -> None:
    text = "".join(f"(declare-const {name} Real)\n" for name in ("X_0", "X_1", "X_2", "X_3", "Y_0", "Y_1", "Y_2"))
    text += "".join(f"(assert (>= X_{i} 0)) (assert (<= X_{i} 1))\n" for i in range(4))
    (folder / "p.vnnlib").write_text(text + "(assert (or (<= Y_0 -0.5) (and (>= Y_1 1.5) (<= Y_2 -2))))")
    code, out, _ = run("verify", "known.onnx", "--property", "p.vnnlib", "--certificate", "q.cert")
    assert code == 0 and "with a certificate" in out and not (folder / "q.vnnlib").exists()
    assert run("check", "q.cert", "--model", "known.onnx", "--property", "p.vnnlib")[0] == 0
    (folder / "p.vnnlib").write_text(text + "(assert (or (<= Y_0 -0.25) (and (>= Y_1 1.5) (<= Y_2 -2))))")
    code, out, err = run("check", "q.cert", "--model", "known.onnx", "--property", "p.vnnlib")
    assert (code, err) == (1, "") and out == "REFUSED: q.cert: the certificate is about another property\n"


def test_damage_is_refused(run: Run, folder: Path) -> None:
    run("verify", *BALL, "0.2", "--certificate", "proof.cert")
    content = Path("proof.cert").read_bytes()
    for damaged in (content[:-3], content[: len(content) // 2], b"", content.replace(b"float32", b"float99")):
        Path("proof.cert").write_bytes(damaged)
        code, out, err = run("check", "proof.cert", "--model", "known.onnx")
        assert (code, err) == (1, "") and out.startswith("REFUSED: proof.cert: ")


@pytest.mark.parametrize("form", ["array", "text"])
def test_counterexamples_are_replayed(run: Run, folder: Path, form: str) -> None:
    text = "".join(f"(declare-const {name} Real)\n" for name in ("X_0", "X_1", "X_2", "X_3", "Y_0", "Y_1", "Y_2"))
    text += "".join(f"(assert (>= X_{i} 0)) (assert (<= X_{i} 1))\n" for i in range(4))
    (folder / "p.vnnlib").write_text(text + "(assert (>= Y_1 0.75))")
    for value, code, says in ((0.875, 0, "ACCEPTED"), (0.5, 1, "REFUSED"), (1.5, 1, "REFUSED")):
        if form == "array":
            np.save("x.npy", np.array([0, value, 0, 0], dtype=np.float32))
        else:
            Path("x.npy").write_text(f"((X_0 0.0)\n(X_1 {value})\n(X_2 0)\n(X_3 0)\n(Y_0 0) (Y_1 {value}) (Y_2 -1))")
        found, out, err = run("check", "--counterexample", "x.npy", "--model", "known.onnx", "--property", "p.vnnlib")
        assert (found, err) == (code, "") and out.startswith(says)


@pytest.mark.parametrize(
    ("argv", "why"),
    [
        (("check", "--model", "known.onnx"), "one of the arguments"),
        (("check", "none.cert", "--model", "known.onnx"), "none.cert: cannot be read"),
        (("check", "--counterexample", "x.npy", "--model", "known.onnx"), "--property"),
    ],
)
def test_bad_input_is_one_line(run: Run, folder: Path, argv: tuple[str, ...], why: str) -> None:
    code, out, err = run(*argv)
    assert (code, out) == (2, "") and why in err and err.count("\n") == 1
