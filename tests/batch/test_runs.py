"""A run over a test set: resumed, sharded, swept and struck by faults, it gives the verdicts of a single quiet run."""

from __future__ import annotations

import gzip
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from verifier.batch import workers
from verifier.batch.certify import Certification, Pass, Plan, Setup, Task
from verifier.batch.curve import parse_radii
from verifier.batch.engines import ray_serve
from verifier.batch.journal import Journal, read
from verifier.batch.merging import merge, read_all
from verifier.batch.records import ERROR, FALSIFIED, UNKNOWN, VERIFIED, Case, Record, Run
from verifier.batch.tasks import Workplace, describe
from verifier.batch.workers import Outcome
from verifier.certificate.checker import check
from verifier.data import load_dataset
from verifier.errors import InputError, StorageError
from verifier.load import load

MODEL = str(Path(__file__).parents[2] / "models" / "digits_mlp.pt")


def asked(count: int = 24, eps: str = "0.03", **changes) -> Run:
    run = describe(load(MODEL), load_dataset("digits"), "digits", "", count, parse_radii(eps), "linf", "auto")
    return replace(run, **changes)


def inline(setup: Setup, source: Callable[[], Task | None], *_: object) -> Iterator[Outcome[Task, list[Record]]]:
    """Answers tasks in this process."""
    answer = setup()
    while (task := source()) is not None:
        for part in answer(task):
            yield Outcome(task, part, 0.0, last=False)
        yield Outcome(task, None, 0.0)


def certify(
    path: Path, run: Run, plan: Plan | None = None, setup: Setup | None = None, serve=inline, most: int | None = None
) -> dict[Case, Record]:
    """The records of a run whose journal is `path`; begun anew, or gone on with. most: stop after so many results."""
    with Journal(path, resume=True) as journal:
        work = Certification(run, plan or Plan(batch=7), journal)
        for records in work.results(setup or Workplace.of(run), serve):
            assert all(record.case in work.records for record in records)
            if most is not None and len(work.records) >= most:
                break
        return work.records


def verdicts(records: dict[Case, Record]) -> dict[Case, str]:
    return {case: record.verdict for case, record in sorted(records.items())}


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> dict[Case, str]:
    """The verdicts of a single quiet run."""
    found = verdicts(certify(tmp_path_factory.mktemp("single") / "a", asked()))
    assert len(found) == 24 and set(found.values()) == {VERIFIED, FALSIFIED}
    return found


def test_the_journal_holds_every_result_once(tmp_path: Path, single: dict[Case, str]) -> None:
    certify(tmp_path / "a", asked())
    [results] = read_all([tmp_path / "a"]).values()
    assert verdicts(results.records) == single and results.run == asked()
    assert len((tmp_path / "a").read_bytes().splitlines()) == 1 + 24


def test_a_run_stopped_anywhere_goes_on_without_asking_again(tmp_path: Path, single: dict[Case, str]) -> None:
    stopped = certify(tmp_path / "a", asked(), most=10)
    assert 10 <= len(stopped) < 24
    questions: list[Case] = []

    def noting(setup: Setup, source: Callable[[], Task | None], *_: object):
        def next_task() -> Task | None:
            task = source()
            questions.extend(task.cases if task and task.kind is Pass.BOUNDS else ())
            return task

        return inline(setup, next_task)

    assert verdicts(certify(tmp_path / "a", asked(), serve=noting)) == single
    assert set(questions).isdisjoint(stopped) and len(questions) == 24 - len(stopped)
    assert verdicts(certify(tmp_path / "a", asked(), serve=noting)) == single and len(questions) == 24 - len(stopped)


