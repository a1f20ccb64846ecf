"""What one journal or several hold: by run, the latest result of every case."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from verifier.batch.journal import Journal, read
from verifier.batch.records import VERIFIED, Case, Record, Run, as_record, as_run
from verifier.errors import InputError


@dataclass(frozen=True)
class Results:
    """The results of runs of one identity."""

    run: Run
    records: dict[Case, Record] = field(default_factory=dict)


def contents(lines: Iterable[Mapping[str, Any]], path: Path) -> dict[str, Results]:
    """The results by the identity of their run. Raises InputError when a line makes no sense or contradicts another."""
    held: dict[str, Results] = {}
    for number, line in enumerate(lines, start=1):
        try:
            if line.get("kind") == "run":
                run = as_run(line)
                before = held.get(run.identity)
                held[run.identity] = Results(run) if before is None else replace(before, run=before.run.joined(run))
            else:
                _take(held, str(line.get("key")), as_record(line))
        except InputError as error:
            raise InputError(f"{path}, line {number}: {error}") from error
    return held


def _take(held: dict[str, Results], key: str, record: Record) -> None:
    results = held.get(key.partition(":")[0])
    if results is None:
        raise InputError("has a result before the run that it is of; give another file")
    if record.eps not in results.run.eps:
        raise InputError("has a result at a radius that its run does not ask about; give another file")
    if key != results.run.key(record.case) or record.index >= results.run.count:
        raise InputError("has a result of another input than its run asks about; give another file")
    if results.run.certified and record.verdict == VERIFIED and not record.certified:
        raise InputError("has a proof without a certificate, which its run asks for; give another file")
    before = results.records.get(record.case)
    results.records[record.case] = record if before is None else better(before, record)


def better(before: Record, after: Record) -> Record:
    """Of two results of one case, the decided one, else the later one. Raises InputError when they contradict."""
    if before.decided and after.decided and before.verdict != after.verdict:
        raise InputError(
            f"input {after.index} at eps {after.eps} is {before.verdict} and {after.verdict}; please report it"
        )
    return before if before.decided and not after.decided else after


def read_all(paths: Sequence[Path]) -> dict[str, Results]:
    """The results of several journals together, by identity; a torn last line is left out."""
    held: dict[str, Results] = {}
    for path in paths:
        for identity, results in contents(read(path)[0], path).items():
            known = held.setdefault(identity, Results(results.run))
            held[identity] = replace(known, run=known.run.joined(results.run))
            for case, record in results.records.items():
                before = known.records.get(case)
                try:
                    known.records[case] = record if before is None else better(before, record)
                except InputError as error:
                    raise InputError(f"{path}: {error}") from error
    return held


def merge(paths: Sequence[Path], out: Path) -> dict[str, Results]:
    """Write one journal with the results of several, in the order of the inputs.

    Raises InputError when a journal cannot be read, there are no results, they contradict each other, or `out` exists.
    """
    held = read_all(paths)
    if not held:
        raise InputError(f"{', '.join(map(str, paths))}: no results to merge; give journals that `certify` wrote")
    with Journal(out, option="--out") as journal:
        for results in held.values():
            ordered = sorted(
                results.records.values(), key=lambda record: (record.index, results.run.eps.index(record.eps))
            )
            journal.append([results.run.line(), *(record.line(results.run) for record in ordered)])
    return held
