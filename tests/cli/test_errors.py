"""Bad input: one line on stderr that names what is wrong, nothing on stdout, exit code 2, never a traceback."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch import nn

from verifier import strategy
from verifier.cli.main import main, main_verify
from verifier.load import export_onnx, from_module

Run = Callable[..., tuple[int, str, str]]

EPS = ("--eps", "0.1")
KNOWN = ("known.onnx", "--dataset", "data.npz")

CASES = {
    "missing file": (("nowhere.pt", *EPS), "nowhere.pt"),
    "directory": ((".", *EPS), "."),
    "wrong architecture": (("bare.pt", "--arch", "conv_small", "--dataset", "digits", *EPS), "bare.pt"),
    "unknown architecture": (("bare.pt", "--arch", "nonet", *EPS), "mlp_32"),
    "no eps": (KNOWN, "--eps"),
    "eps negative": ((*KNOWN, "--eps", "-0.1"), "-0.1"),
    "eps NaN": ((*KNOWN, "--eps", "nan"), "nan"),
    "eps infinite": ((*KNOWN, "--eps", "inf"), "inf"),
    "eps a word": ((*KNOWN, "--eps", "small"), "small"),
    "eps over zero": ((*KNOWN, "--eps", "1/0"), "1/0"),
    "target is the label": ((*KNOWN, *EPS, "--target", "0"), "target 0"),
    "target out of range": ((*KNOWN, *EPS, "--target", "3"), "target 3"),
    "target negative": ((*KNOWN, *EPS, "--target", "-1"), "--target"),
    "label out of range": ((*KNOWN, *EPS, "--label", "7"), "label 7"),
    "index out of range": ((*KNOWN, *EPS, "--index", "2"), "0 to 1"),
    "index negative": ((*KNOWN, *EPS, "--index", "-1"), "--index"),
    "image of the wrong size": (("known.onnx", *EPS, "--input", "wide.png"), "3x2 (width x height), the network reads"),
    "array of the wrong size": (("known.onnx", *EPS, "--input", "long.npy"), "size 5, the network reads 1x2x2"),
    "data set of the wrong size": (("known.onnx", *EPS, "--dataset", "digits"), "1x8x8, the network reads 1x2x2"),
    "transposed layout": (("known.onnx", *EPS, "--input", "deep.npy"), "size 2x1x1x3"),
    "image with transparency": (("known.onnx", *EPS, "--input", "clear.png"), "RGBA"),
    "not an image": (("known.onnx", *EPS, "--input", "bare.pt"), "bare.pt"),
    "empty image": (("known.onnx", *EPS, "--input", "empty.png"), "empty.png"),
    "missing image": (("known.onnx", *EPS, "--input", "nowhere.png"), "nowhere.png"),
    "image is a directory": (("known.onnx", *EPS, "--input", "."), "directory"),
    "array of objects": (("known.onnx", *EPS, "--input", "objects.npy"), "objects.npy"),
    "array of words": (("known.onnx", *EPS, "--input", "words.npy"), "words.npy"),
    "truncated array": (("known.onnx", *EPS, "--input", "cut.npy"), "cut.npy"),
    "array with NaN": (("known.onnx", *EPS, "--input", "nan.npy"), "NaN"),
    "array outside of the data range": (("known.onnx", *EPS, "--input", "pixels.npy"), "[0, 1]"),
    "unknown data set": (("known.onnx", *EPS, "--dataset", "cifar"), "digits, mnist"),
    "missing npz": (("known.onnx", *EPS, "--dataset", "nowhere.npz"), "nowhere.npz"),
    "unreadable npz": (("known.onnx", *EPS, "--dataset", "broken.npz"), "broken.npz"),
    "no card and no data set": (("known.onnx", *EPS), "--dataset"),
    "index and input": ((*KNOWN, *EPS, "--index", "0", "--input", "long.npy"), "--index"),
    "data set and input": ((*KNOWN, *EPS, "--input", "long.npy"), "--dataset and --input"),
    "one output": (("single.onnx", "--dataset", "data.npz", *EPS), "two classes"),
    "a score for every place": (("places.onnx", "--dataset", "places.npz", *EPS), "outputs 2x4"),
    "labels from 1 on": (("known.onnx", "--dataset", "from1.npz", *EPS), "4 classes, known.onnx has 3 outputs"),
    "unknown solver": ((*KNOWN, *EPS, "--solver", "gurobi"), "highs, cvxpy, pulp, scipy"),
    "unknown method": ((*KNOWN, *EPS, "--method", "magic"), ", ".join(strategy.METHODS)),
    "unknown norm": ((*KNOWN, *EPS, "--norm", "l0"), "l0"),
    "unknown device": ((*KNOWN, *EPS, "--device", "tpu"), "tpu"),
    "timeout zero": ((*KNOWN, *EPS, "--timeout", "0"), "--timeout"),
    "timeout NaN": ((*KNOWN, *EPS, "--timeout", "nan"), "--timeout"),
    "seed negative": ((*KNOWN, *EPS, "--seed", "-3"), "--seed"),
    "out is a file": ((*KNOWN, *EPS, "--out", "data.npz"), "data.npz"),
    "quiet and verbose": ((*KNOWN, *EPS, "-q", "-v"), "-v"),
    "abbreviated option": ((*KNOWN, *EPS, "--time", "3"), "--time"),
}  # fmt: skip


@pytest.fixture
def bad(folder: Path) -> Path:
    """The folder with files that are wrong in one way each."""
    Image.new("L", (3, 2)).save("wide.png")
    Image.new("RGBA", (2, 2)).save("clear.png")
    Path("empty.png").write_bytes(b"")
    np.save("long.npy", np.zeros(5, dtype=np.float32))
    np.save("deep.npy", np.zeros((2, 1, 1, 3), dtype=np.float32))
    np.save("objects.npy", np.array([object()]), allow_pickle=True)
    np.save("words.npy", np.array(["a", "b", "c", "d"]))
    np.save("nan.npy", np.full((2, 2), np.nan, dtype=np.float32))
    np.save("pixels.npy", np.array([[0, 255], [3, 4]], dtype=np.float32))
    export_onnx(from_module(nn.Conv1d(3, 2, 1), (3, 4)), "places.onnx")
    np.savez("places.npz", images=np.full((1, 3, 4), 0.5), labels=np.array([0]))
    np.savez("from1.npz", images=np.full((2, 1, 2, 2), 0.5), labels=np.array([1, 3]))
    Path("cut.npy").write_bytes(Path("long.npy").read_bytes()[:20])
    Path("broken.npz").write_bytes(b"PK\x03\x04 and then nothing of use")
    model = Path(__file__).parents[2] / "models" / "digits_mlp.pt"
    Path("bare.pt").write_bytes(model.read_bytes())
    return folder


def check(code: int, out: str, err: str, prog: str = "verifier") -> None:
    assert code == 2
    assert out == ""
    assert err.startswith(f"{prog}: error: ") and err.endswith("\n") and err.count("\n") == 1
    assert len(err) < 400


@pytest.mark.parametrize("case", CASES)
def test_bad_input(case: str, run: Run, bad: Path) -> None:
    argv, named = CASES[case]
    code, out, err = run("verify", *argv)
    check(code, out, err)
    assert named in err


def test_json_errors_leave_stdout_empty(run: Run, bad: Path) -> None:
    check(*run("verify", "nowhere.pt", *EPS, "--json"))


def test_a_solver_that_is_not_installed(run: Run, bad: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr("verifier.solvers.find_spec", lambda name: None if name == "cvxpy" else found(name))
    code, out, err = run("verify", *KNOWN, *EPS, "--solver", "cvxpy")
    check(code, out, err)
    assert "'cvxpy'" in err and "pip install cvxpy" in err


def test_a_gpu_that_is_not_there(run: Run, bad: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    code, out, err = run("verify", *KNOWN, *EPS, "--device", "cuda")
    check(code, out, err)
    assert "--device cpu" in err


def test_a_folder_that_cannot_be_written(run: Run, bad: Path) -> None:
    # A file in the middle of the path: even the administrator cannot make a folder there.
    code, _, err = run("verify", *KNOWN, "--eps", "0.3", "--out", "data.npz/inside")
    assert (code, err.count("\n")) == (2, 1)
    assert "data.npz" in err and "--out" in err


def test_a_certificate_does_not_replace_what_is_no_file(run: Run, bad: Path) -> None:
    os.mkfifo("pipe")
    code, _, err = run("verify", *KNOWN, "--eps", "0", "--certificate", "pipe")
    assert (code, err.count("\n")) == (2, 1)
    assert "pipe: is no ordinary file" in err and Path("pipe").is_fifo()


def test_the_script_verify_names_itself(bad: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = main_verify(["nowhere.pt", *EPS])
    captured = capsys.readouterr()
    check(code, captured.out, captured.err, "verify")
    code = main_verify(["nowhere.pt"])
    captured = capsys.readouterr()
    check(code, captured.out, captured.err, "verify")
    with pytest.raises(SystemExit) as stop:
        main_verify(["nowhere.pt", "--epsilon", "1"])
    captured = capsys.readouterr()
    check(int(stop.value.code or 0), captured.out, captured.err, "verify")


def test_an_interrupt_is_one_line(run: Run, bad: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("verifier.certified.verify", interrupted)
    assert run("verify", *KNOWN, *EPS) == (130, "", "verifier: interrupted\n")


@pytest.mark.parametrize(
    ("fault", "named"),
    [
        (MemoryError(), "not enough memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "not enough memory"),
        (IndexError("list index\nout of range"), "fault of the program: IndexError: list index out of range"),
    ],
)
def test_a_fault_of_the_program_is_an_error_and_no_verdict(
    fault: Exception, named: str, bad: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python itself would end with exit code 1, which means falsified."""

    def failing(*args: object) -> None:
        raise fault

    monkeypatch.setattr("verifier.certified.verify", failing)
    code = main_verify([*KNOWN, *EPS])
    captured = capsys.readouterr()
    check(code, captured.out, captured.err, "verify")
    assert named in captured.err
    monkeypatch.setenv("VERIFIER_TRACEBACK", "1")
    assert main_verify([*KNOWN, *EPS]) == 2
    assert "Traceback" in capsys.readouterr().err


