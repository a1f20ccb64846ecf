"""`verifier verify` against a network whose margins are known by hand (see conftest)."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from verifier.data import file_sha256
from verifier.verdict import Result, StageReport, Verdict
from verifier.zoo import ModelCard, write_card

POINT = np.array([[[0.7, 0.2], [0.0, 0.5]]], dtype=np.float32)  # image 0 of data.npz
MODELS = Path(__file__).parents[2] / "models"
Run = Callable[..., tuple[int, str, str]]

KNOWN = ("verify", "known.onnx", "--dataset", "data.npz")


@pytest.mark.parametrize(("norm", "exact"), [("linf", 0.25), ("l1", 0.5), ("l2", 0.5 / 2**0.5)])
def test_the_verdict_changes_at_the_exact_radius(run: Run, folder: Path, norm: str, exact: float) -> None:
    code, out, err = run(*KNOWN, "--norm", norm, "--eps", exact * 0.99)
    assert (code, err) == (0, "")
    assert out.startswith("VERIFIED: for every input within " + norm) and "with a certificate" in out
    code, out, err = run(*KNOWN, "--norm", norm, "--eps", exact * 1.05)
    assert (code, err) == (1, "")
    assert out.startswith("FALSIFIED: an input within " + norm)
    assert "is classified as 1" in out


def test_json_is_one_object_and_writes_no_files(run: Run, folder: Path) -> None:
    code, out, err = run(*KNOWN, "--eps", "0.2", "--json")
    record = json.loads(out)
    assert (code, err, out.count("\n")) == (0, "", 1)
    assert record["verdict"] == "VERIFIED"
    assert 0 < record["margin_proved"] <= 0.5 - 2 * 0.2 + 1e-6  # the exact margin is 0.1
    assert record["counterexample"] is None
    code, out, _ = run(*KNOWN, "--eps", "0.3", "--json")
    record = json.loads(out)
    assert (code, record["verdict"], record["files"]) == (1, "FALSIFIED", [])
    x = np.array(record["counterexample"])
    assert np.abs(x - POINT).max() <= 0.3
    assert x[0, 0, 1] >= x[0, 0, 0]  # y1 >= y0
    assert not (folder / "verify_out").exists()


@pytest.mark.parametrize("extra", [(), ("--out", "elsewhere"), ("--out", "elsewhere", "--json")])
def test_a_counterexample_is_written_with_its_picture(run: Run, folder: Path, extra: tuple[str, ...]) -> None:
    code, out, _ = run(*KNOWN, "--eps", "0.3", *extra)
    place = folder / ("elsewhere" if extra else "verify_out")
    arrays, pictures = list(place.glob("*.npy")), list(place.glob("*.png"))
    assert (code, len(arrays), len(pictures)) == (1, 1, 1)
    x = np.load(arrays[0])
    assert (x.dtype, x.shape) == (np.float32, POINT.shape)
    assert np.abs(x - POINT).max() <= 0.3 and x[0, 0, 1] >= x[0, 0, 0]
    assert Image.open(pictures[0]).format == "PNG"
    assert arrays[0].name in out and pictures[0].name in out


def test_the_written_counterexample_is_misclassified_when_it_comes_back(run: Run, folder: Path) -> None:
    run(*KNOWN, "--eps", "0.3")
    [array] = (folder / "verify_out").glob("*.npy")
    code, out, _ = run("verify", "known.onnx", "--input", array, "--label", "0", "--eps", "0")
    assert code == 1
    assert "misclassifies" in out and "without any change" in out


def test_a_target_is_harder_to_reach_than_any_other_class(run: Run, folder: Path) -> None:
    # y2 is at most eps - 1 < 0 <= y0: class 2 is out of reach for every eps below 1 + 0.
    code, out, _ = run(*KNOWN, "--eps", "0.3", "--target", "2")
    assert (code, out.split(":")[0]) == (0, "VERIFIED")
    assert "the prediction cannot become 2" in out
    code, out, _ = run(*KNOWN, "--eps", "0.3", "--target", "1")
    assert (code, out.split(":")[0]) == (1, "FALSIFIED")


def test_a_misclassified_input_is_its_own_counterexample(run: Run, folder: Path) -> None:
    code, out, _ = run(*KNOWN, "--index", "1", "--eps", "0")
    assert code == 1
    assert "the network misclassifies data image 1 (label 1) as 0 without any change" in out


def test_without_a_label_the_prediction_counts_as_right_and_the_output_says_so(run: Run, folder: Path) -> None:
    np.save("point.npy", POINT)
    code, out, _ = run("verify", "known.onnx", "--input", "point.npy", "--eps", "0.1")
    assert code == 0
    assert "point.npy (label 0)" in out
    assert "no --label was given" in out


@pytest.mark.parametrize(("mode", "white"), [("L", 255), ("RGB", (255, 255, 255)), ("1", 1)])
def test_an_image_is_scaled_to_the_data_range(run: Run, folder: Path, mode: str, white: int | tuple[int, ...]) -> None:
    image = Image.new(mode, (2, 2))
    image.putpixel((0, 0), white)  # column 0, row 0: x0 = 1, the others 0, so the linf radius is 1/2
    image.save("image.png")
    for eps, expected in (("0.49", 0), ("0.51", 1)):
        code, _, err = run("verify", "known.onnx", "--input", "image.png", "--label", "0", "--eps", eps)
        assert (code, err) == (expected, "")


def test_uint8_arrays_are_pixels(run: Run, folder: Path) -> None:
    np.save("pixels.npy", np.array([[255, 0], [0, 0]], dtype=np.uint8))
    for eps, expected in (("0.49", 0), ("0.51", 1)):
        assert run("verify", "known.onnx", "--input", "pixels.npy", "--eps", eps)[0] == expected


def test_fractions_are_exact(run: Run, folder: Path) -> None:
    # In the image of 0.75 and 0.25 the radius is exactly 1/4, and a tie counts against the claim.
    np.save("quarters.npy", np.array([[0.75, 0.25], [0, 0]], dtype=np.float32))
    assert run("verify", "known.onnx", "--input", "quarters.npy", "--eps", "1/4", "--label", "0")[0] != 0
    assert run("verify", "known.onnx", "--input", "quarters.npy", "--eps", "2499/10000", "--label", "0")[0] == 0


def test_quiet_prints_the_sentence_only_and_verbose_tells_progress_on_stderr(run: Run, folder: Path) -> None:
    _, out, err = run(*KNOWN, "--eps", "0.1", "-q")
    assert (out.count("\n"), err) == (1, "")
    _, out, err = run(*KNOWN, "--eps", "0.1", "-v")
    assert out.splitlines()[1].split()[:2] == ["stage", "time"]
    assert err


def test_a_solvers_word_is_never_called_a_proof(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stages = (StageReport("milp", 0.1, -4.0, ""),)
    answer = Result(Verdict.VERIFIED, "the prediction stays 0", "milp", 0.1, 0.25, 1.0, stages, solver_word=True)
    monkeypatch.setattr("verifier.strategy.verify", lambda *args: answer)
    _, out, _ = run(*KNOWN, "--eps", "0.1", "--method", "milp", "--solver", "scipy", "-q", "--uncertified")
    assert out.startswith("VERIFIED (solver, uncertified): ")
    assert "scipy claims a margin of at least 0.25" in out
    record = json.loads(run(*KNOWN, "--eps", "0.1", "--json", "--uncertified")[1])
    assert (record["margin_proved"], record["margin_claimed"], record["solver_word"]) == (None, 0.25, True)


def test_an_open_question_tells_why_and_what_is_known(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = Result(Verdict.UNKNOWN, "the prediction stays 0", "crown", 0.1, -np.inf, 0.5, (), reason="time is up")
    monkeypatch.setattr("verifier.certified.verify", lambda *args: answer)
    code, out, _ = run(*KNOWN, "--eps", "0.1", "-q")
    assert code == 3
    assert out.startswith("UNKNOWN: ") and "time is up; the margin is at least -inf and at most 0.5" in out
    code, out, _ = run(*KNOWN, "--eps", "0.1", "--json")
    assert (code, json.loads(out)["margin_proved"], json.loads(out)["reason"]) == (3, None, "time is up")


def test_a_data_range_that_is_not_the_cards_is_told(run: Run, folder: Path) -> None:
    card = ModelCard(sha256=file_sha256("known.onnx"), input_shape=(1, 2, 2), classes=3, lower=-1, upper=2)
    write_card(card, "known.json")
    for upper, told in ((1, True), (2, False)):
        np.savez("data.npz", images=POINT[None], labels=np.array([0]), classes=3, lower=-1, upper=upper)
        code, out, _ = run("verify", "known.onnx", "--dataset", "data.npz", "--eps", "0.1")
        assert code == 0 and ("note: inputs stay in the data range [-1, 1]; the model card has [-1, 2]" in out) is told


def test_the_default_input_comes_from_the_model_card_and_the_output_says_so(run: Run) -> None:
    code, out, err = run("verify", MODELS / "digits_mlp.pt", "--eps", "0", "--target", "3")
    assert (code, err) == (0, "")
    assert "digits image 0 (label 0)" in out
    assert "no --index or --input was given" in out