@pytest.mark.parametrize("certified", [True, False])
def test_dearer_stages_treat_what_several_chunks_leave(certified: bool, tmp_path: Path) -> None:
    run, tasks = asked(count=40, eps="0.09", certified=certified), list[Task]()

    def noting(setup: Setup, source: Callable[[], Task | None], *_: object):
        def next_task() -> Task | None:
            if task := source():
                tasks.append(task)
            return task

        return inline(setup, next_task)

    records = certify(tmp_path / "a", run, Plan(batch=8), serve=noting)
    asked_of = {kind: [case for task in tasks if task.kind is kind for case in task.cases] for kind in Pass}
    assert len(asked_of[Pass.BOUNDS]) == len(set(asked_of[Pass.BOUNDS])) == 40
    assert set(asked_of[Pass.LONG]) <= set(asked_of[Pass.SHORT]) <= set(asked_of[Pass.REST]) < set(records)
    chunks = [{case.index // 8 for case in task.cases} for task in tasks if task.kind is Pass.REST]
    assert len(chunks) < 5 and any(len(some) > 1 for some in chunks)
    for record in records.values():
        assert "predict" in record.stages and record.prediction >= 0
        assert ("attack" in record.stages) == (record.case in asked_of[Pass.REST])
        assert record.seconds >= sum(record.stages.values()) - 1e-9


def test_merging_nothing_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    with pytest.raises(InputError, match="no results to merge"):
        merge([tmp_path / "a"], tmp_path / "b")


def test_shards_merged_are_the_single_run(tmp_path: Path, single: dict[Case, str]) -> None:
    for part in (1, 2, 3):
        found = certify(tmp_path / str(part), asked(), Plan(batch=5, shard=(part, 3)))
        assert {case.index % 3 for case in found} == {part - 1}
    paths = [tmp_path / str(part) for part in (3, 1, 2)]
    merge(paths, tmp_path / "all")
    assert [verdicts(results.records) for results in read_all([tmp_path / "all"]).values()] == [single]
    assert verdicts(certify(tmp_path / "all", asked(), serve=lambda *_: iter(()))) == single
    with pytest.raises(InputError, match="exists already"):
        merge(paths, tmp_path / "all")


def test_a_contradiction_between_journals_is_told(tmp_path: Path) -> None:
    for name, verdict in (("a", VERIFIED), ("b", FALSIFIED)):
        with Journal(tmp_path / name) as journal:
            record = Record(3, "0.03", 1, 1, verdict, "crown", 0.1, point="x")
            journal.append([asked().line(), record.line(asked())])
    with pytest.raises(InputError, match=r"b: input 3 at eps 0\.03 is VERIFIED and FALSIFIED"):
        merge([tmp_path / "a", tmp_path / "b"], tmp_path / "c")


def test_another_model_or_norm_is_refused(tmp_path: Path) -> None:
    certify(tmp_path / "a", asked(3))
    for other in (asked(3, norm="l2"), asked(3, sha256="0" * 64), asked(3, version="9")):
        with pytest.raises(InputError, match="give another --journal"):
            certify(tmp_path / "a", other)
    assert len(certify(tmp_path / "a", asked(5))) == 5


def test_a_sweep_is_the_single_runs_with_fewer_questions(tmp_path: Path) -> None:
    run = asked(8, "0.01:0.05:0.01")
    swept = certify(tmp_path / "a", run)
    assert len(swept) <= 8 * 3
    with Journal(tmp_path / "a", resume=True) as journal:
        known = Certification(run, Plan(), journal).known
    for i, eps in enumerate(run.eps):
        for case, record in certify(tmp_path / eps, asked(8, eps)).items():
            expected = VERIFIED if i <= known[case.index].verified else FALSIFIED
            assert record.verdict == expected and (expected == VERIFIED or i >= known[case.index].falsified)


def test_retry_asks_again_what_was_unknown_or_an_error(tmp_path: Path, single: dict[Case, str]) -> None:
    with Journal(tmp_path / "a") as journal:
        old = [Record(i, "0.03", 0, 0, verdict, "", 1.0) for i, verdict in ((0, UNKNOWN), (1, ERROR))]
        journal.append([asked().line(), *(record.line(asked()) for record in old)])
    kept = certify(tmp_path / "a", asked())
    assert [kept[old[i].case].verdict for i in (0, 1)] == [UNKNOWN, ERROR] and len(kept) == 24
    assert certify(tmp_path / "a", asked(), Plan(retry=("error",)))[old[0].case].verdict == UNKNOWN
    again = certify(tmp_path / "a", asked(), Plan(retry=("unknown", "error")))
    assert verdicts(again) == single


def test_certificates_are_stored_before_they_are_cited_and_hold(tmp_path: Path, single: dict[Case, str]) -> None:
    run, folder = asked(8, "0.05", certified=True), tmp_path / "certificates"
    cited: list[Path] = []

    def looking(setup: Setup, source: Callable[[], Task | None], *_: object):
        for outcome in inline(setup, source):
            cited.extend(folder / record.certificate for record in outcome.value or () if record.certificate)
            assert all(path.is_file() for path in cited)
            yield outcome

    found = certify(tmp_path / "a", run, setup=Workplace.of(run, certificates=folder), serve=looking)
    proved = [record for record in found.values() if record.verdict == VERIFIED]
    assert len(proved) == len(cited) > 4 and verdicts(found) == verdicts(certify(tmp_path / "b", asked(8, "0.05")))
    model = (folder / "model.onnx").read_bytes()
    for path, record in zip(
        cited, sorted(proved, key=lambda r: [p.name for p in cited].index(str(r.certificate))), strict=True
    ):
        statement = gzip.decompress(path.with_suffix(".vnnlib.gz").read_bytes())
        accepted = check(path.read_bytes(), model, statement, "exact")
        assert record.proved is not None and record.proved <= accepted.margin + 1e-9
    with pytest.raises(InputError, match="kind of evidence"):
        certify(tmp_path / "a", asked(8, "0.05"))


def test_a_proof_without_an_accepted_certificate_is_not_kept(tmp_path: Path) -> None:
    """A worker that claims VERIFIED and shows nothing is a defect, and stops the run."""
    with pytest.raises(AssertionError):
        certify(tmp_path / "a", asked(2, certified=True), setup=Workplace.of(asked(2)))
    assert not any(line["kind"] == "result" for line in read(tmp_path / "a")[0])


# Real worker processes, which import what follows from this file.


class Faulty:
    """Answers tasks with UNKNOWN, but some inputs break the worker in various ways, once or always."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    def __call__(self, task: Task) -> Iterator[list[Record]]:
        for case in task.cases:
            if case.index == 3:
                raise RuntimeError("input 3 breaks it")
            if case.index == 5:
                time.sleep(600)
            if case.index == 7:
                os.kill(os.getpid(), signal.SIGKILL)
            if case.index == 9:
                torch.zeros(1 << 40, dtype=torch.uint8)
            if case.index == 11 and not (self.folder / "once").exists():
                (self.folder / "once").touch()
                os._exit(1)
            yield [Record(case.index, case.eps, 0, 0, VERIFIED, "crown", 0.0)]


def faulty(folder: str) -> Faulty:
    return Faulty(folder)


def test_crashes_hangs_and_memory_hogs_cost_their_input_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("verifier.batch.certify.GRACE", 0.5)
    plan = Plan(batch=2, jobs=2, timeout=4.0, memory=2 << 30)
    found = certify(tmp_path / "a", asked(14), plan, partial(faulty, str(tmp_path)), workers.serve)
    said = {case.index: record for case, record in found.items()}
    assert sorted(said) == list(range(14))
    assert {i: record.verdict for i, record in said.items() if record.verdict != VERIFIED} == {
        3: ERROR, 5: UNKNOWN, 7: ERROR, 9: ERROR,
    }  # fmt: skip
    assert said[3].reason.endswith("RuntimeError: input 3 breaks it") and "SIGKILL" in said[7].reason
    assert "memory" in said[9].reason and "time limit" in said[5].reason
    [results] = read_all([tmp_path / "a"]).values()
    assert verdicts(results.records) == verdicts(found)


@pytest.mark.parametrize(
    ("timeout", "passes"), [(60.0, {Pass.SHORT: 60.0, Pass.LONG: 54.0}), (10.0, {Pass.LONG: 10.0})]
)
def test_the_searches_of_a_case_take_its_time_limit_together(
    timeout: float, passes: dict[Pass, float], tmp_path: Path
) -> None:
    """Where the time is short there is one search; reasons name the limit of the case, not that of a search."""
    searches: dict[Pass, float] = {}

    def vain(task: Task) -> Iterator[list[Record]]:
        [case] = task.cases
        reason, seconds = "", 1.0
        if task.kind in (Pass.SHORT, Pass.LONG):
            searches[task.kind] = task.seconds
            reason, seconds = f"the time limit of {task.seconds / 2:g} s was reached", 6.0
        yield [Record(case.index, case.eps, 0, 0, UNKNOWN, "bab", seconds, reason=reason)]

    [record] = certify(tmp_path / "a", asked(1), Plan(timeout=timeout), lambda: vain).values()
    assert searches == passes
    assert record.reason == f"the time limit of {timeout:g} s was reached"
    assert record.seconds == 2 * 1.0 + 6.0 * len(passes)


class FullDisk:
    """Proves the inputs before the fourth; the disk is full then."""

    def __call__(self, task: Task) -> Iterator[list[Record]]:
        for case in task.cases:
            if case.index >= 4:
                raise StorageError("proofs: cannot be written (No space left on device)")
            yield [Record(case.index, case.eps, 0, 0, VERIFIED, "crown", 0.0)]


def a_run_ends_with_its_disk(path: Path, serve) -> None:
    """It is told at once, not once for every input that is left, and what was told before is kept."""
    with pytest.raises(StorageError, match=r"^proofs: cannot be written \(No space left on device\)$"):
        certify(path, asked(40), Plan(batch=2), FullDisk, serve)
    assert [line["index"] for line in read(path)[0] if line["kind"] == "result"] == [0, 1, 2, 3]
    assert len(certify(path, asked(5))) == 5


def test_a_worker_whose_disk_is_full_ends_the_run(tmp_path: Path) -> None:
    a_run_ends_with_its_disk(tmp_path / "a", workers.serve)


def setup_that_fills_its_memory() -> Callable[[int], int]:
    def answer(gigabytes: int) -> int:
        return int(torch.ones(gigabytes << 28, dtype=torch.float32).numel())

    return answer


def test_a_worker_keeps_to_its_memory() -> None:
    tasks = iter([1, 3, 1])
    found = list(workers.serve(setup_that_fills_its_memory, lambda: next(tasks, None), lambda _: 60.0, 1, 2 << 30))
    assert [outcome.value is None for outcome in found] == [False, True, False]
    assert "memory" in found[1].failure


PARENT = """
import os, time
from verifier.batch import workers

def setup():
    return answer

def answer(task):
    time.sleep(task)
    return os.getpid()

if __name__ == "__main__":
    tasks = iter([0, 600])
    for outcome in workers.serve(setup, lambda: next(tasks, None), lambda _: 600.0):
        print(outcome.value, flush=True)
"""


def alive(process: int) -> bool:
    """Whether a process runs; one that has ended but was not waited for does not."""
    state = Path(f"/proc/{process}/stat")
    return state.exists() and state.read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks at processes through /proc")
def test_workers_end_with_their_parent(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        worker = int(parent.stdout.readline())
        assert alive(worker)
        parent.kill()  # while the worker is busy for ten minutes
    until = time.monotonic() + 20
    while alive(worker) and time.monotonic() < until:
        time.sleep(0.1)
    assert not alive(worker)


def test_ray_gives_the_same(tmp_path: Path, single: dict[Case, str]) -> None:
    found = certify(tmp_path / "a", asked(), Plan(batch=8, jobs=2), serve=ray_serve)
    assert verdicts(found) == single


@pytest.mark.long
def test_ray_ends_a_run_whose_disk_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tests = str(Path(__file__).parent)
    monkeypatch.setenv("PYTHONPATH", f"{tests}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    a_run_ends_with_its_disk(tmp_path / "a", ray_serve)


@pytest.mark.long
def test_ray_survives_crashes_and_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("verifier.batch.certify.GRACE", 0.5)
    tests = str(Path(__file__).parent)
    monkeypatch.setenv("PYTHONPATH", f"{tests}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    plan = Plan(batch=4, jobs=2, timeout=5.0)
    found = certify(tmp_path / "a", asked(9), plan, partial(faulty, str(tmp_path)), ray_serve)
    wrong = {case.index: record.verdict for case, record in found.items() if record.verdict != VERIFIED}
    assert wrong == {3: ERROR, 5: UNKNOWN, 7: ERROR}


def test_ray_absent_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr("verifier.batch.engines.import_module", missing)
    with pytest.raises(InputError, match=r"pip install 'verifier\[ray\]'"):
        list(ray_serve(lambda: lambda task: task, lambda: None, lambda task: 1.0))
