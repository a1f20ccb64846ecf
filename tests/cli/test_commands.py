"""`radius`, `bounds`, `export` and `supports` against a network whose bounds are known by hand (see conftest)."""

from __future__ import annotations

import argparse
import json
import tomllib
from collections.abc import Callable
from pathlib import Path

import highspy
import numpy as np
import onnx
import pytest
from PIL import Image

from verifier import solvers, zoo
from verifier.bounds.methods import METHODS as BOUND_METHODS
from verifier.cli import export, options, output, supports
from verifier.data import load_dataset
from verifier.encoding import OBJECTIVES
from verifier.load import load
from verifier.spec.property import NORMS
from verifier.strategy import METHODS

Run = Callable[..., tuple[int, str, str]]

KNOWN = ("known.onnx", "--dataset", "data.npz")


@pytest.mark.parametrize(("norm", "exact"), [("linf", 0.25), ("l1", 0.5), ("l2", 0.5 / 2**0.5)])
def test_radius_encloses_the_exact_one(run: Run, folder: Path, norm: str, exact: float) -> None:
    code, out, err = run("radius", *KNOWN, "--norm", norm, "--json")
    record = json.loads(out)
    assert (code, err) == (0, "")
    # The float32 point is not exactly (0.7, 0.2): its radius differs from the decimal one by less than 1e-7.
    assert record["eps_proved"] <= exact + 1e-7
    assert record["eps_broken"] >= exact - 1e-7
    assert record["eps_broken"] - record["eps_proved"] < 0.1 * exact
    assert record["steps"] and record["files"] == []


def test_radius_sentence_table_and_files(run: Run, folder: Path) -> None:
    code, out, _ = run("radius", *KNOWN)
    lines = out.splitlines()
    assert code == 0
    assert lines[0].startswith("RADIUS: the prediction stays 0 within linf distance 0.2")
    assert lines[1].split() == ["eps", "verdict"]
    assert len(list((folder / "verify_out").glob("*.npy"))) == 1
    _, out, _ = run("radius", *KNOWN, "-q")
    assert out.count("\n") == 1


def test_radius_of_what_cannot_be_broken(run: Run, folder: Path) -> None:
    # y2 <= x2 - 1 <= 0 <= y0 with equality only at x2 = 1, x0 = 0: the radius for target 2 is 1, the whole data range.
    _, out, _ = run("radius", *KNOWN, "--target", "2", "--json")
    record = json.loads(out)
    assert record["eps_proved"] > 0.5
    assert record["eps_broken"] is None or record["eps_broken"] >= 1 - 1e-6


def test_bounds_are_those_computed_by_hand(run: Run, folder: Path) -> None:
    code, out, err = run("bounds", *KNOWN, "--eps", "0.25", "--json")
    record = json.loads(out)
    assert (code, err, list(record["methods"])) == (0, "", ["interval", "crown"])
    for method in record["methods"].values():
        [layer] = method["layers"]
        # z0 in [0.45, 0.95], z1 in [0, 0.45] after clipping at 0, z2 in [0, 0.25]: nothing crosses zero.
        assert (layer["neurons"], layer["unstable"]) == (3, 0)
        assert layer["mean_width"] == pytest.approx((0.5 + 0.45 + 0.25) / 3, abs=1e-6)
    assert record["methods"]["crown"]["margin"] == pytest.approx(0.0, abs=1e-6)  # 0.5 - 2 * 0.25


def test_bounds_table_and_plot(run: Run, folder: Path) -> None:
    code, out, _ = run("bounds", *KNOWN, "--eps", "0.1", "--method", "alpha", "--method", "interval", "--out", "b.png")
    lines = out.splitlines()
    assert code == 0
    assert lines[0].startswith("BOUNDS: within linf distance 0.1 of data image 0")
    assert lines[1].split() == ["layer", "neurons", "alpha", "interval"]
    assert lines[3].startswith("margin >=") and lines[4].startswith("time")
    assert Image.open("b.png").format == "PNG"


@pytest.mark.parametrize("suffix", ["mps", "lp"])
def test_export_writes_a_program_with_the_exact_optimum(run: Run, folder: Path, suffix: str) -> None:
    code, out, _ = run("export", *KNOWN, "--eps", "0.2", "--target", "1", "-o", f"p.{suffix}")
    assert (code, f"p.{suffix}" in out) == (0, True)
    highs = highspy.Highs()
    highs.setOptionValue("output_flag", False)
    assert highs.readModel(f"p.{suffix}") == highspy.HighsStatus.kOk
    highs.run()
    assert highs.getInfo().objective_function_value == pytest.approx(0.5 - 2 * 0.2, abs=1e-6)


