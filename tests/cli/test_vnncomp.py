"""`verifier vnncomp` and the competition's scripts, on a tiny benchmark whose verdicts are known by hand."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from verifier.batch import workers
from verifier.batch.competition import Finding, Instance, read_instances, stored, subdomains
from verifier.batch.competition_results import HEADER, Results, Row
from verifier.batch.workers import Outcome
from verifier.cli.vnncomp import record_row, tallies
from verifier.errors import VerifierError
from verifier.verdict import Result, SearchStatistics, StageReport, Verdict

Run = Callable[..., tuple[int, str, str]]
ROOT = Path(__file__).parents[2]

HEAD = "".join(f"(declare-const {name} Real)\n" for name in ("X_0", "X_1", "X_2", "X_3", "Y_0", "Y_1", "Y_2"))
BOX = "".join(f"(assert (>= X_{i} 0)) (assert (<= X_{i} 1))\n" for i in range(4))
FILES = {"safe": "(assert (<= Y_0 -0.5))", "broken": "(assert (>= Y_1 0.75))", "bad": "(assert (< Y_1 0.75))"}
EXPECTED = {"safe": "unsat", "broken": "sat", "bad": "unknown"}


@pytest.fixture
def benchmark(folder: Path) -> Path:
    """tiny/ with an instance that is unsat, one that is sat and one that is malformed."""
    place = folder / "benchmarks" / "tiny"
    place.mkdir(parents=True)
    (folder / "known.onnx").rename(place / "known.onnx")
    for name, text in FILES.items():
        (place / f"{name}.vnnlib").write_text(HEAD + BOX + text)
    (place / "instances.csv").write_text("".join(f"known.onnx,{name}.vnnlib,30\n" for name in FILES))
    expect(place, EXPECTED)
    return place


INSTANCE = Instance("tiny", Path(), "known.onnx", "safe.vnnlib", 30.0)


def expect(place: Path, words: dict[str, str]) -> None:
    lines = [f"known.onnx,{name}.vnnlib,{word}\n" for name, word in words.items()]
    (place / "expected.csv").write_text("onnx,vnnlib,verdict\n" + "".join(lines))


def results(path: str = "results.csv") -> dict[str, dict[str, str]]:
    with open(path, newline="") as file:
        return {row["vnnlib"].removesuffix(".vnnlib"): row for row in csv.DictReader(file)}


def test_a_run_its_resumption_and_a_contradiction(run: Run, benchmark: Path) -> None:
    code, out, err = run("vnncomp", "benchmarks", "--limit", "1")
    assert (code, err) == (0, "") and list(results()) == ["safe"]
    first = Path("results.csv").read_text()

    code, out, err = run("vnncomp", "benchmarks")
    rows = results()
    assert (code, err) == (0, "")
    assert {name: row["result"] for name, row in rows.items()} == {"safe": "unsat", "broken": "sat", "bad": "error"}
    assert "strict inequality" in rows["bad"]["reason"] and rows["bad"]["category"] == "tiny"
    assert all(50 < int(each["peak_mib"]) < 100_000 for each in rows.values())
    assert Path("results.csv").read_text().startswith(first)
    assert "1 of 3 instances are in results.csv already" in out and "[2/2] tiny known.onnx bad.vnnlib: error" in out
    assert "of 3 instances 2 are decided; 2 verdicts agree with the expected ones, 0 contradict them" in out

    # Nothing is left to run: the same rows are set against what is expected now.
    expect(benchmark, {**EXPECTED, "safe": "sat"})
    before = Path("results.csv").read_text()
    code, out, err = run("vnncomp", benchmark)
    assert (code, err) == (1, "") and Path("results.csv").read_text() == before
    assert "WRONG: tiny known.onnx safe.vnnlib: unsat, expected sat" in out
    code, out, _ = run("vnncomp", benchmark, "--json")
    record = json.loads(out)
    assert (code, record["wrong"][0]["vnnlib"]) == (1, "safe.vnnlib")
    tally = record["categories"]["tiny"]
    assert {key: tally[key] for key in ("instances", "decided", "correct", "wrong", "error")} == {
        "instances": 3, "decided": 2, "correct": 1, "wrong": 1, "error": 1,
    }  # fmt: skip


def test_a_line_cut_short_is_run_again(benchmark: Path) -> None:
    line = f"{','.join(HEADER)}\ntiny,known.onnx,safe.vnnlib,unsat,0.1,crown,unsat,30,,12,345,real,tiny/a.cert\n"
    Path("results.csv").write_text(line + "tiny,known.onnx,broken.vnnl")
    kept = Results(Path("results.csv"))
    assert Path("results.csv").read_text() == line
    assert [instance.vnnlib for instance in kept.left(read_instances(benchmark))] == ["broken.vnnlib", "bad.vnnlib"]
    row = replace(kept.rows["tiny", "known.onnx", "safe.vnnlib"], vnnlib="bad.vnnlib", reason='says "a,\nb"')
    kept.append(row)
    again = Results(Path("results.csv"))
    assert [instance.vnnlib for instance in again.left(read_instances(benchmark))] == ["broken.vnnlib"]
    assert again.rows[row.key] == replace(row, reason='says "a, b"')


@pytest.mark.parametrize("more", ["", ",subdomains,peak_mib"])
def test_a_file_of_an_earlier_version_goes_on_with_more_columns(run: Run, benchmark: Path, more: str) -> None:
    old, commas = "category,onnx,vnnlib,result,seconds,stage,expected,timeout,reason", "," * more.count(",")
    line = f"tiny,known.onnx,safe.vnnlib,unsat,0.1,crown,unsat,30,why{commas}"
    Path("results.csv").write_text(f"{old}{more}\n{line}\ntiny,kno")
    code, out, err = run("vnncomp", "benchmarks", "--limit", "2")
    assert (code, err) == (0, "") and "1 of 2 instances are in results.csv already" in out
    assert Path("results.csv").read_text().splitlines()[:2] == [
        ",".join(HEADER), "tiny,known.onnx,safe.vnnlib,unsat,0.1,crown,unsat,30,why,,,,",
    ]  # fmt: skip
    assert list(results()) == ["safe", "broken"] and not Path("results.csv.part").exists()
    for broken in (
        f"{old},color\n",
        f"{old}\ntiny,known.onnx,safe.vnnlib,unsat,soon,crown,unsat,30,\n",
        f"{','.join(HEADER)}\ntiny,known.onnx,safe.vnnlib,unsat,1,crown,unsat,30,,,much,,\n",
    ):
        Path("other.csv").write_text(broken)
        code, out, err = run("vnncomp", "benchmarks", "--out", "other.csv")
        assert (code, out) == (2, "") and "other.csv" in err and Path("other.csv").read_text() == broken


def test_unsat_without_a_certificate_is_asked_again_for_one(run: Run, benchmark: Path) -> None:
    assert run("vnncomp", "benchmarks")[0] == 0 and not results()["safe"]["certificate"]
    code, out, err = run("vnncomp", "benchmarks", "--certificates", "proofs")
    assert (code, err) == (0, "") and "2 of 3 instances are in results.csv already" in out
    assert results()["safe"]["certificate"] == "tiny/known_safe.cert"
    assert "3 of 3 instances are in results.csv already" in run("vnncomp", "benchmarks", "--certificates", "proofs")[1]


def test_unsat_is_certified_where_certificates_are_kept(run: Run, benchmark: Path) -> None:
    code, out, err = run("vnncomp", "benchmarks", "--certificates", "proofs")
    rows = results()
    assert (code, err) == (0, "") and "safe.vnnlib: unsat by interval, certified" in out
    assert {name: row["result"] for name, row in rows.items()} == {"safe": "unsat", "broken": "sat", "bad": "error"}
    assert {name: row["certificate"] for name, row in rows.items()} == {
        "safe": "tiny/known_safe.cert", "broken": "", "bad": "",
    }  # fmt: skip
    assert rows["safe"]["claim"] == "float32 (any order, round to nearest) and real"
    paths = ("--model", benchmark / "known.onnx", "--property", benchmark / "safe.vnnlib")
    code, out, err = run("check", "proofs/tiny/known_safe.cert", *paths)
    assert (code, err) == (0, "") and out.startswith("ACCEPTED")
    assert sorted(path.name for path in Path("proofs/tiny").iterdir()) == ["known_safe.cert"]


def test_a_run_whose_certificates_cannot_be_kept_ends(run: Run, benchmark: Path) -> None:
    Path("proofs").touch()
    code, _, err = run("vnncomp", "benchmarks", "--certificates", "proofs")
    assert code == 2 and err.count("\n") == 1 and "cannot be written" in err and err.endswith("and go on\n")
    assert not Path("results.csv").exists() or not results()


def row(category: str, result: str, seconds: float, expected: str, peak: str = "") -> Row:
    return Row(category, "n", f"{category}{seconds}", result, str(seconds), "bab", expected, "60", "", "", peak)


def test_the_summary_counts_what_is_decided_in_time() -> None:
    rows = [
        row("a", "unsat", 10.0, "unsat", "300"), row("a", "sat", 10.1, "unsat"), row("a", "unsat", 45.0, "unknown"),
        row("a", "timeout", 65.0, "sat", "90"), row("b", "sat", 29.0, "sat"), row("b", "error", 1.0, "sat"),
    ]  # fmt: skip
    counts = tallies(rows)
    assert counts["a"] == {
        "instances": 4, "decided": 3, "certified": 0, "in 10 s": 1, "in 30 s": 2, "in 60 s": 3,
        "correct": 1, "wrong": 1,
        "sat": 1, "unsat": 2, "unknown": 0, "timeout": 1, "error": 0, "seconds": pytest.approx(130.1), "peak_mib": 300,
    }  # fmt: skip
    assert [counts["b"][name] for name in ("in 10 s", "in 30 s", "peak_mib")] == [0, 1, None]


def test_subdomains_are_summed_over_boxes() -> None:
    searches = (None, None, SearchStatistics(12, 100, {}), SearchStatistics(30, 500, {"bounding": 1.0}))
    stages = tuple(StageReport("bab", 0.1, search=search) for search in searches)
    result = Result(Verdict.UNKNOWN, "", "bab", 1.0, 0.0, 0.0, stages)
    assert subdomains(result) == 42 and subdomains(replace(result, stages=stages[:2])) is None


def test_ctrl_c_stops_with_the_command_to_go_on(run: Run, benchmark: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(setup: object, tasks: list[Instance], *_: object) -> Iterator[Outcome]:
        yield Outcome(tasks[0], Finding("unsat", "crown", peak=7), 0.5)
        raise KeyboardInterrupt

    monkeypatch.setattr(workers, "run", interrupted)
    code, out, err = run("vnncomp", "benchmarks", "--out", "my results.csv")
    assert code == 130 and list(results("my results.csv")) == ["safe"] and "VNNCOMP" not in out
    command = "verifier vnncomp benchmarks --out 'my results.csv'"
    assert err == f"verifier: stopped after 1 of 3 instances; go on with: {command}\n"


def test_names_with_and_without_gz(benchmark: Path) -> None:
    (benchmark / "safe.vnnlib").rename(benchmark / "safe.vnnlib.gz")
    for name in ("safe.vnnlib", "safe.vnnlib.gz"):
        assert stored(benchmark, name) == benchmark / "safe.vnnlib.gz"
    for name in ("bad.vnnlib", "bad.vnnlib.gz"):
        assert stored(benchmark, name) == benchmark / "bad.vnnlib"
    assert stored(benchmark, "no.vnnlib") == benchmark / "no.vnnlib"


def outcome(benchmark: Path, finding: Finding | None, **what) -> Outcome:
    return Outcome(read_instances(benchmark)[0], finding, **{"seconds": 29.0, **what})


def test_an_answer_counts_only_in_time(benchmark: Path) -> None:
    words = [
        record_row(each).result
        for each in (
            outcome(benchmark, Finding("sat")),
            outcome(benchmark, Finding("sat"), seconds=30.1),
            outcome(benchmark, None, seconds=35.0, late=True),
            outcome(benchmark, None, failure="it died"),
            outcome(benchmark, Finding("error"), seconds=31.0),
            outcome(benchmark, Finding("unsat", certificate="a.cert"), seconds=31.0),
        )
    ]
    assert words == ["sat", "timeout", "timeout", "error", "error", "unsat"]  # writing takes time of its own


@pytest.mark.parametrize(
    ("instances", "argv", "named"),
    [
        (None, ["benchmarks"], "instances.csv"),
        (None, ["nowhere"], "nowhere"),
        ("a,b\n", ["benchmarks"], "line 1: has 2 fields"),
        ("\na,b,-1\n", ["benchmarks"], "line 2: the timeout"),
        ("a,b,nan\n", ["benchmarks"], "line 1: the timeout"),
        ("a,b,1\n", ["benchmarks", "--only", "huge"], "unknown category 'huge' (available: tiny)"),
        ("a,b,1\n", ["benchmarks", "--jobs", "0"], "--jobs"),
        ("a,b,1\n", ["benchmarks", "--timeout", "0"], "--timeout"),
        ("a,b,1\n", ["benchmarks", "--out", "data.npz"], "data.npz: is no CSV file of results"),
        ("a,b,1\n", ["benchmarks", "--out", "benchmarks"], "benchmarks: cannot be read"),
        ("known.onnx,safe.vnnlib,30\n", ["benchmarks", "--timeout", "5", "--out", "old.csv"], "of 30 s, not 5 s"),
    ],
)  # fmt: skip
def test_bad_input(run: Run, benchmark: Path, instances: str | None, argv: list[str], named: str) -> None:
    line = "tiny,known.onnx,safe.vnnlib,unsat,0.1,crown,unsat,30,,,,,"
    Path("old.csv").write_text(f"{','.join(HEADER)}\n{line}\n")
    (benchmark / "instances.csv").unlink()
    if instances is not None:
        (benchmark / "instances.csv").write_text(instances)
    code, out, err = run("vnncomp", *argv)
    assert (code, out) == (2, "") and named in err and err.count("\n") == 1
    assert not Path("results.csv").exists()


def test_instances_come_in_the_order_of_the_file(benchmark: Path) -> None:
    found = read_instances(benchmark)
    assert [(i.category, i.vnnlib, i.timeout, i.expected) for i in found] == [
        ("tiny", f"{name}.vnnlib", 30.0, EXPECTED[name]) for name in FILES
    ]


# The processes themselves. Workers import these functions from this file.


def setup_worker() -> Callable[[str], str]:
    return do_task


def do_task(task: str) -> str:
    import time

    if task == "hang":
        time.sleep(600)
    if task == "crash":
        raise RuntimeError("the reason of the crash")
    if task == "die":
        os._exit(7)
    if task == "out of memory":  # this is how the kernel ends a process then
        os.kill(os.getpid(), signal.SIGKILL)
    if task == "interrupt":  # Ctrl-C reaches workers too
        os.kill(os.getpid(), signal.SIGINT)
    return f"{task} by {os.getpid()}"


def setup_that_fails() -> Callable[[str], str]:
    raise RuntimeError("no such luck")


def test_a_hung_or_dead_worker_costs_its_task_alone() -> None:
    tasks = ["a", "hang", "b", "crash", "die", "out of memory", "interrupt", "c"]
    found = {outcome.task: outcome for outcome in workers.run(setup_worker, tasks, lambda task: 2.0, jobs=2)}
    assert sorted(found) == sorted(tasks)
    assert [bool(found[task].value) for task in tasks] == [
        True, False, True, False, False, False, True, True,
    ]  # fmt: skip
    assert found["hang"].late and 2.0 <= found["hang"].seconds < 10.0
    assert not any(found[task].late for task in tasks if task != "hang")
    assert found["crash"].failure.endswith("RuntimeError: the reason of the crash")
    assert found["die"].failure == "the worker process died with exit code 7"
    assert found["out of memory"].failure == "the worker process was killed by SIGKILL, as when memory runs out"
    assert record_row(Outcome(INSTANCE, None, 1.0, failure=found["die"].failure)).result == "error"


def test_a_worker_keeps_its_process() -> None:
    found = [outcome.value for outcome in workers.run(setup_worker, ["a", "b", "c"], lambda task: 30.0)]
    assert [value.split()[0] for value in found if value] == ["a", "b", "c"]
    assert len({value.split()[2] for value in found if value}) == 1
    assert list(workers.run(setup_worker, [], lambda task: 1.0)) == []


def test_workers_that_cannot_start() -> None:
    with pytest.raises(VerifierError, match=r"while it started, the worker process died .*RuntimeError: no such luck"):
        list(workers.run(setup_that_fails, ["a"], lambda task: 1.0))


# The scripts.


def script(name: str, *argv: object) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"VERIFIER_PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    command = [str(ROOT / "scripts" / "vnncomp" / f"{name}.sh"), *map(str, argv)]
    return subprocess.run(command, capture_output=True, text=True, env=environment)


@pytest.mark.parametrize(("name", "word"), [("broken", "sat"), ("bad", "error")])
def test_run_instance(benchmark: Path, name: str, word: str) -> None:
    done = script("run_instance", "v1", "tiny", benchmark / "known.onnx", benchmark / f"{name}.vnnlib", "out.txt", 30)
    assert done.returncode == 0
    first, *rest = Path("out.txt").read_text().splitlines()
    assert first == word and len(rest) == (7 if word == "sat" else 0)
    assert not Path("out.txt.part").exists()


def test_run_instance_out_of_time(benchmark: Path) -> None:
    argv = ("v1", "tiny", benchmark / "known.onnx", benchmark / "safe.vnnlib", "out.txt", 0.05)
    assert script("run_instance", *argv).returncode == 0
    assert Path("out.txt").read_text() == "timeout\n"


def test_prepare_instance(benchmark: Path) -> None:
    assert script("prepare_instance", "v1", "tiny", benchmark / "known.onnx", benchmark / "safe.vnnlib").returncode == 0
    assert script("prepare_instance", "v1", "tiny", benchmark / "no.onnx", benchmark / "safe.vnnlib").returncode != 0


@pytest.mark.parametrize("name", ["install_tool", "prepare_instance", "run_instance"])
def test_scripts_refuse_other_versions(name: str) -> None:
    done = script(name, "v2")
    assert done.returncode == 2 and done.stderr.startswith(f"usage: {name}.sh v1")
