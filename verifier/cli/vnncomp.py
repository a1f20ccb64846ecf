"""`verifier vnncomp`: run the instances of VNN-COMP benchmarks and compare the verdicts with the expected ones."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import closing
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from verifier.cli import options
from verifier.cli.output import print_json, print_table, seconds

if TYPE_CHECKING:
    from verifier.batch.competition import Finding, Instance
    from verifier.batch.competition_results import Row
    from verifier.batch.workers import Outcome

DESCRIPTION = (
    "Run every instance of a folder's instances.csv, or of those of its sub-folders, in processes of one thread."
)
EPILOG = "Exit codes: 0 no verdict contradicts expected.csv, 1 some verdict does, 2 error, 130 stopped by Ctrl-C."
GRACE = 5.0  # seconds: a worker that stops itself late is cheaper than a new one
CONTRADICTED = 1
LIMITS = (10, 30, 60)  # seconds within which the summary counts what is decided


def add_parser(subparsers: options.Subparsers) -> None:
    parser = subparsers.add_parser("vnncomp", help="run VNN-COMP instances", description=DESCRIPTION, epilog=EPILOG)
    group = parser.add_argument_group("instances")
    group.add_argument("folder", metavar="DIR", help="a folder with instances.csv, or of folders that have one")
    group.add_argument(
        "--only", metavar="CATEGORY", action="append", default=[], help="only this sub-folder; repeat it for several"
    )
    group.add_argument("--limit", metavar="N", type=options.natural, help="the first N instances of every category")
    group = parser.add_argument_group("how")
    group.add_argument(
        "--timeout", metavar="S", type=options.positive, help="seconds per instance (default: those of instances.csv)"
    )
    group.add_argument("--jobs", metavar="N", type=options.count, default=1, help="worker processes (default: 1)")
    group.add_argument("--seed", metavar="N", type=options.natural, default=0, help="seed of the attack (default: 0)")
    options.add_device(group)
    group.add_argument(
        "--certificates",
        metavar="DIR",
        help="unsat counts once a certificate is accepted, which is kept there; that may take as long again",
    )
    group = options.add_output(parser)
    group.add_argument(
        "--out",
        metavar="FILE.csv",
        default="results.csv",
        help="where results are appended; instances that are there already are not run again (default: results.csv)",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from verifier.batch import workers
    from verifier.batch.competition import read_instances, worker
    from verifier.batch.competition_results import Results

    instances = read_instances(Path(args.folder), args.only, args.timeout)
    grouped = groupby(instances, key=lambda instance: instance.category)
    chosen = [instance for _, group in grouped for instance in list(group)[: args.limit]]
    kept = Results(Path(args.out))
    left = kept.left(chosen, certified=args.certificates is not None)
    say = None if args.json or args.quiet else partial(print, flush=True)
    if say is not None and len(left) < len(chosen):
        say(f"{len(chosen) - len(left)} of {len(chosen)} instances are in {args.out} already.")
    folder = None if args.certificates is None else Path(args.certificates).resolve()
    allowed = 1 if folder is None else 2  # times the timeout
    setup = partial(worker, args.device, args.seed, folder)
    outcomes = workers.run(setup, left, lambda i: allowed * i.timeout + GRACE, args.jobs)
    done = 0
    try:
        with closing(outcomes):
            for outcome in outcomes:
                row = record_row(outcome)
                kept.append(row)
                done += 1
                if say is not None:
                    say(f"[{done}/{len(left)}] {progress_line(row)}")
    except KeyboardInterrupt:
        print(
            f"verifier: stopped after {done} of {len(left)} instances; go on with: {args.command_line}", file=sys.stderr
        )
        return options.INTERRUPTED
    report(args, kept.of(chosen))
    return CONTRADICTED if any(row.wrong for row in kept.of(chosen)) else 0


def report(args: argparse.Namespace, rows: Sequence[Row]) -> None:
    """Print what the run has found."""
    if args.json:
        print_json(record(args, rows))
        return
    print(sentence(args, rows))
    if not args.quiet:
        print_summary(rows)
    for row in rows:
        if row.wrong:
            print(f"WRONG: {row.category} {row.onnx} {row.vnnlib}: {row.result}, expected {row.expected}")


def record_row(outcome: Outcome[Instance, Finding]) -> Row:
    """A worker's answer as a line of results: an answer that came too late is none."""
    from verifier.batch.competition import Finding
    from verifier.batch.competition_results import Row

    instance, finding = outcome.task, outcome.value
    if outcome.failure:
        finding = Finding("error", reason=outcome.failure)
    elif finding is None:
        finding = Finding("timeout", reason="the worker was killed")
    elif outcome.seconds > instance.timeout and finding.result not in ("timeout", "error") and not finding.certificate:
        finding = Finding("timeout", finding.stage, f"the answer, {finding.result}, came too late")
    return Row(
        category=instance.category,
        onnx=instance.onnx,
        vnnlib=instance.vnnlib,
        result=finding.result,
        seconds=f"{outcome.seconds:.3f}",
        stage=finding.stage,
        expected=instance.expected,
        timeout=f"{instance.timeout:g}",
        reason=finding.reason,
        subdomains="" if finding.subdomains is None else str(finding.subdomains),
        peak_mib="" if finding.peak is None else str(finding.peak),
        claim=finding.claim,
        certificate=finding.certificate,
    )