@pytest.mark.parametrize("norm", NORMS)
def test_export_writes_the_property_that_a_certificate_is_about(run: Run, folder: Path, norm: str) -> None:
    ball = (*KNOWN, "--eps", "0.2", "--norm", norm)
    code, out, _ = run("export", *ball, "-o", "p.vnnlib")
    assert (code, "p.vnnlib" in out) == (0, True)
    ours, about, *_ = Path("p.vnnlib").read_text().splitlines()
    assert f"within {norm} distance 0.2 of data image 0 (label 0), from 0 to 1" in ours
    assert load("known.onnx").sha256 in about
    assert run("verify", *ball, "--certificate", "c.cert")[0] == 0
    assert Path("c.vnnlib").read_bytes() == Path("p.vnnlib").read_bytes()


def test_a_counterexample_breaks_the_property_that_was_exported(run: Run, folder: Path) -> None:
    ball = (*KNOWN, "--eps", "0.6")
    assert run("export", *ball, "-o", "p.vnnlib")[0] == 0
    assert run("verify", *ball, "--out", "found")[0] == 1
    [point] = Path("found").glob("*.npy")
    against = ("check", "--model", "known.onnx", "--property", "p.vnnlib", "--counterexample")
    assert run(*against, point)[0] == 0
    np.save("centre.npy", np.load("data.npz")["images"][0])
    assert run(*against, "centre.npy")[0] == 1
    code, out, _ = run("export", *ball, "-o", "p.vnnlib", "--json")
    assert code == 0 and json.loads(out)["files"] == ["p.vnnlib"]


@pytest.mark.parametrize("relaxation", export.RELAXATIONS)
@pytest.mark.parametrize("objective", export.OBJECTIVES)
def test_export_json_tells_the_size_of_what_it_wrote(run: Run, folder: Path, relaxation: str, objective: str) -> None:
    argv = ("--eps", "0.3", "-o", "p.mps", "--objective", objective, "--relaxation", relaxation, "--json")
    code, out, _ = run("export", *KNOWN, *argv)
    record = json.loads(out)
    highs = highspy.Highs()
    highs.setOptionValue("output_flag", False)
    highs.readModel("p.mps")
    assert code == 0
    assert (record["columns"], record["rows"]) == (highs.getNumCol(), highs.getNumRow())
    assert relaxation == "milp" or record["integer"] == 0


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        (("export", *KNOWN, "--eps", "0.1", "-o", "p.txt"), ".mps, .lp, .vnnlib"),
        (("export", *KNOWN, "--eps", "0.1", "-o", "p.vnnlib", "--relaxation", "lp"), "--relaxation"),
        (("export", *KNOWN, "--eps", "0.1", "-o", "data.npz/p.vnnlib"), "cannot be written"),
        (("export", *KNOWN, "--eps", "0.1", "-o", "no/where/p.mps"), "p.mps"),
        (("export", *KNOWN, "--eps", "0.1", "-o", "p.mps", "--norm", "l2"), "l2"),
        (("export", *KNOWN, "--eps", "0.1", "-o", "p.mps", "--method", "milp"), "interval"),
        (("bounds", *KNOWN, "--eps", "0.1", "--method", "magic"), "interval"),
        (("bounds", *KNOWN, "--eps", "0.1", "--out", "b.pdf"), ".png"),
        (("bounds", *KNOWN, "--eps", "0.1", "--out", "no/where/b.png"), "b.png"),
        (("radius", *KNOWN, "--target", "0"), "target 0"),
        (("radius", *KNOWN, "--label", "9"), "label 9"),
    ],
)
def test_bad_input_of_the_other_commands(run: Run, folder: Path, argv: tuple[str, ...], named: str) -> None:
    code, _, err = run(*argv)
    assert (code, err.count("\n")) == (2, 1)
    assert err.startswith("verifier: error: ") and named in err


