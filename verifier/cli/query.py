"""`verifier verify --property`: the answer to a VNN-LIB file."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from verifier.cli import options
from verifier.cli.output import (
    at_least,
    at_most,
    print_json,
    print_notes,
    print_stages,
    print_table,
    progress,
    result_record,
    seconds,
    verified_margin,
)
from verifier.errors import InputError

if TYPE_CHECKING:
    from verifier.batch.query import Answer
    from verifier.load import Model
    from verifier.verdict import Result

FEW = 24  # values that are printed; all are in the files


def run(args: argparse.Namespace) -> int:
    from verifier.batch.competition import assignments, result_text
    from verifier.batch.query import answer
    from verifier.cli.evidence import evidence_folder
    from verifier.load import load
    from verifier.spec.vnnlib import read_query

    settings = options.read_settings(args)
    folder = evidence_folder(args) if args.out is not None or args.result is None else None
    query = read_query(args.property)
    model = load(args.model, args.arch)
    found = answer(model, query, settings, progress(args))
    result = found.result

    if not args.json:
        print(sentence(args, result), flush=True)
    files = []
    if args.result is not None:
        files.append(write(Path(args.result), result_text(found, settings.timeout)))
    if found.point is not None and result.outputs is not None and folder is not None:
        name = f"{model.path.name.split('.')[0]}_{query.name.split('.vnnlib')[0]}.counterexample"
        files.append(write(folder / name, assignments(found.point, result.outputs) + "\n"))
    if args.json:
        print_json(record(args, model, found, files))
    elif not args.quiet:
        print_stages(result)
        print_counterexample(result)
        print_notes(files, ())
    return result.verdict.exit_code


def write(path: Path, text: str) -> str:
    """Write a file; returns its path. Raises InputError when that fails."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}); choose another place") from error
    return str(path)


def sentence(args: argparse.Namespace, result: Result) -> str:
    """The result in one plain sentence."""
    from verifier.verdict import Verdict

    spent = f"{result.stage}, {seconds(result.seconds)}"
    if result.verdict is Verdict.VERIFIED:
        margin = verified_margin(result, args.solver)
        return f"{result.label}: {result.about}; {margin} ({spent})."
    if result.verdict is Verdict.FALSIFIED:
        broken = f"an input that {Path(args.property).name} allows has a forbidden output"
        return f"{result.label}: {broken} (margin {at_most(result.found)}; {spent})."
    margin = f"the margin is at least {at_least(result.proved)} and at most {at_most(result.found)}"
    return f"{result.label}: it is open whether {result.about}: {result.reason}; {margin} ({spent})."


def print_counterexample(result: Result) -> None:
    """The values X and Y, when they are few."""
    if result.counterexample is None or result.outputs is None:
        return
    sides = (("X", result.counterexample.ravel()), ("Y", result.outputs.ravel()))
    if sum(len(values) for _, values in sides) <= FEW:
        cells = [(f"{letter}_{i}", repr(float(v))) for letter, values in sides for i, v in enumerate(values)]
        print_table(("variable", "value"), cells)


def record(args: argparse.Namespace, model: Model, found: Answer, files: list[str]) -> dict[str, Any]:
    """The result as --json prints it; counterexample and outputs are X and Y, flattened."""
    x, outputs = found.result.counterexample, found.result.outputs
    return {
        **result_record(args, model, found.result),
        "property": args.property,
        "cases": [case_record(case) for case in found.cases],
        "counterexample": None if x is None else x.ravel().tolist(),
        "outputs": None if outputs is None else outputs.ravel().tolist(),
        "files": files,
    }


def case_record(case: Result) -> dict[str, Any]:
    """One input box of the query."""
    return {
        "verdict": case.verdict.name,
        "claim": case.about,
        "stage": case.stage,
        "seconds": case.seconds,
        "margin_proved": None if case.solver_word else case.proved,
        "margin_found": case.found,
        "reason": case.reason,
    }
