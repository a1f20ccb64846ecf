"""`verifier certify`, `merge` and `report`: what they print, how they stop, and that nothing kills a run for good."""

from __future__ import annotations

import csv
import json
import math
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from verifier.batch import workers
from verifier.batch.journal import read
from verifier.batch.merging import read_all
from verifier.certificate.trees import unpack
from verifier.cli.certify import default_jobs
from verifier.load import export_onnx, from_module

Run = Callable[..., tuple[int, str, str]]
ROOT = Path(__file__).parents[2]
KNOWN = ("certify", "known.onnx", "--dataset", "data.npz", "--journal", "a.jsonl", "--jobs", "1")


def test_a_run_whose_answers_are_known_by_hand(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The exact radius of image 0 is 0.25; image 1 is misclassified."""
    monkeypatch.setattr("verifier.cli.progress.EVERY", math.inf)  # a busy machine prints no lines in between
    code, out, err = run(*KNOWN, "--eps", "0.2")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    proved = "1 (50.00 %) are certified within linf distance 0.2"
    assert lines[0] == f"CERTIFIED: of 2 data images {proved}, 1 (50.00 %) are broken, 0 are undecided."
    assert lines[2].split() == ["0.2", *["50.00", "%"] * 4, "0.00", "%"]
    assert lines[-1] == "written: a.jsonl"
    code, out, err = run(*KNOWN, "--eps", "0.3", "--resume", "--quiet")
    assert code == 0 and "2 (100.00 %) are broken" in out and out.count("\n") == 1
    [results] = read_all([Path("a.jsonl")]).values()
    assert sorted((case.index, case.eps) for case in results.records) == [
        (0, "0.2"),
        (0, "0.3"),
        (1, "0.2"),
        (1, "0.3"),
    ]


@pytest.mark.parametrize(("norm", "radius"), [("linf", 0.25), ("l1", 0.5), ("l2", 0.5 / 2**0.5)])
def test_a_sweep_finds_the_exact_radius(run: Run, folder: Path, norm: str, radius: float) -> None:
    code, out, _ = run(*KNOWN, "--eps", "0.05:0.6:0.05", "--norm", norm, "--json", "--limit", "1")
    record = json.loads(out)
    assert code in ((0,) if norm == "linf" else (0, 3)) and record["inputs"] == 1 and record["norm"] == norm
    for point in record["radii"]:
        proved, broken = float(point["eps"]) < radius, float(point["eps"]) >= radius
        assert point["verified"] <= proved and point["falsified"] <= broken
        if norm == "linf":
            assert (point["verified"], point["falsified"]) == (proved, broken)
    assert len(read(Path("a.jsonl"))[0]) <= 1 + 7  # of 12 radii; one more where a tie stays unknown


def test_shards_are_merged_and_reported(run: Run, folder: Path) -> None:
    for part in (1, 2):
        code, out, _ = run("certify", "known.onnx", "--dataset", "data.npz", "--eps", "0.2", "--shard", f"{part}/2")
        assert code == 0 and f"written: certify_out/known_data_linf_0.2_{part}of2.jsonl" in out
    shards = [f"certify_out/known_data_linf_0.2_{part}of2.jsonl" for part in (2, 1)]
    code, out, err = run("merge", *shards, "-o", "all.jsonl")
    assert (code, err) == (0, "") and "of 2 data images 1 (50.00 %) are certified" in out
    code, out, err = run("report", "all.jsonl", "--png", "figures", "--csv", "table.csv", "-o", "pages/report.html")
    assert (code, err) == (0, "") and "written: pages/report.html" in out
    assert Path("pages/report.html").read_text().startswith("<!DOCTYPE html>")
    assert Path("figures/accuracy.png").read_bytes().startswith(b"\x89PNG")
    [row] = csv.DictReader(Path("table.csv").read_text().splitlines())
    assert (row["run"], row["certified"], row["undecided"]) == ("known", "50.00 %", "0.00 %")
    for command, extra in (("merge", ["-o", "again.jsonl"]), ("report", ["-o", "again.html"])):
        code, out, err = run(command, "all.jsonl", *extra, "--json")
        record = json.loads(out)
        assert (code, err, record["command"], record["files"]) == (0, "", command, extra[1:])
        assert [total["radii"][0]["verified"] for total in record["runs"]] == [1]
    Path("data.npz").unlink()
    code, out, _ = run("report", "all.jsonl")
    assert code == 0 and "no counterexamples of known are shown: data.npz" in out


def test_an_undecided_input_is_told_by_the_exit_code(run: Run, folder: Path) -> None:
    code, out, _ = run(*KNOWN, "--eps", "0.3", "--method", "interval")
    assert code == 3 and "1 are undecided" in out


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        (["--eps", "0.1:0.2"], "eps must be"),
        (["--eps", "-1"], "eps"),
        (["--eps", "0.1", "--shard", "3/2"], "--shard"),
        (["--eps", "0.1", "--retry", "verified"], "--retry"),
        (["--eps", "0.1", "--method", "magic"], "unknown method 'magic' (available: auto, interval, crown, alpha)"),
        (["--eps", "0.1", "--limit", "0"], "--limit"),
        (["--eps", "0.1", "--dataset", "digits"], "digits has inputs of shape (1, 8, 8)"),
        (["--eps", "0.1", "--dataset", "none.npz"], "none.npz"),
        (["--eps", "0.1", "--journal", "data.npz"], "data.npz: exists already"),
        (["--eps", "0.1", "--journal", "data.npz", "--resume"], "data.npz, line 1: is damaged, or"),
        (["--eps", "0.1", "--journal", "data.npz/x"], "data.npz: cannot be a folder"),
        (["--eps", "0.1", "--certificates", "data.npz"], "give another --certificates"),
        (["--eps", "0.1", "--device", "cuda"], "device 'cuda' is not available"),
    ],
)  # fmt: skip
def test_bad_input(run: Run, folder: Path, argv: list[str], named: str) -> None:
    code, out, err = run("certify", "known.onnx", "--dataset", "data.npz", *argv)
    assert (code, out) == (2, "") and named in err and err.count("\n") == 1


def test_channels_behind_are_not_read_as_if_they_were_in_front(run: Run, folder: Path) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
    export_onnx(from_module(net, (3, 2, 2)), folder / "colour.onnx")
    np.savez("behind.npz", images=np.full((1, 2, 2, 3), 0.5), labels=np.array([0]), classes=2)
    for command in ("verify", "certify"):
        code, out, err = run(command, "colour.onnx", "--dataset", "behind.npz", "--eps", "0.1")
        assert (code, out) == (2, "") and "behind" in err and "2" in err and err.count("\n") == 1


def test_certificates_that_cannot_be_stored_end_the_run(run: Run, folder: Path) -> None:
    taken = folder / "proofs" / "0_0.2.cert"
    taken.mkdir(parents=True)
    code, out, err = run(*KNOWN, "--eps", "0.2", "--certificates", "proofs")
    assert (code, out) == (2, "") and err.count("\n") == 1
    assert err.startswith(f"verifier: error: {taken}: cannot be written") and err.endswith("go on with --resume\n")
    taken.rmdir()
    code, _, _ = run(*KNOWN, "--eps", "0.2", "--certificates", "proofs", "--resume")
    assert code == 0 and sorted(path.name for path in Path("proofs").iterdir()) == [
        "0_0.2.cert", "0_0.2.vnnlib.gz", "model.onnx", "run.json",
    ]  # fmt: skip


def test_a_folder_of_certificates_is_about_one_kind_of_question(run: Run, folder: Path) -> None:
    stored = (*KNOWN, "--certificates", "proofs", "--journal")
    assert run(*stored, "a", "--eps", "0.2")[0] == 0 and run(*stored, "b", "--eps", "0.1")[0] == 0
    about = json.loads(Path("proofs/run.json").read_text())
    assert {name: about[name] for name in ("model", "dataset", "norm")} == {
        "model": "known.onnx", "dataset": "data.npz", "norm": "linf",
    }  # fmt: skip
    before = {path.name: path.read_bytes() for path in Path("proofs").iterdir()}
    for broken in (None, b"[]", b"{"):
        if broken is not None:
            Path("proofs/run.json").write_bytes(broken)
        norm = "l2" if broken is None else "linf"
        code, out, err = run(*stored, "c", "--eps", "0.2", "--norm", norm)
        assert (code, out) == (2, "") and err.count("\n") == 1 and "give another --certificates" in err
    assert {path.name: path.read_bytes() for path in Path("proofs").iterdir()} == {**before, "run.json": b"{"}


def test_a_worker_for_every_core_or_gpu() -> None:
    assert default_jobs(torch.device("cpu")) == len(os.sched_getaffinity(0)) and default_jobs(torch.device("cuda")) == 1


def test_reports_of_nothing_are_refused(run: Run, folder: Path) -> None:
    for argv in (["report", "none.jsonl"], ["report", "data.npz"], ["merge", "none.jsonl", "-o", "b"]):
        code, out, err = run(*argv)
        assert (code, out) == (2, "") and argv[1] in err and err.count("\n") == 1


def test_merge_writes_over_nothing(run: Run, folder: Path) -> None:
    run(
        "certify", "known.onnx", "--dataset", "data.npz", "--eps", "0", "--journal", "a", "--jobs", "1", "--uncertified"
    )
    code, out, err = run("merge", "a", "-o", "data.npz")
    assert (code, out, err) == (2, "", "verifier: error: data.npz: exists already; give another --out\n")


def test_ctrl_c_drains_and_prints_how_to_go_on(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    serve, asked, before = workers.serve, [], signal.getsignal(signal.SIGINT)

    def interrupted(setup: object, source: Callable[[], object], *more: object):
        def next_task() -> object:
            task = source()
            asked.append(task)
            if len(asked) == 1:
                signal.raise_signal(signal.SIGINT)
            return task

        return serve(setup, next_task, *more)  # type: ignore[arg-type, type-var]

    monkeypatch.setattr(workers, "serve", interrupted)
    code, out, err = run(*KNOWN, "--eps", "0.2", "--batch", "1")
    assert code == 130 and "of the 1 of 2 data images with an answer" in out
    command = "certify known.onnx --dataset data.npz --journal a.jsonl --jobs 1 --eps 0.2 --batch 1 --resume"
    assert err.splitlines()[0].startswith("Ctrl-C: finishing") and err.endswith(f"go on with: verifier {command}\n")
    assert asked[1:] == [None] and signal.getsignal(signal.SIGINT) is before
    monkeypatch.setattr(workers, "serve", serve)
    code, out, _ = run(*command.split())
    assert code == 0 and "of 2 data images" in out


def test_a_second_ctrl_c_stops_at_once(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        yield

    monkeypatch.setattr(workers, "serve", interrupted)
    code, out, err = run(*KNOWN, "--eps", "0.2")
    assert code == 130 and "go on with: verifier certify" in err and "2 have no answer yet" in out


# kill -9 of the parent and of its workers, at random moments of a real run.

COMMAND = ("certify", str(ROOT / "models" / "digits_mlp.pt"), "--eps", "0.03", "--journal", "a.jsonl")
OPTIONS = ("--limit", "40", "--batch", "4", "--jobs", "2", "--resume", "-v", "--certificates", "proofs")
SAID = re.compile(r"^input (\d+), eps 0.03: (\w+) by ", re.MULTILINE)


def start() -> subprocess.Popen[str]:
    argv = [sys.executable, "-m", "verifier", *COMMAND, *OPTIONS]
    return subprocess.Popen(argv, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)


def children(process: int) -> list[int]:
    """The worker processes of a run."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            if int(fields[1]) == process and b"spawn_main" in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
        except (OSError, ValueError, IndexError):
            continue
    return found


def strike(moments: int, seed: int) -> None:
    """Kill the run or one of its workers at so many random moments, going on each time; then let it finish."""
    choose, said = random.Random(seed), {}
    struck = 0
    while struck < moments:
        process = start()
        time.sleep(choose.uniform(0.5, 9.0))
        for _ in range(choose.randrange(3)):
            if process.poll() is None and (some := children(process.pid)):
                os.kill(choose.choice(some), signal.SIGKILL)
                struck += 1
                time.sleep(choose.uniform(0.0, 2.0))
        process.kill()
        struck += 1
        _, err = process.communicate()
        for index, verdict in SAID.findall(err):
            assert said.setdefault(int(index), verdict) == verdict
        if len(said) == 40:
            check(said)
            said = {}
            Path("a.jsonl").unlink()
    process = start()
    _, err = process.communicate()
    for index, verdict in SAID.findall(err):
        assert int(index) not in said, "a result that was told is computed again"
        said[int(index)] = verdict
    assert process.returncode == 0
    check(said)


def check(said: dict[int, str]) -> None:
    """Every result that was told is in the journal, once, and nothing is missing, certificates included."""
    results = [line for line in read(Path("a.jsonl"))[0] if line["kind"] == "result"]
    kept = {line["index"]: line["verdict"] for line in results}
    cited = [Path("proofs", line["certificate"]) for line in results if line["verdict"] == "VERIFIED"]
    assert all(unpack(path.read_bytes()) and path.with_suffix(".vnnlib.gz").is_file() for path in cited)
    assert len(results) == len(kept) and said.items() <= kept.items()


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds workers through /proc")
def test_kill_9_loses_and_repeats_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    strike(moments=4, seed=0)


@pytest.mark.long
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds workers through /proc")
def test_kill_9_at_200_moments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    strike(moments=200, seed=1)


def test_a_full_disk_ends_the_run_in_one_line(tmp_path: Path) -> None:
    """The limit on a file's size stands for a full disk: writing fails in the middle of a line."""
    code = f"""
import resource, signal, sys
from verifier.cli.main import main
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, resource.RLIM_INFINITY))
    sys.exit(main([*{COMMAND!r}, "--limit", "20", "--batch", "4", "--jobs", "1"]))
"""
    (tmp_path / "run.py").write_text(code)
    done = subprocess.run([sys.executable, "run.py"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("verifier: error: a.jsonl: cannot be written (File too large)")
    lines, size = read(tmp_path / "a.jsonl")
    assert 1 < len(lines) < 21 and size == os.path.getsize(tmp_path / "a.jsonl") <= 3000