# What the standard's own collector of capabilities asks for, and the words that it permits.
STANDARD_LISTS = {
    "hidden-node-theories": {"NH", "H"},
    "multiple-input-output-theories": {"SIO", "MIO"},
    "multiple-network-theories": {"SNET", "MENET", "MINET", "MNET"},
    "multiple-node-comparison-theories": {"SNC", "MNC"},
    "arithmetic-complexity-theories": {"BND", "OUTC", "LIN", "POLY"},
    "onnx-element-types": {"real", "float32", "float64"},
    "optimised-disjunctive-reasoning": {"true", "false"},
    "serialise-assignments": {"true", "false"},
    "unsat-proofs": {"true", "false"},
}


@pytest.mark.parametrize("name", STANDARD_LISTS)
def test_supports_answers_what_the_standard_asks(run: Run, name: str) -> None:
    code, out, err = run("supports", f"--{name}")
    assert (code, err) == (0, "") and out.endswith("\n")
    assert set(out.splitlines()) <= STANDARD_LISTS[name] and out.strip()


def test_supports_ranges_of_versions(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name == "vnnlib")
    assert run("supports", "--vnnlib-versions")[1] == "1.0\n2.0\n"
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert run("supports", "--vnnlib-versions")[1] == "1.0\n1.0\n"


@pytest.mark.parametrize("end", [0, 1])
def test_the_first_and_the_last_operator_set_can_be_read_and_replayed(run: Run, folder: Path, end: int) -> None:
    version = int(run("supports", "--onnx-opset-versions")[1].splitlines()[end])
    proto = onnx.load("known.onnx")
    proto.opset_import[0].version = version
    proto.ir_version = 3 if end == 0 else 13
    onnx.save(proto, "other.onnx")
    model = load("other.onnx")
    assert model.native(np.full((1, 1, 2, 2), 0.5, dtype=np.float32)).tolist() == [[0.5, 0.5, -0.5]]


def test_name_and_version(run: Run) -> None:
    assert run("--name") == (0, "verifier\n", "")
    declared = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]["version"]
    assert run("--version") == (0, f"{declared}\n", "")


def test_supports_lists_the_registries(run: Run) -> None:
    _, out, _ = run("supports", "--json")
    record = json.loads(out)
    assert record["architectures"] == list(zoo.architectures())
    assert record["solvers"] == solvers.available()
    assert record["methods"] == list(METHODS)
    assert {"Conv", "Gemm", "Relu", "MaxPool", "Sigmoid"} <= set(record["onnx-operators"])
    code, out, _ = run("supports", "--solvers")
    assert (code, out.split("\n")) == (0, [*solvers.available(), ""])
    _, out, _ = run("supports", "--solvers", "--methods")
    assert [line.partition(":")[0] for line in out.splitlines()] == ["solvers", "methods"]


def test_words_in_the_options_are_those_of_the_registries() -> None:
    parser = argparse.ArgumentParser()
    options.add_settings(parser, budget="seconds")
    text = " ".join(parser.format_help().split())
    assert set(options.NORMS) == set(NORMS)
    assert set(export.OBJECTIVES) == set(OBJECTIVES)
    assert all(name in text for name in (*METHODS, *solvers.available()))
    assert set(BOUND_METHODS) <= set(METHODS)
    for name in supports.DATASETS[:1]:
        assert len(load_dataset(name, download=False)) > 0


@pytest.mark.parametrize("value", [0.123456, -0.123456, 1.99999, 1e-9, -3.00001e-7, 123456.7, 0.25, -1e12, 3.0])
def test_printed_bounds_stay_bounds(value: float) -> None:
    low, high = float(output.at_least(value)), float(output.at_most(value))
    assert low <= value <= high
    assert high - low <= 1e-3 * abs(value)


def test_printed_numbers() -> None:
    assert [output.at_least(v) for v in (0.1, 1.5, 0.0, -2.0, 100.0)] == ["0.1", "1.5", "0", "-2", "100"]
    assert (output.at_least(-np.inf), output.at_most(np.inf)) == ("-inf", "inf")


def test_a_terminal_gets_a_drawn_table(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [("[bold]", "2")]  # a cell is text, not markup
    output.print_table(("name", "count"), rows)
    plain = capsys.readouterr().out
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    output.print_table(("name", "count"), rows)
    drawn = capsys.readouterr().out
    assert plain == "name    count\n[bold]  2\n"
    assert "[bold]" in drawn and "━" in drawn