def process(*argv: str, **kwargs) -> subprocess.CompletedProcess[str]:
    root = str(Path(__file__).parents[2])
    environment = os.environ | {"PYTHONPATH": root, "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, *argv], capture_output=True, text=True, env=environment, **kwargs)


def test_a_real_process_ends_with_one_line_and_code_2(bad: Path) -> None:
    done = process("-m", "verifier", "verify", *KNOWN, "--eps", "-1")
    check(done.returncode, done.stdout, done.stderr)
    done = process("-m", "verifier", "nonsense")
    check(done.returncode, done.stdout, done.stderr)


def test_a_reader_that_goes_away_is_no_traceback(bad: Path) -> None:
    code = """
import os, sys
from verifier.cli.main import main
reader, writer = os.pipe()
os.dup2(writer, 1)
os.close(reader)
sys.exit(main(["supports", "--datasets"]))
"""
    done = process("-c", code)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.parametrize("argv", [[], ["verify"], ["radius"], ["bounds"], ["export"], ["supports"]])
def test_help_answers_without_heavy_imports(argv: list[str]) -> None:
    code = f"""
import sys
from verifier.cli.main import main
try:
    main([*{argv!r}, '--help'])
except SystemExit as stop:
    assert stop.code == 0
heavy = {{'torch', 'numpy', 'scipy', 'matplotlib', 'onnx', 'rich'}} & set(sys.modules)
sys.exit(f'imported {{heavy}}' if heavy else 0)
"""
    done = process("-c", code)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(" ".join(["usage: verifier", *argv]))


@pytest.mark.parametrize(
    ("argv", "command"), [(["radius", "m.pt", "--foo"], "verifier radius"), (["--foo"], "verifier")]
)
def test_unknown_options_name_the_help_of_their_command(
    argv: list[str], command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(argv)
    assert f"(see `{command} --help`)" in capsys.readouterr().err