def progress_line(row: Row) -> str:
    how = (f" by {row.stage}" if row.stage else "") + (", certified" if row.certificate else "")
    why = f" ({row.reason})" if row.reason else ""
    return f"{row.category} {row.onnx} {row.vnnlib}: {row.result}{how}, {seconds(float(row.seconds))}{why}"


def sentence(args: argparse.Namespace, rows: Sequence[Row]) -> str:
    """The result in one plain sentence."""
    total = tally(rows)
    judged = f"{total['correct']} verdicts agree with the expected ones, {total['wrong']} contradict them"
    return f"VNNCOMP: of {len(rows)} instances {total['decided']} are decided; {judged}; results are in {args.out}."


def tally(rows: Sequence[Row]) -> dict[str, Any]:
    """How many instances had which outcome, how many were decided how fast, and what all of them took.

    correct, wrong: verdicts that agree with the expected ones, or contradict them. peak_mib: of the largest worker.
    """
    from verifier.batch.competition import WORDS

    decided = [float(row.seconds) for row in rows if row.decided]
    return {
        "instances": len(rows),
        "decided": len(decided),
        "certified": sum(bool(row.certificate) for row in rows),
        **{f"in {limit} s": sum(spent <= limit for spent in decided) for limit in LIMITS},
        "correct": sum(row.judged and not row.wrong for row in rows),
        "wrong": sum(row.wrong for row in rows),
        **{name: sum(row.result == name for row in rows) for name in WORDS},
        "seconds": sum(float(row.seconds) for row in rows),
        "peak_mib": max((int(row.peak_mib) for row in rows if row.peak_mib), default=None),
    }


def tallies(rows: Sequence[Row]) -> dict[str, dict[str, Any]]:
    """`tally` by category."""
    return {
        name: tally([row for row in rows if row.category == name]) for name in dict.fromkeys(r.category for r in rows)
    }


def print_summary(rows: Sequence[Row]) -> None:
    """One line per category, and one for all when there are several."""
    counts = tallies(rows)
    if len(counts) > 1:
        counts["all"] = tally(rows)
    print_table(("category", *tally(rows)), [(name, *map(_cell, each.values())) for name, each in counts.items()])


def _cell(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.1f}" if isinstance(value, float) else str(value)


def record(args: argparse.Namespace, rows: Sequence[Row]) -> dict[str, Any]:
    """The result as --json prints it."""
    return {
        "command": "vnncomp",
        "folder": args.folder,
        "categories": tallies(rows),
        "all": tally(rows),
        "wrong": [vars(row) for row in rows if row.wrong],
        "files": [args.out],
    }
